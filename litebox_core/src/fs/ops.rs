//! What can be done with paths: the calls of `open(2)`, `mkdir(2)`, `rename(2)` and their kin, with every permission check.
//!
//! Each takes the view of who asks, the directory that relative paths start from, and the path.

use super::path::{Last, Walk};
use super::{
    Credentials, FileType, FsContext, Inode, LinkTarget, Location, Metadata, NAME_MAX, NewNode, OFlags,
    OpenFile, Permission, RenameMode, ResolveFlags, SetAttributes, mount::same,
};
use crate::errno::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The place that `path` names.
pub fn resolve(context: &FsContext, base: &Location, path: &[u8], follow: bool) -> Result<Location> {
    Walk::new(context, base, ResolveFlags::empty()).resolve(base, path, follow)
}

/// Whether something may be added to or removed from `dir`.
fn may_change(context: &FsContext, dir: &Location) -> Result<()> {
    if context.credentials.privileged() {
        return Ok(());
    }
    context.credentials.check(&dir.inode.metadata()?, Permission::WRITE | Permission::EXEC)
}

/// The same, with the sticky bit, for the entry `victim`.
fn may_remove(context: &FsContext, dir: &Location, victim: &Arc<dyn Inode>) -> Result<()> {
    may_change(context, dir)?;
    let credentials: &Credentials = &context.credentials;
    if credentials.privileged() {
        return Ok(());
    }
    let metadata = dir.inode.metadata()?;
    let owner = metadata.uid == credentials.uid || victim.metadata()?.uid == credentials.uid;
    if metadata.mode & 0o1000 == 0 || owner { Ok(()) } else { Err(Errno::EPERM) }
}

/// EBUSY when something is mounted over `inode` of the mount of `dir`.
fn not_mounted_over(dir: &Location, inode: &Arc<dyn Inode>) -> Result<()> {
    if dir.mount.child_over(inode).is_some() { Err(Errno::EBUSY) } else { Ok(()) }
}

/// `openat2(2)`: `mode` is used when a file is created.
pub fn open(
    context: &FsContext,
    base: &Location,
    path: &[u8],
    flags: OFlags,
    mode: u32,
    resolve: ResolveFlags,
) -> Result<Arc<OpenFile>> {
    let mut walk = Walk::new(context, base, resolve);
    if flags.contains(OFlags::TMPFILE_BIT) && !flags.contains(OFlags::PATH) {
        let dir = walk.resolve(base, path, true)?;
        if !flags.writable() {
            return Err(Errno::EINVAL);
        }
        if dir.inode.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        may_change(context, &dir)?;
        let (mode, linkable) = (mode & !context.umask & 0o7777, !flags.contains(OFlags::EXCL));
        let inode = dir.inode.create_unnamed(mode, &context.credentials, linkable)?;
        let place = Location { mount: dir.mount, inode: inode.clone() };
        return Ok(OpenFile::new(inode.open(flags)?, Some(place), flags - OFlags::DIRECTORY));
    }
    if !flags.contains(OFlags::CREAT) || flags.contains(OFlags::PATH) {
        let place = walk.resolve(base, path, !flags.contains(OFlags::NOFOLLOW))?;
        return open_existing(context, place, flags);
    }
    let mut base = base.clone();
    let mut path = path.to_vec();
    loop {
        let (dir, last) = walk.resolve_parent(&base, &path)?;
        let (name, slashes) = match last {
            Last::Name(name, slashes) => (name, slashes),
            _ => return Err(if flags.contains(OFlags::EXCL) { Errno::EEXIST } else { Errno::EISDIR }),
        };
        if slashes {
            return Err(Errno::EISDIR);
        }
        match walk.child(&dir, &name) {
            Ok(_) if flags.contains(OFlags::EXCL) => return Err(Errno::EEXIST),
            Ok(place)
                if place.inode.file_type() == FileType::Symlink && !flags.contains(OFlags::NOFOLLOW) =>
            {
                walk.count_link()?;
                match place.inode.follow()? {
                    LinkTarget::Path(target) => (base, path) = (dir, target),
                    LinkTarget::Jump(place) => return open_existing(context, place, flags),
                }
            }
            Ok(place) if place.inode.file_type() == FileType::Directory => return Err(Errno::EISDIR),
            Ok(place) => return open_existing(context, place, flags),
            Err(Errno::ENOENT) => {
                if flags.contains(OFlags::DIRECTORY) {
                    return Err(Errno::EINVAL);
                }
                may_change(context, &dir)?;
                let mode = mode & !context.umask & 0o7777;
                let inode = match dir.inode.create(&name, NewNode::Regular, mode, &context.credentials) {
                    // Somebody was faster.
                    Err(Errno::EEXIST) if !flags.contains(OFlags::EXCL) => continue,
                    inode => inode?,
                };
                let file = inode.clone().open(flags)?;
                return Ok(OpenFile::new(file, Some(Location { mount: dir.mount, inode }), flags));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Opens what was found, after all checks.
fn open_existing(context: &FsContext, place: Location, flags: OFlags) -> Result<Arc<OpenFile>> {
    let file_type = place.inode.file_type();
    if flags.contains(OFlags::DIRECTORY) && file_type != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    if flags.contains(OFlags::PATH) {
        return Ok(OpenFile::path_only(place, flags));
    }
    let writes = flags.writable() || flags.contains(OFlags::TRUNC);
    match file_type {
        FileType::Symlink => return Err(Errno::ELOOP),
        FileType::Directory if writes => return Err(Errno::EISDIR),
        FileType::Socket => return Err(Errno::ENXIO),
        _ => {}
    }
    if !context.credentials.privileged() {
        let mut wanted = Permission::empty();
        wanted.set(Permission::READ, flags.readable());
        wanted.set(Permission::WRITE, writes);
        let metadata = place.inode.metadata()?;
        context.credentials.check(&metadata, wanted)?;
        if flags.contains(OFlags::NOATIME) {
            context.credentials.check_owner(&metadata)?;
        }
    }
    if flags.contains(OFlags::TRUNC) && file_type == FileType::Regular {
        place.inode.truncate(0)?;
    }
    let file = place.inode.clone().open(flags)?;
    Ok(OpenFile::new(file, Some(place), flags))
}

/// `mkdirat`, `mknodat`, `symlinkat`: makes `what` at `path`.
pub fn make(context: &FsContext, base: &Location, path: &[u8], what: NewNode<'_>, mode: u32) -> Result<()> {
    let mut walk = Walk::new(context, base, ResolveFlags::empty());
    let (dir, last) = walk.resolve_parent(base, path)?;
    let Last::Name(name, slashes) = last else { return Err(Errno::EEXIST) };
    match walk.child(&dir, &name) {
        Ok(_) => return Err(Errno::EEXIST),
        Err(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    if slashes && !matches!(what, NewNode::Directory) {
        return Err(Errno::ENOENT);
    }
    may_change(context, &dir)?;
    let mode = match what {
        NewNode::Symlink(_) => 0o777,
        NewNode::Directory => mode & !context.umask & 0o1777,
        _ => mode & !context.umask & 0o7777,
    };
    dir.inode.create(&name, what, mode, &context.credentials).map(drop)
}

/// `linkat(2)`: one more name for what `old` is.
pub fn link(context: &FsContext, old: &Location, base: &Location, path: &[u8]) -> Result<()> {
    let mut walk = Walk::new(context, base, ResolveFlags::empty());
    let (dir, last) = walk.resolve_parent(base, path)?;
    let Last::Name(name, slashes) = last else { return Err(Errno::EEXIST) };
    match walk.child(&dir, &name) {
        Ok(_) => return Err(Errno::EEXIST),
        Err(Errno::ENOENT) if slashes => return Err(Errno::ENOENT),
        Err(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    if !Arc::ptr_eq(&old.mount, &dir.mount) {
        return Err(Errno::EXDEV);
    }
    may_change(context, &dir)?;
    dir.inode.link(&name, &old.inode)
}

/// `unlinkat(2)`; `directory`: as with `AT_REMOVEDIR`.
pub fn unlink(context: &FsContext, base: &Location, path: &[u8], directory: bool) -> Result<()> {
    let mut walk = Walk::new(context, base, ResolveFlags::empty());
    let (dir, last) = walk.resolve_parent(base, path)?;
    let (name, slashes) = match last {
        Last::Name(name, slashes) => (name, slashes),
        Last::Dot if directory => return Err(Errno::EINVAL),
        Last::DotDot if directory => return Err(Errno::ENOTEMPTY),
        Last::Root if directory => return Err(Errno::EBUSY),
        _ => return Err(Errno::EISDIR),
    };
    let victim = dir.inode.lookup(&name)?;
    if !directory && slashes {
        return Err(if victim.file_type() == FileType::Directory { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    may_remove(context, &dir, &victim)?;
    not_mounted_over(&dir, &victim)?;
    if directory { dir.inode.rmdir(&name) } else { dir.inode.unlink(&name) }
}

/// Whether `place` is `inode` or lies below it, in one mount.
fn is_within(place: &Location, inode: &Arc<dyn Inode>) -> bool {
    if inode.file_type() != FileType::Directory {
        return false;
    }
    let mut at = Some(place.inode.clone());
    while let Some(dir) = at {
        if same(&dir, inode) {
            return true;
        }
        at = dir.parent().map(|(parent, _)| parent);
    }
    false
}

/// `renameat2(2)`.
pub fn rename(
    context: &FsContext,
    (old_base, old): (&Location, &[u8]),
    (new_base, new): (&Location, &[u8]),
    mode: RenameMode,
) -> Result<()> {
    let mut walk = Walk::new(context, old_base, ResolveFlags::empty());
    let (old_dir, old_last) = walk.resolve_parent(old_base, old)?;
    let (new_dir, new_last) = walk.resolve_parent(new_base, new)?;
    if !Arc::ptr_eq(&old_dir.mount, &new_dir.mount) {
        return Err(Errno::EXDEV);
    }
    let Last::Name(old_name, old_slashes) = old_last else { return Err(Errno::EBUSY) };
    let Last::Name(new_name, new_slashes) = new_last else {
        return Err(if mode == RenameMode::NoReplace { Errno::EEXIST } else { Errno::EBUSY });
    };
    if new_name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let source = old_dir.inode.lookup(&old_name)?;
    let target = match new_dir.inode.lookup(&new_name) {
        Ok(_) if mode == RenameMode::NoReplace => return Err(Errno::EEXIST),
        Ok(target) => Some(target),
        Err(Errno::ENOENT) => None,
        Err(error) => return Err(error),
    };
    if source.file_type() != FileType::Directory
        && (old_slashes || new_slashes && mode != RenameMode::Exchange)
    {
        return Err(Errno::ENOTDIR);
    }
    may_remove(context, &old_dir, &source)?;
    not_mounted_over(&old_dir, &source)?;
    match &target {
        Some(target) => {
            may_remove(context, &new_dir, target)?;
            not_mounted_over(&new_dir, target)?;
        }
        None => may_change(context, &new_dir)?,
    }
    // As Linux has it, before anything is looked at more closely.
    if is_within(&new_dir, &source) {
        return Err(Errno::EINVAL);
    }
    if let Some(target) = &target
        && is_within(&old_dir, target)
    {
        return Err(if mode == RenameMode::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
    }
    old_dir.inode.rename(&old_name, &new_dir.inode, &new_name, mode)
}

/// `readlinkat(2)` on a place that was resolved without following. EINVAL.
pub fn readlink(place: &Location) -> Result<Vec<u8>> {
    if place.inode.file_type() == FileType::Symlink { place.inode.readlink() } else { Err(Errno::EINVAL) }
}

/// `chmod`, `chown`, `utimensat` on `inode`, with the rules for who may. `mode` of a file loses set-group-id when its group is foreign.
pub fn set_attributes(context: &FsContext, inode: &Arc<dyn Inode>, mut changes: SetAttributes) -> Result<()> {
    let credentials = &context.credentials;
    let metadata = inode.metadata()?;
    if let Some(mode) = changes.mode {
        credentials.check_owner(&metadata)?;
        if !credentials.privileged() && !credentials.in_group(metadata.gid) {
            changes.mode = Some(mode & !0o2000);
        }
    }
    if changes.uid.is_some() || changes.gid.is_some() {
        may_chown(credentials, &metadata, &changes)?;
        // `chown(2)`: an executable that changes hands loses its set-id bits.
        if metadata.file_type != FileType::Directory && changes.mode.is_none() {
            let group = if metadata.mode & 0o010 != 0 { 0o2000 } else { 0 };
            changes.mode = Some(metadata.mode & !(0o4000 | group));
        }
    }
    inode.set_attributes(&changes)
}

fn may_chown(credentials: &Credentials, metadata: &Metadata, changes: &SetAttributes) -> Result<()> {
    if credentials.privileged() {
        return Ok(());
    }
    let keeps_owner = changes.uid.is_none_or(|uid| uid == metadata.uid);
    let own_group = changes.gid.is_none_or(|gid| gid == metadata.gid || credentials.in_group(gid));
    if metadata.uid == credentials.uid && keeps_owner && own_group { Ok(()) } else { Err(Errno::EPERM) }
}

/// `truncate(2)` at a place.
pub fn truncate(context: &FsContext, inode: &Arc<dyn Inode>, length: u64) -> Result<()> {
    match inode.file_type() {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::EINVAL),
    }
    context.credentials.check(&inode.metadata()?, Permission::WRITE)?;
    inode.truncate(length)
}
