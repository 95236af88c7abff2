//! New threads and processes (`clone(2)`, `fork(2)`).

use super::launch::run;
use super::limits::Resource;
use super::object::{Identity, Prctl, Process};
use super::thread::Thread;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::platform::{OutOfMemory, Platform, Registers};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// How a new thread starts. NULL pointers: not wanted.
pub struct NewTask {
    /// Its first registers.
    pub registers: Registers,
    /// Its FS base; `None`: its creator's.
    pub tls: Option<u64>,
    /// Where it writes its id.
    pub set_child_tid: UserPtr<u32>,
    /// What is cleared, and woken, at its end.
    pub clear_child_tid: UserPtr<u32>,
    /// Where its creator writes its id.
    pub set_parent_tid: UserPtr<u32>,
}

/// How a new process differs from a copy.
#[derive(Clone, Copy, Debug)]
pub struct Fork {
    /// The memory is its parent's and not a copy (CLONE_VM).
    pub shares_memory: bool,
    /// Its parent waits until it needs that memory no more (CLONE_VFORK).
    pub waits_for_memory: bool,
    /// What its parent is sent at its end; 0: nothing.
    pub exit_signal: u32,
    /// Handlers are not inherited (CLONE_CLEAR_SIGHAND).
    pub clears_handlers: bool,
}

/// What belongs to a thread and is kept in the CPU while it runs.
struct CpuState {
    fs_base: u64,
    gs_base: u64,
    fpu: Vec<u8>,
}

impl CpuState {
    /// The calling thread's.
    fn current<P: Platform>(platform: &P) -> CpuState {
        let mut fpu = alloc::vec![0; platform.fpu_size()];
        platform.save_fpu(&mut fpu);
        CpuState { fs_base: platform.fs_base(), gs_base: platform.gs_base(), fpu }
    }

    /// Makes it the calling thread's.
    fn load<P: Platform>(&self, platform: &P) {
        platform.load_fpu(&self.fpu);
        platform.set_fs_base(self.fs_base);
        platform.set_gs_base(self.gs_base);
    }
}

impl<P: Platform> Thread<P> {
    /// Starts another thread of the process; its id. EAGAIN: too many, or no memory for one; EPERM: the FS base is no user address.
    pub fn spawn(&self, new: NewTask) -> Result<u32> {
        let limit = self.process.limits.lock().get(Resource::Processes).soft;
        if self.process.threads().len() as u64 >= limit {
            return Err(Errno::EAGAIN);
        }
        let state = self.inherited(&new)?;
        let tid = self.process.system.next_id();
        let thread = Thread::new(&self.process, self.shared_mm(), tid, &*self.comm.lock());
        if self.start(&thread, new, state).is_err() {
            self.process.remove_thread(&thread);
            return Err(Errno::EAGAIN);
        }
        Ok(tid)
    }

    /// Has `thread` run, with what it inherits from this one.
    fn start(&self, thread: &Arc<Thread<P>>, new: NewTask, state: CpuState) -> Result<(), OutOfMemory> {
        let platform = self.platform();
        thread.signals.lock().blocked = self.signals.lock().blocked;
        *thread.clear_child_tid.lock() = new.clear_child_tid;
        if let Some(at) = new.set_parent_tid.non_null() {
            // As on Linux, a wrong pointer is the program's loss.
            let _ = self.mm().store(at, thread.tid);
        }
        // A fatal signal may have been sent to all threads before this one was among them.
        if thread.process.exit_status().is_some() {
            thread.call_attention();
        }
        let body = thread.clone();
        let started = platform.spawn(Box::new(move || {
            body.mm().activate();
            state.load(platform);
            drop(state);
            if let Some(at) = new.set_child_tid.non_null() {
                let _ = body.mm().store(at, body.tid);
            }
            run(body, new.registers).leave();
        }));
        started.map(drop)
    }

    /// The state that the CPU starts a thread with. EPERM: the FS base is no user address.
    fn inherited(&self, new: &NewTask) -> Result<CpuState> {
        let mut state = CpuState::current(self.platform());
        if let Some(tls) = new.tls {
            if tls >= self.platform().user_range().end as u64 {
                return Err(Errno::EPERM);
            }
            state.fs_base = tls;
        }
        Ok(state)
    }

    /// Starts a process that is a copy of this one, with one thread, a copy of this one. EAGAIN: too many processes; ENOMEM; EPERM.
    pub fn fork(&self, new: NewTask, how: &Fork) -> Result<Arc<Process<P>>> {
        let parent = &self.process;
        let limit = parent.limits.lock().get(Resource::Processes).soft;
        if parent.processes.all().len() as u64 >= limit {
            return Err(Errno::EAGAIN);
        }
        let state = self.inherited(&new)?;
        let mm = if how.shares_memory { self.shared_mm() } else { self.mm().fork()? };
        let pid = parent.system.next_id();
        let before = *parent.identity.lock();
        let identity = Identity { pid, ppid: before.pid, ..before };
        let fds = parent.fds.lock().clone();
        let fs = parent.fs.lock().as_ref().clone();
        let system = parent.system.clone();
        let processes = parent.processes.clone();
        let child = Process::new(parent.platform(), system, processes, identity, fds, fs, mm.clone());
        *child.limits.lock() = parent.limits.lock().clone();
        *child.program.lock() = parent.program.lock().clone();
        *child.prctl.lock() =
            Prctl { parent_death_signal: 0, child_subreaper: false, ..*parent.prctl.lock() };
        let actions = parent.signals.lock().inherited(how.clears_handlers);
        *child.signals.lock() = actions;
        child.exit_signal.store(how.exit_signal, Ordering::Relaxed);
        child.memory_returned.store(!how.waits_for_memory, Ordering::Relaxed);
        let thread = Thread::new(&child, mm, pid, &*self.comm.lock());
        if !how.shares_memory || how.waits_for_memory {
            thread.signals.lock().stack = self.signals.lock().stack;
        }
        child.processes.add(&child);
        if self.start(&thread, new, state).is_err() {
            child.processes.remove(&child);
            return Err(Errno::EAGAIN);
        }
        Ok(child)
    }

    /// Waits until `child` executes a program or ends (`vfork(2)`); no signal but a fatal one shortens that.
    pub fn wait_for_memory(&self, child: &Process<P>) {
        let mut returned = || child.memory_returned.load(Ordering::Acquire);
        while !returned() && !self.is_ending() {
            self.wait_regardless(&self.process.child_changed, &mut returned);
            if self.has_fatal_signal() {
                return;
            }
        }
    }
}
