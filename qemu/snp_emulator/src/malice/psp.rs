//! What the PSP lets a host put on the CPUID page.
//!
//! Source: SNP firmware ABI (56860), SNP_LAUNCH_UPDATE for a CPUID page, and the PPR's policies: a feature that the CPU has not, or another position of the C-bit, is
//! refused; features that the host leaves out, and what only the host can know, pass. A coarse model: registers of flags are checked bit by bit, those of
//! encryption must be right, all others (names, topology, sizes) pass.

use crate::cpuid::SEV;

/// Leaves whose registers are flags: leaf, subleaf, and which of EAX to EDX.
const FLAGS: [(u32, u32, [bool; 4]); 4] = [
    (1, 0, [false, false, true, true]),
    (7, 0, [false, true, true, true]),
    (0x8000_0001, 0, [false, false, true, true]),
    (0x8000_0008, 0, [false, true, false, false]),
];

/// Whether the PSP takes `asked` for a register that has `real` on this CPU.
pub fn lets_through(leaf: u32, subleaf: u32, register: u8, real: u32, asked: u32) -> bool {
    if leaf == SEV {
        return asked == real;
    }
    let flags = FLAGS.iter().find(|flags| (flags.0, flags.1) == (leaf, subleaf));
    let is_flags = flags.and_then(|flags| flags.2.get(usize::from(register))).copied().unwrap_or(false);
    !is_flags || asked & !real == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_can_be_taken_away_and_not_added() {
        assert!(lets_through(1, 0, 2, 0b110, 0b010));
        assert!(!lets_through(1, 0, 2, 0b110, 0b111));
        assert!(lets_through(1, 0, 1, 0, 7 << 24), "the APIC id is the host's");
        assert!(lets_through(0, 0, 1, 0x1234, 0x5678), "so are names");
    }

    #[test]
    fn the_c_bit_is_no_hosts_word() {
        assert!(lets_through(SEV, 0, 1, 51, 51));
        assert!(!lets_through(SEV, 0, 1, 51, 47));
    }
}
