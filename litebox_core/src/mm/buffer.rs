//! Where data goes and comes from: the workload's memory, or a kernel buffer in tests and in the kernel itself.
//!
//! A copy may fault, and the fault may need the file that is being copied: nobody holds a lock over one of these calls.

use super::Page;
use crate::errno::Result;
use alloc::sync::Weak;
use core::ops::Range;

/// Takes data, in order: the buffers of a `read`.
pub trait Sink {
    /// How many bytes it still takes.
    fn remaining(&self) -> usize;

    /// Takes bytes, at most `remaining`; returns how many. Fewer than it could: the memory ends there. EFAULT: none.
    fn put(&mut self, bytes: &[u8]) -> Result<usize>;

    /// Takes `len` bytes of `page` from `offset` on, which lie within it; otherwise as `put`.
    fn put_page(&mut self, page: &Page, offset: usize, len: usize) -> Result<usize>;

    /// Takes `len` zero bytes; otherwise as `put`.
    fn put_zeros(&mut self, len: usize) -> Result<usize>;
}

/// Gives data, in order: the buffers of a `write`.
pub trait Source {
    /// How many bytes it still gives.
    fn remaining(&self) -> usize;

    /// Fills the beginning of `into`; returns how many bytes. Fewer than it could: the memory ends there. EFAULT: none.
    fn take(&mut self, into: &mut [u8]) -> Result<usize>;

    /// Fills `len` bytes of `page` at `offset`, which lie within it; otherwise as `take`.
    fn take_page(&mut self, page: &Page, offset: usize, len: usize) -> Result<usize>;

    /// Passes over `count` bytes without looking at them.
    fn skip(&mut self, count: usize);
}

/// What a file mapping is a view of: pages by index. Never blocks on a lock that is held over a user copy.
pub trait Mappable: Send + Sync {
    /// Page `index`: the one all shared mappings and `read` see. With `write`, one that may be written.
    /// ENXIO: beyond the end of the file (SIGBUS).
    fn page(&self, index: u64, write: bool) -> Result<Page>;

    /// Pages that are at hand and clean around `index`, to map with it: calls `each`, which may allocate memory and does not come back to the
    /// object, with index and page.
    fn cached(&self, first: u64, count: u64, each: &mut dyn FnMut(u64, Page)) {
        let _ = (first, count, each);
    }

    /// From now on, pages that the object cuts off are to be unmapped here. Each mapper is remembered once.
    fn attach(&self, mapper: &Weak<dyn Mapper>) {
        let _ = mapper;
    }
}

/// Who maps pages of objects.
pub trait Mapper: Send + Sync {
    /// Unmaps these pages of an object, wherever they are mapped. Takes locks of its own: none of the object's may be held.
    fn unmap_pages(&self, object: &dyn Mappable, pages: Range<u64>);
}

/// A kernel buffer: filled from the front, and what is filled is cut off, as `std::io::Write` has it.
impl Sink for &mut [u8] {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        let len = bytes.len().min(self.len());
        let (to, rest) = core::mem::take(self).split_at_mut(len);
        to.copy_from_slice(bytes.get(..len).unwrap_or_default());
        *self = rest;
        Ok(len)
    }

    fn put_page(&mut self, page: &Page, offset: usize, len: usize) -> Result<usize> {
        let len = len.min(self.len());
        let (to, rest) = core::mem::take(self).split_at_mut(len);
        let count = page.read(offset, to);
        *self = rest;
        Ok(count)
    }

    fn put_zeros(&mut self, len: usize) -> Result<usize> {
        let len = len.min(self.len());
        let (to, rest) = core::mem::take(self).split_at_mut(len);
        to.fill(0);
        *self = rest;
        Ok(len)
    }
}

/// Kernel bytes: taken from the front.
impl Source for &[u8] {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize> {
        let len = into.len().min(self.len());
        let (from, rest) = self.split_at(len);
        if let Some(to) = into.get_mut(..len) {
            to.copy_from_slice(from);
        }
        *self = rest;
        Ok(len)
    }

    fn take_page(&mut self, page: &Page, offset: usize, len: usize) -> Result<usize> {
        let (from, _) = self.split_at(len.min(self.len()));
        let count = page.write(offset, from);
        *self = self.get(count..).unwrap_or_default();
        Ok(count)
    }

    fn skip(&mut self, count: usize) {
        *self = self.get(count..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_move_on() {
        let mut buffer = [9; 5];
        let mut sink = &mut buffer[..];
        assert_eq!(sink.put(b"ab"), Ok(2));
        assert_eq!(sink.put_zeros(1), Ok(1));
        assert_eq!(sink.put(b"xyz"), Ok(2));
        assert_eq!(sink.remaining(), 0);
        assert_eq!(&buffer, b"ab\0xy");
        let mut source = &b"hello"[..];
        let mut to = [0; 3];
        source.skip(1);
        assert_eq!(source.take(&mut to), Ok(3));
        assert_eq!((&to, source.remaining()), (b"ell", 1));
        source.skip(7);
        assert_eq!(source.remaining(), 0);
    }
}
