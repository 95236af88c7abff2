//! Processes and threads: identity, limits, program execution, the loop that runs user code, exit.
//!
//! A [`Process`] is what threads share; a [`Thread`] runs. A thread's memory never changes: `execve` makes a new [`Thread`] of the same
//! identity, which takes the old one's place in the run loop.

mod caller;
mod clone;
pub mod elf;
mod exec;
mod exit;
mod family;
mod launch;
mod limits;
mod object;
mod procfs;
pub mod signal;
pub mod stack;
#[cfg(test)]
mod tests;
mod thread;
pub mod timers;
mod vdso;

pub use clone::{Fork, NewTask};
pub use exec::{ExecError, execute};
pub use family::{Ended, Processes, Which};
pub use launch::{enter, launch, run};
pub use limits::{Limit, Limits, Resource};
pub use object::{Identity, Process};
pub use thread::Thread;
