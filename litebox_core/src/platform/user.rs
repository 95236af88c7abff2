//! South: access to the memory of the current thread's workload.

/// Fault-safe access through the active page table. Every method stops at the first byte that user mode could not access
/// itself, has no effect beyond it, and handles no fault: `mm::Mm` does that and calls again. Any address is allowed,
/// kernel ones too: they are refused like unmapped ones.
pub trait UserAccess {
    /// Copies from user address `from`; returns the number of bytes copied.
    fn copy_from_user(&self, from: usize, to: &mut [u8]) -> usize;

    /// Copies to user address `to`; returns the number of bytes copied.
    fn copy_to_user(&self, to: usize, from: &[u8]) -> usize;

    /// Sets `len` bytes at user address `to`; returns the number of bytes set.
    fn fill_user(&self, to: usize, byte: u8, len: usize) -> usize;

    /// Loads an aligned u32 (futex words).
    fn load_user_u32(&self, at: usize) -> Option<u32>;

    /// Atomically replaces an aligned u32 at `at` by `new` if it is `old`; returns what it was.
    fn compare_exchange_user_u32(&self, at: usize, old: u32, new: u32) -> Option<u32>;
}
