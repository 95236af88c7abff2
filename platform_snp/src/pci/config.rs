//! Configuration space, 32 bits at a time.

use crate::host::HostIo;
use core::cell::Cell;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

/// A function's place: bus, device (0 to 31), function (0 to 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    bus: u8,
    device: u8,
    function: u8,
}

impl Address {
    /// `None` where there is no such place.
    pub fn new(bus: u8, device: u8, function: u8) -> Option<Address> {
        (device < 32 && function < 8).then_some(Address { bus, device, function })
    }

    fn select(self, register: u8) -> u32 {
        let place = u32::from(self.bus) << 16 | u32::from(self.device) << 11 | u32::from(self.function) << 8;
        ENABLE | place | u32::from(register & !3)
    }
}

/// Access to configuration space. One at a time: the port that selects a register is shared.
pub struct Config<'h> {
    host: &'h dyn HostIo,
    /// What is selected, so that a register that is used again costs one exit and not two.
    selected: Cell<u32>,
}

impl<'h> Config<'h> {
    /// By the ports of `host`.
    pub fn new(host: &'h dyn HostIo) -> Config<'h> {
        Config { host, selected: Cell::new(0) }
    }

    fn select(&self, function: Address, register: u8) {
        let select = function.select(register);
        if self.selected.replace(select) != select {
            self.host.out32(ADDRESS, select);
        }
    }

    /// Reads the 32 bits at `register`, a multiple of 4; all ones where nothing is.
    pub fn read(&self, function: Address, register: u8) -> u32 {
        self.select(function, register);
        self.host.in32(DATA)
    }

    /// Writes them.
    pub fn write(&self, function: Address, register: u8, value: u32) {
        self.select(function, register);
        self.host.out32(DATA, value);
    }
}
