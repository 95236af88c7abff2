//! The launch: what the VMM and the PSP put into memory before the first instruction.

use super::machine::TheMachine;
use super::start_info::StartInfo;
use super::{fw_cfg, pages};
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use snp_emulator::ending::Ending;
use snp_emulator::load::igvm::Environment;
use snp_emulator::load::launch::{Launch, Platform};
use snp_emulator::load::linux::{E820, Linux, Placement, SETUP_MAX, place};
use snp_emulator::memory::Ram;
use snp_emulator::options::Options;

/// Where a PC has ROMs; the guest gets RAM of the emulator's there.
const ROMS: (u64, u64) = (0xc_0000, 0x4_0000);

/// Where conventional memory ends.
const LOW_END: u64 = 0xa_0000;

fn failed(why: &str) -> Ending {
    Ending::Launch(why.to_string())
}

/// Loads what the launcher gave.
pub fn load(machine: &mut TheMachine, info: &StartInfo, home: u64, options: &Options) -> Result<(), Ending> {
    let ram = guest_ram(info, home);
    for &(start, size, _) in &ram {
        // The page that holds the end of conventional memory and the firmware's data area is RAM too, though nobody's to use.
        let size = if start + size == LOW_END - 0x1000 { size + 0x1000 } else { size };
        machine.add_ram(Ram { gpa: start, size, spa: start });
    }
    machine.add_ram(Ram { gpa: ROMS.0, size: ROMS.1, spa: pages((ROMS.1 >> 12) as usize) });
    if let Some(file) = fw_cfg::read("opt/org.litebox/igvm") {
        return igvm(machine, &ram, options, &file);
    }
    let Some(kernel) = fw_cfg::find("opt/org.litebox/kernel") else {
        return Err(failed("the launcher gave neither an IGVM file nor a kernel"));
    };
    linux(machine, info, &ram, options, kernel)
}

fn platform(options: &Options) -> Platform {
    Platform::new(options.report_version, options.seed)
}

fn igvm(
    machine: &mut TheMachine,
    ram: &[(u64, u64, E820)],
    options: &Options,
    file: &[u8],
) -> Result<(), Ending> {
    let memory: Vec<(u64, u64)> = ram.iter().filter(|r| r.2 == E820::Usable).map(|r| (r.0, r.1)).collect();
    let mut environment = Environment {
        profile: options.host,
        memory: &memory,
        platform: platform(options),
        more_memory: &mut |size| Some(pages((size >> 12) as usize)),
    };
    snp_emulator::load::igvm::load(machine, file, &mut environment)
}

/// The guest's memory: RAM without the emulator's, and the firmware's tables.
fn guest_ram(info: &StartInfo, home: u64) -> Vec<(u64, u64, E820)> {
    let mut ram = Vec::new();
    for region in info.regions() {
        let (start, end) = ((region.start + 0xfff) & !0xfff, (region.start + region.size) & !0xfff);
        // What SeaBIOS reserves at the end of RAM holds the ACPI tables.
        let tables = region.kind == 2 && start == info.low_memory_end() && end < 0xc000_0000;
        let (end, kind) = match region.kind {
            1 if start < home => (end.min(home), E820::Usable),
            1 => (end, E820::Usable),
            _ if tables => (end, E820::Acpi),
            _ => continue,
        };
        if end > start {
            ram.push((start, end - start, kind));
        }
    }
    ram
}

fn linux(
    machine: &mut TheMachine,
    info: &StartInfo,
    ram: &[(u64, u64, E820)],
    options: &Options,
    kernel: fw_cfg::Item,
) -> Result<(), Ending> {
    let mut setup = vec![0; SETUP_MAX.min(kernel.size as usize)];
    // SAFETY: the vector's own memory.
    unsafe { fw_cfg::read_to(kernel, 0, setup.len() as u32, setup.as_mut_ptr() as u64) };
    let initrd = fw_cfg::find("opt/org.litebox/initrd");
    let placement = Placement::of(&setup, kernel.size, initrd.map_or(0, |item| item.size), ram)
        .map_err(|why| failed(why.words()))?;
    // SAFETY: memory of the guest's, which does not run yet.
    unsafe {
        fw_cfg::read_to(kernel, placement.setup_size as u32, placement.kernel_size as u32, place::KERNEL);
        if let Some(item) = initrd {
            fw_cfg::read_to(item, 0, item.size, placement.initrd.0);
        }
    }
    for &(start, size, _) in ram {
        machine.validate_range(start, size);
    }
    machine.validate_range(LOW_END - 0x1000, 0x1000);
    machine.validate_range(ROMS.0, ROMS.1);
    // The root pointer is in a ROM, which the guest does not see: it gets a copy.
    // SAFETY: the firmware's table, 36 bytes, mapped one to one.
    let root = (info.rsdp != 0).then(|| unsafe { (info.rsdp as *const [u8; 36]).read_unaligned() });
    let description = Linux {
        setup: setup.get(..placement.setup_size).unwrap_or_default(),
        command_line: &options.append,
        kernel_size: placement.kernel_size,
        initrd: placement.initrd,
        memory: ram,
        root,
        c_bit: options.c_bit,
    };
    let launch = Launch::start(&platform(options), machine.policy)?;
    description.load(machine, launch)
}
