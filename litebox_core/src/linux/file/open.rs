//! open, openat, openat2, creat, memfd_create, pipe.

use super::{Caller, base, path};
use crate::errno::{Errno, Result};
use crate::fs::tmpfs::Tmpfs;
use crate::fs::{DeviceId, Inode, OFlags, OpenFile, ResolveFlags};
use crate::north::file;
use alloc::sync::Arc;

/// What `creat` opens with.
pub(super) const CREAT: u64 = 0o1101;
const VALID: u32 = 0o37777703;

pub(super) fn openat<C: Caller>(c: &C, dir: u64, name: u64, flags: u64, mode: u64) -> Result<usize> {
    let mut flags = OFlags::from_bits_retain(flags as u32 & VALID);
    if flags.contains(OFlags::PATH) {
        flags &= OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    }
    let name = path(c, name)?;
    let fd = file::openat(c, base(dir, &name)?, &name, flags, mode as u32 & 0o7777, ResolveFlags::empty())?;
    Ok(fd.raw() as usize)
}

pub(super) fn openat2<C: Caller>(c: &C, dir: u64, name: u64, how: u64, size: u64) -> Result<usize> {
    /// `struct open_how`: flags, mode, resolve.
    const SIZE: usize = 24;
    if size < SIZE as u64 {
        return Err(Errno::EINVAL);
    }
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    let mut buffer = [0; SIZE];
    c.read_memory(how as usize, &mut buffer)?;
    let mut rest = alloc::vec![0; size as usize - SIZE];
    c.read_memory((how as usize).wrapping_add(SIZE), &mut rest)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    let [flags, mode, resolve]: [u64; 3] = zerocopy::transmute!(buffer);
    let resolve = ResolveFlags::from_bits(resolve).ok_or(Errno::EINVAL)?;
    if flags & !u64::from(VALID) != 0 || mode & !0o7777 != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = OFlags::from_bits_retain(flags as u32);
    let creates = flags.intersects(OFlags::CREAT | OFlags::TMPFILE_BIT);
    if mode != 0 && !creates || resolve.contains(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT) {
        return Err(Errno::EINVAL);
    }
    if resolve.contains(ResolveFlags::CACHED) {
        return Err(Errno::EAGAIN);
    }
    let name = path(c, name)?;
    // Confined to a directory, an absolute path starts from it.
    let confined = resolve.intersects(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT);
    let base = base(dir, if confined { b"" } else { &name })?;
    Ok(file::openat(c, base, &name, flags, mode as u32, resolve)?.raw() as usize)
}

pub(super) fn memfd_create<C: Caller>(c: &C, name: u64, flags: u64) -> Result<usize> {
    const CLOEXEC: u64 = 1;
    const ALLOW_SEALING: u64 = 2;
    const NOEXEC_SEAL: u64 = 8;
    const EXEC: u64 = 16;
    super::only(flags, CLOEXEC | ALLOW_SEALING | NOEXEC_SEAL | EXEC)?;
    if path(c, name)?.len() > 249 {
        return Err(Errno::EINVAL);
    }
    let node = Tmpfs::anonymous_file(c.host(), DeviceId::new(0, 1), c.memory_file_limit())?;
    let inode: Arc<dyn Inode> = node;
    let open = OpenFile::new(inode.open(OFlags::RDWR)?, None, OFlags::RDWR);
    Ok(file::install(c, open, flags & CLOEXEC != 0)?.raw() as usize)
}

pub(super) fn pipe2<C: Caller>(c: &C, fds: u64, flags: u64) -> Result<usize> {
    let flags = OFlags::from_bits_retain(flags as u32);
    if !(OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::DIRECT).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let (reader, writer) = file::pipe2(c, flags)?;
    let pair = [reader.raw(), writer.raw()];
    if let Err(error) = c.write_memory(fds as usize, zerocopy::IntoBytes::as_bytes(&pair)) {
        file::close(c, reader)?;
        file::close(c, writer)?;
        return Err(error);
    }
    Ok(0)
}
