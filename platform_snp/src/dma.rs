//! Memory shared with the host. It changes under the reader at any time, so there are no references into it: bytes are
//! copied in and out with volatile accesses. Offsets are the driver's own; one out of range is a bug, and panics.

use core::ptr::NonNull;

/// Where drivers get shared memory from.
pub trait DmaPool: Send + Sync {
    /// `pages` contiguous zeroed pages of 4 KiB, for the life of the machine.
    fn allocate(&self, pages: usize) -> Option<DmaRegion>;
}

/// A piece of shared memory; possession proves that no other driver uses it.
#[derive(Debug)]
pub struct DmaRegion {
    base: NonNull<u8>,
    bus: u64,
    len: usize,
}

// SAFETY: a pointer to memory that is valid for ever, from every CPU, and accessed only through this value.
unsafe impl Send for DmaRegion {}
// SAFETY: as above; racing writes through `&self` are as harmless as those of the host, by volatile copies of integers.
unsafe impl Sync for DmaRegion {}

macro_rules! scalar {
    ($read:ident, $write:ident, $type:ty) => {
        /// Reads a little-endian integer, once.
        pub fn $read(&self, offset: usize) -> $type {
            let at = self.aligned(offset, size_of::<$type>()).cast::<$type>();
            // SAFETY: `aligned` checked the range and the alignment; any bytes are an integer.
            <$type>::from_le(unsafe { at.read_volatile() })
        }
        /// Writes a little-endian integer, in one store.
        pub fn $write(&self, offset: usize, value: $type) {
            let at = self.aligned(offset, size_of::<$type>()).cast::<$type>();
            // SAFETY: as above.
            unsafe { at.write_volatile(value.to_le()) }
        }
    };
}

impl DmaRegion {
    /// # Safety
    ///
    /// `base` is valid for reads and writes of `len` bytes for ever, nothing else of ours uses them, and the host knows
    /// them as `bus`.
    pub const unsafe fn new(base: NonNull<u8>, bus: u64, len: usize) -> Self {
        Self { base, bus, len }
    }

    /// Its size in bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address that devices use for the byte at `offset`.
    pub fn bus(&self, offset: usize) -> u64 {
        self.bus + offset as u64
    }

    /// Where an integer of `len` bytes is. One function for all of them: it is translated once under TCG.
    #[inline(never)]
    fn aligned(&self, offset: usize, len: usize) -> *mut u8 {
        let at = self.at(offset, len);
        assert!(at.addr().is_multiple_of(len), "an integer in a DMA region is not aligned");
        at
    }

    #[inline]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= self.len && len <= self.len - offset, "offset outside of a DMA region");
        // SAFETY: inside the allocation, as just checked.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Where it is, for a model device.
    #[cfg(test)]
    pub(crate) fn base_for_tests(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    scalar!(read_u8, write_u8, u8);
    scalar!(read_u16, write_u16, u16);
    scalar!(read_u32, write_u32, u32);
    scalar!(read_u64, write_u64, u64);

    /// Copies bytes out, each read once.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        let mut at = self.at(offset, to.len());
        let mut words = to.chunks_exact_mut(8);
        if at.cast::<u64>().is_aligned() {
            for word in words.by_ref() {
                // SAFETY: `at` checked the range; aligned, and stays so.
                word.copy_from_slice(&unsafe { at.cast::<u64>().read_volatile() }.to_ne_bytes());
                at = at.wrapping_add(8);
            }
            read_bytes(at, words.into_remainder());
        } else {
            read_bytes(at, to);
        }
    }

    /// Copies bytes in.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let mut at = self.at(offset, from.len());
        let mut rest = from;
        if at.cast::<u64>().is_aligned() {
            while let Some((word, tail)) = rest.split_first_chunk::<8>() {
                // SAFETY: `at` checked the range; aligned, and stays so.
                unsafe { at.cast::<u64>().write_volatile(u64::from_ne_bytes(*word)) };
                at = at.wrapping_add(8);
                rest = tail;
            }
        }
        for &byte in rest {
            // SAFETY: `at` checked the range.
            unsafe { at.write_volatile(byte) };
            at = at.wrapping_add(1);
        }
    }
}

/// Reads `to.len()` bytes from `at`, which the caller has checked to be inside a region.
fn read_bytes(at: *const u8, to: &mut [u8]) {
    for (i, byte) in to.iter_mut().enumerate() {
        // SAFETY: inside the region, says the only caller.
        *byte = unsafe { at.wrapping_add(i).read_volatile() };
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pool on the heap whose bus addresses are offsets from `BUS`; never freed.
    pub(crate) fn region(len: usize, bus: u64) -> DmaRegion {
        let words = Box::leak(vec![0u64; len.div_ceil(8)].into_boxed_slice());
        let base = NonNull::new(words.as_mut_ptr().cast::<u8>()).unwrap();
        // SAFETY: leaked, and used through this only (the model device uses raw pointers derived from it).
        unsafe { DmaRegion::new(base, bus, len) }
    }

    #[test]
    fn copies_at_every_alignment() {
        let region = region(64, 0);
        for start in 0..16 {
            for len in 0..40 {
                let bytes: Vec<u8> = (0..len as u8).map(|b| b ^ 0x5a).collect();
                region.write(start, &bytes);
                let mut back = vec![0; len];
                region.read(start, &mut back);
                assert_eq!(back, bytes);
            }
        }
    }
}
