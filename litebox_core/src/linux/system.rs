//! uname, sysinfo, getrandom.

use super::RELEASE;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::platform::{PAGE_SIZE, Platform};
use crate::process::Thread;
use zerocopy::{Immutable, IntoBytes};

/// Bytes in a field of `struct utsname`.
const FIELD: usize = 65;

pub(super) fn uname<P: Platform>(t: &Thread<P>, to: u64) -> Result<usize> {
    let mut out = [0u8; 6 * FIELD];
    let fields: [&[u8]; 6] =
        [b"Linux", &t.process.system.hostname, RELEASE.as_bytes(), b"#1 SMP LiteBox", b"x86_64", b"(none)"];
    for (slot, text) in out.chunks_exact_mut(FIELD).zip(fields) {
        for (byte, &c) in slot.iter_mut().take(FIELD - 1).zip(text) {
            *byte = c;
        }
    }
    t.mm().write(to as usize, &out).map(|()| 0)
}

/// `struct sysinfo`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct Sysinfo {
    uptime: i64,
    loads: [u64; 3],
    total_ram: u64,
    free_ram: u64,
    shared_ram: u64,
    buffer_ram: u64,
    total_swap: u64,
    free_swap: u64,
    processes: u16,
    pad: [u16; 3],
    total_high: u64,
    free_high: u64,
    unit: u32,
    pad2: u32,
}
const _: () = assert!(size_of::<Sysinfo>() == 112);

pub(super) fn sysinfo<P: Platform>(t: &Thread<P>, to: u64) -> Result<usize> {
    let pool = t.platform().pages();
    let info = Sysinfo {
        uptime: (t.platform().monotonic() / 1_000_000_000) as i64,
        total_ram: (pool.total_pages() * PAGE_SIZE) as u64,
        free_ram: (pool.free_pages() * PAGE_SIZE) as u64,
        processes: t.process.threads().len() as u16,
        unit: 1,
        ..Sysinfo::default()
    };
    t.mm().store(UserPtr::new(to), info).map(|()| 0)
}

pub(super) fn getrandom<P: Platform>(t: &Thread<P>, to: u64, len: u64, flags: u64) -> Result<usize> {
    const NONBLOCK: u32 = 1;
    const RANDOM: u32 = 2;
    const INSECURE: u32 = 4;
    let flags = flags as u32;
    if flags & !(NONBLOCK | RANDOM | INSECURE) != 0 || flags & (RANDOM | INSECURE) == RANDOM | INSECURE {
        return Err(Errno::EINVAL);
    }
    let len = (len as usize).min(i32::MAX as usize);
    let mut chunk = [0u8; 1024];
    let mut done = 0;
    while done < len {
        let now = (len - done).min(chunk.len());
        let Some(part) = chunk.get_mut(..now) else { break };
        t.platform().fill_random(part);
        let at = (to as usize).checked_add(done).ok_or(Errno::EFAULT)?;
        let written = t.mm().write_partial(at, part);
        done += written;
        if written < now {
            return if done == 0 { Err(Errno::EFAULT) } else { Ok(done) };
        }
    }
    Ok(done)
}
