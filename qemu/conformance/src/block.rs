//! The launch block: a measured page that tells the guest where the image's builder put things, and what it is to do.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`Block::magic`]: "CONFORM1".
pub const MAGIC: u64 = u64::from_le_bytes(*b"CONFORM1");

/// The word with which every quadword of the measured page is filled; its index is added.
pub const MEASURED: u64 = 0x4d45_4153_5552_0000;
/// The same of the page that is launched without being measured.
pub const UNMEASURED: u64 = 0x554e_4d45_4153_0000;

/// The block. Addresses are guest-physical; all of them are of pages of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Block {
    /// [`MAGIC`].
    pub magic: u64,
    /// Position of the C-bit.
    pub c_bit: u64,
    /// What to do: a [`crate::scenario::Scenario`].
    pub scenario: u64,
    /// What the host is about to do: a [`crate::attack::Attack`], with [`crate::scenario::Scenario::Naive`].
    pub attack: u64,
    /// 64 or 32: bits of the mode that the first instruction runs in.
    pub entry: u64,
    /// This block's own address, which is in RSI at the entry.
    pub itself: u64,
    /// First page table: maps the first GiB at the image's base, with the C-bit.
    pub tables: u64,
    /// CPUID page.
    pub cpuid: u64,
    /// Secrets page.
    pub secrets: u64,
    /// Parameters: the memory map (`IGVM_VHS_MEMORY_MAP_ENTRY`, ended by an empty one).
    pub memory_map: u64,
    /// Parameters: the number of CPUs at 0, the environment's flags at 8.
    pub parameters: u64,
    /// A measured page of [`MEASURED`].
    pub measured: u64,
    /// An unmeasured page of [`UNMEASURED`].
    pub unmeasured: u64,
    /// A page without data.
    pub zero: u64,
    /// End of everything that was launched.
    pub end: u64,
}

const _: () = assert!(size_of::<Block>() <= 4096);
