//! The conformance guest: a bare-metal SNP guest that checks its host, PSP and CPU against AMD's manuals, and says what differs.
//!
//! It prints a line for each check that fails, or that cannot be made here, and at the end `N passed, M failed, K skipped`; then it powers the machine
//! off, or writes 1 to QEMU's debug-exit port. It relies on nothing that it checks other than its own page tables and the GHCB.
//!
//! Sources are named with each check: APM is AMD's Architecture Programmer's Manual, volume 2 (24593) or 3 (24594); GHCB the "SEV-ES
//! Guest-Hypervisor Communication Block Standardization" (56421); ABI the "SEV Secure Nested Paging Firmware ABI" (56860).
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(target_os = "none")]
extern crate alloc;
#[cfg(target_os = "none")]
mod endings;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod measure;
#[cfg(target_os = "none")]
mod naive;
#[cfg(target_os = "none")]
mod report;
#[cfg(target_os = "none")]
mod suite;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("conformance is a bare-metal program; `cargo xtask conformance` builds and starts it");
    std::process::exit(2);
}
