//! The virtual file system: inodes, open files, paths, mounts, and the file systems themselves.
//!
//! It knows no process: who acts arrives as [`Credentials`], where as [`FsContext`], data as a [`Source`] or [`Sink`].
//! Nothing here blocks: a stream that has nothing says EAGAIN, and the caller waits on [`File::wait_queue`]. No lock is held
//! over a copy to or from the workload's memory, since that may fault into the very file that is copied.
//! Names and paths are bytes. Sources: `path_resolution(7)`, `inode(7)`, POSIX.1-2024 and the pages of the calls.

pub mod console;
mod context;
pub mod devfs;
pub mod erofs;
pub mod erofs_layout;
mod flags;
mod lower;
mod metadata;
mod mount;
pub mod namespace;
mod open;
pub mod ops;
pub mod path;
mod pipe;
pub mod procfs;
pub mod pseudo;
pub mod sysfs;
#[cfg(test)]
pub(crate) mod testing;
pub mod tmpfs;
pub mod verity;

pub use context::{Credentials, FsContext};
pub use flags::{OFlags, Permission, PollEvents, ResolveFlags};
pub use lower::{Lower, LowerEntry, LowerId, LowerMetadata};
pub use metadata::{DeviceId, FileType, Metadata, SetAttributes, SetTime, StatFs, Timestamp};
pub use mount::{Automount, Location, Mount, MountTable, same};
pub use open::{OpenFile, Whence};
pub use pipe::pipe;

use crate::errno::{Errno, Result};
use crate::event::WaitQueue;
use crate::mm::{Mappable, Sink, Source};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

/// Longest name of one directory entry, in bytes (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Longest path, with its NUL (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;

/// Receives directory entries; returns `false` when it has no room for this one (it comes first next time).
pub type DirSink<'a> = dyn FnMut(DirEntry<'_>) -> bool + 'a;

/// One directory entry.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Inode number (`st_ino`).
    pub ino: u64,
    /// The position after this entry, to continue from (`d_off`).
    pub next: u64,
    /// What it is.
    pub file_type: FileType,
    /// Its name.
    pub name: &'a [u8],
}

/// What a new directory entry is to be (`mknod(2)`, `mkdir(2)`, `symlink(2)`).
#[derive(Clone, Copy, Debug)]
pub enum NewNode<'a> {
    /// An empty regular file.
    Regular,
    /// An empty directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(&'a [u8]),
    /// A FIFO, a socket's name or a device node.
    Special(FileType, DeviceId),
}

/// What a symbolic link leads to.
pub enum LinkTarget {
    /// A path to go on with.
    Path(Vec<u8>),
    /// The place itself (`/proc/self/fd/N`, `exe`, `cwd`, `root`); the path is for `readlink` only.
    Jump(Location),
}

/// How `rename` treats an existing target (`renameat2(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// EEXIST.
    NoReplace,
    /// Both must exist and change places.
    Exchange,
}

/// An object of a file system, whatever it is called. Permission was checked by whoever calls; kinds were not.
#[allow(unused_variables)]
pub trait Inode: Any + Send + Sync {
    /// What `stat` says.
    fn metadata(&self) -> Result<Metadata>;

    /// What it is; cheaper than `metadata`.
    fn file_type(&self) -> FileType;

    /// Changes owner, mode or times. EPERM where that has no meaning.
    fn set_attributes(&self, changes: &SetAttributes) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// The child `name`, which is neither `.` nor `..` nor empty. ENOENT, ENOTDIR.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        Err(Errno::ENOTDIR)
    }

    /// Makes a child that does not exist (EEXIST), owned by `cred` and with `mode` (permission bits, umask applied).
    fn create(
        &self,
        name: &[u8],
        what: NewNode<'_>,
        mode: u32,
        cred: &Credentials,
    ) -> Result<Arc<dyn Inode>> {
        Err(Errno::EPERM)
    }

    /// A regular file of this file system without a name (`O_TMPFILE`); `linkable`: it may be given one.
    fn create_unnamed(&self, mode: u32, cred: &Credentials, linkable: bool) -> Result<Arc<dyn Inode>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives `node`, which must be of this file system (EXDEV) and no directory (EPERM), one more name. ENOENT when it has lost its last one.
    fn link(&self, name: &[u8], node: &Arc<dyn Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes a name of something that is no directory (EISDIR).
    fn unlink(&self, name: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes an empty directory (ENOTDIR, ENOTEMPTY).
    fn rmdir(&self, name: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Moves `name` to `new_name` in `new_dir`, a directory of the same mount.
    fn rename(&self, name: &[u8], new_dir: &Arc<dyn Inode>, new_name: &[u8], mode: RenameMode) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// The text of a symbolic link. EINVAL for anything else.
    fn readlink(&self) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }

    /// Where a symbolic link leads when it is followed; differs from `readlink` for the links of /proc.
    fn follow(&self) -> Result<LinkTarget> {
        self.readlink().map(LinkTarget::Path)
    }

    /// The directory and name by which it was last linked; `None` for a root and for what has no name any more.
    fn parent(&self) -> Option<(Arc<dyn Inode>, Vec<u8>)> {
        None
    }

    /// Opens it. `flags` has been checked against kind and permissions.
    fn open(self: Arc<Self>, flags: OFlags) -> Result<Arc<dyn File>>;

    /// Sets the length of a regular file. EISDIR, EINVAL.
    fn truncate(&self, length: u64) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// What `statfs` says of its file system.
    fn statfs(&self) -> StatFs;
}

/// What an open file description reads, writes and waits on. Offsets of `u64::MAX` and beyond never arrive.
#[allow(unused_variables)]
pub trait File: Any + Send + Sync {
    /// Whether it has positions: if so `offset` means something, `lseek` works, and reads never say EAGAIN.
    fn seekable(&self) -> bool {
        false
    }

    /// Reads into `to` as much as there is, and returns how much; 0 is end of file. EAGAIN: nothing yet.
    fn read_at(&self, offset: u64, to: &mut dyn Sink) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes from `from` and returns how much. EAGAIN: no room yet.
    fn write_at(&self, offset: u64, from: &mut dyn Source) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes at the end, atomically (`O_APPEND`); returns how much and the position after it.
    fn append(&self, from: &mut dyn Source) -> Result<(usize, u64)> {
        self.write_at(0, from).map(|count| (count, 0))
    }

    /// What `fstat` says, when it is not [`OpenFile::location`]'s inode that says it (pipes, sockets).
    fn metadata(&self) -> Result<Metadata>;

    /// The end for `SEEK_END`.
    fn end(&self) -> Result<u64> {
        self.metadata().map(|metadata| metadata.size)
    }

    /// The next data (or hole) at or after `offset`; ENXIO beyond the end (`SEEK_DATA`, `SEEK_HOLE`).
    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        let end = self.end()?;
        if offset >= end {
            return Err(Errno::ENXIO);
        }
        Ok(if hole { end } else { offset })
    }

    /// Passes directory entries from `position` on to `to` and returns the position reached. ENOTDIR.
    fn readdir(&self, position: u64, to: &mut DirSink<'_>) -> Result<u64> {
        Err(Errno::ENOTDIR)
    }

    /// What it is ready for.
    fn poll(&self) -> PollEvents {
        PollEvents::IN | PollEvents::OUT | PollEvents::RDNORM | PollEvents::WRNORM
    }

    /// What is woken when `poll` may have changed; `None`: it never changes.
    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// A device's own command: `argument` is the third argument of `ioctl`, `user` reaches the memory it may point to.
    fn ioctl(&self, command: u32, argument: usize, user: &mut dyn IoctlMemory) -> Result<usize> {
        Err(Errno::ENOTTY)
    }

    /// How many bytes a pipe holds, which `wanted` changes first. EBADF: no pipe; EBUSY, EINVAL, EPERM.
    fn pipe_capacity(&self, wanted: Option<usize>) -> Result<usize> {
        Err(Errno::EBADF)
    }

    /// What `mmap` maps. ENODEV: it cannot be mapped.
    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        Err(Errno::ENODEV)
    }

    /// Sets the length. EINVAL: not a regular file.
    fn truncate(&self, length: u64) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// `fallocate(2)` with its mode bits.
    fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<()> {
        Err(Errno::ENODEV)
    }

    /// `fsync(2)`. EINVAL: cannot be synchronised.
    fn sync(&self) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// Told when the status flags (`F_SETFL`) change.
    fn set_flags(&self, flags: OFlags) {}
}

/// Access to the memory that an `ioctl` argument points to. EFAULT where it points wrongly.
pub trait IoctlMemory {
    /// Fills `to` from `address`.
    fn read(&mut self, address: usize, to: &mut [u8]) -> Result<()>;
    /// Copies `from` to `address`.
    fn write(&mut self, address: usize, from: &[u8]) -> Result<()>;
}

/// What the file systems need of the machine; every platform is one.
pub trait Host: Send + Sync {
    /// Wall clock, ns since 1970.
    fn realtime(&self) -> u64;
    /// Monotonic clock, ns.
    fn monotonic(&self) -> u64;
    /// Secure random bytes.
    fn fill_random(&self, out: &mut [u8]);
    /// Where pages come from.
    fn pages(&self) -> &'static crate::mm::PagePool;
    /// The standard streams.
    fn console(&self) -> &dyn crate::platform::Console;
    /// How many CPUs there are.
    fn cpu_count(&self) -> usize;
    /// Text of /proc/cpuinfo for one CPU.
    fn cpuinfo(&self, index: usize) -> alloc::string::String;
}

impl<P: crate::platform::Platform> Host for P {
    fn realtime(&self) -> u64 {
        crate::platform::Clock::realtime(self)
    }
    fn monotonic(&self) -> u64 {
        crate::platform::Clock::monotonic(self)
    }
    fn fill_random(&self, out: &mut [u8]) {
        crate::platform::Entropy::fill_random(self, out);
    }
    fn pages(&self) -> &'static crate::mm::PagePool {
        crate::platform::Memory::pages(self)
    }
    fn console(&self) -> &dyn crate::platform::Console {
        crate::platform::Platform::console(self)
    }
    fn cpu_count(&self) -> usize {
        crate::platform::Cpu::cpu_count(self)
    }
    fn cpuinfo(&self, index: usize) -> alloc::string::String {
        crate::platform::Cpu::cpuinfo(self, index)
    }
}
