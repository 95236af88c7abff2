//! System calls on memory: decode, then `Mm`.

use super::Args;
use crate::errno::{Errno, Result};
use crate::fs::OFlags;
use crate::mm::{Advice, MapFlags, MapName, MapRequest, RemapFlags, UserPtr};
use crate::north::file;
use crate::platform::{PAGE_SIZE, Platform, Prot};
use crate::process::Thread;
use linux_raw_sys::general as c;

/// Protection bits. Those that are not known are ignored by mmap and refused by mprotect, as on Linux.
fn prot(raw: u64) -> Prot {
    let mut prot = Prot::empty();
    let raw = raw as u32;
    prot.set(Prot::READ, raw & c::PROT_READ != 0);
    prot.set(Prot::WRITE, raw & c::PROT_WRITE != 0);
    prot.set(Prot::EXEC, raw & c::PROT_EXEC != 0);
    prot
}

pub(super) fn mmap<P: Platform>(
    t: &Thread<P>,
    [addr, len, raw_prot, raw_flags, fd, offset]: Args,
) -> Result<usize> {
    let raw = raw_flags as u32;
    if offset % PAGE_SIZE as u64 != 0 {
        return Err(Errno::EINVAL);
    }
    let anonymous = raw & c::MAP_ANONYMOUS != 0;
    let mut flags = MapFlags::empty();
    match raw & c::MAP_TYPE {
        c::MAP_PRIVATE => {}
        c::MAP_SHARED => flags |= MapFlags::SHARED,
        c::MAP_SHARED_VALIDATE if anonymous => return Err(Errno::EINVAL),
        c::MAP_SHARED_VALIDATE => {
            const KNOWN: u32 = c::MAP_TYPE
                | c::MAP_FIXED
                | c::MAP_32BIT
                | c::MAP_GROWSDOWN
                | c::MAP_DENYWRITE
                | c::MAP_EXECUTABLE
                | c::MAP_LOCKED
                | c::MAP_NORESERVE
                | c::MAP_POPULATE
                | c::MAP_NONBLOCK
                | c::MAP_STACK
                | c::MAP_FIXED_NOREPLACE;
            if raw & !KNOWN != 0 {
                return Err(Errno::EOPNOTSUPP);
            }
            flags |= MapFlags::SHARED;
        }
        _ => return Err(Errno::EINVAL),
    }
    for (bit, flag) in [
        (c::MAP_FIXED, MapFlags::FIXED),
        (c::MAP_FIXED_NOREPLACE, MapFlags::FIXED_NOREPLACE),
        (c::MAP_GROWSDOWN, MapFlags::GROWS_DOWN),
        (c::MAP_32BIT, MapFlags::LOW),
        (c::MAP_NORESERVE, MapFlags::NO_RESERVE),
    ] {
        flags.set(flag, raw & bit != 0);
    }
    // What grows downwards is nobody else's.
    if raw & c::MAP_GROWSDOWN != 0 && (!anonymous || flags.contains(MapFlags::SHARED)) {
        return Err(Errno::EINVAL);
    }
    let populate = raw & (c::MAP_POPULATE | c::MAP_LOCKED) != 0 && raw & c::MAP_NONBLOCK == 0;
    flags.set(MapFlags::POPULATE, populate);
    let prot = prot(raw_prot);
    let (mut object, mut name) = (None, None);
    if !anonymous {
        let open = file::get(t, crate::fd::Fd::from_raw(fd as i32)?)?;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let access = open.flags();
        if access.contains(OFlags::PATH) {
            return Err(Errno::EBADF);
        }
        // A mapping reads, so the file must be readable; a shared one that is written, writable too.
        if !access.readable() {
            return Err(Errno::EACCES);
        }
        if flags.contains(MapFlags::SHARED) && !access.writable() {
            if prot.contains(Prot::WRITE) {
                return Err(Errno::EACCES);
            }
            flags |= MapFlags::NEVER_WRITE;
        }
        object = Some((open.file()?.mappable()?, offset));
        name = Some(MapName::File(open));
    }
    let (at, len) = (addr as usize, len as usize);
    t.mm().mmap(MapRequest { at, len, prot, flags, object, name })
}

pub(super) fn munmap<P: Platform>(t: &Thread<P>, at: u64, len: u64) -> Result<usize> {
    t.mm().munmap(at as usize, len as usize).map(|()| 0)
}

pub(super) fn mprotect<P: Platform>(t: &Thread<P>, at: u64, len: u64, raw: u64) -> Result<usize> {
    let bits = raw as u32;
    let (down, up) = (bits & c::PROT_GROWSDOWN != 0, bits & c::PROT_GROWSUP != 0);
    let known =
        c::PROT_READ | c::PROT_WRITE | c::PROT_EXEC | c::PROT_SEM | c::PROT_GROWSDOWN | c::PROT_GROWSUP;
    if bits & !known != 0 || up {
        return Err(Errno::EINVAL);
    }
    t.mm().mprotect(at as usize, len as usize, prot(raw), down).map(|()| 0)
}

pub(super) fn mremap<P: Platform>(
    t: &Thread<P>,
    at: u64,
    old: u64,
    new: u64,
    flags: u64,
    to: u64,
) -> Result<usize> {
    let flags = u32::try_from(flags).ok().and_then(RemapFlags::from_bits).ok_or(Errno::EINVAL)?;
    t.mm().mremap(at as usize, old as usize, new as usize, flags, to as usize)
}

pub(super) fn madvise<P: Platform>(t: &Thread<P>, at: u64, len: u64, advice: u64) -> Result<usize> {
    let advice = match advice as u32 {
        c::MADV_NORMAL | c::MADV_RANDOM | c::MADV_SEQUENTIAL | c::MADV_WILLNEED => Advice::Hint,
        c::MADV_COLD
        | c::MADV_PAGEOUT
        | c::MADV_DONTFORK
        | c::MADV_DOFORK
        | c::MADV_DONTDUMP
        | c::MADV_DODUMP => Advice::Hint,
        c::MADV_MERGEABLE
        | c::MADV_UNMERGEABLE
        | c::MADV_WIPEONFORK
        | c::MADV_KEEPONFORK
        | c::MADV_COLLAPSE => Advice::Hint,
        c::MADV_DONTNEED | c::MADV_FREE | c::MADV_DONTNEED_LOCKED => Advice::DontNeed,
        c::MADV_HUGEPAGE => Advice::Huge(true),
        c::MADV_NOHUGEPAGE => Advice::Huge(false),
        c::MADV_POPULATE_READ => Advice::Populate(Prot::READ),
        c::MADV_POPULATE_WRITE => Advice::Populate(Prot::WRITE),
        // MADV_REMOVE punches holes into shared files: not here.
        c::MADV_REMOVE => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    };
    t.mm().madvise(at as usize, len as usize, advice).map(|()| 0)
}

pub(super) fn mincore<P: Platform>(t: &Thread<P>, at: u64, len: u64, vector: u64) -> Result<usize> {
    // A page's worth of answers at a time: the range may be huge.
    const STEP: usize = PAGE_SIZE * PAGE_SIZE;
    if !at.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL);
    }
    let (mut at, mut left, mut to) = (at as usize, len as usize, vector as usize);
    while left > 0 {
        let now = left.min(STEP);
        let bytes = t.mm().mincore(at, now)?;
        t.mm().write(to, &bytes)?;
        at = at.checked_add(now).ok_or(Errno::ENOMEM)?;
        to = to.checked_add(bytes.len()).ok_or(Errno::EFAULT)?;
        left -= now;
    }
    Ok(0)
}

pub(super) fn msync<P: Platform>(t: &Thread<P>, at: u64, len: u64, flags: u64) -> Result<usize> {
    let flags = flags as u32;
    if flags & !(c::MS_ASYNC | c::MS_INVALIDATE | c::MS_SYNC) != 0
        || flags & c::MS_ASYNC != 0 && flags & c::MS_SYNC != 0
    {
        return Err(Errno::EINVAL);
    }
    match t.mm().check_mapped(at as usize, len as usize) {
        // msync has ENOMEM for a range beyond the end, too.
        Err(Errno::EINVAL) if at.is_multiple_of(PAGE_SIZE as u64) => Err(Errno::ENOMEM),
        other => other.map(|()| 0),
    }
}

pub(super) fn mlock<P: Platform>(t: &Thread<P>, at: u64, len: u64, flags: u64) -> Result<usize> {
    const ONFAULT: u64 = 1;
    if flags & !ONFAULT != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & ONFAULT != 0 {
        return munlock(t, at, len);
    }
    t.mm().mlock(at as usize, len as usize).map(|()| 0)
}

pub(super) fn munlock<P: Platform>(t: &Thread<P>, at: u64, len: u64) -> Result<usize> {
    let first = at as usize & !(PAGE_SIZE - 1);
    let len = (len as usize).checked_add(at as usize - first).ok_or(Errno::EINVAL)?;
    t.mm().check_mapped(first, len).map(|()| 0)
}

pub(super) fn mlockall(flags: u64) -> Result<usize> {
    // Nothing is ever swapped out, so everything is locked.
    if flags == 0 || flags & !7 != 0 || flags == 4 { Err(Errno::EINVAL) } else { Ok(0) }
}

/// One node: every policy is the same.
pub(super) fn set_mempolicy(number: u32, args: Args) -> Result<usize> {
    if number == c::__NR_set_mempolicy && args[0] as u32 & 0x1fff > 6 { Err(Errno::EINVAL) } else { Ok(0) }
}

pub(super) fn get_mempolicy<P: Platform>(
    t: &Thread<P>,
    mode: u64,
    mask: u64,
    bits: u64,
    flags: u64,
) -> Result<usize> {
    const KNOWN: u64 = 7;
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    if let Some(mode) = UserPtr::<u32>::new(mode).non_null() {
        t.mm().store(mode, 0u32)?;
    }
    if mask != 0 {
        let bytes = (bits as usize).div_ceil(8).min(PAGE_SIZE);
        let mut set = alloc::vec![0u8; bytes.next_multiple_of(8)];
        // Allowed nodes (MPOL_F_MEMS_ALLOWED): node 0.
        if let Some(first) = set.first_mut() {
            *first = u8::from(flags & 4 != 0);
        }
        t.mm().write(mask as usize, &set)?;
    }
    Ok(0)
}

pub(super) fn membarrier(command: u64, flags: u64) -> Result<usize> {
    const QUERY: u32 = 0;
    /// Global, its expedited form and registration, private expedited and registration.
    const KNOWN: u32 = 0x1f;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    match command as u32 {
        QUERY => Ok(KNOWN as usize),
        // One CPU: every thread that does not run has passed a barrier.
        one if one.is_power_of_two() && one & KNOWN != 0 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// Protection keys: the CPU feature is not switched on, which programs must cope with.
pub(super) fn pkey<P: Platform>(t: &Thread<P>, number: u32, [a, b, d, e, ..]: Args) -> Result<usize> {
    match number {
        c::__NR_pkey_alloc => Err(if a != 0 || b > 3 { Errno::EINVAL } else { Errno::ENOSPC }),
        c::__NR_pkey_mprotect if e as i32 == -1 => mprotect(t, a, b, d),
        _ => Err(Errno::EINVAL),
    }
}
