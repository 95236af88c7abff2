//! Port instructions.

use core::arch::asm;

macro_rules! ports {
    ($read:ident, $write:ident, $type:ty, $register:tt) => {
        /// Reads a port.
        pub fn $read(port: u16) -> $type {
            let value: $type;
            // SAFETY: ring 0; a device's register is no memory of Rust's.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value, options(nostack, preserves_flags))
            };
            value
        }
        /// Writes a port.
        pub fn $write(port: u16, value: $type) {
            // SAFETY: as above; DMA that a write starts goes where its caller said.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in($register) value, options(nostack, preserves_flags))
            };
        }
    };
}

ports!(read8, write8, u8, "al");
ports!(read16, write16, u16, "ax");
ports!(read32, write32, u32, "eax");
