//! A machine for tests and fuzz targets: memory from address 0, nothing in it.

use super::{Config, Machine};
use crate::hardware::Hardware;
use crate::hardware::testing::NoDevices;
use crate::memory::testing::TestMemory;
use crate::memory::{Attribute, Ram};
use crate::nested::Nested;
use crate::rmp::Rmp;

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
