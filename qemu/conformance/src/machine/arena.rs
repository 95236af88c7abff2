//! Memory for the tests: never launched, so unvalidated and in the host's hands until a test asks for it. What is taken is never given back.

use super::give_up;
use core::sync::atomic::{AtomicU64, Ordering};

/// Small pages.
const SMALL: core::ops::Range<u64> = 0x100_0000..0x200_0000;
/// Pages of 2 MiB.
const LARGE: core::ops::Range<u64> = 0x200_0000..0x600_0000;
/// Memory that the guest needs in all.
pub const END: u64 = LARGE.end;

static NEXT_SMALL: AtomicU64 = AtomicU64::new(SMALL.start);
static NEXT_LARGE: AtomicU64 = AtomicU64::new(LARGE.start);

/// The guest-physical address of a page of 4 KiB that nobody has touched.
pub fn page() -> u64 {
    take(&NEXT_SMALL, 4096, SMALL.end)
}

/// Pages in a row.
pub fn pages(count: u64) -> u64 {
    take(&NEXT_SMALL, count * 4096, SMALL.end)
}

/// The same of 2 MiB.
pub fn large() -> u64 {
    take(&NEXT_LARGE, 2 << 20, LARGE.end)
}

fn take(next: &AtomicU64, size: u64, end: u64) -> u64 {
    let at = next.fetch_add(size, Ordering::Relaxed);
    if at + size > end {
        give_up(format_args!("the arena for tests is used up"));
    }
    at
}
