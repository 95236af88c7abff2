//! The CPUID page: what the PSP has checked, and all that the guest believes about its CPU.
//!
//! Source: SNP firmware ABI (56860), table 69. Copied before it is looked at. A leaf that is not there is zero. The host's own answers to CPUID are
//! never asked for: nothing here needs what only the host knows (APIC ids, topology).

use super::Violation;

/// Entries that a page holds.
pub const MAX: usize = 64;
const HEADER: usize = 16;
const ENTRY: usize = 48;

/// Leaf of memory encryption: EBX bits 5 to 0 is the position of the C-bit.
const ENCRYPTION: u32 = 0x8000_001f;
/// Extended state.
const XSTATE: u32 = 0xd;

/// EAX, EBX, ECX, EDX.
pub type Leaf = [u32; 4];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    leaf: u32,
    subleaf: u32,
    xcr0: u64,
    xss: u64,
    value: Leaf,
}

/// The table.
#[derive(Clone, Debug)]
pub struct CpuidTable {
    entries: [Entry; MAX],
    count: usize,
}

impl CpuidTable {
    /// Reads a copy of the page.
    ///
    /// # Errors
    /// No entries, too many, or one leaf twice.
    pub fn parse(page: &[u8; 4096]) -> Result<CpuidTable, Violation> {
        let word =
            |at: usize| page.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let quad = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let count = word(0) as usize;
        if count == 0 || count > MAX {
            return Err(Violation::CpuidPage);
        }
        let mut table = CpuidTable { entries: [Entry::default(); MAX], count };
        for i in 0..count {
            let at = HEADER + ENTRY * i;
            let entry = Entry {
                leaf: word(at),
                subleaf: word(at + 4),
                xcr0: quad(at + 8),
                xss: quad(at + 16),
                value: [word(at + 24), word(at + 28), word(at + 32), word(at + 36)],
            };
            let same = |e: &Entry| {
                (e.leaf, e.subleaf, e.xcr0, e.xss) == (entry.leaf, entry.subleaf, entry.xcr0, entry.xss)
            };
            if table.entries.iter().take(i).any(same) {
                return Err(Violation::CpuidPage);
            }
            table.entries[i] = entry;
        }
        Ok(table)
    }

    fn find(&self, leaf: u32, subleaf: u32) -> Option<&Entry> {
        let entries = self.entries.iter().take(self.count);
        entries.filter(|e| e.leaf == leaf && e.subleaf == subleaf).find(|e| {
            // Sizes in leaf 0xD depend on what was on; only the entry for the least is used, and sizes are added up here.
            leaf != XSTATE || subleaf > 1 || (matches!(e.xcr0, 0 | 1 | 3) && e.xss == 0)
        })
    }

    /// What CPUID gives, but for what depends on the CPU's state: OSXSAVE, OSPKE and the sizes of leaf 0xD, for which `xcr0` is what is on.
    pub fn get(&self, leaf: u32, subleaf: u32, xcr0: u64) -> Leaf {
        let indexed = matches!(leaf, 4 | 7 | 0xb | XSTATE | 0x8000_001d);
        let Some(entry) = self.find(leaf, if indexed { subleaf } else { 0 }) else { return [0; 4] };
        let mut value = entry.value;
        if leaf == XSTATE && subleaf == 0 {
            value[1] = self.xstate_size(xcr0);
        }
        value
    }

    /// Bytes of an XSAVE area in standard format for `xcr0`.
    fn xstate_size(&self, xcr0: u64) -> u32 {
        // Legacy region and header.
        let mut size = 576u32;
        for component in (2..63).filter(|n| xcr0 >> n & 1 != 0) {
            if let Some(entry) = self.find(XSTATE, component) {
                let [bytes, offset, ..] = entry.value;
                size = size.max(offset.saturating_add(bytes));
            }
        }
        size
    }

    /// Position of the C-bit.
    ///
    /// # Errors
    /// The leaf is not there, or the position is none.
    pub fn c_bit(&self) -> Result<u32, Violation> {
        let position = self.get(ENCRYPTION, 0, 1)[1] & 0x3f;
        if (32..=51).contains(&position) { Ok(position) } else { Err(Violation::CpuidPage) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A page with these leaves.
    pub(crate) fn page(leaves: &[(u32, u32, u64, Leaf)]) -> [u8; 4096] {
        let mut page = [0; 4096];
        page[..4].copy_from_slice(&(leaves.len() as u32).to_le_bytes());
        for (i, (leaf, subleaf, xcr0, value)) in leaves.iter().enumerate() {
            let at = HEADER + ENTRY * i;
            page[at..at + 4].copy_from_slice(&leaf.to_le_bytes());
            page[at + 4..at + 8].copy_from_slice(&subleaf.to_le_bytes());
            page[at + 8..at + 16].copy_from_slice(&xcr0.to_le_bytes());
            for (j, register) in value.iter().enumerate() {
                page[at + 24 + 4 * j..at + 28 + 4 * j].copy_from_slice(&register.to_le_bytes());
            }
        }
        page
    }

    #[test]
    fn leaves_are_found_and_the_rest_is_zero() {
        let table = CpuidTable::parse(&page(&[(1, 0, 0, [1, 2, 3, 4]), (ENCRYPTION, 0, 0, [2, 0x73, 0, 0])]))
            .unwrap();
        assert_eq!(table.get(1, 9, 1), [1, 2, 3, 4]);
        assert_eq!(table.get(2, 0, 1), [0; 4]);
        assert_eq!(table.c_bit(), Ok(51));
    }

    #[test]
    fn sizes_are_added_up() {
        let leaves =
            [(0xd, 0, 1, [7, 9999, 832, 0]), (0xd, 2, 0, [256, 576, 0, 0]), (0xd, 0, 7, [7, 1, 1, 1])];
        let table = CpuidTable::parse(&page(&leaves)).unwrap();
        assert_eq!(table.get(0xd, 0, 3)[1], 576);
        assert_eq!(table.get(0xd, 0, 7)[1], 832);
    }

    #[test]
    fn what_is_no_table_is_refused() {
        assert_eq!(CpuidTable::parse(&[0; 4096]).err(), Some(Violation::CpuidPage));
        assert_eq!(CpuidTable::parse(&[0xff; 4096]).err(), Some(Violation::CpuidPage));
        let twice = page(&[(1, 0, 0, [1; 4]), (1, 0, 0, [2; 4])]);
        assert_eq!(CpuidTable::parse(&twice).err(), Some(Violation::CpuidPage));
        let none = CpuidTable::parse(&page(&[(1, 0, 0, [0; 4])])).unwrap();
        assert_eq!(none.c_bit(), Err(Violation::CpuidPage));
    }

    proptest! {
        #[test]
        fn no_page_is_too_odd(count in 0u32..70, body in proptest::collection::vec(any::<u8>(), 4092), leaf in any::<u32>(), xcr0 in any::<u64>()) {
            let mut page = [0; 4096];
            page[..4].copy_from_slice(&count.to_le_bytes());
            page[4..].copy_from_slice(&body);
            if let Ok(table) = CpuidTable::parse(&page) {
                table.get(leaf, 0, xcr0);
                table.get(0xd, 0, xcr0);
                let _ = table.c_bit();
            }
        }
    }
}
