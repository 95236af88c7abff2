//! The launch block: a measured page in which whoever built the image tells the guest where everything is.
//!
//! Its address is in RSI at the entry, which the VMSA holds and the digest covers: nothing here is the host's word. Addresses are guest-physical.

use super::Violation;
use core::ops::Range;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `LITEBOX1`, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"LITEBOX1");

/// The block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LaunchBlock {
    /// [`MAGIC`].
    pub magic: u64,
    /// Everything that the image launched, special pages included: never to be validated again. First byte.
    pub launched_start: u64,
    /// One past the last byte.
    pub launched_end: u64,
    /// In it, what was not launched and is validated by the entry code: the kernel's zeroed data. First byte.
    pub zeroed_start: u64,
    /// One past the last byte.
    pub zeroed_end: u64,
    /// The CPUID page.
    pub cpuid: u64,
    /// The secrets page.
    pub secrets: u64,
    /// The page with the memory map, written by the VMM and not measured.
    pub memory_map: u64,
    /// The manifest.
    pub manifest: u64,
    /// Its length in bytes.
    pub manifest_len: u64,
    /// Position of the C-bit that the page tables of the image have.
    pub c_bit: u64,
    /// The kernel's code goes from the first byte that is launched to here, for those who read the image: the kernel knows its own symbols.
    pub text_end: u64,
    /// Its constants go from there to here, and its initialised data on to `zeroed_start`.
    pub rodata_end: u64,
}

impl LaunchBlock {
    /// Checks a copy of it.
    ///
    /// # Errors
    /// It is none: whoever built the image made a mistake.
    pub fn check(&self) -> Result<(), Violation> {
        let inside = |at: u64, len: u64| {
            at.is_multiple_of(4096)
                && at >= self.launched_start
                && at.checked_add(len).is_some_and(|end| end <= self.launched_end)
        };
        let whole = self.magic == MAGIC
            && self.launched_start < self.launched_end
            && self.launched_end <= 1 << 30
            && inside(self.zeroed_start, self.zeroed_end.saturating_sub(self.zeroed_start))
            && inside(self.cpuid, 4096)
            && inside(self.secrets, 4096)
            && inside(self.memory_map, 4096)
            && inside(self.manifest, self.manifest_len)
            && (32..=51).contains(&self.c_bit)
            && self.launched_start <= self.text_end
            && self.text_end <= self.rodata_end
            && self.rodata_end <= self.zeroed_start;
        if whole { Ok(()) } else { Err(Violation::LaunchBlock) }
    }

    /// What was launched.
    pub fn launched(&self) -> Range<u64> {
        self.launched_start..self.launched_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_lies_inside() {
        let good = LaunchBlock {
            magic: MAGIC,
            launched_start: 0x10_0000,
            launched_end: 0x20_0000,
            zeroed_start: 0x18_0000,
            zeroed_end: 0x19_0000,
            cpuid: 0x1a_0000,
            secrets: 0x1a_1000,
            memory_map: 0x1a_2000,
            manifest: 0x1a_3000,
            manifest_len: 77,
            c_bit: 51,
            text_end: 0x11_0000,
            rodata_end: 0x12_0000,
        };
        assert_eq!(good.check(), Ok(()));
        for bad in [
            LaunchBlock { magic: 0, ..good },
            LaunchBlock { cpuid: 0x20_0000, ..good },
            LaunchBlock { secrets: 0x1a_1001, ..good },
            LaunchBlock { manifest_len: u64::MAX, ..good },
            LaunchBlock { c_bit: 64, ..good },
            LaunchBlock { text_end: 0xf_f000, ..good },
            LaunchBlock { text_end: 0x12_1000, ..good },
            LaunchBlock { rodata_end: 0x18_1000, ..good },
        ] {
            assert_eq!(bad.check(), Err(Violation::LaunchBlock));
        }
    }
}
