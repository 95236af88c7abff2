//! Pages that change hands.

use super::Machine;
use crate::hardware::Hardware;
use crate::memory::{Attribute, PhysicalMemory, Ram};
use crate::rmp::{LARGE, PAGE, Size};

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// Gives the guest RAM. It is private by the host's intention, and assigned page by page as it is used.
    pub fn add_ram(&mut self, ram: Ram) {
        self.map.add(ram);
    }

    /// Puts a page of the launch in place: contents in plaintext, assigned and validated. False: there is no memory at `gpa`.
    pub fn launch_page(&mut self, gpa: u64, contents: &[u8; PAGE as usize]) -> bool {
        let Some(spa) = self.map.spa(gpa) else { return false };
        self.memory.write(spa, contents);
        self.rmp.launch(spa, gpa);
        if let Some(malice) = self.malice.as_mut() {
            malice.launched.push(gpa);
        }
        true
    }

    /// What firmware would have done before it starts an operating system: all of a range is validated.
    pub fn validate_range(&mut self, gpa: u64, size: u64) {
        let mut at = gpa;
        while at < gpa + size {
            let whole = at.is_multiple_of(LARGE) && gpa + size - at >= LARGE && self.map.is_large(at);
            let step = if whole { Size::Large } else { Size::Small };
            if let Some(spa) = self.map.spa(at) {
                let whole = whole && spa % LARGE == 0;
                let step = if whole { Size::Large } else { Size::Small };
                self.rmp.rmpupdate(spa, step, Some(at));
                // A page just assigned is not validated, so this changes it.
                let _ = self.rmp.pvalidate(spa, step, step, true);
                at += step.bytes();
                continue;
            }
            at += step.bytes();
        }
    }

    /// The host converts memory. What was in it is looked at the other way from now on: plaintext becomes ciphertext, and back.
    pub(super) fn convert(&mut self, cpu: usize, gpa: u64, size: Size, to: Attribute) {
        let base = gpa & !(size.bytes() - 1);
        self.nested.forget(&self.memory, base, size);
        self.flush(cpu);
        let pages = size.bytes() / PAGE;
        match to {
            Attribute::Private => self.counters.made_private += pages,
            Attribute::Shared => self.counters.made_shared += pages,
        }
        for page in (0..pages).map(|i| base + i * PAGE) {
            let was = self.map.attribute(page);
            if self.malice.is_some() && was == Attribute::Shared {
                self.scan_page(page);
            }
            self.map.set_attribute(page, to);
            let Some(spa) = self.map.spa(page) else { continue };
            let assigned = self.rmp.entry(spa).assigned;
            // Also where the page is not assigned yet: one that was private, shared and private again holds plaintext.
            if was != to {
                self.memory.scramble(spa, self.config.memory_key);
            }
            if assigned {
                self.rmp.rmpupdate(spa, Size::Small, None);
            }
        }
        if self.malice.is_some() {
            self.converted(cpu, base, pages, to);
        }
    }

    /// Reads memory that the guest named as shared; `None` where it is not.
    pub(super) fn shared(&self, gpa: u64, len: u64) -> Option<u64> {
        let spa = self.map.spa(gpa)?;
        let one_page = gpa % PAGE + len <= PAGE;
        (one_page && !self.rmp.entry(spa).assigned && self.map.attribute(gpa) == Attribute::Shared)
            .then_some(spa)
    }
}
