//! What a launch puts into memory.

pub mod linux;
