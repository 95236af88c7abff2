//! Delivery: what happens to pending signals on the way to user mode, and to the system call that one of them interrupted.

use super::info::Info;
use super::{Action, DEFAULT, IGNORE, Interrupted, SignalSet, UNBLOCKABLE, bit, frame, sa, sig};
use crate::errno::Errno;
use crate::platform::{ExitStatus, Platform, Registers};
use crate::process::Thread;
use linux_raw_sys::general as nr;

/// Bytes of the SYSCALL instruction.
const SYSCALL_LEN: u64 = 2;

impl Interrupted {
    /// A handler runs first: the call ends with EINTR, or is made again afterwards.
    fn before_handler(self, action: &Action, registers: &mut Registers) {
        if self.how == Errno::ERESTARTSYS && action.flags & sa::RESTART != 0 {
            self.again(registers);
        }
    }

    /// Has user mode make the call again.
    fn again(self, registers: &mut Registers) {
        let block = self.how == Errno::ERESTART_RESTARTBLOCK;
        registers.rax = if block { nr::__NR_restart_syscall.into() } else { self.number };
        registers.rip = registers.rip.wrapping_sub(SYSCALL_LEN);
    }
}

impl<P: Platform> Thread<P> {
    /// Takes note that the system call `number` gave up for a signal; what is to come of it is decided with that signal. Returns EINTR.
    #[cold]
    pub fn interrupt_call(&self, number: u64, how: Errno) -> Errno {
        self.signals.lock().interrupted = Some(Interrupted { number, how });
        self.call_attention();
        Errno::EINTR
    }

    /// The next signal that is not blocked, and what to do on it.
    fn take_signal(&self) -> Option<(Info, Action)> {
        let (mut info, action) = {
            let mut process = self.process.signals.lock();
            let mut mine = self.signals.lock();
            let allowed = !mine.blocked | UNBLOCKABLE;
            let info = mine.pending.take(allowed).or_else(|| process.pending.take(allowed))?;
            let action = process.action(info.number());
            if action.flags & sa::RESETHAND != 0 && action.handler > IGNORE {
                process.set_action(info.number(), Action { handler: DEFAULT, ..action });
            }
            (info, action)
        };
        self.process.signal_taken(&mut info);
        Some((info, action))
    }

    /// Takes a signal out of `set`, whether it is blocked or not (`sigwaitinfo(2)`, `signalfd(2)`).
    pub fn accept_signal(&self, set: SignalSet) -> Option<Info> {
        let mut info = {
            let mut process = self.process.signals.lock();
            let mut mine = self.signals.lock();
            mine.pending.take(set).or_else(|| process.pending.take(set))?
        };
        self.process.signal_taken(&mut info);
        Some(info)
    }

    /// Delivers what is pending, before user mode is entered.
    pub fn deliver_signals(&self, registers: &mut Registers) {
        let mut interrupted = self.signals.lock().interrupted.take();
        loop {
            while let Some((info, action)) = self.take_signal() {
                let signal = info.number();
                if action.ignores(signal) {
                    continue;
                }
                if action.handler == DEFAULT {
                    return self.terminate(ExitStatus::Signaled(signal as u8));
                }
                if let Some(call) = interrupted.take() {
                    call.before_handler(&action, registers);
                }
                if frame::enter(self, registers, &info, &action, self.mask_to_return_to()).is_err() {
                    self.force_segv(signal);
                    if self.process.exit_status().is_some() {
                        return;
                    }
                    continue;
                }
                let own = if action.flags & sa::NODEFER != 0 { 0 } else { bit(signal) };
                let mut mine = self.signals.lock();
                mine.suspended = None;
                mine.blocked = (mine.blocked | action.mask | own) & !UNBLOCKABLE;
            }
            // No handler ran: the mask of `rt_sigsuspend` and its like holds no longer, and may have held something back.
            let mut mine = self.signals.lock();
            match mine.suspended.take() {
                Some(before) => mine.blocked = before,
                None => break,
            }
        }
        if let Some(call) = interrupted {
            call.again(registers);
        }
    }

    fn mask_to_return_to(&self) -> SignalSet {
        let mine = self.signals.lock();
        mine.suspended.unwrap_or(mine.blocked)
    }

    /// `rt_sigreturn(2)`.
    pub fn return_from_handler(&self, registers: &mut Registers) {
        if frame::leave(self, registers).is_err() {
            self.force_signal(Info::kernel(sig::SEGV));
        }
        // The mask has changed.
        self.call_attention();
    }
}
