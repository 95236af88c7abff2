//! The memory map that the VMM deposits for an IGVM file, and what of it the guest may use.
//!
//! Source: the IGVM specification, IGVM_VHS_MEMORY_MAP_ENTRY. The map is the host's word: it is copied, must be sorted and without overlaps, and what
//! was launched is taken out of it: a launched page is validated and must never be validated again.

use super::Violation;
use core::ops::Range;

const ENTRY: usize = 24;
/// Stretches that are used; a host with more wastes memory.
pub const MAX: usize = 32;
/// Type 0: memory.
const MEMORY: u16 = 0;
/// No guest has more physical addresses.
const PAGES_MAX: u64 = 1 << 39;

/// Usable stretches, as byte addresses, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    ranges: [Range<u64>; MAX],
    count: usize,
}

impl MemoryMap {
    /// Reads a copy of the parameter page.
    ///
    /// # Errors
    /// Entries that overlap, are not in order, or cannot be; no memory at all.
    pub fn parse(page: &[u8]) -> Result<MemoryMap, Violation> {
        let mut map = MemoryMap { ranges: [const { 0..0 }; MAX], count: 0 };
        let mut last = 0;
        for entry in page.chunks_exact(ENTRY) {
            let quad = |at: usize| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&entry[at..at + 8]);
                u64::from_le_bytes(bytes)
            };
            let (start, pages, kind) = (quad(0), quad(8), u16::from_le_bytes([entry[16], entry[17]]));
            if pages == 0 {
                break;
            }
            let end = start.checked_add(pages).filter(|&end| end <= PAGES_MAX).ok_or(Violation::MemoryMap)?;
            if start < last {
                return Err(Violation::MemoryMap);
            }
            last = end;
            if kind == MEMORY {
                map.push(start << 12..end << 12);
            }
        }
        if map.count == 0 { Err(Violation::MemoryMap) } else { Ok(map) }
    }

    fn push(&mut self, range: Range<u64>) {
        if let Some(slot) = self.ranges.get_mut(self.count) {
            *slot = range;
            self.count += 1;
        }
    }

    /// The stretches.
    pub fn ranges(&self) -> &[Range<u64>] {
        self.ranges.get(..self.count).unwrap_or_default()
    }

    /// The stretch that holds all of `range`.
    pub fn holding(&self, range: &Range<u64>) -> Option<&Range<u64>> {
        self.ranges().iter().find(|r| r.start <= range.start && range.end <= r.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(entries: &[(u64, u64, u16)]) -> Vec<u8> {
        let mut page = vec![0; 4096];
        for (slot, (start, pages, kind)) in page.chunks_exact_mut(ENTRY).zip(entries) {
            slot[..8].copy_from_slice(&start.to_le_bytes());
            slot[8..16].copy_from_slice(&pages.to_le_bytes());
            slot[16..18].copy_from_slice(&kind.to_le_bytes());
        }
        page
    }

    #[test]
    fn only_memory_counts() {
        let map = MemoryMap::parse(&page(&[(0, 0x9f, 0), (0x100, 0x100, 0), (0x200, 1, 1)])).unwrap();
        assert_eq!(map.ranges(), [0..0x9f000, 0x10_0000..0x20_0000]);
        assert!(map.holding(&(0x10_0000..0x11_0000)).is_some());
        assert!(map.holding(&(0x1f_f000..0x20_1000)).is_none());
    }

    #[test]
    fn a_map_that_cannot_be_is_refused() {
        for entries in [
            &[][..],
            &[(0, 1, 1)],
            &[(0x100, 0x100, 0), (0x1ff, 2, 0)],
            &[(0x100, 1, 0), (0, 1, 0)],
            &[(u64::MAX, 2, 0)],
            &[(1 << 40, 1, 0)],
        ] {
            assert_eq!(MemoryMap::parse(&page(entries)), Err(Violation::MemoryMap), "{entries:x?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_sorted(bytes in proptest::collection::vec(any::<u8>(), 0..200), small in proptest::collection::vec((0u64..64, 0u64..64, 0u16..2), 0..9)) {
            for page in [bytes, page(&small)] {
                if let Ok(map) = MemoryMap::parse(&page) {
                    prop_assert!(map.ranges().iter().all(|r| r.start < r.end));
                    prop_assert!(map.ranges().windows(2).all(|w| w[0].end <= w[1].start));
                }
            }
        }
    }
}
