//! What a launch puts into memory.

pub mod igvm;
pub mod launch;
pub mod linux;

#[cfg(test)]
mod tests;
