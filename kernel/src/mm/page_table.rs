//! The workload's page tables, as values: one four-level x86 table per address space (APM vol. 2, 5.3).
//!
//! Invariants: the upper half is the kernel's and is shared by all; every leaf entry in the lower half owns one reference to each frame it maps;
//! a frame's reference is dropped only after the translation is gone from the TLB. A page that is mapped without
//! any permission has an entry that is not present, and keeps its reference.

use super::kernel_map;
use super::layout::{USER_END, direct, private};
use crate::cpu::percpu::PerCpu;
use crate::mm::heap::POOL;
use core::ops::Range;
use litebox_core::mm::{LargePage, Page};
use litebox_core::platform::{self, LARGE_PAGE_SIZE, Mapping, OutOfMemory, PAGE_SIZE, Prot};
use x86_64::instructions::tlb;
use x86_64::structures::paging::{PageTable as Table, PageTableFlags as Flags};
use x86_64::{PhysAddr, VirtAddr};

/// Software bit: the entry holds a reference though it may not be present.
const OWNED: Flags = Flags::BIT_9;
/// Software bits that remember READ and WRITE and EXEC, so that `query` gives back what `map` was told.
const READ: Flags = Flags::BIT_10;
const LARGE_FRAMES: usize = LARGE_PAGE_SIZE / PAGE_SIZE;
/// Up to this many pages are flushed one by one; beyond, the whole TLB.
const FLUSH_LIMIT: usize = 32;

fn flags(prot: Prot) -> Flags {
    let mut flags = private(OWNED | Flags::NO_EXECUTE);
    if !prot.is_empty() {
        flags |= Flags::PRESENT | Flags::USER_ACCESSIBLE | READ;
    }
    flags.set(Flags::WRITABLE, prot.contains(Prot::WRITE));
    if prot.contains(Prot::EXEC) {
        flags.remove(Flags::NO_EXECUTE);
    }
    flags
}

fn prot(flags: Flags) -> Prot {
    let mut prot = Prot::empty();
    prot.set(Prot::READ, flags.contains(READ));
    prot.set(Prot::WRITE, flags.contains(Flags::WRITABLE));
    prot.set(Prot::EXEC, flags.contains(READ) && !flags.contains(Flags::NO_EXECUTE));
    prot
}

fn index(at: usize, level: usize) -> usize {
    at >> (12 + 9 * (level - 1)) & 511
}

/// How many bytes an entry of a table of `level` covers.
fn span(level: usize) -> usize {
    PAGE_SIZE << (9 * (level - 1))
}

/// A reference to the frame with this number, without taking it from its owner.
///
/// # Safety
/// The owner keeps its reference while `f` runs.
unsafe fn borrow<R>(frame: u64, f: impl FnOnce(&Page) -> R) -> R {
    // SAFETY: the reference is only lent: it is forgotten below.
    let page = unsafe { Page::from_raw(&POOL, frame) };
    let result = f(&page);
    core::mem::forget(page);
    result
}

/// What is to be done with a leaf entry.
enum Leaf<'a> {
    Small(&'a mut x86_64::structures::paging::page_table::PageTableEntry),
    Large(&'a mut x86_64::structures::paging::page_table::PageTableEntry),
}

/// Frames whose translations are gone from the table and not yet from the TLB.
struct Gather {
    frames: [(u64, bool); 64],
    count: usize,
    flush: Flush,
}

/// What has to be flushed.
struct Flush {
    active: bool,
    pages: [usize; FLUSH_LIMIT],
    count: usize,
}

impl Flush {
    fn new(active: bool) -> Flush {
        Flush { active, pages: [0; FLUSH_LIMIT], count: 0 }
    }

    fn add(&mut self, at: usize) {
        if let Some(slot) = self.pages.get_mut(self.count) {
            *slot = at;
        }
        self.count = self.count.saturating_add(1);
    }

    fn finish(&mut self) {
        if self.active && self.count > 0 {
            if self.count <= FLUSH_LIMIT {
                for &at in &self.pages[..self.count] {
                    tlb::flush(VirtAddr::new_truncate(at as u64));
                }
            } else {
                kernel_map::flush_all();
            }
        }
        self.count = 0;
    }
}

impl Gather {
    fn new(active: bool) -> Gather {
        Gather { frames: [(0, false); 64], count: 0, flush: Flush::new(active) }
    }

    fn add(&mut self, at: usize, frame: u64, large: bool) {
        if self.count == self.frames.len() {
            self.finish();
        }
        self.frames[self.count] = (frame, large);
        self.count += 1;
        self.flush.add(at);
    }

    fn finish(&mut self) {
        self.flush.finish();
        for &(frame, large) in &self.frames[..self.count] {
            // SAFETY: the reference that the removed entry held.
            unsafe {
                if large {
                    drop(LargePage::from_raw(&POOL, frame));
                } else {
                    drop(Page::from_raw(&POOL, frame));
                }
            }
        }
        self.count = 0;
    }
}

/// An address space's page table.
pub struct PageTable {
    root: Page,
    resident: usize,
}

impl PageTable {
    /// One that maps nothing in user space.
    pub fn new() -> Result<PageTable, OutOfMemory> {
        let root = POOL.alloc(true)?;
        // SAFETY: a frame of our own, of a table's size and alignment.
        kernel_map::share_upper_half(unsafe { &mut *root.as_ptr().cast::<Table>() });
        Ok(PageTable { root, resident: 0 })
    }

    /// The physical address for CR3.
    pub fn physical(&self) -> u64 {
        self.root.frame_number() * PAGE_SIZE as u64
    }

    fn active(&self) -> bool {
        PerCpu::get().cr3.get() == self.physical()
    }

    /// The table of `level` that covers `at`, if there is one (and no large page in its place).
    ///
    /// `&self` methods change entries through this only in `leaves` and `relocate`, which are called by `&mut self` methods or only read.
    #[allow(clippy::mut_from_ref)]
    fn table(&self, at: usize, level: usize) -> Option<&mut Table> {
        let mut table = self.root.as_ptr().cast::<Table>();
        for depth in (level + 1..=4).rev() {
            // SAFETY: tables hang together as `table_or_new` built them; `&self` methods only read through this.
            let entry = unsafe { &(&*table)[index(at, depth)] };
            if entry.is_unused() || entry.flags().contains(Flags::HUGE_PAGE) {
                return None;
            }
            table = direct(entry.addr().as_u64()).cast();
        }
        // SAFETY: as above. The caller holds `&self` or `&mut self` for as long.
        Some(unsafe { &mut *table })
    }

    /// The table of `level` that covers `at`, made if need be. A large page in its place is split.
    fn table_or_new(&mut self, at: usize, level: usize) -> Result<&mut Table, OutOfMemory> {
        let mut table = self.root.as_ptr().cast::<Table>();
        for depth in (level + 1..=4).rev() {
            // SAFETY: as in `table`, and `&mut self` makes this the only reference.
            let entry = unsafe { &mut (&mut *table)[index(at, depth)] };
            if entry.is_unused() {
                let frame = Page::into_raw(POOL.alloc(true)?);
                let flags = private(Flags::PRESENT | Flags::WRITABLE | Flags::USER_ACCESSIBLE);
                entry.set_addr(PhysAddr::new(frame * PAGE_SIZE as u64), flags);
            } else if entry.flags().contains(Flags::HUGE_PAGE) {
                let page = POOL.alloc(true)?;
                let leaf = entry.flags() - Flags::HUGE_PAGE;
                // SAFETY: a fresh frame of a table's size.
                let parts = unsafe { &mut *page.as_ptr().cast::<Table>() };
                for (i, part) in parts.iter_mut().enumerate() {
                    part.set_addr(entry.addr() + (i * PAGE_SIZE) as u64, leaf);
                }
                let frame = Page::into_raw(page);
                let flags = private(Flags::PRESENT | Flags::WRITABLE | Flags::USER_ACCESSIBLE);
                entry.set_addr(PhysAddr::new(frame * PAGE_SIZE as u64), flags);
                if PerCpu::get().cr3.get() == self.root.frame_number() * PAGE_SIZE as u64 {
                    // Both translations are the same, but a CPU may not keep the two sizes for one address.
                    tlb::flush(VirtAddr::new_truncate(at as u64));
                }
            }
            table = direct(entry.addr().as_u64()).cast();
        }
        // SAFETY: as above.
        Ok(unsafe { &mut *table })
    }

    /// Splits the large page that crosses `at`, if there is one.
    fn split_at(&mut self, at: usize) -> Result<(), OutOfMemory> {
        if at.is_multiple_of(LARGE_PAGE_SIZE) || at >= USER_END {
            return Ok(());
        }
        let large =
            self.table(at, 2).is_some_and(|t| t[index(at, 2)].flags().contains(Flags::HUGE_PAGE | OWNED));
        if large {
            self.table_or_new(at, 1)?;
        }
        Ok(())
    }

    /// Calls `f` with the address of every leaf entry in `range`, whose ends cross no large page.
    fn leaves(&self, range: Range<usize>, f: &mut dyn FnMut(usize, Leaf<'_>)) {
        let mut at = range.start;
        let end = range.end.min(USER_END);
        'outer: while at < end {
            for level in (2..=4).rev() {
                // The table of this level exists: the loop came down through it.
                let Some(table) = self.table(at, level) else { break };
                let entry = &mut table[index(at, level)];
                if entry.is_unused() {
                    at = (at & !(span(level) - 1)).saturating_add(span(level));
                    continue 'outer;
                }
                if entry.flags().contains(Flags::HUGE_PAGE) {
                    f(at, Leaf::Large(entry));
                    at = (at & !(LARGE_PAGE_SIZE - 1)).saturating_add(LARGE_PAGE_SIZE);
                    continue 'outer;
                }
            }
            if let Some(table) = self.table(at, 1) {
                let stop = ((at & !(LARGE_PAGE_SIZE - 1)) + LARGE_PAGE_SIZE).min(end);
                while at < stop {
                    let entry = &mut table[index(at, 1)];
                    if !entry.is_unused() {
                        f(at, Leaf::Small(entry));
                    }
                    at += PAGE_SIZE;
                }
            } else {
                at = (at & !(LARGE_PAGE_SIZE - 1)).saturating_add(LARGE_PAGE_SIZE);
            }
        }
    }

    /// Gives back the tables below `level` that hang on `table`. No leaf is left in them.
    fn free_tables(table: &mut Table, level: usize, entries: Range<usize>) {
        for entry in table.iter_mut().skip(entries.start).take(entries.len()) {
            if entry.is_unused() || entry.flags().contains(Flags::HUGE_PAGE) {
                continue;
            }
            let physical = entry.addr().as_u64();
            if level > 2 {
                // SAFETY: a table of ours, that nothing else refers to: the address space is going away.
                Self::free_tables(unsafe { &mut *direct(physical).cast::<Table>() }, level - 1, 0..512);
            }
            entry.set_unused();
            // SAFETY: `table_or_new` put this reference there.
            drop(unsafe { Page::from_raw(&POOL, physical / PAGE_SIZE as u64) });
        }
    }
}

impl Drop for PageTable {
    fn drop(&mut self) {
        if self.active() {
            crate::sched::leave_address_space();
        }
        // Nothing crosses USER_END, so nothing has to be split, and this cannot fail.
        let _ = platform::PageTable::unmap(self, 0..USER_END);
        // SAFETY: our own root, which no CPU uses any more.
        Self::free_tables(unsafe { &mut *self.root.as_ptr().cast::<Table>() }, 4, 0..256);
    }
}

impl platform::PageTable for PageTable {
    fn map(&mut self, at: usize, page: Page, prot: Prot) -> Result<(), OutOfMemory> {
        let entry = &mut self.table_or_new(at, 1)?[index(at, 1)];
        debug_assert!(entry.is_unused());
        entry.set_addr(PhysAddr::new(Page::into_raw(page) * PAGE_SIZE as u64), flags(prot));
        self.resident += PAGE_SIZE;
        Ok(())
    }

    fn map_large(&mut self, at: usize, page: LargePage, prot: Prot) -> Result<(), OutOfMemory> {
        let active = self.active();
        let table = self.table_or_new(at, 2)?;
        let entry = &mut table[index(at, 2)];
        if !entry.is_unused() {
            // An empty table is left over from small pages that are gone. Paging-structure caches may know it: flush before it is freed.
            let physical = entry.addr().as_u64();
            entry.set_unused();
            if active {
                tlb::flush(VirtAddr::new_truncate(at as u64));
            }
            // SAFETY: `table_or_new` put this reference there, and `large_slot_is_empty` said that nothing is in it.
            drop(unsafe { Page::from_raw(&POOL, physical / PAGE_SIZE as u64) });
        }
        entry.set_addr(
            PhysAddr::new(LargePage::into_raw(page) * PAGE_SIZE as u64),
            flags(prot) | Flags::HUGE_PAGE,
        );
        self.resident += LARGE_PAGE_SIZE;
        Ok(())
    }

    fn query(&self, at: usize) -> Option<Mapping> {
        let directory = self.table(at, 2)?;
        let large = &directory[index(at, 2)];
        let (frame, flags) = if large.flags().contains(Flags::HUGE_PAGE) {
            (large.addr().as_u64() / PAGE_SIZE as u64 + index(at, 1) as u64, large.flags())
        } else {
            let entry = &self.table(at, 1)?[index(at, 1)];
            if entry.is_unused() {
                return None;
            }
            (entry.addr().as_u64() / PAGE_SIZE as u64, entry.flags())
        };
        // SAFETY: the entry owns a reference to the frame while `&self` is held.
        Some(Mapping { page: unsafe { borrow(frame, Page::clone) }, prot: prot(flags) })
    }

    fn large_slot_is_empty(&self, at: usize) -> bool {
        let Some(directory) = self.table(at, 2) else { return true };
        let entry = &directory[index(at, 2)];
        if entry.is_unused() {
            return true;
        }
        !entry.flags().contains(Flags::HUGE_PAGE)
            && self.table(at, 1).is_none_or(|table| table.iter().all(|e| e.is_unused()))
    }

    fn protect(&mut self, range: Range<usize>, prot: Prot, shared_readonly: bool) -> Result<(), OutOfMemory> {
        self.split_at(range.start)?;
        self.split_at(range.end)?;
        let mut flush = Flush::new(self.active());
        self.leaves(range.clone(), &mut |at, leaf| {
            let (entry, large) = match leaf {
                Leaf::Small(entry) => (entry, false),
                Leaf::Large(entry) => (entry, true),
            };
            let frame = entry.addr().as_u64() / PAGE_SIZE as u64;
            let mut granted = prot;
            if shared_readonly && prot.contains(Prot::WRITE) {
                let frames = if large { LARGE_FRAMES as u64 } else { 1 };
                // SAFETY: the entry owns a reference to each of them.
                let shared =
                    (0..frames).filter(|i| unsafe { borrow(frame + i, Page::is_shared) }).count() as u64;
                // The next faults sort out which of a large page's parts may be written.
                if shared > 0 {
                    granted.remove(Prot::WRITE);
                }
            }
            let size = if large { Flags::HUGE_PAGE } else { Flags::empty() };
            let new = flags(granted) | size;
            // The CPU sets these two itself.
            let keep = entry.flags() & (Flags::ACCESSED | Flags::DIRTY);
            if entry.flags() - keep != new {
                entry.set_flags(new | keep);
                flush.add(at);
            }
        });
        flush.finish();
        Ok(())
    }

    fn replace(&mut self, at: usize, page: Page, prot: Prot) -> Result<(), OutOfMemory> {
        let active = self.active();
        let entry = &mut self.table_or_new(at, 1)?[index(at, 1)];
        let old = (!entry.is_unused()).then(|| entry.addr().as_u64() / PAGE_SIZE as u64);
        entry.set_addr(PhysAddr::new(Page::into_raw(page) * PAGE_SIZE as u64), flags(prot));
        match old {
            Some(frame) => {
                let mut gather = Gather::new(active);
                gather.add(at, frame, false);
                gather.finish();
            }
            None => self.resident += PAGE_SIZE,
        }
        Ok(())
    }

    fn unmap(&mut self, range: Range<usize>) -> Result<(), OutOfMemory> {
        self.split_at(range.start)?;
        self.split_at(range.end)?;
        let mut gather = Gather::new(self.active());
        let mut gone = 0;
        self.leaves(range, &mut |at, leaf| {
            let (entry, large) = match leaf {
                Leaf::Small(entry) => (entry, false),
                Leaf::Large(entry) => (entry, true),
            };
            let frame = entry.addr().as_u64() / PAGE_SIZE as u64;
            entry.set_unused();
            gone += if large { LARGE_PAGE_SIZE } else { PAGE_SIZE };
            gather.add(at, frame, large);
        });
        gather.finish();
        self.resident -= gone;
        Ok(())
    }

    fn for_each(&self, range: Range<usize>, f: &mut dyn FnMut(usize, &Page, Prot)) {
        self.leaves(range.clone(), &mut |at, leaf| match leaf {
            Leaf::Small(entry) => {
                // SAFETY: the entry owns a reference while `&self` is held.
                unsafe {
                    borrow(entry.addr().as_u64() / PAGE_SIZE as u64, |page| f(at, page, prot(entry.flags())))
                }
            }
            Leaf::Large(entry) => {
                let base = at & !(LARGE_PAGE_SIZE - 1);
                for i in 0..LARGE_FRAMES {
                    let address = base + i * PAGE_SIZE;
                    if range.contains(&address) {
                        let frame = entry.addr().as_u64() / PAGE_SIZE as u64 + i as u64;
                        // SAFETY: as above.
                        unsafe { borrow(frame, |page| f(address, page, prot(entry.flags()))) }
                    }
                }
            }
        });
    }

    fn relocate(&mut self, range: Range<usize>, to: usize) -> Result<(), OutOfMemory> {
        self.split_at(range.start)?;
        self.split_at(range.end)?;
        // Make every table that is needed first, so that nothing is half moved when memory runs out.
        let aligned = to % LARGE_PAGE_SIZE == range.start % LARGE_PAGE_SIZE;
        let mut at = range.start;
        while at < range.end {
            let target = to + (at - range.start);
            let large =
                self.table(at, 2).is_some_and(|t| t[index(at, 2)].flags().contains(Flags::HUGE_PAGE | OWNED));
            if large && !(aligned && platform::PageTable::large_slot_is_empty(self, target)) {
                self.table_or_new(at, 1)?;
            }
            let moves_large = large && aligned && self.table(at, 1).is_none();
            self.table_or_new(target, if moves_large { 2 } else { 1 })?;
            let step = if moves_large {
                LARGE_PAGE_SIZE
            } else {
                // To the next boundary of either side.
                let next = |a: usize| LARGE_PAGE_SIZE - a % LARGE_PAGE_SIZE;
                next(at).min(next(target))
            };
            at += step;
        }
        let mut flush = Flush::new(self.active());
        let this = &*self;
        this.leaves(range.clone(), &mut |at, leaf| {
            let target = to + (at - range.start);
            flush.add(at);
            match leaf {
                Leaf::Small(entry) => {
                    if let Some(table) = this.table(target, 1) {
                        table[index(target, 1)] = entry.clone();
                        entry.set_unused();
                    }
                }
                Leaf::Large(entry) => {
                    if let Some(table) = this.table(target, 2) {
                        let slot = &mut table[index(target, 2)];
                        let old = (!slot.is_unused()).then(|| slot.addr().as_u64());
                        *slot = entry.clone();
                        entry.set_unused();
                        if let Some(physical) = old {
                            tlb::flush(VirtAddr::new_truncate(target as u64));
                            // SAFETY: an empty table, as `large_slot_is_empty` said.
                            drop(unsafe { Page::from_raw(&POOL, physical / PAGE_SIZE as u64) });
                        }
                    }
                }
            }
        });
        flush.finish();
        Ok(())
    }

    fn resident(&self) -> usize {
        self.resident
    }
}
