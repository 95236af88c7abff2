//! VMGEXIT: the guest asks the host.

use super::psp::Room;
use super::{Machine, Next, State};
use crate::decode::{Instruction, decode};
use crate::ending::Ending;
use crate::ghcb::exits::{ApRequest, Exit};
use crate::ghcb::msr::{Request, Termination, response};
use crate::ghcb::page::{BUFFER, Field, Malformed, Snapshot, Writer};
use crate::hardware::Hardware;
use crate::memory::{Attribute, PhysicalMemory};
use crate::rmp::Size;
use crate::vmcb::{Vmcb, exit};

/// Hypervisor features (specification, section 4.1.11): SNP and AP creation.
const FEATURES: u64 = 1 << 0 | 1 << 1;
/// #GP in the format of an event injection.
const INJECT_GP: u64 = 13 | 3 << 8 | 1 << 11 | 1 << 31;

/// The GHCB page of a request: what it held, and where it is.
pub(super) struct Block {
    /// Its contents when the guest exited.
    pub page: Snapshot,
    /// Guest-physical address.
    pub gpa: u64,
    /// System-physical address.
    pub spa: u64,
}

/// What the host answers in SW_EXITINFO1 and 2.
pub(super) enum Answer {
    /// 0 and this.
    Done(u64),
    /// 1: the guest is to take an exception.
    Exception(u64),
    /// 2: the request is malformed.
    Malformed(Malformed),
    /// Both, as a script has them.
    Raw(u64, u64),
    /// The CPU is to do something else first; 0 and this is what it finds when it goes on.
    After(Next, u64),
}

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// The opcode that is VMMCALL, or VMGEXIT with a prefix.
    pub(super) fn vmmcall(&mut self, cpu: usize, vmcb: &mut Vmcb) -> Next {
        let bytes = self.view().instruction(vmcb);
        match decode(bytes) {
            Some(Instruction::Vmgexit) if vmcb.cpl == 0 => {
                vmcb.rip = vmcb.rip.wrapping_add(4);
                self.vmgexit(cpu, vmcb)
            }
            // In ring 3 the prefix changes nothing.
            _ => self.vc(cpu, vmcb, exit::VMMCALL),
        }
    }

    pub(super) fn vmgexit(&mut self, cpu: usize, vmcb: &Vmcb) -> Next {
        let Some(this) = self.cpus.get(cpu) else { return Next::Stopped };
        let request = Request::decode(this.ghcb_msr);
        *self.counters.requests.entry(request.name()).or_default() +=
            u64::from(!matches!(request, Request::Page(_)));
        if !matches!(request, Request::Page(_)) {
            self.trace(cpu, format_args!("{request:x?}"));
        }
        if let Some(answer) = self.msr_request(cpu, vmcb, &request) {
            if let Some(this) = self.cpus.get_mut(cpu) {
                this.ghcb_msr = answer;
            }
            return Next::Run;
        }
        let answer = match request {
            Request::Page(gpa) => return self.page_request(cpu, vmcb, gpa),
            Request::SevInformation => response::sev_information(self.config.c_bit),
            Request::Cpuid { leaf, register } => {
                let value = self.cpuid.answer(leaf, 0)[usize::from(register) & 3];
                response::cpuid(register, value)
            }
            Request::ResetHold => return self.hold(cpu),
            Request::PreferredPage => response::preferred_page(),
            Request::Register(gpa) => {
                let good = self.map.is_ram(gpa);
                if let Some(this) = self.cpus.get_mut(cpu).filter(|_| good) {
                    this.ghcb = Some(gpa);
                }
                response::register(good.then_some(gpa))
            }
            Request::PageState { gpa, operation } => {
                let to = match operation {
                    1 => Some(Attribute::Private),
                    2 => Some(Attribute::Shared),
                    _ => None,
                };
                match to.filter(|_| self.map.is_ram(gpa)) {
                    Some(to) => {
                        self.convert(cpu, gpa, Size::Small, to);
                        response::page_state(0)
                    }
                    None => response::page_state(1),
                }
            }
            Request::RunVmpl(_) => response::run_vmpl(1),
            Request::Features => response::features(FEATURES),
            Request::Terminate(reason) => {
                self.trace_stack(cpu, vmcb);
                return Next::End(Ending::Terminated(reason));
            }
            // A host answers what it does not know by leaving the value as it is, or ends the guest; KVM does the latter.
            Request::Unknown(_) => {
                self.trace(cpu, format_args!("unknown MSR request"));
                return Next::End(Ending::Unexpected { code: 0x8000_ffff, rip: vmcb.rip });
            }
        };
        if let Some(this) = self.cpus.get_mut(cpu) {
            this.ghcb_msr = answer;
        }
        self.msr_answered(cpu, vmcb, &request);
        Next::Run
    }

    /// AP reset hold: until a start-up IPI arrives.
    fn hold(&mut self, cpu: usize) -> Next {
        if let Some(this) = self.cpus.get_mut(cpu) {
            this.state = State::Held;
            this.ghcb_msr = response::reset_hold();
        }
        Next::Stopped
    }

    fn page_request(&mut self, cpu: usize, vmcb: &Vmcb, gpa: u64) -> Next {
        let registered = self.cpus.get(cpu).and_then(|this| this.ghcb) == Some(gpa);
        let Some(spa) = self.shared(gpa, 4096) else {
            return Next::End(Ending::NotShared { gpa, what: "its GHCB" });
        };
        let block = Block { page: Snapshot::take(&self.memory, spa), gpa, spa };
        let decoded = if registered { Exit::decode(&block.page) } else { Err(Malformed::NotRegistered) };
        let name = decoded.as_ref().map_or("malformed", Exit::name);
        *self.counters.requests.entry(name).or_default() += 1;
        if self.config.trace {
            match &decoded {
                Ok(exit) => self.trace(cpu, format_args!("{exit:x?}")),
                Err(why) => self.trace(cpu, format_args!("malformed request: {}", why.words())),
            }
        }
        Writer { memory: &self.memory, spa }.clear();
        let answer = match decoded {
            Ok(exit) => self.serve_or_not(cpu, vmcb, exit, &block),
            Err(why) => Answer::Malformed(why),
        };
        let (info1, info2, next) = match answer {
            Answer::Done(info2) => (0, info2, Next::Run),
            Answer::Exception(event) => (1, event, Next::Run),
            Answer::Malformed(why) => (2, why as u64, Next::Run),
            Answer::Raw(info1, info2) => (info1, info2, Next::Run),
            Answer::After(next, info2) => (0, info2, next),
        };
        let writer = Writer { memory: &self.memory, spa };
        writer.set(Field::ExitInfo1, info1);
        writer.set(Field::ExitInfo2, info2);
        if let (Ok(exit), Next::Run) = (&decoded, &next) {
            self.answered(cpu, vmcb, exit, &block);
        }
        next
    }

    pub(super) fn serve(&mut self, cpu: usize, vmcb: &Vmcb, exit: Exit, block: &Block) -> Answer {
        let spa = block.spa;
        match exit {
            Exit::Cpuid { leaf, subleaf, .. } => {
                let [eax, ebx, ecx, edx] = self.cpuid.answer(leaf, subleaf);
                let writer = Writer { memory: &self.memory, spa };
                writer.set(Field::Rax, eax.into());
                writer.set(Field::Rbx, ebx.into());
                writer.set(Field::Rcx, ecx.into());
                writer.set(Field::Rdx, edx.into());
                Answer::Done(0)
            }
            Exit::Port(access) => self.port(access, block),
            Exit::ReadMsr(msr) => match self.read_msr(cpu, msr) {
                Some(value) => {
                    let writer = Writer { memory: &self.memory, spa };
                    writer.set(Field::Rax, value & 0xffff_ffff);
                    writer.set(Field::Rdx, value >> 32);
                    Answer::Done(0)
                }
                None => Answer::Exception(INJECT_GP),
            },
            Exit::WriteMsr(msr, value) => match self.write_msr(cpu, msr, value) {
                true => Answer::Done(0),
                false => Answer::Exception(INJECT_GP),
            },
            Exit::Rdtsc | Exit::Rdtscp => {
                let now = self.guest_tsc();
                let writer = Writer { memory: &self.memory, spa };
                writer.set(Field::Rax, now & 0xffff_ffff);
                writer.set(Field::Rdx, now >> 32);
                if exit == Exit::Rdtscp {
                    writer.set(Field::Rcx, cpu as u64);
                }
                Answer::Done(0)
            }
            // Counters that never count.
            Exit::Rdpmc if block.page.get(Field::Rcx).is_some_and(|counter| counter < 6) => {
                let writer = Writer { memory: &self.memory, spa };
                writer.set(Field::Rax, 0);
                writer.set(Field::Rdx, 0);
                Answer::Done(0)
            }
            Exit::Rdpmc => Answer::Exception(INJECT_GP),
            Exit::ReadDr7 => {
                Writer { memory: &self.memory, spa }.set(Field::Dr7, vmcb.dr7);
                Answer::Done(0)
            }
            Exit::WriteDr7(_) | Exit::Invd | Exit::Wbinvd | Exit::Monitor | Exit::NmiComplete => {
                Answer::Done(0)
            }
            Exit::Mwait => {
                if let Some(this) = self.cpus.get_mut(cpu) {
                    this.halted = true;
                }
                Answer::Done(0)
            }
            Exit::Vmmcall => {
                // No hypercall interface of ours: what KVM answers to an unknown number.
                Writer { memory: &self.memory, spa }.set(Field::Rax, (-1000i64) as u64);
                Answer::Done(0)
            }
            Exit::MmioRead { gpa: at, size } => self.mmio(cpu, at, size, false, block),
            Exit::MmioWrite { gpa: at, size } => self.mmio(cpu, at, size, true, block),
            // That it was a start-up IPI that ended the wait is what a value other than zero says.
            Exit::ResetHold => Answer::After(self.hold(cpu), 1),
            Exit::JumpTable => Answer::Malformed(Malformed::Event),
            Exit::PageState => self.page_state_change(cpu, block),
            Exit::GuestRequest { request, response } => self.guest_request(request, response, None, spa),
            Exit::ExtendedGuestRequest { request, response, certificates, pages } => {
                let room = Room { gpa: certificates, pages };
                self.guest_request(request, response, Some(room), spa)
            }
            Exit::ApCreation { what, apic_id, vmpl, vmsa, features } => {
                self.create_ap(cpu, what, apic_id, vmpl, vmsa, features)
            }
            Exit::ApicIds { pages, gpa: list } => self.apic_ids(pages, list, spa),
            Exit::RunVmpl(_) => Answer::Malformed(Malformed::Input),
            Exit::Features => Answer::Done(FEATURES),
            Exit::Terminate { set, code } => {
                Answer::After(Next::End(Ending::Terminated(Termination { set, code })), 0)
            }
        }
    }

    /// The scratch area: `len` bytes in the GHCB's own buffer, or in other shared memory within a page.
    pub(super) fn scratch(&self, block: &Block, len: u64) -> Result<u64, Malformed> {
        let at = block.page.need(Field::Scratch)?;
        let inside = at.wrapping_sub(block.gpa);
        if inside < 4096 && !(inside >= BUFFER.start && inside.saturating_add(len) <= BUFFER.end) {
            return Err(Malformed::Scratch);
        }
        self.shared(at, len).ok_or(Malformed::Scratch)
    }

    fn create_ap(
        &mut self,
        cpu: usize,
        what: ApRequest,
        apic_id: u32,
        vmpl: u8,
        vmsa: u64,
        features: u64,
    ) -> Answer {
        let target = self.cpus.iter().position(|other| other.apic.id() == apic_id);
        let Some(target) = target.filter(|_| vmpl <= 3) else { return Answer::Malformed(Malformed::Input) };
        if what != ApRequest::Destroy {
            let Some(spa) = self.map.spa(vmsa) else { return Answer::Malformed(Malformed::Input) };
            // Hardware refuses to run what RMPADJUST has not marked; and 2 MiB alignment is an erratum that KVM refuses.
            if !self.rmp.entry(spa).vmsa
                || vmsa.is_multiple_of(2 << 20)
                // KVM: one set of features for all CPUs of a guest.
                || Some(features) != self.cpus.get(cpu).map(|this| this.features)
            {
                return Answer::Malformed(Malformed::Input);
            }
        }
        let mut kick = false;
        if let Some(other) = self.cpus.get_mut(target) {
            match what {
                ApRequest::Create => {
                    other.state = State::Starting { vmsa };
                    kick = target != cpu;
                }
                ApRequest::CreateOnInit => other.at_init = Some(vmsa),
                ApRequest::Destroy => {
                    other.state = State::Absent;
                    other.at_init = None;
                    kick = target != cpu;
                }
            }
        }
        if kick {
            self.hardware.kick(target);
        }
        Answer::Done(0)
    }

    fn apic_ids(&mut self, pages: u64, list: u64, spa: u64) -> Answer {
        let writer = Writer { memory: &self.memory, spa };
        let needed = 1;
        if pages < needed {
            writer.set(Field::Rax, needed);
            return Answer::Done(0);
        }
        let Some(at) = self.shared(list, 4096) else { return Answer::Malformed(Malformed::Input) };
        self.memory.write(at, &(self.cpus.len() as u32).to_le_bytes());
        for (i, other) in self.cpus.iter().enumerate() {
            self.memory.write(at + 4 + 4 * i as u64, &other.apic.id().to_le_bytes());
        }
        writer.set(Field::Rax, needed);
        Answer::Done(0)
    }
}
