//! Mapped areas (Linux's VMAs): what a range of addresses is a view of, and what may be done with it.

use super::{Mappable, Page};
use crate::errno::{Errno, Result};
use crate::platform::{PAGE_SIZE, Prot};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Range;
use spin::Mutex;

use super::PagePool;

bitflags::bitflags! {
    /// What an area is, beside its protection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AreaFlags: u8 {
        /// Stores go to the object (`MAP_SHARED`).
        const SHARED = 1;
        /// Grows downwards when touched just below (`MAP_GROWSDOWN`).
        const GROWS_DOWN = 2;
        /// No large pages (`MADV_NOHUGEPAGE`).
        const NO_HUGE = 4;
        /// A shared mapping of a file that was not opened for writing: `mprotect` cannot make it writable.
        const NEVER_WRITE = 8;
    }
}

/// What /proc/PID/maps says of an area beside its addresses.
#[derive(Clone, Debug)]
pub enum MapName {
    /// A name in brackets.
    Special(&'static str),
    /// The file, as whoever mapped it knows it. Its path is found out when somebody looks: it may be renamed until then.
    File(Arc<dyn Any + Send + Sync>),
}

/// Two areas of one file have one name only if they were mapped through the same open file, as on Linux.
impl PartialEq for MapName {
    fn eq(&self, other: &MapName) -> bool {
        match (self, other) {
            (MapName::Special(a), MapName::Special(b)) => core::ptr::eq(*a, *b),
            (MapName::File(a), MapName::File(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// What the pages come from.
#[derive(Clone)]
pub(super) enum Backing {
    /// Zeros, owned by the address space.
    Anonymous,
    /// A file or another object; `offset` is the byte in it that the area's first byte shows.
    Object { object: Arc<dyn Mappable>, offset: u64 },
}

/// An area; its start is its key.
#[derive(Clone)]
pub(super) struct Area {
    pub(super) end: usize,
    pub(super) prot: Prot,
    pub(super) flags: AreaFlags,
    pub(super) backing: Backing,
    pub(super) name: Option<MapName>,
}

impl Area {
    /// The offset in the object of the area's byte at `at`.
    pub(super) fn offset(&self, start: usize, at: usize) -> u64 {
        match &self.backing {
            Backing::Object { offset, .. } => offset + (at - start) as u64,
            _ => 0,
        }
    }

    /// The part of this area, which starts at `start`, from `at` on.
    pub(super) fn tail(&self, start: usize, at: usize) -> Area {
        let mut tail = self.clone();
        if let Backing::Object { offset, .. } = &mut tail.backing {
            *offset += (at - start) as u64;
        }
        tail
    }

    /// Whether `next`, which starts where this ends, is the same view continued.
    fn continues(&self, start: usize, next: &Area) -> bool {
        self.prot == next.prot
            && self.flags == next.flags
            && self.name == next.name
            && match (&self.backing, &next.backing) {
                (Backing::Anonymous, Backing::Anonymous) => true,
                (Backing::Object { object: a, offset }, Backing::Object { object: b, offset: other }) => {
                    Arc::ptr_eq(a, b) && offset + (self.end - start) as u64 == *other
                }
                _ => false,
            }
    }
}

/// The areas of an address space, by start address. Invariant: they are in order, do not overlap, and are not empty.
///
/// A sorted vector: programs have tens of areas, seldom hundreds, and what is inserted or removed moves a few cache lines. At the limit of
/// [`MAX_AREAS`] it moves megabytes, which takes as long as the page faults of a few areas.
#[derive(Default)]
pub(super) struct Areas {
    list: Vec<(usize, Area)>,
}

/// The most areas that an address space may have (`vm.max_map_count`).
pub const MAX_AREAS: usize = 65530;

impl Areas {
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (usize, &Area)> {
        self.list.iter().map(|(start, area)| (*start, area))
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The index of the first area that ends after `at`.
    #[inline(never)]
    fn index(&self, at: usize) -> usize {
        self.list.partition_point(|(_, area)| area.end <= at)
    }

    /// The areas that lie, at least in part, in the range, as indices.
    fn indices(&self, from: usize, to: usize) -> Range<usize> {
        let first = self.index(from);
        let mut end = first;
        while self.list.get(end).is_some_and(|(start, _)| *start < to) {
            end += 1;
        }
        first..end
    }

    /// The area that holds `at`.
    pub(super) fn find(&self, at: usize) -> Option<(usize, &Area)> {
        self.at_or_after(at).filter(|(start, _)| *start <= at)
    }

    /// The first area that ends after `at`.
    pub(super) fn at_or_after(&self, at: usize) -> Option<(usize, &Area)> {
        self.list.get(self.index(at)).map(|(start, area)| (*start, area))
    }

    /// The areas that lie, at least in part, in the range, in order.
    pub(super) fn overlapping(&self, from: usize, to: usize) -> impl Iterator<Item = (usize, &Area)> {
        let areas = self.list.get(self.indices(from, to)).unwrap_or_default();
        areas.iter().map(|(start, area)| (*start, area))
    }

    /// Whether nothing is mapped in the range.
    pub(super) fn is_free(&self, from: usize, to: usize) -> bool {
        self.at_or_after(from).is_none_or(|(start, _)| start >= to)
    }

    /// Whether all of the range is mapped.
    pub(super) fn covers(&self, from: usize, to: usize) -> bool {
        let mut at = from;
        while at < to {
            match self.find(at) {
                Some((_, area)) => at = area.end,
                None => return false,
            }
        }
        true
    }

    /// Makes `at` a boundary between areas.
    fn split(&mut self, at: usize) {
        let index = self.index(at);
        let Some((start, area)) = self.list.get_mut(index) else { return };
        if *start < at {
            let tail = area.tail(*start, at);
            area.end = at;
            self.list.insert(index + 1, (at, tail));
        }
    }

    /// Takes everything in the range out.
    pub(super) fn remove(&mut self, from: usize, to: usize) -> Vec<(usize, Area)> {
        self.split(from);
        self.split(to);
        let range = self.indices(from, to);
        self.list.drain(range).collect()
    }

    /// Adds an area where nothing is, and joins it with its neighbours where they are one.
    pub(super) fn insert(&mut self, start: usize, area: Area) {
        let index = self.index(start);
        self.list.insert(index, (start, area));
        self.join(index + 1);
        self.join(index);
    }

    /// Joins the area at an index with the one before, if they are one.
    #[inline(never)]
    fn join(&mut self, index: usize) {
        let Some([(before, left), (start, right)]) =
            index.checked_sub(1).and_then(|first| self.list.get_mut(first..=index))
        else {
            return;
        };
        if left.end == *start && left.continues(*before, right) {
            left.end = right.end;
            self.list.remove(index);
        }
    }

    /// Changes every area in the range, which is covered.
    pub(super) fn update(&mut self, from: usize, to: usize, mut change: impl FnMut(&mut Area)) {
        self.split(from);
        self.split(to);
        let range = self.indices(from, to);
        for (_, area) in self.list.get_mut(range.clone()).unwrap_or_default() {
            change(area);
        }
        for index in (range.start..=range.end).rev() {
            self.join(index);
        }
    }

    /// Moves an area's start (a stack that grows) into the free space below.
    pub(super) fn extend_down(&mut self, start: usize, to: usize) {
        let index = self.index(start);
        if let Some((at, _)) = self.list.get_mut(index) {
            *at = to;
        }
    }

    /// The highest free range of `len` bytes in `low..high` that begins at a multiple of `align`.
    pub(super) fn find_gap(&self, low: usize, high: usize, len: usize, align: usize) -> Option<usize> {
        let fits = |from: usize, to: usize| -> Option<usize> {
            let at = to.checked_sub(len)? & !(align - 1);
            (at >= from).then_some(at)
        };
        let mut top = high;
        for (start, area) in self.list.iter().rev() {
            if *start >= high {
                continue;
            }
            if area.end < top
                && let Some(at) = fits(area.end.max(low), top)
            {
                return Some(at);
            }
            top = top.min(*start);
            if top <= low {
                return None;
            }
        }
        fits(low, top)
    }
}

/// Anonymous memory that is shared (`MAP_SHARED | MAP_ANONYMOUS`): an object, so that processes can come to share it.
pub(crate) struct SharedMemory {
    pool: &'static PagePool,
    pages: Mutex<BTreeMap<u64, Page>>,
    size: u64,
}

impl SharedMemory {
    pub(crate) fn new(pool: &'static PagePool, size: u64) -> SharedMemory {
        SharedMemory { pool, pages: Mutex::new(BTreeMap::new()), size }
    }
}

impl Mappable for SharedMemory {
    fn page(&self, index: u64, _write: bool) -> Result<Page> {
        if index >= self.size.div_ceil(PAGE_SIZE as u64) {
            return Err(Errno::ENXIO);
        }
        let mut pages = self.pages.lock();
        if let Some(page) = pages.get(&index) {
            return Ok(page.clone());
        }
        let page = self.pool.alloc(true)?;
        pages.insert(index, page.clone());
        Ok(page)
    }
}
