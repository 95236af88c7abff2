//! Carries out the rules of a script on the machine ([`crate::malice`]): at each event, those that it sets off, in their order.
//!
//! A rule that cannot be carried out where it is (a page that is not there yet, a ring that is empty) does nothing and is not noted.

mod changes;
mod launch;
mod pages;
mod requests;
mod secrets;
#[cfg(test)]
mod tests;
mod touch;

use super::{Machine, Next};
use crate::ending::Ending;
use crate::hardware::Hardware;
use crate::inject;
use crate::malice::event::{Event, Moment};
use crate::malice::journal::Attack;
use crate::malice::script::{Action, Injection};
use crate::malice::{Injected, Malice, Turn};
use crate::memory::PhysicalMemory;
use crate::vmcb::Vmcb;
use alloc::format;
use alloc::string::String;

/// What is around an event.
#[derive(Clone, Copy, Default)]
pub(super) struct Scene<'a> {
    /// The guest's state, where it runs.
    pub vmcb: Option<&'a Vmcb>,
    /// The GHCB page of a request: guest- and system-physical.
    pub ghcb: Option<(u64, u64)>,
    /// The pages of a guest message, guest-physical: request and response.
    pub messages: Option<(u64, u64)>,
}

/// The vector of #VC is delivered by hand; an exception without an error code has none.
const VALID: u64 = 1 << 31;
/// TSC ticks in a millisecond where the launcher does not say.
const KHZ: u64 = 2_000_000;

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// Something happened that rules may wait for.
    pub(super) fn occur(&mut self, event: &Event, scene: Scene<'_>) {
        // Taken out while its rules change the machine, which makes no events of its own then.
        let Some(mut malice) = self.malice.take() else { return };
        for index in malice.set_off(event) {
            let Some(action) = malice.rule(index).map(|rule| rule.action.clone()) else { continue };
            let Some(what) = self.carry_out(&mut malice, &action, event, scene) else { continue };
            self.trace(event.cpu, format_args!("malice: {what}"));
            let exits = self.counters.exits.values().sum();
            let requests = self.counters.vmgexits();
            malice.journal.note(Attack { rule: index, what, at: *event, exits, requests });
        }
        self.malice = Some(malice);
    }

    /// The CPU left the guest.
    pub(super) fn exit_event(&mut self, cpu: usize, vmcb: &Vmcb) {
        let gpa =
            (vmcb.exit_code == crate::vmcb::exit::NPF).then(|| vmcb.exit_info2 & !(1 << self.config.c_bit));
        let (code, cpl, rip) = (Some(vmcb.exit_code), Some(vmcb.cpl), vmcb.rip);
        let event = Event { code, gpa, cpl, rip, ..Event::new(Moment::Exit, cpu) };
        self.occur(&event, Scene { vmcb: Some(vmcb), ..Scene::default() });
    }

    /// Does what a rule says; in words what that was.
    fn carry_out(
        &mut self,
        malice: &mut Malice,
        action: &Action,
        event: &Event,
        scene: Scene<'_>,
    ) -> Option<String> {
        match action {
            Action::Unmap { .. }
            | Action::Remap { .. }
            | Action::Replace { .. }
            | Action::Swap { .. }
            | Action::Save { .. }
            | Action::Restore { .. }
            | Action::Rmp { .. } => self.move_pages(malice, action, event, scene),
            Action::Change { place, change } => self.change(malice, *place, change, event, scene),
            Action::Refuse { info1, info2 } => {
                malice.turn = Turn::Refuse(*info1, *info2);
                Some(format!("refused with {info1:#x}, {info2:#x}"))
            }
            Action::Skip => {
                malice.turn = Turn::Skip;
                Some("said to be done, and not done".into())
            }
            Action::Repeat { times } => {
                malice.turn = Turn::Repeat(*times);
                Some(format!("done {times} times"))
            }
            Action::Postpone { requests } => {
                let is_write = matches!(event.kind, "port-out" | "mmio-write");
                is_write.then(|| {
                    malice.turn = Turn::Postpone(*requests);
                    format!("said to be done, and done {requests} requests later")
                })
            }
            Action::Delay { ms } => {
                let until = self.hardware.tsc().saturating_add(u64::from(*ms) * self.khz());
                malice.held = Some((event.cpu, until));
                Some(format!("held for {ms} ms"))
            }
            Action::Inject { vector, kind, error } => {
                malice.injections.push(Injected { vector: *vector, kind: *kind, error: *error });
                Some(match error {
                    Some(error) => format!("{kind:?} {vector:#x} injected with error code {error:#x}"),
                    None => format!("{kind:?} {vector:#x} injected"),
                })
            }
            Action::Tsc { add } => {
                malice.tsc_offset = malice.tsc_offset.wrapping_add_signed(*add);
                Some(format!("TSC moved by {add} ticks"))
            }
        }
    }

    /// The TSC as the guest sees it.
    pub(super) fn guest_tsc(&self) -> u64 {
        let offset = self.malice.as_ref().map_or(0, |malice| malice.tsc_offset);
        self.hardware.tsc().wrapping_add(offset)
    }

    /// When a CPU must leave the guest at the latest: for its own timer, or for a script's tick.
    pub fn deadline(&self, cpu: usize) -> Option<u64> {
        let timer = self.cpus.get(cpu).and_then(|this| this.apic.deadline());
        match self.malice.as_ref().map_or(0, |malice| malice.tick_us) {
            0 => timer,
            tick => {
                let tick = self.hardware.tsc().saturating_add(u64::from(tick) * self.khz() / 1000);
                Some(timer.map_or(tick, |timer| timer.min(tick)))
            }
        }
    }

    fn khz(&self) -> u64 {
        if self.config.tsc_khz == 0 { KHZ } else { self.config.tsc_khz }
    }

    /// Until when a CPU is to wait for the host.
    pub(super) fn held(&mut self, cpu: usize, now: u64) -> Option<u64> {
        let malice = self.malice.as_mut()?;
        let (held, until) = malice.held?;
        if held != cpu {
            return None;
        }
        if now >= until {
            malice.held = None;
            return None;
        }
        Some(until)
    }

    /// Before the guest runs: its TSC, what is injected, and which pages are watched.
    pub(super) fn malice_before_entry(&mut self, cpu: usize, vmcb: &mut Vmcb) -> Result<(), Ending> {
        let Some(malice) = self.malice.as_mut() else { return Ok(()) };
        vmcb.tsc_offset = malice.tsc_offset;
        let free = vmcb.event_injection & VALID == 0 && !malice.stepping;
        if free && !malice.injections.is_empty() {
            let injected = malice.injections.remove(0);
            self.inject(vmcb, injected)?;
        }
        self.watch(cpu, vmcb);
        Ok(())
    }

    /// Gives the guest an event that nothing caused.
    fn inject(&mut self, vmcb: &mut Vmcb, injected: Injected) -> Result<(), Ending> {
        let Injected { vector, kind, error } = injected;
        if (vector, kind) == (inject::VC, Injection::Exception) {
            let error = u64::from(error.unwrap_or(0));
            let rip = vmcb.rip;
            return inject::exception(&self.view(), vmcb, vector, error)
                .map_err(|why| Ending::Undeliverable { error, why, rip });
        }
        let kind = match kind {
            Injection::Interrupt => 0,
            Injection::Nmi => 2,
            Injection::Exception => 3,
            Injection::Software => 4,
        };
        let code = error.map_or(0, |error| 1 << 11 | u64::from(error) << 32);
        vmcb.event_injection = u64::from(vector) | kind << 8 | code | VALID;
        Ok(())
    }

    /// What an exit is that only watching makes; `None` where it is the guest's.
    pub(super) fn malice_exit(&mut self, cpu: usize, vmcb: &mut Vmcb) -> Option<Next> {
        self.malice.as_ref()?;
        self.stepped(cpu, vmcb)
    }
}
