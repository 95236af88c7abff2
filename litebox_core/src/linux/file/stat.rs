//! stat and its kin, statfs, access.

use super::abi::{Stat, StatFsBuffer, Statx};
use super::{
    AT_EACCESS, AT_EMPTY_PATH, AT_NO_AUTOMOUNT, AT_SYMLINK_NOFOLLOW, Caller, base, descriptor, path,
};
use crate::errno::{Errno, Result};
use crate::fs::{Metadata, Permission};
use crate::north::file;
use zerocopy::IntoBytes;

fn put<C: Caller>(c: &C, buffer: u64, metadata: &Metadata) -> Result<usize> {
    c.write_memory(buffer as usize, Stat::from(metadata).as_bytes())?;
    Ok(0)
}

pub(super) fn stat<C: Caller>(c: &C, buffer: u64, name: u64, follow: bool) -> Result<usize> {
    let name = path(c, name)?;
    put(c, buffer, &file::statat(c, file::Base::Cwd, &name, follow, false)?)
}

pub(super) fn fstat<C: Caller>(c: &C, fd: u64, buffer: u64) -> Result<usize> {
    put(c, buffer, &descriptor::open_path(c, fd)?.metadata()?)
}

/// With `AT_EMPTY_PATH`, Linux takes a null pointer as an empty path.
fn optional_path<C: Caller>(c: &C, name: u64, flags: u64) -> Result<alloc::vec::Vec<u8>> {
    if name == 0 && flags & AT_EMPTY_PATH != 0 { Ok(alloc::vec::Vec::new()) } else { path(c, name) }
}

pub(super) fn newfstatat<C: Caller>(c: &C, dir: u64, name: u64, buffer: u64, flags: u64) -> Result<usize> {
    super::only(flags, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT)?;
    let name = optional_path(c, name, flags)?;
    let (follow, empty) = (flags & AT_SYMLINK_NOFOLLOW == 0, flags & AT_EMPTY_PATH != 0);
    put(c, buffer, &file::statat(c, base(dir, &name)?, &name, follow, empty)?)
}

pub(super) fn statx<C: Caller>(
    c: &C,
    dir: u64,
    name: u64,
    flags: u64,
    mask: u64,
    buffer: u64,
) -> Result<usize> {
    /// `AT_STATX_SYNC_TYPE`, and its value that means nothing.
    const SYNC_TYPE: u64 = 0x6000;
    /// `STATX__RESERVED`.
    const RESERVED: u64 = 0x8000_0000;
    super::only(flags, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | SYNC_TYPE)?;
    if mask & RESERVED != 0 || flags & SYNC_TYPE == SYNC_TYPE {
        return Err(Errno::EINVAL);
    }
    let name = optional_path(c, name, flags)?;
    let (follow, empty) = (flags & AT_SYMLINK_NOFOLLOW == 0, flags & AT_EMPTY_PATH != 0);
    let metadata = file::statat(c, base(dir, &name)?, &name, follow, empty)?;
    c.write_memory(buffer as usize, Statx::from(&metadata).as_bytes())?;
    Ok(0)
}

pub(super) fn statfs<C: Caller>(c: &C, name: u64, buffer: u64) -> Result<usize> {
    let name = path(c, name)?;
    let place = file::resolve(c, file::Base::Cwd, &name, true)?;
    c.write_memory(buffer as usize, StatFsBuffer::from(place.inode.statfs()).as_bytes())?;
    Ok(0)
}

pub(super) fn fstatfs<C: Caller>(c: &C, fd: u64, buffer: u64) -> Result<usize> {
    /// `PIPEFS_MAGIC`.
    const PIPEFS: u64 = 0x5049_5045;
    let open = descriptor::open_path(c, fd)?;
    let none = crate::fs::StatFs { magic: PIPEFS, block_size: 4096, ..Default::default() };
    let statfs = open.inode().map_or(none, |inode| inode.statfs());
    c.write_memory(buffer as usize, StatFsBuffer::from(statfs).as_bytes())?;
    Ok(0)
}

pub(super) fn faccessat<C: Caller>(c: &C, dir: u64, name: u64, mode: u64, flags: u64) -> Result<usize> {
    // Real and effective ids are one here, so AT_EACCESS changes nothing.
    super::only(flags, AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let wanted = Permission::from_bits(mode as u32).ok_or(Errno::EINVAL)?;
    let name = path(c, name)?;
    let (follow, empty) = (flags & AT_SYMLINK_NOFOLLOW == 0, flags & AT_EMPTY_PATH != 0);
    let metadata = file::statat(c, base(dir, &name)?, &name, follow, empty)?;
    if !wanted.is_empty() {
        c.fs().credentials.check(&metadata, wanted)?;
    }
    Ok(0)
}
