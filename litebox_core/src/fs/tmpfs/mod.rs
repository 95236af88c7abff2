//! The in-memory file system, which is also the writable layer over a read-only one (`tmpfs(5)`).
//!
//! One kind of node serves both. A node may be backed by a node of a [`Lower`]: then a directory's entries appear when they
//! are looked up (a removed name leaves a whiteout), and a file's pages are the lower's until they are written. A page that
//! was read from below is *clean*, belongs to this file system alone, and may be dropped when nothing maps it; writing
//! makes the very same page *own*, which is counted against the size limit.
//!
//! Locks: the name-space lock (rename, link, unlink) comes before any node's; of two nodes' locks, only a rename takes the
//! second while it holds the first, and that under the name-space lock. None is held over a call to the lower or a copy.

mod data;
mod directory;
mod file;
mod node;
#[cfg(test)]
mod tests;

pub use node::Node;

use super::devfs::Drivers;
use super::{Credentials, DeviceId, FileType, Host, Inode, Lower, LowerId, StatFs, Timestamp};
use crate::errno::{Errno, Result};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// `f_type` of `statfs(2)`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// Inode numbers of nodes that are not the lower's begin here, above any the lower has.
const OWN_INO: u64 = 1 << 32;

/// One file system: what all its nodes share.
pub struct Tmpfs {
    host: &'static dyn Host,
    dev: DeviceId,
    lower: Option<Arc<dyn Lower>>,
    drivers: Option<Arc<dyn Drivers>>,
    next_ino: AtomicU64,
    /// Own pages, and how many there may be.
    used: AtomicU64,
    limit: u64,
    /// Nodes that are not the lower's, and how many there may be.
    nodes: AtomicU64,
    node_limit: u64,
    namespace: Mutex<()>,
    /// Nodes of lower files with several names, so that all names find the same one.
    shared: Mutex<BTreeMap<LowerId, Weak<Node>>>,
    /// Files that may hold clean pages, oldest first.
    clean: Mutex<VecDeque<Weak<Node>>>,
}

impl Tmpfs {
    /// A new file system on device `dev`, over `lower` if there is one, whose own data may take `limit` pages; `drivers`
    /// opens the device nodes on it.
    /// EIO: the lower has no root directory.
    pub fn new(
        host: &'static dyn Host,
        dev: DeviceId,
        lower: Option<Arc<dyn Lower>>,
        drivers: Option<Arc<dyn Drivers>>,
        limit: u64,
    ) -> Result<(Arc<Tmpfs>, Arc<dyn Inode>)> {
        let fs = Arc::new(Tmpfs {
            host,
            dev,
            lower,
            drivers,
            next_ino: AtomicU64::new(OWN_INO),
            used: AtomicU64::new(0),
            limit,
            nodes: AtomicU64::new(0),
            node_limit: limit,
            namespace: Mutex::new(()),
            shared: Mutex::new(BTreeMap::new()),
            clean: Mutex::new(VecDeque::new()),
        });
        let root = match &fs.lower {
            Some(lower) => {
                let id = lower.root();
                if lower.metadata(id)?.file_type != FileType::Directory {
                    return Err(Errno::EIO);
                }
                fs.lower_node(id)?
            }
            None => Node::new(&fs, super::NewNode::Directory, 0o755, &Credentials::default())?,
        };
        Ok((fs, root))
    }

    /// An empty file without a name on a file system of its own (`memfd_create(2)`).
    pub fn anonymous_file(host: &'static dyn Host, dev: DeviceId, limit: u64) -> Result<Arc<Node>> {
        let (fs, _root) = Tmpfs::new(host, dev, None, None, limit)?;
        Node::new(&fs, super::NewNode::Regular, 0o777, &Credentials::default())
    }

    /// Drops up to `wanted` clean pages that nothing maps, and returns how many. Takes no lock that is held: it may be
    /// called from wherever a page is allocated.
    pub fn reclaim(&self, wanted: usize) -> usize {
        let Some(mut clean) = self.clean.try_lock() else { return 0 };
        let mut freed = 0;
        for _ in 0..clean.len() {
            if freed >= wanted {
                break;
            }
            let Some(weak) = clean.pop_front() else { break };
            let Some(node) = weak.upgrade() else { continue };
            let (count, more) = node.drop_clean(wanted - freed);
            freed += count;
            if more {
                clean.push_back(weak);
            }
            // The last reference may just have become ours: the drop takes locks of its own.
            if let Some(node) = Arc::into_inner(node) {
                drop(clean);
                drop(node);
                return freed;
            }
        }
        freed
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_ns(self.host.realtime())
    }

    fn lower(&self) -> Result<&Arc<dyn Lower>> {
        self.lower.as_ref().ok_or(Errno::EIO)
    }

    /// The node for `id` of the lower: the existing one if the file has several names.
    fn lower_node(self: &Arc<Self>, id: LowerId) -> Result<Arc<Node>> {
        let metadata = self.lower()?.metadata(id)?;
        let several = metadata.nlink > 1 && metadata.file_type != FileType::Directory;
        if several && let Some(node) = self.shared.lock().get(&id).and_then(Weak::upgrade) {
            return Ok(node);
        }
        let node = Node::from_lower(self, id, &metadata)?;
        if several {
            // Whoever was first wins.
            let mut shared = self.shared.lock();
            if let Some(other) = shared.get(&id).and_then(Weak::upgrade) {
                drop(shared);
                return Ok(other);
            }
            shared.insert(id, Arc::downgrade(&node));
        }
        Ok(node)
    }

    /// Counts `pages` more own pages. ENOSPC.
    fn charge(&self, pages: u64) -> Result<()> {
        let add = |used: u64| used.checked_add(pages).filter(|used| *used <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| Errno::ENOSPC)?;
        Ok(())
    }

    fn uncharge(&self, pages: u64) {
        self.used.fetch_sub(pages, Ordering::Relaxed);
    }

    fn charge_node(&self) -> Result<()> {
        let add = |nodes: u64| (nodes < self.node_limit).then_some(nodes + 1);
        self.nodes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| Errno::ENOSPC)?;
        Ok(())
    }

    fn statfs(&self) -> StatFs {
        let below = self.lower.as_ref().map_or(0, |lower| lower.blocks());
        let (used, nodes) = (self.used.load(Ordering::Relaxed), self.nodes.load(Ordering::Relaxed));
        StatFs {
            magic: TMPFS_MAGIC,
            block_size: 4096,
            blocks: self.limit.saturating_add(below),
            blocks_free: self.limit.saturating_sub(used),
            files: self.node_limit,
            files_free: self.node_limit.saturating_sub(nodes),
            flags: 0,
        }
    }
}

/// The inode number of a lower node.
fn lower_ino(id: LowerId) -> u64 {
    id.0.wrapping_add(1)
}
