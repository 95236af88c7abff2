//! Faults that a host forges where no instruction bears witness: #PF, #UD, #SS and #GP (the others are `platform_snp::snp::exception`'s).
//!
//! A host can inject any vector at any time (Sigy), and no restricted injection is relied on. A page fault leaves its address in CR2, which a host cannot write: CR2 is
//! emptied after each. The others come again when their instruction is executed again, so they are believed the second time in a row; a host that injects one twice at one
//! place is not noticed (`docs/threat-model.md`). Only in an SNP guest: elsewhere the host can do whatever it likes anyway.

use crate::snp;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use platform_snp::snp::Violation;
use x86_64::registers::control::Cr2;

/// What CR2 holds while no page fault is being looked at: not canonical, so that no access faults there with #PF.
const NO_ADDRESS: u64 = 1 << 63;

/// Where an exception that has not come twice was met.
static DOUBTED: AtomicU64 = AtomicU64::new(NO_ADDRESS);

fn empty_cr2() {
    // SAFETY: CR2 has no effect; whoever needs a page fault's address has read it.
    unsafe { asm!("mov cr2, {}", in(reg) NO_ADDRESS, options(nomem, nostack, preserves_flags)) };
}

/// From now on a page fault is one that left an address.
pub fn init() {
    empty_cr2();
}

/// The address of the page fault that is being handled; one that left none ends the guest.
pub fn fault_address() -> u64 {
    let address = Cr2::read_raw();
    if snp::active() {
        if address == NO_ADDRESS {
            snp::terminate(Violation::BadException);
        }
        empty_cr2();
    }
    address
}

/// Whether exception `vector`, which an instruction of ring 3 at `rip` is said to have caused, is to be believed; if not, the instruction is to be executed again.
pub fn is_believed(vector: u64, rip: u64) -> bool {
    if !matches!(vector, 6 | 12 | 13) || !snp::active() {
        return true;
    }
    let again = DOUBTED.swap(rip, Ordering::Relaxed) == rip;
    if again {
        DOUBTED.store(NO_ADDRESS, Ordering::Relaxed);
    }
    again
}
