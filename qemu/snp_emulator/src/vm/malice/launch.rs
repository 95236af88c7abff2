//! Lies at the launch: the memory map, the number of CPUs, the CPUID page.

use super::super::Machine;
use super::Scene;
use crate::ending::Ending;
use crate::hardware::Hardware;
use crate::malice::event::{Event, Moment};
use crate::malice::journal::Attack;
use crate::malice::psp;
use crate::malice::script::{Action, Change, Place};
use crate::memory::PhysicalMemory;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// A value that the host deposits for the guest: `memory-map` or `vp-count`. It may grow.
    pub fn deposit(&mut self, kind: &'static str, value: &mut Vec<u8>) {
        self.lie(kind, |place, change| {
            let at = match place {
                Place::MemoryMap(at) if kind == "memory-map" => *at as usize,
                Place::VpCount if kind == "vp-count" => 0,
                _ => return None,
            };
            let room = match kind {
                "vp-count" => value.len(),
                // The map's page is larger than an honest map.
                _ => 4096,
            };
            let mut bytes = value.clone();
            bytes.resize(room.max(value.len()), 0);
            let changed = bytes.get_mut(at..).is_some_and(|rest| {
                let len = change.span().min(rest.len());
                change.apply(rest.get_mut(..len).unwrap_or_default())
            });
            *value = bytes;
            changed.then(|| format!("{kind} changed at {at:#x}"))
        });
    }

    /// What the host asks the PSP to put on the CPUID page.
    ///
    /// # Errors
    /// The PSP refuses it.
    pub fn deposit_cpuid(&mut self) -> Result<(), Ending> {
        if self.malice.is_none() {
            return Ok(());
        }
        let mut refused = None;
        let mut table = self.cpuid.clone();
        self.lie("cpuid", |place, change: &Change| {
            let Place::Cpuid { leaf, subleaf, register } = *place else { return None };
            let real = table.register(leaf, subleaf, register)?;
            let mut bytes = real.to_le_bytes();
            if !change.apply(&mut bytes) {
                return None;
            }
            let asked = u32::from_le_bytes(bytes);
            if !psp::lets_through(leaf, subleaf, register, real, asked) {
                refused = Some((leaf, subleaf, asked));
            }
            table.set_register(leaf, subleaf, register, asked);
            Some(format!("CPUID {leaf:#x}/{subleaf}, register {register}: {real:#x} became {asked:#x}"))
        });
        self.cpuid = table;
        match refused {
            Some((leaf, subleaf, asked)) => Err(Ending::Launch(format!(
                "SNP_LAUNCH_UPDATE: the PSP does not let a host say {asked:#x} in leaf {leaf:#x}/{subleaf}"
            ))),
            None => Ok(()),
        }
    }

    /// The launch is over.
    pub fn launched(&mut self) {
        let event = Event { kind: "start", ..Event::new(Moment::Launch, 0) };
        self.occur(&event, Scene::default());
    }

    /// Carries out the rules that change what is deposited, each by `alter`.
    fn lie(&mut self, kind: &'static str, mut alter: impl FnMut(&Place, &Change) -> Option<String>) {
        let Some(mut malice) = self.malice.take() else { return };
        let event = Event { kind, ..Event::new(Moment::Launch, 0) };
        for index in malice.set_off(&event) {
            let Some(Action::Change { place, change }) = malice.rule(index).map(|rule| rule.action.clone())
            else {
                continue;
            };
            if let Some(what) = alter(&place, &change) {
                malice.journal.note(Attack { rule: index, what, at: event, exits: 0, requests: 0 });
            }
        }
        self.malice = Some(malice);
    }
}
