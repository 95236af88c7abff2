//! Path resolution (`path_resolution(7)`, `openat2(2)` for the `RESOLVE_*` flags).
//!
//! A component costs one look-up in its directory and no allocation; only symbolic links build a new path.

use super::{
    FileType, FsContext, LinkTarget, Location, Mount, NAME_MAX, Permission, ResolveFlags, mount::same,
};
use crate::errno::{Errno, Result};
use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Most symbolic links followed in one resolution.
const MAX_LINKS: u32 = 40;

/// The last component of a path, not looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    /// A name, and whether slashes came behind it.
    Name(Vec<u8>, bool),
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// None: the path was all slashes.
    Root,
}

enum Step {
    Found,
    Parent(Last),
    Link(Vec<u8>),
}

/// One resolution: where it is, and what it may still do.
pub struct Walk<'a> {
    context: &'a FsContext,
    root: Location,
    flags: ResolveFlags,
    links: u32,
}

impl<'a> Walk<'a> {
    /// A resolution as `context` sees the tree; with `BENEATH` or `IN_ROOT`, confined to `base`.
    pub fn new(context: &'a FsContext, base: &Location, flags: ResolveFlags) -> Walk<'a> {
        let confined = flags.intersects(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT);
        let root = if confined { base } else { &context.root }.clone();
        Walk { context, root, flags, links: 0 }
    }

    /// The place that `path` names, starting at `base` unless it is absolute; `follow`: a last component that is a
    /// symbolic link leads on.
    pub fn resolve(&mut self, base: &Location, path: &[u8], follow: bool) -> Result<Location> {
        let mut at = base.clone();
        self.walk(&mut at, path, false, follow)?;
        at.mount.prepare(&at.inode, None)?;
        Ok(at)
    }

    /// The directory in which the last component of `path` is, and that component.
    pub fn resolve_parent(&mut self, base: &Location, path: &[u8]) -> Result<(Location, Last)> {
        let mut at = base.clone();
        let last = self.walk(&mut at, path, true, false)?.unwrap_or(Last::Root);
        at.mount.prepare(&at.inode, None)?;
        Ok((at, last))
    }

    /// Counts a link that the caller follows itself. ELOOP.
    pub fn count_link(&mut self) -> Result<()> {
        self.links += 1;
        let refused = self.links > MAX_LINKS || self.flags.contains(ResolveFlags::NO_SYMLINKS);
        if refused { Err(Errno::ELOOP) } else { Ok(()) }
    }

    fn walk(&mut self, at: &mut Location, path: &[u8], parent: bool, follow: bool) -> Result<Option<Last>> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let mut path = Cow::Borrowed(path);
        loop {
            match self.walk_plain(at, &path, parent, follow)? {
                Step::Found => return Ok(None),
                Step::Parent(last) => return Ok(Some(last)),
                Step::Link(rest) => path = Cow::Owned(rest),
            }
        }
    }

    /// Walks until the end or until a symbolic link gives a new path.
    fn walk_plain(&mut self, at: &mut Location, path: &[u8], parent: bool, follow: bool) -> Result<Step> {
        let mut rest = path;
        if rest.first() == Some(&b'/') {
            if self.flags.contains(ResolveFlags::BENEATH) {
                return Err(Errno::EXDEV);
            }
            self.crossing(at, &self.root)?;
            *at = self.root.clone();
        }
        let mut seen = false;
        loop {
            let start = rest.iter().position(|byte| *byte != b'/').unwrap_or(rest.len());
            rest = rest.get(start..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(if parent && !seen { Step::Parent(Last::Root) } else { Step::Found });
            }
            let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            rest = after;
            seen = true;
            let last = after.iter().all(|byte| *byte == b'/');
            let slashes = last && !after.is_empty();
            self.search(at)?;
            match name {
                b"." if last && parent => return Ok(Step::Parent(Last::Dot)),
                b".." if last && parent => return Ok(Step::Parent(Last::DotDot)),
                b"." => continue,
                b".." => {
                    self.up(at)?;
                    continue;
                }
                _ if name.len() > NAME_MAX => return Err(Errno::ENAMETOOLONG),
                _ if last && parent => return Ok(Step::Parent(Last::Name(name.to_vec(), slashes))),
                _ => {}
            }
            at.mount.prepare(&at.inode, Some(name))?;
            let child = at.inode.lookup(name)?;
            match child.file_type() {
                FileType::Symlink if !last || follow || slashes => {
                    self.count_link()?;
                    match child.follow()? {
                        LinkTarget::Path(mut target) => {
                            if target.is_empty() {
                                return Err(Errno::ENOENT);
                            }
                            target.extend_from_slice(after);
                            return Ok(Step::Link(target));
                        }
                        LinkTarget::Jump(place) => {
                            if self.flags.intersects(
                                ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH | ResolveFlags::IN_ROOT,
                            ) {
                                return Err(Errno::ELOOP);
                            }
                            self.crossing(at, &place)?;
                            *at = place;
                        }
                    }
                }
                FileType::Directory => {
                    at.inode = child;
                    self.down(at)?;
                }
                _ => at.inode = child,
            }
            if slashes && at.inode.file_type() != FileType::Directory {
                return Err(Errno::ENOTDIR);
            }
        }
    }

    /// ENOTDIR or EACCES unless `at` is a directory that may be searched.
    fn search(&self, at: &Location) -> Result<()> {
        if at.inode.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let credentials = &self.context.credentials;
        if credentials.privileged() {
            return Ok(());
        }
        credentials.check(&at.inode.metadata()?, Permission::EXEC)
    }

    /// Onto what is mounted over `at`.
    fn down(&self, at: &mut Location) -> Result<()> {
        while let Some(mount) = at.mount.child_over(&at.inode) {
            if self.flags.contains(ResolveFlags::NO_XDEV) {
                return Err(Errno::EXDEV);
            }
            at.inode = mount.root.clone();
            at.mount = mount;
        }
        Ok(())
    }

    /// `..`: never above the root.
    fn up(&self, at: &mut Location) -> Result<()> {
        loop {
            if at.is(&self.root) {
                let beneath = self.flags.contains(ResolveFlags::BENEATH);
                return if beneath { Err(Errno::EXDEV) } else { Ok(()) };
            }
            if !same(&at.inode, &at.mount.root) {
                at.inode = at.inode.parent().ok_or(Errno::ENOENT)?.0;
                return self.down(at);
            }
            match at.mount.over() {
                Some(over) => {
                    self.crossing(at, &over)?;
                    *at = over;
                }
                None => return Ok(()),
            }
        }
    }

    fn crossing(&self, from: &Location, to: &Location) -> Result<()> {
        let crosses =
            self.flags.contains(ResolveFlags::NO_XDEV) && !Arc::<Mount>::ptr_eq(&from.mount, &to.mount);
        if crosses { Err(Errno::EXDEV) } else { Ok(()) }
    }

    /// The child `name` of `at`, with what is mounted over it.
    pub fn child(&self, at: &Location, name: &[u8]) -> Result<Location> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut found = Location { mount: at.mount.clone(), inode: at.inode.lookup(name)? };
        if found.inode.file_type() == FileType::Directory {
            self.down(&mut found)?;
        }
        Ok(found)
    }
}
