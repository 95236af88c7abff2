//! `Process`: what the threads of a process share.

use super::family::Processes;
use super::limits::{Limits, Resource};
use super::signal::{Signals, sig};
use super::thread::Thread;
use super::timers::Timers;
use crate::event::{TimerQueue, WaitQueue};
use crate::fd::FdTable;
use crate::fs::{FsContext, Location, MountTable};
use crate::mm::{MemoryLimits, Mm};
use crate::platform::{ExitStatus, Platform};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use spin::{Mutex, RwLock};

/// Numbers by which a process is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Identity {
    pub pid: u32,
    pub ppid: u32,
    pub pgid: u32,
    pub sid: u32,
}

/// What the machine's processes have in common.
pub struct System {
    /// All mounts.
    pub mounts: Arc<MountTable>,
    /// `uname -n`.
    pub hostname: Vec<u8>,
    /// What is to happen later.
    pub timers: Arc<TimerQueue>,
    /// The id of the next thread or process.
    pub(super) next_id: AtomicU32,
}

impl System {
    /// An id for a thread or a process, which nobody had before.
    pub fn next_id(&self) -> u32 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// The program that a process runs: what /proc shows of it.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct Program {
    pub exe: Location,
    pub cmdline: Vec<u8>,
    pub environ: Vec<u8>,
    pub auxv: Vec<u8>,
    pub start_code: u64,
    pub end_code: u64,
    pub start_stack: u64,
}

/// A process.
pub struct Process<P: Platform> {
    platform: &'static P,
    /// What it shares with all others.
    pub system: Arc<System>,
    /// All of them.
    pub processes: Arc<Processes<P>>,
    /// pid, parent, group, session.
    pub identity: Mutex<Identity>,
    /// Open files.
    pub fds: Mutex<FdTable>,
    /// Root, working directory, umask and credentials.
    pub fs: Mutex<Arc<FsContext>>,
    /// Resource limits.
    pub limits: Mutex<Limits>,
    /// Dispositions, and what is pending for the process.
    pub signals: Mutex<Signals>,
    /// Woken when a signal is sent to it or to one of its threads.
    pub signal_arrived: WaitQueue,
    /// Timers that send signals.
    pub timers: Timers<P>,
    /// The memory of its threads, for those that look from outside.
    pub mm: RwLock<Arc<Mm<P>>>,
    /// The program, once one runs.
    pub program: Mutex<Option<Program>>,
    pub(super) threads: Mutex<Vec<(u32, Weak<Thread<P>>)>>,
    /// Woken when a thread has ended, and when the process is told to.
    pub thread_left: WaitQueue,
    /// CPU time of threads that have ended, ns.
    pub(super) ended_cpu_time: AtomicU64,
    exit: Mutex<Option<ExitStatus>>,
    /// Woken when a child has ended, or given memory back.
    pub child_changed: WaitQueue,
    /// CPU time of children that were waited for, ns.
    pub children_cpu_time: AtomicU64,
    /// What its parent is sent at its end; 0: nothing.
    pub(super) exit_signal: AtomicU32,
    /// Nobody waits for the memory that it was lent (`vfork(2)`).
    pub memory_returned: AtomicBool,
    /// It has executed a program since it was made, after which its parent cannot change its group.
    pub executed: AtomicBool,
    /// Monotonic time of its start.
    pub start_ns: u64,
    /// Flags of `prctl(2)`: dumpable, no_new_privs.
    pub prctl: Mutex<Prctl>,
}

/// What `prctl(2)` sets for a process.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Prctl {
    pub dumpable: u64,
    pub no_new_privs: bool,
    pub child_subreaper: bool,
    pub parent_death_signal: u32,
    pub timer_slack: u64,
    pub thp_disable: bool,
}

impl Default for Prctl {
    fn default() -> Prctl {
        Prctl {
            dumpable: 1,
            no_new_privs: false,
            child_subreaper: false,
            parent_death_signal: 0,
            timer_slack: 50_000,
            thp_disable: false,
        }
    }
}

impl<P: Platform> Process<P> {
    /// A process without a thread or a program.
    pub fn new(
        platform: &'static P,
        system: Arc<System>,
        processes: Arc<Processes<P>>,
        identity: Identity,
        fds: FdTable,
        fs: FsContext,
        mm: Arc<Mm<P>>,
    ) -> Arc<Process<P>> {
        Arc::new(Process {
            platform,
            system,
            processes,
            identity: Mutex::new(identity),
            fds: Mutex::new(fds),
            fs: Mutex::new(Arc::new(fs)),
            limits: Mutex::new(Limits::default()),
            signals: Mutex::new(Signals::default()),
            signal_arrived: WaitQueue::new(),
            timers: Timers::default(),
            mm: RwLock::new(mm),
            program: Mutex::new(None),
            threads: Mutex::new(Vec::new()),
            thread_left: WaitQueue::new(),
            ended_cpu_time: AtomicU64::new(0),
            exit: Mutex::new(None),
            child_changed: WaitQueue::new(),
            children_cpu_time: AtomicU64::new(0),
            exit_signal: AtomicU32::new(sig::CHLD),
            memory_returned: AtomicBool::new(true),
            executed: AtomicBool::new(false),
            start_ns: platform.monotonic(),
            prctl: Mutex::new(Prctl::default()),
        })
    }

    /// The platform below.
    #[inline]
    pub fn platform(&self) -> &'static P {
        self.platform
    }

    /// Its process id.
    #[inline]
    pub fn pid(&self) -> u32 {
        self.identity.lock().pid
    }

    /// The limits that memory obeys.
    pub fn memory_limits(&self) -> MemoryLimits {
        let limits = self.limits.lock();
        MemoryLimits {
            address_space: limits.get(Resource::AddressSpace).soft,
            data: limits.get(Resource::Data).soft,
            stack: limits.get(Resource::Stack).soft,
        }
    }

    /// Its threads.
    pub fn threads(&self) -> Vec<Arc<Thread<P>>> {
        self.threads.lock().iter().filter_map(|(_, thread)| thread.upgrade()).collect()
    }

    /// The thread with this id.
    pub fn thread(&self, tid: u32) -> Option<Arc<Thread<P>>> {
        self.threads.lock().iter().find(|(id, _)| *id == tid).and_then(|(_, thread)| thread.upgrade())
    }

    /// Takes a thread in; one of the same id is replaced.
    pub fn add_thread(&self, thread: &Arc<Thread<P>>) {
        let mut threads = self.threads.lock();
        threads.retain(|(tid, _)| *tid != thread.tid);
        threads.push((thread.tid, Arc::downgrade(thread)));
    }

    /// Ends the process: every thread leaves its run loop at the next opportunity. The first reason counts.
    pub fn terminate(&self, status: ExitStatus) {
        self.exit.lock().get_or_insert(status);
        for thread in self.threads() {
            thread.call_attention();
        }
        self.thread_left.wake_all();
    }

    /// How it ended, or is about to end.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.lock()
    }

    /// Nanoseconds of CPU time of all its threads, not split between user mode and kernel.
    pub fn cpu_time(&self) -> u64 {
        let ended = self.ended_cpu_time.load(Ordering::Relaxed);
        self.threads().iter().map(|thread| thread.cpu_time()).sum::<u64>() + ended
    }
}
