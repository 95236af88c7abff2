//! The guest-hypervisor communication block: what a guest asks and how the host reads it.
//!
//! Source: GHCB specification (56421), version 2. [`msr`] is the protocol in the GHCB MSR, [`page`] the layout of the page, [`exits`] the
//! codes and their input. Everything here comes from the guest: it is copied once and checked before use.

pub mod exits;
pub mod msr;
pub mod page;
