//! The commands.

pub mod broker;
pub mod keys;
pub mod verify;
