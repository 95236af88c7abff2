//! Kernel stacks: 32 KiB each, with an unmapped guard page below, so that an overflow is a double fault and not somebody else's data.

use super::kernel_map;
use super::layout::STACKS;
use crate::mm::heap::POOL;
use alloc::vec::Vec;
use litebox_core::platform::{OutOfMemory, PAGE_SIZE};
use spin::Mutex;

/// Pages in a stack.
const PAGES: usize = 8;
/// A stack and its guard page.
const STRIDE: u64 = ((PAGES + 1) * PAGE_SIZE) as u64;

struct Slots {
    free: Vec<u64>,
    next: u64,
}

static SLOTS: Mutex<Slots> = Mutex::new(Slots { free: Vec::new(), next: 0 });

/// A mapped kernel stack; unmapped when dropped.
pub struct KernelStack {
    slot: u64,
}

impl KernelStack {
    /// A new one.
    pub fn new() -> Result<KernelStack, OutOfMemory> {
        let slot = {
            let mut slots = SLOTS.lock();
            slots.free.pop().unwrap_or_else(|| {
                slots.next += 1;
                slots.next - 1
            })
        };
        let stack = KernelStack { slot };
        for at in (stack.bottom()..stack.top()).step_by(PAGE_SIZE) {
            kernel_map::map_page(at, POOL.alloc(false)?)?;
        }
        Ok(stack)
    }

    fn bottom(&self) -> u64 {
        STACKS + self.slot * STRIDE + PAGE_SIZE as u64
    }

    /// An address in the guard page.
    pub fn guard_address(&self) -> u64 {
        self.bottom() - 8
    }

    /// The highest address, 16-aligned; the stack grows down from here.
    pub fn top(&self) -> u64 {
        self.bottom() + (PAGES * PAGE_SIZE) as u64
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        kernel_map::unmap_pages(self.bottom()..self.top());
        SLOTS.lock().free.push(self.slot);
    }
}
