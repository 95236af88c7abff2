//! Mounts: file systems hung over directories of others.

use super::Inode;
use crate::errno::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use spin::Mutex;

/// A file system hung somewhere.
pub struct Mount {
    /// `mnt_id` (`/proc/self/mountinfo`).
    pub id: u32,
    /// Its root directory.
    pub root: Arc<dyn Inode>,
    /// What it hangs over; `None` for the first one.
    pub over: Option<Location>,
    /// Type, as `/proc/mounts` names it.
    pub kind: &'static str,
    /// Options, as `/proc/mounts` names them.
    pub options: &'static str,
    children: Mutex<Vec<Arc<Mount>>>,
    child_count: AtomicUsize,
}

impl Mount {
    /// The mount that hangs over `inode` of this one, if any.
    pub fn child_over(&self, inode: &Arc<dyn Inode>) -> Option<Arc<Mount>> {
        if self.child_count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let children = self.children.lock();
        children
            .iter()
            .rev()
            .find(|child| child.over.as_ref().is_some_and(|over| same(&over.inode, inode)))
            .cloned()
    }
}

/// Whether two references are to one inode.
pub fn same(a: &Arc<dyn Inode>, b: &Arc<dyn Inode>) -> bool {
    core::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

/// The same, also for nodes that are made anew at every look-up.
fn same_file(a: &Arc<dyn Inode>, b: &Arc<dyn Inode>) -> bool {
    let id = |inode: &Arc<dyn Inode>| inode.metadata().map(|metadata| (metadata.dev, metadata.ino));
    same(a, b) || id(a) == id(b)
}

/// An inode and the mount it was reached through.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct Location {
    pub mount: Arc<Mount>,
    pub inode: Arc<dyn Inode>,
}

impl Location {
    /// Whether both are the same place.
    pub fn is(&self, other: &Location) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && same(&self.inode, &other.inode)
    }

    /// Its absolute path seen from `root`; with ` (deleted)` behind it when it has no name any more (`proc_pid_fd(5)`).
    pub fn path(&self, root: &Location) -> Vec<u8> {
        self.path_or_deleted(root).unwrap_or_else(|mut path| {
            path.extend_from_slice(b" (deleted)");
            path
        })
    }

    /// Its absolute path seen from `root`; `Err` with the last known path when it has no name any more.
    pub fn path_or_deleted(&self, root: &Location) -> Result<Vec<u8>, Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = self.clone();
        let mut deleted = false;
        while !at.is(root) {
            if same(&at.inode, &at.mount.root) {
                match &at.mount.over {
                    Some(over) => at = over.clone(),
                    None => break,
                }
                continue;
            }
            match at.inode.parent() {
                Some((parent, name)) => {
                    deleted |= !parent.lookup(&name).is_ok_and(|found| same_file(&found, &at.inode));
                    names.push(name);
                    at.inode = parent;
                }
                None => {
                    deleted = true;
                    break;
                }
            }
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        if deleted { Err(path) } else { Ok(path) }
    }
}

/// All mounts of a process (one mount namespace).
pub struct MountTable {
    root: Arc<Mount>,
    all: Mutex<Vec<Arc<Mount>>>,
}

impl Drop for MountTable {
    /// A mount and what hangs over it hold each other; the end of the table is the end of that.
    fn drop(&mut self) {
        for mount in self.all.get_mut().drain(..) {
            mount.child_count.store(0, Ordering::Relaxed);
            let children = core::mem::take(&mut *mount.children.lock());
            drop(children);
        }
    }
}

impl MountTable {
    /// A table with `root` as the file system at `/`.
    pub fn new(root: Arc<dyn Inode>, kind: &'static str, options: &'static str) -> MountTable {
        let root = Arc::new(Mount {
            id: 1,
            root,
            over: None,
            kind,
            options,
            children: Mutex::new(Vec::new()),
            child_count: AtomicUsize::new(0),
        });
        MountTable { all: Mutex::new(alloc::vec![root.clone()]), root }
    }

    /// The root directory.
    pub fn root(&self) -> Location {
        Location { mount: self.root.clone(), inode: self.root.root.clone() }
    }

    /// Hangs `root` over the directory `over`. ENOTDIR.
    pub fn mount(
        &self,
        over: Location,
        root: Arc<dyn Inode>,
        kind: &'static str,
        options: &'static str,
    ) -> Result<Arc<Mount>> {
        if over.inode.file_type() != super::FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let mut all = self.all.lock();
        let parent = over.mount.clone();
        let mount = Arc::new(Mount {
            id: all.len() as u32 + 1,
            root,
            over: Some(over),
            kind,
            options,
            children: Mutex::new(Vec::new()),
            child_count: AtomicUsize::new(0),
        });
        parent.children.lock().push(mount.clone());
        parent.child_count.fetch_add(1, Ordering::Relaxed);
        all.push(mount.clone());
        Ok(mount)
    }

    /// All mounts, oldest first.
    pub fn all(&self) -> Vec<Arc<Mount>> {
        self.all.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::testing::TestHost;
    use crate::fs::tmpfs::Tmpfs;
    use crate::fs::{DeviceId, FsContext, NewNode, ops};

    #[test]
    fn a_table_that_is_dropped_leaves_nothing() {
        let host = TestHost::leak(64);
        let new = |minor| Tmpfs::new(host, DeviceId::new(0, minor), None, None, 10).unwrap();
        let ((below, root), (above, over)) = (new(20), new(21));
        let table = MountTable::new(root, "tmpfs", "rw");
        let context = FsContext::new(table.root());
        ops::make(&context, &context.cwd, b"m", NewNode::Directory, 0o777).unwrap();
        let place = ops::resolve(&context, &context.cwd, b"m", true).unwrap();
        table.mount(place, over, "tmpfs", "rw").unwrap();
        assert!(Arc::strong_count(&below) > 1 && Arc::strong_count(&above) > 1);
        drop((context, table));
        assert_eq!((Arc::strong_count(&below), Arc::strong_count(&above)), (1, 1));
    }
}
