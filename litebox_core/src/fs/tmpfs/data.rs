//! The contents of a regular file: pages by index, holes, and pages of the lower.

use super::super::{Host, LowerId};
use crate::errno::Result;
use crate::mm::{Mapper, Page};
use crate::platform::PAGE_SIZE;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// A page in the cache.
struct Cached {
    page: Page,
    /// Counted against the limit; otherwise clean.
    own: bool,
}

/// Contents of a file. Invariant: no page at or beyond `size`, and bytes of the last page beyond `size` are zero as far as
/// no mapping wrote there.
pub(super) struct Data {
    pub(super) size: u64,
    pages: BTreeMap<u64, Cached>,
    /// Who has mapped pages of it.
    mappers: Vec<Weak<dyn Mapper>>,
    lower: Option<LowerId>,
    /// Pages below this index that are not cached are the lower's; beyond, and without lower, they are holes.
    lower_pages: u64,
    /// Own pages.
    pub(super) own: u64,
    /// Where a sequential reader comes next, and how much to read ahead for it.
    expected: u64,
    window: usize,
}

/// What a page index holds.
pub(super) enum Found {
    Page(Page),
    Hole,
    /// To be fetched from the lower: this many pages at once.
    Lower(LowerId, usize),
}

/// Most pages read from the lower at once.
const MAX_READAHEAD: usize = 64;

impl Data {
    pub(super) fn new(size: u64, lower: Option<LowerId>) -> Data {
        let lower_pages = if lower.is_some() { size.div_ceil(PAGE_SIZE as u64) } else { 0 };
        Data {
            size,
            pages: BTreeMap::new(),
            mappers: Vec::new(),
            lower,
            lower_pages,
            own: 0,
            expected: 0,
            window: 4,
        }
    }

    /// Blocks of 512 bytes that it takes, the lower's included.
    pub(super) fn blocks(&self) -> u64 {
        // Without own pages there are none beyond the lower's.
        let beyond = if self.own == 0 { 0 } else { self.pages.range(self.lower_pages..).count() as u64 };
        (self.lower_pages + beyond) * (PAGE_SIZE as u64 / 512)
    }

    pub(super) fn find(&mut self, index: u64) -> Found {
        if let Some(cached) = self.pages.get(&index) {
            return Found::Page(cached.page.clone());
        }
        match self.lower {
            Some(id) if index < self.lower_pages => {
                self.window = if index == self.expected { (self.window * 2).min(MAX_READAHEAD) } else { 4 };
                let count = self.window.min((self.lower_pages - index).min(MAX_READAHEAD as u64) as usize);
                Found::Lower(id, count)
            }
            _ => Found::Hole,
        }
    }

    /// Puts pages read from the lower where nothing has come in between.
    pub(super) fn insert_clean(&mut self, first: u64, pages: Vec<Page>) {
        self.expected = first + pages.len() as u64;
        for (index, page) in (first..self.lower_pages).zip(pages) {
            let tail = self.size.saturating_sub(index * PAGE_SIZE as u64);
            self.pages.entry(index).or_insert_with(|| {
                // The file may have been cut while the page was on its way.
                if tail < PAGE_SIZE as u64 {
                    page.fill(tail as usize, PAGE_SIZE - tail as usize, 0);
                }
                Cached { page, own: false }
            });
        }
    }

    /// The cached page `index` to be written: it is own from now on. Returns whether it was clean before.
    pub(super) fn own(&mut self, index: u64) -> Option<(Page, bool)> {
        let cached = self.pages.get_mut(&index)?;
        let was_clean = !core::mem::replace(&mut cached.own, true);
        self.own += u64::from(was_clean);
        Some((cached.page.clone(), was_clean))
    }

    /// Takes back `own` of a page that was clean.
    pub(super) fn disown(&mut self, index: u64) {
        if let Some(cached) = self.pages.get_mut(&index)
            && core::mem::replace(&mut cached.own, false)
        {
            self.own -= 1;
        }
    }

    /// Whether page `index` would show the lower if it were not cached.
    pub(super) fn below_lower(&self, index: u64) -> bool {
        index < self.lower_pages
    }

    /// Fills a hole with an own page; the one that is there if it is no hole any more.
    pub(super) fn fill_hole(&mut self, index: u64, page: Page) -> (Page, bool) {
        let mut added = false;
        let cached = self.pages.entry(index).or_insert_with(|| {
            added = true;
            Cached { page, own: true }
        });
        self.own += u64::from(added);
        (cached.page.clone(), added)
    }

    /// Sets the size and returns how many own pages that freed, and the pages (to be dropped without the lock).
    pub(super) fn truncate(&mut self, size: u64) -> (u64, Vec<Page>) {
        let mut dropped = Vec::new();
        let mut freed = 0;
        if size < self.size {
            let keep = size.div_ceil(PAGE_SIZE as u64);
            for (_, cached) in self.pages.split_off(&keep) {
                freed += u64::from(cached.own);
                dropped.push(cached.page);
            }
            self.lower_pages = self.lower_pages.min(keep);
            self.zero_in_page(size, PAGE_SIZE as u64);
        }
        self.own -= freed;
        self.size = size;
        (freed, dropped)
    }

    /// Zeroes the cached page that holds `from`, from there up to `len` bytes or its end.
    fn zero_in_page(&mut self, from: u64, len: u64) {
        let offset = from % PAGE_SIZE as u64;
        if let Some(cached) = self.pages.get(&(from / PAGE_SIZE as u64))
            && offset != 0
        {
            cached.page.fill(offset as usize, len.min(PAGE_SIZE as u64 - offset) as usize, 0);
        }
    }

    /// Makes holes of the whole cached pages in `first..end`, returns as `truncate` does. Pages of the lower in it must
    /// have been made own first. A page that somebody maps stays and is zeroed, so that file and mapping go on being one.
    pub(super) fn punch(&mut self, first: u64, end: u64) -> (u64, Vec<Page>) {
        let mut dropped = Vec::new();
        let mut freed = 0;
        let indices: Vec<u64> = self.pages.range(first..end).map(|(index, _)| *index).collect();
        for index in indices {
            // A hole below the lower's end would show the lower again.
            let stays = |cached: &&Cached| index < self.lower_pages || cached.page.is_shared();
            if let Some(cached) = self.pages.get(&index).filter(stays) {
                cached.page.fill(0, PAGE_SIZE, 0);
            } else if let Some(cached) = self.pages.remove(&index) {
                freed += u64::from(cached.own);
                dropped.push(cached.page);
            }
        }
        self.own -= freed;
        (freed, dropped)
    }

    /// The next byte at or after `offset` that is (not) in a hole.
    pub(super) fn seek(&self, offset: u64, hole: bool) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let end = self.size.div_ceil(PAGE_SIZE as u64);
        let mut index = offset / PAGE_SIZE as u64;
        let is_data = |index: u64| index < self.lower_pages || self.pages.contains_key(&index);
        if hole {
            while index < end && is_data(index) {
                index = index.max(self.lower_pages.saturating_sub(1)) + 1;
            }
            return Some((index * PAGE_SIZE as u64).clamp(offset, self.size));
        }
        if !is_data(index) {
            index = *self.pages.range(index..).next()?.0;
        }
        Some((index * PAGE_SIZE as u64).max(offset)).filter(|found| *found < self.size)
    }

    /// Drops up to `wanted` clean pages that nothing else refers to; returns how many, and whether clean ones remain.
    pub(super) fn drop_clean(&mut self, wanted: usize) -> (usize, bool) {
        let (mut freed, mut more) = (0, false);
        self.pages.retain(|_, cached| {
            if cached.own {
                return true;
            }
            if freed < wanted && cached.page.is_unique() {
                freed += 1;
                return false;
            }
            more = true;
            true
        });
        (freed, more)
    }

    /// Remembers who maps its pages, and forgets who is gone.
    pub(super) fn attach(&mut self, mapper: &Weak<dyn Mapper>) {
        if !self.mappers.iter().any(|other| other.ptr_eq(mapper)) {
            self.mappers.retain(|other| other.strong_count() > 0);
            self.mappers.push(mapper.clone());
        }
    }

    /// Who maps its pages.
    pub(super) fn mappers(&self) -> Vec<Arc<dyn Mapper>> {
        self.mappers.iter().filter_map(Weak::upgrade).collect()
    }

    /// Calls `each` with the cached pages of `first..first + count`.
    pub(super) fn cached(&self, first: u64, count: u64, each: &mut dyn FnMut(u64, Page)) {
        let end = first.saturating_add(count).min(self.size.div_ceil(PAGE_SIZE as u64));
        if first < end {
            self.pages.range(first..end).for_each(|(index, cached)| each(*index, cached.page.clone()));
        }
    }
}

/// A new page of zeros.
pub(super) fn new_page(host: &dyn Host) -> Result<Page> {
    Ok(host.pages().alloc_zeroed()?)
}
