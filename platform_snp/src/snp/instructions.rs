//! The seam: the CPU's instructions and MSR that SNP adds.

use super::Violation;

/// A page's size, as PVALIDATE, RMPADJUST and page state changes have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
}

impl PageSize {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            PageSize::Small => 4096,
            PageSize::Large => 2 << 20,
        }
    }
}

/// How PVALIDATE ended, where that is not an attack (AMD APM volume 3, PVALIDATE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    /// The page changed its state.
    Changed,
    /// FAIL_SIZEMISMATCH: the 2 MiB are 4 KiB pages to the host.
    SizeMismatch,
}

/// What the CPU of an SNP guest can do.
pub trait Instructions: Send + Sync {
    /// PVALIDATE of the page at virtual address `at`.
    ///
    /// # Errors
    /// [`Violation::DoubleValidation`] if nothing changed (CF = 1), [`Violation::Pvalidate`] for any other failure.
    fn pvalidate(&self, at: u64, size: PageSize, validate: bool) -> Result<Validation, Violation>;

    /// RMPADJUST of the page at virtual address `at`; the value is RAX, 0 for success.
    fn rmpadjust(&self, at: u64, size: PageSize, attributes: u64) -> u64;

    /// Sends a value by the GHCB MSR and VMGEXIT, and returns the MSR's new value.
    fn msr_exchange(&self, value: u64) -> u64;

    /// VMGEXIT with the GHCB page at guest-physical address `ghcb`.
    fn vmgexit(&self, ghcb: u64);

    /// Ends the guest: sends the value for ever.
    fn terminate(&self, value: u64) -> !;
}

/// RAX, ECX, EDX in; RAX and CF out: one place for what the results mean.
pub fn validation(rax: u64, carry: bool) -> Result<Validation, Violation> {
    const SIZE_MISMATCH: u64 = 6;
    match (rax, carry) {
        (0, false) => Ok(Validation::Changed),
        (0, true) => Err(Violation::DoubleValidation),
        (SIZE_MISMATCH, _) => Ok(Validation::SizeMismatch),
        _ => Err(Violation::Pvalidate),
    }
}

#[cfg(target_arch = "x86_64")]
pub use native::Native;

#[cfg(target_arch = "x86_64")]
mod native {
    use super::{Instructions, PageSize, Validation, Violation, validation};
    use core::arch::asm;

    /// The CPU.
    pub struct Native(());

    impl Native {
        /// # Safety
        /// Runs in ring 0 of an SNP guest; whoever changes pages through it keeps memory that is in use as it is.
        pub const unsafe fn new() -> Native {
            Native(())
        }
    }

    const MSR_GHCB: u32 = 0xc001_0130;

    fn write_msr(value: u64) {
        // SAFETY: ring 0 of an SNP guest, by the contract of `new`; the MSR is the guest's to write without an exit.
        unsafe {
            asm!("wrmsr", in("ecx") MSR_GHCB, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags))
        };
    }

    fn exit() {
        // SAFETY: as above; the host may change shared memory meanwhile, and nothing else of ours.
        unsafe { asm!("rep", "vmmcall", options(nostack)) };
    }

    impl Instructions for Native {
        fn pvalidate(&self, at: u64, size: PageSize, validate: bool) -> Result<Validation, Violation> {
            let (rax, carry): (u64, u8);
            // SAFETY: as above; what the page holds is the caller's concern.
            unsafe {
                asm!(
                    ".byte 0xf2, 0x0f, 0x01, 0xff",
                    "setc {carry}",
                    carry = out(reg_byte) carry,
                    inout("rax") at => rax,
                    in("ecx") u32::from(size == PageSize::Large),
                    in("edx") u32::from(validate),
                    options(nostack)
                );
            }
            validation(rax, carry != 0)
        }

        fn rmpadjust(&self, at: u64, size: PageSize, attributes: u64) -> u64 {
            let rax: u64;
            // SAFETY: as above; permissions of other VMPLs are nothing to us.
            unsafe {
                asm!(
                    ".byte 0xf3, 0x0f, 0x01, 0xfe",
                    inout("rax") at => rax,
                    in("rcx") u64::from(size == PageSize::Large),
                    in("rdx") attributes,
                    options(nostack)
                );
            }
            rax
        }

        fn msr_exchange(&self, value: u64) -> u64 {
            write_msr(value);
            exit();
            let (low, high): (u32, u32);
            // SAFETY: as in `write_msr`.
            unsafe {
                asm!("rdmsr", in("ecx") MSR_GHCB, out("eax") low, out("edx") high, options(nostack, preserves_flags))
            };
            u64::from(high) << 32 | u64::from(low)
        }

        fn vmgexit(&self, ghcb: u64) {
            write_msr(ghcb);
            exit();
        }

        fn terminate(&self, value: u64) -> ! {
            loop {
                write_msr(value);
                exit();
                // SAFETY: stops; a host that lets the guest run on finds it here again.
                unsafe { asm!("hlt", options(nomem, nostack)) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_page_is_an_attack() {
        assert_eq!(validation(0, false), Ok(Validation::Changed));
        assert_eq!(validation(0, true), Err(Violation::DoubleValidation));
        assert_eq!(validation(6, false), Ok(Validation::SizeMismatch));
        for code in [1, 2, 3, 5, 7, u64::MAX] {
            assert_eq!(validation(code, false), Err(Violation::Pvalidate));
        }
    }
}
