//! Structures that cross the boundary, with x86-64's layouts (`struct stat`, `statx`, `statfs`).

use super::super::time::Timespec;
use crate::fs::{Metadata, StatFs, Timestamp};
use zerocopy::{Immutable, IntoBytes};

impl From<Timestamp> for Timespec {
    fn from(time: Timestamp) -> Timespec {
        Timespec { sec: time.sec, nsec: time.nsec.into() }
    }
}

/// `struct stat`, arch/x86/include/uapi/asm/stat.h.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Stat {
    dev: u64,
    ino: u64,
    nlink: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    pad: u32,
    rdev: u64,
    size: i64,
    block_size: i64,
    blocks: i64,
    atime: Timespec,
    mtime: Timespec,
    ctime: Timespec,
    unused: [i64; 3],
}
const _: () = assert!(size_of::<Stat>() == 144);

impl From<&Metadata> for Stat {
    fn from(from: &Metadata) -> Stat {
        Stat {
            dev: from.dev.0,
            ino: from.ino,
            nlink: from.nlink.into(),
            mode: from.st_mode(),
            uid: from.uid,
            gid: from.gid,
            pad: 0,
            rdev: from.rdev.0,
            size: from.size as i64,
            block_size: from.block_size.into(),
            blocks: from.blocks as i64,
            atime: from.atime.into(),
            mtime: from.mtime.into(),
            ctime: from.ctime.into(),
            unused: [0; 3],
        }
    }
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct StatxTime {
    sec: i64,
    nsec: u32,
    pad: i32,
}

impl From<Timestamp> for StatxTime {
    fn from(time: Timestamp) -> StatxTime {
        StatxTime { sec: time.sec, nsec: time.nsec, pad: 0 }
    }
}

/// `struct statx`, include/uapi/linux/stat.h.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Statx {
    mask: u32,
    block_size: u32,
    attributes: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    pad: u16,
    ino: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    atime: StatxTime,
    btime: StatxTime,
    ctime: StatxTime,
    mtime: StatxTime,
    rdev_major: u32,
    rdev_minor: u32,
    dev_major: u32,
    dev_minor: u32,
    rest: [u64; 14],
}
const _: () = assert!(size_of::<Statx>() == 256);

/// `STATX_BASIC_STATS | STATX_BTIME`.
const STATX_MASK: u32 = 0xfff;

impl From<&Metadata> for Statx {
    fn from(from: &Metadata) -> Statx {
        Statx {
            mask: STATX_MASK,
            block_size: from.block_size,
            attributes: 0,
            nlink: from.nlink,
            uid: from.uid,
            gid: from.gid,
            mode: from.st_mode() as u16,
            pad: 0,
            ino: from.ino,
            size: from.size,
            blocks: from.blocks,
            attributes_mask: 0,
            atime: from.atime.into(),
            btime: from.btime.into(),
            ctime: from.ctime.into(),
            mtime: from.mtime.into(),
            rdev_major: from.rdev.major(),
            rdev_minor: from.rdev.minor(),
            dev_major: from.dev.major(),
            dev_minor: from.dev.minor(),
            rest: [0; 14],
        }
    }
}

/// `struct statfs`, include/uapi/asm-generic/statfs.h.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct StatFsBuffer {
    magic: u64,
    block_size: u64,
    blocks: u64,
    blocks_free: u64,
    blocks_available: u64,
    files: u64,
    files_free: u64,
    id: [u32; 2],
    name_max: u64,
    fragment_size: u64,
    flags: u64,
    spare: [u64; 4],
}
const _: () = assert!(size_of::<StatFsBuffer>() == 120);

impl From<StatFs> for StatFsBuffer {
    fn from(from: StatFs) -> StatFsBuffer {
        StatFsBuffer {
            magic: from.magic,
            block_size: from.block_size,
            blocks: from.blocks,
            blocks_free: from.blocks_free,
            blocks_available: from.blocks_free,
            files: from.files,
            files_free: from.files_free,
            id: [0; 2],
            name_max: crate::fs::NAME_MAX as u64,
            fragment_size: from.block_size,
            // ST_VALID | ST_RELATIME
            flags: from.flags | 0x20 | 0x1000,
            spare: [0; 4],
        }
    }
}
