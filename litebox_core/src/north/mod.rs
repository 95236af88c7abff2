//! The North: what a Rust program linked in calls, and what the Linux layer decodes into.

pub mod file;
