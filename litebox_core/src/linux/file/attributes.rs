//! chmod, chown, utimensat and their kin, umask, and extended attributes, which these file systems do not have.

use super::super::time::Timespec;
use super::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, Caller, base, descriptor, only, path};
use crate::errno::{Errno, Result};
use crate::fs::{FileType, Inode, SetAttributes, SetTime, Timestamp, ops};
use crate::north::file::{self, Base};
use alloc::sync::Arc;
use zerocopy::IntoBytes;

/// The inode that directory, path and flags name.
fn inode<C: Caller>(c: &C, dir: u64, name: u64, flags: u64) -> Result<Arc<dyn Inode>> {
    only(flags, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)?;
    let name = path(c, name)?;
    if name.is_empty() && flags & AT_EMPTY_PATH != 0 {
        return match base(dir, &name)? {
            Base::Cwd => Ok(c.fs().cwd.inode.clone()),
            Base::Dir(fd) => file::get(c, fd)?.inode().cloned().ok_or(Errno::EPERM),
        };
    }
    Ok(file::resolve(c, base(dir, &name)?, &name, flags & AT_SYMLINK_NOFOLLOW == 0)?.inode)
}

fn by_fd<C: Caller>(c: &C, fd: u64) -> Result<Arc<dyn Inode>> {
    descriptor::open_file(c, fd)?.inode().cloned().ok_or(Errno::EPERM)
}

pub(super) fn chmod<C: Caller>(c: &C, dir: u64, name: u64, mode: u64, flags: u64) -> Result<usize> {
    let inode = inode(c, dir, name, flags)?;
    if inode.file_type() == FileType::Symlink {
        return Err(Errno::EOPNOTSUPP);
    }
    set_mode(c, &inode, mode)
}

pub(super) fn fchmod<C: Caller>(c: &C, fd: u64, mode: u64) -> Result<usize> {
    set_mode(c, &by_fd(c, fd)?, mode)
}

fn set_mode<C: Caller>(c: &C, inode: &Arc<dyn Inode>, mode: u64) -> Result<usize> {
    let changes = SetAttributes { mode: Some(mode as u32 & 0o7777), ..SetAttributes::default() };
    ops::set_attributes(&c.fs(), inode, changes)?;
    Ok(0)
}

pub(super) fn chown<C: Caller>(c: &C, dir: u64, name: u64, uid: u64, gid: u64, flags: u64) -> Result<usize> {
    set_owner(c, &inode(c, dir, name, flags)?, uid, gid)
}

pub(super) fn fchown<C: Caller>(c: &C, fd: u64, uid: u64, gid: u64) -> Result<usize> {
    set_owner(c, &by_fd(c, fd)?, uid, gid)
}

fn set_owner<C: Caller>(c: &C, inode: &Arc<dyn Inode>, uid: u64, gid: u64) -> Result<usize> {
    let id = |raw: u64| (raw as u32 != u32::MAX).then_some(raw as u32);
    let changes = SetAttributes { uid: id(uid), gid: id(gid), ..SetAttributes::default() };
    ops::set_attributes(&c.fs(), inode, changes)?;
    Ok(0)
}

fn set_times<C: Caller>(
    c: &C,
    inode: &Arc<dyn Inode>,
    [atime, mtime]: [Option<SetTime>; 2],
) -> Result<usize> {
    let context = c.fs();
    if atime.is_none() && mtime.is_none() {
        return Ok(0);
    }
    let metadata = inode.metadata()?;
    if context.credentials.check_owner(&metadata).is_err() {
        // "Now" is allowed to whoever may write.
        if [atime, mtime] != [Some(SetTime::Now); 2] {
            return Err(Errno::EPERM);
        }
        context.credentials.check(&metadata, crate::fs::Permission::WRITE)?;
    }
    inode.set_attributes(&SetAttributes { atime, mtime, ..SetAttributes::default() })?;
    Ok(0)
}

pub(super) fn utimensat<C: Caller>(c: &C, dir: u64, name: u64, times: u64, flags: u64) -> Result<usize> {
    const UTIME_NOW: i64 = 0x3fff_ffff;
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    only(flags, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)?;
    let mut raw = [Timespec { sec: 0, nsec: UTIME_NOW }; 2];
    if times != 0 {
        c.read_memory(times as usize, raw.as_mut_bytes())?;
    }
    let mut set = [None; 2];
    for (set, raw) in set.iter_mut().zip(raw) {
        *set = match raw.nsec {
            UTIME_NOW => Some(SetTime::Now),
            UTIME_OMIT => None,
            nsec @ 0..1_000_000_000 => Some(SetTime::To(Timestamp { sec: raw.sec, nsec: nsec as u32 })),
            _ => return Err(Errno::EINVAL),
        };
    }
    if set == [None; 2] {
        return Ok(0);
    }
    let inode = if name == 0 {
        if base(dir, b"")? == Base::Cwd {
            return Err(Errno::EFAULT);
        }
        by_fd(c, dir)?
    } else {
        inode(c, dir, name, flags)?
    };
    set_times(c, &inode, set)
}

pub(super) fn futimesat<C: Caller>(c: &C, dir: u64, name: u64, times: u64) -> Result<usize> {
    let mut set = [Some(SetTime::Now); 2];
    if times != 0 {
        // Two `struct timeval`: seconds and microseconds.
        let mut raw = [[0i64; 2]; 2];
        c.read_memory(times as usize, raw.as_mut_bytes())?;
        for (set, [sec, usec]) in set.iter_mut().zip(raw) {
            if !(0..1_000_000).contains(&usec) {
                return Err(Errno::EINVAL);
            }
            *set = Some(SetTime::To(Timestamp { sec, nsec: usec as u32 * 1000 }));
        }
    }
    set_times(c, &inode(c, dir, name, 0)?, set)
}

pub(super) fn utime<C: Caller>(c: &C, name: u64, times: u64) -> Result<usize> {
    let mut set = [Some(SetTime::Now); 2];
    if times != 0 {
        let mut raw = [0i64; 2];
        c.read_memory(times as usize, raw.as_mut_bytes())?;
        set = raw.map(|sec| Some(SetTime::To(Timestamp { sec, nsec: 0 })));
    }
    set_times(c, &inode(c, AT_FDCWD, name, 0)?, set)
}

pub(super) fn umask<C: Caller>(c: &C, mask: u64) -> Result<usize> {
    let old = c.fs().umask;
    c.update_fs(&mut |context| context.umask = mask as u32 & 0o777);
    Ok(old as usize)
}

pub(super) fn listxattr<C: Caller>(c: &C, name: u64, follow: bool) -> Result<usize> {
    let name = path(c, name)?;
    file::resolve(c, Base::Cwd, &name, follow)?;
    Ok(0)
}

pub(super) fn no_xattr<C: Caller>(c: &C, name: u64, follow: bool) -> Result<usize> {
    listxattr(c, name, follow)?;
    Err(Errno::EOPNOTSUPP)
}
