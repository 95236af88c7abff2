//! The planted secret: looked for in all memory that the host sees.

use super::super::Machine;
use crate::hardware::Hardware;
use crate::malice::scan::{Scanner, Seen};
use crate::memory::{Attribute, PhysicalMemory};
use crate::rmp::PAGE;

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// The guest wrote bytes to a device; what it tells a device to read is looked at before the device does.
    pub(in super::super) fn passes(&mut self, through: Seen, bytes: &[u8]) {
        let Some(scanner) = self.malice.as_mut().and_then(|malice| malice.scanner.as_mut()) else { return };
        scanner.pass(through, bytes);
        if let Seen::Mmio(gpa) = through
            && self.queues.notified(gpa, 0).is_some()
        {
            self.scan_shared();
        }
    }

    /// Looks at a page that the host sees, before it does not any more.
    pub(in super::super) fn scan_page(&mut self, gpa: u64) {
        let Some(mut scanner) = self.take_scanner() else { return };
        self.look_at(&mut scanner, gpa);
        self.put_scanner(scanner);
    }

    /// Looks at all pages that the host sees: those that are shared, whatever for.
    pub fn scan_shared(&mut self) {
        let Some(mut scanner) = self.take_scanner() else { return };
        let shared = self.map.shared_pages();
        for gpa in shared {
            self.look_at(&mut scanner, gpa);
        }
        self.put_scanner(scanner);
    }

    fn look_at(&self, scanner: &mut Scanner, gpa: u64) {
        let Some(spa) = self.map.spa(gpa) else { return };
        // Where the host shares and the guest has not given up, it sees ciphertext.
        if self.map.attribute(gpa) == Attribute::Shared && !self.rmp.entry(spa).assigned {
            let mut page = [0; PAGE as usize];
            self.memory.read(spa, &mut page);
            scanner.page(gpa, &page);
        }
    }

    fn take_scanner(&mut self) -> Option<Scanner> {
        self.malice.as_mut()?.scanner.take()
    }

    fn put_scanner(&mut self, scanner: Scanner) {
        if let Some(malice) = self.malice.as_mut() {
            malice.scanner = Some(scanner);
        }
    }
}
