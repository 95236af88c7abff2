//! Open files and directories: data in and out.

use super::super::{DirEntry, DirSink, File, FileType, Inode, Metadata};
use super::data::{Found, new_page};
use super::directory::Child;
use super::node::Node;
use super::{Tmpfs, lower_ino};
use crate::errno::{Errno, Result};
use crate::mm::{Mappable, Mapper, Page, Sink, Source};
use crate::platform::PAGE_SIZE;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// Largest file (`MAX_LFS_FILESIZE`).
const MAX_SIZE: u64 = i64::MAX as u64;
const FALLOC_FL_KEEP_SIZE: u32 = 1;
const FALLOC_FL_PUNCH_HOLE: u32 = 2;
const FALLOC_FL_ZERO_RANGE: u32 = 16;

impl Node {
    /// The page `index` as it is; `None` is a hole.
    fn page_to_read(&self, index: u64) -> Result<Option<Page>> {
        loop {
            let found = self.state.lock().data()?.find(index);
            match found {
                Found::Page(page) => return Ok(Some(page)),
                Found::Hole => return Ok(None),
                Found::Lower(id, count) => {
                    let mut pages = Vec::with_capacity(count);
                    self.fs.lower()?.pages(id, index, count, &mut pages)?;
                    if pages.is_empty() {
                        return Err(Errno::EIO);
                    }
                    let mut state = self.state.lock();
                    state.data()?.insert_clean(index, pages);
                    let listed = core::mem::replace(&mut state.in_clean_list, true);
                    drop(state);
                    if !listed {
                        self.fs.clean.lock().push_back(self.weak());
                    }
                    // Looked up again: the file may have been cut meanwhile.
                }
            }
        }
    }

    /// The page `index`, own, to be written. ENOSPC.
    fn page_to_write(&self, index: u64) -> Result<Page> {
        let existing = self.page_to_read(index)?;
        if existing.is_some() {
            let mut state = self.state.lock();
            if let Some((page, was_clean)) = state.data()?.own(index) {
                if was_clean {
                    // What is written anyway must not fail for the count; the limit stops the next one.
                    if let Err(error) = self.fs.charge(1) {
                        state.data()?.disown(index);
                        return Err(error);
                    }
                }
                return Ok(page);
            }
        }
        self.fs.charge(1)?;
        let page = new_page(self.fs.host).inspect_err(|_| self.fs.uncharge(1))?;
        let (page, added) = self.state.lock().data()?.fill_hole(index, page);
        if !added {
            self.fs.uncharge(1);
        }
        Ok(page)
    }

    fn write_from(&self, offset: u64, from: &mut dyn Source) -> Result<usize> {
        let wanted = from.remaining();
        if wanted == 0 {
            return Ok(0);
        }
        if offset >= MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let wanted = (wanted as u64).min(MAX_SIZE - offset) as usize;
        let mut done = 0;
        let result = loop {
            if done == wanted {
                break Ok(());
            }
            let at = offset + done as u64;
            let in_page = (at % PAGE_SIZE as u64) as usize;
            let len = (PAGE_SIZE - in_page).min(wanted - done);
            let page = match self.page_to_write(at / PAGE_SIZE as u64) {
                Ok(page) => page,
                Err(error) => break Err(error),
            };
            match from.take_page(&page, in_page, len) {
                Ok(count) => {
                    done += count;
                    let mut state = self.state.lock();
                    let data = state.data()?;
                    data.size = data.size.max(offset + done as u64);
                    if count < len {
                        break Ok(());
                    }
                }
                Err(error) => break Err(error),
            }
        };
        if done == 0 {
            result?;
        } else {
            let now = self.fs.now();
            self.state.lock().written(now);
        }
        Ok(done)
    }

    pub(super) fn set_size(&self, length: u64) -> Result<()> {
        if self.file_type == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        if length > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        if !length.is_multiple_of(PAGE_SIZE as u64) {
            // The last page is about to differ from the lower's.
            let index = length / PAGE_SIZE as u64;
            let shrinks = length < self.state.lock().data()?.size;
            if shrinks && self.page_to_read(index)?.is_some() {
                self.page_to_write(index)?;
            }
        }
        let now = self.fs.now();
        let mut state = self.state.lock();
        let data = state.data()?;
        let (before, mappers) = (data.size, data.mappers());
        let (freed, dropped) = data.truncate(length);
        state.written(now);
        drop(state);
        self.fs.uncharge(freed);
        drop(dropped);
        // What is beyond the end is gone from memory too: SIGBUS.
        let (first, end) = (length.div_ceil(PAGE_SIZE as u64), before.div_ceil(PAGE_SIZE as u64));
        if first < end {
            mappers.iter().for_each(|mapper| mapper.unmap_pages(self, first..end));
        }
        Ok(())
    }
}

impl File for Node {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, to: &mut dyn Sink) -> Result<usize> {
        let size = {
            let mut state = self.state.lock();
            self.accessed(&mut state);
            state.data()?.size
        };
        let wanted = (to.remaining() as u64).min(size.saturating_sub(offset)) as usize;
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let in_page = (at % PAGE_SIZE as u64) as usize;
            let len = (PAGE_SIZE - in_page).min(wanted - done);
            let result = match self.page_to_read(at / PAGE_SIZE as u64) {
                Ok(Some(page)) => to.put_page(&page, in_page, len),
                Ok(None) => to.put_zeros(len),
                Err(error) => Err(error),
            };
            match result {
                Ok(count) => {
                    done += count;
                    if count < len {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, from: &mut dyn Source) -> Result<usize> {
        self.write_from(offset, from)
    }

    fn append(&self, from: &mut dyn Source) -> Result<(usize, u64)> {
        // FIXME: two threads that append at once may meet at the same offset; a lock over the copy could not be held.
        let end = self.state.lock().data()?.size;
        let count = self.write_from(end, from)?;
        Ok((count, end + count as u64))
    }

    fn metadata(&self) -> Result<Metadata> {
        Inode::metadata(self)
    }

    fn end(&self) -> Result<u64> {
        Ok(self.state.lock().data()?.size)
    }

    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        self.state.lock().data()?.seek(offset, hole).ok_or(Errno::ENXIO)
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        Ok(self.weak().upgrade().ok_or(Errno::ENODEV)?)
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.set_size(length)
    }

    fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<()> {
        let end = offset.checked_add(length).filter(|end| *end <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        let size = self.state.lock().data()?.size;
        let page = PAGE_SIZE as u64;
        match mode {
            0 | FALLOC_FL_KEEP_SIZE => {
                // All or nothing: refused before it fills the file system.
                let new = end.div_ceil(page).saturating_sub(offset / page);
                self.fs.charge(new)?;
                self.fs.uncharge(new);
                for index in offset / page..end.div_ceil(page) {
                    // A page beyond the size would break `Data`'s invariant.
                    let wanted = mode == 0 || index < size.div_ceil(page);
                    if wanted && let Err(error) = self.page_to_write(index) {
                        let (freed, dropped) =
                            self.state.lock().data()?.punch(size.div_ceil(page), end.div_ceil(page));
                        self.fs.uncharge(freed);
                        drop(dropped);
                        return Err(error);
                    }
                }
                if mode == 0 && end > size {
                    self.set_size(end)?;
                }
                Ok(())
            }
            _ if mode & !FALLOC_FL_KEEP_SIZE == FALLOC_FL_PUNCH_HOLE && mode & FALLOC_FL_KEEP_SIZE != 0
                || mode & !FALLOC_FL_KEEP_SIZE == FALLOC_FL_ZERO_RANGE =>
            {
                self.zero_range(offset, end.min(size))?;
                if mode == FALLOC_FL_ZERO_RANGE && end > size {
                    self.set_size(end)?;
                }
                Ok(())
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

impl Node {
    /// Makes `offset..end`, within the size, read as zeros.
    fn zero_range(&self, offset: u64, end: u64) -> Result<()> {
        let page = PAGE_SIZE as u64;
        let mut at = offset;
        while at < end {
            let index = at / page;
            let len = (page - at % page).min(end - at);
            let whole = len == page;
            // A whole page that is a hole stays one; the rest is zeroed in place, or dropped below.
            let below = self.state.lock().data()?.below_lower(index);
            if (!whole || below) && self.page_to_read(index)?.is_some() {
                self.page_to_write(index)?.fill((at % page) as usize, len as usize, 0);
            }
            at += len;
            if whole && !below {
                // Nothing of the lower comes any more: straight to the last page, however far that is.
                at = at.max(end / page * page);
            }
        }
        let (first, last) = (offset.div_ceil(page), end / page);
        if first < last {
            let (freed, dropped) = self.state.lock().data()?.punch(first, last);
            self.fs.uncharge(freed);
            drop(dropped);
        }
        let now = self.fs.now();
        self.state.lock().written(now);
        Ok(())
    }
}

impl Mappable for Node {
    fn page(&self, index: u64, write: bool) -> Result<Page> {
        if index >= self.state.lock().data()?.size.div_ceil(PAGE_SIZE as u64) {
            return Err(Errno::ENXIO);
        }
        if !write && let Some(page) = self.page_to_read(index)? {
            return Ok(page);
        }
        self.page_to_write(index)
    }

    fn cached(&self, first: u64, count: u64, each: &mut dyn FnMut(u64, Page)) {
        if let Ok(data) = self.state.lock().data() {
            data.cached(first, count, each);
        }
    }

    fn attach(&self, mapper: &Weak<dyn Mapper>) {
        if let Ok(data) = self.state.lock().data() {
            data.attach(mapper);
        }
    }
}

/// An open directory.
pub(super) struct DirectoryFile {
    pub(super) node: Arc<Node>,
}

impl File for DirectoryFile {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _offset: u64, _to: &mut dyn Sink) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn metadata(&self) -> Result<Metadata> {
        Inode::metadata(&*self.node)
    }

    fn end(&self) -> Result<u64> {
        Ok(i64::MAX as u64)
    }

    fn readdir(&self, position: u64, to: &mut DirSink<'_>) -> Result<u64> {
        self.node.list()?;
        let parent =
            self.node.parent().map_or(Ok(self.node.ino), |(parent, _)| parent.metadata().map(|m| m.ino))?;
        let mut reached = position;
        for (index, (name, ino)) in [(&b"."[..], self.node.ino), (b"..", parent)].into_iter().enumerate() {
            let next = index as u64 + 1;
            if reached < next {
                if !to(DirEntry { ino, next, file_type: FileType::Directory, name }) {
                    return Ok(reached);
                }
                reached = next;
            }
        }
        // Entries are collected in batches: the receiver may fault, so the lock is not held over it.
        loop {
            let mut batch: Vec<(u64, Arc<[u8]>, u64, FileType)> = Vec::with_capacity(BATCH);
            {
                let mut state = self.node.state.lock();
                if state.entries()?.dead {
                    return Err(Errno::ENOENT);
                }
                self.node.accessed(&mut state);
                for (next, name, child) in state.entries()?.entries(reached).take(BATCH) {
                    let (ino, file_type) = match child {
                        Child::Node(node) => (node.ino, node.file_type),
                        Child::Lower(id, file_type) => (lower_ino(*id), *file_type),
                        Child::Whiteout => continue,
                    };
                    batch.push((next, name.clone(), ino, file_type));
                }
            }
            if batch.is_empty() {
                return Ok(reached);
            }
            for (next, name, ino, file_type) in &batch {
                if !to(DirEntry { ino: *ino, next: *next, file_type: *file_type, name }) {
                    return Ok(reached);
                }
                reached = *next;
            }
        }
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// Entries taken at once.
const BATCH: usize = 64;

impl Tmpfs {
    /// Pages of the workload's own data, and how many there may be.
    pub fn usage(&self) -> (u64, u64) {
        (self.used.load(core::sync::atomic::Ordering::Relaxed), self.limit)
    }
}
