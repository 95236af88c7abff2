//! A node: attributes and one of the bodies, and the operations on names.

use super::super::{
    Credentials, DeviceId, File, FileType, Inode, LowerId, LowerMetadata, Metadata, NewNode, OFlags,
    RenameMode, SetAttributes, SetTime, StatFs, Timestamp,
};
use super::data::Data;
use super::directory::{Child, Directory};
use super::file::DirectoryFile;
use super::{Tmpfs, lower_ino};
use crate::errno::{Errno, Result};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering;
use spin::{Mutex, MutexGuard};

/// Preferred unit of transfer, and what a directory's size is said to be.
const BLOCK: u32 = 4096;
/// One day: `relatime` writes an access time that is older than this.
const DAY: i64 = 86_400;

/// A file, directory, symbolic link or special file of a [`Tmpfs`].
pub struct Node {
    pub(super) fs: Arc<Tmpfs>,
    pub(super) ino: u64,
    pub(super) file_type: FileType,
    rdev: DeviceId,
    me: Weak<Node>,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    btime: Timestamp,
    /// Where it was last linked.
    parent: Option<(Weak<Node>, Arc<[u8]>)>,
    /// Counts reads, to ask the clock now and then only.
    accesses: u8,
    pub(super) in_clean_list: bool,
    /// It has no name yet, and may be given one.
    linkable: bool,
    pub(super) body: Body,
}

pub(super) enum Body {
    Regular(Data),
    Directory(Directory),
    Symlink(Box<[u8]>),
    /// What it leads to is still with the lower.
    LowerSymlink(LowerId, u64),
    Special,
}

impl Node {
    /// A node without a name. ENOSPC.
    pub(super) fn new(
        fs: &Arc<Tmpfs>,
        what: NewNode<'_>,
        mode: u32,
        cred: &Credentials,
    ) -> Result<Arc<Node>> {
        fs.charge_node()?;
        let (file_type, body, rdev) = match what {
            NewNode::Regular => (FileType::Regular, Body::Regular(Data::new(0, None)), DeviceId::default()),
            NewNode::Directory => {
                (FileType::Directory, Body::Directory(Directory::new(None)), DeviceId::default())
            }
            NewNode::Symlink(target) => {
                (FileType::Symlink, Body::Symlink(target.into()), DeviceId::default())
            }
            NewNode::Special(file_type, rdev) => (file_type, Body::Special, rdev),
        };
        let now = fs.now();
        let nlink = if file_type == FileType::Directory { 2 } else { 0 };
        let ino = fs.next_ino.fetch_add(1, Ordering::Relaxed);
        let state = State {
            mode: mode & 0o7777,
            uid: cred.uid,
            gid: cred.gid,
            nlink,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            parent: None,
            accesses: 0,
            in_clean_list: false,
            linkable: false,
            body,
        };
        let fs = fs.clone();
        Ok(Arc::new_cyclic(|me| Node { fs, ino, file_type, rdev, me: me.clone(), state: Mutex::new(state) }))
    }

    /// The node for `id` of the lower.
    pub(super) fn from_lower(fs: &Arc<Tmpfs>, id: LowerId, metadata: &LowerMetadata) -> Result<Arc<Node>> {
        let body = match metadata.file_type {
            FileType::Regular => Body::Regular(Data::new(metadata.size, Some(id))),
            FileType::Directory => Body::Directory(Directory::new(Some(id))),
            FileType::Symlink => Body::LowerSymlink(id, metadata.size),
            _ => Body::Special,
        };
        let time = metadata.mtime;
        let state = State {
            mode: metadata.mode & 0o7777,
            uid: metadata.uid,
            gid: metadata.gid,
            nlink: metadata.nlink,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            parent: None,
            accesses: 0,
            in_clean_list: false,
            linkable: false,
            body,
        };
        let (fs, ino, file_type, rdev) = (fs.clone(), lower_ino(id), metadata.file_type, metadata.rdev);
        Ok(Arc::new_cyclic(|me| Node { fs, ino, file_type, rdev, me: me.clone(), state: Mutex::new(state) }))
    }

    /// See [`Tmpfs::reclaim`].
    pub(super) fn drop_clean(&self, wanted: usize) -> (usize, bool) {
        let Some(mut state) = self.state.try_lock() else { return (0, true) };
        let (freed, more) = match &mut state.body {
            Body::Regular(data) => data.drop_clean(wanted),
            _ => (0, false),
        };
        state.in_clean_list = more;
        (freed, more)
    }

    pub(super) fn weak(&self) -> Weak<Node> {
        self.me.clone()
    }

    /// The state of a directory. ENOTDIR.
    fn directory(&self) -> Result<MutexGuard<'_, State>> {
        if self.file_type == FileType::Directory { Ok(self.state.lock()) } else { Err(Errno::ENOTDIR) }
    }

    /// The child `name`, brought into memory. ENOENT.
    pub(super) fn child(&self, name: &[u8]) -> Result<Arc<Node>> {
        let id = {
            let state = self.directory()?;
            let directory = state.entries()?;
            match directory.get(name) {
                Some(Child::Node(node)) => return Ok(node.clone()),
                Some(Child::Lower(id, _)) => Ok(*id),
                Some(Child::Whiteout) => return Err(Errno::ENOENT),
                None if directory.listed => return Err(Errno::ENOENT),
                None => Err(directory.lower.ok_or(Errno::ENOENT)?),
            }
        };
        let id = match id {
            Ok(id) => id,
            Err(below) => self.fs.lower()?.lookup(below, name)?.ok_or(Errno::ENOENT)?,
        };
        let node = self.fs.lower_node(id)?;
        let mut state = self.directory()?;
        let directory = state.entries_mut()?;
        match directory.get(name) {
            // Somebody else was faster.
            Some(Child::Node(other)) => return Ok(other.clone()),
            Some(Child::Whiteout) => return Err(Errno::ENOENT),
            _ => {}
        }
        directory.set(name, Child::Node(node.clone()));
        drop(state);
        node.state.lock().parent = Some((self.me.clone(), name.into()));
        Ok(node)
    }

    /// Brings all names of the lower into this directory.
    pub(super) fn list(&self) -> Result<()> {
        let id = match self.directory()?.entries()? {
            Directory { listed: true, .. } => return Ok(()),
            Directory { lower, .. } => *lower,
        };
        let mut names: Vec<(Arc<[u8]>, Child)> = Vec::new();
        if let Some(id) = id {
            self.fs.lower()?.readdir(id, &mut |entry| {
                names.push((entry.name.into(), Child::Lower(entry.id, entry.file_type)));
            })?;
        }
        let mut state = self.directory()?;
        let directory = state.entries_mut()?;
        for (name, child) in names {
            if directory.get(&name).is_none() {
                directory.set(&name, child);
            }
        }
        directory.listed = true;
        Ok(())
    }

    /// Whether the directory has no names.
    fn is_empty(&self) -> Result<bool> {
        self.list()?;
        Ok(self.directory()?.entries()?.is_empty())
    }

    fn touch(&self, state: &mut State) {
        let now = self.fs.now();
        state.mtime = now;
        state.ctime = now;
    }

    /// Notes an access, as mounts with `relatime` do (`mount(8)`). The clock is not asked every time whether a day is over.
    pub(super) fn accessed(&self, state: &mut State) {
        state.accesses = state.accesses.wrapping_add(1);
        let older = state.atime <= state.mtime || state.atime <= state.ctime;
        if older {
            state.atime = self.fs.now();
        } else if state.accesses == 0 {
            let now = self.fs.now();
            if now.sec.saturating_sub(state.atime.sec) >= DAY {
                state.atime = now;
            }
        }
    }

    /// Gives `node` the name `name` here, where none is. ENOENT when this directory was removed.
    fn attach(&self, name: &[u8], node: &Arc<Node>) -> Result<()> {
        let mut state = self.directory()?;
        let directory = state.entries_mut()?;
        if directory.dead {
            return Err(Errno::ENOENT);
        }
        if directory.visible(name).is_some() {
            return Err(Errno::EEXIST);
        }
        directory.set(name, Child::Node(node.clone()));
        self.touch(&mut state);
        // An image may have said anything.
        state.nlink = state.nlink.saturating_add(u32::from(node.file_type == FileType::Directory));
        drop(state);
        node.state.lock().parent = Some((self.me.clone(), name.into()));
        Ok(())
    }

    /// Takes the name `name` of `node` away.
    fn detach(&self, name: &[u8], node: &Arc<Node>) -> Result<()> {
        let mut state = self.directory()?;
        state.entries_mut()?.remove(name);
        self.touch(&mut state);
        state.nlink = state.nlink.saturating_sub(u32::from(node.file_type == FileType::Directory));
        Ok(())
    }

    /// After its last name (of a directory), or one of its names, was taken away.
    fn unlinked(&self) {
        let mut state = self.state.lock();
        state.ctime = self.fs.now();
        if let Body::Directory(directory) = &mut state.body {
            directory.dead = true;
            state.nlink = 0;
        } else {
            state.nlink = state.nlink.saturating_sub(1);
        }
    }

    /// Whether `self` is `other` or lies below it.
    fn is_below(&self, other: &Node) -> bool {
        let mut at = self.me.upgrade();
        while let Some(node) = at {
            if core::ptr::eq(&*node, other) {
                return true;
            }
            at = node.state.lock().parent.as_ref().and_then(|(parent, _)| parent.upgrade());
        }
        false
    }

    fn same_fs<'a>(&self, other: &'a Arc<dyn Inode>) -> Result<&'a Node> {
        let other: &dyn Any = &**other;
        other.downcast_ref::<Node>().filter(|node| Arc::ptr_eq(&node.fs, &self.fs)).ok_or(Errno::EXDEV)
    }

    fn exchange(
        &self,
        name: &[u8],
        a: Arc<Node>,
        new_dir: &Node,
        new_name: &[u8],
        b: Arc<Node>,
    ) -> Result<()> {
        if new_dir.is_below(&a) || self.is_below(&b) {
            return Err(Errno::EINVAL);
        }
        self.detach(name, &a)?;
        new_dir.detach(new_name, &b)?;
        self.attach(name, &b)?;
        new_dir.attach(new_name, &a)?;
        for node in [a, b] {
            node.state.lock().ctime = self.fs.now();
        }
        Ok(())
    }
}

impl State {
    pub(super) fn entries(&self) -> Result<&Directory> {
        if let Body::Directory(directory) = &self.body { Ok(directory) } else { Err(Errno::ENOTDIR) }
    }

    pub(super) fn entries_mut(&mut self) -> Result<&mut Directory> {
        if let Body::Directory(directory) = &mut self.body { Ok(directory) } else { Err(Errno::ENOTDIR) }
    }

    /// Contents of a regular file. EINVAL for anything else.
    pub(super) fn data(&mut self) -> Result<&mut Data> {
        if let Body::Regular(data) = &mut self.body { Ok(data) } else { Err(Errno::EINVAL) }
    }

    /// A write by others than the owner takes set-user-id and set-group-id away.
    pub(super) fn written(&mut self, now: Timestamp) {
        self.mtime = now;
        self.ctime = now;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if let Body::Regular(data) = &state.body {
            self.fs.uncharge(data.own);
        }
        if self.ino >= super::OWN_INO {
            self.fs.nodes.fetch_sub(1, Ordering::Relaxed);
        }
        // A deep tree is taken apart here, not on the stack.
        let mut pending: Vec<Arc<Node>> = Vec::new();
        take_children(&mut state.body, &mut pending);
        while let Some(node) = pending.pop() {
            if Arc::strong_count(&node) == 1 {
                take_children(&mut node.state.lock().body, &mut pending);
            }
        }
    }
}

fn take_children(body: &mut Body, into: &mut Vec<Arc<Node>>) {
    if let Body::Directory(directory) = body {
        let old = core::mem::replace(directory, Directory::new(None));
        into.extend(old.entries(0).filter_map(|(_, _, child)| match child {
            Child::Node(node) => Some(node.clone()),
            _ => None,
        }));
    }
}

impl Inode for Node {
    fn metadata(&self) -> Result<Metadata> {
        let state = self.state.lock();
        let (size, blocks) = match &state.body {
            Body::Regular(data) => (data.size, data.blocks()),
            // One of the image takes a block, as on the disk that it stands for; a new one is in memory only.
            Body::Directory(directory) => (BLOCK.into(), if directory.lower.is_some() { 8 } else { 0 }),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::LowerSymlink(_, size) => (*size, 0),
            Body::Special => (0, 0),
        };
        Ok(Metadata {
            dev: self.fs.dev,
            ino: self.ino,
            file_type: self.file_type,
            mode: state.mode,
            nlink: state.nlink,
            uid: state.uid,
            gid: state.gid,
            rdev: self.rdev,
            size,
            block_size: BLOCK,
            blocks,
            atime: state.atime,
            mtime: state.mtime,
            ctime: state.ctime,
            btime: state.btime,
        })
    }

    fn file_type(&self) -> FileType {
        self.file_type
    }

    fn set_attributes(&self, changes: &SetAttributes) -> Result<()> {
        let now = self.fs.now();
        let time = |change| match change {
            SetTime::Now => now,
            SetTime::To(time) => time,
        };
        let mut state = self.state.lock();
        if let Some(mode) = changes.mode {
            state.mode = mode & 0o7777;
        }
        state.uid = changes.uid.unwrap_or(state.uid);
        state.gid = changes.gid.unwrap_or(state.gid);
        state.atime = changes.atime.map_or(state.atime, time);
        state.mtime = changes.mtime.map_or(state.mtime, time);
        state.ctime = now;
        Ok(())
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        Ok(self.child(name)?)
    }

    fn create(
        &self,
        name: &[u8],
        what: NewNode<'_>,
        mode: u32,
        cred: &Credentials,
    ) -> Result<Arc<dyn Inode>> {
        match self.child(name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let node = Node::new(&self.fs, what, mode, cred)?;
        {
            // A set-group-id directory hands its group down.
            let (parent_mode, parent_gid) = self.state.lock().owner();
            let mut state = node.state.lock();
            if parent_mode & 0o2000 != 0 {
                state.gid = parent_gid;
                state.mode |= if node.file_type == FileType::Directory { 0o2000 } else { 0 };
            }
            if node.file_type != FileType::Directory {
                state.nlink = 1;
            }
        }
        let _names = self.fs.namespace.lock();
        self.attach(name, &node)?;
        Ok(node)
    }

    fn create_unnamed(&self, mode: u32, cred: &Credentials, linkable: bool) -> Result<Arc<dyn Inode>> {
        let node = Node::new(&self.fs, NewNode::Regular, mode, cred)?;
        node.state.lock().linkable = linkable;
        Ok(node)
    }

    fn link(&self, name: &[u8], node: &Arc<dyn Inode>) -> Result<()> {
        let node = self.same_fs(node)?.me.upgrade().ok_or(Errno::ENOENT)?;
        if node.file_type == FileType::Directory {
            return Err(Errno::EPERM);
        }
        match self.child(name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let _names = self.fs.namespace.lock();
        let nlink = match &*node.state.lock() {
            State { nlink: 0, linkable: false, .. } => return Err(Errno::ENOENT),
            State { nlink, .. } => nlink.checked_add(1).ok_or(Errno::EMLINK)?,
        };
        self.attach(name, &node)?;
        let mut state = node.state.lock();
        state.nlink = nlink;
        state.linkable = false;
        state.ctime = self.fs.now();
        Ok(())
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        let node = self.child(name)?;
        if node.file_type == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        let _names = self.fs.namespace.lock();
        self.still(name, &node)?;
        self.detach(name, &node)?;
        node.unlinked();
        Ok(())
    }

    fn rmdir(&self, name: &[u8]) -> Result<()> {
        let node = self.child(name)?;
        if !node.is_empty()? {
            return Err(Errno::ENOTEMPTY);
        }
        let _names = self.fs.namespace.lock();
        self.still(name, &node)?;
        if !node.directory()?.entries()?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.detach(name, &node)?;
        node.unlinked();
        Ok(())
    }

    fn rename(&self, name: &[u8], new_dir: &Arc<dyn Inode>, new_name: &[u8], mode: RenameMode) -> Result<()> {
        let new_dir = self.same_fs(new_dir)?;
        let node = self.child(name)?;
        let target = match new_dir.child(new_name) {
            Ok(target) => Some(target),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        if let Some(target) = &target
            && target.file_type == FileType::Directory
        {
            target.list()?;
        }
        let _names = self.fs.namespace.lock();
        self.still(name, &node)?;
        if let Some(target) = &target {
            new_dir.still(new_name, target)?;
        }
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (RenameMode::Exchange, None) => return Err(Errno::ENOENT),
            (RenameMode::Exchange, Some(target)) => {
                return if Arc::ptr_eq(&node, &target) {
                    Ok(())
                } else {
                    self.exchange(name, node, new_dir, new_name, target)
                };
            }
            (_, target) => {
                let is_directory = node.file_type == FileType::Directory;
                if is_directory && new_dir.is_below(&node) {
                    return Err(Errno::EINVAL);
                }
                if let Some(target) = target {
                    if Arc::ptr_eq(&node, &target) {
                        return Ok(());
                    }
                    match (is_directory, target.file_type == FileType::Directory) {
                        (true, false) => return Err(Errno::ENOTDIR),
                        (false, true) => return Err(Errno::EISDIR),
                        (true, true) if !target.directory()?.entries()?.is_empty() => {
                            return Err(Errno::ENOTEMPTY);
                        }
                        _ => {}
                    }
                    new_dir.detach(new_name, &target)?;
                    target.unlinked();
                }
                if new_dir.directory()?.entries()?.dead {
                    return Err(Errno::ENOENT);
                }
                self.detach(name, &node)?;
                new_dir.attach(new_name, &node)?;
                node.state.lock().ctime = self.fs.now();
            }
        }
        Ok(())
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        let id = match &self.state.lock().body {
            Body::Symlink(target) => return Ok(target.to_vec()),
            Body::LowerSymlink(id, _) => *id,
            _ => return Err(Errno::EINVAL),
        };
        let target = self.fs.lower()?.readlink(id)?;
        self.state.lock().body = Body::Symlink(target.as_slice().into());
        Ok(target)
    }

    fn parent(&self) -> Option<(Arc<dyn Inode>, Vec<u8>)> {
        let state = self.state.lock();
        let (parent, name) = state.parent.as_ref()?;
        Some((parent.upgrade()?, name.to_vec()))
    }

    fn open(self: Arc<Self>, flags: OFlags) -> Result<Arc<dyn File>> {
        match self.file_type {
            FileType::Regular => Ok(self),
            FileType::Directory => Ok(Arc::new(DirectoryFile { node: self })),
            FileType::Symlink => Err(Errno::ELOOP),
            FileType::CharDevice => {
                let drivers = self.fs.drivers.clone().ok_or(Errno::EACCES)?;
                let rdev = self.rdev;
                drivers.open(self, rdev, flags)
            }
            // FIXME: FIFOs with names can be made but not opened; they need an end that waits for the other in open.
            _ => Err(Errno::ENXIO),
        }
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.set_size(length)
    }

    fn statfs(&self) -> StatFs {
        self.fs.statfs()
    }
}

impl State {
    fn owner(&self) -> (u32, u32) {
        (self.mode, self.gid)
    }
}

impl Node {
    /// ENOENT unless `name` still stands for `node`.
    fn still(&self, name: &[u8], node: &Arc<Node>) -> Result<()> {
        match self.directory()?.entries()?.get(name) {
            Some(Child::Node(found)) if Arc::ptr_eq(found, node) => Ok(()),
            _ => Err(Errno::ENOENT),
        }
    }
}
