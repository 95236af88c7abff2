//! System memory, and which of it the host gives the guest at which guest-physical address.

use crate::rmp::PAGE;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Memory of the machine that the emulator runs on, by system-physical address.
pub trait PhysicalMemory {
    /// Fills `into` from `spa`; where there is no memory, with ones.
    fn read(&self, spa: u64, into: &mut [u8]);
    /// Writes `from` at `spa`; where there is no memory, nothing happens.
    fn write(&self, spa: u64, from: &[u8]);

    /// Whether there is memory at `spa`: the guest's, or the emulator's own.
    fn holds(&self, spa: u64) -> bool;

    /// Eight bytes.
    fn read_u64(&self, spa: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(spa, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Eight bytes.
    fn write_u64(&self, spa: u64, value: u64) {
        self.write(spa, &value.to_le_bytes());
    }

    /// Makes the plaintext of a page ciphertext, or ciphertext plaintext: what memory encryption does when the same bytes are looked at
    /// with and without the key. Not a cipher: a keyed stream, different for every page, that is its own inverse.
    fn scramble(&self, spa: u64, key: u64) {
        let mut page = [0; PAGE as usize];
        self.read(spa & !(PAGE - 1), &mut page);
        let mut state = key ^ (spa & !(PAGE - 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for word in page.chunks_exact_mut(8) {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            for (byte, mask) in word.iter_mut().zip((z ^ z >> 31).to_le_bytes()) {
                *byte ^= mask;
            }
        }
        self.write(spa & !(PAGE - 1), &page);
    }
}

/// A stretch of RAM in the guest's physical address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ram {
    /// First guest-physical address.
    pub gpa: u64,
    /// Bytes, a multiple of 4096.
    pub size: u64,
    /// Where it is in system memory.
    pub spa: u64,
}

/// What the host means a page to be (KVM's memory attributes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// The guest's.
    Private,
    /// The host's too.
    Shared,
}

/// The host's idea of the guest's memory: where RAM is, which pages of it are shared, and pages it has put elsewhere.
#[derive(Default)]
pub struct HostMap {
    ram: Vec<Ram>,
    /// One bit per 4 KiB page of RAM, in the order of `ram`: shared.
    shared: Vec<u64>,
    /// Pages whose memory is elsewhere than `ram` says; `None`: nowhere.
    moved: BTreeMap<u64, Option<u64>>,
}

impl HostMap {
    /// Adds RAM. Stretches must not overlap; the caller sees to that.
    pub fn add(&mut self, ram: Ram) {
        self.ram.push(ram);
        let pages: u64 = self.ram.iter().map(|r| r.size / PAGE).sum();
        self.shared.resize(pages.div_ceil(64) as usize, 0);
    }

    /// All RAM.
    pub fn ram(&self) -> &[Ram] {
        &self.ram
    }

    fn find(&self, gpa: u64) -> Option<(&Ram, u64)> {
        let mut before = 0;
        for ram in &self.ram {
            if gpa.wrapping_sub(ram.gpa) < ram.size {
                return Some((ram, before + (gpa - ram.gpa) / PAGE));
            }
            before += ram.size / PAGE;
        }
        None
    }

    /// The system-physical address behind a guest-physical one, if there is memory.
    pub fn spa(&self, gpa: u64) -> Option<u64> {
        if let Some(moved) = self.moved.get(&(gpa & !(PAGE - 1))) {
            return moved.map(|spa| spa + gpa % PAGE);
        }
        self.find(gpa).map(|(ram, _)| ram.spa + (gpa - ram.gpa))
    }

    /// Whether the guest was given RAM there, wherever it is by now.
    pub fn is_ram(&self, gpa: u64) -> bool {
        self.find(gpa).is_some()
    }

    /// Whether 2 MiB from `gpa` are RAM in one piece, none of it moved.
    pub fn is_large(&self, gpa: u64) -> bool {
        let base = gpa & !(crate::rmp::LARGE - 1);
        let whole = self.find(base).is_some_and(|(ram, _)| base - ram.gpa + crate::rmp::LARGE <= ram.size);
        whole && self.moved.range(base..base + crate::rmp::LARGE).next().is_none()
    }

    /// Whose the host means the page to be.
    pub fn attribute(&self, gpa: u64) -> Attribute {
        let shared = self.find(gpa).is_some_and(|(_, page)| {
            self.shared.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 != 0)
        });
        if shared { Attribute::Shared } else { Attribute::Private }
    }

    /// Sets it.
    pub fn set_attribute(&mut self, gpa: u64, attribute: Attribute) {
        let Some((_, page)) = self.find(gpa) else { return };
        let Some(word) = self.shared.get_mut((page / 64) as usize) else { return };
        match attribute {
            Attribute::Shared => *word |= 1 << (page % 64),
            Attribute::Private => *word &= !(1 << (page % 64)),
        }
    }

    /// All pages that the host means to be shared, by guest-physical address.
    pub fn shared_pages(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        let mut before = 0;
        for ram in &self.ram {
            let count = ram.size / PAGE;
            let mut page = before;
            while page < before + count {
                let word = self.shared.get((page / 64) as usize).copied().unwrap_or(0);
                if word == 0 {
                    page = (page / 64 + 1) * 64;
                    continue;
                }
                if word >> (page % 64) & 1 != 0 {
                    pages.push(ram.gpa + (page - before) * PAGE);
                }
                page += 1;
            }
            before += count;
        }
        pages
    }

    /// Puts the page at `gpa` on other memory, or on none.
    pub fn remap(&mut self, gpa: u64, spa: Option<u64>) {
        self.moved.insert(gpa & !(PAGE - 1), spa);
    }
}

#[cfg(any(test, feature = "testing"))]
#[allow(missing_docs)]
pub mod testing {
    use super::*;
    use alloc::vec;
    use core::cell::RefCell;

    /// Memory from address 0.
    pub struct TestMemory(pub RefCell<Vec<u8>>);

    impl TestMemory {
        pub fn new(size: usize) -> TestMemory {
            TestMemory(RefCell::new(vec![0; size]))
        }
    }

    impl PhysicalMemory for TestMemory {
        fn holds(&self, spa: u64) -> bool {
            spa < self.0.borrow().len() as u64
        }
        fn read(&self, spa: u64, into: &mut [u8]) {
            let memory = self.0.borrow();
            let from = memory.get(usize::try_from(spa).unwrap_or(usize::MAX)..).unwrap_or_default();
            let (there, beyond) = into.split_at_mut(from.len().min(into.len()));
            there.copy_from_slice(&from[..there.len()]);
            beyond.fill(0xff);
        }
        fn write(&self, spa: u64, from: &[u8]) {
            let mut memory = self.0.borrow_mut();
            let to = memory.get_mut(usize::try_from(spa).unwrap_or(usize::MAX)..).unwrap_or_default();
            let len = to.len().min(from.len());
            to[..len].copy_from_slice(&from[..len]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::TestMemory;
    use super::*;

    #[test]
    fn scrambling_is_its_own_inverse_and_different_for_every_page() {
        let memory = TestMemory::new(0x3000);
        memory.scramble(0, 7);
        memory.scramble(0x1000, 7);
        let bytes = memory.0.borrow().clone();
        assert!(bytes[..0x1000].iter().filter(|&&b| b == 0).count() < 64);
        assert_ne!(bytes[..0x1000], bytes[0x1000..0x2000]);
        memory.scramble(0, 7);
        memory.scramble(0x1000, 7);
        assert!(memory.0.borrow().iter().all(|&b| b == 0));
    }

    #[test]
    fn pages_are_found_shared_and_moved() {
        let mut map = HostMap::default();
        map.add(Ram { gpa: 0, size: 0x9f000, spa: 0 });
        map.add(Ram { gpa: 0x20_0000, size: 0x40_0000, spa: 0x100_0000 });
        assert_eq!(map.spa(0x20_1234), Some(0x100_1234));
        assert_eq!(map.spa(0x9f000), None);
        assert_eq!(map.attribute(0x20_1000), Attribute::Private);
        map.set_attribute(0x20_1000, Attribute::Shared);
        assert_eq!(map.attribute(0x20_1fff), Attribute::Shared);
        assert_eq!(map.attribute(0x20_2000), Attribute::Private);
        assert_eq!(map.attribute(0x1000), Attribute::Private);
        map.set_attribute(0x8000, Attribute::Shared);
        assert_eq!(map.shared_pages(), [0x8000, 0x20_1000]);
        assert!(map.is_large(0x20_0000) && map.is_large(0x40_0000) && !map.is_large(0));
        map.remap(0x20_1000, Some(0x3000));
        map.remap(0x20_2000, None);
        assert_eq!(map.spa(0x20_1010), Some(0x3010));
        assert_eq!(map.spa(0x20_2000), None);
        assert!(map.is_ram(0x20_2000) && !map.is_large(0x20_0000));
    }
}
