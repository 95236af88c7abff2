//! On-disk structures of EROFS (Linux's `fs/erofs/erofs_fs.h`) and of dm-verity's superblock, as far as our images use them:
//! uncompressed, extended or compact inodes, flat data. Little endian. Shared by the reader here and the writer in `xtask`.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes in a block.
pub const BLOCK: usize = 4096;
/// log2 of [`BLOCK`].
pub const BLOCK_BITS: u8 = 12;
/// Where the superblock is, in bytes.
pub const SUPERBLOCK_OFFSET: usize = 1024;
/// The superblock's first word.
pub const MAGIC: u32 = 0xe0f5_e1e2;
/// Inode numbers count slots of this many bytes from the metadata block on.
pub const SLOT: u64 = 32;

/// `struct erofs_super_block`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Superblock {
    pub magic: U32,
    pub checksum: U32,
    pub feature_compat: U32,
    pub block_bits: u8,
    pub extension_slots: u8,
    pub root_nid: U16,
    pub inodes: U64,
    pub build_time: U64,
    pub build_time_ns: U32,
    pub blocks: U32,
    pub meta_block: U32,
    pub xattr_block: U32,
    pub uuid: [u8; 16],
    pub volume_name: [u8; 16],
    pub feature_incompat: U32,
    pub compression: U16,
    pub extra_devices: U16,
    pub device_table_slot: U16,
    pub directory_block_bits: u8,
    pub xattr_prefix_count: u8,
    pub xattr_prefix_start: U32,
    pub packed_nid: U64,
    pub reserved: [u8; 24],
}
const _: () = assert!(size_of::<Superblock>() == 128);

/// Data layouts, bits 1..4 of an inode's format.
#[allow(missing_docs)]
pub mod data_layout {
    pub const FLAT_PLAIN: u16 = 0;
    pub const FLAT_INLINE: u16 = 2;
}

/// `struct erofs_inode_extended`; bit 0 of `format` is 1.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ExtendedInode {
    pub format: U16,
    pub xattr_count: U16,
    pub mode: U16,
    pub reserved: U16,
    pub size: U64,
    /// First data block; for a device, its number (`new_encode_dev`).
    pub data: U32,
    pub ino: U32,
    pub uid: U32,
    pub gid: U32,
    pub mtime: U64,
    pub mtime_ns: U32,
    pub nlink: U32,
    pub reserved2: [u8; 16],
}
const _: () = assert!(size_of::<ExtendedInode>() == 64);

/// `struct erofs_inode_compact`; bit 0 of `format` is 0.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct CompactInode {
    pub format: U16,
    pub xattr_count: U16,
    pub mode: U16,
    pub nlink: U16,
    pub size: U32,
    pub reserved: U32,
    pub data: U32,
    pub ino: U32,
    pub uid: U16,
    pub gid: U16,
    pub reserved2: U32,
}
const _: () = assert!(size_of::<CompactInode>() == 32);

/// `struct erofs_dirent`: at the beginning of each directory block; the names follow, sorted. The first one's `name_offset` says how many there are.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct DirectoryEntry {
    pub nid: U64,
    pub name_offset: U16,
    pub file_type: u8,
    pub reserved: u8,
}
const _: () = assert!(size_of::<DirectoryEntry>() == 12);

/// Values of [`DirectoryEntry::file_type`].
#[allow(missing_docs)]
pub mod file_type {
    pub const REGULAR: u8 = 1;
    pub const DIRECTORY: u8 = 2;
    pub const CHARACTER: u8 = 3;
    pub const BLOCK: u8 = 4;
    pub const FIFO: u8 = 5;
    pub const SOCKET: u8 = 6;
    pub const SYMLINK: u8 = 7;
}

/// dm-verity's superblock (`struct verity_sb` of cryptsetup), in the block after the data.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct VeritySuperblock {
    pub signature: [u8; 8],
    pub version: U32,
    pub hash_type: U32,
    pub uuid: [u8; 16],
    pub algorithm: [u8; 32],
    pub data_block_size: U32,
    pub hash_block_size: U32,
    pub data_blocks: U64,
    pub salt_size: U16,
    pub padding: [u8; 6],
    pub salt: [u8; 256],
    pub padding2: [u8; 168],
}
const _: () = assert!(size_of::<VeritySuperblock>() == 512);

/// Hashes in a block of the tree.
pub const HASHES_PER_BLOCK: u64 = 128;

/// Blocks of each level of the hash tree over `data_blocks`, from the lowest (hashes of data) to the root's single block. Empty for a
/// single data block: then the root hash is that block's.
pub fn tree_levels(data_blocks: u64) -> alloc::vec::Vec<u64> {
    let mut levels = alloc::vec::Vec::new();
    let mut blocks = data_blocks;
    while blocks > 1 {
        blocks = blocks.div_ceil(HASHES_PER_BLOCK);
        levels.push(blocks);
    }
    levels
}

/// The block at which each level begins, counted from the start of the image, in the same order. On disk the root's level comes first.
pub fn tree_starts(data_blocks: u64) -> alloc::vec::Vec<u64> {
    let levels = tree_levels(data_blocks);
    let mut at = data_blocks + 1;
    let mut starts = alloc::vec![0; levels.len()];
    for (start, blocks) in starts.iter_mut().zip(&levels).rev() {
        *start = at;
        at += blocks;
    }
    starts
}
