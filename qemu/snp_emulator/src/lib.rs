//! An SNP guest's environment in software: what the hardware, its PSP and a KVM host give a guest, for tests without any of them.
//!
//! The library is everything that can be tested on the host; the program (`main.rs`) boots on bare metal inside QEMU, whose CPU runs the guest by
//! SVM, and feeds each exit to [`vm::Machine`]. `docs/emulator.md` explains how to use it and where it differs from hardware.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod access;
pub mod apic;
pub mod counters;
pub mod cpuid;
pub mod decode;
pub mod ending;
pub mod ghcb;
pub mod hardware;
pub mod inject;
mod json;
pub mod load;
pub mod malice;
pub mod memory;
pub mod nested;
pub mod options;
pub mod queues;
pub mod rmp;
pub mod vm;
pub mod vmcb;
pub mod vmsa;
pub mod walk;
