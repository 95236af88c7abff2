//! The frame pool, and the kernel's heap on it.
//!
//! Small objects come from slabs: a page is cut into equal pieces of one of a few sizes, and free pieces are linked through
//! themselves. Objects of more than half a page are whole pages: contiguous in the direct map up to 2 MiB, if there is such a piece; beyond that, and
//! where memory is in crumbs, mapped page by page in a region of their own. A slab page is not given back; the sizes are few, so what it could hold is
//! soon used again.
//!
//! No lock is held while a page is asked for: the pool may reclaim, and what it lets go of comes back here to be freed.

use super::kernel_map;
use super::layout::LARGE_ALLOCATIONS;
use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, Ordering};
use litebox_core::mm::PagePool;
use litebox_core::platform::{LARGE_PAGE_SIZE, PAGE_SIZE};
use spin::Mutex;

/// Every frame of RAM that is not the kernel's image or boot's tables.
pub static POOL: PagePool = PagePool::new();

/// Sizes of slab objects. Each is a multiple of 16; alignments above 16 take the next power of two.
const SIZES: [usize; 16] = [16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1360, 2048];

struct FreeObject {
    next: Option<NonNull<FreeObject>>,
}

struct Slab {
    free: Option<NonNull<FreeObject>>,
}

// SAFETY: the free objects belong to the slab, which is only used under its lock.
unsafe impl Send for Slab {}

impl Slab {
    fn pop(&mut self) -> Option<NonNull<FreeObject>> {
        let object = self.free?;
        // SAFETY: a free object holds its link, and nobody else has it.
        self.free = unsafe { object.read().next };
        Some(object)
    }

    /// # Safety
    /// The object is of this slab's size, and nobody else's.
    unsafe fn push(&mut self, object: NonNull<FreeObject>) {
        // SAFETY: the caller's promise.
        unsafe { object.write(FreeObject { next: self.free }) };
        self.free = Some(object);
    }
}

struct Heap {
    slabs: [Mutex<Slab>; SIZES.len()],
    large: Mutex<LargeRegion>,
}

/// Free ranges of the large region that are remembered. More are forgotten, addresses only: 64 TiB do not run out.
const FREE_RANGES: usize = 64;

/// Addresses for what is mapped page by page. Those that were freed come first, since their page tables are there already and are never given back.
struct LargeRegion {
    next: u64,
    /// No two of them touch; empty ones are unused places.
    free: [Range<u64>; FREE_RANGES],
}

impl LargeRegion {
    fn take(&mut self, len: u64) -> u64 {
        if let Some(range) = self.free.iter_mut().find(|range| range.end - range.start >= len) {
            range.start += len;
            return range.start - len;
        }
        let at = self.next;
        self.next += len;
        at
    }

    fn give_back(&mut self, mut range: Range<u64>) {
        // Joined with the neighbours, which leave their places.
        for other in &mut self.free {
            if !other.is_empty() && (other.end == range.start || range.end == other.start) {
                range = range.start.min(other.start)..range.end.max(other.end);
                *other = 0..0;
            }
        }
        if range.end == self.next {
            self.next = range.start;
        } else if let Some(place) = self.free.iter_mut().find(|place| place.is_empty()) {
            *place = range;
        }
    }
}

#[global_allocator]
static HEAP: Heap = Heap {
    slabs: [const { Mutex::new(Slab { free: None }) }; SIZES.len()],
    large: Mutex::new(LargeRegion { next: LARGE_ALLOCATIONS, free: [const { 0..0 }; FREE_RANGES] }),
};

/// An allocation has failed.
static EXHAUSTED: AtomicBool = AtomicBool::new(false);

/// Whether memory has ever run out for the kernel itself.
pub fn is_exhausted() -> bool {
    EXHAUSTED.load(Ordering::Relaxed)
}

/// Where an allocation of this layout lives.
enum Home {
    Slab(usize),
    Contiguous(usize),
    Mapped(usize),
}

#[inline]
fn home(layout: Layout) -> Home {
    let size = if layout.align() > 16 {
        layout.size().max(layout.align()).next_power_of_two()
    } else {
        layout.size()
    };
    if size <= 256 && layout.align() <= 16 {
        // The common sizes by table: index by 16-byte step.
        const BY_STEP: [u8; 17] = [0, 0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7];
        return Home::Slab(usize::from(BY_STEP[size.div_ceil(16)]));
    }
    if size <= 2048
        && let Some(i) = SIZES.iter().position(|&s| s >= size && s % layout.align() == 0)
    {
        return Home::Slab(i);
    }
    let pages = size.div_ceil(PAGE_SIZE);
    if pages * PAGE_SIZE <= LARGE_PAGE_SIZE { Home::Contiguous(pages) } else { Home::Mapped(pages) }
}

impl Heap {
    fn slab_alloc(&self, class: usize) -> *mut u8 {
        if let Some(object) = self.slabs[class].lock().pop() {
            return object.as_ptr().cast();
        }
        let Ok(page) = POOL.alloc_kernel(false) else { return null_mut() };
        let base = page.as_ptr();
        litebox_core::mm::Page::into_raw(page);
        let size = SIZES[class];
        let mut slab = self.slabs[class].lock();
        // Powers of two stay aligned to themselves; the first object goes to the caller.
        for i in (1..PAGE_SIZE / size).rev() {
            // SAFETY: the object lies within the page, which is now the slab's, and is aligned to 16.
            unsafe { slab.push(NonNull::new_unchecked(base.add(i * size).cast::<FreeObject>())) };
        }
        base
    }

    fn mapped_alloc(&self, pages: usize) -> *mut u8 {
        if pages > POOL.free_pages() {
            return null_mut();
        }
        let range = Self::mapped_range(self.large.lock().take(Self::mapped_len(pages)), pages);
        for address in range.clone().step_by(PAGE_SIZE) {
            let mapped =
                POOL.alloc_kernel(false).is_ok_and(|page| kernel_map::map_page(address, page).is_ok());
            if !mapped {
                self.mapped_free(range.start, pages);
                return null_mut();
            }
        }
        range.start as *mut u8
    }

    fn mapped_free(&self, at: u64, pages: usize) {
        kernel_map::unmap_pages(Self::mapped_range(at, pages));
        self.large.lock().give_back(at..at + Self::mapped_len(pages));
    }

    fn mapped_range(at: u64, pages: usize) -> Range<u64> {
        at..at + (pages * PAGE_SIZE) as u64
    }

    /// A page stays unmapped behind each.
    fn mapped_len(pages: usize) -> u64 {
        ((pages + 1) * PAGE_SIZE) as u64
    }
}

// SAFETY: the layouts' homes are disjoint memory, handed out once until freed; the same layout finds the same home.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let at = match home(layout) {
            Home::Slab(class) => self.slab_alloc(class),
            Home::Contiguous(pages) => match POOL.alloc_contiguous_raw(pages) {
                Some(at) => at.as_ptr(),
                None if layout.align() <= PAGE_SIZE => self.mapped_alloc(pages),
                None => null_mut(),
            },
            Home::Mapped(pages) => self.mapped_alloc(pages),
        };
        if at.is_null() {
            EXHAUSTED.store(true, Ordering::Relaxed);
        }
        at
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        match home(layout) {
            // SAFETY: the object came from this slab and is free again, by the caller's contract.
            Home::Slab(class) => unsafe {
                self.slabs[class].lock().push(NonNull::new_unchecked(at.cast::<FreeObject>()));
            },
            Home::Contiguous(pages) | Home::Mapped(pages) if at.addr() as u64 >= LARGE_ALLOCATIONS => {
                self.mapped_free(at.addr() as u64, pages);
            }
            // SAFETY: `alloc` got it there, with as many pages.
            Home::Contiguous(pages) | Home::Mapped(pages) => unsafe { POOL.free_contiguous_raw(at, pages) },
        }
    }
}
