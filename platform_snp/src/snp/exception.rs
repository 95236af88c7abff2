//! Whether an exception that ring 3 took can have been raised by its instruction, or was injected by the host.
//!
//! A host may inject any vector at any point (restricted injection is optional, and KVM does not offer it), and a #VC with any error code (WeSee, CVE-2024-25742). The
//! evidence is the CPU's own: the bytes at RIP and in front of it, and the floating-point status. What cannot be told is named in `docs/threat-model.md`: #UD, #GP, #SS, #DB
//! and a #PF have no witness; the last is harmless, since the fault is looked up.
//!
//! Sources: AMD APM volume 2, 8.2 (vectors), 15.36.9 and appendix C (exit codes); volume 3 for the opcodes.

use super::Violation;

/// Bytes of an instruction at most.
pub const INSTRUCTION: usize = 15;

/// What is known when ring 3 has stopped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// The bytes at RIP, as many as could be read.
    pub at: &'a [u8],
    /// The two bytes in front of RIP.
    pub before: [u8; 2],
    /// The x87 status word.
    pub x87_status: u16,
    /// MXCSR.
    pub mxcsr: u32,
}

/// An instruction of ring 3's that the hardware leaves to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intercepted {
    /// CPUID: from the checked table.
    Cpuid,
    /// RDTSC: the kernel reads it.
    Rdtsc,
    /// RDTSCP: the same, with the CPU's number.
    Rdtscp,
    /// A port, a performance counter: refused, as where it faults by itself.
    Refused,
    /// VMMCALL, RDPRU, MONITOR, MWAIT: not there, in ring 3.
    Undefined,
}

/// Exit codes (APM volume 2, appendix C).
const RDTSC: u64 = 0x6e;
const RDPMC: u64 = 0x6f;
const CPUID: u64 = 0x72;
const IOIO: u64 = 0x7b;
const VMMCALL: u64 = 0x81;
const RDTSCP: u64 = 0x87;
const MONITOR: u64 = 0x8a;
const MWAIT: u64 = 0x8b;
const RDPRU: u64 = 0x8e;
/// A nested page fault on memory that is not validated.
const NOT_VALIDATED: u64 = 0x404;

/// The number of prefixes in front of an opcode.
fn prefixes(code: &[u8]) -> usize {
    let is_prefix = |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    code.iter().take(INSTRUCTION).take_while(|byte| is_prefix(byte)).count()
}

/// What a #VC of ring 3 with this error code asks for, and how long the instruction is that caused it.
///
/// # Errors
/// No instruction there causes it.
pub fn intercepted(error: u64, code: &[u8]) -> Result<(Intercepted, usize), Violation> {
    if error == NOT_VALIDATED {
        return Err(Violation::MemoryLost);
    }
    let skip = prefixes(code);
    let opcode = code.get(skip..).unwrap_or_default();
    let (what, len) = match (error, opcode) {
        (CPUID, [0x0f, 0xa2, ..]) => (Intercepted::Cpuid, 2),
        (RDTSC, [0x0f, 0x31, ..]) => (Intercepted::Rdtsc, 2),
        (RDTSCP, [0x0f, 0x01, 0xf9, ..]) => (Intercepted::Rdtscp, 3),
        (RDPMC, [0x0f, 0x33, ..]) => (Intercepted::Refused, 2),
        (IOIO, [0x6c..=0x6f | 0xe4..=0xe7 | 0xec..=0xef, ..]) => (Intercepted::Refused, 1),
        (VMMCALL, [0x0f, 0x01, 0xd9, ..])
        | (RDPRU, [0x0f, 0x01, 0xfd, ..])
        | (MONITOR, [0x0f, 0x01, 0xc8 | 0xfa, ..])
        | (MWAIT, [0x0f, 0x01, 0xc9 | 0xfb, ..]) => (Intercepted::Undefined, 3),
        _ => return Err(Violation::InjectedVc),
    };
    Ok((what, skip + len))
}

/// Whether ring 3, which is in 64-bit mode always, can have raised exception `vector` by itself. #VC has [`intercepted`].
pub fn is_genuine(vector: u64, evidence: Evidence<'_>) -> bool {
    match vector {
        // #DE: a division.
        0 => {
            let opcode = evidence.at.get(prefixes(evidence.at)..).unwrap_or_default();
            matches!(opcode, [0xf6 | 0xf7, operand, ..] if operand & 0x30 == 0x30)
        }
        // #BP: behind INT3, or INT with that number.
        3 => evidence.before[1] == 0xcc || evidence.before == [0xcd, 3],
        // #MF: the summary bit. #XF: a flag that is not masked.
        16 => evidence.x87_status & 1 << 7 != 0,
        19 => evidence.mxcsr & !(evidence.mxcsr >> 7) & 0x3f != 0,
        // #DB, #UD, #NP, #SS, #GP, #PF.
        1 | 6 | 11..=14 => true,
        // NMI; #OF and #BR, which 64-bit mode has not; #NM and #AC, which CR0 does not ask for; #DF, #TS, #MC, #HV, #SX; what is reserved.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_instruction_is_what_the_code_says_it_is() {
        for (error, code, expected) in [
            (0x72, &[0x0f, 0xa2][..], Ok((Intercepted::Cpuid, 2))),
            (0x72, &[0x66, 0x48, 0x0f, 0xa2, 0x90], Ok((Intercepted::Cpuid, 4))),
            (0x6e, &[0x0f, 0x31], Ok((Intercepted::Rdtsc, 2))),
            (0x87, &[0x0f, 0x01, 0xf9], Ok((Intercepted::Rdtscp, 3))),
            (0x6f, &[0x0f, 0x33], Ok((Intercepted::Refused, 2))),
            (0x7b, &[0xf3, 0x6c], Ok((Intercepted::Refused, 2))),
            (0x81, &[0xf3, 0x0f, 0x01, 0xd9], Ok((Intercepted::Undefined, 4))),
            (0x8a, &[0x0f, 0x01, 0xc8], Ok((Intercepted::Undefined, 3))),
            (0x72, &[0x0f, 0x31], Err(Violation::InjectedVc)),
            (0x72, &[0x0f], Err(Violation::InjectedVc)),
            (0x7b, &[], Err(Violation::InjectedVc)),
            (0x7b, &[0x90], Err(Violation::InjectedVc)),
            (0x400, &[0x8b, 0x00], Err(Violation::InjectedVc)),
            (0x404, &[0x8b, 0x00], Err(Violation::MemoryLost)),
        ] {
            assert_eq!(intercepted(error, code), expected, "{error:#x} {code:x?}");
        }
    }

    #[test]
    fn exceptions_have_witnesses() {
        let at = |at| Evidence { at, ..Evidence::default() };
        let before = |before| Evidence { before, ..Evidence::default() };
        assert!(is_genuine(0, at(&[0x48, 0xf7, 0xf9])) && is_genuine(0, at(&[0xf6, 0x33])));
        assert!(!is_genuine(0, at(&[0x48, 0xf7, 0xe1])) && !is_genuine(0, at(&[0x90, 0xf7])));
        assert!(is_genuine(3, before([0, 0xcc])) && is_genuine(3, before([0xcd, 3])));
        assert!(!is_genuine(3, before([0xcc, 3])));
        assert!(is_genuine(16, Evidence { x87_status: 0x80, ..Evidence::default() }));
        assert!(!is_genuine(16, Evidence { x87_status: 0x3f, ..Evidence::default() }));
        // Division by zero, masked and not.
        assert!(!is_genuine(19, Evidence { mxcsr: 0x1f84, ..Evidence::default() }));
        assert!(is_genuine(19, Evidence { mxcsr: 0x1d84, ..Evidence::default() }));
        for vector in [2, 4, 5, 7, 8, 9, 10, 15, 17, 18, 20, 21, 28, 30, 31] {
            assert!(!is_genuine(vector, Evidence::default()), "{vector}");
        }
    }

    proptest! {
        /// Whatever is at RIP, one instruction at most has a given code, and no more bytes than there are are taken.
        #[test]
        fn no_code_fits_two_instructions(code in proptest::collection::vec(any::<u8>(), 0..16), error in 0u64..0x90, other in 0u64..0x90) {
            if let Ok((_, len)) = intercepted(error, &code) {
                prop_assert!(len <= code.len());
                prop_assert!(other == error || intercepted(other, &code).is_err());
            }
        }
    }
}
