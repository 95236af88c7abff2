//! The nested page table: what the guest reaches without an exit.
//!
//! QEMU's CPU knows no C-bit, so a guest-physical address with the bit set is another address to it: the table has two halves, the private
//! view (addresses with the C-bit) and the shared view. Besides, there is a root for a guest that has paging off, for which every access is
//! private. Invariant: a view maps a page only while the reverse map table grants it; whoever changes that table takes the mapping
//! out first ([`Nested::forget`]), and mappings come back one nested page fault at a time.
//!
//! Source: AMD APM volume 2, sections 5.3 (page tables) and 15.25 (nested paging).

use crate::memory::PhysicalMemory;
use crate::rmp::{LARGE, PAGE, Size};
use alloc::vec::Vec;

const PRESENT: u64 = 1;
/// Present, writable, user: nested entries have no privileges of their own.
const TABLE: u64 = 7;
const LARGE_BIT: u64 = 0x80;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What a mapping lets the guest do, besides reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Writing.
    pub write: bool,
    /// Fetching instructions.
    pub execute: bool,
}

impl Rights {
    /// Everything.
    pub const ALL: Rights = Rights { write: true, execute: true };

    fn bits(self) -> u64 {
        PRESENT | 4 | u64::from(self.write) << 1 | if self.execute { 0 } else { NO_EXECUTE }
    }
}

/// Nested page tables of one guest.
pub struct Nested {
    c_bit: u32,
    levels: u32,
    root: u64,
    /// The root for a guest without paging.
    unpaged: u64,
    free: Vec<u64>,
}

impl Nested {
    /// Tables made of `pages`, which are zeroed memory of the emulator's own. The C-bit is bit `c_bit` of an address.
    ///
    /// `levels` is 5 where the C-bit is above bit 47: then and only then do nested tables have a fifth level, since they have as many as
    /// the hypervisor's own.
    pub fn new(memory: &impl PhysicalMemory, c_bit: u32, levels: u32, pages: Vec<u64>) -> Nested {
        let mut nested = Nested { c_bit, levels, root: 0, unpaged: 0, free: pages };
        nested.root = nested.take(memory).unwrap_or(0);
        nested.unpaged = nested.take(memory).unwrap_or(0);
        // The private half, seen by a guest whose addresses have no C-bit.
        let private = nested.take(memory).unwrap_or(0);
        memory.write_u64(nested.root + nested.index(1 << c_bit, levels) * 8, private | TABLE);
        memory.write_u64(nested.unpaged, private | TABLE);
        nested
    }

    /// The value for N_CR3.
    pub fn root(&self, paging: bool) -> u64 {
        if paging { self.root } else { self.unpaged }
    }

    /// Pages left for tables.
    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    fn shift(&self, level: u32) -> u32 {
        12 + 9 * (level - 1)
    }

    fn index(&self, address: u64, level: u32) -> u64 {
        address >> self.shift(level) & 511
    }

    fn take(&mut self, memory: &impl PhysicalMemory) -> Option<u64> {
        let page = self.free.pop()?;
        memory.write(page, &[0; PAGE as usize]);
        Some(page)
    }

    /// Where the entry for `address` is on `level`; with `make`, tables on the way are made, and large entries split.
    fn slot(&mut self, memory: &impl PhysicalMemory, address: u64, level: u32, make: bool) -> Option<u64> {
        let mut table = self.root;
        for at in (level + 1..=self.levels).rev() {
            let slot = table + self.index(address, at) * 8;
            let entry = memory.read_u64(slot);
            if entry & PRESENT == 0 {
                if !make {
                    return None;
                }
                let page = self.take(memory)?;
                memory.write_u64(slot, page | TABLE);
                table = page;
            } else if entry & LARGE_BIT != 0 && at == 2 {
                let page = self.take(memory)?;
                for i in 0..512 {
                    memory.write_u64(page + i * 8, (entry & !LARGE_BIT) + i * PAGE);
                }
                memory.write_u64(slot, page | TABLE);
                table = page;
            } else {
                table = entry & ADDRESS;
            }
        }
        Some(table + self.index(address, level) * 8)
    }

    /// Maps a page in one view. False: no memory is left for tables.
    pub fn map(
        &mut self,
        memory: &impl PhysicalMemory,
        private: bool,
        gpa: u64,
        spa: u64,
        size: Size,
        rights: Rights,
    ) -> bool {
        let address = (gpa & !(size.bytes() - 1)) | u64::from(private) << self.c_bit;
        let spa = spa & !(size.bytes() - 1);
        let level = if size == Size::Large { 2 } else { 1 };
        let Some(slot) = self.slot(memory, address, level, true) else { return false };
        let old = memory.read_u64(slot);
        if size == Size::Large && old & PRESENT != 0 && old & LARGE_BIT == 0 {
            self.free.push(old & ADDRESS);
        }
        let large = if size == Size::Large { LARGE_BIT } else { 0 };
        memory.write_u64(slot, spa | large | rights.bits());
        true
    }

    /// Takes `size` at `gpa` out of both views. The caller flushes TLBs.
    pub fn forget(&mut self, memory: &impl PhysicalMemory, gpa: u64, size: Size) {
        let base = gpa & !(size.bytes() - 1);
        for view in [0, 1 << self.c_bit] {
            let address = base | view;
            let Some(directory) = self.slot(memory, address, 2, false) else { continue };
            let entry = memory.read_u64(directory);
            if entry & PRESENT == 0 {
                continue;
            }
            if size == Size::Large {
                memory.write_u64(directory, 0);
                if entry & LARGE_BIT == 0 {
                    self.free.push(entry & ADDRESS);
                }
            } else if entry & LARGE_BIT != 0 && self.free.is_empty() {
                // Nothing to split it with: the rest comes back by faults.
                memory.write_u64(directory, 0);
            } else if let Some(slot) = self.slot(memory, address, 1, false) {
                memory.write_u64(slot, 0);
            }
        }
    }

    /// What a view maps `gpa` to.
    pub fn lookup(&self, memory: &impl PhysicalMemory, private: bool, gpa: u64) -> Option<(u64, Size)> {
        let address = gpa | u64::from(private) << self.c_bit;
        let mut table = self.root;
        for level in (1..=self.levels).rev() {
            let entry = memory.read_u64(table + self.index(address, level) * 8);
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 1 {
                return Some(((entry & ADDRESS) + gpa % PAGE, Size::Small));
            }
            if level == 2 && entry & LARGE_BIT != 0 {
                return Some(((entry & ADDRESS) + gpa % LARGE, Size::Large));
            }
            table = entry & ADDRESS;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::TestMemory;

    fn tables(c_bit: u32, levels: u32) -> (TestMemory, Nested) {
        let memory = TestMemory::new(64 * 4096);
        let nested = Nested::new(&memory, c_bit, levels, (1..64).map(|i| i * 4096).collect());
        (memory, nested)
    }

    #[test]
    fn views_are_apart() {
        for (c_bit, levels) in [(51, 5), (47, 4)] {
            let (memory, mut nested) = tables(c_bit, levels);
            assert!(nested.map(&memory, true, 0x5000, 0x9000, Size::Small, Rights::ALL));
            assert!(nested.map(&memory, false, 0x5000, 0xa000, Size::Small, Rights::ALL));
            assert_eq!(nested.lookup(&memory, true, 0x5123), Some((0x9123, Size::Small)));
            assert_eq!(nested.lookup(&memory, false, 0x5123), Some((0xa123, Size::Small)));
            nested.forget(&memory, 0x5000, Size::Small);
            assert_eq!(nested.lookup(&memory, true, 0x5000), None);
            assert_eq!(nested.lookup(&memory, false, 0x5000), None);
        }
    }

    #[test]
    fn forgetting_a_page_splits_a_large_one() {
        let (memory, mut nested) = tables(51, 5);
        assert!(nested.map(&memory, true, LARGE, 3 * LARGE, Size::Large, Rights::ALL));
        assert_eq!(nested.lookup(&memory, true, LARGE + 0x1234), Some((3 * LARGE + 0x1234, Size::Large)));
        nested.forget(&memory, LARGE + PAGE, Size::Small);
        assert_eq!(nested.lookup(&memory, true, LARGE + PAGE), None);
        let below = nested.lookup(&memory, true, LARGE + 2 * PAGE);
        assert_eq!(below, Some((3 * LARGE + 2 * PAGE, Size::Small)));
        let free = nested.free_pages();
        assert!(nested.map(&memory, true, LARGE, 3 * LARGE, Size::Large, Rights::ALL));
        assert_eq!(nested.free_pages(), free + 1, "the table is free again");
    }

    #[test]
    fn without_tables_mapping_fails_and_says_so() {
        let memory = TestMemory::new(64 * 4096);
        let mut nested = Nested::new(&memory, 51, 5, (1..6).map(|i| i * 4096).collect());
        assert!(!nested.map(&memory, true, 0, 0, Size::Small, Rights::ALL));
    }
}
