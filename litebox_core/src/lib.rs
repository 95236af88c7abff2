//! The LiteBox core: a library OS that knows no hardware.
//!
//! Its **North** ([`north`]) is a typed, rustix-like API; the Linux system calls ([`linux`]) decode registers into it.
//! Its **South** ([`platform`]) is a set of small traits that a platform implements. Everything is generic over one
//! [`platform::Platform`]. Rooms look down only: `linux` → `north` → `process` → `fs`, `fd`, `mm` → `event`, `sync`,
//! `time` → `platform`.
#![cfg_attr(not(any(test, feature = "std")), no_std)]

extern crate alloc;

pub mod errno;
pub mod event;
pub mod fd;
pub mod fs;
pub mod linux;
pub mod manifest;
pub mod mm;
pub mod north;
pub mod platform;
pub mod process;
pub mod sync;
pub mod time;

pub use errno::{Errno, Result};
