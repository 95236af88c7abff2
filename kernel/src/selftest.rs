//! What the kernel can check about itself, for `tests/selftest`, which is linked with it and runs in a VM.

use crate::mm::heap::POOL;
use crate::mm::layout::direct;
use crate::mm::user_access;
use crate::mm::{kernel_map, stack::KernelStack};
use crate::{clock, sched};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use x86_64::structures::paging::{PageTable, PageTableFlags as Flags};

/// What a walk over the page table in CR3 found.
#[derive(Debug, Default)]
pub struct Mappings {
    /// Leaf entries that may be written.
    pub writable: usize,
    /// Leaf entries that may be executed.
    pub executable: usize,
    /// Entries that break an invariant: writable and executable, or open to user mode, or in the lower half.
    pub bad: usize,
}

/// Walks every table of the kernel's address space.
pub fn mappings() -> Mappings {
    let mut found = Mappings::default();
    walk(kernel_map::root(), 4, &mut found, true);
    found
}

fn walk(table: u64, level: usize, found: &mut Mappings, top: bool) {
    // SAFETY: the kernel's own tables, through the direct map.
    let table = unsafe { &*direct(table).cast::<PageTable>() };
    for (i, entry) in table.iter().enumerate() {
        if entry.is_unused() {
            continue;
        }
        let flags = entry.flags();
        if top && i < 256 || flags.contains(Flags::USER_ACCESSIBLE) {
            found.bad += 1;
        } else if level > 1 && !flags.contains(Flags::HUGE_PAGE) {
            walk(entry.addr().as_u64(), level - 1, found, false);
        } else {
            let (writable, executable) =
                (flags.contains(Flags::WRITABLE), !flags.contains(Flags::NO_EXECUTE));
            found.writable += usize::from(writable);
            found.executable += usize::from(executable);
            found.bad += usize::from(writable && executable);
        }
    }
}

/// Addresses that the kernel's access to user memory must refuse without harm: how many bytes were let through (none).
pub fn wild_accesses() -> usize {
    let kernel_word = 0u64;
    let wild = [
        0,
        1,
        0xfff,
        0x7fff_ffff_effc,
        0x7fff_ffff_f000,
        0x8000_0000_0000,
        0x8000_0000_0000_0000,
        0xffff_7fff_ffff_ffff,
        crate::mm::layout::DIRECT_MAP as usize,
        (&raw const kernel_word).addr(),
        usize::MAX - 3,
        usize::MAX,
    ];
    let mut through = 0;
    let mut buffer = [0; 300];
    for at in wild {
        through += user_access::copy_from_user(at, &mut buffer);
        through += user_access::copy_to_user(at, &buffer);
        through += user_access::fill(at, 0, 300);
        through += usize::from(user_access::load_u32(at).is_some());
        through += usize::from(user_access::compare_exchange_u32(at, 0, 1).is_some());
    }
    through
}

/// Threads that park with deadlines wake in the order of these, and no earlier; returns what is wrong, if anything.
pub fn sleeping_threads() -> Result<(), &'static str> {
    static ORDER: AtomicU32 = AtomicU32::new(0);
    static EARLY: AtomicU32 = AtomicU32::new(0);
    let waiter = sched::current_token();
    let start = clock::monotonic();
    for (digit, delay) in [(3u32, 9_000_000u64), (1, 3_000_000), (2, 6_000_000)] {
        let body = Box::new(move || {
            let at = start + delay;
            while clock::monotonic() < at {
                sched::park(Some(at));
            }
            if clock::monotonic() < at {
                EARLY.store(1, Ordering::Relaxed);
            }
            ORDER.store(ORDER.load(Ordering::Relaxed) * 10 + digit, Ordering::Relaxed);
            sched::unpark(waiter);
        });
        sched::spawn(body).map_err(|_| "no memory for a thread")?;
    }
    while ORDER.load(Ordering::Relaxed) < 100 {
        sched::park(Some(start + 5_000_000_000));
        if clock::monotonic() > start + 4_000_000_000 {
            return Err("a sleeping thread was not woken");
        }
    }
    match (ORDER.load(Ordering::Relaxed), EARLY.load(Ordering::Relaxed)) {
        (123, 0) => Ok(()),
        (_, 0) => Err("threads woke in the wrong order"),
        _ => Err("a thread woke before its deadline"),
    }
}

/// Many threads that hand a token round: none is lost, and all stacks are given back.
pub fn ping_pong() -> Result<(), &'static str> {
    const ROUNDS: u64 = 1000;
    let counter = Arc::new(AtomicU64::new(0));
    let me = sched::current_token();
    for _ in 0..20 {
        let counter = counter.clone();
        let body = Box::new(move || {
            for _ in 0..ROUNDS {
                counter.fetch_add(1, Ordering::Relaxed);
                sched::yield_now();
            }
            sched::unpark(me);
        });
        sched::spawn(body).map_err(|_| "no memory for a thread")?;
    }
    while counter.load(Ordering::Relaxed) < 20 * ROUNDS {
        sched::park(Some(clock::monotonic() + 1_000_000_000));
    }
    Ok(())
}

/// The page below a kernel stack is not mapped.
pub fn guard_page() -> Result<(), &'static str> {
    let stack = KernelStack::new().map_err(|_| "no memory for a stack")?;
    let below = stack.guard_address();
    if kernel_map::is_mapped(below) { Err("the guard page is mapped") } else { Ok(()) }
}

/// Allocations of every size class, and beyond 2 MiB, keep their contents apart; big ones that are freed leave nothing behind, and need no
/// memory in one piece.
pub fn heap() -> Result<(), &'static str> {
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    for (i, size) in (0..200).map(|i| 1 + i * i * 7).chain([3 << 20, 5 << 20]).enumerate() {
        blocks.push(alloc::vec![i as u8; size]);
    }
    let intact = blocks.iter().enumerate().all(|(i, b)| b.iter().all(|&x| x == i as u8));
    if !intact {
        return Err("two allocations overlap");
    }
    drop(blocks);
    let free = POOL.free_pages();
    for size in (3..5).cycle().take(20) {
        drop(Vec::<u8>::with_capacity(size << 20));
    }
    if POOL.free_pages() != free {
        return Err("large allocations do not give everything back");
    }
    crumbs()
}

/// Leaves no two free pages side by side, and allocates more than one.
fn crumbs() -> Result<(), &'static str> {
    let mut pages = Vec::new();
    while let Ok(page) = POOL.alloc(false) {
        pages.push(page);
    }
    pages.retain(|page| page.frame_number() % 2 == 1);
    let mut block = Vec::<u8>::new();
    block.try_reserve_exact(100_000).map_err(|_| "an allocation of 25 pages fails though thousands are free")
}
