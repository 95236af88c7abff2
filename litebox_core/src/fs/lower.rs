//! The read-only file system under a writable one.

use super::{DeviceId, FileType, Timestamp};
use crate::errno::Result;
use crate::mm::Page;
use alloc::vec::Vec;

/// Names a node of a [`Lower`]; the same number for every name of a hard-linked file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LowerId(pub u64);

/// What a [`Lower`] tells of a node.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct LowerMetadata {
    pub file_type: FileType,
    /// 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub size: u64,
    pub mtime: Timestamp,
    pub rdev: DeviceId,
}

/// A directory entry of a [`Lower`].
#[derive(Clone, Copy, Debug)]
pub struct LowerEntry<'a> {
    /// The node.
    pub id: LowerId,
    /// What it is.
    pub file_type: FileType,
    /// Neither `.` nor `..`.
    pub name: &'a [u8],
}

/// A read-only tree, immutable for the life of the machine. Calls may wait for a device, so no spin lock may be held over
/// one. Damage that is no attack is EIO.
pub trait Lower: Send + Sync {
    /// The root directory.
    fn root(&self) -> LowerId;

    /// What `id` is.
    fn metadata(&self, id: LowerId) -> Result<LowerMetadata>;

    /// The entry `name` of directory `dir`; `None`: there is none.
    fn lookup(&self, dir: LowerId, name: &[u8]) -> Result<Option<LowerId>>;

    /// Every entry of directory `dir`, in an order that does not change.
    fn readdir(&self, dir: LowerId, each: &mut dyn FnMut(LowerEntry<'_>)) -> Result<()>;

    /// The text of symbolic link `id`.
    fn readlink(&self, id: LowerId) -> Result<Vec<u8>>;

    /// Page `index` of file `id`, zero beyond its end. Not cached here: the caller keeps it.
    fn page(&self, id: LowerId, index: u64) -> Result<Page>;

    /// Appends up to `count` pages from `first` on, at least one; stops early where that is cheaper (end of file, end of
    /// a run of blocks, memory).
    fn pages(&self, id: LowerId, first: u64, count: usize, into: &mut Vec<Page>) -> Result<()> {
        let _ = count;
        into.push(self.page(id, first)?);
        Ok(())
    }

    /// Size of the whole file system in blocks of 4096 bytes (`statfs`).
    fn blocks(&self) -> u64;
}
