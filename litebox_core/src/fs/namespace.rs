//! The tree that the workload sees: the image with a writable layer over it, and /dev, /proc, /sys, /tmp, which are made when something
//! first looks.

use super::console::{ConsoleDevice, Role};
use super::devfs::{Devices, dev_tree};
use super::procfs::{ProcSource, proc_tree};
use super::sysfs::sys_tree;
use super::tmpfs::Tmpfs;
use super::{
    Automount, Credentials, DeviceId, FileType, Host, Inode, Location, Lower, Mount, MountTable, NewNode,
    OFlags, OpenFile,
};
use crate::errno::{Errno, Result};
use crate::fd::FdTable;
use crate::mm::ReclaimHook;
use crate::platform::Stream;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// Device of the root file system.
const ROOT_DEVICE: DeviceId = DeviceId::new(0, 20);
/// The same file's number for descriptors of the standard streams.
const STANDARD_STREAMS: u64 = 3;

/// What the standard streams are.
#[derive(Clone, Copy, Debug, Default)]
pub struct StandardStreams {
    /// Whether standard input, output and error are terminals.
    pub tty: [bool; 3],
    /// Columns and rows of the terminal.
    pub window: Option<(u16, u16)>,
}

/// The mounts, and what is shared with whoever set them up.
pub struct Namespace {
    /// All mounts.
    pub mounts: Arc<MountTable>,
    root: Arc<Tmpfs>,
    console: Arc<ConsoleDevice>,
    streams: StandardStreams,
}

impl Namespace {
    /// The tree over `lower`. Data in memory may take half of the machine's.
    pub fn new(
        host: &'static dyn Host,
        lower: Option<Arc<dyn Lower>>,
        source: Arc<dyn ProcSource>,
        streams: StandardStreams,
    ) -> Result<Namespace> {
        let limit = host.pages().total_pages() as u64 / 2;
        let console = ConsoleDevice::new(host, streams.window);
        let devices = Devices::new(host, console.clone(), streams.tty.contains(&true));
        let (root, root_dir) = Tmpfs::new(host, ROOT_DEVICE, lower, Some(devices.clone()), limit)?;
        let system = SystemTrees { host, source, devices, limit };
        let mounts = MountTable::new(root_dir, "overlay", "rw", Some(Box::new(system)));
        Ok(Namespace { mounts: Arc::new(mounts), root, console, streams })
    }

    /// Descriptors 0, 1 and 2.
    pub fn standard_streams(&self) -> Result<FdTable> {
        let mut table = FdTable::new();
        let roles = [
            (Role::Input, OFlags::RDONLY),
            (Role::Output(Stream::Stdout), OFlags::WRONLY),
            (Role::Output(Stream::Stderr), OFlags::WRONLY),
        ];
        for ((role, access), tty) in roles.into_iter().zip(self.streams.tty) {
            let access = if tty { OFlags::RDWR } else { access };
            table.insert(
                OpenFile::new(self.console.file(role, tty), None, access),
                false,
                STANDARD_STREAMS,
            )?;
        }
        Ok(table)
    }

    /// The page pool's reclaim hook: drops pages that the image still has, as long as the tree is there.
    pub fn reclaimer(&self) -> Arc<ReclaimHook> {
        let layer = Arc::downgrade(&self.root);
        Arc::new(move |wanted| layer.upgrade().map_or(0, |layer| layer.reclaim(wanted)))
    }
}

/// /dev, /proc, /sys, and the directory /tmp.
struct SystemTrees {
    host: &'static dyn Host,
    source: Arc<dyn ProcSource>,
    devices: Arc<Devices>,
    limit: u64,
}

impl Automount for SystemTrees {
    fn concerns(&self, name: &[u8]) -> bool {
        [&b"dev"[..], b"proc", b"sys", b"tmp"].contains(&name)
    }

    fn mounts(&self, root: &Location) -> Result<Vec<Arc<Mount>>> {
        let host = self.host;
        let dev = dev_tree(host, self.devices.clone(), self.limit)?;
        let proc = proc_tree(host, self.source.clone());
        directory(root, b"tmp", 0o1777)?;
        Ok(vec![
            Mount::new(2, directory(root, b"dev", 0o755)?, dev, "devtmpfs", "rw")?,
            Mount::new(3, directory(root, b"proc", 0o555)?, proc, "proc", "rw")?,
            Mount::new(4, directory(root, b"sys", 0o555)?, sys_tree(host), "sysfs", "ro")?,
        ])
    }
}

/// The directory `name` of the root, made if it is missing. What is there and no directory stays: ENOTDIR.
fn directory(root: &Location, name: &[u8], mode: u32) -> Result<Location> {
    let inode: Arc<dyn Inode> = match root.inode.lookup(name) {
        Err(Errno::ENOENT) => root.inode.create(name, NewNode::Directory, mode, &Credentials::default())?,
        found => found?,
    };
    // A symbolic link (`/tmp` to `/var/tmp`) is the image's own decision; it is not a mount point, though.
    if inode.file_type() == FileType::Symlink && name != b"tmp" {
        return Err(Errno::ENOTDIR);
    }
    Ok(Location { mount: root.mount.clone(), inode })
}

#[cfg(test)]
mod tests {
    use super::super::procfs::ProcProcess;
    use super::super::testing::{SliceSource, TestHost, VecSink};
    use super::super::{FsContext, ResolveFlags, ops};
    use super::*;

    struct Nobody;
    impl ProcSource for Nobody {
        fn pids(&self) -> Vec<u32> {
            Vec::new()
        }
        fn current(&self) -> (u32, u32) {
            (1, 1)
        }
        fn process(&self, _pid: u32) -> Option<Arc<dyn ProcProcess>> {
            None
        }
        fn hostname(&self) -> Vec<u8> {
            b"box".to_vec()
        }
        fn release(&self) -> &'static str {
            "6.1.0"
        }
    }

    #[test]
    fn the_usual_places_are_there() {
        let host = TestHost::leak(256);
        let space = Namespace::new(host, None, Arc::new(Nobody), StandardStreams::default()).unwrap();
        let context = FsContext::new(space.mounts.root());
        let open =
            |path: &[u8], flags| ops::open(&context, &context.cwd, path, flags, 0o600, ResolveFlags::empty());
        let read = |path: &[u8]| {
            let mut sink = VecSink { bytes: Vec::new(), room: 4096 };
            open(path, OFlags::RDONLY).unwrap().read(&mut sink).unwrap();
            sink.bytes
        };
        assert_eq!(read(b"/proc/sys/kernel/hostname"), b"box\n");
        assert_eq!(read(b"/sys/devices/system/cpu/online"), b"0\n");
        assert_eq!(read(b"/dev/zero"), [0; 4096]);
        assert_eq!(read(b"/dev/null"), b"");
        assert_eq!(read(b"/proc/sys/kernel/random/uuid").len(), 37);
        let full = open(b"/dev/full", OFlags::WRONLY).unwrap();
        assert_eq!(full.write(&mut SliceSource(b"x")), Err(Errno::ENOSPC));
        assert_eq!(open(b"/dev/tty", OFlags::RDWR).err(), Some(Errno::ENXIO));
        let cpu = ops::resolve(&context, &context.cwd, b"/proc/../sys/devices/./system/cpu", true).unwrap();
        assert_eq!(cpu.path(&context.root), b"/sys/devices/system/cpu");
        let rename = ops::rename(&context, (&cpu, b"/dev"), (&cpu, b"/x"), super::super::RenameMode::Replace);
        assert_eq!(rename, Err(Errno::EBUSY));
        assert_eq!(space.standard_streams().unwrap().iter().count(), 3);
    }
}
