//! MSRs that belong to the host: read and written directly in a plain VM, by the GHCB in an SNP guest, where the instruction would raise #VC.
//!
//! MSRs that belong to the CPU's own state (EFER, STAR, FS and GS bases, …) are accessed through the `x86_64` crate everywhere.

use crate::host::HOST;

/// An MSR of the host's.
pub struct Msr(u32);

impl Msr {
    /// The MSR with this number.
    pub const fn new(number: u32) -> Msr {
        Msr(number)
    }

    /// Reads it; what the host denies is zero.
    ///
    /// # Safety
    /// In a plain VM the MSR exists.
    pub unsafe fn read(&self) -> u64 {
        match HOST.ghcb() {
            Some(ghcb) => ghcb.read_msr(self.0).unwrap_or(0),
            // SAFETY: the caller's promise.
            None => unsafe { x86_64::registers::model_specific::Msr::new(self.0).read() },
        }
    }

    /// Writes it.
    ///
    /// # Safety
    /// In a plain VM the MSR exists, takes the value, and does no harm with it.
    pub unsafe fn write(&mut self, value: u64) {
        match HOST.ghcb() {
            // A host that denies it keeps its interrupts for itself; it could do that anyway.
            Some(ghcb) => drop(ghcb.write_msr(self.0, value)),
            // SAFETY: the caller's promise.
            None => unsafe { x86_64::registers::model_specific::Msr::new(self.0).write(value) },
        }
    }
}
