//! Page state changes in batches (GHCB specification, section 4.1.6).

use super::Machine;
use super::ghcb::{Answer, Block};
use crate::ghcb::exits::{PageOperation, page_state};
use crate::ghcb::page::{BUFFER, Field, Malformed};
use crate::hardware::Hardware;
use crate::memory::{Attribute, PhysicalMemory};
use crate::rmp::{LARGE, PAGE, Size};
use alloc::vec;

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    pub(super) fn page_state_change(&mut self, cpu: usize, block: &Block) -> Answer {
        // The structure must lie in the GHCB's own buffer.
        let at = match block.page.need(Field::Scratch) {
            Ok(at) if at == block.gpa + BUFFER.start => at,
            Ok(_) => return Answer::Malformed(Malformed::Scratch),
            Err(why) => return Answer::Malformed(why),
        };
        let Some(spa) = self.shared(at, BUFFER.end - BUFFER.start) else {
            return Answer::Malformed(Malformed::Scratch);
        };
        let mut buffer = vec![0; (BUFFER.end - BUFFER.start) as usize];
        self.memory.read(spa, &mut buffer);
        let (first, entries) = match page_state(&buffer) {
            Ok(parsed) => parsed,
            Err(why) => return Answer::Done(why.code()),
        };
        for (index, entry) in (first..).zip(entries) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(why) => return Answer::Done(why.code()),
            };
            let size = if entry.large { Size::Large } else { Size::Small };
            let last = entry.gpa + size.bytes() - PAGE;
            if !self.map.is_ram(entry.gpa) || !self.map.is_ram(last) {
                // KVM leaves an address without memory to the VMM, which fails it.
                return Answer::Done(1 << 32 | 2);
            }
            match entry.operation {
                PageOperation::Private => self.convert(cpu, entry.gpa, size, Attribute::Private),
                PageOperation::Shared => self.convert(cpu, entry.gpa, size, Attribute::Shared),
                PageOperation::Psmash => self.resize(cpu, entry.gpa, false),
                PageOperation::Unsmash => self.resize(cpu, entry.gpa, true),
            }
            let done = if entry.large { 512u64 } else { 1 };
            let slot = spa + 8 + 8 * u64::from(index);
            self.memory.write_u64(slot, self.memory.read_u64(slot) & !0xfff | done);
            self.memory.write(spa, &(index + 1).to_le_bytes());
        }
        Answer::Done(0)
    }

    /// PSMASH and its opposite are hints about the table's entries.
    fn resize(&mut self, cpu: usize, gpa: u64, larger: bool) {
        let base = gpa & !(LARGE - 1);
        let Some(spa) = self.map.spa(base).filter(|_| self.map.is_large(base)) else { return };
        self.nested.forget(&self.memory, base, Size::Large);
        if larger {
            self.rmp.unsmash(spa);
        } else {
            self.rmp.psmash(spa);
        }
        self.flush(cpu);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestMachine, machine, share};
    use super::*;
    use crate::ghcb::page::{Snapshot, Writer};

    const GHCB: u64 = 0x1000;
    const SHARED: u64 = 2 << 52;

    /// What is answered to these entries, and the index that the guest finds afterwards.
    fn ask(machine: &mut TestMachine, entries: &[u64]) -> (u64, u64) {
        share(machine, GHCB);
        Writer { memory: &machine.memory, spa: GHCB }.set(Field::Scratch, GHCB + BUFFER.start);
        machine.memory.write_u64(GHCB + BUFFER.start, (entries.len() as u64 - 1) << 16);
        for (i, &entry) in entries.iter().enumerate() {
            machine.memory.write_u64(GHCB + BUFFER.start + 8 + 8 * i as u64, entry);
        }
        let block = Block { page: Snapshot::take(&machine.memory, GHCB), gpa: GHCB, spa: GHCB };
        let Answer::Done(info2) = machine.page_state_change(0, &block) else { panic!("not answered") };
        (info2, machine.memory.read_u64(GHCB + BUFFER.start) & 0xffff)
    }

    #[test]
    fn entries_before_a_bad_one_are_done() {
        for bad in [0x5000, 5 << 52 | 0x5000, SHARED | 1 << 45, SHARED | 1 << 56 | 0x5000] {
            let mut machine = machine(0x1_0000);
            let answer = ask(&mut machine, &[SHARED | 0x4000, bad, SHARED | 0x6000]);
            assert_eq!(answer, (1 << 32 | 2, 1), "{bad:#x}");
            assert_eq!(machine.map.attribute(0x4000), Attribute::Shared);
            assert_eq!(machine.map.attribute(0x5000), Attribute::Private);
            assert_eq!(machine.map.attribute(0x6000), Attribute::Private);
        }
        let mut machine = machine(0x1_0000);
        assert_eq!(ask(&mut machine, &[SHARED | 0x4000, SHARED | 0x6000]), (0, 2));
    }
    /// Shared and back, not touched between, it is nobody's; the host sees as little of it as before.
    #[test]
    fn a_page_shared_twice_stays_secret() {
        const PAGE: u64 = 0x4000;
        let secret = [0x5e; 4096];
        let mut machine = machine(0x1_0000);
        assert!(machine.launch_page(PAGE, &secret));
        for entries in [&[SHARED | PAGE][..], &[1 << 52 | PAGE, SHARED | PAGE]] {
            assert_eq!(ask(&mut machine, entries), (0, entries.len() as u64));
            let mut seen = [0; 4096];
            machine.memory.read(PAGE, &mut seen);
            assert_ne!(seen, secret);
        }
    }
}
