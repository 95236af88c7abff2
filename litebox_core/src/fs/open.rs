//! Open file descriptions: what file descriptors refer to (`open(2)`, NOTES).

use super::{DirSink, File, FileType, Inode, Location, Metadata, OFlags};
use crate::errno::{Errno, Result};
use crate::mm::{Sink, Source};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Mutex;

impl OFlags {
    /// Reading and nothing else; the absence of the other two.
    pub const RDONLY: OFlags = OFlags::empty();

    /// Whether reading is permitted.
    pub fn readable(self) -> bool {
        self.bits() & 3 != 1 && !self.contains(OFlags::PATH)
    }

    /// Whether writing is permitted.
    pub fn writable(self) -> bool {
        matches!(self.bits() & 3, 1 | 2) && !self.contains(OFlags::PATH)
    }
}

/// What `F_SETFL` may change.
const SETTABLE: OFlags =
    OFlags::APPEND.union(OFlags::ASYNC).union(OFlags::DIRECT).union(OFlags::NOATIME).union(OFlags::NONBLOCK);

/// Where `lseek(2)` counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Whence {
    Start,
    Current,
    End,
    Data,
    Hole,
}

/// An open file description: a [`File`], flags and a position, shared by all descriptors duplicated from one.
pub struct OpenFile {
    file: Option<Arc<dyn File>>,
    location: Option<Location>,
    flags: AtomicU32,
    offset: Mutex<u64>,
}

/// EINVAL unless `len` bytes at `offset` end where a file can end.
fn in_file(offset: u64, len: usize) -> Result<()> {
    let end = offset.checked_add(len as u64).filter(|end| *end <= i64::MAX as u64);
    end.map(drop).ok_or(Errno::EINVAL)
}

impl OpenFile {
    /// A description of `file`; `location` is where it was found, if it has a name.
    pub fn new(file: Arc<dyn File>, location: Option<Location>, flags: OFlags) -> Arc<OpenFile> {
        let kept = flags - (OFlags::CREAT | OFlags::EXCL | OFlags::NOCTTY | OFlags::TRUNC | OFlags::CLOEXEC);
        Arc::new(OpenFile {
            file: Some(file),
            location,
            flags: AtomicU32::new(kept.bits()),
            offset: Mutex::new(0),
        })
    }

    /// What `O_PATH` opens: a place, and nothing that can be read.
    pub fn path_only(location: Location, flags: OFlags) -> Arc<OpenFile> {
        let kept = flags & (OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW);
        Arc::new(OpenFile {
            file: None,
            location: Some(location),
            flags: AtomicU32::new(kept.bits()),
            offset: Mutex::new(0),
        })
    }

    /// The file. EBADF for `O_PATH`.
    pub fn file(&self) -> Result<&Arc<dyn File>> {
        self.file.as_ref().ok_or(Errno::EBADF)
    }

    /// Where it was found, if it has a name.
    pub fn location(&self) -> Option<&Location> {
        self.location.as_ref()
    }

    /// Its inode, if it has one.
    pub fn inode(&self) -> Option<&Arc<dyn Inode>> {
        self.location.as_ref().map(|location| &location.inode)
    }

    /// Access mode and status flags (`F_GETFL`).
    pub fn flags(&self) -> OFlags {
        OFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// `F_SETFL`: changes APPEND, ASYNC, DIRECT, NOATIME and NONBLOCK, ignores the rest.
    pub fn set_flags(&self, flags: OFlags) {
        let new = (self.flags() - SETTABLE) | (flags & SETTABLE);
        self.flags.store(new.bits(), Ordering::Relaxed);
        if let Some(file) = &self.file {
            file.set_flags(new);
        }
    }

    /// Whether reads and writes must not wait.
    pub fn nonblocking(&self) -> bool {
        self.flags().contains(OFlags::NONBLOCK)
    }

    /// What `fstat` says.
    pub fn metadata(&self) -> Result<Metadata> {
        match (&self.location, &self.file) {
            (Some(location), _) => location.inode.metadata(),
            (None, Some(file)) => file.metadata(),
            (None, None) => Err(Errno::EBADF),
        }
    }

    /// The file, if it may be read. EBADF.
    pub fn readable(&self) -> Result<&Arc<dyn File>> {
        if self.flags().readable() { self.file() } else { Err(Errno::EBADF) }
    }

    /// The file, if it may be written. EBADF.
    pub fn writable(&self) -> Result<&Arc<dyn File>> {
        if self.flags().writable() { self.file() } else { Err(Errno::EBADF) }
    }

    /// Reads at the position and moves it. EAGAIN from a stream that has nothing.
    pub fn read(&self, to: &mut dyn Sink) -> Result<usize> {
        let file = self.readable()?;
        if !file.seekable() {
            return file.read_at(0, to);
        }
        // The lock is not held over the copy, which may fault; a racing reader sees what POSIX calls unspecified.
        let offset = *self.offset.lock();
        in_file(offset, to.remaining())?;
        let count = file.read_at(offset, to)?;
        *self.offset.lock() = offset.saturating_add(count as u64);
        Ok(count)
    }

    /// Writes at the position, or at the end with `O_APPEND`, and moves it.
    pub fn write(&self, from: &mut dyn Source) -> Result<usize> {
        let file = self.writable()?;
        if !file.seekable() {
            return file.write_at(0, from);
        }
        let offset = *self.offset.lock();
        in_file(offset, from.remaining())?;
        if self.flags().contains(OFlags::APPEND) {
            let (count, end) = file.append(from)?;
            *self.offset.lock() = end;
            return Ok(count);
        }
        let count = file.write_at(offset, from)?;
        *self.offset.lock() = offset.saturating_add(count as u64);
        Ok(count)
    }

    /// `pread(2)`. ESPIPE, EINVAL.
    pub fn read_at(&self, offset: u64, to: &mut dyn Sink) -> Result<usize> {
        let file = self.file()?;
        if !file.seekable() {
            return Err(Errno::ESPIPE);
        }
        let file = self.readable()?;
        in_file(offset, to.remaining())?;
        file.read_at(offset, to)
    }

    /// `pwrite(2)`: as on Linux, `O_APPEND` wins over the offset. ESPIPE, EINVAL.
    pub fn write_at(&self, offset: u64, from: &mut dyn Source) -> Result<usize> {
        let file = self.file()?;
        if !file.seekable() {
            return Err(Errno::ESPIPE);
        }
        self.writable()?;
        in_file(offset, from.remaining())?;
        if self.flags().contains(OFlags::APPEND) {
            return self.append(from);
        }
        file.write_at(offset, from)
    }

    /// Writes at the end, wherever the position is. ESPIPE.
    pub fn append(&self, from: &mut dyn Source) -> Result<usize> {
        let file = self.writable()?;
        if file.seekable() { file.append(from).map(|(count, _)| count) } else { file.write_at(0, from) }
    }

    /// The position.
    pub fn offset(&self) -> u64 {
        *self.offset.lock()
    }

    /// `lseek(2)`. ESPIPE, EINVAL, ENXIO.
    pub fn seek(&self, offset: i64, whence: Whence) -> Result<u64> {
        let file = self.file()?;
        if !file.seekable() {
            return Err(Errno::ESPIPE);
        }
        let new = match whence {
            Whence::Start => u64::try_from(offset).ok(),
            Whence::Current => self.offset().checked_add_signed(offset),
            Whence::End => file.end()?.checked_add_signed(offset),
            Whence::Data | Whence::Hole => {
                let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                Some(file.seek_data(offset, whence == Whence::Hole)?)
            }
        };
        let new = new.filter(|new| *new <= i64::MAX as u64).ok_or(Errno::EINVAL)?;
        *self.offset.lock() = new;
        Ok(new)
    }

    /// Passes directory entries on from the position and moves it. ENOTDIR.
    pub fn readdir(&self, to: &mut DirSink<'_>) -> Result<()> {
        let file = self.readable()?;
        let position = self.offset();
        let reached = file.readdir(position, to)?;
        *self.offset.lock() = reached;
        Ok(())
    }

    /// Whether it is a directory that can be a base of relative paths. ENOTDIR.
    pub fn directory(&self) -> Result<&Location> {
        let location = self.location.as_ref().ok_or(Errno::ENOTDIR)?;
        if location.inode.file_type() == FileType::Directory { Ok(location) } else { Err(Errno::ENOTDIR) }
    }
}
