//! First instructions to `kernel_main(&BootInfo)`.
//!
//! There are two ways in: PVH, which is how QEMU (and cloud-hypervisor) start an ELF kernel in an ordinary VM, and the state that an IGVM file
//! gives an SNP guest. Whatever the way in, the kernel is entered in 64-bit mode, in the high half, on a boot stack, with interrupts off, and with a
//! [`BootInfo`] that holds copies of everything the host said: nothing in it points at memory that the host or the
//! firmware laid out, except for the manifest of an ordinary VM, which may be in low memory.
#![cfg_attr(not(test), no_std)]

mod info;
mod options;
#[cfg(target_os = "none")]
mod pvh_entry;
#[cfg(target_os = "none")]
mod snp_entry;
pub mod start_info;

pub use info::{
    BootError, BootInfo, LOW_MEMORY_END, MAX_COMMAND_LINE, MAX_REGIONS, MemoryRegion, PlatformKind,
};
pub use options::{BadOption, DeviceLocation, Options};
#[cfg(target_os = "none")]
pub use pvh_entry::{BOOT_MAP_SIZE, KERNEL_BASE};
#[cfg(target_os = "none")]
pub use snp_entry::{CPU, SnpBoot};
