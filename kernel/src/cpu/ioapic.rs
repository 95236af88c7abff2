//! The I/O APIC: routes a device's interrupt line to [`DEVICE_VECTOR`] on this CPU. Source: Intel 82093AA data sheet.

use super::apic;
use super::trap::DEVICE_VECTOR;
use crate::mm::kernel_map;
use litebox_core::platform::OutOfMemory;

const PHYSICAL: u64 = 0xfec0_0000;
const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
const REDIRECTION: u32 = 0x10;

/// Lets line `line` interrupt, edge triggered, active high (what QEMU's virtio-mmio lines are).
pub fn enable(line: u8) -> Result<(), OutOfMemory> {
    let page = kernel_map::map_device(PHYSICAL, 4096)?;
    let write = |register: u32, value: u32| {
        // SAFETY: the I/O APIC's register page, mapped above; this selects a register and writes it.
        unsafe {
            page.add(SELECT).cast::<u32>().write_volatile(register);
            page.add(WINDOW).cast::<u32>().write_volatile(value);
        }
    };
    let entry = REDIRECTION + 2 * u32::from(line);
    write(entry + 1, apic::id() << 24);
    write(entry, u32::from(DEVICE_VECTOR));
    Ok(())
}
