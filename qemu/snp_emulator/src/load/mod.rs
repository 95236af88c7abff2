//! What a launch puts into memory.

pub mod igvm;
pub mod linux;
