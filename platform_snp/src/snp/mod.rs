//! What is SNP's own: the instructions, the GHCB, who owns which page, and the pages that the PSP fills.
//!
//! Everything here is generic over [`Instructions`], the seam to the CPU, so that it runs in `cargo test` against a scripted host. What goes
//! wrong is a [`Violation`]: the host did what an honest one cannot, and the guest ends with a reason code of its own.

pub mod cpuid_page;
pub mod exception;
pub mod ghcb;
pub mod instructions;
pub mod launch;
pub mod memory_map;
pub mod msr_protocol;
pub mod page_state;
pub mod secrets_page;
pub mod violation;

pub use instructions::Instructions;
pub use violation::Violation;
