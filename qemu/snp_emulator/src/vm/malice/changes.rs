//! Changes of what the guest reads: answers, shared pages, rings, what fw_cfg brought.

use super::super::Machine;
use super::Scene;
use crate::hardware::Hardware;
use crate::malice::Malice;
use crate::malice::event::Event;
use crate::malice::script::{Change, PageRef, Place, Ring};
use crate::memory::PhysicalMemory;
use crate::rmp::PAGE;
use alloc::format;
use alloc::string::String;

/// TSC ticks that a device has to use what it was given: about two seconds.
const PATIENCE: u64 = 4_000_000_000;

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    pub(super) fn change(
        &mut self,
        malice: &Malice,
        place: Place,
        change: &Change,
        event: &Event,
        scene: Scene<'_>,
    ) -> Option<String> {
        let (gpa, what) = match place {
            Place::Ghcb(at) => {
                let ghcb = self.find_page(malice, PageRef::Ghcb, event, scene)?;
                (ghcb + u64::from(at), format!("GHCB changed at {at:#x}"))
            }
            Place::Msr => {
                let this = self.cpus.get_mut(event.cpu)?;
                let mut bytes = this.ghcb_msr.to_le_bytes();
                let changed = change.apply(&mut bytes);
                this.ghcb_msr = u64::from_le_bytes(bytes);
                return changed.then(|| format!("GHCB MSR changed to {:#x}", this.ghcb_msr));
            }
            Place::Page(page, at) => {
                let gpa = self.find_page(malice, page, event, scene)? + u64::from(at);
                (gpa, format!("memory changed at {gpa:#x}"))
            }
            Place::FwCfg(at) => {
                let data = self.fw_cfg_data(malice)?;
                return self.change_shared(
                    event.cpu,
                    data.0 + u64::from(at),
                    change,
                    data.1.saturating_sub(at),
                );
            }
            Place::Ring(ring, at) => {
                self.await_device(&ring);
                let gpa = self.queues.address(&self.memory, &ring, |gpa| self.shared(gpa, 1))?;
                let gpa = gpa + u64::from(at);
                (gpa, format!("{:?} of queue {} changed at {gpa:#x}", ring.part, ring.queue))
            }
            // At the launch, by `launch`.
            Place::MemoryMap(_) | Place::VpCount | Place::Cpuid { .. } => return None,
        };
        let changed = self.edit_as_host(event.cpu, gpa, change.span(), |bytes| change.apply(bytes))?;
        changed.then_some(what)
    }

    /// Changes shared memory that may go over pages.
    fn change_shared(&mut self, cpu: usize, gpa: u64, change: &Change, len: u32) -> Option<String> {
        let whole = if matches!(change, Change::Swap { .. }) {
            len as usize
        } else {
            change.span().min(len as usize)
        };
        let mut bytes = alloc::vec![0; whole];
        let pages = |at: usize| (gpa + at as u64, (PAGE - (gpa + at as u64) % PAGE) as usize);
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let (from, room) = pages(at);
            let part = room.min(rest.len());
            self.memory.read(self.shared(from, 1)?, rest.get_mut(..part)?);
            at += part;
        }
        if !change.apply(&mut bytes) {
            return None;
        }
        at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let (to, room) = pages(at);
            let part = room.min(rest.len());
            self.edit_as_host(cpu, to, part, |page| {
                page.copy_from_slice(rest.get(..page.len()).unwrap_or_default());
                true
            })?;
            at += part;
        }
        Some(format!("what fw_cfg read changed at {gpa:#x}"))
    }

    /// Where fw_cfg put what it was last asked for, and how much: by the access structure (QEMU: docs/specs/fw_cfg.rst), big-endian.
    fn fw_cfg_data(&self, malice: &Malice) -> Option<(u64, u32)> {
        let [high, low] = malice.fw_cfg;
        let access = u64::from(high) << 32 | u64::from(low);
        let mut bytes = [0; 16];
        self.memory.read(self.shared(access, 16)?, &mut bytes);
        let word =
            |at: usize| bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        Some((u64::from(word(8)) << 32 | u64::from(word(12)), word(4)))
    }

    /// Waits for a device to have used all that the guest made available to it.
    fn await_device(&self, ring: &Ring) {
        let begin = self.hardware.tsc();
        let done = || match self.queues.indices(&self.memory, ring, |gpa| self.shared(gpa, 1)) {
            Some((available, used)) => available == used,
            None => true,
        };
        // Where time stands still nothing can be waited for.
        while !done() && self.hardware.tsc() != begin && self.hardware.tsc().wrapping_sub(begin) < PATIENCE {
            core::hint::spin_loop();
        }
    }
}
