//! The reverse map table: for every page of system memory, who owns it, and the instructions that change that.
//!
//! Source: AMD APM volume 2, section 15.36 (SEV-SNP), volume 3 (PVALIDATE, RMPADJUST, RMPUPDATE, PSMASH). An entry is kept per 4 KiB
//! page; a 2 MiB entry lives at its first page and answers for the 512. Invariant: below a 2 MiB entry the entries of the other 511
//! pages are empty, so that nothing is said twice.

use alloc::vec;
use alloc::vec::Vec;

/// Bytes of a small page.
pub const PAGE: u64 = 4096;
/// Bytes of a large page.
pub const LARGE: u64 = 2 << 20;
const PAGES: usize = 512;

/// A page's size in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
}

impl Size {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Size::Small => PAGE,
            Size::Large => LARGE,
        }
    }
}

/// What a page's entry says. `Entry::default()` is a page of the hypervisor's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// It belongs to the guest.
    pub assigned: bool,
    /// The guest accepted it.
    pub validated: bool,
    /// It holds a VMSA.
    pub vmsa: bool,
    /// It stands for 2 MiB.
    pub large: bool,
    /// The only guest-physical address at which it may be used (of the page itself, whatever the entry's size).
    pub gpa: u64,
    /// What VMPL1-3 may do: bit 0 read, 1 write, 2 user execute, 3 supervisor execute. VMPL0 may everything.
    pub permissions: [u8; 3],
}

impl Entry {
    fn pack(self) -> u64 {
        let mut bits = u64::from(self.assigned) | u64::from(self.validated) << 1;
        bits |= u64::from(self.vmsa) << 2 | u64::from(self.large) << 3;
        for (i, p) in self.permissions.iter().enumerate() {
            bits |= u64::from(p & 15) << (4 + 4 * i);
        }
        // 52 physical address bits leave 40 for the page's number.
        bits | (self.gpa >> 12) << 24
    }

    fn unpack(bits: u64) -> Entry {
        let permission = |i: u32| (bits >> (4 + 4 * i)) as u8 & 15;
        Entry {
            assigned: bits & 1 != 0,
            validated: bits & 2 != 0,
            vmsa: bits & 4 != 0,
            large: bits & 8 != 0,
            gpa: bits >> 24 << 12,
            permissions: [permission(0), permission(1), permission(2)],
        }
    }
}

/// RAX of PVALIDATE and RMPADJUST (APM volume 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Fail {
    /// FAIL_INPUT.
    Input = 1,
    /// FAIL_PERMISSION.
    Permission = 2,
    /// FAIL_SIZEMISMATCH.
    SizeMismatch = 6,
}

/// What an access meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Allowed.
    Granted,
    /// A private access to a page that is not the guest's, or a shared one to a page that is.
    WrongOwner,
    /// The page is the guest's at another guest-physical address.
    WrongAddress,
    /// The guest has not validated it.
    NotValidated,
    /// This VMPL may not.
    Vmpl,
}

/// The table, for system memory from zero up.
pub struct Rmp {
    entries: Vec<u64>,
}

impl Rmp {
    /// A table for `memory` bytes from address 0, all of them the hypervisor's.
    pub fn new(memory: u64) -> Rmp {
        let entries = vec![0; memory.div_ceil(LARGE) as usize * PAGES];
        Rmp { entries }
    }

    /// The entry that answers for the page at `spa`; its `gpa` is that page's. Memory beyond the table is the hypervisor's.
    pub fn entry(&self, spa: u64) -> Entry {
        let index = (spa / PAGE) as usize;
        let Some(&own) = self.entries.get(index) else { return Entry::default() };
        let first = Entry::unpack(self.entries.get(index & !(PAGES - 1)).copied().unwrap_or(0));
        if first.assigned && first.large {
            return Entry { gpa: first.gpa + (index % PAGES) as u64 * PAGE, ..first };
        }
        Entry::unpack(own)
    }

    /// Whether the 2 MiB around `spa` have one entry.
    pub fn is_large(&self, spa: u64) -> bool {
        self.entry(spa & !(LARGE - 1)).large
    }

    fn set(&mut self, spa: u64, entry: Entry) {
        if let Some(slot) = self.entries.get_mut((spa / PAGE) as usize) {
            *slot = entry.pack();
        }
    }

    fn update(&mut self, spa: u64, change: impl FnOnce(&mut Entry)) {
        let at = if self.is_large(spa) { spa & !(LARGE - 1) } else { spa & !(PAGE - 1) };
        let mut entry = self.entry(at);
        change(&mut entry);
        self.set(at, entry);
    }

    /// RMPUPDATE: the hypervisor gives a page to the guest (`Some(gpa)`), or takes it back. A page that changes hands is not validated.
    pub fn rmpupdate(&mut self, spa: u64, size: Size, assign: Option<u64>) {
        if size == Size::Small && self.is_large(spa) {
            self.psmash(spa);
        }
        let spa = spa & !(size.bytes() - 1);
        if size == Size::Large {
            for page in 0..PAGES as u64 {
                self.set(spa + page * PAGE, Entry::default());
            }
        }
        let entry = assign.map(|gpa| Entry {
            assigned: true,
            large: size == Size::Large,
            gpa: gpa & !(size.bytes() - 1),
            ..Entry::default()
        });
        self.set(spa, entry.unwrap_or_default());
    }

    /// The PSP hands a page of the launch over: assigned and validated at once (SNP_LAUNCH_UPDATE).
    pub fn launch(&mut self, spa: u64, gpa: u64) {
        self.rmpupdate(spa, Size::Small, Some(gpa));
        self.update(spa, |entry| entry.validated = true);
    }

    /// PSMASH: a 2 MiB entry becomes 512 of 4 KiB that say the same.
    pub fn psmash(&mut self, spa: u64) -> bool {
        let base = spa & !(LARGE - 1);
        if !self.is_large(base) {
            return false;
        }
        let whole = self.entry(base);
        for page in 0..PAGES as u64 {
            self.set(base + page * PAGE, Entry { large: false, gpa: whole.gpa + page * PAGE, ..whole });
        }
        true
    }

    /// Whether the 2 MiB around `spa` could be one entry: all assigned alike and at consecutive addresses.
    fn uniform(&self, base: u64) -> Option<Entry> {
        let first = self.entry(base);
        let same =
            |page: u64| self.entry(base + page * PAGE) == Entry { gpa: first.gpa + page * PAGE, ..first };
        (first.assigned && first.gpa.is_multiple_of(LARGE) && (1..PAGES as u64).all(same)).then_some(first)
    }

    /// PUNSMASH, which the hypervisor asks the PSP for: 512 like entries become one.
    pub fn unsmash(&mut self, spa: u64) -> bool {
        let base = spa & !(LARGE - 1);
        if self.is_large(base) {
            return true;
        }
        let Some(first) = self.uniform(base) else { return false };
        for page in 1..PAGES as u64 {
            self.set(base + page * PAGE, Entry::default());
        }
        self.set(base, Entry { large: true, ..first });
        true
    }

    /// PVALIDATE of a page that the nested table maps at `gpa` to `spa` with a mapping of `mapped`. `Ok` is the carry flag: whether
    /// nothing changed. The caller has turned an unassigned page into a nested page fault before.
    pub fn pvalidate(&mut self, spa: u64, size: Size, mapped: Size, validate: bool) -> Result<bool, Fail> {
        let entry = self.entry(spa);
        match size {
            Size::Large if mapped == Size::Small || !entry.large => return Err(Fail::SizeMismatch),
            Size::Small if entry.large => return Err(Fail::SizeMismatch),
            _ => {}
        }
        if entry.vmsa {
            return Err(Fail::Permission);
        }
        if entry.validated == validate {
            return Ok(true);
        }
        self.update(spa, |entry| entry.validated = validate);
        Ok(false)
    }

    /// RMPADJUST by `vmpl` for `target`: permissions (bits 3:0 as in [`Entry::permissions`]) and whether the page holds a VMSA.
    pub fn rmpadjust(
        &mut self,
        spa: u64,
        size: Size,
        vmpl: u8,
        target: u8,
        permissions: u8,
        vmsa: bool,
    ) -> Result<(), Fail> {
        let entry = self.entry(spa);
        if (size == Size::Large) != entry.large {
            return Err(Fail::SizeMismatch);
        }
        // Only a less privileged level can be adjusted, and to no more than what one may oneself.
        if target <= vmpl || target > 3 || permissions & !15 != 0 {
            return Err(Fail::Permission);
        }
        let own =
            if vmpl == 0 { 15 } else { entry.permissions.get(usize::from(vmpl) - 1).copied().unwrap_or(0) };
        if permissions & !own != 0 || (vmsa && vmpl != 0) {
            return Err(Fail::Permission);
        }
        if vmsa && size == Size::Large {
            return Err(Fail::Input);
        }
        self.update(spa, |entry| {
            if let Some(slot) = entry.permissions.get_mut(usize::from(target) - 1) {
                *slot = permissions;
            }
            entry.vmsa = vmsa;
        });
        Ok(())
    }

    /// Whether a guest at `vmpl` may touch `spa` at `gpa`: `private` is the C-bit, or what counts as if it were set; `needs` are bits as
    /// in [`Entry::permissions`].
    pub fn check(&self, spa: u64, gpa: u64, private: bool, vmpl: u8, needs: u8) -> Access {
        let entry = self.entry(spa);
        if entry.assigned != private {
            return Access::WrongOwner;
        }
        if !private {
            return Access::Granted;
        }
        if entry.gpa != gpa & !(PAGE - 1) {
            return Access::WrongAddress;
        }
        if !entry.validated {
            return Access::NotValidated;
        }
        let allowed = match vmpl {
            0 => 15,
            _ => entry.permissions.get(usize::from(vmpl) - 1).copied().unwrap_or(0),
        };
        if needs & !allowed != 0 { Access::Vmpl } else { Access::Granted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table() -> Rmp {
        Rmp::new(4 * LARGE)
    }

    #[test]
    fn packing_keeps_everything() {
        let entry = Entry {
            assigned: true,
            validated: true,
            vmsa: true,
            large: true,
            gpa: 0xf_ffff_ffff_f000,
            permissions: [1, 7, 15],
        };
        assert_eq!(Entry::unpack(entry.pack()), entry);
        assert_eq!(Entry::unpack(0), Entry::default());
    }

    #[test]
    fn a_page_is_validated_once() {
        let mut rmp = table();
        rmp.rmpupdate(0x3000, Size::Small, Some(0x3000));
        assert_eq!(rmp.check(0x3000, 0x3000, true, 0, 1), Access::NotValidated);
        assert_eq!(rmp.pvalidate(0x3000, Size::Small, Size::Small, true), Ok(false));
        assert_eq!(rmp.check(0x3fff, 0x3fff, true, 0, 1), Access::Granted);
        assert_eq!(rmp.pvalidate(0x3000, Size::Small, Size::Small, true), Ok(true));
        assert_eq!(rmp.pvalidate(0x3000, Size::Small, Size::Small, false), Ok(false));
        assert_eq!(rmp.pvalidate(0x3000, Size::Small, Size::Small, false), Ok(true));
    }

    #[test]
    fn a_page_given_again_is_not_validated() {
        let mut rmp = table();
        rmp.launch(0x5000, 0x5000);
        assert_eq!(rmp.check(0x5000, 0x5000, true, 0, 2), Access::Granted);
        assert_eq!(rmp.check(0x5000, 0x6000, true, 0, 2), Access::WrongAddress);
        assert_eq!(rmp.check(0x5000, 0x5000, false, 0, 2), Access::WrongOwner);
        rmp.rmpupdate(0x5000, Size::Small, Some(0x5000));
        assert_eq!(rmp.check(0x5000, 0x5000, true, 0, 2), Access::NotValidated);
        rmp.rmpupdate(0x5000, Size::Small, None);
        assert_eq!(rmp.check(0x5000, 0x5000, true, 0, 2), Access::WrongOwner);
        assert_eq!(rmp.check(0x5000, 0x5000, false, 0, 2), Access::Granted);
    }

    #[test]
    fn sizes_must_agree() {
        let mut rmp = table();
        rmp.rmpupdate(LARGE, Size::Large, Some(LARGE));
        let inside = LARGE + 5 * PAGE;
        assert_eq!(rmp.entry(inside).gpa, inside);
        assert_eq!(rmp.pvalidate(inside, Size::Small, Size::Large, true), Err(Fail::SizeMismatch));
        assert_eq!(rmp.pvalidate(LARGE, Size::Large, Size::Small, true), Err(Fail::SizeMismatch));
        assert_eq!(rmp.pvalidate(LARGE, Size::Large, Size::Large, true), Ok(false));
        assert!(rmp.psmash(inside));
        assert!(!rmp.psmash(inside));
        assert_eq!(rmp.check(inside, inside, true, 0, 1), Access::Granted);
        assert_eq!(rmp.pvalidate(LARGE, Size::Large, Size::Large, true), Err(Fail::SizeMismatch));
        assert_eq!(rmp.pvalidate(inside, Size::Small, Size::Small, false), Ok(false));
        assert!(!rmp.unsmash(LARGE), "one page differs");
        assert_eq!(rmp.pvalidate(inside, Size::Small, Size::Small, true), Ok(false));
        assert!(rmp.unsmash(LARGE));
        assert!(rmp.is_large(inside));
    }

    #[test]
    fn taking_one_page_splits_the_large_entry() {
        let mut rmp = table();
        rmp.rmpupdate(LARGE, Size::Large, Some(LARGE));
        rmp.pvalidate(LARGE, Size::Large, Size::Large, true).unwrap();
        rmp.rmpupdate(LARGE + PAGE, Size::Small, None);
        assert_eq!(rmp.check(LARGE + PAGE, LARGE + PAGE, false, 0, 3), Access::Granted);
        assert_eq!(rmp.check(LARGE, LARGE, true, 0, 3), Access::Granted);
        assert_eq!(rmp.check(LARGE + 2 * PAGE, LARGE + 2 * PAGE, true, 0, 3), Access::Granted);
    }

    #[test]
    fn a_level_adjusts_only_those_below_it() {
        let mut rmp = table();
        rmp.launch(0x1000, 0x1000);
        assert_eq!(rmp.check(0x1000, 0x1000, true, 1, 1), Access::Vmpl);
        assert_eq!(rmp.rmpadjust(0x1000, Size::Small, 1, 1, 1, false), Err(Fail::Permission));
        assert_eq!(rmp.rmpadjust(0x1000, Size::Small, 0, 4, 1, false), Err(Fail::Permission));
        assert_eq!(rmp.rmpadjust(0x1000, Size::Large, 0, 1, 1, false), Err(Fail::SizeMismatch));
        assert_eq!(rmp.rmpadjust(0x1000, Size::Small, 0, 1, 3, false), Ok(()));
        assert_eq!(rmp.check(0x1000, 0x1000, true, 1, 2), Access::Granted);
        assert_eq!(rmp.check(0x1000, 0x1000, true, 1, 8), Access::Vmpl);
        assert_eq!(rmp.rmpadjust(0x1000, Size::Small, 1, 2, 7, false), Err(Fail::Permission));
        assert_eq!(rmp.rmpadjust(0x1000, Size::Small, 1, 2, 3, true), Err(Fail::Permission));
        assert_eq!(rmp.rmpadjust(0x1000, Size::Small, 0, 1, 0, true), Ok(()));
        assert!(rmp.entry(0x1000).vmsa);
        assert_eq!(rmp.pvalidate(0x1000, Size::Small, Size::Small, false), Err(Fail::Permission));
    }

    proptest! {
        /// No order of instructions gives the guest a page that it has not validated after it last changed hands.
        #[test]
        fn nothing_is_usable_unvalidated(steps in proptest::collection::vec((0u8..7, 0u64..2048, any::<bool>()), 0..200)) {
            let mut rmp = table();
            let mut valid = [false; 2048];
            for (what, page, large) in steps {
                let (spa, base) = (page * PAGE, page / 512 * LARGE);
                let whole = (page / 512 * 512) as usize..(page / 512 * 512 + 512) as usize;
                match what {
                    0 | 1 => {
                        let size = if large { Size::Large } else { Size::Small };
                        rmp.rmpupdate(spa, size, (what == 0).then_some(spa));
                        if large { valid[whole].fill(false) } else { valid[page as usize] = false }
                    }
                    2 | 3 => {
                        let size = if large { Size::Large } else { Size::Small };
                        let assigned = rmp.entry(spa).assigned;
                        if assigned && rmp.pvalidate(spa, size, Size::Large, what == 2) == Ok(false) {
                            if large { valid[whole].fill(what == 2) } else { valid[page as usize] = what == 2 }
                        }
                    }
                    4 => { rmp.psmash(spa); }
                    5 => { rmp.unsmash(base); }
                    _ => { rmp.launch(spa, spa); valid[page as usize] = true; }
                }
            }
            for (page, &valid) in valid.iter().enumerate() {
                let spa = page as u64 * PAGE;
                prop_assert_eq!(rmp.check(spa, spa, true, 0, 1) == Access::Granted, valid, "page {:#x}", spa);
            }
        }
    }
}
