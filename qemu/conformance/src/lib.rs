//! What the conformance guest and the builder of its image agree on.
//!
//! The guest itself is the program (`main.rs`), which is bare metal; `cargo xtask conformance` builds an IGVM file of it. This library is the part
//! that both read: the launch block, and the list of scenarios.
#![no_std]
#![forbid(unsafe_code)]

pub mod block;
pub mod scenario;
