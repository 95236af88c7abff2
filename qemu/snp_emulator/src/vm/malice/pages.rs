//! Pages that a host moves, takes, copies and gives back.
//!
//! What the reverse map table does about it is the machine's business: memory that changes hands is not validated any more, and memory at another address than its
//! entry says is out of the guest's reach.

use super::super::Machine;
use super::Scene;
use crate::access::View;
use crate::hardware::Hardware;
use crate::malice::event::{Event, Moment};
use crate::malice::script::{Action, PageRef};
use crate::malice::{Copy, Malice};
use crate::memory::{Attribute, PhysicalMemory};
use crate::rmp::{PAGE, Size};
use crate::vmcb::Vmcb;
use alloc::format;
use alloc::string::String;
use alloc::vec;

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// Where a page is, guest-physical; `None`: it is not there (yet).
    pub(super) fn find_page(
        &self,
        malice: &Malice,
        page: PageRef,
        event: &Event,
        scene: Scene<'_>,
    ) -> Option<u64> {
        let nth = |list: &[u64], n: u32| list.get(n as usize).copied();
        let translated = |address: u64| {
            let vmcb = scene.vmcb?;
            let view = View { memory: &self.memory, map: &self.map, c_bit: self.config.c_bit };
            Some(view.translate(vmcb, address)?.gpa)
        };
        let address = match page {
            PageRef::Gpa(gpa) => gpa,
            PageRef::Ghcb => scene.ghcb.map(|ghcb| ghcb.0).or_else(|| self.cpus.get(event.cpu)?.ghcb)?,
            PageRef::Launched(n) => nth(&malice.launched, n)?,
            PageRef::Validated(n) => nth(&malice.validated, n)?,
            PageRef::Shared(n) => nth(&malice.shared, n)?,
            PageRef::Rip => translated(scene.vmcb?.rip)?,
            PageRef::Rsp => translated(scene.vmcb?.rsp)?,
            PageRef::Cr3 => scene.vmcb?.cr3 & !(1 << self.config.c_bit),
            PageRef::Event => event.gpa?,
            PageRef::Question => scene.messages?.0,
            PageRef::Reply => scene.messages?.1,
            PageRef::Ring(ring) => self.queues.address(&self.memory, &ring, |gpa| self.shared(gpa, 1))?,
        };
        let page = address & 0x000f_ffff_ffff_f000;
        self.map.is_ram(page).then_some(page)
    }

    pub(super) fn move_pages(
        &mut self,
        malice: &mut Malice,
        action: &Action,
        event: &Event,
        scene: Scene<'_>,
    ) -> Option<String> {
        let find = |page: PageRef| self.find_page(malice, page, event, scene);
        match *action {
            Action::Unmap { page } => {
                let gpa = find(page)?;
                self.show(event.cpu, gpa, None);
                Some(format!("memory taken away at {gpa:#x}"))
            }
            Action::Remap { page, to } => {
                let (gpa, other) = (find(page)?, find(to)?);
                let spa = self.map.spa(other)?;
                self.rmp.psmash(spa);
                self.show(event.cpu, gpa, Some(spa));
                Some(format!("{gpa:#x} mapped to the memory of {other:#x}"))
            }
            Action::Replace { page } => {
                let gpa = find(page)?;
                let spa = malice.spare.pop()?;
                self.memory.write(spa, &[0; PAGE as usize]);
                self.show(event.cpu, gpa, Some(spa));
                self.own(gpa, spa);
                Some(format!("other memory at {gpa:#x}"))
            }
            Action::Swap { page, with } => {
                let (one, two) = (find(page)?, find(with)?);
                let (first, second) = (self.map.spa(one)?, self.map.spa(two)?);
                self.rmp.psmash(first);
                self.rmp.psmash(second);
                self.show(event.cpu, one, Some(second));
                self.show(event.cpu, two, Some(first));
                self.own(one, second);
                self.own(two, first);
                Some(format!("memory of {one:#x} and {two:#x} exchanged"))
            }
            Action::Save { page, slot } => {
                let gpa = find(page)?;
                let bytes = self.seen_by_host(gpa)?.to_vec();
                malice.copies.insert(slot, Copy { gpa, bytes });
                Some(format!("copied what is at {gpa:#x}"))
            }
            Action::Restore { page, slot } => {
                let gpa = find(page)?;
                let copy = malice.copies.get(&slot)?.clone();
                self.write_as_host(event.cpu, gpa, 0, &copy.bytes)?;
                Some(format!("put at {gpa:#x} what was at {:#x}", copy.gpa))
            }
            Action::Rmp { page, assigned, validated } => {
                let gpa = find(page)?;
                let spa = self.map.spa(gpa)?;
                match (assigned, validated) {
                    (true, true) => self.rmp.launch(spa, gpa),
                    (true, false) => self.rmp.rmpupdate(spa, Size::Small, Some(gpa)),
                    (false, _) => self.rmp.rmpupdate(spa, Size::Small, None),
                }
                self.nested.forget(&self.memory, gpa, Size::Small);
                self.flush(event.cpu);
                Some(format!("reverse map table at {gpa:#x}: assigned {assigned}, validated {validated}"))
            }
            _ => None,
        }
    }

    /// The guest is about to execute PVALIDATE of the page at the address in RAX.
    pub(in super::super) fn before_pvalidate(&mut self, cpu: usize, vmcb: &Vmcb, validate: bool) {
        if self.malice.is_none() {
            return;
        }
        let gpa = self.view().translate(vmcb, vmcb.rax).map(|page| page.gpa & !(PAGE - 1));
        let kind = if validate { "validate" } else { "rescind" };
        let event =
            Event { kind, gpa, cpl: Some(vmcb.cpl), rip: vmcb.rip, ..Event::new(Moment::Validate, cpu) };
        self.occur(&event, Scene { vmcb: Some(vmcb), ..Scene::default() });
    }

    /// The guest validated a page.
    pub(in super::super) fn note_validated(&mut self, gpa: u64) {
        if let Some(malice) = self.malice.as_mut() {
            malice.validated.push(gpa);
        }
    }

    /// The host has converted pages, as it was asked to.
    pub(in super::super) fn converted(&mut self, cpu: usize, base: u64, pages: u64, to: Attribute) {
        for gpa in (0..pages).map(|i| base + i * PAGE) {
            if let (Some(malice), Attribute::Shared) = (self.malice.as_mut(), to) {
                malice.shared.push(gpa);
            }
            let kind = if to == Attribute::Shared { "shared" } else { "private" };
            let event = Event { kind, gpa: Some(gpa), ..Event::new(Moment::Convert, cpu) };
            self.occur(&event, Scene::default());
        }
    }

    /// Puts a page on other memory, or on none.
    fn show(&mut self, cpu: usize, gpa: u64, spa: Option<u64>) {
        if let Some(old) = self.map.spa(gpa) {
            self.rmp.psmash(old);
        }
        self.nested.forget(&self.memory, gpa, Size::Small);
        self.map.remap(gpa, spa);
        self.flush(cpu);
    }

    /// Assigns memory to the guest where the page is one of its own.
    fn own(&mut self, gpa: u64, spa: u64) {
        let private = self.map.attribute(gpa) == Attribute::Private;
        self.rmp.rmpupdate(spa, Size::Small, private.then_some(gpa));
    }

    /// The bytes of a page as the host reads them: ciphertext where it is the guest's.
    fn seen_by_host(&self, gpa: u64) -> Option<[u8; PAGE as usize]> {
        let spa = self.map.spa(gpa)?;
        let assigned = self.rmp.entry(spa).assigned;
        if assigned {
            self.memory.scramble(spa, self.config.memory_key);
        }
        let mut bytes = [0; PAGE as usize];
        self.memory.read(spa, &mut bytes);
        if assigned {
            self.memory.scramble(spa, self.config.memory_key);
        }
        Some(bytes)
    }

    /// Changes bytes of a page as the host does. Of a page of the guest's it first takes the memory, which hardware demands, and then assigns it anew.
    pub(super) fn edit_as_host(
        &mut self,
        cpu: usize,
        gpa: u64,
        len: usize,
        edit: impl FnOnce(&mut [u8]) -> bool,
    ) -> Option<bool> {
        let spa = self.map.spa(gpa)?;
        let entry = self.rmp.entry(spa);
        if entry.assigned {
            self.rmp.rmpupdate(spa, Size::Small, None);
            self.memory.scramble(spa, self.config.memory_key);
        }
        let len = len.min((PAGE - gpa % PAGE) as usize);
        let mut bytes = vec![0; len];
        self.memory.read(spa, &mut bytes);
        let changed = edit(&mut bytes);
        self.memory.write(spa, &bytes);
        if entry.assigned {
            self.memory.scramble(spa, self.config.memory_key);
            self.rmp.rmpupdate(spa, Size::Small, Some(entry.gpa));
            self.nested.forget(&self.memory, gpa, Size::Small);
            self.flush(cpu);
        }
        Some(changed)
    }

    fn write_as_host(&mut self, cpu: usize, gpa: u64, at: u64, bytes: &[u8]) -> Option<()> {
        self.edit_as_host(cpu, gpa + at, bytes.len(), |page| {
            page.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            true
        })?;
        Some(())
    }
}
