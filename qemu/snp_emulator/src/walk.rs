//! The guest's own page tables, as its CPU walks them.
//!
//! Table pages are always private, whatever the C-bit in the entry that points at them says (AMD APM volume 2, section 15.34.5); the C-bit of
//! the last entry decides for the page itself. With paging off everything is private.

use crate::memory::PhysicalMemory;
use crate::vmcb::{Vmcb, efer};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const LARGE_BIT: u64 = 0x80;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where a virtual address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The guest-physical address, C-bit removed.
    pub gpa: u64,
    /// Whether the C-bit is set.
    pub private: bool,
    /// Size of the page, in bytes.
    pub size: u64,
    /// Whether all levels allow writing.
    pub writable: bool,
    /// Whether all levels allow ring 3.
    pub user: bool,
}

/// Translates `address` with the page tables of the guest; `spa` finds the memory of a table. `None`: not mapped.
pub fn translate(
    memory: &impl PhysicalMemory,
    spa: impl Fn(u64) -> Option<u64>,
    vmcb: &Vmcb,
    c_bit: u32,
    address: u64,
) -> Option<Page> {
    let c = 1u64 << c_bit;
    if !vmcb.paging() {
        return Some(Page {
            gpa: address & 0xffff_ffff,
            private: true,
            size: 4096,
            writable: true,
            user: true,
        });
    }
    let pae = vmcb.cr4 >> 5 & 1 != 0;
    if !pae {
        return two_level(memory, spa, vmcb, address);
    }
    let long = vmcb.efer & efer::LMA != 0;
    let levels = match (long, vmcb.cr4 >> 12 & 1) {
        (true, 1) => 5,
        (true, _) => 4,
        (false, _) => 3,
    };
    let mut table = if long { vmcb.cr3 & ADDRESS & !c } else { vmcb.cr3 & 0xffff_ffe0 };
    let (mut writable, mut user) = (true, true);
    for level in (1..=levels).rev() {
        let shift = 12 + 9 * (level - 1);
        let index = if level == 3 && !long { address >> 30 & 3 } else { address >> shift & 511 };
        let entry = memory.read_u64(spa(table + index * 8)?);
        if entry & PRESENT == 0 {
            return None;
        }
        if long || level < 3 {
            writable &= entry & WRITABLE != 0;
            user &= entry & USER != 0;
        }
        let leaf = level == 1 || (entry & LARGE_BIT != 0 && (level == 2 || (level == 3 && long)));
        if leaf {
            let size = 1u64 << shift;
            let base = entry & ADDRESS & !c & !(size - 1);
            return Some(Page {
                gpa: base | (address & (size - 1)),
                private: entry & c != 0,
                size,
                writable,
                user,
            });
        }
        table = entry & ADDRESS & !c;
    }
    None
}

/// 32-bit paging without PAE: there is no room for a C-bit in an entry.
fn two_level(
    memory: &impl PhysicalMemory,
    spa: impl Fn(u64) -> Option<u64>,
    vmcb: &Vmcb,
    address: u64,
) -> Option<Page> {
    let entry = |table: u64, index: u64| {
        let at = spa(table + index * 4)?;
        let mut bytes = [0; 4];
        memory.read(at, &mut bytes);
        Some(u64::from(u32::from_le_bytes(bytes)))
    };
    let directory = entry(vmcb.cr3 & 0xffff_f000, address >> 22 & 1023)?;
    if directory & PRESENT == 0 {
        return None;
    }
    let (mut writable, mut user) = (directory & WRITABLE != 0, directory & USER != 0);
    if directory & LARGE_BIT != 0 && vmcb.cr4 >> 4 & 1 != 0 {
        let gpa = (directory & 0xffc0_0000) | (address & 0x3f_ffff);
        return Some(Page { gpa, private: false, size: 4 << 20, writable, user });
    }
    let page = entry(directory & 0xffff_f000, address >> 12 & 1023)?;
    writable &= page & WRITABLE != 0;
    user &= page & USER != 0;
    let gpa = (page & 0xffff_f000) | (address & 0xfff);
    (page & PRESENT != 0).then_some(Page { gpa, private: false, size: 4096, writable, user })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::TestMemory;

    const C: u64 = 1 << 51;

    fn guest() -> (TestMemory, Vmcb) {
        let memory = TestMemory::new(0x10_0000);
        let mut vmcb = Vmcb::ZERO;
        vmcb.cr0 = 0x8000_0001;
        vmcb.cr4 = 0x20;
        vmcb.efer = efer::LMA;
        vmcb.cr3 = 0x1000 | C;
        memory.write_u64(0x1000, 0x2000 | 7 | C);
        memory.write_u64(0x2000, 0x3000 | 7);
        memory.write_u64(0x3000, 0x4000 | 3 | C);
        memory.write_u64(0x3008, 0x20_0000 | 0x83 | C);
        memory.write_u64(0x4008, 0x9000 | 1);
        (memory, vmcb)
    }

    #[test]
    fn four_levels() {
        let (memory, vmcb) = guest();
        let walk = |address| translate(&memory, Some, &vmcb, 51, address);
        let small = Page { gpa: 0x9123, private: false, size: 4096, writable: false, user: false };
        assert_eq!(walk(0x1123), Some(small));
        let large = Page { gpa: 0x21_2345, private: true, size: 2 << 20, writable: true, user: false };
        assert_eq!(walk(0x21_2345), Some(large));
        assert_eq!(walk(0x2000), None);
        assert_eq!(walk(1 << 39), None);
    }

    #[test]
    fn without_paging_everything_is_private() {
        let (memory, mut vmcb) = guest();
        vmcb.cr0 = 1;
        let page = translate(&memory, Some, &vmcb, 51, 0x1_0000_5678).unwrap();
        assert_eq!((page.gpa, page.private), (0x5678, true));
    }

    #[test]
    fn a_table_without_memory_ends_the_walk() {
        let (memory, vmcb) = guest();
        assert_eq!(translate(&memory, |gpa| (gpa < 0x3000).then_some(gpa), &vmcb, 51, 0x1000), None);
    }
}
