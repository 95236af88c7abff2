//! A machine of the SNP emulator with a guest in it, and what must hold of it whatever the guest does.

use snp_emulator::ghcb::page::{Field, Writer};
use snp_emulator::hardware::Hardware;
use snp_emulator::memory::testing::TestMemory;
use snp_emulator::memory::{Attribute, PhysicalMemory};
use snp_emulator::rmp::{Access, LARGE, PAGE, Size};
use snp_emulator::vm::testing::{machine_on, share};
use snp_emulator::vm::{FIRST_VMSA, Machine, State};
use snp_emulator::vmsa::features;
use test_psp::chip::Chip;
use test_psp::guest::{Finish, Guest};
use test_psp::report::ReportVersion;

/// Bytes of the guest's memory.
pub const MEMORY: u64 = 2 * LARGE;
/// CPUs.
pub const CPUS: usize = 2;
/// Pages for nested tables: not enough for all that a guest can ask for, so that running out is played too.
const TABLES: u64 = 24;

/// The guest's pages. From [`place::GHCB`] up to [`place::END`] they are shared, those before were launched.
pub mod place {
    #![allow(missing_docs)]
    pub const CODE: u64 = 0x1000;
    pub const IDT: u64 = 0x2000;
    pub const GDT: u64 = 0x3000;
    pub const STACK: u64 = 0x4000;
    pub const VMSA: u64 = 0x5000;
    pub const SECRET: u64 = 0x6000;
    pub const TABLES: u64 = 0x8000;
    pub const GHCB: u64 = 0x1_0000;
    pub const REQUEST: u64 = 0x1_1000;
    pub const RESPONSE: u64 = 0x1_2000;
    pub const SCRATCH: u64 = 0x1_3000;
    pub const END: u64 = 0x1_8000;
}

/// The instructions at [`place::CODE`], four bytes each.
pub const INSTRUCTIONS: [[u8; 4]; 6] = [
    [0xf3, 0x0f, 0x01, 0xd9], // VMGEXIT
    [0xf2, 0x0f, 0x01, 0xff], // PVALIDATE
    [0xf3, 0x0f, 0x01, 0xfe], // RMPADJUST
    [0xf3, 0x0f, 0x01, 0xfd], // RMPQUERY
    [0xf2, 0x0f, 0x01, 0xfe], // RMPUPDATE, which is no guest's
    [0x0f, 0x01, 0xd9, 0x90], // VMMCALL
];

/// What is in the guest's secret page.
const SECRET: [u8; PAGE as usize] = [0x5e; PAGE as usize];

/// QEMU, as far as it must not be reached: it notices what a guest may not ask of it.
#[derive(Default)]
pub struct Devices {
    /// Time.
    pub now: u64,
    /// How often other CPUs were made to forget translations.
    pub shot_down: u64,
    /// What is random, and what devices read as.
    pub noise: u64,
}

impl Devices {
    fn noise(&mut self) -> u64 {
        self.noise = self.noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        self.noise >> 7
    }

    fn port(port: u16, size: u8) {
        assert!(matches!(size, 1 | 2 | 4));
        let (first, end) = (u32::from(port), u32::from(port) + u32::from(size));
        assert!(!(first..end).contains(&0x5f0), "the guest reaches the emulator's channel at {port:#x}");
    }

    fn mmio(address: u64, size: u8) {
        assert!(matches!(size, 1 | 2 | 4 | 8));
        let end = address.checked_add(size.into()).expect("an address");
        // The emulator's address space, in which guest memory and its own are mapped below.
        assert!(end <= 1 << 39 && address >= MEMORY + TABLES * PAGE, "no device is at {address:#x}");
        assert!(address % PAGE + u64::from(size) <= PAGE, "two pages at {address:#x}");
    }
}

impl Hardware for Devices {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        Self::port(port, size);
        self.noise() as u32
    }
    fn port_out(&mut self, port: u16, size: u8, _: u32) {
        Self::port(port, size);
    }
    fn mmio_read(&mut self, address: u64, size: u8) -> u64 {
        Self::mmio(address, size);
        self.noise()
    }
    fn mmio_write(&mut self, address: u64, size: u8, _: u64) {
        Self::mmio(address, size);
    }
    fn tsc(&self) -> u64 {
        self.now
    }
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        match leaf {
            0 => [0xd, 0, 0, 0],
            0x8000_0000 => [0x8000_001f, 0, 0, 0],
            _ => [leaf, subleaf, !0, !0],
        }
    }
    fn kick(&mut self, cpu: usize) {
        assert!(cpu < CPUS);
    }
    fn logical_id(&mut self, _: u32, _: u32) {}
    fn pass_external(&mut self, _: bool) {}
    fn shoot_down(&mut self, cpu: usize) {
        assert!(cpu < CPUS);
        self.shot_down += 1;
    }
    fn report(&mut self, bytes: &[u8]) {
        assert!(bytes.ends_with(b"\n") && std::str::from_utf8(bytes).is_ok());
    }
    fn random(&mut self) -> u64 {
        self.noise()
    }
}

/// The machine.
pub type Emulated = Machine<Devices, TestMemory>;

/// A machine whose first CPU starts at [`place::CODE`], in ring 0: with 4-level paging, in which the first GiB is the guest's private memory and
/// the second the same, shared; or in protected mode without paging.
pub fn machine(paging: bool, lenient: bool, trace: bool) -> Emulated {
    let mut machine = machine_on(Devices::default(), CPUS as u32, MEMORY, TABLES);
    (machine.config.implicit_conversion, machine.config.trace) = (lenient, trace);
    machine.config.sev_features = features::SNP | features::DEBUG_SWAP;
    let mut code = [0; PAGE as usize];
    code[..4 * INSTRUCTIONS.len()].copy_from_slice(INSTRUCTIONS.as_flattened());
    let mut idt = [0; PAGE as usize];
    let gate = 0x8 << 16 | place::CODE | 0x8e << 40;
    let at = if paging { 16 } else { 8 } * 29;
    idt[at..at + 8].copy_from_slice(&gate.to_le_bytes());
    let mut gdt = [0; PAGE as usize];
    let segment: u64 = if paging { 0x00af_9b00_0000_ffff } else { 0x00cf_9b00_0000_ffff };
    gdt[8..16].copy_from_slice(&segment.to_le_bytes());
    let vmsa = vmsa(paging);
    for (gpa, page) in [
        (place::CODE, &code),
        (place::IDT, &idt),
        (place::GDT, &gdt),
        (place::STACK, &[0; PAGE as usize]),
        (place::VMSA, &vmsa),
        (place::SECRET, &SECRET),
    ] {
        assert!(machine.launch_page(gpa, page));
    }
    for (table, entries) in tables(machine.config.c_bit).into_iter().enumerate() {
        let mut page = [0; PAGE as usize];
        for (slot, entry) in page.chunks_exact_mut(8).zip(entries) {
            slot.copy_from_slice(&entry.to_le_bytes());
        }
        assert!(machine.launch_page(place::TABLES + table as u64 * PAGE, &page));
    }
    for gpa in (place::GHCB..place::END).step_by(PAGE as usize) {
        share(&mut machine, gpa);
    }
    machine.first_vmsa = vmsa;
    machine.cpus[0].state = State::Starting { vmsa: FIRST_VMSA };
    let mut psp = Guest::start(Chip::test(ReportVersion::V3), machine.policy, &[1; 32], None)
        .expect("a policy that can be kept");
    psp.finish(Finish { measurement: [1; 48], host_data: [0; 32], identity: None }).expect("once");
    machine.psp = Some(Box::new(psp));
    machine
}

/// A directory pointer table each for the two views, under one root; directories of 2 MiB pages.
fn tables(c_bit: u32) -> [Vec<u64>; 4] {
    let c = 1 << c_bit;
    let table = |index: u64| place::TABLES + index * PAGE | 7 | c;
    let pages = |bit: u64| (0..MEMORY / LARGE).map(|i| i * LARGE | 0x87 | bit).collect();
    [vec![table(1)], vec![table(2), table(3)], pages(c), pages(0)]
}

fn vmsa(paging: bool) -> [u8; PAGE as usize] {
    use litebox_igvm::vmsa::{Segment, Vmsa};
    let mut vmsa =
        if paging { Vmsa::long_mode(place::CODE, place::TABLES) } else { Vmsa::protected_mode(place::CODE) };
    vmsa.idtr = Segment { limit: 0xfff, base: place::IDT, ..Segment::default() };
    vmsa.gdtr = Segment { limit: 0xfff, base: place::GDT, ..Segment::default() };
    vmsa.rsp = place::STACK + PAGE;
    vmsa.to_page()
}

/// Writes a request's fields into the GHCB page.
pub fn stage(machine: &Emulated, fields: &[(Field, u64)]) {
    let writer = Writer { memory: &machine.memory, spa: place::GHCB };
    writer.clear();
    for &(field, value) in fields {
        writer.set(field, value);
    }
    machine.memory.write(place::GHCB + 0xffa, &[2, 0, 0, 0, 0, 0]);
}

/// Pages whose mappings are looked at after each step: all of the beginning, and the edges of 2 MiB.
fn watched() -> impl Iterator<Item = u64> {
    (0..0x1a).chain([0x1ff, 0x200, 0x201, 0x3ff]).map(|page| page * PAGE)
}

type Mapped = Option<(u64, Size)>;

/// What the machine was before a step.
pub struct Before {
    validated: Vec<bool>,
    mapped: Vec<[Mapped; 2]>,
    shot_down: u64,
}

impl Before {
    /// Looks at it.
    pub fn of(machine: &Emulated) -> Before {
        let pages = (0..MEMORY).step_by(PAGE as usize);
        Before {
            validated: pages.map(|spa| machine.rmp.entry(spa).validated).collect(),
            mapped: watched().map(|gpa| mapped(machine, gpa)).collect(),
            shot_down: machine.hardware.shot_down,
        }
    }

    /// What must hold after it. `validates`: the step was a PVALIDATE of a page here, if it succeeded.
    pub fn check(&self, machine: &Emulated, validates: Option<std::ops::Range<u64>>) {
        for (spa, &was) in (0..MEMORY).step_by(PAGE as usize).zip(&self.validated) {
            let entry = machine.rmp.entry(spa);
            if entry.assigned {
                assert_eq!(entry.gpa, spa, "nobody moved a page");
            } else {
                assert!(!entry.validated && !entry.vmsa && !entry.large, "{spa:#x}: {entry:?}");
            }
            let may = validates.as_ref().is_some_and(|range| range.contains(&spa));
            assert!(was || !entry.validated || may, "{spa:#x} was validated by nobody");
            assert!(
                machine.map.attribute(spa) == Attribute::Private || !entry.assigned,
                "{spa:#x} is the guest's and the host's"
            );
        }
        for (gpa, before) in watched().zip(&self.mapped) {
            let now = mapped(machine, gpa);
            if let Some((spa, _)) = now[0] {
                assert_eq!(spa, gpa);
                assert_eq!(machine.rmp.check(gpa, gpa, true, 0, 1), Access::Granted, "{gpa:#x}, private");
            }
            if let Some((spa, _)) = now[1] {
                assert_eq!(spa, gpa);
                let entry = machine.rmp.entry(gpa);
                // The second is a private page that a walk or a fetch asked the shared view for.
                assert!(!entry.assigned || entry.validated, "{gpa:#x}, shared");
            }
            let lost = before.iter().zip(&now).any(|(before, now)| before.is_some() && now.is_none());
            assert!(
                !lost || machine.hardware.shot_down > self.shot_down && machine.cpus.iter().any(|c| c.flush),
                "{gpa:#x} stays in a TLB"
            );
        }
        let mut page = [0; PAGE as usize];
        machine.memory.read(place::SECRET, &mut page);
        let readable = machine.map.attribute(place::SECRET) == Attribute::Shared;
        assert!(!readable || page != SECRET, "the host reads what was private");
    }
}

fn mapped(machine: &Emulated, gpa: u64) -> [Mapped; 2] {
    [true, false].map(|private| machine.nested.lookup(&machine.memory, private, gpa))
}
