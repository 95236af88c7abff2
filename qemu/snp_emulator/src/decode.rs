//! The few instructions that the emulator must know by their bytes, since QEMU's CPU takes them for others or for nothing.
//!
//! Source: AMD APM volume 3. Everything is checked against the whole prefix and opcode: what is not exactly one of these is not emulated.

/// An instruction of SNP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// F3 0F 01 D9 or F2 0F 01 D9.
    Vmgexit,
    /// 0F 01 D9 without those prefixes.
    Vmmcall,
    /// F2 0F 01 FF.
    Pvalidate,
    /// F3 0F 01 FE.
    Rmpadjust,
    /// F3 0F 01 FD.
    Rmpquery,
    /// F3 0F 01 FF: the hypervisor's.
    Psmash,
    /// F2 0F 01 FE: the hypervisor's.
    Rmpupdate,
}

impl Instruction {
    /// Bytes that it is long.
    pub fn len(self) -> u64 {
        if self == Instruction::Vmmcall { 3 } else { 4 }
    }

    /// Never.
    pub fn is_empty(self) -> bool {
        false
    }
}

/// Decodes the bytes at the instruction pointer.
pub fn decode(bytes: [u8; 4]) -> Option<Instruction> {
    Some(match bytes {
        [0xf2 | 0xf3, 0x0f, 0x01, 0xd9] => Instruction::Vmgexit,
        [0x0f, 0x01, 0xd9, _] => Instruction::Vmmcall,
        [0xf2, 0x0f, 0x01, 0xff] => Instruction::Pvalidate,
        [0xf3, 0x0f, 0x01, 0xfe] => Instruction::Rmpadjust,
        [0xf3, 0x0f, 0x01, 0xfd] => Instruction::Rmpquery,
        [0xf3, 0x0f, 0x01, 0xff] => Instruction::Psmash,
        [0xf2, 0x0f, 0x01, 0xfe] => Instruction::Rmpupdate,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_opcode_counts() {
        assert_eq!(decode([0xf3, 0x0f, 0x01, 0xd9]), Some(Instruction::Vmgexit));
        assert_eq!(decode([0x0f, 0x01, 0xd9, 0xc3]), Some(Instruction::Vmmcall));
        assert_eq!(decode([0xf2, 0x0f, 0x01, 0xff]), Some(Instruction::Pvalidate));
        assert_eq!(decode([0x66, 0x0f, 0x01, 0xff]), None);
        assert_eq!(decode([0x0f, 0x0b, 0, 0]), None);
    }
}
