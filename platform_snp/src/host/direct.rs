//! The host of a plain VM: port instructions, and loads and stores through a mapping that the kernel made.

use super::{HostIo, Width};
use core::arch::asm;

/// Direct access to ports and to device memory.
pub struct Direct {
    map: fn(u64) -> *mut u8,
}

impl Direct {
    /// # Safety
    ///
    /// Runs in ring 0. For every device address that drivers are given, `map` returns where its register is mapped,
    /// uncached and writable, for ever; and drivers own the devices whose ports and addresses they use.
    pub const unsafe fn new(map: fn(u64) -> *mut u8) -> Self {
        Self { map }
    }
}

macro_rules! ports {
    ($read:ident, $write:ident, $type:ty, $register:tt) => {
        fn $read(&self, port: u16) -> $type {
            let value: $type;
            // SAFETY: ring 0, by the contract of `new`; reading a device's port changes no memory of Rust's.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value, options(nostack, preserves_flags))
            };
            value
        }
        fn $write(&self, port: u16, value: $type) {
            // SAFETY: as above; DMA that a write starts goes to memory that a driver gave for it.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in($register) value, options(nostack, preserves_flags))
            };
        }
    };
}

impl HostIo for Direct {
    ports!(in8, out8, u8, "al");
    ports!(in16, out16, u16, "ax");
    ports!(in32, out32, u32, "eax");

    fn mmio_read(&self, address: u64, width: Width) -> u32 {
        let at = (self.map)(address);
        // SAFETY: the contract of `new`: a device register is mapped there; drivers access registers at multiples of their width.
        unsafe {
            match width {
                Width::Byte => at.read_volatile().into(),
                Width::Half => at.cast::<u16>().read_volatile().into(),
                Width::Word => at.cast::<u32>().read_volatile(),
            }
        }
    }
    fn mmio_write(&self, address: u64, width: Width, value: u32) {
        let at = (self.map)(address);
        // SAFETY: as above.
        unsafe {
            match width {
                Width::Byte => at.write_volatile(value as u8),
                Width::Half => at.cast::<u16>().write_volatile(value as u16),
                Width::Word => at.cast::<u32>().write_volatile(value),
            }
        }
    }
}
