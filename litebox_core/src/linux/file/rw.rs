//! read, write and their vector and positioned forms, lseek, sendfile, copy_file_range, truncate, fallocate, sync.

use super::descriptor::open_file;
use super::{Caller, MAX_RW, path};
use crate::errno::{Errno, Result};
use crate::fs::{FileType, OpenFile, PollEvents, Whence, ops};
use crate::mm::{Page, Sink, Source};
use crate::north::file::{self, Base, Place};
use alloc::vec::Vec;
use core::mem::size_of;

/// `IOV_MAX`.
const IOV_MAX: u64 = 1024;
/// Most bytes that go from file to file at once.
const CHUNK: usize = 65_536;

/// EFAULT for memory that no program can have, whether or not it is needed.
fn possible<C: Caller>(c: &C, address: u64, len: u64) -> Result<()> {
    let end = address.checked_add(len).filter(|end| *end <= c.address_limit() as u64);
    end.map(drop).ok_or(Errno::EFAULT)
}

/// One buffer, cut to what a call transfers. EFAULT.
fn one<C: Caller>(c: &C, address: u64, len: u64) -> Result<[(usize, usize); 1]> {
    possible(c, address, len)?;
    Ok([(address as usize, len.min(MAX_RW as u64) as usize)])
}

/// An array of `struct iovec`. EINVAL, EFAULT.
fn vector<C: Caller>(c: &C, iov: u64, count: u64) -> Result<Vec<(usize, usize)>> {
    if count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let mut raw = alloc::vec![0u64; count as usize * 2];
    c.read_memory(iov as usize, zerocopy::IntoBytes::as_mut_bytes(raw.as_mut_slice()))?;
    const { assert!(size_of::<usize>() == size_of::<u64>()) };
    let mut left = MAX_RW;
    let mut buffers = Vec::with_capacity(count as usize);
    for pair in raw.chunks_exact(2) {
        let &[address, len] = pair else { continue };
        if len > isize::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        possible(c, address, len)?;
        let len = (len as usize).min(left);
        left -= len;
        buffers.push((address as usize, len));
    }
    Ok(buffers)
}

/// An offset argument. EINVAL when negative.
fn position(raw: u64) -> Result<u64> {
    if raw as i64 >= 0 { Ok(raw) } else { Err(Errno::EINVAL) }
}

pub(super) fn read<C: Caller>(c: &C, fd: u64, address: u64, len: u64) -> Result<usize> {
    let open = open_file(c, fd)?;
    open.readable()?;
    let buffers = one(c, address, len)?;
    let mut sink = c.sink(&buffers);
    file::blocking(c, &open, PollEvents::IN, || open.read(&mut sink))
}

pub(super) fn write<C: Caller>(c: &C, fd: u64, address: u64, len: u64) -> Result<usize> {
    let open = open_file(c, fd)?;
    open.writable()?;
    let buffers = one(c, address, len)?;
    file::write_open(c, &open, &mut c.source(&buffers))
}

pub(super) fn readv<C: Caller>(c: &C, fd: u64, iov: u64, count: u64) -> Result<usize> {
    let open = open_file(c, fd)?;
    let buffers = vector(c, iov, count)?;
    let mut sink = c.sink(&buffers);
    file::blocking(c, &open, PollEvents::IN, || open.read(&mut sink))
}

pub(super) fn writev<C: Caller>(c: &C, fd: u64, iov: u64, count: u64) -> Result<usize> {
    let open = open_file(c, fd)?;
    let buffers = vector(c, iov, count)?;
    file::write_open(c, &open, &mut c.source(&buffers))
}

pub(super) fn pread<C: Caller>(c: &C, fd: u64, address: u64, len: u64, offset: u64) -> Result<usize> {
    let offset = position(offset)?;
    let open = open_file(c, fd)?;
    open.read_at(offset, &mut c.sink(&one(c, address, len)?))
}

pub(super) fn pwrite<C: Caller>(c: &C, fd: u64, address: u64, len: u64, offset: u64) -> Result<usize> {
    let offset = position(offset)?;
    let open = open_file(c, fd)?;
    file::write_at(c, &open, Place::At(offset), &mut c.source(&one(c, address, len)?))
}

/// `RWF_*` flags that ask for nothing we would do otherwise: HIPRI, DSYNC, SYNC, NOWAIT.
const RWF_HARMLESS: u64 = 0xf;
/// Write at the end of the file.
const RWF_APPEND: u64 = 0x10;
/// The offset of `preadv2` and `pwritev2` that stands for the position.
const POSITION: u64 = u64::MAX;

pub(super) fn preadv<C: Caller>(c: &C, fd: u64, iov: u64, n: u64, offset: u64) -> Result<usize> {
    let offset = position(offset)?;
    let open = open_file(c, fd)?;
    open.read_at(offset, &mut c.sink(&vector(c, iov, n)?))
}

pub(super) fn pwritev<C: Caller>(c: &C, fd: u64, iov: u64, n: u64, offset: u64) -> Result<usize> {
    let offset = position(offset)?;
    let open = open_file(c, fd)?;
    file::write_at(c, &open, Place::At(offset), &mut c.source(&vector(c, iov, n)?))
}

pub(super) fn preadv2<C: Caller>(c: &C, fd: u64, iov: u64, n: u64, offset: u64, flags: u64) -> Result<usize> {
    if flags & !RWF_HARMLESS != 0 {
        position(if offset == POSITION { 0 } else { offset })?;
        return Err(Errno::EOPNOTSUPP);
    }
    if offset == POSITION { readv(c, fd, iov, n) } else { preadv(c, fd, iov, n, offset) }
}

pub(super) fn pwritev2<C: Caller>(
    c: &C,
    fd: u64,
    iov: u64,
    n: u64,
    offset: u64,
    flags: u64,
) -> Result<usize> {
    if flags & RWF_APPEND != 0 && flags & !(RWF_HARMLESS | RWF_APPEND) == 0 {
        position(if offset == POSITION { 0 } else { offset })?;
        let open = open_file(c, fd)?;
        return file::write_at(c, &open, Place::End, &mut c.source(&vector(c, iov, n)?));
    }
    if flags & !RWF_HARMLESS != 0 {
        position(if offset == POSITION { 0 } else { offset })?;
        return Err(Errno::EOPNOTSUPP);
    }
    if offset == POSITION { writev(c, fd, iov, n) } else { pwritev(c, fd, iov, n, offset) }
}

pub(super) fn lseek<C: Caller>(c: &C, fd: u64, offset: u64, whence: u64) -> Result<usize> {
    let open = open_file(c, fd)?;
    let whence = match whence as u32 {
        0 => Whence::Start,
        1 => Whence::Current,
        2 => Whence::End,
        3 => Whence::Data,
        4 => Whence::Hole,
        _ => return Err(Errno::EINVAL),
    };
    Ok(open.seek(offset as i64, whence)? as usize)
}

/// Bytes on their way from one file to another.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    room: usize,
}

impl Sink for Buffer {
    fn remaining(&self) -> usize {
        self.room
    }
    fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = bytes.len().min(self.room);
        self.bytes.extend_from_slice(bytes.get(..count).unwrap_or_default());
        self.room -= count;
        Ok(count)
    }
    fn put_page(&mut self, page: &Page, offset: usize, len: usize) -> Result<usize> {
        let len = len.min(self.room);
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        page.read(offset, self.bytes.get_mut(start..).unwrap_or_default());
        self.room -= len;
        Ok(len)
    }
    fn put_zeros(&mut self, len: usize) -> Result<usize> {
        let len = len.min(self.room);
        self.bytes.resize(self.bytes.len() + len, 0);
        self.room -= len;
        Ok(len)
    }
}

impl Source for Buffer {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.start
    }
    fn take(&mut self, into: &mut [u8]) -> Result<usize> {
        let count = into.len().min(Source::remaining(self));
        let from = self.bytes.get(self.start..self.start + count).unwrap_or_default();
        into.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        self.start += count;
        Ok(count)
    }
    fn take_page(&mut self, page: &Page, offset: usize, len: usize) -> Result<usize> {
        let count = len.min(Source::remaining(self));
        page.write(offset, self.bytes.get(self.start..self.start + count).unwrap_or_default());
        self.start += count;
        Ok(count)
    }
    fn skip(&mut self, count: usize) {
        self.start += count.min(Source::remaining(self));
    }
}

/// Where a file-to-file copy reads or writes: at its own offset, or at the file's position.
struct Cursor<'a> {
    open: &'a OpenFile,
    at: Option<u64>,
}

impl Cursor<'_> {
    fn read(&mut self, buffer: &mut Buffer) -> Result<usize> {
        let Some(at) = &mut self.at else { return self.open.read(buffer) };
        let count = self.open.read_at(*at, buffer)?;
        *at += count as u64;
        Ok(count)
    }
    fn write<C: Caller>(&mut self, c: &C, buffer: &mut Buffer) -> Result<usize> {
        let Some(at) = &mut self.at else { return file::write_open(c, self.open, buffer) };
        let count = file::write_at(c, self.open, Place::At(*at), buffer)?;
        *at += count as u64;
        Ok(count)
    }
    /// What was read and could not be written is read again next time.
    fn give_back(&mut self, count: usize) -> Result<()> {
        match &mut self.at {
            Some(at) => *at -= count as u64,
            None if count > 0 => drop(self.open.seek(-(count as i64), Whence::Current)?),
            None => {}
        }
        Ok(())
    }
}

fn transfer<C: Caller>(c: &C, from: &mut Cursor<'_>, to: &mut Cursor<'_>, total: usize) -> Result<usize> {
    let mut done = 0;
    while done < total {
        let mut buffer = Buffer { room: CHUNK.min(total - done), ..Buffer::default() };
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        match to.write(c, &mut buffer) {
            Ok(written) => {
                done += written;
                if written < read {
                    from.give_back(read - written)?;
                    break;
                }
            }
            Err(error) => {
                from.give_back(read)?;
                return if done > 0 { Ok(done) } else { Err(error) };
            }
        }
    }
    Ok(done)
}

/// An offset in memory; `None` for a null pointer. EINVAL when negative.
fn load_offset<C: Caller>(c: &C, address: u64) -> Result<Option<u64>> {
    load_raw(c, address)?.map(position).transpose()
}

fn load_raw<C: Caller>(c: &C, address: u64) -> Result<Option<u64>> {
    if address == 0 {
        return Ok(None);
    }
    let mut raw = [0; 8];
    c.read_memory(address as usize, &mut raw)?;
    Ok(Some(u64::from_ne_bytes(raw)))
}

fn store_offset<C: Caller>(c: &C, address: u64, offset: Option<u64>) -> Result<()> {
    offset.map_or(Ok(()), |offset| c.write_memory(address as usize, &offset.to_ne_bytes()))
}

pub(super) fn sendfile<C: Caller>(c: &C, out: u64, input: u64, offset: u64, count: u64) -> Result<usize> {
    let (input, out) = (open_file(c, input)?, open_file(c, out)?);
    input.readable()?;
    out.writable()?;
    if !input.file()?.seekable() || out.flags().contains(crate::fs::OFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    let mut from = Cursor { open: &input, at: load_offset(c, offset)? };
    let mut to = Cursor { open: &out, at: None };
    let count = transfer(c, &mut from, &mut to, count.min(MAX_RW as u64) as usize)?;
    store_offset(c, offset, from.at)?;
    Ok(count)
}

pub(super) fn copy_file_range<C: Caller>(
    c: &C,
    input: u64,
    from: u64,
    out: u64,
    to: u64,
    count: u64,
    flags: u64,
) -> Result<usize> {
    let (input, out) = (open_file(c, input)?, open_file(c, out)?);
    input.readable()?;
    out.writable()?;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let mut ids = [(0, 0); 2];
    for (open, id) in [&input, &out].into_iter().zip(&mut ids) {
        let metadata = open.metadata()?;
        match metadata.file_type {
            FileType::Regular => *id = (metadata.dev.0, metadata.ino),
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
    }
    if out.flags().contains(crate::fs::OFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    let (start, end) = (load_raw(c, from)?, load_raw(c, to)?);
    let places = [start.unwrap_or_else(|| input.offset()), end.unwrap_or_else(|| out.offset())];
    if places.iter().any(|place| place.checked_add(count).is_none()) {
        return Err(Errno::EOVERFLOW);
    }
    let [first, second] = places.map(position);
    let (first, second) = (first?, second?);
    // As much as the file has room for.
    let count = count.min(i64::MAX as u64 - second);
    let count = count.min(MAX_RW as u64).min(input.file()?.end()?.saturating_sub(first));
    let [one, other] = ids;
    if one == other && first < second.saturating_add(count) && second < first.saturating_add(count) {
        return Err(Errno::EINVAL);
    }
    let mut source = Cursor { open: &input, at: start };
    let mut target = Cursor { open: &out, at: end };
    let count = transfer(c, &mut source, &mut target, count as usize)?;
    store_offset(c, from, source.at)?;
    store_offset(c, to, target.at)?;
    Ok(count)
}

pub(super) fn truncate<C: Caller>(c: &C, name: u64, length: u64) -> Result<usize> {
    let length = position(length)?;
    let name = path(c, name)?;
    let place = file::resolve(c, Base::Cwd, &name, true)?;
    grow(c, place.inode.metadata()?.size, length)?;
    ops::truncate(&c.fs(), &place.inode, length)?;
    Ok(0)
}

pub(super) fn ftruncate<C: Caller>(c: &C, fd: u64, length: u64) -> Result<usize> {
    let length = position(length)?;
    let open = open_file(c, fd)?;
    // EINVAL, not EBADF: so Linux says for a file not open for writing.
    let file = open.writable().map_err(|_| Errno::EINVAL)?;
    grow(c, open.metadata()?.size, length)?;
    file.truncate(length)?;
    Ok(0)
}

/// EFBIG, with SIGXFSZ, when a file of `size` bytes must not be made longer.
fn grow<C: Caller>(c: &C, size: u64, length: u64) -> Result<()> {
    if length > size { file::check_size(c, length) } else { Ok(()) }
}

pub(super) fn fallocate<C: Caller>(c: &C, fd: u64, mode: u64, offset: u64, length: u64) -> Result<usize> {
    let open = open_file(c, fd)?;
    let (offset, length) = (position(offset)?, position(length)?);
    if length == 0 {
        return Err(Errno::EINVAL);
    }
    let file = open.writable()?;
    match open.metadata()?.file_type {
        FileType::Regular => {
            const KEEP_SIZE: u64 = 1;
            if mode & KEEP_SIZE == 0 && offset.saturating_add(length) <= i64::MAX as u64 {
                grow(c, file.end()?, offset + length)?;
            }
            file.allocate(mode as u32, offset, length)?;
        }
        FileType::Fifo => return Err(Errno::ESPIPE),
        FileType::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::ENODEV),
    }
    Ok(0)
}

pub(super) fn fsync<C: Caller>(c: &C, fd: u64) -> Result<usize> {
    open_file(c, fd)?.file()?.sync()?;
    Ok(0)
}

/// Advice changes nothing here, but wrong advice is refused.
pub(super) fn fadvise<C: Caller>(c: &C, fd: u64, length: u64, advice: u64) -> Result<usize> {
    let open = open_file(c, fd)?;
    if !open.file()?.seekable() {
        return Err(Errno::ESPIPE);
    }
    if (length as i64) < 0 || advice as u32 > 5 {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

pub(super) fn readahead<C: Caller>(c: &C, fd: u64) -> Result<usize> {
    let open = open_file(c, fd)?;
    open.readable()?;
    if open.metadata()?.file_type == FileType::Regular { Ok(0) } else { Err(Errno::EINVAL) }
}
