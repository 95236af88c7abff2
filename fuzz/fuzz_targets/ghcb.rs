//! The emulator against a guest that does what it likes: any exits and requests, GHCB page and MSR protocol, in any order. The run goes on or
//! ends with a reason; the reverse map table, the nested tables and the devices stay what they should be (`snp_emulator::vm`).
#![no_main]

use litebox_fuzz::Input;
use litebox_fuzz::emulated::{Before, CPUS, Emulated, INSTRUCTIONS, MEMORY, machine, place, stage};
use snp_emulator::ghcb::page::Field;
use snp_emulator::memory::{Attribute, PhysicalMemory};
use snp_emulator::rmp::{LARGE, PAGE};
use snp_emulator::vm::{Next, State};
use snp_emulator::vmcb::{Registers, Vmcb, exit};

litebox_fuzz::target!(litebox_fuzz::seeds::ghcb, run);

/// Exits that mean the same whatever the details are.
const OTHERS: [u64; 24] = [
    exit::INTR,
    exit::NMI,
    exit::HLT,
    exit::CPUID,
    exit::IOIO,
    exit::RDTSC,
    exit::RDTSCP,
    exit::RDPMC,
    exit::INVD,
    exit::WBINVD,
    exit::MONITOR,
    exit::MWAIT,
    exit::READ_DR7,
    exit::WRITE_DR7,
    exit::INVLPGA,
    exit::VMRUN,
    exit::VMLOAD,
    exit::SHUTDOWN,
    exit::INVALID,
    exit::INVALID_QEMU,
    0x40,
    0x61,
    0x8d,
    0x8000_0000,
];

/// Exit codes that a GHCB page may have.
const CODES: [u64; 30] = [
    0x27,
    0x37,
    0x6e,
    0x6f,
    0x72,
    0x76,
    0x7b,
    0x7c,
    0x81,
    0x87,
    0x89,
    0x8a,
    0x8b,
    0x8000_0001,
    0x8000_0002,
    0x8000_0003,
    0x8000_0004,
    0x8000_0005,
    0x8000_0010,
    0x8000_0011,
    0x8000_0012,
    0x8000_0013,
    0x8000_0014,
    0x8000_0015,
    0x8000_0016,
    0x8000_0017,
    0x8000_0018,
    0x8000_fffd,
    0x8000_fffe,
    0x8000_ffff,
];

/// Fields that a request may have besides.
const FIELDS: [Field; 8] =
    [Field::Rax, Field::Rcx, Field::Rdx, Field::Rbx, Field::Scratch, Field::Xcr0, Field::Cpl, Field::Dr7];

/// Steps of one input.
const STEPS: usize = 48;

struct Guest<'a> {
    machine: Emulated,
    input: Input<'a>,
    vmcbs: [Vmcb; CPUS],
    registers: [Registers; CPUS],
    cpu: usize,
}

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mode = input.u8();
    let machine = machine(mode & 1 != 0, mode & 2 != 0, mode & 4 != 0);
    let registers = [Registers::default(); CPUS];
    let mut guest = Guest { machine, input, vmcbs: [Vmcb::ZERO; CPUS], registers, cpu: 0 };
    if guest.enter() {
        for _ in 0..STEPS {
            if guest.input.is_empty() || !guest.step() {
                break;
            }
        }
    }
}

impl Guest<'_> {
    /// Whether the run goes on.
    fn goes_on(&self, next: &Next) -> bool {
        if let Next::End(ending) = next {
            let summary = self.machine.summary(ending);
            assert!(summary.starts_with('{') && summary.ends_with("}\n"));
            assert!(!summary[..summary.len() - 1].chars().any(char::is_control));
            return false;
        }
        true
    }

    /// Enters the guest on this CPU, or on the other if this one has nothing to run.
    fn enter(&mut self) -> bool {
        for _ in 0..CPUS {
            let before = Before::of(&self.machine);
            let cpu = self.cpu;
            let next = self.machine.enter(cpu, &mut self.vmcbs[cpu], &mut self.registers[cpu]);
            before.check(&self.machine, None);
            match next {
                Next::Run => {
                    assert_eq!(self.machine.cpus[cpu].state, State::Running);
                    assert_ne!(self.vmcbs[cpu].nested_cr3, 0);
                    return true;
                }
                Next::Sleep(_) | Next::Stopped => self.cpu = (cpu + 1) % CPUS,
                Next::End(_) => return self.goes_on(&next),
            }
        }
        false
    }

    /// An address: of a page of the guest's for the most part.
    fn address(&mut self) -> u64 {
        match self.input.u8() {
            page @ 0..=0x3f => u64::from(page) * PAGE,
            page @ 0x40..=0x7f => LARGE * u64::from(page & 3),
            page @ 0x80..=0xbf => LARGE - 32 * PAGE + u64::from(page & 0x3f) * PAGE,
            0xc0..=0xcf => MEMORY - PAGE + u64::from(self.input.u16()),
            0xd0..=0xdf => u64::from(self.input.u32()),
            _ => self.input.u64(),
        }
    }

    /// A value of a register or field.
    fn value(&mut self) -> u64 {
        match self.input.u8() {
            0 => self.input.u64(),
            1 => u64::from(self.input.u32()),
            2 => place::GHCB + 0x800,
            3 => place::GHCB + u64::from(self.input.u16()),
            4 => place::SCRATCH + u64::from(self.input.u8()),
            5 => self.address(),
            6 => u64::from(self.input.u16()) << 16 | u64::from(self.input.u16()),
            7 => 1 << 32 | u64::from(self.input.u8()) << 16 | u64::from(self.input.u8()),
            small => u64::from(small) - 8,
        }
    }

    /// The guest stops with an exit, at one of its instructions.
    fn exit(&mut self, code: u64, instruction: usize, validates: Option<std::ops::Range<u64>>) -> bool {
        let cpu = self.cpu;
        let (vmcb, registers) = (&mut self.vmcbs[cpu], &mut self.registers[cpu]);
        vmcb.rip = place::CODE + 4 * instruction as u64;
        vmcb.rsp = place::STACK + PAGE;
        vmcb.exit_code = code;
        let before = Before::of(&self.machine);
        let next = self.machine.exit(cpu, vmcb, registers);
        before.check(&self.machine, validates);
        self.goes_on(&next) && self.enter()
    }

    fn step(&mut self) -> bool {
        let (what, cpu) = (self.input.u8(), self.cpu);
        match what % 16 {
            0 | 1 => {
                self.machine.cpus[cpu].ghcb_msr = match self.input.u8() {
                    code @ 0..=0x1f => self.value() & !0xfff | u64::from(code),
                    0x20..=0x7f => place::GHCB | 0x12,
                    0x80..=0xbf => {
                        let operation = u64::from(self.input.u8() & 15);
                        self.address() & !0xfff | 0x14 | operation << 52
                    }
                    0xc0..=0xcf => 0x80,
                    0xd0..=0xdf => place::GHCB,
                    _ => self.input.u64(),
                };
                self.exit(exit::VMMCALL, 0, None)
            }
            2..=5 => self.request(),
            6 | 7 => {
                let (address, size, validate) = (self.address(), self.input.u8(), self.input.u8());
                self.vmcbs[cpu].rax = address;
                self.registers[cpu].set_rcx((size % 3).into());
                self.registers[cpu].set_rdx((validate & 1).into());
                let len = if size % 3 == 1 { LARGE } else { PAGE };
                // In the paged guest two addresses lead to a page.
                let gpa = address & ((1 << 30) - 1);
                let may = validate & 1 != 0 && size % 3 < 2;
                let range = may.then(|| gpa & !(len - 1)..(gpa & !(len - 1)) + len);
                self.exit(exit::UD, 1, range)
            }
            8 => {
                let instruction = 2 + usize::from(self.input.u8()) % (INSTRUCTIONS.len() - 2);
                self.vmcbs[cpu].rax = self.address();
                let (size, attributes) = (self.input.u8() % 3, self.input.u32());
                self.registers[cpu].set_rcx(size.into());
                self.registers[cpu].set_rdx(attributes.into());
                self.exit(if what & 16 == 0 { exit::UD } else { exit::VMMCALL }, instruction, None)
            }
            9 | 10 => {
                let (address, info) = (self.address(), self.input.u8());
                let private = u64::from(info >> 7) << self.machine.config.c_bit;
                self.vmcbs[cpu].exit_info2 = address ^ private;
                self.vmcbs[cpu].exit_info1 =
                    u64::from(info & 0x1f) | 1 << if info & 0x20 == 0 { 32 } else { 33 };
                self.exit(exit::NPF, 0, None)
            }
            11 => {
                self.registers[cpu].set_rcx(if what & 16 == 0 {
                    0xc001_0130 + u64::from(self.input.u8() & 1)
                } else {
                    self.input.u32().into()
                });
                let value = self.value();
                self.vmcbs[cpu].rax = value & 0xffff_ffff;
                self.registers[cpu].set_rdx(value >> 32);
                self.vmcbs[cpu].exit_info1 = (what >> 5 & 1).into();
                self.exit(exit::MSR, 0, None)
            }
            12 => {
                // The guest writes memory that is shared.
                let (at, len) = (place::GHCB + u64::from(self.input.u16() % 0x8000), self.input.u8() % 64);
                let bytes = self.input.bytes(len.into()).to_vec();
                if self.machine.map.attribute(at) == Attribute::Shared && at % PAGE + 64 <= PAGE {
                    self.machine.memory.write(at, &bytes);
                }
                true
            }
            13 => {
                let code = OTHERS[usize::from(self.input.u8()) % OTHERS.len()];
                self.vmcbs[cpu].exit_info1 = self.value();
                self.exit(code, 0, None)
            }
            14 => {
                // Time passes; devices and other CPUs interrupt; an exit came in the middle of a delivery.
                self.machine.hardware.now += u64::from(self.input.u32());
                let (vector, kind) = (self.input.u8(), self.input.u8());
                match kind % 4 {
                    0 => self.machine.device_interrupt(cpu, vector),
                    1 => self.machine.external_interrupt(vector),
                    2 => {
                        let event = u64::from(kind >> 4 & 7) << 8 | u64::from(vector);
                        self.vmcbs[cpu].exit_interrupt_info = event | 1 << 31;
                    }
                    // The CPU takes what it was offered.
                    _ => self.vmcbs[cpu].interrupt_control &= !(1 << 8),
                }
                self.exit(exit::INTR, 0, None)
            }
            _ => {
                let kind = self.input.u8();
                self.vmcbs[cpu].cpl = kind & 3;
                self.vmcbs[cpu].rflags = 2 | u64::from(kind >> 2 & 1) << 9;
                self.cpu = usize::from(kind >> 4) % CPUS;
                self.machine.cpus[self.cpu].state == State::Running && self.exit(exit::INTR, 0, None)
            }
        }
    }

    /// A request in the GHCB page, as it should be but for what the input says.
    fn request(&mut self) -> bool {
        let shape = self.input.u8();
        let code = match shape & 0x80 {
            0 => CODES[usize::from(shape) % CODES.len()],
            _ => self.value(),
        };
        let mut fields = vec![(Field::ExitCode, code)];
        fields.push((Field::ExitInfo1, self.value()));
        fields.push((Field::ExitInfo2, self.value()));
        let given = self.input.u8();
        for (bit, field) in FIELDS.into_iter().enumerate() {
            if given >> bit & 1 != 0 {
                fields.push((field, self.value()));
            }
        }
        if self.machine.map.attribute(place::GHCB) == Attribute::Shared {
            stage(&self.machine, &fields);
        }
        self.machine.cpus[self.cpu].ghcb_msr = place::GHCB;
        self.machine.cpus[self.cpu].ghcb = Some(place::GHCB);
        self.exit(exit::VMMCALL, 0, None)
    }
}
