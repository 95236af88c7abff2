//! The memory that a file launches, page by page: what each page holds, and what the first CPU makes of it.
//!
//! A file is foreign bytes: addresses in its registers and page tables may lead anywhere, and every look here can find nothing. The work is
//! bounded by the number of pages in the file.

use std::collections::{BTreeMap, BTreeSet};

use litebox_igvm::PAGE_SIZE;
use litebox_igvm::format::{Directive, PageDataType, PlatformImage};
use litebox_igvm::vmsa::{EntryMode, Vmsa};

/// Bits of a page-table entry or of CR3 that are an address under every C-bit that there is (47 and 51).
const ADDRESS: u64 = 0x7fff_ffff_f000;
/// Present, and maps a large page.
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const CR4_LA57: u64 = 1 << 12;

/// Pages with contents, by address.
#[derive(Clone, Debug, Default)]
pub struct Memory<'a> {
    /// Start of a stretch, and its bytes.
    stretches: BTreeMap<u64, &'a [u8]>,
}

impl<'a> Memory<'a> {
    /// Of the measured pages of an image that have contents in the file.
    pub fn of(image: &PlatformImage<'_, 'a>) -> Self {
        let mut stretches = BTreeMap::new();
        for at in image.directives() {
            if let Directive::PageData(page) = at.header
                && page.data_type == PageDataType::Normal
                && !page.unmeasured
                && !page.shared
                && let Some(data) = page.data
            {
                stretches.insert(page.gpa, data);
            }
        }
        Self { stretches }
    }

    /// The page at an address, which is rounded down.
    pub fn page(&self, gpa: u64) -> Option<&'a [u8; PAGE_SIZE]> {
        let gpa = gpa & !(PAGE_SIZE as u64 - 1);
        let (start, data) = self.stretches.range(..=gpa).next_back()?;
        let at = usize::try_from(gpa - start).ok()?;
        data.get(at..)?.first_chunk()
    }

    /// `length` bytes from an address on, if all of them are there.
    pub fn bytes(&self, gpa: u64, length: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let end = gpa.checked_add(length)?;
        let mut at = gpa;
        while at < end {
            let offset = (at % PAGE_SIZE as u64) as usize;
            let part = self.page(at)?.get(offset..)?;
            let rest = usize::try_from(end - at).unwrap_or(usize::MAX);
            bytes.extend_from_slice(&part[..part.len().min(rest)]);
            at += part.len() as u64;
        }
        Some(bytes)
    }

    fn entry(&self, table: u64, index: u64) -> Option<u64> {
        let at = (index & 511) as usize * 8;
        let entry = self.page(table)?.get(at..at + 8)?;
        Some(u64::from_le_bytes(entry.try_into().ok()?))
    }

    /// The pages that are page tables of a CPU: of those that the file holds.
    pub fn page_tables(&self, cpu: &Vmsa) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        let Some((root, levels)) = tables(cpu) else { return found };
        // The same page may serve at two levels, and a table may lead back to itself: each is looked at once a level.
        let mut level_pages = BTreeSet::from([root]);
        for level in (0..levels).rev() {
            let mut next = BTreeSet::new();
            for table in level_pages.into_iter().filter(|table| self.page(*table).is_some()) {
                found.insert(table);
                if level == 0 {
                    continue;
                }
                for entry in (0..512).filter_map(|index| self.entry(table, index)) {
                    if entry & PRESENT != 0 && entry & LARGE == 0 {
                        next.insert(entry & ADDRESS);
                    }
                }
            }
            level_pages = next;
        }
        found
    }

    /// Where in memory a CPU's first instruction is.
    pub fn first_instruction(&self, cpu: &Vmsa) -> Option<u64> {
        let linear = cpu.cs.base.wrapping_add(cpu.rip);
        let Some((mut table, levels)) = tables(cpu) else {
            let paging = cpu.entry_mode() == EntryMode::Protected { paging: true };
            return (!paging).then_some(linear);
        };
        for level in (0..levels).rev() {
            let shift = 12 + 9 * level;
            let entry = self.entry(table, linear >> shift)?;
            let offset = linear & ((1 << shift) - 1);
            match () {
                () if entry & PRESENT == 0 => return None,
                () if level == 0 || (level <= 2 && entry & LARGE != 0) => {
                    return Some((entry & ADDRESS & !((1 << shift) - 1)) | offset);
                }
                () => table = entry & ADDRESS,
            }
        }
        None
    }
}

/// Root and number of levels of the 64-bit page tables that a CPU starts on.
fn tables(cpu: &Vmsa) -> Option<(u64, u32)> {
    let long = matches!(cpu.entry_mode(), EntryMode::Long | EntryMode::Compatibility);
    long.then_some((cpu.cr3 & ADDRESS, if cpu.cr4 & CR4_LA57 == 0 { 4 } else { 5 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(usize, u64)]) -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE];
        for (index, entry) in entries {
            page[index * 8..index * 8 + 8].copy_from_slice(&entry.to_le_bytes());
        }
        page
    }

    #[test]
    fn tables_are_followed_and_circles_end() {
        const C: u64 = 1 << 51;
        let root = table(&[(0, 0x2000 | PRESENT | C), (1, 0x1000 | PRESENT), (511, 0x9000 | PRESENT)]);
        let middle = table(&[(0, 0x4000_0000 | PRESENT | LARGE | C), (1, 0x3000 | PRESENT | C)]);
        let low = table(&[(0, 0x20_0000 | PRESENT | LARGE | C)]);
        let stretches = BTreeMap::from([(0x1000, &root[..]), (0x2000, &middle), (0x3000, &low)]);
        let memory = Memory { stretches };
        let cpu = |rip| Vmsa::long_mode(rip, 0x1000 | C);
        assert_eq!(memory.page_tables(&cpu(0)), BTreeSet::from([0x1000, 0x2000, 0x3000]));
        assert_eq!(memory.first_instruction(&cpu(0x12_3456)), Some(0x4012_3456));
        assert_eq!(memory.first_instruction(&cpu(0x4000_0123)), Some(0x20_0123));
        assert_eq!(memory.first_instruction(&cpu(0x4020_0000)), None);
        assert_eq!(memory.first_instruction(&Vmsa::protected_mode(0x77)), Some(0x77));
        assert!(memory.page_tables(&Vmsa::protected_mode(0)).is_empty());
    }

    #[test]
    fn bytes_may_cross_pages_but_not_holes() {
        let (first, second) = (vec![1; PAGE_SIZE], vec![2; PAGE_SIZE]);
        let memory = Memory { stretches: BTreeMap::from([(0x1000, &first[..]), (0x2000, &second)]) };
        assert_eq!(memory.bytes(0x1ffe, 4), Some(vec![1, 1, 2, 2]));
        assert_eq!(memory.bytes(0x2fff, 2), None);
        assert_eq!(memory.bytes(u64::MAX, 2), None);
        assert_eq!(memory.page(0xfff), None);
    }
}
