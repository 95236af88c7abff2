//! Calls with a timeout that a signal interrupted and no handler: how `restart_syscall(2)` goes on with what is left.

use super::{file, futex, time};
use crate::errno::{Errno, Result};
use crate::platform::Platform;
use crate::process::Thread;

/// What was being waited for. Deadlines are monotonic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Restart {
    /// A sleep; what is left goes to `remaining`, if anything is there.
    Sleep { deadline: u64, remaining: u64 },
    /// `futex(2)`, FUTEX_WAIT.
    Futex { address: u64, private: bool, value: u32, bits: u32, deadline: u64 },
    /// `poll(2)`.
    Poll { fds: u64, count: u64, deadline: u64 },
}

pub(super) fn restart_syscall<P: Platform>(t: &Thread<P>) -> Result<usize> {
    let restart = t.signals.lock().restart.take();
    match restart.ok_or(Errno::EINTR)? {
        Restart::Sleep { deadline, remaining } => time::sleep_until(t, deadline, Some(remaining)),
        Restart::Futex { address, private, value, bits, deadline } => {
            futex::wait(t, address, private, value, bits, Some(deadline))
        }
        Restart::Poll { fds, count, deadline } => file::poll_again(t, fds, count, deadline),
    }
}
