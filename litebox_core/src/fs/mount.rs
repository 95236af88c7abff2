//! Mounts: file systems hung over directories of others.
//!
//! What hangs over names of a mount's root directory is made when one of the names, or the directory itself, is first wanted
//! ([`Automount`]): most programs never look, and should not wait for it.

use super::Inode;
use crate::errno::{Errno, Result};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use spin::Once;

/// A file system hung somewhere.
pub struct Mount {
    /// `mnt_id` (`/proc/self/mountinfo`).
    pub id: u32,
    /// Its root directory.
    pub root: Arc<dyn Inode>,
    /// The directory that it hangs over, and its mount, which holds this one.
    over: Option<(Weak<Mount>, Arc<dyn Inode>)>,
    /// Type, as `/proc/mounts` names it.
    pub kind: &'static str,
    /// Options, as `/proc/mounts` names them.
    pub options: &'static str,
    automount: Option<Box<dyn Automount>>,
    children: Once<Vec<Arc<Mount>>>,
}

/// Makes the mounts over names of a mount's root directory.
pub trait Automount: Send + Sync {
    /// Whether making them changes what `name` in the root directory is.
    fn concerns(&self, name: &[u8]) -> bool;

    /// The mounts, over directories of `root`, which are made where they are missing.
    fn mounts(&self, root: &Location) -> Result<Vec<Arc<Mount>>>;
}

impl Mount {
    /// The mount that hangs over `inode` of this one, if any.
    pub fn child_over(&self, inode: &Arc<dyn Inode>) -> Option<Arc<Mount>> {
        let children = self.children.get()?;
        children.iter().find(|child| child.over.as_ref().is_some_and(|(_, over)| same(over, inode))).cloned()
    }

    /// Makes the mounts that hang in this one, if directory `dir` of it shows them: to be called before `name` in it is looked up, or
    /// (`None`) before something is done with the directory itself.
    pub fn prepare(self: &Arc<Self>, dir: &Arc<dyn Inode>, name: Option<&[u8]>) -> Result<()> {
        let Some(source) = &self.automount else { return Ok(()) };
        if self.children.is_completed()
            || !same(dir, &self.root)
            || name.is_some_and(|name| !source.concerns(name))
        {
            return Ok(());
        }
        let made = source.mounts(&Location { mount: self.clone(), inode: self.root.clone() })?;
        // Whoever was first wins.
        self.children.call_once(|| made);
        Ok(())
    }

    /// What it hangs over; `None` for the first one.
    pub fn over(&self) -> Option<Location> {
        let (mount, inode) = self.over.as_ref()?;
        Some(Location { mount: mount.upgrade()?, inode: inode.clone() })
    }

    /// A mount `id` of `root` over the directory `over`, for [`Automount::mounts`]. ENOTDIR.
    pub fn new(
        id: u32,
        over: Location,
        root: Arc<dyn Inode>,
        kind: &'static str,
        options: &'static str,
    ) -> Result<Arc<Mount>> {
        if over.inode.file_type() != super::FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        Ok(Arc::new(Mount {
            id,
            root,
            over: Some((Arc::downgrade(&over.mount), over.inode)),
            kind,
            options,
            automount: None,
            children: Once::new(),
        }))
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
                match at.mount.over() {
                    Some(over) => at = over,
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
}

impl MountTable {
    /// A table with `root` as the file system at `/`, and `automount` over names in it.
    pub fn new(
        root: Arc<dyn Inode>,
        kind: &'static str,
        options: &'static str,
        automount: Option<Box<dyn Automount>>,
    ) -> MountTable {
        let root = Mount { id: 1, root, over: None, kind, options, automount, children: Once::new() };
        MountTable { root: Arc::new(root) }
    }

    /// The root directory.
    pub fn root(&self) -> Location {
        Location { mount: self.root.clone(), inode: self.root.root.clone() }
    }

    /// All mounts, by id. Those that are made on demand are there when somebody can ask: that needs /proc, which is one of them.
    pub fn all(&self) -> Vec<Arc<Mount>> {
        let children = self.root.children.get().map_or(&[][..], Vec::as_slice);
        core::iter::once(&self.root).chain(children).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::testing::TestHost;
    use crate::fs::tmpfs::Tmpfs;
    use crate::fs::{Credentials, DeviceId, FsContext, NewNode, ops};

    /// One file system over the directory `m`.
    struct OverM(Arc<dyn Inode>);

    impl Automount for OverM {
        fn concerns(&self, name: &[u8]) -> bool {
            name == b"m"
        }
        fn mounts(&self, root: &Location) -> Result<Vec<Arc<Mount>>> {
            let inode = root.inode.create(b"m", NewNode::Directory, 0o777, &Credentials::default())?;
            let over = Location { mount: root.mount.clone(), inode };
            Ok(alloc::vec![Mount::new(2, over, self.0.clone(), "tmpfs", "rw")?])
        }
    }

    #[test]
    fn a_table_that_is_dropped_leaves_nothing() {
        let host = TestHost::leak(64);
        let new = |minor| Tmpfs::new(host, DeviceId::new(0, minor), None, None, 10).unwrap();
        let ((below, root), (above, over)) = (new(20), new(21));
        let table = MountTable::new(root, "tmpfs", "rw", Some(Box::new(OverM(over))));
        let context = FsContext::new(table.root());
        ops::resolve(&context, &context.cwd, b"m", true).unwrap();
        assert_eq!(table.all().len(), 2);
        assert!(Arc::strong_count(&below) > 1 && Arc::strong_count(&above) > 1);
        drop((context, table));
        assert_eq!((Arc::strong_count(&below), Arc::strong_count(&above)), (1, 1));
    }

    #[test]
    fn mounts_are_there_for_whoever_looks() {
        let host = TestHost::leak(64);
        let new = |minor| Tmpfs::new(host, DeviceId::new(0, minor), None, None, 10).unwrap().1;
        // What each is to see, and whether it needs the mount.
        type Look = fn(&FsContext) -> Result<()>;
        let looks: [(Look, bool); 6] = [
            (|c| ops::resolve(c, &c.cwd, b"x", true).map(drop), false),
            (|c| ops::resolve(c, &c.cwd, b"/m/../m/.", true).map(drop), true),
            (|c| ops::resolve(c, &c.cwd, b"/", true).map(drop), true),
            (|c| ops::resolve(c, &c.cwd, b".", true).map(drop), true),
            (|c| ops::make(c, &c.cwd, b"m", NewNode::Directory, 0o777), true),
            (|c| ops::unlink(c, &c.cwd, b"m", true), true),
        ];
        for (look, needs) in looks {
            let table = MountTable::new(new(20), "tmpfs", "rw", Some(Box::new(OverM(new(21)))));
            let context = FsContext::new(table.root());
            assert_eq!(table.all().len(), 1);
            let seen = look(&context);
            assert!(matches!(seen, Ok(()) | Err(Errno::ENOENT | Errno::EEXIST | Errno::EBUSY)), "{seen:?}");
            assert_eq!(table.all().len(), if needs { 2 } else { 1 });
            let m = ops::resolve(&context, &context.cwd, b"m", true).unwrap();
            assert_eq!(m.inode.metadata().unwrap().dev, DeviceId::new(0, 21));
            assert_eq!(m.path(&context.root), b"/m");
        }
    }
}
