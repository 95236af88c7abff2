//! References to pages.

use super::pool::PagePool;
use crate::platform::{LARGE_PAGE_SIZE, PAGE_SIZE};
use core::fmt;
use core::sync::atomic::Ordering;

/// A reference to a page of 4 KiB. Having one proves that the frame is allocated and stays so. The contents may be mapped into a workload and change
/// at any time, so they are copied in and out, and no Rust reference to them is ever made.
pub struct Page {
    pool: &'static PagePool,
    frame: u64,
}

impl Page {
    /// The frame's number: physical address / 4096.
    #[inline]
    pub fn frame_number(&self) -> u64 {
        self.frame
    }

    /// Somebody else holds a reference too.
    #[inline]
    pub fn is_shared(&self) -> bool {
        self.pool.word(self.frame).load(Ordering::Acquire) > 1
    }

    /// Nobody else holds a reference.
    #[inline]
    pub fn is_unique(&self) -> bool {
        !self.is_shared()
    }

    /// How many references there are.
    #[inline]
    pub fn references(&self) -> u32 {
        self.pool.word(self.frame).load(Ordering::Acquire)
    }

    /// Turns the reference into a number, for a page-table entry, which now owns it.
    #[inline]
    pub fn into_raw(page: Page) -> u64 {
        let frame = page.frame;
        core::mem::forget(page);
        frame
    }

    /// Takes back what [`Page::into_raw`] gave.
    ///
    /// # Safety
    /// The number came from there, on a page of this pool, and each is taken back once.
    #[inline]
    pub unsafe fn from_raw(pool: &'static PagePool, frame: u64) -> Page {
        Page { pool, frame }
    }

    /// The contents, in the kernel's view: 4096 bytes, aligned.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.pool.address(self.frame)
    }

    /// Copies out from `offset` on; what lies beyond the end of the page is left alone. Returns how many bytes.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> usize {
        let len = into.len().min(PAGE_SIZE.saturating_sub(offset));
        // SAFETY: within the page, which is allocated while `self` lives; `into` is ours alone, so they do not overlap.
        unsafe { self.as_ptr().wrapping_add(offset).copy_to_nonoverlapping(into.as_mut_ptr(), len) };
        len
    }

    /// Copies in at `offset`; what does not fit is left out. Returns how many bytes.
    pub fn write(&self, offset: usize, from: &[u8]) -> usize {
        let len = from.len().min(PAGE_SIZE.saturating_sub(offset));
        // SAFETY: as in `read`.
        unsafe { self.as_ptr().wrapping_add(offset).copy_from_nonoverlapping(from.as_ptr(), len) };
        len
    }

    /// Lends a range of the contents to a copy, cut to the page.
    ///
    /// The workload may change them meanwhile, if it has the page mapped: `f` must only copy.
    #[inline]
    pub(super) fn with_bytes<R>(&self, offset: usize, len: usize, f: impl FnOnce(&[u8]) -> R) -> R {
        let offset = offset.min(PAGE_SIZE);
        let len = len.min(PAGE_SIZE - offset);
        // SAFETY: within the page, allocated while `self` lives. What runs in user mode at the same time is outside of Rust's memory
        // model; `f` hands the bytes to an assembly copy and looks at none.
        f(unsafe { core::slice::from_raw_parts(self.as_ptr().wrapping_add(offset), len) })
    }

    /// The same for a copy into the page.
    #[inline]
    pub(super) fn with_bytes_mut<R>(&self, offset: usize, len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let offset = offset.min(PAGE_SIZE);
        let len = len.min(PAGE_SIZE - offset);
        // SAFETY: as in `with_bytes`.
        f(unsafe { core::slice::from_raw_parts_mut(self.as_ptr().wrapping_add(offset), len) })
    }

    /// Sets `len` bytes from `offset` on, up to the end of the page.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) {
        let len = len.min(PAGE_SIZE.saturating_sub(offset));
        // SAFETY: within the page.
        unsafe { self.as_ptr().wrapping_add(offset).write_bytes(byte, len) };
    }

    /// Sets all bytes to zero.
    #[inline]
    pub fn zero(&self) {
        self.fill(0, PAGE_SIZE, 0);
    }

    /// The contents, while nobody else refers to the page: a new one, that is to be filled. `None`: somebody does.
    pub fn exclusive_bytes(&mut self) -> Option<&mut [u8; PAGE_SIZE]> {
        // SAFETY: the only reference to the frame is `self`, which is borrowed mutably; a page that is mapped has another one.
        self.is_unique().then(|| unsafe { &mut *self.as_ptr().cast::<[u8; PAGE_SIZE]>() })
    }

    /// Copies the whole of another page.
    pub fn copy_from(&self, other: &Page) {
        if self.frame != other.frame {
            // SAFETY: two different allocated pages.
            unsafe { self.as_ptr().copy_from_nonoverlapping(other.as_ptr(), PAGE_SIZE) };
        }
    }
}

impl Clone for Page {
    #[inline]
    fn clone(&self) -> Page {
        self.pool.retain(self.frame);
        Page { pool: self.pool, frame: self.frame }
    }
}

impl Drop for Page {
    #[inline]
    fn drop(&mut self) {
        self.pool.release(self.frame);
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({:#x})", self.frame)
    }
}

/// References to 512 frames in one aligned piece of 2 MiB. Each of them can later be shared and freed by itself.
pub struct LargePage {
    pool: &'static PagePool,
    frame: u64,
}

impl LargePage {
    /// The first frame's number.
    #[inline]
    pub fn frame_number(&self) -> u64 {
        self.frame
    }

    /// Turns the references into a number; see [`Page::into_raw`].
    #[inline]
    pub fn into_raw(page: LargePage) -> u64 {
        let frame = page.frame;
        core::mem::forget(page);
        frame
    }

    /// Takes back what [`LargePage::into_raw`] gave, or 512 single references to an aligned run of frames.
    ///
    /// # Safety
    /// As for [`Page::from_raw`], for each of them.
    #[inline]
    pub unsafe fn from_raw(pool: &'static PagePool, frame: u64) -> LargePage {
        LargePage { pool, frame }
    }

    /// The same references, one by one.
    pub fn into_pages(self) -> impl Iterator<Item = Page> {
        let (pool, first) = (self.pool, self.frame);
        core::mem::forget(self);
        (first..first + (LARGE_PAGE_SIZE / PAGE_SIZE) as u64).map(move |frame| Page { pool, frame })
    }

    /// The contents, in the kernel's view: 2 MiB, aligned.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.pool.address(self.frame)
    }

    /// Sets all bytes to zero.
    pub fn zero(&self) {
        // SAFETY: 512 frames in one piece, allocated while `self` lives.
        unsafe { self.as_ptr().write_bytes(0, LARGE_PAGE_SIZE) };
    }
}

impl Drop for LargePage {
    fn drop(&mut self) {
        self.pool.release_large(self.frame);
    }
}

impl fmt::Debug for LargePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LargePage({:#x})", self.frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::{Layout, alloc};
    use std::vec::Vec;

    fn pool(bytes: usize) -> &'static PagePool {
        let pool: &'static PagePool = Box::leak(Box::new(PagePool::new()));
        // SAFETY: a fresh allocation, leaked; physical addresses are the offsets in it.
        unsafe {
            let base = alloc(Layout::from_size_align(bytes, LARGE_PAGE_SIZE).unwrap());
            pool.add_region(base, 0..bytes as u64);
        }
        pool
    }

    #[test]
    fn pages_come_and_go() {
        let pool = pool(4 << 20);
        let free = pool.free_pages();
        let mut pages: Vec<Page> = Vec::new();
        while let Ok(page) = pool.alloc_kernel(false) {
            pages.push(page);
        }
        assert_eq!(pages.len(), free);
        assert_eq!(pool.free_pages(), 0);
        let mut numbers: Vec<_> = pages.iter().map(Page::frame_number).collect();
        numbers.sort();
        numbers.dedup();
        assert_eq!(numbers.len(), free);
        pages.clear();
        assert_eq!(pool.free_pages(), free);
        assert!(pool.alloc_large(true).is_some());
    }

    #[test]
    fn references_are_counted() {
        let pool = pool(4 << 20);
        let free = pool.free_pages();
        let page = pool.alloc(true).unwrap();
        assert!(page.is_unique());
        let other = page.clone();
        assert!(page.is_shared());
        drop(page);
        assert!(other.is_unique());
        assert_eq!(pool.free_pages(), free - 1);
        drop(other);
        assert_eq!(pool.free_pages(), free);
    }

    #[test]
    fn a_large_page_can_fall_apart() {
        let pool = pool(6 << 20);
        let free = pool.free_pages();
        let large = pool.alloc_large(true).unwrap();
        assert_eq!(large.frame_number() % 512, 0);
        let pages: Vec<_> = large.into_pages().collect();
        pages[7].write(0, b"x");
        let kept = pages[7].clone();
        drop(pages);
        assert_eq!(pool.free_pages(), free - 1);
        drop(kept);
        assert_eq!(pool.free_pages(), free);
        let whole = pool.alloc_large(false).unwrap();
        drop(whole);
        assert_eq!(pool.free_pages(), free);
    }

    #[test]
    fn the_workload_leaves_a_reserve_to_the_kernel() {
        let pool = pool(4 << 20);
        let mut pages = Vec::new();
        while let Ok(page) = pool.alloc(false) {
            pages.push(page);
        }
        assert!(pool.alloc_kernel(false).is_ok());
        assert!(pool.free_pages() >= 63);
    }

    #[test]
    fn contiguous_runs_are_exact() {
        let pool = pool(4 << 20);
        let free = pool.free_pages();
        for pages in [1, 2, 3, 5, 100, 512] {
            let at = pool.alloc_contiguous_raw(pages).unwrap();
            assert_eq!(pool.free_pages(), free - pages);
            // SAFETY: just allocated, not used any more.
            unsafe {
                at.as_ptr().write_bytes(1, pages * PAGE_SIZE);
                pool.free_contiguous_raw(at.as_ptr(), pages);
            }
            assert_eq!(pool.free_pages(), free);
        }
        assert!(pool.alloc_contiguous_raw(513).is_none());
    }
}
