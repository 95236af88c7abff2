//! `Thread`: what runs.

use super::object::Process;
use super::signal::{ThreadSignals, sig};
use crate::mm::{Mm, UserPtr};
use crate::platform::{ExitStatus, Platform, Registers, ThreadToken};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::Mutex;

/// A thread of a process. Its memory is fixed: `execve` makes a new one.
pub struct Thread<P: Platform> {
    /// Its process.
    pub process: Arc<Process<P>>,
    mm: Arc<Mm<P>>,
    /// Its id; the first thread's is the process's.
    pub tid: u32,
    /// Name, at most 15 bytes.
    pub comm: Mutex<[u8; 16]>,
    /// Mask, pending signals, alternate stack.
    pub signals: Mutex<ThreadSignals>,
    /// Cleared, and its waiters woken, when the thread ends (`set_tid_address(2)`).
    pub clear_child_tid: Mutex<UserPtr<u32>>,
    /// Head of the robust futex list, as registered.
    pub robust_list: AtomicU64,
    /// Something is to be done before user mode is entered: an exit, a signal, a new program.
    attention: AtomicBool,
    /// Its status, once it is to end by itself.
    pub(super) ended: Mutex<Option<u8>>,
    /// The platform's thread that runs it.
    token: Mutex<Option<ThreadToken>>,
    /// After `execve`: the thread that takes its place, and its first registers.
    successor: Mutex<Option<(Arc<Thread<P>>, Registers)>>,
}

impl<P: Platform> Thread<P> {
    /// A thread of `process`, whose memory is `mm`.
    pub fn new(process: &Arc<Process<P>>, mm: Arc<Mm<P>>, tid: u32, comm: &[u8]) -> Arc<Thread<P>> {
        let thread = Arc::new(Thread {
            process: process.clone(),
            mm,
            tid,
            comm: Mutex::new([0; 16]),
            signals: Mutex::new(ThreadSignals::default()),
            clear_child_tid: Mutex::new(UserPtr::new(0)),
            robust_list: AtomicU64::new(0),
            attention: AtomicBool::new(false),
            ended: Mutex::new(None),
            token: Mutex::new(None),
            successor: Mutex::new(None),
        });
        thread.set_comm(comm);
        process.add_thread(&thread);
        thread
    }

    /// Its memory.
    #[inline]
    pub fn mm(&self) -> &Mm<P> {
        &self.mm
    }

    /// The same, to keep.
    pub fn shared_mm(&self) -> Arc<Mm<P>> {
        self.mm.clone()
    }

    /// The platform below.
    #[inline]
    pub fn platform(&self) -> &'static P {
        self.process.platform()
    }

    /// Names it; what is beyond 15 bytes is cut.
    pub fn set_comm(&self, name: &[u8]) {
        let mut comm = [0; 16];
        for (to, from) in comm.iter_mut().take(15).zip(name.iter().take_while(|&&b| b != 0)) {
            *to = *from;
        }
        *self.comm.lock() = comm;
    }

    /// Something is to be done before user mode is entered; wakes the thread if it waits.
    pub fn call_attention(&self) {
        self.attention.store(true, Ordering::Release);
        if let Some(token) = *self.token.lock() {
            self.platform().unpark(token);
        }
    }

    /// Takes the call, if there was one.
    #[inline]
    pub fn take_attention(&self) -> bool {
        self.attention.load(Ordering::Acquire) && self.attention.swap(false, Ordering::AcqRel)
    }

    /// Somebody wants this thread back from waiting: it is to end, or a signal has come that it does not block.
    pub fn is_interrupted(&self) -> bool {
        self.is_ending() || self.has_deliverable_signal()
    }

    /// Binds it to the platform's thread that calls.
    pub fn bind(&self) {
        *self.token.lock() = Some(self.platform().current());
    }

    /// Whether the platform's thread that calls runs it.
    pub fn is_current(&self) -> bool {
        *self.token.lock() == Some(self.platform().current())
    }

    /// Nanoseconds of CPU time that it has used.
    pub fn cpu_time(&self) -> u64 {
        let token = *self.token.lock();
        token.map_or(0, |token| self.platform().cpu_time(token))
    }

    /// Hands over to another thread, the only one of the process, after `execve`.
    pub fn succeed(&self, by: Arc<Thread<P>>, registers: Registers) {
        *self.successor.lock() = Some((by, registers));
        self.call_attention();
    }

    /// Who takes its place, if anybody.
    pub fn take_successor(&self) -> Option<(Arc<Thread<P>>, Registers)> {
        self.successor.lock().take()
    }

    /// Ends the whole process, which needs memory that is not there.
    #[cold]
    pub fn out_of_memory(&self) {
        self.platform()
            .log(format_args!("out of memory: the workload is killed; give it more with --memory"));
        self.terminate(ExitStatus::Signaled(sig::KILL as u8));
    }

    /// Ends the whole process.
    pub fn terminate(&self, status: ExitStatus) {
        self.process.terminate(status);
    }
}
