//! The kernel's own address space.
//!
//! Invariants: no page is writable and executable; nothing is mapped in the lower half; text and constants have no writable
//! alias. The upper-half PML4 entries never change after [`init`], so every address space has a copy of them.

use super::layout::{
    DEVICE_MAP, DIRECT_MAP, DIRECT_MAP_SIZE, LARGE_ALLOCATIONS, SHARED_MAP, STACKS, c_bit, direct, private,
};
use crate::cpu::features;
use crate::cpu::percpu::PerCpu;
use crate::mm::heap::POOL;
use crate::snp;
use boot::{BOOT_MAP_SIZE, BootInfo, KERNEL_BASE, LOW_MEMORY_END};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use litebox_core::mm::{Page, PagePool};
use litebox_core::platform::OutOfMemory;
use spin::Mutex;
use x86_64::PhysAddr;
use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::structures::paging::{PageTable, PageTableFlags as Flags};

unsafe extern "C" {
    static kernel_start: u8;
    static kernel_text_end: u8;
    static kernel_rodata_end: u8;
    static kernel_end: u8;
}

const SMALL: u64 = 4096;
const LARGE: u64 = 2 << 20;
const HUGE: u64 = 1 << 30;

/// The physical address of the kernel's PML4.
/// Physical address of the kernel's own page table; 0 before there is one.
static ROOT: AtomicU64 = AtomicU64::new(0);
/// Held while the upper half is changed.
static LOCK: Mutex<()> = Mutex::new(());

/// The kernel's image in physical memory.
pub fn image() -> Range<u64> {
    (&raw const kernel_start).addr() as u64 - KERNEL_BASE..(&raw const kernel_end).addr() as u64 - KERNEL_BASE
}

/// Where frames for page tables come from, and where they can be written: behind the kernel's image while booting, the pool later.
trait TableSource {
    fn table(&mut self) -> Result<u64, OutOfMemory>;
    fn at(&self, physical: u64) -> *mut PageTable;
}

/// Frames cut off memory behind the image, through the boot map.
struct Early {
    next: u64,
    end: u64,
    /// An SNP guest has to accept them first.
    accept: bool,
}

impl TableSource for Early {
    fn table(&mut self) -> Result<u64, OutOfMemory> {
        if self.next + SMALL > self.end {
            return Err(OutOfMemory);
        }
        let frame = self.next;
        self.next += SMALL;
        if self.accept {
            // SAFETY: RAM behind everything that was launched, each frame once.
            unsafe { snp::accept_early(frame) };
        }
        // SAFETY: the frame is RAM behind the image, mapped by boot, and used by nobody.
        unsafe { self.at(frame).cast::<[u64; 512]>().write([0; 512]) };
        Ok(frame)
    }
    fn at(&self, physical: u64) -> *mut PageTable {
        (KERNEL_BASE + physical) as *mut PageTable
    }
}

/// Frames from the pool, through the direct map. They are never given back: the upper half only grows.
struct Pool;

impl TableSource for Pool {
    fn table(&mut self) -> Result<u64, OutOfMemory> {
        Ok(Page::into_raw(POOL.alloc_kernel(true)?) * SMALL)
    }
    fn at(&self, physical: u64) -> *mut PageTable {
        direct(physical).cast()
    }
}

/// Maps `range` of virtual addresses to `physical` on, with the largest pages that fit and are allowed.
///
/// # Safety
/// `root` is a PML4 that `source` reaches; nothing in the range is mapped; what the mapping allows is harmless.
unsafe fn map(
    source: &mut dyn TableSource,
    root: u64,
    range: Range<u64>,
    physical: u64,
    flags: Flags,
    largest: u64,
) -> Result<(), OutOfMemory> {
    let mut at = range.start;
    while at < range.end {
        let target = physical + (at - range.start);
        let fits = |size| {
            size <= largest
                && at.is_multiple_of(size)
                && target.is_multiple_of(size)
                && range.end - at >= size
        };
        let (size, level) = if fits(HUGE) {
            (HUGE, 3)
        } else if fits(LARGE) {
            (LARGE, 2)
        } else {
            (SMALL, 1)
        };
        let mut table = root;
        for depth in (level + 1..=4).rev() {
            // SAFETY: tables made here, reached as the source says.
            let entry =
                unsafe { &mut (&mut *source.at(table))[(at >> (12 + 9 * (depth - 1)) & 511) as usize] };
            if entry.is_unused() {
                let frame = source.table()?;
                entry.set_addr(PhysAddr::new(frame), private(Flags::PRESENT | Flags::WRITABLE));
            }
            table = entry.addr().as_u64();
        }
        // SAFETY: as above.
        let entry = unsafe { &mut (&mut *source.at(table))[(at >> (12 + 9 * (level - 1)) & 511) as usize] };
        let huge = if level > 1 { Flags::HUGE_PAGE } else { Flags::empty() };
        entry.set_addr(PhysAddr::new(target), flags | huge);
        at += size;
    }
    Ok(())
}

const DATA: Flags = Flags::PRESENT.union(Flags::WRITABLE).union(Flags::NO_EXECUTE).union(Flags::GLOBAL);
const CONSTANTS: Flags = Flags::PRESENT.union(Flags::NO_EXECUTE).union(Flags::GLOBAL);
const TEXT: Flags = Flags::PRESENT.union(Flags::GLOBAL);
const DEVICE: Flags = DATA.union(Flags::NO_CACHE).union(Flags::WRITE_THROUGH);

/// Makes the kernel's address space, switches to it, and gives the memory that is left to the pool.
pub fn init(info: &BootInfo) -> Result<(), OutOfMemory> {
    let image = image();
    let region =
        info.memory().iter().find(|r| r.start <= image.start && image.end <= r.end).ok_or(OutOfMemory)?;
    // What is not the kernel's image but was launched with it: the manifest and the special pages.
    let launched = info.snp.as_ref().map_or(image.clone(), |snp| snp.block.launched());
    let mut early =
        Early { next: launched.end, end: region.end.min(BOOT_MAP_SIZE), accept: info.snp.is_some() };
    let root = early.table()?;
    let largest = if features::get().gigabyte_pages { HUGE } else { LARGE };
    let text_end = (&raw const kernel_text_end).addr() as u64 - KERNEL_BASE;
    let rodata_end = (&raw const kernel_rodata_end).addr() as u64 - KERNEL_BASE;
    let kernel = |r: Range<u64>| KERNEL_BASE + r.start..KERNEL_BASE + r.end;
    // SAFETY: a new table, one mapping for each region, and the flags keep the module's invariants.
    unsafe {
        map(&mut early, root, kernel(image.start..text_end), image.start, private(TEXT), SMALL)?;
        map(&mut early, root, kernel(text_end..rodata_end), text_end, private(CONSTANTS), SMALL)?;
        map(&mut early, root, kernel(rodata_end..image.end), rodata_end, private(DATA), SMALL)?;
        for region in info.memory() {
            let end = region.end.min(DIRECT_MAP_SIZE);
            // Text and constants are left out, so that they have no writable alias.
            let hole = image.start..rodata_end;
            for part in [region.start..end.min(hole.start), region.start.max(hole.end)..end] {
                if part.start < part.end {
                    let virt = DIRECT_MAP + part.start..DIRECT_MAP + part.end;
                    map(&mut early, root, virt, part.start, private(DATA), largest)?;
                }
            }
        }
        // One table below each region that grows, so that the PML4 is complete.
        for base in [DEVICE_MAP, STACKS, LARGE_ALLOCATIONS, SHARED_MAP] {
            let frame = early.table()?;
            let entry = &mut (&mut *early.at(root))[(base >> 39 & 511) as usize];
            entry.set_addr(PhysAddr::new(frame), private(Flags::PRESENT | Flags::WRITABLE));
        }
        // The GHCB: taken off the memory behind the image without accepting it, the host's from the start.
        let ghcb = early.next;
        if early.accept {
            early.next += SMALL;
            map(&mut early, root, SHARED_MAP + ghcb..SHARED_MAP + ghcb + SMALL, ghcb, DATA, SMALL)?;
        }
        switch_to(root);
        if early.accept {
            snp::init_ghcb(ghcb);
        }
    }
    PerCpu::get().cr3.set(root);
    ROOT.store(root, Ordering::Relaxed);
    for region in info.memory() {
        // The first MiB holds what firmware and VMM left there; and physical page 0 stays unused.
        let start = region.start.max(LOW_MEMORY_END);
        let end = region.end.min(DIRECT_MAP_SIZE);
        let used = launched.start..early.next;
        for part in [start..end.min(used.start), start.max(used.end)..end] {
            if part.start < part.end {
                // SAFETY: RAM, in the direct map, that nothing uses: neither the image nor the tables just made.
                unsafe {
                    if early.accept {
                        POOL.set_accept_hook(&snp::accept);
                        snp::accept(PagePool::metadata(part.clone()));
                    }
                    POOL.add_region(direct(0), part);
                }
            }
        }
    }
    Ok(())
}

/// Loads CR3 with the table at `root`, encrypted where memory is.
///
/// # Safety
/// The table maps what the CPU executes and uses, as before.
pub unsafe fn switch_to(root: u64) {
    // SAFETY: the caller's promise. The `x86_64` crate's addresses have no C-bit.
    unsafe { core::arch::asm!("mov cr3, {}", in(reg) root | c_bit(), options(nostack, preserves_flags)) };
}

/// Forgets all translations but the kernel's own, which are global.
pub fn flush_all() {
    // SAFETY: loads CR3 with what it holds. Not the `x86_64` crate's, whose addresses have no C-bit.
    unsafe {
        core::arch::asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags));
    }
}

/// The physical address of the kernel's own page table, which maps nothing for user mode.
pub fn root() -> u64 {
    ROOT.load(Ordering::Relaxed)
}

/// Copies the upper half's entries into a new PML4.
pub fn share_upper_half(pml4: &mut PageTable) {
    // SAFETY: the kernel's PML4 lives for ever, and its upper half does not change any more.
    let kernel = unsafe { &*direct(root()).cast::<PageTable>() };
    for i in 256..512 {
        pml4[i] = kernel[i].clone();
    }
}

/// Maps a device's registers, uncached, and returns where they are.
pub fn map_device(physical: u64, size: u64) -> Result<*mut u8, OutOfMemory> {
    let start = physical & !(SMALL - 1);
    let end = physical.checked_add(size).ok_or(OutOfMemory)?.next_multiple_of(SMALL);
    let _guard = LOCK.lock();
    let mut at = start;
    while at < end {
        let virt = DEVICE_MAP + at;
        if translate(virt).is_none() {
            // SAFETY: not mapped yet; device registers are data, and the kernel's only.
            unsafe { map(&mut Pool, root(), virt..virt + SMALL, at, DEVICE, SMALL)? };
        }
        at += SMALL;
    }
    Ok((DEVICE_MAP + physical) as *mut u8)
}

/// Maps memory that is shared with the host, in its own view.
pub fn map_shared(range: Range<u64>) -> Result<(), OutOfMemory> {
    let _guard = LOCK.lock();
    // SAFETY: each page is shared once and for ever, so nothing is mapped there yet.
    unsafe {
        map(&mut Pool, root(), SHARED_MAP + range.start..SHARED_MAP + range.end, range.start, DATA, SMALL)
    }
}

/// Maps `page` at `at`, where nothing is mapped.
pub fn map_page(at: u64, page: Page) -> Result<(), OutOfMemory> {
    let _guard = LOCK.lock();
    let physical = page.frame_number() * SMALL;
    // SAFETY: the caller names an address of its own; the page becomes the mapping's.
    unsafe { map(&mut Pool, root(), at..at + SMALL, physical, private(DATA), SMALL)? };
    Page::into_raw(page);
    Ok(())
}

/// Unmaps what [`map_page`] has mapped (where nothing is mapped, nothing happens), and gives the frames back.
pub fn unmap_pages(range: Range<u64>) {
    let _guard = LOCK.lock();
    for at in range.step_by(SMALL as usize) {
        let Some(entry) = translate(at) else { continue };
        // SAFETY: a leaf entry of the kernel's own table, changed under the lock.
        let physical = unsafe {
            let physical = (*entry).addr().as_u64();
            (*entry).set_unused();
            physical
        };
        tlb::flush(VirtAddr::new_truncate(at));
        // SAFETY: `map_page` put this reference there.
        drop(unsafe { Page::from_raw(&POOL, physical / SMALL) });
    }
}

/// Whether a 4 KiB page is mapped at `at`.
pub fn is_mapped(at: u64) -> bool {
    translate(at).is_some()
}

/// The leaf entry of 4 KiB that maps `at`, in the kernel's table.
fn translate(at: u64) -> Option<*mut x86_64::structures::paging::page_table::PageTableEntry> {
    let mut table = root();
    for depth in (2..=4).rev() {
        // SAFETY: the kernel's tables, through the direct map.
        let entry =
            unsafe { &(&*direct(table).cast::<PageTable>())[(at >> (12 + 9 * (depth - 1)) & 511) as usize] };
        if entry.is_unused() || entry.flags().contains(Flags::HUGE_PAGE) {
            return None;
        }
        table = entry.addr().as_u64();
    }
    // SAFETY: as above.
    let entry = unsafe { &mut (&mut *direct(table).cast::<PageTable>())[(at >> 12 & 511) as usize] };
    (!entry.is_unused()).then_some(entry as *mut _)
}
