//! Signals: dispositions, masks, what is pending, and what happens by default (`signal(7)`).

use super::thread::Thread;
use crate::platform::{ExitStatus, Platform, Registers};

/// Signal numbers.
#[allow(missing_docs)]
pub mod sig {
    pub const HUP: u32 = 1;
    pub const INT: u32 = 2;
    pub const QUIT: u32 = 3;
    pub const ILL: u32 = 4;
    pub const TRAP: u32 = 5;
    pub const ABRT: u32 = 6;
    pub const BUS: u32 = 7;
    pub const FPE: u32 = 8;
    pub const KILL: u32 = 9;
    pub const USR1: u32 = 10;
    pub const SEGV: u32 = 11;
    pub const USR2: u32 = 12;
    pub const PIPE: u32 = 13;
    pub const ALRM: u32 = 14;
    pub const TERM: u32 = 15;
    pub const CHLD: u32 = 17;
    pub const CONT: u32 = 18;
    pub const STOP: u32 = 19;
    pub const TSTP: u32 = 20;
    pub const TTIN: u32 = 21;
    pub const TTOU: u32 = 22;
    pub const URG: u32 = 23;
    pub const XFSZ: u32 = 25;
    pub const WINCH: u32 = 28;
    pub const MAX: u32 = 64;
}

/// `SIG_DFL` and `SIG_IGN`.
pub const DEFAULT: u64 = 0;
/// See [`DEFAULT`].
pub const IGNORE: u64 = 1;

/// A set of signals; bit n - 1 stands for signal n.
pub type SignalSet = u64;

/// The bit of a signal.
pub fn bit(signal: u32) -> SignalSet {
    if (1..=sig::MAX).contains(&signal) { 1 << (signal - 1) } else { 0 }
}

/// Signals that can neither be blocked, ignored nor caught.
pub const UNBLOCKABLE: SignalSet = 1 << (sig::KILL - 1) | 1 << (sig::STOP - 1);

/// What to do on a signal (`struct kernel_sigaction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Action {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: SignalSet,
}

/// A process's part.
#[derive(Clone, Debug)]
pub struct Signals {
    actions: [Action; sig::MAX as usize],
    /// Sent to the process, and taken by no thread yet.
    pub pending: SignalSet,
}

impl Default for Signals {
    fn default() -> Signals {
        Signals { actions: [Action::default(); sig::MAX as usize], pending: 0 }
    }
}

impl Signals {
    /// The disposition of a signal, 1..=64.
    pub fn action(&self, signal: u32) -> Action {
        self.actions.get(signal.wrapping_sub(1) as usize).copied().unwrap_or_default()
    }

    /// Sets it.
    pub fn set_action(&mut self, signal: u32, action: Action) {
        if let Some(slot) = self.actions.get_mut(signal.wrapping_sub(1) as usize) {
            *slot = action;
        }
    }

    /// Handlers do not survive `execve`; what is ignored stays ignored.
    pub fn reset_handlers(&mut self) {
        for action in &mut self.actions {
            if action.handler != IGNORE {
                *action = Action::default();
            }
        }
    }

    /// The signals whose disposition satisfies `which`.
    pub fn set_where(&self, which: impl Fn(&Action) -> bool) -> SignalSet {
        self.actions
            .iter()
            .enumerate()
            .filter(|(_, action)| which(action))
            .fold(0, |set, (i, _)| set | 1 << i)
    }
}

/// A thread's part.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct ThreadSignals {
    pub blocked: SignalSet,
    pub pending: SignalSet,
    /// Alternate stack: address, size, flags.
    pub stack: (u64, u64, u32),
    /// The mask to return to after the next delivery (`rt_sigsuspend(2)`).
    pub suspended: Option<SignalSet>,
}

/// What a signal does when its disposition is the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// Nothing.
    Ignore,
    /// The process ends.
    Terminate,
    /// The process stops; there is nobody who could continue it, so nothing happens.
    Stop,
}

/// The default of a signal (the table in `signal(7)`).
pub fn default_action(signal: u32) -> DefaultAction {
    match signal {
        sig::CHLD | sig::CONT | sig::URG | sig::WINCH => DefaultAction::Ignore,
        sig::STOP | sig::TSTP | sig::TTIN | sig::TTOU => DefaultAction::Stop,
        _ => DefaultAction::Terminate,
    }
}

impl<P: Platform> Thread<P> {
    /// Whether a signal is pending that this thread does not block, and that would do something.
    pub fn has_deliverable_signal(&self) -> bool {
        let process = self.process.signals.lock();
        let mine = self.signals.lock();
        let candidates = (mine.pending | process.pending) & !mine.blocked;
        (1..=sig::MAX).filter(|&s| candidates & bit(s) != 0).any(|s| match process.action(s).handler {
            IGNORE => false,
            DEFAULT => default_action(s) == DefaultAction::Terminate,
            _ => true,
        })
    }

    /// Sends a signal to this thread.
    pub fn send_signal(&self, signal: u32) {
        self.signals.lock().pending |= bit(signal);
        self.call_attention();
    }

    /// A fault of the workload's own: cannot be ignored or put off. Blocked or ignored, it ends the process.
    pub fn force_signal(&self, signal: u32) {
        let ignored = self.process.signals.lock().action(signal).handler == IGNORE;
        let blocked = self.signals.lock().blocked & bit(signal) != 0;
        if ignored || blocked {
            self.terminate(ExitStatus::Signaled(signal as u8));
        } else {
            self.send_signal(signal);
        }
    }

    /// Delivers what is pending, before user mode is entered.
    pub fn deliver_signals(&self, registers: &mut Registers) {
        let _ = registers;
        loop {
            let (signal, action) = {
                let mut process = self.process.signals.lock();
                let mut mine = self.signals.lock();
                let candidates = (mine.pending | process.pending) & (!mine.blocked | UNBLOCKABLE);
                if candidates == 0 {
                    return;
                }
                let signal = candidates.trailing_zeros() + 1;
                mine.pending &= !bit(signal);
                process.pending &= !bit(signal);
                (signal, process.action(signal))
            };
            let does_nothing = action.handler == IGNORE
                || action.handler == DEFAULT && default_action(signal) != DefaultAction::Terminate;
            if does_nothing {
                continue;
            }
            self.terminate(ExitStatus::Signaled(signal as u8));
            return;
        }
    }
}

/// `rt_sigreturn(2)`: there is no frame to return to while handlers are not run, so this is a forged one.
pub fn restore<P: Platform>(t: &Thread<P>, registers: &mut Registers) {
    let _ = registers;
    t.force_signal(sig::SEGV);
}
