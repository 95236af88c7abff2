//! A machine for tests: one CPU, memory from address 0, nothing in it.

use super::{Config, Machine};
use crate::hardware::testing::NoDevices;
use crate::memory::testing::TestMemory;
use crate::memory::{Attribute, Ram};
use crate::nested::Nested;
use crate::rmp::Rmp;

pub type TestMachine = Machine<NoDevices, TestMemory>;

/// Where a guest of `size` bytes has its memory: the emulator's tables are behind it.
pub fn machine(size: u64) -> TestMachine {
    let tables = 16;
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
    let mut machine = Machine::new(NoDevices, memory, config, 1, Rmp::new(size), nested);
    machine.add_ram(Ram { gpa: 0, size, spa: 0 });
    machine
}

/// Makes a page shared and zero.
pub fn share(machine: &mut TestMachine, gpa: u64) {
    machine.map.set_attribute(gpa, Attribute::Shared);
}
