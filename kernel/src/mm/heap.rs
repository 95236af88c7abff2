//! The frame pool, and the kernel's heap on it.
//!
//! Small objects come from slabs: a page is cut into equal pieces of one of a few sizes, and free pieces are linked through
//! themselves. Objects of more than half a page are whole pages, contiguous in the direct map up to 2 MiB, beyond that mapped page by page
//! in a region of their own. A slab page is not given back; the sizes are few, so what it could hold is soon used again.

use super::kernel_map;
use super::layout::LARGE_ALLOCATIONS;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};
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

struct Heap {
    slabs: [Mutex<Slab>; SIZES.len()],
    large: Mutex<LargeRegion>,
}

/// Addresses for allocations beyond 2 MiB. They are handed out once: 64 TiB do not run out.
struct LargeRegion {
    next: u64,
}

#[global_allocator]
static HEAP: Heap = Heap {
    slabs: [const { Mutex::new(Slab { free: None }) }; SIZES.len()],
    large: Mutex::new(LargeRegion { next: LARGE_ALLOCATIONS }),
};

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
        let mut slab = self.slabs[class].lock();
        if slab.free.is_none() {
            let Ok(page) = POOL.alloc_kernel(false) else { return null_mut() };
            let base = page.as_ptr();
            litebox_core::mm::Page::into_raw(page);
            let size = SIZES[class];
            // Powers of two stay aligned to themselves; the first object goes to the head of the list.
            for i in (0..PAGE_SIZE / size).rev() {
                // SAFETY: the object lies within the page, which is now the slab's, and is aligned to 16.
                unsafe {
                    let object = NonNull::new_unchecked(base.add(i * size).cast::<FreeObject>());
                    object.write(FreeObject { next: slab.free });
                    slab.free = Some(object);
                }
            }
        }
        match slab.free {
            Some(object) => {
                // SAFETY: a free object holds its link, and nobody else has it.
                slab.free = unsafe { object.read().next };
                object.as_ptr().cast()
            }
            None => null_mut(),
        }
    }

    fn mapped_alloc(&self, pages: usize) -> *mut u8 {
        if pages > POOL.free_pages() {
            return null_mut();
        }
        let at = {
            let mut large = self.large.lock();
            let at = large.next;
            // A page stays unmapped between two of them.
            large.next += (pages as u64 + 1) * PAGE_SIZE as u64;
            at
        };
        for i in 0..pages {
            let address = at + (i * PAGE_SIZE) as u64;
            let mapped = POOL
                .alloc_kernel(false)
                .is_ok_and(|page| kernel_map::map_pages(address, [page].into_iter()).is_ok());
            if !mapped {
                kernel_map::unmap_pages(at..address);
                return null_mut();
            }
        }
        at as *mut u8
    }
}

// SAFETY: the layouts' homes are disjoint memory, handed out once until freed; the same layout finds the same home.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match home(layout) {
            Home::Slab(class) => self.slab_alloc(class),
            Home::Contiguous(pages) => POOL.alloc_contiguous_raw(pages).map_or(null_mut(), NonNull::as_ptr),
            Home::Mapped(pages) => self.mapped_alloc(pages),
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        match home(layout) {
            Home::Slab(class) => {
                let mut slab = self.slabs[class].lock();
                // SAFETY: the object came from this slab and is free again, by the caller's contract.
                unsafe {
                    let object = NonNull::new_unchecked(at.cast::<FreeObject>());
                    object.write(FreeObject { next: slab.free });
                    slab.free = Some(object);
                }
            }
            // SAFETY: `alloc` got it there, with as many pages.
            Home::Contiguous(pages) => unsafe { POOL.free_contiguous_raw(at, pages) },
            Home::Mapped(pages) => kernel_map::unmap_pages(at as u64..at as u64 + (pages * PAGE_SIZE) as u64),
        }
    }
}
