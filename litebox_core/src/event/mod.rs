//! Readiness and waiting: wait queues, and timers.

mod timer;
mod wait;

pub use timer::{Armed, Driver, Expire, TimerQueue};
pub use wait::{Registration, WaitQueue};
