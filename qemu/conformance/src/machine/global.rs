//! Memory at a fixed place that more than one piece of code looks at: page tables, descriptor tables, stacks.

use core::cell::UnsafeCell;

/// A static that is only reached through a raw pointer. Aligned to a page, since tables are.
#[repr(C, align(4096))]
pub struct Global<T>(UnsafeCell<T>);

// SAFETY: there is no safe way to the contents; who follows the pointer answers for it.
unsafe impl<T> Sync for Global<T> {}

impl<T> Global<T> {
    /// With these contents.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Where it is.
    pub const fn get(&self) -> *mut T {
        self.0.get()
    }

    /// Its virtual address.
    pub fn address(&self) -> u64 {
        self.get() as u64
    }

    /// Its guest-physical address: the image is mapped at [`super::entry::BASE`].
    pub fn physical(&self) -> u64 {
        self.address() - super::entry::BASE
    }
}
