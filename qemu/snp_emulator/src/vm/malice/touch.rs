//! Pages that are watched: the guest's k-th access to one is an event, before the access is made.
//!
//! A watched page is not in the nested tables, so that every access is a nested page fault. It is then mapped for one instruction (the guest's trap flag, with #DB
//! intercepted), and taken out again. That is exact, and does not depend on time; a page with a GHCB or a ring in it can so be changed between a check and a use.

use super::super::{Machine, Next};
use super::Scene;
use crate::hardware::Hardware;
use crate::malice::event::{Event, Moment};
use crate::malice::script::PageRef;
use crate::memory::PhysicalMemory;
use crate::rmp::Size;
use crate::vmcb::Vmcb;
use alloc::vec::Vec;

/// RFLAGS.TF.
const TRAP: u64 = 1 << 8;
/// The vector of #DB, and its exit.
const DB: u32 = 1;
const EXIT_DB: u64 = 0x41;
/// Bits of EXITINFO1.
const WRITE: u64 = 1 << 1;
const FETCH: u64 = 1 << 4;

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// The pages that are watched and are there, guest-physical.
    fn watched(&self, cpu: usize, vmcb: &Vmcb) -> Vec<u64> {
        let Some(malice) = &self.malice else { return Vec::new() };
        let event = Event::new(Moment::Touch, cpu);
        let scene = Scene { vmcb: Some(vmcb), ..Scene::default() };
        let pages = malice.rules().iter().filter_map(|rule| rule.trigger.page);
        pages.filter_map(|page| self.find_page(malice, page, &event, scene)).collect()
    }

    /// Takes watched pages out of the nested tables, but for the instruction that touches one.
    pub(super) fn watch(&mut self, cpu: usize, vmcb: &Vmcb) {
        let Some(malice) = &self.malice else { return };
        if malice.stepping || malice.rules().iter().all(|rule| rule.trigger.page.is_none()) {
            return;
        }
        for gpa in self.watched(cpu, vmcb) {
            let mapped = |private| self.nested.lookup(&self.memory, private, gpa).is_some();
            if mapped(false) || mapped(true) {
                self.nested.forget(&self.memory, gpa, Size::Small);
                self.flush(cpu);
                // This CPU's own flush is part of its next entry, which is this one.
                vmcb_flush(self, cpu);
            }
        }
    }

    /// An access that is about to be granted: an event if its page is watched, which then stays mapped for one instruction.
    pub(in super::super) fn touched(&mut self, cpu: usize, vmcb: &mut Vmcb, gpa: u64) {
        let page = gpa & !(crate::rmp::PAGE - 1);
        if !self.watched(cpu, vmcb).contains(&page) {
            return;
        }
        let kind = match vmcb.exit_info1 {
            info if info & FETCH != 0 => "fetch",
            info if info & WRITE != 0 => "write",
            _ => "read",
        };
        let event = Event {
            kind,
            gpa: Some(page),
            cpl: Some(vmcb.cpl),
            rip: vmcb.rip,
            ..Event::new(Moment::Touch, cpu)
        };
        let scene = Scene { vmcb: Some(vmcb), ..Scene::default() };
        self.occur_at(&event, scene);
        if let Some(malice) = self.malice.as_mut() {
            malice.stepping = true;
            vmcb.rflags |= TRAP;
            vmcb.intercept_exceptions |= 1 << DB;
        }
    }

    /// Like [`Machine::occur`], for the rules that watch this very page.
    fn occur_at(&mut self, event: &Event, scene: Scene<'_>) {
        let Some(malice) = &self.malice else { return };
        let here: Vec<Option<PageRef>> = malice
            .rules()
            .iter()
            .map(|rule| {
                rule.trigger.page.filter(|&page| self.find_page(malice, page, event, scene) == event.gpa)
            })
            .collect();
        if let Some(malice) = self.malice.as_mut() {
            malice.watching = here.iter().map(Option::is_some).collect();
        }
        self.occur(event, scene);
        if let Some(malice) = self.malice.as_mut() {
            malice.watching.clear();
        }
    }

    /// The end of the one instruction.
    pub(super) fn stepped(&mut self, cpu: usize, vmcb: &mut Vmcb) -> Option<Next> {
        let malice = self.malice.as_mut()?;
        if vmcb.exit_code != EXIT_DB || !malice.stepping {
            return None;
        }
        malice.stepping = false;
        vmcb.rflags &= !TRAP;
        vmcb.dr6 &= !(1 << 14);
        vmcb.intercept_exceptions &= !(1 << DB);
        self.watch(cpu, vmcb);
        Some(Next::Run)
    }
}

fn vmcb_flush<H, M>(machine: &mut Machine<H, M>, cpu: usize) {
    if let Some(this) = machine.cpus.get_mut(cpu) {
        this.flush = true;
    }
}
