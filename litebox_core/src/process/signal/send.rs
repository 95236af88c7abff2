//! Sending signals: to a process, to a thread, and to a thread that has earned one.

use super::info::{Info, code};
use super::{Action, DEFAULT, IGNORE, UNBLOCKABLE, bit};
use crate::errno::Result;
use crate::platform::{ExitStatus, Platform};
use crate::process::limits::Resource;
use crate::process::{Process, Thread};

impl<P: Platform> Process<P> {
    /// Sends a signal that any of the threads may take; `false`: it is thrown away, since it would do nothing. EAGAIN: too many real-time signals wait.
    pub fn send(&self, info: Info) -> Result<bool> {
        let limit = self.limits.lock().get(Resource::PendingSignals).soft;
        let signal = info.number();
        let threads = self.threads();
        // Who is to take it; nobody while all block it.
        let taker = threads.iter().find(|thread| !thread.blocks(signal));
        {
            let mut signals = self.signals.lock();
            if taker.is_some() && signals.action(signal).ignores(signal) {
                return Ok(false);
            }
            signals.pending.add(info, limit)?;
        }
        if let Some(thread) = taker {
            thread.call_attention();
        }
        self.signal_arrived.wake_all();
        Ok(true)
    }

    /// A thread has ended, or blocks more than before: others may have to take what it was told of.
    pub fn retarget(&self) {
        let pending = self.signals.lock().pending.set();
        if pending != 0 {
            self.threads().iter().for_each(|thread| thread.call_attention());
        }
    }
}

impl<P: Platform> Thread<P> {
    /// Whether it holds `signal` back.
    pub fn blocks(&self, signal: u32) -> bool {
        self.signals.lock().blocked & bit(signal) != 0
    }

    /// Sends a signal to this thread alone; otherwise like [`Process::send`].
    pub fn send(&self, info: Info) -> Result<bool> {
        let limit = self.process.limits.lock().get(Resource::PendingSignals).soft;
        let signal = info.number();
        {
            let process = self.process.signals.lock();
            let mut mine = self.signals.lock();
            if mine.blocked & bit(signal) == 0 && process.action(signal).ignores(signal) {
                return Ok(false);
            }
            mine.pending.add(info, limit)?;
        }
        self.call_attention();
        self.process.signal_arrived.wake_all();
        Ok(true)
    }

    /// The same, in its own name, for what it did itself (SIGPIPE, SIGXFSZ).
    pub fn send_own(&self, signal: u32) {
        let uid = self.process.fs.lock().credentials.uid;
        // Standard signals are never refused.
        let _ = self.send(Info::from_process(signal, code::USER, self.process.pid(), uid));
    }

    /// A fault of the workload's own: cannot be ignored or put off. Blocked or ignored, it ends the process.
    pub fn force_signal(&self, info: Info) {
        let signal = info.number();
        let ignored = self.process.signals.lock().action(signal).handler == IGNORE;
        if ignored || self.blocks(signal) || self.send(info).is_err() {
            self.terminate(ExitStatus::Signaled(signal as u8));
        }
    }

    /// A handler cannot be entered, or a frame not be returned to: SIGSEGV, by force when that was what could not be delivered.
    pub(super) fn force_segv(&self, instead_of: u32) {
        let segv = super::sig::SEGV;
        if instead_of == segv {
            let mut process = self.process.signals.lock();
            let action = process.action(segv);
            process.set_action(segv, Action { handler: DEFAULT, ..action });
        }
        self.force_signal(Info::kernel(segv));
    }

    /// Whether a signal is pending that this thread does not block, and that would do something.
    pub fn has_deliverable_signal(&self) -> bool {
        let process = self.process.signals.lock();
        let mine = self.signals.lock();
        let candidates = (mine.pending.set() | process.pending.set()) & !mine.blocked;
        candidates != 0
            && (1..=super::sig::MAX).any(|s| candidates & bit(s) != 0 && !process.action(s).ignores(s))
    }

    /// Whether SIGKILL is pending: what ends even a wait that no other signal does.
    pub fn has_fatal_signal(&self) -> bool {
        let kill = bit(super::sig::KILL);
        self.process.signals.lock().pending.set() & kill != 0 || self.signals.lock().pending.set() & kill != 0
    }

    /// Changes the mask.
    pub fn set_blocked(&self, blocked: super::SignalSet) {
        let blocked = blocked & !UNBLOCKABLE;
        let before = core::mem::replace(&mut self.signals.lock().blocked, blocked);
        if blocked & !before != 0 {
            self.process.retarget();
        }
        self.call_attention();
    }
}
