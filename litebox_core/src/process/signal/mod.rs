//! Signals: dispositions, masks, what is pending, and what happens by default (`signal(7)`).
//!
//! `info` has what waits, `send` who gets it, `deliver` what happens on the way to user mode, `frame` how a handler is entered and left, `fault` what
//! user mode's own mistakes become.
//!
//! Locks: a process's signals before a thread's, and nothing else under either. Nothing is woken and nothing copied under them.

mod deliver;
mod fault;
mod frame;
pub mod info;
mod send;
mod stack;
#[cfg(test)]
mod tests;

pub use frame::max_size as max_frame_size;
pub use info::{Info, Pending};
pub use stack::AltStack;

use crate::errno::Errno;
use crate::linux::Restart;
use frame::FaultRegisters;

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
    pub const VTALRM: u32 = 26;
    pub const PROF: u32 = 27;
    pub const WINCH: u32 = 28;
    pub const SYS: u32 = 31;
    pub const MAX: u32 = 64;
}

/// Flags of an action (`sigaction(2)`).
#[allow(missing_docs)]
pub mod sa {
    pub const NOCLDSTOP: u64 = 1;
    pub const NOCLDWAIT: u64 = 2;
    pub const SIGINFO: u64 = 4;
    pub const RESTORER: u64 = 0x0400_0000;
    pub const ONSTACK: u64 = 0x0800_0000;
    pub const RESTART: u64 = 0x1000_0000;
    pub const NODEFER: u64 = 0x4000_0000;
    pub const RESETHAND: u64 = 0x8000_0000;
    /// The others do not stick: that is how programs find out.
    pub const KNOWN: u64 =
        NOCLDSTOP | NOCLDWAIT | SIGINFO | RESTORER | ONSTACK | RESTART | NODEFER | RESETHAND;
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
    pub pending: Pending,
}

impl Default for Signals {
    fn default() -> Signals {
        Signals { actions: [Action::default(); sig::MAX as usize], pending: Pending::default() }
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

    /// What a child starts with: the same dispositions, or without handlers, and nothing pending.
    #[must_use]
    pub fn inherited(&self, clears_handlers: bool) -> Signals {
        let mut copy = Signals { actions: self.actions, pending: Pending::default() };
        if clears_handlers {
            copy.reset_handlers();
        }
        copy
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
#[derive(Clone, Debug, Default)]
pub struct ThreadSignals {
    /// What it holds back; never has [`UNBLOCKABLE`].
    pub blocked: SignalSet,
    /// What was sent to it alone.
    pub pending: Pending,
    /// The alternate stack.
    pub stack: AltStack,
    /// The mask to return to after the next delivery (`rt_sigsuspend(2)`).
    pub suspended: Option<SignalSet>,
    /// The system call that a signal interrupted, until that signal is delivered.
    pub(super) interrupted: Option<Interrupted>,
    /// How `restart_syscall` goes on.
    pub restart: Option<Restart>,
    fault: FaultRegisters,
}

impl ThreadSignals {
    /// What a new program inherits (`execve(2)`): mask and pending signals.
    #[must_use]
    pub fn for_exec(self) -> ThreadSignals {
        ThreadSignals { blocked: self.blocked, pending: self.pending, ..ThreadSignals::default() }
    }
}

/// A system call that gave up for a signal's sake.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interrupted {
    /// What was in RAX.
    number: u64,
    /// One of [`Errno`]'s restarts.
    how: Errno,
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

impl Action {
    /// Whether `signal` is thrown away.
    pub fn ignores(&self, signal: u32) -> bool {
        match self.handler {
            IGNORE => true,
            DEFAULT => default_action(signal) != DefaultAction::Terminate,
            _ => false,
        }
    }
}

/// The default of a signal (the table in `signal(7)`).
pub fn default_action(signal: u32) -> DefaultAction {
    match signal {
        sig::CHLD | sig::CONT | sig::URG | sig::WINCH => DefaultAction::Ignore,
        sig::STOP | sig::TSTP | sig::TTIN | sig::TTOU => DefaultAction::Stop,
        _ => DefaultAction::Terminate,
    }
}
