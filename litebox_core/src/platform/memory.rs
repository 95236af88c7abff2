//! South: page tables as values.

use crate::mm::{LargePage, Page, PagePool};
use core::ops::Range;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;
/// Bytes in a large page (a page-directory entry).
pub const LARGE_PAGE_SIZE: usize = 2 << 20;

/// No frame is left, neither for the page nor for a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

bitflags::bitflags! {
    /// What user mode may do with a mapped page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Prot: u8 {
        /// Loads.
        const READ = 1;
        /// Stores.
        const WRITE = 2;
        /// Instruction fetches.
        const EXEC = 4;
    }
}

/// What a page table says of one address.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The page that is mapped (one more reference to it).
    pub page: Page,
    /// What the entry permits.
    pub prot: Prot,
}

/// An address space's page table: holds one reference to every page it maps. Addresses are user addresses and multiples
/// of [`PAGE_SIZE`]; a range is half open, in bytes. Implementations flush what must be flushed before they return, and
/// before the references of unmapped pages are dropped.
pub trait PageTable: Send + Sized {
    /// Maps `page` at `at`, where nothing is mapped. `Prot::empty()` maps nothing accessible but keeps the reference.
    fn map(&mut self, at: usize, page: Page, prot: Prot) -> Result<(), OutOfMemory>;

    /// Maps 2 MiB at `at` (a multiple of [`LARGE_PAGE_SIZE`]), where nothing is mapped. Later calls on parts of it split it.
    fn map_large(&mut self, at: usize, page: LargePage, prot: Prot) -> Result<(), OutOfMemory>;

    /// What is mapped at `at`, if anything.
    fn query(&self, at: usize) -> Option<Mapping>;

    /// Whether anything is mapped in the 2 MiB around `at` (then no large page fits there).
    fn large_slot_is_empty(&self, at: usize) -> bool;

    /// Sets the protection of every page mapped in `range`. With `shared_readonly`, a page that has other references
    /// gets `prot` without WRITE (copy on write comes at the next fault).
    fn protect(&mut self, range: Range<usize>, prot: Prot, shared_readonly: bool) -> Result<(), OutOfMemory>;

    /// Replaces the page at `at`, which is mapped, by another.
    fn replace(&mut self, at: usize, page: Page, prot: Prot) -> Result<(), OutOfMemory>;

    /// Unmaps every page in `range` and drops the references. Fails only when a large page must be split and no frame is left.
    fn unmap(&mut self, range: Range<usize>) -> Result<(), OutOfMemory>;

    /// Calls `f` with the address, page and protection of every 4 KiB page mapped in `range`, in order (fork, mincore, smaps).
    fn for_each(&self, range: Range<usize>, f: &mut dyn FnMut(usize, &Page, Prot));

    /// Moves every mapping of `range` to `to`, where nothing is mapped.
    fn relocate(&mut self, range: Range<usize>, to: usize) -> Result<(), OutOfMemory>;

    /// Bytes mapped (the resident set).
    fn resident(&self) -> usize;
}

/// South: physical memory and address spaces.
pub trait Memory {
    /// This platform's page tables.
    type PageTable: PageTable;

    /// The pool that all pages come from.
    fn pages(&self) -> &'static PagePool;

    /// A page table that maps nothing in user space.
    fn new_page_table(&self) -> Result<Self::PageTable, OutOfMemory>;

    /// Makes `table` the one that user accesses of the current thread go through, until the next call. The thread keeps it
    /// over blocking. `None`: none (the thread has no user space, or its table is about to be dropped).
    fn activate(&self, table: Option<&Self::PageTable>);

    /// User addresses lie in this range.
    fn user_range(&self) -> Range<usize>;
}
