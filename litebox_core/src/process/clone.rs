//! New threads (`clone(2)`).

use super::launch::run;
use super::limits::Resource;
use super::thread::Thread;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::platform::{Platform, Registers};
use alloc::boxed::Box;
use alloc::vec::Vec;

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
        let platform = self.platform();
        let limit = self.process.limits.lock().get(Resource::Processes).soft;
        if self.process.threads().len() as u64 >= limit {
            return Err(Errno::EAGAIN);
        }
        let mut state = CpuState::current(platform);
        if let Some(tls) = new.tls {
            if tls >= platform.user_range().end as u64 {
                return Err(Errno::EPERM);
            }
            state.fs_base = tls;
        }
        let tid = self.process.system.next_id();
        let thread = Thread::new(&self.process, self.shared_mm(), tid, &*self.comm.lock());
        thread.signals.lock().blocked = self.signals.lock().blocked;
        *thread.clear_child_tid.lock() = new.clear_child_tid;
        if let Some(at) = new.set_parent_tid.non_null() {
            // As on Linux, a wrong pointer is the program's loss.
            let _ = self.mm().store(at, tid);
        }
        // A fatal signal may have been sent to all threads before this one was among them.
        if self.process.exit_status().is_some() {
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
        if started.is_err() {
            self.process.remove_thread(&thread);
            return Err(Errno::EAGAIN);
        }
        Ok(tid)
    }
}
