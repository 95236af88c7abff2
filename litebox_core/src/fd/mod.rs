//! File descriptors: a process's small numbers for open files (`open(2)`, `dup(2)`, `fcntl(2)`).

use crate::errno::{Errno, Result};
use crate::fs::OpenFile;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// A descriptor's number. Having one proves nothing: [`FdTable::get`] says whether it is open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fd(u32);

impl Fd {
    /// From what a program passed. EBADF when it cannot be a descriptor.
    pub fn from_raw(raw: i32) -> Result<Fd> {
        u32::try_from(raw).map(Fd).map_err(|_| Errno::EBADF)
    }

    /// The number.
    pub fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fd {}", self.0)
    }
}

/// Descriptors never reach this number, whatever the limit says (`/proc/sys/fs/nr_open`).
pub const NR_OPEN: u32 = 1 << 20;

#[derive(Clone)]
struct Entry {
    file: Arc<OpenFile>,
    close_on_exec: bool,
}

/// A process's descriptors. The lowest free number is always the one given out.
#[derive(Clone, Default)]
pub struct FdTable {
    entries: Vec<Option<Entry>>,
    /// No number below this one is free.
    first_free: usize,
}

impl FdTable {
    /// An empty table.
    pub fn new() -> FdTable {
        FdTable::default()
    }

    /// What `fd` refers to. EBADF.
    #[inline]
    pub fn get(&self, fd: Fd) -> Result<&Arc<OpenFile>> {
        match self.entries.get(fd.0 as usize) {
            Some(Some(entry)) => Ok(&entry.file),
            _ => Err(Errno::EBADF),
        }
    }

    /// Gives `file` the lowest free number below `limit` (RLIMIT_NOFILE). EMFILE.
    pub fn insert(&mut self, file: Arc<OpenFile>, close_on_exec: bool, limit: u64) -> Result<Fd> {
        self.insert_from(0, file, close_on_exec, limit)
    }

    /// The same, not below `minimum` (`F_DUPFD`). EINVAL when `minimum` is beyond the limit.
    pub fn insert_from(
        &mut self,
        minimum: u32,
        file: Arc<OpenFile>,
        close_on_exec: bool,
        limit: u64,
    ) -> Result<Fd> {
        let limit = limit.min(NR_OPEN.into()) as usize;
        let minimum = minimum as usize;
        if minimum > 0 && minimum >= limit {
            return Err(Errno::EINVAL);
        }
        let start = minimum.max(self.first_free);
        let number = self.entries.iter().skip(start).position(Option::is_none);
        let number = number.map_or(start.max(self.entries.len()), |distance| start + distance);
        if number >= limit {
            return Err(Errno::EMFILE);
        }
        self.put(number, Entry { file, close_on_exec })?;
        if minimum <= self.first_free {
            self.first_free = number + 1;
        }
        Ok(Fd(number as u32))
    }

    /// Makes `fd` refer to `file` and returns what it referred to (`dup2`). EBADF beyond the limit.
    pub fn replace(
        &mut self,
        fd: Fd,
        file: Arc<OpenFile>,
        close_on_exec: bool,
        limit: u64,
    ) -> Result<Option<Arc<OpenFile>>> {
        if u64::from(fd.0) >= limit.min(NR_OPEN.into()) {
            return Err(Errno::EBADF);
        }
        self.put(fd.0 as usize, Entry { file, close_on_exec }).map(|old| old.map(|entry| entry.file))
    }

    fn put(&mut self, number: usize, entry: Entry) -> Result<Option<Entry>> {
        if number >= self.entries.len() {
            let more = number + 1 - self.entries.len();
            self.entries.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            self.entries.resize_with(number + 1, || None);
        }
        Ok(self.entries.get_mut(number).and_then(|slot| slot.replace(entry)))
    }

    /// Frees the number. EBADF. Whoever drops the result last closes the file: not under the table's lock.
    pub fn remove(&mut self, fd: Fd) -> Result<Arc<OpenFile>> {
        let number = fd.0 as usize;
        let entry = self.entries.get_mut(number).and_then(Option::take).ok_or(Errno::EBADF)?;
        self.first_free = self.first_free.min(number);
        Ok(entry.file)
    }

    /// Whether `exec` closes it (`FD_CLOEXEC`). EBADF.
    pub fn close_on_exec(&self, fd: Fd) -> Result<bool> {
        match self.entries.get(fd.0 as usize) {
            Some(Some(entry)) => Ok(entry.close_on_exec),
            _ => Err(Errno::EBADF),
        }
    }

    /// Sets `FD_CLOEXEC`. EBADF.
    pub fn set_close_on_exec(&mut self, fd: Fd, on: bool) -> Result<()> {
        match self.entries.get_mut(fd.0 as usize) {
            Some(Some(entry)) => entry.close_on_exec = on,
            _ => return Err(Errno::EBADF),
        }
        Ok(())
    }

    /// Removes what `exec` closes, and returns it to be dropped.
    pub fn take_close_on_exec(&mut self) -> Vec<Arc<OpenFile>> {
        self.take_if(0, u32::MAX, |entry| entry.close_on_exec)
    }

    /// Removes all of `first..=last` (`close_range(2)`), and returns it to be dropped.
    pub fn take_range(&mut self, first: u32, last: u32) -> Vec<Arc<OpenFile>> {
        self.take_if(first, last, |_| true)
    }

    /// Sets `FD_CLOEXEC` on all of `first..=last`.
    pub fn set_range_close_on_exec(&mut self, first: u32, last: u32) {
        for (_, entry) in self.range_mut(first, last) {
            if let Some(entry) = entry {
                entry.close_on_exec = true;
            }
        }
    }

    /// All open descriptors, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Fd, &Arc<OpenFile>)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(number, entry)| entry.as_ref().map(|entry| (Fd(number as u32), &entry.file)))
    }

    fn range_mut(&mut self, first: u32, last: u32) -> impl Iterator<Item = (usize, &mut Option<Entry>)> {
        let count = (last as usize).saturating_sub(first as usize).saturating_add(1);
        let count = if last < first { 0 } else { count };
        self.entries.iter_mut().enumerate().skip(first as usize).take(count)
    }

    fn take_if(&mut self, first: u32, last: u32, wanted: impl Fn(&Entry) -> bool) -> Vec<Arc<OpenFile>> {
        let mut taken = Vec::new();
        let mut lowest = usize::MAX;
        for (number, slot) in self.range_mut(first, last) {
            if slot.as_ref().is_some_and(&wanted) {
                lowest = lowest.min(number);
                taken.extend(slot.take().map(|entry| entry.file));
            }
        }
        self.first_free = self.first_free.min(lowest);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::testing::TestHost;
    use crate::fs::{OFlags, pipe};

    fn open() -> Arc<OpenFile> {
        OpenFile::new(pipe(TestHost::leak(8)).0, None, OFlags::RDONLY)
    }

    #[test]
    fn the_lowest_free_number_is_given_out() {
        let (mut table, file) = (FdTable::new(), open());
        let insert = |table: &mut FdTable, minimum| {
            table.insert_from(minimum, file.clone(), false, 8).map(|fd| fd.raw())
        };
        assert_eq!([0, 1, 2].map(|_| insert(&mut table, 0).unwrap()), [0, 1, 2]);
        assert_eq!(insert(&mut table, 5), Ok(5));
        table.remove(Fd(1)).unwrap();
        assert_eq!(insert(&mut table, 2), Ok(3));
        assert_eq!(insert(&mut table, 0), Ok(1));
        assert_eq!([0, 0, 0].map(|minimum| insert(&mut table, minimum)), [Ok(4), Ok(6), Ok(7)]);
        assert_eq!(insert(&mut table, 0), Err(Errno::EMFILE));
        assert_eq!(insert(&mut table, 8), Err(Errno::EINVAL));
        assert_eq!(table.remove(Fd(99)).err(), Some(Errno::EBADF));
        assert_eq!(table.take_range(3, u32::MAX).len(), 5);
        assert_eq!(insert(&mut table, 0), Ok(3));
    }

    #[test]
    fn exec_closes_what_it_should() {
        let mut table = FdTable::new();
        table.insert(open(), true, 8).unwrap();
        table.insert(open(), false, 8).unwrap();
        table.set_range_close_on_exec(5, 2);
        assert_eq!(table.take_close_on_exec().len(), 1);
        assert_eq!(table.iter().map(|(fd, _)| fd.raw()).collect::<Vec<_>>(), [1]);
        assert!(table.replace(Fd(8), open(), false, 8).is_err());
    }
}
