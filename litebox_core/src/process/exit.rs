//! The end of threads and processes.
//!
//! A thread leaves its run loop when it calls `exit`, when another thread executes a program, or when its process is told to end. The last one that leaves ends the
//! process, with its own status, unless there is a reason that counted for all.

use super::object::Process;
use super::thread::Thread;
use crate::errno::{Errno, Result};
use crate::linux::robust_list_exit;
use crate::platform::{ExitStatus, Platform};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

impl<P: Platform> Thread<P> {
    /// Ends this thread alone (`_exit(2)`, the system call).
    pub fn exit(&self, status: u8) {
        self.ended.lock().get_or_insert(status);
        self.call_attention();
    }

    /// Whether its run loop is to be left.
    pub fn is_ending(&self) -> bool {
        self.ended.lock().is_some() || self.process.exit_status().is_some()
    }

    /// What is owed to others when it has left its run loop: robust futexes, the word that a joiner waits for. Its memory is given up.
    pub fn leave(&self) {
        let platform = self.platform();
        robust_list_exit(self);
        let cleared = *self.clear_child_tid.lock();
        // Whoever waits for the word shares the memory.
        if let Some(at) = cleared.non_null()
            && self.process.threads().len() > 1
            && self.mm().store(at, 0).is_ok()
        {
            crate::linux::futex_wake(self, at.address(), 1);
        }
        self.process.ended_cpu_time.fetch_add(self.cpu_time(), Ordering::Relaxed);
        platform.activate(None);
        let status = *self.ended.lock();
        if self.process.remove_thread(self) {
            self.process.terminate(ExitStatus::Exited(status.unwrap_or_default()));
            self.process.end();
        } else {
            self.process.retarget();
        }
        self.process.thread_left.wake_all();
    }
}

impl<P: Platform> Process<P> {
    /// Takes a thread out; whether it was the last.
    pub(super) fn remove_thread(&self, thread: &Thread<P>) -> bool {
        let mut threads = self.threads.lock();
        threads.retain(|(tid, _)| *tid != thread.tid);
        threads.is_empty()
    }

    /// Ends all threads but `thread`, and waits for their ends; then forgets it too, for its successor of the same process (`execve(2)`). EINTR: it is to end itself.
    pub(super) fn keep_only(&self, thread: &Thread<P>) -> Result<()> {
        let others: alloc::vec::Vec<Arc<Thread<P>>> = {
            // One at a time: who comes second has been ended by the first.
            let threads = self.threads.lock();
            if thread.is_ending() {
                return Err(Errno::EINTR);
            }
            threads
                .iter()
                .filter_map(|(_, other)| other.upgrade())
                .filter(|other| other.tid != thread.tid)
                .collect()
        };
        for other in &others {
            other.exit(0);
        }
        drop(others);
        let alone = &mut || self.threads.lock().len() <= 1;
        while !alone() {
            if thread.is_ending() {
                return Err(Errno::EINTR);
            }
            // Signals wait for the new program.
            thread.wait_regardless(&self.thread_left, alone);
        }
        self.threads.lock().clear();
        Ok(())
    }
}
