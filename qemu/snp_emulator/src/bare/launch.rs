//! The launch: what the VMM and the PSP put into memory before the first instruction.

use super::machine::TheMachine;
use super::options::Options;
use super::start_info::StartInfo;
use super::{fw_cfg, pages};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use litebox_igvm::profile::HostProfile;
use snp_emulator::ending::Ending;
use snp_emulator::hardware::Hardware;
use snp_emulator::load::igvm::Environment;
use snp_emulator::load::linux::{E820, Linux, place, setup_size};
use snp_emulator::memory::Ram;
use snp_emulator::vm::{FIRST_VMSA, State};

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
    linux(machine, info, &ram, options, kernel)?;
    if let Some(first) = machine.cpus.first_mut() {
        first.state = State::Starting { vmsa: FIRST_VMSA };
    }
    Ok(())
}

/// The secrets page: version 3, and a key for each VMPL (SNP firmware ABI, table 71).
fn secrets(machine: &mut TheMachine) -> [u8; 4096] {
    let mut page = [0; 4096];
    page[0] = 3;
    for word in page[0x20..0xa0].chunks_exact_mut(8) {
        word.copy_from_slice(&machine.hardware.random().to_le_bytes());
    }
    page
}

fn igvm(
    machine: &mut TheMachine,
    ram: &[(u64, u64, E820)],
    options: &Options,
    file: &[u8],
) -> Result<(), Ending> {
    let profile = HostProfile::from_name(&options.host).ok_or_else(|| failed("no such host profile"))?;
    let memory: Vec<(u64, u64)> = ram.iter().filter(|r| r.2 == E820::Usable).map(|r| (r.0, r.1)).collect();
    let secrets = secrets(machine);
    let mut environment = Environment {
        profile,
        memory: &memory,
        secrets: &secrets,
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
    let mut setup = vec![0; 64 * 512 + 512];
    let read = (setup.len() as u32).min(kernel.size);
    // SAFETY: the vector's own memory.
    unsafe { fw_cfg::read_to(kernel, 0, read, setup.as_mut_ptr() as u64) };
    let size = setup_size(&setup).map_err(|why| failed(why.words()))?;
    let protected = kernel.size.saturating_sub(size as u32);
    let init_size = u64::from(u32::from_le_bytes([setup[0x260], setup[0x261], setup[0x262], setup[0x263]]));
    let low = ram.iter().find(|r| r.0 <= place::KERNEL && r.0 + r.1 > place::KERNEL).copied();
    let Some((start, len, _)) = low else {
        return Err(failed("there is no memory at 16 MiB for the kernel"));
    };
    let end = start + len;
    let initrd = fw_cfg::find("opt/org.litebox/initrd");
    let initrd_size = u64::from(initrd.map_or(0, |item| item.size));
    let initrd_at = end.saturating_sub(initrd_size) & !0xfff;
    if initrd_at < place::KERNEL + init_size.max(protected.into()) {
        return Err(failed("the kernel and its initial RAM disk do not fit: give more --memory"));
    }
    // SAFETY: memory of the guest's, which does not run yet.
    unsafe {
        fw_cfg::read_to(kernel, size as u32, protected, place::KERNEL);
        if let Some(item) = initrd {
            fw_cfg::read_to(item, 0, item.size, initrd_at);
        }
    }
    for &(start, size, _) in ram {
        machine.validate_range(start, size);
    }
    machine.validate_range(LOW_END - 0x1000, 0x1000);
    machine.validate_range(ROMS.0, ROMS.1);
    // The root pointer is in a ROM, which the guest does not see: a copy goes beside the other pages.
    let rsdp = place::SETUP_DATA + 0x800;
    let line: String = options.append.clone();
    let setup = setup.get(..size).unwrap_or_default();
    let initrd = (if initrd_size == 0 { 0 } else { initrd_at }, initrd_size);
    let description = Linux {
        setup,
        command_line: &line,
        initrd,
        memory: ram,
        rsdp: if info.rsdp == 0 { 0 } else { rsdp },
        c_bit: options.c_bit,
    };
    for (gpa, mut page) in description.pages().map_err(|why| failed(why.words()))? {
        if gpa == place::SETUP_DATA && info.rsdp != 0 {
            // SAFETY: the firmware's table, 36 bytes, mapped one to one.
            let root = unsafe { (info.rsdp as *const [u8; 36]).read_unaligned() };
            page[0x800..0x824].copy_from_slice(&root);
        }
        machine.launch_page(gpa, &page);
    }
    let cpuid = machine.cpuid.page();
    machine.launch_page(place::CPUID, &cpuid);
    let secrets = secrets(machine);
    machine.launch_page(place::SECRETS, &secrets);
    machine.first_vmsa = description.vmsa();
    Ok(())
}
