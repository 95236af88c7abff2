//! Directories and names: getdents, getcwd, chdir, mkdir, unlink, rename, link, symlink, readlink, mknod.

use super::{AT_EMPTY_PATH, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, Caller, base, descriptor, only, path};
use crate::errno::{Errno, Result};
use crate::fs::{DeviceId, FileType, Location, NewNode, Permission, RenameMode, ops};
use crate::north::file::{self, Base};
use alloc::vec::Vec;

pub(super) fn getcwd<C: Caller>(c: &C, buffer: u64, size: u64) -> Result<usize> {
    let context = c.fs();
    let mut cwd = context.cwd.path_or_deleted(&context.root).map_err(|_| Errno::ENOENT)?;
    cwd.push(0);
    if cwd.len() as u64 > size {
        return Err(Errno::ERANGE);
    }
    c.write_memory(buffer as usize, &cwd)?;
    Ok(cwd.len())
}

/// A directory that one may go into.
fn enterable<C: Caller>(c: &C, place: &Location) -> Result<()> {
    if place.inode.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    c.fs().credentials.check(&place.inode.metadata()?, Permission::EXEC)
}

pub(super) fn chdir<C: Caller>(c: &C, name: u64) -> Result<usize> {
    let name = path(c, name)?;
    let place = file::resolve(c, Base::Cwd, &name, true)?;
    enterable(c, &place)?;
    c.update_fs(&mut |context| context.cwd = place.clone());
    Ok(0)
}

pub(super) fn fchdir<C: Caller>(c: &C, fd: u64) -> Result<usize> {
    let place = descriptor::open_path(c, fd)?.directory()?.clone();
    enterable(c, &place)?;
    c.update_fs(&mut |context| context.cwd = place.clone());
    Ok(0)
}

pub(super) fn chroot<C: Caller>(c: &C, name: u64) -> Result<usize> {
    let name = path(c, name)?;
    let place = file::resolve(c, Base::Cwd, &name, true)?;
    enterable(c, &place)?;
    if !c.fs().credentials.privileged() {
        return Err(Errno::EPERM);
    }
    c.update_fs(&mut |context| context.root = place.clone());
    Ok(0)
}

/// `linux_dirent64`: ino, off, reclen, type, name, NUL. `linux_dirent`: ino, off, reclen, name, NUL, and the type last.
pub(super) fn getdents<C: Caller>(c: &C, fd: u64, buffer: u64, size: u64, wide: bool) -> Result<usize> {
    let open = descriptor::open_file(c, fd)?;
    let size = size.min(1 << 20) as usize;
    let mut out = Vec::new();
    let mut full = false;
    open.readdir(&mut |entry| {
        let fixed = if wide { 19 } else { 18 };
        let len = (fixed + entry.name.len() + 1 + usize::from(!wide)).next_multiple_of(8);
        if out.len() + len > size {
            full = true;
            return false;
        }
        let start = out.len();
        out.extend_from_slice(&entry.ino.to_ne_bytes());
        out.extend_from_slice(&entry.next.to_ne_bytes());
        out.extend_from_slice(&(len as u16).to_ne_bytes());
        if wide {
            out.push(entry.file_type.dirent_type());
        }
        out.extend_from_slice(entry.name);
        out.resize(start + len, 0);
        if !wide && let Some(last) = out.last_mut() {
            *last = entry.file_type.dirent_type();
        }
        true
    })?;
    if out.is_empty() && full {
        return Err(Errno::EINVAL);
    }
    c.write_memory(buffer as usize, &out)?;
    Ok(out.len())
}

/// The base and path of a call that makes or removes a name.
fn target<C: Caller>(c: &C, dir: u64, name: u64) -> Result<(Location, Vec<u8>)> {
    let name = path(c, name)?;
    let start = file::base(c, &c.fs(), base(dir, &name)?, &name)?;
    Ok((start, name))
}

pub(super) fn mkdirat<C: Caller>(c: &C, dir: u64, name: u64, mode: u64) -> Result<usize> {
    let (start, name) = target(c, dir, name)?;
    ops::make(&c.fs(), &start, &name, NewNode::Directory, mode as u32)?;
    Ok(0)
}

pub(super) fn mknodat<C: Caller>(c: &C, dir: u64, name: u64, mode: u64, dev: u64) -> Result<usize> {
    let mode = mode as u32;
    let what = match FileType::from_mode(mode) {
        None if mode & 0o170000 == 0 => NewNode::Regular,
        Some(FileType::Regular) => NewNode::Regular,
        Some(FileType::Directory) => return Err(Errno::EPERM),
        Some(FileType::Symlink) | None => return Err(Errno::EINVAL),
        Some(special @ (FileType::CharDevice | FileType::BlockDevice)) => {
            if !c.fs().credentials.privileged() {
                return Err(Errno::EPERM);
            }
            NewNode::Special(special, DeviceId(dev & 0xffff_ffff))
        }
        Some(special) => NewNode::Special(special, DeviceId::default()),
    };
    let (start, name) = target(c, dir, name)?;
    ops::make(&c.fs(), &start, &name, what, mode)?;
    Ok(0)
}

pub(super) fn unlinkat<C: Caller>(c: &C, dir: u64, name: u64, flags: u64) -> Result<usize> {
    only(flags, AT_REMOVEDIR)?;
    let (start, name) = target(c, dir, name)?;
    ops::unlink(&c.fs(), &start, &name, flags & AT_REMOVEDIR != 0)?;
    Ok(0)
}

pub(super) fn renameat2<C: Caller>(
    c: &C,
    dir: u64,
    old: u64,
    new_dir: u64,
    new: u64,
    flags: u64,
) -> Result<usize> {
    let mode = match flags as u32 {
        0 => RenameMode::Replace,
        1 => RenameMode::NoReplace,
        2 => RenameMode::Exchange,
        _ => return Err(Errno::EINVAL),
    };
    let (old_start, old) = target(c, dir, old)?;
    let (new_start, new) = target(c, new_dir, new)?;
    ops::rename(&c.fs(), (&old_start, &old), (&new_start, &new), mode)?;
    Ok(0)
}

pub(super) fn linkat<C: Caller>(
    c: &C,
    dir: u64,
    old: u64,
    new_dir: u64,
    new: u64,
    flags: u64,
) -> Result<usize> {
    only(flags, AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)?;
    let old = path(c, old)?;
    let place = if old.is_empty() && flags & AT_EMPTY_PATH != 0 {
        match base(dir, &old)? {
            Base::Cwd => c.fs().cwd.clone(),
            Base::Dir(fd) => file::get(c, fd)?.location().cloned().ok_or(Errno::EXDEV)?,
        }
    } else {
        file::resolve(c, base(dir, &old)?, &old, flags & AT_SYMLINK_FOLLOW != 0)?
    };
    let (start, new) = target(c, new_dir, new)?;
    ops::link(&c.fs(), &place, &start, &new)?;
    Ok(0)
}

pub(super) fn symlinkat<C: Caller>(c: &C, text: u64, dir: u64, name: u64) -> Result<usize> {
    let text = path(c, text)?;
    if text.is_empty() {
        return Err(Errno::ENOENT);
    }
    let (start, name) = target(c, dir, name)?;
    ops::make(&c.fs(), &start, &name, NewNode::Symlink(&text), 0o777)?;
    Ok(0)
}

pub(super) fn readlinkat<C: Caller>(c: &C, dir: u64, name: u64, buffer: u64, size: u64) -> Result<usize> {
    if size as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    let name = path(c, name)?;
    let place = match base(dir, &name)? {
        // A descriptor opened with O_PATH | O_NOFOLLOW on the link itself.
        Base::Dir(fd) if name.is_empty() => file::get(c, fd)?.location().cloned().ok_or(Errno::ENOENT)?,
        at => file::resolve(c, at, &name, false)?,
    };
    let text = match ops::readlink(&place) {
        Err(Errno::EINVAL) if name.is_empty() => return Err(Errno::ENOENT),
        text => text?,
    };
    let len = text.len().min(size as u32 as usize);
    c.write_memory(buffer as usize, text.get(..len).unwrap_or_default())?;
    Ok(len)
}
