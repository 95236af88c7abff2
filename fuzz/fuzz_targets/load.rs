//! What the emulator is started with: a file is loaded under each host's rules as it was planned and measured, or refused in words; a Linux
//! goes where there is room; options are in range (`snp_emulator::load`, `options`).
#![no_main]

use litebox_fuzz::Input;
use litebox_fuzz::emulated::Devices;
use litebox_igvm::PAGE_SIZE;
use litebox_igvm::digest::PageType;
use litebox_igvm::format::{IgvmFile, seal};
use litebox_igvm::load::{LoadOp, LoadPlan};
use litebox_igvm::profile::HostProfile;
use snp_emulator::ending::Ending;
use snp_emulator::load::igvm::{Environment, load};
use snp_emulator::load::launch::{Launch, Platform};
use snp_emulator::load::linux::{E820, Linux, Placement, SETUP_MAX, place};
use snp_emulator::memory::testing::TestMemory;
use snp_emulator::memory::{Attribute, HostMap, PhysicalMemory, Ram};
use snp_emulator::options::{CPUS, Options};
use snp_emulator::rmp::Access;
use snp_emulator::vm::Machine;
use snp_emulator::vm::testing::machine_on;
use snp_emulator::vmcb::{Registers, Vmcb};
use test_psp::report::ReportVersion;

litebox_fuzz::target!(litebox_fuzz::seeds::load, run);

type Emulated = Machine<Devices, TestMemory>;

/// The guest's memory, and more for addresses outside of it.
const MEMORY: u64 = 2 << 20;
const MORE: u64 = 6 << 20;
/// Pages that are worth being hashed.
const FEW: usize = 600;

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (what, detail) = (input.u8(), input.u8());
    match what % 8 {
        0..6 => {
            let profile = HostProfile::ALL[usize::from(what) % HostProfile::ALL.len()];
            let mut file = input.rest().to_vec();
            if detail & 1 == 0 {
                // Nobody finds a CRC by chance.
                seal(&mut file);
            }
            igvm(&file, profile, 1 + u32::from(detail >> 1) % 8);
        }
        6 => linux(input, detail),
        _ => options(input.rest()),
    }
}

fn machine(cpus: u32) -> Emulated {
    let mut machine = machine_on(Devices::default(), cpus, MEMORY + MORE, 16);
    machine.map = HostMap::default();
    machine.add_ram(Ram { gpa: 0, size: MEMORY, spa: 0 });
    machine
}

fn platform() -> Platform {
    Platform::new(ReportVersion::V3, 1)
}

fn igvm(file: &[u8], profile: HostProfile, cpus: u32) {
    let parsed = IgvmFile::parse(file);
    let plan = parsed.as_ref().ok().and_then(|file| LoadPlan::new(file, profile).ok());
    let pages = |op: &LoadOp<'_>| match op {
        LoadOp::Page { large: true, .. } => 512,
        LoadOp::ParameterInsert { size, .. } | LoadOp::Shared { size, .. } => *size as usize / PAGE_SIZE,
        LoadOp::RequiredMemory { size, .. } => *size as usize / (1 << 20),
        _ => 1,
    };
    if plan.as_ref().is_some_and(|plan| plan.ops.iter().map(pages).sum::<usize>() > FEW) {
        return;
    }
    let (mut machine, mut next) = (machine(cpus), MEMORY);
    let mut more = |size: u64| {
        let at = next;
        next += size;
        (next <= MEMORY + MORE).then_some(at)
    };
    let mut environment =
        Environment { profile, memory: &[(0, MEMORY)], platform: platform(), more_memory: &mut more };
    let loaded = load(&mut machine, file, &mut environment);
    ram_is_apart(&machine);
    match (loaded, &plan) {
        (Ok(()), Some(plan)) => as_planned(&mut machine, plan),
        (Ok(()), None) => panic!("loaded what cannot be planned"),
        (Err(Ending::Launch(why)), _) => assert!(!why.is_empty()),
        (Err(other), _) => panic!("a launch that ends with {other:?}"),
    }
}

/// No two stretches of memory have an address in common, on either side.
fn ram_is_apart(machine: &Emulated) {
    for start in [|ram: &Ram| ram.gpa, |ram: &Ram| ram.spa] {
        let mut ram = machine.map.ram().to_vec();
        ram.sort_by_key(start);
        assert!(ram.windows(2).all(|two| start(&two[0]) + two[0].size <= start(&two[1])), "{ram:x?}");
    }
}

fn as_planned(machine: &mut Emulated, plan: &LoadPlan<'_>) {
    assert_eq!(machine.digest, plan.digest(), "what reports will say");
    assert_eq!(machine.policy, plan.policy);
    assert!(machine.psp.is_some());
    let mut launched = 0;
    for op in &plan.ops {
        match op {
            LoadOp::Page { gpa, page_type, large, data } => {
                let pages = if *large { 512 } else { 1 };
                launched += pages;
                for index in [0, pages - 1] {
                    let contents = page(machine, gpa + index * PAGE_SIZE as u64, true);
                    let part = data.map(|data| &data[index as usize * PAGE_SIZE..][..PAGE_SIZE]);
                    match page_type {
                        PageType::Secrets => assert_ne!(contents[0x20..0x40], [0; 32]),
                        PageType::Cpuid => assert_ne!(contents[0], 0),
                        _ => assert!(contents[..] == *part.unwrap_or(&[0; PAGE_SIZE])),
                    }
                }
            }
            LoadOp::ParameterInsert { gpa, size, .. } => {
                launched += size / PAGE_SIZE as u64;
                for at in (*gpa..gpa + size).step_by(PAGE_SIZE) {
                    page(machine, at, true);
                }
            }
            LoadOp::Shared { gpa, size, .. } => {
                for at in (*gpa..gpa + size).step_by(PAGE_SIZE) {
                    page(machine, at, false);
                }
            }
            LoadOp::Vmsa { vmsa, .. } => assert!(machine.first_vmsa == **vmsa),
            LoadOp::RequiredMemory { gpa, size } => {
                assert!(*size == 0 || machine.map.is_ram(*gpa) && machine.map.is_ram(gpa + size - 1));
            }
            _ => {}
        }
    }
    assert_eq!(machine.counters.launched_pages, launched);
    let validated = (0..MEMORY + MORE).step_by(PAGE_SIZE).filter(|&spa| machine.rmp.entry(spa).validated);
    assert_eq!(validated.count() as u64, launched, "nothing else is the guest's");
    // It runs, or the CPU refuses its state.
    machine.enter(0, &mut { Vmcb::ZERO }, &mut Registers::default());
}

/// The contents of a page, which must be the guest's or the host's.
fn page(machine: &Emulated, gpa: u64, private: bool) -> [u8; PAGE_SIZE] {
    let spa = machine.map.spa(gpa).expect("there is memory");
    assert_eq!(machine.rmp.check(spa, gpa, private, 0, 3), Access::Granted, "{gpa:#x}");
    assert_eq!(machine.map.attribute(gpa) == Attribute::Private, private);
    let mut page = [0; PAGE_SIZE];
    machine.memory.read(spa, &mut page);
    page
}

/// A kernel in a few MiB at 16 MiB, of which only the placement and the description are looked at.
fn linux(mut input: Input<'_>, detail: u8) {
    let (file_size, initrd_size) = (input.u32(), input.u32());
    let command_line = String::from_utf8_lossy(input.bytes(detail.into())).into_owned();
    let stretches = usize::from(input.u8() % 140);
    let mut memory: Vec<(u64, u64, E820)> =
        (0..stretches as u64).map(|i| (i << 12, 1 << 12, E820::Usable)).collect();
    let end = place::KERNEL + u64::from(input.u16()) * PAGE_SIZE as u64;
    memory.push((1 << 20, end - (1 << 20), if input.u8() == 0 { E820::Acpi } else { E820::Usable }));
    let file = input.rest();
    let setup = &file[..file.len().min(SETUP_MAX)];
    let placed = match Placement::of(setup, file_size, initrd_size, &memory) {
        Ok(placed) => placed,
        Err(why) => return assert!(!why.words().is_empty()),
    };
    let (kernel_end, initrd) = (place::KERNEL + placed.kernel_size, placed.initrd);
    assert!(kernel_end <= end && initrd.0 + initrd.1 <= end, "beyond memory");
    assert!(initrd.1 == 0 || kernel_end <= initrd.0, "one on the other");
    assert_eq!(placed.setup_size as u64 + placed.kernel_size, file_size.into());
    let Some(setup) = setup.get(..placed.setup_size) else { return };
    let linux = Linux {
        setup,
        command_line: &command_line,
        kernel_size: placed.kernel_size,
        initrd,
        memory: &memory,
        root: None,
        c_bit: 51,
    };
    let pages = match linux.pages() {
        Ok(pages) => pages,
        Err(why) => return assert!(!why.words().is_empty()),
    };
    assert!(pages.iter().all(|(gpa, _)| gpa % PAGE_SIZE as u64 == 0 && *gpa < place::END));
    // Few pages are put into memory; all but kernel and RAM disk are below 640 KiB.
    if placed.kernel_size <= 4 * PAGE_SIZE as u64 && initrd.1 == 0 {
        let mut machine = machine_on(Devices::default(), 1, place::KERNEL + (1 << 20), 16);
        machine.validate_range(0, place::KERNEL + (1 << 20));
        let launch = Launch::start(&platform(), machine.policy).expect("a policy that can be kept");
        linux.load(&mut machine, launch).expect("the pages were made before");
        assert_ne!(machine.digest, [0; 48]);
    }
}

fn options(text: &[u8]) {
    match Options::parse(text, 7) {
        Ok(options) => {
            assert!((1..=CPUS as u32).contains(&options.cpus));
            assert!(matches!(options.c_bit, 47 | 51) && options.seed != 0);
        }
        Err(why) => assert!(!why.is_empty()),
    }
}
