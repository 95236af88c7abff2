//! A machine for tests and fuzz targets: memory from address 0, nothing in it.

use super::{Config, Machine};
use crate::hardware::Hardware;
use crate::hardware::testing::NoDevices;
use crate::memory::testing::TestMemory;
use crate::memory::{Attribute, PhysicalMemory, Ram};
use crate::nested::Nested;
use crate::rmp::Rmp;
use crate::vmcb::{Segment, Vmcb, efer};

/// One on which nothing happens by itself.
pub type TestMachine = Machine<NoDevices, TestMemory>;

/// One CPU, and `size` bytes of memory.
pub fn machine(size: u64) -> TestMachine {
    machine_on(NoDevices, 1, size, 16)
}

/// A machine on other hardware; the emulator's `tables`, for nested paging, are behind the guest's memory.
pub fn machine_on<H: Hardware>(hardware: H, cpus: u32, size: u64, tables: u64) -> Machine<H, TestMemory> {
    let memory = TestMemory::new((size + tables * 4096) as usize);
    let nested = Nested::new(&memory, 51, 5, (0..tables).map(|i| size + i * 4096).collect());
    let config = Config {
        c_bit: 51,
        sev_features: 1,
        trace: false,
        implicit_conversion: false,
        memory_key: 1,
        tsc_khz: 0,
        debug_exit: 0xf4,
        channel: 0x5f0,
    };
    let mut machine = Machine::new(hardware, memory, config, cpus, Rmp::new(size), nested);
    machine.add_ram(Ram { gpa: 0, size, spa: 0 });
    machine
}

/// Makes a page shared.
pub fn share<H: Hardware>(machine: &mut Machine<H, TestMemory>, gpa: u64) {
    machine.map.set_attribute(gpa, Attribute::Shared);
}

/// Where [`running`] has its instruction.
pub const CODE: u64 = 0x8000;

/// The state of a CPU in ring 0 of 64-bit mode, whose first 2 MiB are mapped one to one and privately, and validated; an instruction is at RIP. Tables
/// are at 0x1000 to 0x3000, the IDT (empty) at 0x5000, the GDT at 0x6000, the stack ends at 0x8000.
pub fn running(machine: &mut TestMachine, instruction: &[u8]) -> Vmcb {
    let c = 1 << machine.config.c_bit;
    for page in 0..16 {
        machine.launch_page(page << 12, &[0; 4096]);
    }
    for (at, entry) in
        [(0x1000, 0x2003 | c), (0x2000, 0x3003 | c), (0x3000, 0x83 | c), (0x6008, 0x00af_9b00_0000_ffff)]
    {
        machine.memory.write_u64(at, entry);
    }
    machine.memory.write(CODE, instruction);
    let mut vmcb = Vmcb::ZERO;
    (vmcb.cr0, vmcb.cr3, vmcb.cr4) = (0x8000_0031, 0x1000 | c, 0x20);
    vmcb.efer = efer::LME | efer::LMA | efer::NXE | efer::SVME;
    vmcb.cs = Segment { selector: 8, attributes: 0xa9b, limit: !0, base: 0 };
    vmcb.idtr = Segment { limit: 0xfff, base: 0x5000, ..Segment::default() };
    vmcb.gdtr = Segment { limit: 0x1f, base: 0x6000, ..Segment::default() };
    (vmcb.rip, vmcb.rsp, vmcb.rflags) = (CODE, 0x8000, 2);
    vmcb
}

/// A handler for #VC at 0x9000.
pub fn handle_vc(machine: &TestMachine) {
    machine.memory.write_u64(0x5000 + 29 * 16, 0x9000 | 8 << 16 | 0x8e << 40);
}
