//! The I/O APIC: routes a device's interrupt line to [`DEVICE_VECTOR`] on this CPU. Source: Intel 82093AA data sheet.

use super::apic;
use super::trap::DEVICE_VECTOR;
use crate::host::HOST;
use crate::mm::kernel_map;
use crate::snp;
use litebox_core::platform::OutOfMemory;
use platform_snp::host::HostIo;

const PHYSICAL: u64 = 0xfec0_0000;
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const REDIRECTION: u32 = 0x10;

/// Lets line `line` interrupt, edge triggered, active high (what QEMU's virtio-mmio lines are).
pub fn enable(line: u8) -> Result<(), OutOfMemory> {
    if !snp::active() {
        kernel_map::map_device(PHYSICAL, 4096)?;
    }
    let write = |register: u32, value: u32| {
        HOST.mmio_write32(PHYSICAL + SELECT, register);
        HOST.mmio_write32(PHYSICAL + WINDOW, value);
    };
    let entry = REDIRECTION + 2 * u32::from(line);
    write(entry + 1, apic::id() << 24);
    write(entry, u32::from(DEVICE_VECTOR));
    Ok(())
}
