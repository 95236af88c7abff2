//! The CPU: descriptor tables, entry to and exit from user mode, traps, features, floating-point state, timer.

pub mod apic;
pub mod cpuid;
pub mod descriptors;
pub mod entry;
pub mod features;
pub mod forged;
pub mod fpu;
pub mod ioapic;
pub mod msr;
pub mod percpu;
pub mod trap;
