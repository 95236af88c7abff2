//! Readiness and waiting: wait queues.

mod wait;

pub use wait::{Registration, WaitQueue};
