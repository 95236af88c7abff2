//! The vDSO: clocks without a system call.

use crate::clock;
use crate::mm::heap::POOL;
use alloc::vec::Vec;
use core::arch::global_asm;
use core::mem::offset_of;
use core::slice;
use litebox_core::mm::Page;
use litebox_core::platform::{OutOfMemory, PAGE_SIZE};

global_asm!(include_str!("vdso.s"));

unsafe extern "C" {
    static vdso_start: u8;
    static vdso_end: u8;
}

/// The page in front of the image. It never changes: one CPU clock, one rate, for the life of the machine.
#[repr(C)]
struct ClockPage {
    base_tsc: u64,
    base_ns: u64,
    multiplier: u64,
    shift: u32,
    has_rdtscp: u32,
    realtime_offset: u64,
}
// vdso.s repeats these.
const _: () = assert!(
    offset_of!(ClockPage, base_tsc) == 0
        && offset_of!(ClockPage, base_ns) == 8
        && offset_of!(ClockPage, multiplier) == 16
        && offset_of!(ClockPage, shift) == 24
        && offset_of!(ClockPage, has_rdtscp) == 28
        && offset_of!(ClockPage, realtime_offset) == 32
);

/// The image, as the assembler put it together.
fn image() -> &'static [u8] {
    let start = &raw const vdso_start;
    let len = (&raw const vdso_end).addr() - start.addr();
    // SAFETY: the assembler put the image between these symbols, in read-only memory.
    unsafe { slice::from_raw_parts(start, len) }
}

/// How many pages [`pages`] makes.
pub fn page_count() -> usize {
    1 + image().len().div_ceil(PAGE_SIZE)
}

/// Makes the pages that every process maps: the clock's, and the image.
pub fn pages() -> Result<Vec<Page>, OutOfMemory> {
    let scale = clock::scale();
    let mut bytes = [0u8; size_of::<ClockPage>()];
    // getcpu goes by system call until there is a second CPU to tell apart: TSC_AUX is not set up.
    let fields =
        [scale.base_tsc, scale.base_ns, scale.multiplier, u64::from(scale.shift), clock::realtime_offset()];
    for (chunk, value) in bytes.chunks_exact_mut(8).zip(fields) {
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    let data = POOL.alloc(true)?;
    data.write(0, &bytes);
    let mut pages = alloc::vec![data];
    for chunk in image().chunks(PAGE_SIZE) {
        let page = POOL.alloc(true)?;
        page.write(0, chunk);
        pages.push(page);
    }
    Ok(pages)
}
