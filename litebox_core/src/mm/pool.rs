//! The page pool: a buddy allocator of frames of 4 KiB to 2 MiB, with a cache of single frames in front.
//!
//! Invariants: a frame is in exactly one state, which its metadata word tells: unclaimed, free (in a block of the buddy lists or in
//! the cache), or allocated with a reference count of at least one. Memory is claimed in steps of at most 2 MiB when it is first needed, so
//! a big machine starts as fast as a small one, and an SNP guest validates only what it uses. Free frames hold
//! their own list links; the metadata words lie at the beginning of each region.

use crate::platform::{LARGE_PAGE_SIZE, OutOfMemory, PAGE_SIZE};
use alloc::sync::Arc;
use core::ops::Range;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use spin::{Mutex, Once};

use super::page::{LargePage, Page};

/// log2 of the frames in the largest block.
const MAX_ORDER: usize = 9;
const LARGE_FRAMES: u64 = 1 << MAX_ORDER;
/// How many regions of memory a pool can have.
const MAX_REGIONS: usize = 64;
/// Single frames kept at hand. More go back to the buddy lists, where they can merge.
const CACHE_LIMIT: usize = 2048;
/// List end.
const NONE: u64 = u64::MAX;

/// Metadata: bit 31 set: the first frame of a free block, whose order is in the low bits.
const FREE_BLOCK: u32 = 1 << 31;
/// In the cache of single frames.
const CACHED: u32 = 1 << 30;
/// What remains: a reference count; zero inside a free block.
const MAX_REFERENCES: u32 = CACHED - 1;

struct Region {
    /// Frame numbers that can be allocated.
    frames: Range<u64>,
    /// From here on, not yet claimed.
    unclaimed: u64,
    /// One word for each frame of `frames`.
    metadata: *const AtomicU32,
}

// SAFETY: the pointer refers to memory that `add_region` made the pool's for ever.
unsafe impl Send for Region {}
// SAFETY: as above; metadata is atomic, frames are handed out to one owner.
unsafe impl Sync for Region {}

struct Buddy {
    heads: [u64; MAX_ORDER + 1],
    cache: u64,
    cached: usize,
    /// Claiming positions of the regions, by index.
    unclaimed: [u64; MAX_REGIONS],
}

/// Called with the physical range before it is used for the first time; `false` takes the memory out of use.
pub type AcceptHook = dyn Fn(Range<u64>) -> bool + Send + Sync;
/// Called when memory has run out, with the number of pages wanted; frees some, and returns how many.
pub type ReclaimHook = dyn Fn(usize) -> usize + Send + Sync;

/// All of a machine's allocatable memory.
pub struct PagePool {
    /// Where frame number 0 would be.
    base: AtomicPtr<u8>,
    regions: [Once<Region>; MAX_REGIONS],
    buddy: Mutex<Buddy>,
    free: AtomicUsize,
    total: AtomicUsize,
    reserve: AtomicUsize,
    accept: Once<&'static AcceptHook>,
    reclaim: Mutex<Option<Arc<ReclaimHook>>>,
}

impl Default for PagePool {
    fn default() -> Self {
        Self::new()
    }
}

impl PagePool {
    /// An empty pool.
    pub const fn new() -> PagePool {
        PagePool {
            base: AtomicPtr::new(null_mut()),
            regions: [const { Once::new() }; MAX_REGIONS],
            buddy: Mutex::new(Buddy {
                heads: [NONE; MAX_ORDER + 1],
                cache: NONE,
                cached: 0,
                unclaimed: [0; MAX_REGIONS],
            }),
            free: AtomicUsize::new(0),
            total: AtomicUsize::new(0),
            reserve: AtomicUsize::new(0),
            accept: Once::new(),
            reclaim: Mutex::new(None),
        }
    }

    /// The part of a region, from its beginning, that [`Self::add_region`] keeps for itself and uses at once: whole pages.
    pub fn metadata(physical: Range<u64>) -> Range<u64> {
        let page = PAGE_SIZE as u64;
        let (first, end) = (physical.start.div_ceil(page), physical.end / page);
        // A word for each frame; slightly more than needed, since these frames need none.
        let frames = (end.saturating_sub(first) * size_of::<AtomicU32>() as u64).div_ceil(page);
        first * page..(first + frames) * page
    }

    /// Adds memory: physical addresses `physical`, cut to whole pages, with physical address 0 at `base`. Memory beyond 64 regions, or
    /// with another base than the first region's, stays unused.
    ///
    /// # Safety
    /// `base + address` is valid, for reads and writes and for ever, for every address in the range, and nothing else uses it.
    pub unsafe fn add_region(&self, base: *mut u8, physical: Range<u64>) {
        let page = PAGE_SIZE as u64;
        let (first, end) = (physical.start.div_ceil(page), physical.end / page);
        if first >= end {
            return;
        }
        let frames = Self::metadata(physical).end / page..end;
        if frames.is_empty() {
            return;
        }
        let known = self.base.compare_exchange(null_mut(), base, Ordering::Relaxed, Ordering::Relaxed);
        if known.is_err_and(|known| known != base) {
            return;
        }
        let metadata = base.wrapping_add((first * page) as usize).cast::<AtomicU32>().cast_const();
        let Some(index) = self.regions.iter().position(|r| r.get().is_none()) else { return };
        let count = (frames.end - frames.start) as usize;
        self.buddy.lock().unclaimed[index] = frames.start;
        self.regions[index].call_once(|| Region { unclaimed: frames.start, frames, metadata });
        self.free.fetch_add(count, Ordering::Relaxed);
        let total = self.total.fetch_add(count, Ordering::Relaxed) + count;
        // What the kernel may still take when the workload gets no more: a 64th, between 256 KiB and 16 MiB.
        self.reserve.store((total / 64).clamp(64, 4096), Ordering::Relaxed);
    }

    /// Sets what to call before memory is used for the first time.
    pub fn set_accept_hook(&self, hook: &'static AcceptHook) {
        self.accept.call_once(|| hook);
    }

    /// Sets what to call when memory has run out; the last one counts.
    pub fn set_reclaim_hook(&self, hook: Arc<ReclaimHook>) {
        let old = self.reclaim.lock().replace(hook);
        drop(old);
    }

    /// Frames that are not allocated.
    pub fn free_pages(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    /// Frames that can be allocated at all.
    pub fn total_pages(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Only the reserve is left, or less.
    pub fn is_low(&self) -> bool {
        self.free_pages() <= self.reserve.load(Ordering::Relaxed)
    }

    /// The kernel has used up half of its reserve, and nothing can be reclaimed: whoever makes it need more has to go.
    #[inline]
    pub fn is_exhausted(&self) -> bool {
        self.free_pages() * 2 <= self.reserve.load(Ordering::Relaxed) && self.reclaim_some(64) == 0
    }

    #[inline]
    fn region(&self, frame: u64) -> Option<&Region> {
        self.regions.iter().map_while(Once::get).find(|r| r.frames.contains(&frame))
    }

    /// The metadata word of a frame of this pool. Not inlined, as what calls it is not: that would be code at every use of a page, to be
    /// translated there under TCG.
    #[inline(never)]
    pub(super) fn word(&self, frame: u64) -> &AtomicU32 {
        let region = self.region(frame).expect("a frame of this pool");
        let index = (frame - region.frames.start) as usize;
        // SAFETY: one word for each frame, in memory that is the pool's for ever.
        unsafe { &*region.metadata.add(index) }
    }

    /// Where a frame of this pool is.
    #[inline]
    pub(super) fn address(&self, frame: u64) -> *mut u8 {
        self.base.load(Ordering::Relaxed).wrapping_add((frame * PAGE_SIZE as u64) as usize)
    }

    /// A page for the workload. Fails while the kernel's reserve is still there; what can be reclaimed is reclaimed first.
    #[inline(never)]
    pub fn alloc(&'static self, zeroed: bool) -> Result<Page, OutOfMemory> {
        if self.is_low() && self.reclaim_some(64) == 0 && self.is_low() {
            return Err(OutOfMemory);
        }
        self.alloc_kernel(zeroed)
    }

    /// A page of zeros for the workload.
    #[inline]
    pub fn alloc_zeroed(&'static self) -> Result<Page, OutOfMemory> {
        self.alloc(true)
    }

    /// A page for the kernel itself: may use the reserve.
    #[inline]
    pub fn alloc_kernel(&'static self, zeroed: bool) -> Result<Page, OutOfMemory> {
        let frame = match self.take(0) {
            Some(frame) => frame,
            None => {
                self.reclaim_some(64);
                self.take(0).ok_or(OutOfMemory)?
            }
        };
        // SAFETY: `take` gave the frame, with a count of one, to us.
        let page = unsafe { Page::from_raw(self, frame) };
        if zeroed {
            page.zero();
        }
        Ok(page)
    }

    /// 2 MiB, aligned to it, if that much is left in one piece.
    pub fn alloc_large(&'static self, zeroed: bool) -> Option<LargePage> {
        if self.free_pages() < self.reserve.load(Ordering::Relaxed) + LARGE_FRAMES as usize {
            return None;
        }
        let frame = self.take(MAX_ORDER)?;
        // SAFETY: `take` gave all its frames to us, each with a count of one.
        let page = unsafe { LargePage::from_raw(self, frame) };
        if zeroed {
            page.zero();
        }
        Some(page)
    }

    /// `pages` frames in one piece (at most 2 MiB), for the kernel; not initialised. To be freed by
    /// [`Self::free_contiguous_raw`].
    pub fn alloc_contiguous_raw(&'static self, pages: usize) -> Option<NonNull<u8>> {
        if pages == 0 || pages > LARGE_FRAMES as usize {
            return None;
        }
        let order = pages.next_power_of_two().trailing_zeros() as usize;
        let frame = self.take(order).or_else(|| {
            self.reclaim_some(pages);
            self.take(order)
        })?;
        for rest in frame + pages as u64..frame + (1 << order) {
            self.word(rest).store(0, Ordering::Relaxed);
            self.give_back(rest, 0);
        }
        NonNull::new(self.address(frame))
    }

    /// Frees what [`Self::alloc_contiguous_raw`] gave.
    ///
    /// # Safety
    /// `at` came from there, with the same number of pages, and is not used any more.
    pub unsafe fn free_contiguous_raw(&'static self, at: *mut u8, pages: usize) {
        let first = ((at.addr() - self.base.load(Ordering::Relaxed).addr()) / PAGE_SIZE) as u64;
        for frame in first..first + pages as u64 {
            self.word(frame).store(0, Ordering::Relaxed);
            self.give_back(frame, 0);
        }
    }

    /// Asks whoever holds pages that can be had again to let go of them.
    pub fn reclaim_some(&self, pages: usize) -> usize {
        // The hook takes locks of its own, and may come here again.
        let hook = self.reclaim.lock().clone();
        hook.map_or(0, |hook| hook(pages))
    }

    /// Takes a block off the lists; its frames have a count of one each.
    fn take(&self, order: usize) -> Option<u64> {
        let mut buddy = self.buddy.lock();
        let frame = if order == 0 && buddy.cached > 0 {
            let frame = buddy.cache;
            buddy.cache = self.read_link(frame, 0);
            buddy.cached -= 1;
            frame
        } else {
            self.take_block(&mut buddy, order)?
        };
        drop(buddy);
        for each in frame..frame + (1 << order) {
            self.word(each).store(1, Ordering::Relaxed);
        }
        self.free.fetch_sub(1 << order, Ordering::Relaxed);
        Some(frame)
    }

    fn take_block(&self, buddy: &mut Buddy, order: usize) -> Option<u64> {
        loop {
            if let Some(found) = (order..=MAX_ORDER).find(|&o| buddy.heads[o] != NONE) {
                let frame = buddy.heads[found];
                self.unlink(buddy, frame, found);
                // The upper halves that are not needed go back.
                for smaller in (order..found).rev() {
                    self.link(buddy, frame + (1 << smaller), smaller);
                }
                return Some(frame);
            }
            if !self.claim(buddy) && !self.drain_cache(buddy, 0) {
                return None;
            }
        }
    }

    /// Takes up to 2 MiB of memory into use that never was.
    fn claim(&self, buddy: &mut Buddy) -> bool {
        for (index, region) in self.regions.iter().map_while(Once::get).enumerate() {
            let start = buddy.unclaimed[index].max(region.unclaimed);
            if start >= region.frames.end {
                continue;
            }
            let end = ((start / LARGE_FRAMES + 1) * LARGE_FRAMES).min(region.frames.end);
            buddy.unclaimed[index] = end;
            let physical = start * PAGE_SIZE as u64..end * PAGE_SIZE as u64;
            if self.accept.get().is_some_and(|hook| !hook(physical)) {
                self.free.fetch_sub((end - start) as usize, Ordering::Relaxed);
                continue;
            }
            for frame in start..end {
                self.word(frame).store(0, Ordering::Relaxed);
            }
            self.link_range(buddy, start..end);
            return true;
        }
        false
    }

    /// Puts frames on the lists, as the largest aligned blocks.
    fn link_range(&self, buddy: &mut Buddy, range: Range<u64>) {
        let mut frame = range.start;
        while frame < range.end {
            let fits = 63 - (range.end - frame).leading_zeros() as usize;
            let order = (frame.trailing_zeros() as usize).min(fits).min(MAX_ORDER);
            self.link(buddy, frame, order);
            frame += 1 << order;
        }
    }

    /// Empties the cache down to `keep` frames, so that they can merge. Whether there were any more.
    fn drain_cache(&self, buddy: &mut Buddy, keep: usize) -> bool {
        let any = buddy.cached > keep;
        while buddy.cached > keep {
            let frame = buddy.cache;
            buddy.cache = self.read_link(frame, 0);
            buddy.cached -= 1;
            self.word(frame).store(0, Ordering::Relaxed);
            self.merge(buddy, frame, 0);
        }
        any
    }

    /// Frees a block whose frames all have a count of zero by now.
    pub(super) fn give_back(&self, frame: u64, order: usize) {
        let mut buddy = self.buddy.lock();
        if order == 0 {
            self.word(frame).store(CACHED, Ordering::Relaxed);
            self.write_link(frame, 0, buddy.cache);
            buddy.cache = frame;
            buddy.cached += 1;
            if buddy.cached > CACHE_LIMIT {
                self.drain_cache(&mut buddy, CACHE_LIMIT / 2);
            }
        } else {
            self.merge(&mut buddy, frame, order);
        }
        self.free.fetch_add(1 << order, Ordering::Relaxed);
    }

    /// Links a block, together with its buddy if that is free, and so on.
    fn merge(&self, buddy: &mut Buddy, mut frame: u64, mut order: usize) {
        while order < MAX_ORDER {
            let other = frame ^ (1 << order);
            let Some(region) = self.region(other) else { break };
            let index = (other - region.frames.start) as usize;
            // SAFETY: a word of this region's metadata. One of a frame that was never claimed may hold anything: the claim check is first.
            let free = self.is_claimed(buddy, other)
                && unsafe { &*region.metadata.add(index) }.load(Ordering::Relaxed)
                    == FREE_BLOCK | order as u32;
            if !free {
                break;
            }
            self.unlink(buddy, other, order);
            frame &= !(1 << order);
            order += 1;
        }
        self.link(buddy, frame, order);
    }

    fn is_claimed(&self, buddy: &Buddy, frame: u64) -> bool {
        self.regions
            .iter()
            .map_while(Once::get)
            .zip(&buddy.unclaimed)
            .any(|(region, &unclaimed)| region.frames.contains(&frame) && frame < unclaimed)
    }

    fn link(&self, buddy: &mut Buddy, frame: u64, order: usize) {
        let next = buddy.heads[order];
        self.write_link(frame, 0, next);
        self.write_link(frame, 1, NONE);
        if next != NONE {
            self.write_link(next, 1, frame);
        }
        buddy.heads[order] = frame;
        self.word(frame).store(FREE_BLOCK | order as u32, Ordering::Relaxed);
    }

    fn unlink(&self, buddy: &mut Buddy, frame: u64, order: usize) {
        let (next, previous) = (self.read_link(frame, 0), self.read_link(frame, 1));
        if next != NONE {
            self.write_link(next, 1, previous);
        }
        if previous == NONE {
            buddy.heads[order] = next;
        } else {
            self.write_link(previous, 0, next);
        }
        self.word(frame).store(0, Ordering::Relaxed);
    }

    fn read_link(&self, frame: u64, which: usize) -> u64 {
        // SAFETY: a free frame holds two links, and is the pool's; the caller holds the lock.
        unsafe { self.address(frame).cast::<u64>().add(which).read() }
    }

    fn write_link(&self, frame: u64, which: usize, value: u64) {
        // SAFETY: as in `read_link`.
        unsafe { self.address(frame).cast::<u64>().add(which).write(value) }
    }

    /// One more reference to an allocated frame. Saturates: a frame referred to 2^30 times is never freed.
    #[inline(never)]
    pub(super) fn retain(&self, frame: u64) {
        let word = self.word(frame);
        if word.fetch_add(1, Ordering::Relaxed) >= MAX_REFERENCES - 1 {
            word.store(MAX_REFERENCES, Ordering::Relaxed);
        }
    }

    /// One reference less; the last one frees the frame.
    #[inline(never)]
    pub(super) fn release(&self, frame: u64) {
        let word = self.word(frame);
        if word.load(Ordering::Relaxed) == MAX_REFERENCES {
            return;
        }
        if word.fetch_sub(1, Ordering::Release) == 1 {
            core::sync::atomic::fence(Ordering::Acquire);
            self.give_back(frame, 0);
        }
    }

    /// One reference less to each frame of 2 MiB; in one step when all were the last.
    pub(super) fn release_large(&self, first: u64) {
        let last_ones =
            (first..first + LARGE_FRAMES).all(|frame| self.word(frame).load(Ordering::Acquire) == 1);
        if last_ones {
            for frame in first..first + LARGE_FRAMES {
                self.word(frame).store(0, Ordering::Relaxed);
            }
            self.give_back(first, MAX_ORDER);
        } else {
            (first..first + LARGE_FRAMES).for_each(|frame| self.release(frame));
        }
    }
}

const _: () = assert!(LARGE_FRAMES as usize * PAGE_SIZE == LARGE_PAGE_SIZE);
