//! The machine that the guest sees: its memory, CPUs and host, and what happens at each exit.
//!
//! One [`Machine`] serves all CPUs, under one lock: [`Machine::enter`] before and [`Machine::exit`] after each run of a guest CPU. Exits are what
//! hardware would do first (reverse map table, #VC), then what a host would do (GHCB requests, interrupts).

mod dma;
mod ghcb;
mod interrupts;
mod malice;
mod memory;
mod npf;
mod ports;
mod psc;
mod psp;
mod snp;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use crate::access::View;
use crate::apic::{io::IoApic, local::LocalApic};
use crate::counters::Counters;
use crate::cpuid::CpuidTable;
use crate::ending::Ending;
use crate::hardware::Hardware;
use crate::inject;
use crate::json::json_string;
use crate::malice::Malice;
use crate::memory::{HostMap, PhysicalMemory};
use crate::nested::Nested;
use crate::queues::Queues;
use crate::rmp::Rmp;
use crate::vmcb::{Registers, Vmcb, efer, exit, intercept1, intercept2};
use crate::vmsa;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

pub use psp::Psp;

/// What a CPU does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Run the guest.
    Run,
    /// Sleep until an interrupt, or this value of the TSC.
    Sleep(Option<u64>),
    /// Wait until it is started; there is no guest state.
    Stopped,
    /// The run is over.
    End(Ending),
}

/// What does not change while the guest runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Position of the C-bit.
    pub c_bit: u32,
    /// SEV_FEATURES that VMSAs may ask for.
    pub sev_features: u64,
    /// Whether each exchange is reported.
    pub trace: bool,
    /// Whether the host converts pages that the guest touches the other way, as KVM does, or ends the run.
    pub implicit_conversion: bool,
    /// The key of [`PhysicalMemory::scramble`].
    pub memory_key: u64,
    /// Cycles of the TSC in a millisecond, if known.
    pub tsc_khz: u64,
    /// Ports that end the run when written: QEMU's debug exit.
    pub debug_exit: u16,
    /// The emulator's channel to its launcher, which the guest must not reach.
    pub channel: u16,
}

/// What a guest CPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has no state: never started, or destroyed.
    Absent,
    /// A VMSA waits to be loaded.
    Starting {
        /// Guest-physical address of the VMSA page, or the value for [`Machine::first_vmsa`].
        vmsa: u64,
    },
    /// It runs.
    Running,
    /// It waits for a start-up IPI (AP reset hold).
    Held,
}

/// A guest CPU, apart from what the control block holds.
pub struct Cpu {
    /// What it is doing.
    pub state: State,
    /// Its local APIC.
    pub apic: LocalApic,
    /// VMPL.
    pub vmpl: u8,
    /// SEV_FEATURES of its VMSA.
    pub features: u64,
    /// The GHCB MSR.
    pub ghcb_msr: u64,
    /// The registered GHCB page.
    pub ghcb: Option<u64>,
    /// MSRs that the host keeps for it.
    pub msrs: BTreeMap<u32, u64>,
    /// An NMI is pending.
    pub nmi: bool,
    /// The 8259's vectors that are pending.
    pub external: Vec<u8>,
    /// The vector offered to the CPU at the last entry, and whether it came from the 8259.
    offered: Option<(u8, bool)>,
    /// An event whose delivery an exit interrupted.
    redeliver: u64,
    /// Whether it sleeps in HLT.
    pub halted: bool,
    /// A VMSA to be loaded at the next INIT.
    pub at_init: Option<u64>,
    /// The TLB must be flushed before the next run.
    pub flush: bool,
    /// The nested page fault before this one: instruction, address. The same one again and again is a bug of ours.
    last_fault: (u64, u64, u32),
}

impl Cpu {
    fn new(id: u32) -> Cpu {
        Cpu {
            state: State::Absent,
            apic: LocalApic::new(id, id == 0),
            vmpl: 0,
            features: vmsa::features::SNP,
            ghcb_msr: 0,
            ghcb: None,
            msrs: BTreeMap::new(),
            nmi: false,
            external: Vec::new(),
            offered: None,
            redeliver: 0,
            halted: false,
            at_init: None,
            flush: true,
            last_fault: (0, 0, 0),
        }
    }
}

/// The machine.
pub struct Machine<H, M> {
    /// The machine underneath.
    pub hardware: H,
    /// System memory.
    pub memory: M,
    /// What does not change.
    pub config: Config,
    /// Who owns which page.
    pub rmp: Rmp,
    /// Where the guest's memory is.
    pub map: HostMap,
    /// What the guest reaches.
    pub nested: Nested,
    /// The CPUs, by APIC id.
    pub cpus: Vec<Cpu>,
    /// The I/O APIC.
    pub io_apic: IoApic,
    /// CPUID.
    pub cpuid: CpuidTable,
    /// What happened.
    pub counters: Counters,
    /// The state of the first CPU, which the launch made; it is in no page of the guest's.
    pub first_vmsa: [u8; 4096],
    /// The launch digest.
    pub digest: [u8; 48],
    /// The guest policy.
    pub policy: u64,
    /// The emulated PSP.
    pub psp: Option<Box<dyn Psp>>,
    /// The upper half of the address of fw_cfg's next transfer.
    fw_cfg_high: u32,
    /// What the guest told its devices about their queues.
    queues: Queues,
    /// TSC at the first instruction.
    pub started: u64,
    /// The attacks of a script.
    pub malice: Option<Box<Malice>>,
}

/// Bits of RFLAGS that exist (AMD APM volume 2, section 3.1.6), and the one that is always set.
const RFLAGS_DEFINED: u64 = 0x3f_7fd7;

/// [`State::Starting`] with the VMSA of the launch.
pub const FIRST_VMSA: u64 = u64::MAX;

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// A machine without memory in it.
    pub fn new(hardware: H, memory: M, config: Config, cpus: u32, rmp: Rmp, nested: Nested) -> Self {
        let cpuid = CpuidTable::new(|leaf, subleaf| hardware.cpuid(leaf, subleaf), config.c_bit, cpus);
        // What the host leaves in the MSR before a guest has asked for anything (GHCB specification, section 2.3.1).
        let ghcb_msr = crate::ghcb::msr::response::sev_information(config.c_bit);
        Self {
            hardware,
            memory,
            config,
            rmp,
            map: HostMap::default(),
            nested,
            cpus: (0..cpus).map(|id| Cpu { ghcb_msr, ..Cpu::new(id) }).collect(),
            io_apic: IoApic::default(),
            cpuid,
            counters: Counters::default(),
            first_vmsa: [0; 4096],
            digest: [0; 48],
            policy: 0x3_0000,
            psp: None,
            fw_cfg_high: 0,
            queues: Queues::default(),
            started: 0,
            malice: None,
        }
    }

    /// The guest's memory, for the emulator to look into.
    pub fn view(&self) -> View<'_, M> {
        View { memory: &self.memory, map: &self.map, c_bit: self.config.c_bit }
    }

    /// Reports one line of the trace.
    pub fn trace(&mut self, cpu: usize, what: fmt::Arguments<'_>) {
        if self.config.trace {
            let mut line = String::from("{\"trace\":");
            json_string(&mut line, &format!("{what}"));
            line += &format!(",\"cpu\":{cpu}}}\n");
            self.hardware.report(line.as_bytes());
        }
    }

    /// Reports where the guest is and what its stack holds: to see who called what gave up.
    fn trace_stack(&mut self, cpu: usize, vmcb: &Vmcb) {
        if !self.config.trace {
            return;
        }
        let mut line = format!("RIP {:#x}, RSP {:#x}, stack:", vmcb.rip, vmcb.rsp);
        for slot in 0..96 {
            let Some(word) = self.view().read_u64(vmcb, vmcb.rsp.wrapping_add(8 * slot)) else { break };
            // Code of kernels is in the top 2 GiB.
            if slot < 24 || word >= 0xffff_ffff_8000_0000 {
                line += &format!(" {word:#x}");
            }
        }
        self.trace(cpu, format_args!("{line}"));
    }

    /// The report of the whole run, one line of JSON.
    pub fn summary(&self, ending: &Ending) -> String {
        use core::fmt::Write;
        let mut out = format!("{{\"ending\":\"{}\",\"words\":", ending.name());
        json_string(&mut out, &format!("{ending}"));
        match ending {
            Ending::DebugExit(value) => drop(write!(out, ",\"value\":{value}")),
            Ending::Terminated(t) => drop(write!(out, ",\"set\":{},\"code\":{}", t.set, t.code)),
            _ => {}
        }
        out.push_str(",\"launch_digest\":\"");
        for byte in self.digest {
            let _ = write!(out, "{byte:02x}");
        }
        out.push('"');
        let _ = write!(out, ",\"cycles\":{}", self.hardware.tsc().saturating_sub(self.started));
        self.counters.json(&mut out);
        if let Some(malice) = &self.malice {
            malice.journal.json(&mut out);
            if let Some(scanner) = &malice.scanner {
                scanner.json(&mut out);
            }
        }
        out.push_str("}\n");
        out
    }

    /// Prepares a CPU to run: loads its state if it starts, chooses what to inject.
    pub fn enter(&mut self, cpu: usize, vmcb: &mut Vmcb, registers: &mut Registers) -> Next {
        let now = self.hardware.tsc();
        if let Some(this) = self.cpus.get_mut(cpu) {
            this.apic.tick(now);
        }
        if let Some(until) = self.held(cpu, now) {
            return Next::Sleep(Some(until));
        }
        match self.cpus.get(cpu).map(|this| this.state) {
            None | Some(State::Absent | State::Held) => return Next::Stopped,
            Some(State::Starting { vmsa }) => {
                if let Err(ending) = self.start(cpu, vmsa, vmcb, registers) {
                    return Next::End(ending);
                }
            }
            Some(State::Running) => {}
        }
        vmcb.nested_cr3 = self.nested.root(vmcb.paging());
        self.offer_interrupts(cpu, vmcb);
        if self.malice.is_some()
            && let Err(ending) = self.malice_before_entry(cpu, vmcb)
        {
            return Next::End(ending);
        }
        let Some(this) = self.cpus.get_mut(cpu) else { return Next::Stopped };
        if this.halted {
            let wakes = vmcb.event_injection >> 31 & 1 != 0
                || (vmcb.interrupt_control >> 8 & 1 != 0 && vmcb.rflags >> 9 & 1 != 0);
            if !wakes {
                return Next::Sleep(this.apic.deadline());
            }
            this.halted = false;
        }
        vmcb.tlb_control = u8::from(core::mem::take(&mut this.flush));
        Next::Run
    }

    /// Loads the state of a CPU that starts.
    fn start(
        &mut self,
        cpu: usize,
        vmsa: u64,
        vmcb: &mut Vmcb,
        registers: &mut Registers,
    ) -> Result<(), Ending> {
        let mut page = [0; 4096];
        if vmsa == FIRST_VMSA {
            page = self.first_vmsa;
            self.started = self.hardware.tsc();
            self.hardware.report(format!("{{\"started\":{}}}\n", self.started).as_bytes());
        } else {
            let spa = self.map.spa(vmsa).ok_or(Ending::NoMemory { gpa: vmsa, rip: 0 })?;
            self.memory.read(spa, &mut page);
        }
        let (iopm, msrpm) = (vmcb.iopm, vmcb.msrpm);
        *vmcb = Vmcb::ZERO;
        (vmcb.iopm, vmcb.msrpm) = (iopm, msrpm);
        let extra = match crate::vmsa::load(&page, self.config.sev_features, vmcb, registers) {
            Ok(extra) => extra,
            Err(why) => {
                self.trace(cpu, format_args!("the VMSA is refused: {why:?}"));
                return Err(Ending::BadState);
            }
        };
        self.intercepts(vmcb, extra.features);
        vmcb.asid = 1 + cpu as u32;
        vmcb.nested_control = 1;
        // Virtual interrupt masking: the guest's IF is not the emulator's.
        vmcb.interrupt_control = 1 << 24;
        if let Some(this) = self.cpus.get_mut(cpu) {
            this.state = State::Running;
            this.vmpl = extra.vmpl;
            this.features = extra.features;
            this.flush = true;
            this.halted = false;
            this.redeliver = 0;
            this.offered = None;
        }
        self.trace(cpu, format_args!("starts at {:#x}, VMPL {}", vmcb.rip, extra.vmpl));
        Ok(())
    }

    /// What leaves the guest: on hardware, what is #VC or an automatic exit.
    fn intercepts(&self, vmcb: &mut Vmcb, features: u64) {
        use intercept1::{CPUID, HLT, INTR, INVD, INVLPGA, IOIO, MSR, NMI, RDPMC, SHUTDOWN};
        vmcb.intercept1 = INTR | NMI | RDPMC | CPUID | INVD | HLT | INVLPGA | IOIO | MSR | SHUTDOWN;
        vmcb.intercept2 = intercept2::SVM | intercept2::WBINVD | intercept2::MONITOR | intercept2::MWAIT;
        // PVALIDATE and its sisters are undefined to QEMU's CPU.
        vmcb.intercept_exceptions = 1 << 6;
        if features & vmsa::features::DEBUG_SWAP == 0 {
            vmcb.intercept_dr_read = 1 << 7;
            vmcb.intercept_dr_write = 1 << 7;
        }
    }

    /// Delivers #VC with this error code. It is contributory (APM volume 2, 15.35.5): while a contributory exception or a page fault was being delivered
    /// it makes a double fault, and takes the place of any other exception, which happens again when its instruction does.
    fn vc(&mut self, cpu: usize, vmcb: &mut Vmcb, error: u64) -> Next {
        let interrupted = self.cpus.get_mut(cpu).and_then(interrupts::take_exception);
        match interrupted {
            Some(8) => return Next::End(Ending::Shutdown { rip: vmcb.rip, cr2: vmcb.cr2 }),
            Some(0 | 10..=14 | 21 | 29 | 30) => return Self::fault(vmcb, 8, Some(0)),
            _ => {}
        }
        *self.counters.exceptions.entry(error).or_default() += 1;
        self.trace(cpu, format_args!("#VC({error:#x}) at {:#x}, RAX {:#x}", vmcb.rip, vmcb.rax));
        let rip = vmcb.rip;
        let view = View { memory: &self.memory, map: &self.map, c_bit: self.config.c_bit };
        match inject::exception(&view, vmcb, inject::VC, error) {
            Ok(()) => Next::Run,
            Err(why) => Next::End(Ending::Undeliverable { error, why, rip }),
        }
    }

    /// Injects an exception that QEMU's CPU can deliver itself.
    fn fault(vmcb: &mut Vmcb, vector: u8, error: Option<u32>) -> Next {
        let with_error = error.map_or(0, |code| 1 << 11 | u64::from(code) << 32);
        vmcb.event_injection = u64::from(vector) | 3 << 8 | 1 << 31 | with_error;
        Next::Run
    }

    /// Handles an exit.
    pub fn exit(&mut self, cpu: usize, vmcb: &mut Vmcb, registers: &mut Registers) -> Next {
        let code = vmcb.exit_code;
        *self.counters.exits.entry(code).or_default() += 1;
        if vmcb.rflags & !RFLAGS_DEFINED != 0 {
            return Next::End(Ending::Limit(
                "QEMU's CPU has lost the guest's flags, as that of version 7.2 does after CMPXCHG16B",
            ));
        }
        self.take_back_interrupts(cpu, vmcb);
        if self.malice.is_some() {
            if let Some(next) = self.malice_exit(cpu, vmcb) {
                return next;
            }
            self.exit_event(cpu, vmcb);
        }
        match code {
            exit::INTR | exit::NMI => Next::Run,
            exit::NPF => self.nested_page_fault(cpu, vmcb),
            exit::UD => self.undefined(cpu, vmcb, registers),
            exit::VMMCALL => self.vmmcall(cpu, vmcb),
            exit::MSR => self.msr_exit(cpu, vmcb, registers),
            exit::HLT => {
                vmcb.rip = vmcb.rip.wrapping_add(1);
                vmcb.interrupt_state = 0;
                if vmcb.rflags >> 9 & 1 == 0 && !self.can_be_woken(cpu) {
                    return Next::End(Ending::Halted { rip: vmcb.rip });
                }
                if let Some(this) = self.cpus.get_mut(cpu) {
                    this.halted = true;
                }
                Next::Run
            }
            exit::CPUID
            | exit::IOIO
            | exit::RDTSC
            | exit::RDTSCP
            | exit::RDPMC
            | exit::INVD
            | exit::MONITOR
            | exit::MWAIT
            | exit::READ_DR7
            | exit::WRITE_DR7 => self.vc(cpu, vmcb, code),
            // QEMU 7.2 takes INVD for WBINVD.
            exit::WBINVD => {
                let invd = self.view().instruction(vmcb) == [0x0f, 0x08];
                self.vc(cpu, vmcb, if invd { exit::INVD } else { exit::WBINVD })
            }
            exit::INVLPGA | exit::VMRUN | exit::VMLOAD..=exit::SKINIT => Self::fault(vmcb, 6, None),
            exit::SHUTDOWN => Next::End(Ending::Shutdown { rip: vmcb.rip, cr2: vmcb.cr2 }),
            exit::INVALID | exit::INVALID_QEMU => Next::End(Ending::BadState),
            code => Next::End(Ending::Unexpected { code, rip: vmcb.rip }),
        }
    }

    /// Whether an NMI or another CPU's message can still reach a CPU that halts with interrupts off.
    fn can_be_woken(&self, cpu: usize) -> bool {
        self.cpus.get(cpu).is_some_and(|this| this.nmi)
            || self
                .cpus
                .iter()
                .enumerate()
                .any(|(other, c)| other != cpu && c.state == State::Running && !c.halted)
    }

    /// WRMSR of EFER: the CPU's own affair, but for SVME, which stays set (APM volume 2, 15.35.10).
    fn write_efer(vmcb: &mut Vmcb, value: u64) -> Next {
        let lme_moves = (value ^ vmcb.efer) & efer::LME != 0;
        if value & !efer::WRITABLE != 0 || (lme_moves && vmcb.paging()) {
            return Self::fault(vmcb, 13, Some(0));
        }
        vmcb.efer = value & !efer::LMA | vmcb.efer & efer::LMA | efer::SVME;
        vmcb.rip = vmcb.rip.wrapping_add(2);
        Next::Run
    }

    /// RDMSR and WRMSR that are intercepted: the GHCB MSR and SEV_STATUS are the CPU's, the rest is #VC.
    fn msr_exit(&mut self, cpu: usize, vmcb: &mut Vmcb, registers: &mut Registers) -> Next {
        const SEV_STATUS: u32 = 0xc001_0131;
        const EFER: u32 = 0xc000_0080;
        let write = vmcb.exit_info1 & 1 != 0;
        let msr = registers.rcx() as u32;
        let Some(this) = self.cpus.get_mut(cpu) else { return Next::Stopped };
        let value = match (msr, write) {
            (crate::ghcb::msr::MSR_GHCB, true) => {
                this.ghcb_msr = registers.rdx() << 32 | vmcb.rax & 0xffff_ffff;
                vmcb.rip = vmcb.rip.wrapping_add(2);
                return Next::Run;
            }
            (crate::ghcb::msr::MSR_GHCB, false) => this.ghcb_msr,
            // SEV, SEV-ES, SNP, and the VMSA's features from bit 3 on (APM volume 2, 15.34.10).
            (SEV_STATUS, false) => 7 | (this.features & !1) << 2,
            (SEV_STATUS, true) => return Self::fault(vmcb, 13, Some(0)),
            (EFER, true) => return Self::write_efer(vmcb, registers.rdx() << 32 | vmcb.rax & 0xffff_ffff),
            _ => return self.vc(cpu, vmcb, exit::MSR),
        };
        vmcb.rax = value & 0xffff_ffff;
        registers.set_rdx(value >> 32);
        vmcb.rip = vmcb.rip.wrapping_add(2);
        Next::Run
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{CODE, handle_vc, machine, running};
    use super::*;

    /// An event whose delivery was interrupted by an exit: exception `vector`.
    fn exception(vector: u64) -> u64 {
        1 << 31 | 3 << 8 | vector
    }

    #[test]
    fn a_fault_while_an_event_is_delivered() {
        for (event, want) in [
            (0, None),
            (exception(6), None),
            (exception(1), None),
            (exception(13), Some(8)),
            (exception(14), Some(8)),
            (exception(29), Some(8)),
        ] {
            let mut machine = machine(0x20_0000);
            let mut vmcb = running(&mut machine, &[0x0f, 0xa2]);
            handle_vc(&machine);
            vmcb.exit_interrupt_info = event;
            machine.take_back_interrupts(0, &mut vmcb);
            assert_eq!(machine.vc(0, &mut vmcb, exit::PAGE_NOT_VALIDATED), Next::Run);
            match want {
                Some(vector) => assert_eq!(vmcb.event_injection & 0xff, vector, "after {event:#x}"),
                None => assert_eq!((vmcb.event_injection, vmcb.rip), (0, 0x9000), "after {event:#x}"),
            }
            machine.offer_interrupts(0, &mut vmcb);
            assert_eq!(vmcb.event_injection & 0xff, want.unwrap_or(0), "nothing is delivered again");
        }
        let mut machine = machine(0x20_0000);
        let mut vmcb = running(&mut machine, &[0x0f, 0xa2]);
        vmcb.exit_interrupt_info = exception(8);
        machine.take_back_interrupts(0, &mut vmcb);
        let end = machine.vc(0, &mut vmcb, exit::PAGE_NOT_VALIDATED);
        assert!(matches!(end, Next::End(Ending::Shutdown { .. })), "{end:?}");
    }

    #[test]
    fn svme_stays_whatever_a_guest_writes() {
        let mut machine = machine(0x20_0000);
        let mut vmcb = running(&mut machine, &[0x0f, 0x30]);
        let mut registers = Registers::default();
        let mut write = |value: u64| {
            (vmcb.exit_info1, vmcb.rax, vmcb.rip, vmcb.event_injection) = (1, value & 0xffff_ffff, CODE, 0);
            registers.set_rcx(0xc000_0080);
            registers.set_rdx(value >> 32);
            assert_eq!(machine.msr_exit(0, &mut vmcb, &mut registers), Next::Run);
            (vmcb.efer, vmcb.rip - CODE, vmcb.event_injection as u8)
        };
        assert_eq!(write(0xd01), (0x1d01, 2, 0));
        assert_eq!(write(0x901), (0x1d01, 2, 0), "LMA is not the guest's to clear");
        assert_eq!(write(0xc01), (0x1d01, 0, 13), "nor is LME while paging is on");
        assert_eq!(write(1 << 40), (0x1d01, 0, 13));
    }

    #[test]
    fn invd_is_known_by_its_bytes() {
        for (bytes, code) in [([0x0f, 0x08], exit::INVD), ([0x0f, 0x09], exit::WBINVD)] {
            let mut machine = machine(0x20_0000);
            let mut vmcb = running(&mut machine, &bytes);
            handle_vc(&machine);
            vmcb.exit_code = exit::WBINVD;
            assert_eq!(machine.exit(0, &mut vmcb, &mut Registers::default()), Next::Run);
            assert_eq!(machine.memory.read_u64(vmcb.rsp), code);
        }
    }

    #[test]
    fn the_ghcb_msr_begins_with_the_sev_information() {
        assert_eq!(machine(0x1_0000).cpus[0].ghcb_msr, 0x0002_0001_3300_0001);
    }

    #[test]
    fn shared_access_to_what_is_meant_to_be_private() {
        let mut machine = machine(0x20_0000);
        let mut vmcb = running(&mut machine, &[]);
        (vmcb.exit_info1, vmcb.exit_info2) = (1 << 32 | 7, 0x10_0000);
        let end = machine.nested_page_fault(0, &mut vmcb);
        assert!(matches!(end, Next::End(Ending::RmpFault { private: false, .. })), "{end:?}");
    }
}
