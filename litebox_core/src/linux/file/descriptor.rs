//! close, close_range, dup, fcntl, flock, ioctl.

use super::{Caller, Memory, only};
use crate::errno::{Errno, Result};
use crate::fd::Fd;
use crate::fs::{FileType, OFlags, OpenFile};
use crate::north::file;
use alloc::sync::Arc;

/// A descriptor argument: the low 32 bits, as C has it.
pub(super) fn fd(raw: u64) -> Result<Fd> {
    Fd::from_raw(raw as i32)
}

/// The open file description, `O_PATH` ones included.
pub(super) fn open_path<C: Caller>(c: &C, raw: u64) -> Result<Arc<OpenFile>> {
    file::get(c, fd(raw)?)
}

/// The open file description; EBADF for `O_PATH`.
pub(super) fn open_file<C: Caller>(c: &C, raw: u64) -> Result<Arc<OpenFile>> {
    let open = open_path(c, raw)?;
    open.file()?;
    Ok(open)
}

pub(super) fn close<C: Caller>(c: &C, raw: u64) -> Result<usize> {
    file::close(c, fd(raw)?)?;
    Ok(0)
}

pub(super) fn close_range<C: Caller>(c: &C, first: u64, last: u64, flags: u64) -> Result<usize> {
    const UNSHARE: u64 = 2;
    const CLOEXEC: u64 = 4;
    only(flags, UNSHARE | CLOEXEC)?;
    let (first, last) = (first as u32, last as u32);
    if first > last {
        return Err(Errno::EINVAL);
    }
    if flags & CLOEXEC != 0 {
        c.fds().lock().set_range_close_on_exec(first, last);
    } else {
        let closed = c.fds().lock().take_range(first, last);
        drop(closed);
    }
    Ok(0)
}

pub(super) fn dup<C: Caller>(c: &C, old: u64) -> Result<usize> {
    let open = open_path(c, old)?;
    Ok(file::install(c, open, false)?.raw() as usize)
}

pub(super) fn dup2<C: Caller>(c: &C, old: u64, new: u64) -> Result<usize> {
    if old as u32 == new as u32 {
        open_path(c, old)?;
        return Ok(new as u32 as usize);
    }
    replace(c, old, new, false)
}

pub(super) fn dup3<C: Caller>(c: &C, old: u64, new: u64, flags: u64) -> Result<usize> {
    only(flags, OFlags::CLOEXEC.bits().into())?;
    if old as u32 == new as u32 {
        return Err(Errno::EINVAL);
    }
    replace(c, old, new, flags != 0)
}

fn replace<C: Caller>(c: &C, old: u64, new: u64, close_on_exec: bool) -> Result<usize> {
    let open = open_path(c, old)?;
    let (new, limit) = (fd(new)?, c.descriptor_limit());
    let closed = c.fds().lock().replace(new, open, close_on_exec, limit)?;
    drop(closed);
    Ok(new.raw() as usize)
}

pub(super) fn fcntl<C: Caller>(c: &C, raw: u64, command: u64, argument: u64) -> Result<usize> {
    const DUPFD: u32 = 0;
    const GETFD: u32 = 1;
    const SETFD: u32 = 2;
    const GETFL: u32 = 3;
    const SETFL: u32 = 4;
    const GETLK: u32 = 5;
    const SETLK: u32 = 6;
    const SETLKW: u32 = 7;
    const SETOWN: u32 = 8;
    const GETOWN: u32 = 9;
    const OFD_GETLK: u32 = 36;
    const OFD_SETLK: u32 = 37;
    const OFD_SETLKW: u32 = 38;
    const DUPFD_CLOEXEC: u32 = 1030;
    const SETPIPE_SZ: u32 = 1031;
    const GETPIPE_SZ: u32 = 1032;
    let number = fd(raw)?;
    let open = open_path(c, raw)?;
    match command as u32 {
        command @ (DUPFD | DUPFD_CLOEXEC) => {
            let minimum = u32::try_from(argument as i32).map_err(|_| Errno::EINVAL)?;
            let limit = c.descriptor_limit();
            let new = c.fds().lock().insert_from(minimum, open, command == DUPFD_CLOEXEC, limit)?;
            Ok(new.raw() as usize)
        }
        GETFD => Ok(c.fds().lock().close_on_exec(number)?.into()),
        SETFD => {
            c.fds().lock().set_close_on_exec(number, argument & 1 != 0)?;
            Ok(0)
        }
        // O_LARGEFILE is always on, as for every 64-bit program.
        GETFL if open.file().is_err() => Ok(open.flags().bits() as usize),
        GETFL => Ok((open.flags() | OFlags::LARGEFILE).bits() as usize),
        _ if open.file().is_err() => Err(Errno::EBADF),
        SETFL => {
            open.set_flags(OFlags::from_bits_retain(argument as u32));
            Ok(0)
        }
        command @ (GETLK | SETLK | SETLKW | OFD_GETLK | OFD_SETLK | OFD_SETLKW) => {
            let get = matches!(command, GETLK | OFD_GETLK);
            let by_description = matches!(command, OFD_GETLK | OFD_SETLK | OFD_SETLKW);
            lock(c, &open, argument, get, by_description)
        }
        SETOWN => Ok(0),
        GETOWN => Ok(0),
        GETPIPE_SZ => open.file()?.pipe_capacity(None),
        SETPIPE_SZ if argument > u64::from(u32::MAX) >> 1 => Err(Errno::EINVAL),
        SETPIPE_SZ => open.file()?.pipe_capacity(Some(argument as usize)),
        _ => Err(Errno::EINVAL),
    }
}

/// `struct flock`: type, whence, start, length, pid. A process does not conflict with itself, and there is only one, so
/// every lock is granted and none is ever found.
/// FIXME: locks of two open file descriptions (`F_OFD_SETLK`) do conflict, within one process too; they do not here.
fn lock<C: Caller>(c: &C, open: &OpenFile, address: u64, get: bool, by_description: bool) -> Result<usize> {
    const READ: i16 = 0;
    const WRITE: i16 = 1;
    const UNLOCK: i16 = 2;
    let mut raw = [0; 32];
    c.read_memory(address as usize, &mut raw)?;
    let [a, b, d, e, ..] = raw;
    let (kind, whence) = (i16::from_ne_bytes([a, b]), i16::from_ne_bytes([d, e]));
    let [_, start, len, pid]: [i64; 4] = zerocopy::transmute!(raw);
    if !(0..=2).contains(&whence) || !(READ..=UNLOCK).contains(&kind) || get && kind == UNLOCK {
        return Err(Errno::EINVAL);
    }
    let from = match whence {
        1 => open.offset(),
        2 => open.file()?.end().unwrap_or_default(),
        _ => 0,
    };
    let start = i64::try_from(from).unwrap_or(i64::MAX).checked_add(start).ok_or(Errno::EOVERFLOW)?;
    // The last byte of a lock is a file offset; a negative length is what lies before the start.
    let first = if len < 0 { start.saturating_add(len) } else { start };
    if first < 0 || by_description && pid as i32 != 0 {
        return Err(Errno::EINVAL);
    }
    if len > 0 && start.checked_add(len - 1).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    if get {
        c.write_memory(address as usize, &UNLOCK.to_ne_bytes())?;
        return Ok(0);
    }
    match kind {
        READ => open.readable().map(drop)?,
        WRITE => open.writable().map(drop)?,
        _ => {}
    }
    Ok(0)
}

pub(super) fn flock<C: Caller>(c: &C, raw: u64, operation: u64) -> Result<usize> {
    const NONBLOCK: u32 = 4;
    open_file(c, raw)?;
    // FIXME: two descriptions of one file in one process do conflict; they do not here.
    if matches!(operation as u32 & !NONBLOCK, 1 | 2 | 8) { Ok(0) } else { Err(Errno::EINVAL) }
}

pub(super) fn ioctl<C: Caller>(c: &C, raw: u64, command: u64, argument: u64) -> Result<usize> {
    const FIONREAD: u32 = 0x541b;
    const FIONBIO: u32 = 0x5421;
    const FIOASYNC: u32 = 0x5452;
    const FIONCLEX: u32 = 0x5450;
    const FIOCLEX: u32 = 0x5451;
    let open = open_file(c, raw)?;
    match command as u32 {
        command @ (FIOCLEX | FIONCLEX) => {
            c.fds().lock().set_close_on_exec(fd(raw)?, command == FIOCLEX)?;
            Ok(0)
        }
        command @ (FIONBIO | FIOASYNC) => {
            let mut on = [0; 4];
            c.read_memory(argument as usize, &mut on)?;
            let flag = if command == FIONBIO { OFlags::NONBLOCK } else { OFlags::ASYNC };
            let mut flags = open.flags();
            flags.set(flag, on != [0; 4]);
            open.set_flags(flags);
            Ok(0)
        }
        FIONREAD if open.metadata()?.file_type == FileType::Regular => {
            let left = open.file()?.end()?.saturating_sub(open.offset()).min(i32::MAX as u64) as u32;
            c.write_memory(argument as usize, &left.to_ne_bytes())?;
            Ok(0)
        }
        command => open.file()?.ioctl(command, argument as usize, &mut Memory(c)),
    }
}
