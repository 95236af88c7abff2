//! The instructions of SNP, by their bytes, with all that they answer.

use core::arch::asm;

/// What PVALIDATE and its sisters leave: EAX and the flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Return code.
    pub code: u64,
    /// CF: PVALIDATE has changed nothing.
    pub carry: bool,
}

/// SUCCESS, and something was changed.
pub const DONE: Answer = Answer { code: 0, carry: false };
/// SUCCESS, and nothing was changed.
pub const UNCHANGED: Answer = Answer { code: 0, carry: true };
/// FAIL_INPUT.
pub const FAIL_INPUT: u64 = 1;
/// FAIL_PERMISSION.
pub const FAIL_PERMISSION: u64 = 2;
/// FAIL_SIZEMISMATCH.
pub const FAIL_SIZEMISMATCH: u64 = 6;

/// Opcodes.
pub mod opcode {
    /// PVALIDATE.
    pub const PVALIDATE: &[u8] = &[0xf2, 0x0f, 0x01, 0xff];
    /// RMPADJUST.
    pub const RMPADJUST: &[u8] = &[0xf3, 0x0f, 0x01, 0xfe];
    /// RMPQUERY.
    pub const RMPQUERY: &[u8] = &[0xf3, 0x0f, 0x01, 0xfd];
    /// PSMASH.
    pub const PSMASH: &[u8] = &[0xf3, 0x0f, 0x01, 0xff];
    /// RMPUPDATE.
    pub const RMPUPDATE: &[u8] = &[0xf2, 0x0f, 0x01, 0xfe];
}

/// PVALIDATE of the page at a virtual address; `size` is 0 for 4 KiB, 1 for 2 MiB.
pub fn pvalidate(address: u64, size: u64, validate: bool) -> Answer {
    let (mut code, carry): (u64, u8);
    code = address;
    // SAFETY: the instruction changes the page's entry and no memory; what the page holds is not Rust's: pages of the arena only.
    unsafe {
        asm!(".byte 0xf2, 0x0f, 0x01, 0xff", "setc {0}", out(reg_byte) carry, inout("rax") code,
            in("rcx") size, in("rdx") u64::from(validate), options(nostack));
    }
    Answer { code, carry: carry != 0 }
}

/// RMPADJUST: `attributes` are target VMPL 7:0, permissions 15:8, VMSA 16.
pub fn rmpadjust(address: u64, size: u64, attributes: u64) -> u64 {
    let mut code = address;
    // SAFETY: as above.
    unsafe {
        asm!(".byte 0xf3, 0x0f, 0x01, 0xfe", inout("rax") code, in("rcx") size, in("rdx") attributes, options(nostack));
    }
    code
}

/// RMPQUERY for a VMPL: EAX, RDX, RCX.
pub fn rmpquery(address: u64, vmpl: u64) -> (u64, u64, u64) {
    let (mut code, mut attributes, mut size) = (address, vmpl, 0);
    // SAFETY: the instruction only reads an entry.
    unsafe {
        asm!(".byte 0xf3, 0x0f, 0x01, 0xfd", inout("rax") code, inout("rcx") size, inout("rdx") attributes, options(nostack));
    }
    (code, attributes, size)
}
