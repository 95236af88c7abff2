//! `/dev`: the memory devices of `mem(4)`, `null(4)`, `random(4)`, `full(4)`, the terminal, and links into /proc. The nodes
//! are ordinary ones of a [`Tmpfs`]; what opening a device node gives is decided by its number, wherever the node is.

use super::console::{ConsoleDevice, Role};
use super::tmpfs::Tmpfs;
use super::{Credentials, DeviceId, File, FileType, Host, Inode, IoctlMemory, Metadata, NewNode, OFlags};
use crate::errno::{Errno, Result};
use crate::mm::{Mappable, SharedMemory, Sink, Source};
use alloc::sync::Arc;

/// Largest piece of random numbers made at once.
const RANDOM_CHUNK: usize = 256;

/// Opens device nodes.
pub trait Drivers: Send + Sync {
    /// The file behind the device node `node` with number `rdev`. ENXIO.
    fn open(&self, node: Arc<dyn Inode>, rdev: DeviceId, flags: OFlags) -> Result<Arc<dyn File>>;
}

/// The character devices there are.
pub struct Devices {
    host: &'static dyn Host,
    console: Arc<ConsoleDevice>,
    has_tty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Zero,
    Full,
    Random,
}

struct DeviceFile {
    kind: Kind,
    node: Arc<dyn Inode>,
    host: &'static dyn Host,
}

/// Name, major, minor and mode (`Documentation/admin-guide/devices.txt`).
const NODES: [(&[u8], u32, u32, u32); 7] = [
    (b"null", 1, 3, 0o666),
    (b"zero", 1, 5, 0o666),
    (b"full", 1, 7, 0o666),
    (b"random", 1, 8, 0o666),
    (b"urandom", 1, 9, 0o666),
    (b"tty", 5, 0, 0o666),
    (b"console", 5, 1, 0o600),
];
const LINKS: [(&[u8], &[u8]); 4] = [
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
];

impl Devices {
    /// The devices; `has_tty`: the workload has a controlling terminal.
    pub fn new(host: &'static dyn Host, console: Arc<ConsoleDevice>, has_tty: bool) -> Arc<Devices> {
        Arc::new(Devices { host, console, has_tty })
    }
}

impl Drivers for Devices {
    fn open(&self, node: Arc<dyn Inode>, rdev: DeviceId, _flags: OFlags) -> Result<Arc<dyn File>> {
        let kind = match (rdev.major(), rdev.minor()) {
            (1, 3) => Kind::Null,
            (1, 5) => Kind::Zero,
            (1, 7) => Kind::Full,
            (1, 8 | 9) => Kind::Random,
            (5, 0 | 1) | (136, 0) if self.has_tty => return Ok(self.console.file(Role::Both, true)),
            _ => return Err(Errno::ENXIO),
        };
        Ok(Arc::new(DeviceFile { kind, node, host: self.host }))
    }
}

/// The file system for `/dev`, with the devices, links, `shm` and `pts` in it.
pub fn dev_tree(host: &'static dyn Host, drivers: Arc<dyn Drivers>, limit: u64) -> Result<Arc<dyn Inode>> {
    let (_, root) = Tmpfs::new(host, DeviceId::new(0, 6), None, Some(drivers), limit)?;
    let owner = Credentials::default();
    for (name, major, minor, mode) in NODES {
        let node = NewNode::Special(FileType::CharDevice, DeviceId::new(major, minor));
        root.create(name, node, mode, &owner)?;
    }
    for (name, target) in LINKS {
        root.create(name, NewNode::Symlink(target), 0o777, &owner)?;
    }
    root.create(b"shm", NewNode::Directory, 0o1777, &owner)?;
    root.create(b"pts", NewNode::Directory, 0o755, &owner)?;
    Ok(root)
}

impl File for DeviceFile {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _offset: u64, to: &mut dyn Sink) -> Result<usize> {
        match self.kind {
            Kind::Null => Ok(0),
            Kind::Zero | Kind::Full => to.put_zeros(to.remaining()),
            Kind::Random => {
                let mut done = 0;
                let mut chunk = [0; RANDOM_CHUNK];
                while to.remaining() > 0 {
                    let len = chunk.len().min(to.remaining());
                    let part = chunk.get_mut(..len).unwrap_or_default();
                    self.host.fill_random(part);
                    match to.put(part) {
                        Ok(count) => {
                            done += count;
                            if count < len {
                                break;
                            }
                        }
                        Err(error) if done == 0 => return Err(error),
                        Err(_) => break,
                    }
                }
                Ok(done)
            }
        }
    }

    fn write_at(&self, _offset: u64, from: &mut dyn Source) -> Result<usize> {
        if self.kind == Kind::Full {
            return Err(Errno::ENOSPC);
        }
        let count = from.remaining();
        from.skip(count);
        Ok(count)
    }

    fn append(&self, from: &mut dyn Source) -> Result<(usize, u64)> {
        self.write_at(0, from).map(|count| (count, 0))
    }

    fn metadata(&self) -> Result<Metadata> {
        self.node.metadata()
    }

    fn end(&self) -> Result<u64> {
        Ok(0)
    }

    /// `/dev/zero` is memory of its own for each mapping, as anonymous memory is (`zero(4)`).
    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        if self.kind != Kind::Zero {
            return Err(Errno::ENODEV);
        }
        Ok(Arc::new(SharedMemory::new(self.host.pages(), u64::MAX)))
    }

    fn ioctl(&self, command: u32, argument: usize, user: &mut dyn IoctlMemory) -> Result<usize> {
        /// `random(4)`: how much entropy there is.
        const RNDGETENTCNT: u32 = 0x8004_5200;
        if self.kind == Kind::Random && command == RNDGETENTCNT {
            user.write(argument, &256u32.to_ne_bytes())?;
            return Ok(0);
        }
        Err(Errno::ENOTTY)
    }
}
