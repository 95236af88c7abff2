//! Where things are in the upper half. Each region has top-level (PML4) entries of its own, made at boot and shared by all address spaces.
//!
//! | from | what |
//! | --- | --- |
//! | `0xffff_8000_0000_0000` | direct map: physical memory, read-write, never executable; without the kernel's text and constants |
//! | `0xffff_a000_0000_0000` | device windows, uncached |
//! | `0xffff_b000_0000_0000` | kernel stacks, a guard page below each |
//! | `0xffff_c000_0000_0000` | large kernel allocations |
//! | `0xffff_ffff_8010_0000` | the kernel's image, W^X |

use core::ops::Range;

/// The direct map.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// As much physical memory as the direct map has room for: 32 TiB.
pub const DIRECT_MAP_SIZE: u64 = 1 << 45;
/// Device windows: physical address plus this.
pub const DEVICE_MAP: u64 = 0xffff_a000_0000_0000;
/// Kernel stacks.
pub const STACKS: u64 = 0xffff_b000_0000_0000;
/// Large kernel allocations.
pub const LARGE_ALLOCATIONS: u64 = 0xffff_c000_0000_0000;

/// User addresses: the lower half, without the first 64 KiB (`vm.mmap_min_addr`) and without the last page, after which a SYSCALL would return to a
/// non-canonical address.
pub const USER: Range<usize> = 0x1_0000..0x7fff_ffff_f000;

/// One past the last byte that user mode may touch.
pub const USER_END: usize = USER.end;

/// Where the direct map has physical address `physical`.
pub fn direct(physical: u64) -> *mut u8 {
    (DIRECT_MAP + physical) as *mut u8
}
