//! Virtio devices on PCI: where their registers are.
//!
//! The emulator looks for itself, at the configuration space of QEMU's first bus, whenever the guest has written to it; what the guest says of its devices is not
//! relied on. Source: virtio 1.2, section 4.1.4; PCI local bus specification 3.0, chapter 6.

use crate::hardware::Hardware;
use alloc::vec::Vec;
use core::ops::Range;

/// Address and data of configuration accesses.
const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
/// The four ports of the data.
pub const DATA_PORTS: Range<u16> = DATA..DATA + 4;
/// Where q35 has configuration space in memory.
pub const WINDOW: Range<u64> = 0xb000_0000..0xc000_0000;

const VENDOR_VIRTIO: u32 = 0x1af4;
/// Device ids: transitional ones, and from here on the type of device and this.
const MODERN: u32 = 0x1040;
const STATUS_AND_COMMAND: u8 = 0x04;
const HEADER_TYPE: u8 = 0x0c;
const BARS: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
const VENDOR_SPECIFIC: u32 = 0x09;
/// Kinds of virtio's capabilities.
const COMMON: u32 = 1;
const NOTIFY: u32 = 2;

/// A virtio device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Function {
    /// Its type (virtio 1.2, chapter 5).
    pub kind: u32,
    /// The common configuration.
    pub common: Range<u64>,
    /// Where the driver notifies it.
    pub notify: Range<u64>,
}

/// A function's configuration space.
struct Configuration<'a, H> {
    hardware: &'a mut H,
    device: u32,
    function: u32,
}

impl<H: Hardware> Configuration<'_, H> {
    fn read(&mut self, register: u8) -> u32 {
        let address = 1 << 31 | self.device << 11 | self.function << 8 | u32::from(register & !3);
        self.hardware.port_out(ADDRESS, 4, address);
        self.hardware.port_in(DATA, 4)
    }

    /// The address in a base address register for memory.
    fn bar(&mut self, index: u32) -> Option<u64> {
        let register = BARS + 4 * u8::try_from(index).ok().filter(|index| *index < 6)?;
        let low = self.read(register);
        if low & 1 != 0 {
            return None;
        }
        let high = if low >> 1 & 3 == 2 { self.read(register + 4) } else { 0 };
        Some(u64::from(high) << 32 | u64::from(low & !15))
    }

    /// What it is, if it is a virtio device whose registers have addresses.
    fn virtio(&mut self) -> Option<Function> {
        let id = self.read(0);
        if id & 0xffff != VENDOR_VIRTIO || self.read(STATUS_AND_COMMAND) >> 20 & 1 == 0 {
            return None;
        }
        let mut found = Function { kind: (id >> 16).wrapping_sub(MODERN), ..Function::default() };
        let mut at = self.read(CAPABILITIES) as u8 & !3;
        // As many as configuration space has room for.
        for _ in 0..48 {
            if at == 0 {
                break;
            }
            let head = self.read(at);
            if head & 0xff == VENDOR_SPECIFIC {
                let (bar, offset, length) = (self.read(at + 4) & 0xff, self.read(at + 8), self.read(at + 12));
                if let (kind @ (COMMON | NOTIFY), Some(base)) = (head >> 24, self.bar(bar)) {
                    let start = base + u64::from(offset);
                    let range = start..start + u64::from(length);
                    *(if kind == COMMON { &mut found.common } else { &mut found.notify }) = range;
                }
            }
            at = (head >> 8) as u8 & !3;
        }
        (!found.common.is_empty() && !found.notify.is_empty()).then_some(found)
    }
}

/// The virtio devices of the first bus. The guest's own configuration address stays.
pub fn find(hardware: &mut impl Hardware) -> Vec<Function> {
    let address = hardware.port_in(ADDRESS, 4);
    let mut found = Vec::new();
    for device in 0..32 {
        let mut configuration = Configuration { hardware, device, function: 0 };
        if configuration.read(0) == !0 {
            continue;
        }
        let several = configuration.read(HEADER_TYPE) >> 23 & 1 != 0;
        for function in 0..if several { 8 } else { 1 } {
            configuration.function = function;
            found.extend(configuration.virtio());
        }
    }
    hardware.port_out(ADDRESS, 4, address);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::testing::NoDevices;
    use alloc::collections::BTreeMap;

    /// A bus with these registers of configuration space, by address.
    #[derive(Default)]
    struct Bus {
        address: u32,
        registers: BTreeMap<u32, u32>,
    }

    impl Hardware for Bus {
        fn port_in(&mut self, port: u16, size: u8) -> u32 {
            match (port, size) {
                (ADDRESS, 4) => self.address,
                (DATA, 4) => self.registers.get(&self.address).copied().unwrap_or(!0),
                _ => panic!("port {port:#x}, {size} bytes"),
            }
        }
        fn port_out(&mut self, port: u16, size: u8, value: u32) {
            assert_eq!((port, size), (ADDRESS, 4), "nothing is configured");
            self.address = value;
        }
        fn mmio_read(&mut self, _: u64, _: u8) -> u64 {
            panic!("no device is read")
        }
        fn mmio_write(&mut self, _: u64, _: u8, _: u64) {
            panic!("no device is written")
        }
        fn tsc(&self) -> u64 {
            0
        }
        fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
            NoDevices.cpuid(leaf, subleaf)
        }
        fn kick(&mut self, _: usize) {}
        fn logical_id(&mut self, _: u32, _: u32) {}
        fn pass_external(&mut self, _: bool) {}
        fn shoot_down(&mut self, _: usize) {}
        fn report(&mut self, _: &[u8]) {}
        fn random(&mut self) -> u64 {
            4
        }
    }

    /// A device with MSI-X, the two capabilities, and registers in a BAR of 64 bits.
    fn bus(device: u32, function: u32, id: u32) -> Bus {
        let mut bus = Bus { address: 0x8000_1234, ..Bus::default() };
        for (register, value) in [
            (0x00, id),
            (0x04, 1 << 20),
            (0x0c, 0),
            (0x10, 0xc001),
            (0x20, 0xfe00_000c),
            (0x24, 0x10),
            (0x34, 0x40),
            (0x40, 0x11 | 0x50 << 8),
            (0x50, 0x09 | 0x60 << 8 | 0x10 << 16 | NOTIFY << 24),
            (0x54, 4),
            (0x58, 0x3000),
            (0x5c, 0x1000),
            (0x60, 0x09 | 0x70 << 8 | 0x10 << 16 | COMMON << 24),
            (0x64, 4),
            (0x68, 0),
            (0x6c, 0x38),
            // In a BAR of ports, and around in a circle.
            (0x70, 0x09 | 0x70 << 8 | 0x10 << 16 | 3 << 24),
            (0x74, 0),
            (0x78, 0),
            (0x7c, 4),
        ] {
            bus.registers.insert(1 << 31 | device << 11 | function << 8 | register, value);
        }
        bus
    }

    #[test]
    fn a_device_is_found_and_the_address_stays() {
        let found = Function {
            kind: 2,
            common: 0x10_fe00_0000..0x10_fe00_0038,
            notify: 0x10_fe00_3000..0x10_fe00_4000,
        };
        let mut one = bus(3, 0, 0x1042_1af4);
        assert_eq!(find(&mut one).first(), Some(&found));
        assert_eq!(one.address, 0x8000_1234);
        // The second function of a device that says that it has several.
        let mut two = bus(31, 1, 0x1042_1af4);
        two.registers.insert(1 << 31 | 31 << 11, 0x1234_8086);
        two.registers.insert(1 << 31 | 31 << 11 | 0x0c, 0);
        assert_eq!(find(&mut two), []);
        two.registers.insert(1 << 31 | 31 << 11 | 0x0c, 0x80 << 16);
        assert_eq!(find(&mut two), [found]);
        assert_eq!(find(&mut bus(3, 0, 0x1042_1af5)), [], "of another vendor");
        assert_eq!(find(&mut NoDevices), []);
    }
}
