//! Requests as events, and what the host does about them instead of serving them once.

use super::super::ghcb::{Answer, Block};
use super::super::{Machine, Next};
use super::Scene;
use crate::ghcb::exits::{Exit, PortAccess};
use crate::ghcb::msr::Request;
use crate::hardware::Hardware;
use crate::malice::event::{Event, Moment};
use crate::malice::{Late, Turn};
use crate::memory::PhysicalMemory;
use crate::vmcb::Vmcb;

/// fw_cfg's DMA address, high and low half: big-endian.
const FW_CFG_DMA: u16 = 0x514;

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// The event of a request through the GHCB page.
    fn page_event(cpu: usize, vmcb: &Vmcb, exit: &Exit) -> Event {
        let blank = Event {
            cpl: Some(vmcb.cpl),
            rip: vmcb.rip,
            kind: exit.name(),
            ..Event::new(Moment::Request, cpu)
        };
        match *exit {
            Exit::Port(access) => Event { port: Some(access.port), ..blank },
            Exit::ReadMsr(msr) | Exit::WriteMsr(msr, _) => Event { msr: Some(msr), ..blank },
            Exit::MmioRead { gpa, .. } | Exit::MmioWrite { gpa, .. } | Exit::ApicIds { gpa, .. } => {
                Event { gpa: Some(gpa), ..blank }
            }
            Exit::ApCreation { vmsa, .. } => Event { gpa: Some(vmsa), ..blank },
            Exit::GuestRequest { request, .. } | Exit::ExtendedGuestRequest { request, .. } => {
                Event { gpa: Some(request), ..blank }
            }
            _ => blank,
        }
    }

    fn page_scene<'a>(vmcb: &'a Vmcb, exit: &Exit, block: &Block) -> Scene<'a> {
        let messages = match *exit {
            Exit::GuestRequest { request, response }
            | Exit::ExtendedGuestRequest { request, response, .. } => Some((request, response)),
            _ => None,
        };
        Scene { vmcb: Some(vmcb), ghcb: Some((block.gpa, block.spa)), messages }
    }

    /// Serves a request through the GHCB page as a script may have it.
    pub(in super::super) fn serve_or_not(
        &mut self,
        cpu: usize,
        vmcb: &Vmcb,
        exit: Exit,
        block: &Block,
    ) -> Answer {
        if self.malice.is_none() {
            return self.serve(cpu, vmcb, exit, block);
        }
        self.occur(&Self::page_event(cpu, vmcb, &exit), Self::page_scene(vmcb, &exit, block));
        self.note_device_write(&exit, block);
        let turn = self.malice.as_mut().map(|malice| core::mem::take(&mut malice.turn)).unwrap_or_default();
        let answer = match turn {
            Turn::Serve => self.serve(cpu, vmcb, exit, block),
            Turn::Skip => Answer::Done(0),
            Turn::Refuse(info1, info2) => Answer::Raw(info1, info2),
            Turn::Repeat(times) => {
                let mut answer = Answer::Done(0);
                for _ in 0..times {
                    answer = self.serve(cpu, vmcb, exit, block);
                    if matches!(answer, Answer::After(..)) {
                        break;
                    }
                }
                answer
            }
            Turn::Postpone(requests) => {
                let late = self.device_write(&exit, block);
                if let (Some(malice), Some((mmio, at, size, value))) = (self.malice.as_mut(), late) {
                    malice.late.push(Late { left: requests, mmio, at, size, value });
                }
                return Answer::Done(0);
            }
        };
        match self.do_late_writes(cpu) {
            Some(end) => Answer::After(end, 0),
            None => answer,
        }
    }

    /// The host has answered in the GHCB page.
    pub(in super::super) fn answered(&mut self, cpu: usize, vmcb: &Vmcb, exit: &Exit, block: &Block) {
        if self.malice.is_some() {
            let event = Event { moment: Moment::Answer, ..Self::page_event(cpu, vmcb, exit) };
            self.occur(&event, Self::page_scene(vmcb, exit, block));
        }
    }

    /// A request through the GHCB MSR: the answer that a script gives instead of the host's; `None`: serve it.
    pub(in super::super) fn msr_request(
        &mut self,
        cpu: usize,
        vmcb: &Vmcb,
        request: &Request,
    ) -> Option<u64> {
        self.malice.as_ref()?;
        let before = self.cpus.get(cpu).map_or(0, |this| this.ghcb_msr);
        self.occur(&Self::msr_event(cpu, vmcb, request), Scene { vmcb: Some(vmcb), ..Scene::default() });
        match self.malice.as_mut().map(|malice| core::mem::take(&mut malice.turn)) {
            // What a host that does nothing leaves there.
            Some(Turn::Skip) => Some(before),
            Some(Turn::Refuse(_, value)) => Some(value),
            _ => None,
        }
    }

    /// The host has answered in the GHCB MSR.
    pub(in super::super) fn msr_answered(&mut self, cpu: usize, vmcb: &Vmcb, request: &Request) {
        if self.malice.is_some() {
            let event = Event { moment: Moment::Answer, ..Self::msr_event(cpu, vmcb, request) };
            self.occur(&event, Scene { vmcb: Some(vmcb), ..Scene::default() });
        }
    }

    fn msr_event(cpu: usize, vmcb: &Vmcb, request: &Request) -> Event {
        let gpa = match *request {
            Request::PageState { gpa, .. } | Request::Register(gpa) => Some(gpa),
            _ => None,
        };
        let blank = Event::new(Moment::Request, cpu);
        Event { cpl: Some(vmcb.cpl), rip: vmcb.rip, kind: request.name(), gpa, ..blank }
    }

    /// A write to a device as it is asked for: whether to device memory, where, how many bytes, what.
    fn device_write(&self, exit: &Exit, block: &Block) -> Option<(bool, u64, u8, u64)> {
        match *exit {
            Exit::Port(PortAccess { port, size, input: false, string: None }) => {
                let value =
                    block.page.get(crate::ghcb::page::Field::Rax)? & (u64::MAX >> (64 - 8 * u32::from(size)));
                Some((false, port.into(), size, value))
            }
            Exit::MmioWrite { gpa, size } => {
                let mut bytes = [0; 8];
                let at = self.scratch(block, size.into()).ok()?;
                self.memory.read(at, bytes.get_mut(..usize::from(size))?);
                Some((true, gpa, size, u64::from_le_bytes(bytes)))
            }
            _ => None,
        }
    }

    /// What later attacks need to know: what fw_cfg is told.
    fn note_device_write(&mut self, exit: &Exit, block: &Block) {
        let write = self.device_write(exit, block);
        let (Some(malice), Some((false, at, _, value))) = (self.malice.as_mut(), write) else { return };
        if let Some(half) = at.checked_sub(FW_CFG_DMA.into()).filter(|at| at % 4 == 0)
            && let Some(half) = malice.fw_cfg.get_mut((half / 4) as usize)
        {
            *half = (value as u32).swap_bytes();
        }
    }

    /// Does the writes whose time has come.
    fn do_late_writes(&mut self, cpu: usize) -> Option<Next> {
        let malice = self.malice.as_mut()?;
        let mut due = alloc::vec::Vec::new();
        malice.late.retain_mut(|late| {
            late.left = late.left.saturating_sub(1);
            if late.left == 0 {
                due.push(*late);
            }
            late.left != 0
        });
        for late in due {
            if late.mmio {
                self.mmio_write(cpu, late.at, late.size, late.value);
            } else if let Some(end) = self.port_write(late.at as u16, late.size, late.value as u32) {
                return Some(Next::End(end));
            }
        }
        None
    }
}
