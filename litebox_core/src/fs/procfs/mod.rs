//! `/proc` (`proc(5)` and its pages). What it tells of processes comes through [`ProcSource`]; the formats are here.

mod process;
mod system;

use super::pseudo::{Pseudo, PseudoDir, root};
use super::{DeviceId, FileType, Host, Inode, Location, MountTable, OpenFile};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

/// `PROC_SUPER_MAGIC`.
const MAGIC: u64 = 0x9fa0;

/// Whoever knows the processes.
pub trait ProcSource: Send + Sync {
    /// All process ids.
    fn pids(&self) -> Vec<u32>;
    /// Process and thread id of the thread that calls.
    fn current(&self) -> (u32, u32);
    /// The process `pid`, if it exists.
    fn process(&self, pid: u32) -> Option<Arc<dyn ProcProcess>>;
    /// The host name.
    fn hostname(&self) -> Vec<u8>;
    /// `uname -r`.
    fn release(&self) -> &'static str;
}

/// One process.
pub trait ProcProcess: Send + Sync {
    /// Its threads.
    fn tids(&self) -> Vec<u32>;
    /// Numbers of the thread `tid`.
    fn info(&self, tid: u32) -> Option<ProcInfo>;
    /// Its mappings, by address.
    fn mappings(&self) -> Vec<ProcMapping>;
    /// Its descriptors, and whether exec closes them.
    fn descriptors(&self) -> Vec<(u32, Arc<OpenFile>, bool)>;
    /// The program file.
    fn exe(&self) -> Option<Location>;
    /// Root, working directory and umask.
    fn fs(&self) -> Arc<super::FsContext>;
    /// The mounts it sees.
    fn mounts(&self) -> Arc<MountTable>;
    /// Arguments, each ended by NUL.
    fn cmdline(&self) -> Vec<u8>;
    /// Environment, each ended by NUL.
    fn environ(&self) -> Vec<u8>;
    /// The auxiliary vector as it was put on the stack.
    fn auxv(&self) -> Vec<u8>;
    /// Soft and hard limits, indexed by `RLIMIT_*`.
    fn limits(&self) -> [(u64, u64); 16];
    /// Names the thread `tid`.
    fn set_comm(&self, tid: u32, name: &[u8]);
}

/// Numbers of a thread and its process.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct ProcInfo {
    /// Name, at most 15 bytes.
    pub comm: Vec<u8>,
    /// `R`, `S`, `Z`, …
    pub state: char,
    pub pid: u32,
    pub ppid: u32,
    pub pgid: u32,
    pub sid: u32,
    pub uid: u32,
    pub gid: u32,
    pub threads: u32,
    /// Bytes mapped, and bytes in memory.
    pub virtual_bytes: u64,
    pub resident_bytes: u64,
    /// Nanoseconds of CPU time, and of the monotonic clock at the start.
    pub user_ns: u64,
    pub system_ns: u64,
    pub start_ns: u64,
    pub signals_pending: u64,
    pub signals_blocked: u64,
    pub signals_ignored: u64,
    pub signals_caught: u64,
    /// Where the code, the stack and the heap begin.
    pub start_code: u64,
    pub end_code: u64,
    pub start_stack: u64,
    pub start_brk: u64,
}

/// A mapping, as a line of `maps` has it.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct ProcMapping {
    pub range: Range<usize>,
    pub read: bool,
    pub write: bool,
    pub exec: bool,
    pub shared: bool,
    pub offset: u64,
    pub dev: DeviceId,
    pub ino: u64,
    /// Path, `[heap]`, `[stack]`, `[vdso]`; empty if it has none.
    pub name: Vec<u8>,
    pub resident: u64,
}

/// What all of /proc shares.
#[derive(Clone)]
struct Proc {
    host: &'static dyn Host,
    source: Arc<dyn ProcSource>,
}

/// The root of /proc.
pub fn proc_tree(host: &'static dyn Host, source: Arc<dyn ProcSource>) -> Arc<dyn Inode> {
    root(host, DeviceId::new(0, 22), MAGIC, Arc::new(ProcRoot(Proc { host, source })))
}

struct ProcRoot(Proc);

impl PseudoDir for ProcRoot {
    fn lookup(&self, name: &[u8]) -> Option<Pseudo> {
        let (pid, tid) = self.0.source.current();
        match name {
            b"self" => return Some(Pseudo::Link(format!("{pid}").into_bytes())),
            b"thread-self" => return Some(Pseudo::Link(format!("{pid}/task/{tid}").into_bytes())),
            b"mounts" => return Some(Pseudo::Link(b"self/mounts".to_vec())),
            _ => {}
        }
        if let Some(pid) = number(name) {
            self.0.source.process(pid)?;
            return Some(process::directory(self.0.clone(), pid, None));
        }
        system::lookup(&self.0, name)
    }

    fn list(&self) -> Vec<(Vec<u8>, FileType)> {
        let mut names = system::names();
        for name in ["self", "thread-self", "mounts"] {
            names.push((name.into(), FileType::Symlink));
        }
        for pid in self.0.source.pids() {
            names.push((format!("{pid}").into_bytes(), FileType::Directory));
        }
        names
    }
}

/// A number without leading zeros.
fn number(name: &[u8]) -> Option<u32> {
    let digits = name.iter().all(u8::is_ascii_digit) && (name.len() == 1 || name.first() != Some(&b'0'));
    if digits { core::str::from_utf8(name).ok()?.parse().ok() } else { None }
}

/// A file whose text is made by `text`.
fn file(text: impl Fn() -> String + Send + Sync + 'static) -> Pseudo {
    Pseudo::File(Box::new(move || Ok(text().into_bytes())), None)
}
