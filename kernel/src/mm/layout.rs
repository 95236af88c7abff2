//! Where things are in the upper half. Each region has top-level (PML4) entries of its own, made at boot and shared by all address spaces.
//!
//! | from | what |
//! | --- | --- |
//! | `0xffff_8000_0000_0000` | direct map: physical memory, read-write, never executable; without the kernel's text and constants |
//! | `0xffff_9000_0000_0000` | memory shared with the host, not encrypted (SNP only) |
//! | `0xffff_a000_0000_0000` | device windows, uncached |
//! | `0xffff_b000_0000_0000` | kernel stacks, a guard page below each |
//! | `0xffff_c000_0000_0000` | large kernel allocations |
//! | `0xffff_ffff_8010_0000` | the kernel's image, W^X |

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::structures::paging::PageTableFlags;

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

/// The C-bit as a mask; zero where memory is not encrypted.
static C_BIT: AtomicU64 = AtomicU64::new(0);

/// Makes every mapping from here on private: called once, before the first page table is made.
pub fn set_c_bit(position: u32) {
    C_BIT.store(1 << position, Ordering::Relaxed);
    let bit = x86_64::structures::mem_encrypt::MemoryEncryptionConfiguration::EncryptedBit(position as u8);
    // SAFETY: no page table of the kernel's exists yet; the position is the PSP's word.
    unsafe { x86_64::structures::mem_encrypt::enable_memory_encryption(bit) };
}

/// The C-bit as a mask.
#[inline]
pub fn c_bit() -> u64 {
    C_BIT.load(Ordering::Relaxed)
}

/// Flags of an entry for memory that is the guest's alone: all but what is shared with the host.
#[inline]
pub fn private(flags: PageTableFlags) -> PageTableFlags {
    flags | PageTableFlags::from_bits_retain(c_bit())
}

/// Memory shared with the host, in a view of its own: physical address plus this.
pub const SHARED_MAP: u64 = 0xffff_9000_0000_0000;
