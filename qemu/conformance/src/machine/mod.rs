//! The guest's own machinery: entry, memory, exceptions, and the ways to its host. Nothing here decides whether something is right.

pub mod arena;
pub mod console;
pub mod cpu;
pub mod entry;
pub mod ghcb;
pub mod global;
pub mod instructions;
// The copying functions are the kernel's; which way is fast is not asked here.
#[allow(dead_code)]
#[path = "../../../../kernel/src/memory_functions.rs"]
mod memory_functions;
pub mod paging;
pub mod probe;
pub mod processor;
pub mod traps;

use console::Console;
use core::fmt::Write;
use linked_list_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Bytes of the heap, in the launched image.
const HEAP_SIZE: usize = 128 << 10;
static HEAP_MEMORY: global::Global<[u8; HEAP_SIZE]> = global::Global::new([0; HEAP_SIZE]);

/// Makes the heap usable, once.
pub fn start_heap() {
    // SAFETY: nothing else refers to the memory, and this is called once, by the entry.
    unsafe { HEAP.lock().init(HEAP_MEMORY.get().cast(), HEAP_SIZE) };
}

/// Ends the guest: something that is not a check went wrong, so that no check can be trusted.
pub fn give_up(what: core::fmt::Arguments<'_>) -> ! {
    let _ = writeln!(Console, "the guest cannot go on: {what}");
    ghcb::end(2)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    give_up(format_args!("{info}"))
}
