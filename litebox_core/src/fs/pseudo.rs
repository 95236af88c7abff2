//! File systems whose contents are made when they are looked at: /proc and /sys. A node exists as long as somebody holds it;
//! its inode number is a hash of its path, so that it stays the same.

use super::{
    DeviceId, DirEntry, DirSink, File, FileType, Host, Inode, LinkTarget, Location, Metadata, MountTable,
    OFlags, StatFs, Timestamp,
};
use crate::errno::{Errno, Result};
use crate::mm::{Sink, Source};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use spin::Mutex;

/// A directory whose entries are computed.
pub trait PseudoDir: Send + Sync {
    /// The entry `name`.
    fn lookup(&self, name: &[u8]) -> Option<Pseudo>;
    /// All entries; those that come and go may be missing by the time they are looked up.
    fn list(&self) -> Vec<(Vec<u8>, FileType)>;
}

/// Makes the contents of a file.
pub type Generate = Box<dyn Fn() -> Result<Vec<u8>> + Send + Sync>;
/// Takes what is written.
pub type Store = Box<dyn Fn(&[u8]) -> Result<()> + Send + Sync>;

/// What an entry is.
pub enum Pseudo {
    /// A directory.
    Dir(Arc<dyn PseudoDir>),
    /// A file that is read, and perhaps written.
    File(Generate, Option<Store>),
    /// A symbolic link by text.
    Link(Vec<u8>),
    /// A link to a place that need not have a path (`/proc/self/fd/3`).
    Magic(Box<dyn Fn() -> Option<Location> + Send + Sync>, Vec<u8>),
    /// A link to an open file description that has no place: opening it opens that file again.
    Open(Arc<dyn File>, Vec<u8>),
}

/// What the nodes of one such file system share.
#[derive(Clone, Copy)]
struct Super {
    host: &'static dyn Host,
    dev: DeviceId,
    magic: u64,
}

struct PseudoInode {
    super_: Super,
    ino: u64,
    node: Pseudo,
    parent: Option<(Arc<PseudoInode>, Vec<u8>)>,
    me: alloc::sync::Weak<PseudoInode>,
    time: Timestamp,
}

/// The root of a file system; `magic` is what `statfs` calls it.
pub fn root(host: &'static dyn Host, dev: DeviceId, magic: u64, dir: Arc<dyn PseudoDir>) -> Arc<dyn Inode> {
    let super_ = Super { host, dev, magic };
    PseudoInode::new(super_, 1, Pseudo::Dir(dir), None)
}

/// FNV-1a over the parent's number and the name; never 0 or 1.
fn hash(parent: u64, name: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let start = parent.to_ne_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
    (name.iter().fold(start, step) >> 16) | 2
}

impl PseudoInode {
    fn new(
        super_: Super,
        ino: u64,
        node: Pseudo,
        parent: Option<(Arc<PseudoInode>, Vec<u8>)>,
    ) -> Arc<PseudoInode> {
        let time = Timestamp::from_ns(super_.host.realtime());
        Arc::new_cyclic(|me| PseudoInode { super_, ino, node, parent, me: me.clone(), time })
    }
}

impl Inode for PseudoInode {
    fn metadata(&self) -> Result<Metadata> {
        let (mode, nlink) = match &self.node {
            Pseudo::Dir(_) => (0o555, 2),
            Pseudo::File(_, None) => (0o444, 1),
            Pseudo::File(_, Some(_)) => (0o644, 1),
            _ => (0o777, 1),
        };
        Ok(Metadata {
            dev: self.super_.dev,
            ino: self.ino,
            file_type: self.file_type(),
            mode,
            nlink,
            uid: 0,
            gid: 0,
            rdev: DeviceId::default(),
            size: 0,
            block_size: 1024,
            blocks: 0,
            atime: self.time,
            mtime: self.time,
            ctime: self.time,
            btime: self.time,
        })
    }

    fn file_type(&self) -> FileType {
        match self.node {
            Pseudo::Dir(_) => FileType::Directory,
            Pseudo::File(..) => FileType::Regular,
            Pseudo::Link(_) | Pseudo::Magic(..) | Pseudo::Open(..) => FileType::Symlink,
        }
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let Pseudo::Dir(dir) = &self.node else { return Err(Errno::ENOTDIR) };
        let node = dir.lookup(name).ok_or(Errno::ENOENT)?;
        let me = self.me.upgrade().ok_or(Errno::ENOENT)?;
        Ok(PseudoInode::new(self.super_, hash(self.ino, name), node, Some((me, name.to_vec()))))
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        match &self.node {
            Pseudo::Link(text) | Pseudo::Magic(_, text) | Pseudo::Open(_, text) => Ok(text.clone()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn follow(&self) -> Result<LinkTarget> {
        match &self.node {
            Pseudo::Magic(place, _) => Ok(LinkTarget::Jump(place().ok_or(Errno::ENOENT)?)),
            Pseudo::Open(file, _) => {
                let inode: Arc<dyn Inode> = Arc::new(Reopened { file: file.clone(), statfs: self.statfs() });
                Ok(LinkTarget::Jump(MountTable::new(inode, "anon", "rw", None).root()))
            }
            _ => self.readlink().map(LinkTarget::Path),
        }
    }

    fn parent(&self) -> Option<(Arc<dyn Inode>, Vec<u8>)> {
        let (parent, name) = self.parent.as_ref()?;
        Some((parent.clone(), name.clone()))
    }

    fn open(self: Arc<Self>, _flags: OFlags) -> Result<Arc<dyn File>> {
        match self.node {
            Pseudo::Dir(_) => Ok(Arc::new(DirFile { inode: self })),
            Pseudo::File(..) => Ok(Arc::new(TextFile { inode: self, text: Mutex::new(None) })),
            _ => Err(Errno::ELOOP),
        }
    }

    fn truncate(&self, _length: u64) -> Result<()> {
        if matches!(self.node, Pseudo::File(_, Some(_))) { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn statfs(&self) -> StatFs {
        StatFs { magic: self.super_.magic, block_size: 4096, ..StatFs::default() }
    }
}

/// An open file without a place, where a link of /proc leads: a mount of its own, of which it is the root.
struct Reopened {
    file: Arc<dyn File>,
    statfs: StatFs,
}

impl Inode for Reopened {
    fn metadata(&self) -> Result<Metadata> {
        self.file.metadata()
    }
    fn file_type(&self) -> FileType {
        self.file.metadata().map_or(FileType::Regular, |metadata| metadata.file_type)
    }
    fn open(self: Arc<Self>, _flags: OFlags) -> Result<Arc<dyn File>> {
        Ok(self.file.clone())
    }
    fn truncate(&self, length: u64) -> Result<()> {
        self.file.truncate(length)
    }
    fn statfs(&self) -> StatFs {
        self.statfs
    }
}

/// Contents as they were when reading began.
struct TextFile {
    inode: Arc<PseudoInode>,
    text: Mutex<Option<Arc<Vec<u8>>>>,
}

impl File for TextFile {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, to: &mut dyn Sink) -> Result<usize> {
        let Pseudo::File(generate, _) = &self.inode.node else { return Err(Errno::EINVAL) };
        let kept = if offset == 0 { None } else { self.text.lock().clone() };
        let text = match kept {
            Some(text) => text,
            None => {
                let text = Arc::new(generate()?);
                *self.text.lock() = Some(text.clone());
                text
            }
        };
        let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..)).unwrap_or_default();
        let count = rest.len().min(to.remaining());
        if count == 0 { Ok(0) } else { to.put(rest.get(..count).unwrap_or_default()) }
    }

    fn write_at(&self, _offset: u64, from: &mut dyn Source) -> Result<usize> {
        let Pseudo::File(_, Some(store)) = &self.inode.node else { return Err(Errno::EACCES) };
        let mut bytes = vec![0; from.remaining().min(4096)];
        let count = from.take(&mut bytes)?;
        store(bytes.get(..count).unwrap_or_default())?;
        Ok(count)
    }

    fn metadata(&self) -> Result<Metadata> {
        self.inode.metadata()
    }
}

struct DirFile {
    inode: Arc<PseudoInode>,
}

impl File for DirFile {
    fn seekable(&self) -> bool {
        true
    }

    fn metadata(&self) -> Result<Metadata> {
        self.inode.metadata()
    }

    fn read_at(&self, _offset: u64, _to: &mut dyn Sink) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn readdir(&self, position: u64, to: &mut DirSink<'_>) -> Result<u64> {
        let Pseudo::Dir(dir) = &self.inode.node else { return Err(Errno::ENOTDIR) };
        let up = self.inode.parent.as_ref().map_or(self.inode.ino, |(parent, _)| parent.ino);
        let dots = [(b".".to_vec(), FileType::Directory), (b"..".to_vec(), FileType::Directory)];
        let mut reached = position;
        for (index, (name, file_type)) in
            dots.into_iter().chain(dir.list()).enumerate().skip(position as usize)
        {
            let ino = match index {
                0 => self.inode.ino,
                1 => up,
                _ => hash(self.inode.ino, &name),
            };
            let next = index as u64 + 1;
            if !to(DirEntry { ino, next, file_type, name: &name }) {
                break;
            }
            reached = next;
        }
        Ok(reached)
    }
}
