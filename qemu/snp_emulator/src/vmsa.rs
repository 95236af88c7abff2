//! The VMSA: where a virtual CPU's state starts.
//!
//! Source: AMD APM volume 2, table B-4. Up to the PAT it is laid out as the save area of a VMCB; after that come the registers that a
//! VMCB leaves to the hypervisor.

use crate::vmcb::{Registers, Vmcb, efer};

/// Bits of SEV_FEATURES.
pub mod features {
    /// SNP is active; in every VMSA of an SNP guest.
    pub const SNP: u64 = 1 << 0;
    /// Virtual top of memory.
    pub const VTOM: u64 = 1 << 1;
    /// #VC is reflected to a higher VMPL.
    pub const REFLECT_VC: u64 = 1 << 2;
    /// Restricted injection.
    pub const RESTRICTED_INJECTION: u64 = 1 << 3;
    /// Alternate injection.
    pub const ALTERNATE_INJECTION: u64 = 1 << 4;
    /// Debug registers are swapped.
    pub const DEBUG_SWAP: u64 = 1 << 5;
    /// Secure TSC.
    pub const SECURE_TSC: u64 = 1 << 9;
}

/// Bytes of the save area that a VMCB has too.
const COMMON: usize = 0x270;

/// What the control block does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extra {
    /// VMPL.
    pub vmpl: u8,
    /// SEV_FEATURES.
    pub features: u64,
    /// XCR0.
    pub xcr0: u64,
}

/// Why a VMSA cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// EFER.SVME is clear.
    NoSvme,
    /// SEV_FEATURES lacks SNP.
    NotSnp,
    /// Features that this host does not have.
    Features(u64),
}

/// Puts the state of a VMSA into a control block and registers.
pub fn load(
    page: &[u8; 4096],
    supported: u64,
    vmcb: &mut Vmcb,
    registers: &mut Registers,
) -> Result<Extra, Refused> {
    let quad = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&page[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let extra = Extra { vmpl: page[0xca], features: quad(0x3b0), xcr0: quad(0x3e8) };
    if extra.features & features::SNP == 0 {
        return Err(Refused::NotSnp);
    }
    if extra.features & !supported != 0 {
        return Err(Refused::Features(extra.features & !supported));
    }
    if quad(0xd0) & efer::SVME == 0 {
        return Err(Refused::NoSvme);
    }
    // SAFETY: the save area begins at 0x400 of a VMCB (asserted where it is defined) and all its fields are integers; the range lies
    // inside the structure.
    unsafe {
        let save = core::ptr::from_mut(vmcb).cast::<u8>().add(0x400);
        core::ptr::copy_nonoverlapping(page.as_ptr(), save, COMMON);
    }
    for (number, at) in [
        (1, 0x308),
        (2, 0x310),
        (3, 0x318),
        (5, 0x328),
        (6, 0x330),
        (7, 0x338),
        (8, 0x340),
        (9, 0x348),
        (10, 0x350),
        (11, 0x358),
        (12, 0x360),
        (13, 0x368),
        (14, 0x370),
        (15, 0x378),
    ] {
        registers.0[number] = quad(at);
    }
    Ok(extra)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_arrives() {
        let mut page = [0; 4096];
        let mut put = |at: usize, value: u64| page[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(0x3b0, 1);
        put(0x178, 0x1234);
        put(0x330, 0x5678);
        put(0x158, 0x31);
        let (mut vmcb, mut registers) = (Vmcb::ZERO, Registers::default());
        assert_eq!(load(&page, 1, &mut vmcb, &mut registers), Err(Refused::NoSvme));
        page[0xd1] = 0x10;
        let extra = load(&page, 1, &mut vmcb, &mut registers).unwrap();
        assert_eq!((vmcb.rip, vmcb.cr0, registers.rsi()), (0x1234, 0x31, 0x5678));
        assert_eq!(extra, Extra { vmpl: 0, features: 1, xcr0: 0 });
        page[0x3b0] = 0x29;
        assert_eq!(load(&page, 0x21, &mut vmcb, &mut registers), Err(Refused::Features(8)));
        page[0x3b0] = 0;
        assert_eq!(load(&page, 1, &mut vmcb, &mut registers), Err(Refused::NotSnp));
    }
}
