//! Access to the workload's memory: copies that fault pages in, and pointers that prove nothing.

use super::area::AreaFlags;
use super::map::Mm;
use super::{Page, Sink, Source};
use crate::errno::{Errno, Result};
use crate::platform::{Access, PAGE_SIZE, PageTable as _, Platform, Prot};
use alloc::vec::Vec;
use core::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// How often a fault at one address is resolved before it is taken for a bad address: another thread may unmap it each time.
const RETRIES: usize = 64;

/// A user address that is alleged to hold a `T`. Any value; using it can fail with EFAULT.
#[derive(Debug, PartialEq, Eq)]
pub struct UserPtr<T> {
    address: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for UserPtr<T> {}

impl<T> UserPtr<T> {
    /// The allegation, as it came in a register.
    pub fn new(address: u64) -> UserPtr<T> {
        UserPtr { address: address as usize, kind: PhantomData }
    }

    /// The address.
    pub fn address(self) -> usize {
        self.address
    }

    /// Whether it is NULL, which many calls take for “none”.
    pub fn is_null(self) -> bool {
        self.address == 0
    }

    /// `None` for NULL.
    pub fn non_null(self) -> Option<UserPtr<T>> {
        (!self.is_null()).then_some(self)
    }

    /// The `index`th element of what is alleged to be an array. EFAULT when that is no address.
    pub fn element(self, index: usize) -> Result<UserPtr<T>> {
        let offset = index.checked_mul(size_of::<T>()).ok_or(Errno::EFAULT)?;
        let address = self.address.checked_add(offset).ok_or(Errno::EFAULT)?;
        Ok(UserPtr { address, kind: PhantomData })
    }
}

/// Reads a string up to its NUL byte, which is not part of the result, through `read`. `too_long` when there is none within `max` bytes.
pub fn read_cstr(
    read: impl Fn(usize, &mut [u8]) -> Result<()>,
    at: usize,
    max: usize,
    too_long: Errno,
) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut chunk = [0; 256];
    while out.len() <= max {
        let from = at.checked_add(out.len()).ok_or(Errno::EFAULT)?;
        // Not across a page that need not be there.
        let len = chunk.len().min(PAGE_SIZE - from % PAGE_SIZE);
        let part = chunk.get_mut(..len).unwrap_or_default();
        read(from, part)?;
        let end = part.iter().position(|&byte| byte == 0);
        out.extend_from_slice(part.get(..end.unwrap_or(len)).unwrap_or_default());
        if end.is_some() && out.len() <= max {
            return Ok(out);
        }
    }
    Err(too_long)
}

impl<P: Platform> Mm<P> {
    /// Runs `step`, which gets on by some bytes from an offset, until `len` are done or a fault stays. Returns how many are done.
    #[inline]
    fn transfer(&self, at: usize, len: usize, access: Access, mut step: impl FnMut(usize) -> usize) -> usize {
        let mut done = 0;
        let mut tries = 0;
        loop {
            let moved = step(done);
            done += moved;
            if done >= len {
                return len;
            }
            tries = if moved > 0 { 0 } else { tries + 1 };
            let Some(fault) = at.checked_add(done) else { return done };
            if tries > RETRIES || self.handle_fault(fault, access).is_err() {
                return done;
            }
        }
    }

    /// Copies from user memory; returns how many bytes were readable.
    #[inline]
    pub fn read_partial(&self, at: usize, to: &mut [u8]) -> usize {
        let len = to.len();
        self.transfer(at, len, Prot::READ, |done| self.platform.copy_from_user(at + done, &mut to[done..]))
    }

    /// Copies to user memory; returns how many bytes were writable.
    #[inline]
    pub fn write_partial(&self, at: usize, from: &[u8]) -> usize {
        self.transfer(at, from.len(), Prot::WRITE, |done| {
            self.platform.copy_to_user(at + done, &from[done..])
        })
    }

    /// Sets user memory; returns how many bytes were writable.
    #[inline]
    pub fn fill_partial(&self, at: usize, byte: u8, len: usize) -> usize {
        self.transfer(at, len, Prot::WRITE, |done| self.platform.fill_user(at + done, byte, len - done))
    }

    /// Copies from user memory. EFAULT unless all of it is readable.
    #[inline]
    pub fn read(&self, at: usize, to: &mut [u8]) -> Result<()> {
        if self.read_partial(at, to) == to.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Copies to user memory. EFAULT unless all of it is writable.
    #[inline]
    pub fn write(&self, at: usize, from: &[u8]) -> Result<()> {
        if self.write_partial(at, from) == from.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Reads a `T`.
    #[inline]
    pub fn load<T: FromBytes + IntoBytes>(&self, at: UserPtr<T>) -> Result<T> {
        let mut value = T::new_zeroed();
        self.read(at.address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a `T`.
    #[inline]
    pub fn store<T: IntoBytes + Immutable>(&self, at: UserPtr<T>, value: T) -> Result<()> {
        self.write(at.address, value.as_bytes())
    }

    /// See [`read_cstr`].
    pub fn read_cstr(&self, at: usize, max: usize, too_long: Errno) -> Result<Vec<u8>> {
        read_cstr(|at, to| self.read(at, to), at, max, too_long)
    }

    /// Loads a futex word. EINVAL when it is not aligned.
    pub fn load_u32(&self, at: usize) -> Result<u32> {
        self.word(at, Prot::READ, || self.platform.load_user_u32(at))
    }

    /// Replaces a futex word if it is `old`; returns what it was.
    pub fn compare_exchange_u32(&self, at: usize, old: u32, new: u32) -> Result<u32> {
        self.word(at, Prot::WRITE, || self.platform.compare_exchange_user_u32(at, old, new))
    }

    /// Where in physical memory a word of a shared mapping lies; `None` for private ones.
    pub fn shared_word(&self, at: usize) -> Option<usize> {
        let state = self.lock();
        let (_, area) = state.areas.find(at)?;
        if !area.flags.contains(AreaFlags::SHARED) {
            return None;
        }
        let page = state.table.query(at & !(PAGE_SIZE - 1))?.page;
        Some(page.frame_number() as usize * PAGE_SIZE + at % PAGE_SIZE)
    }

    fn word(&self, at: usize, access: Access, mut step: impl FnMut() -> Option<u32>) -> Result<u32> {
        if !at.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        for _ in 0..RETRIES {
            if let Some(value) = step() {
                return Ok(value);
            }
            self.handle_fault(at, access).map_err(|_| Errno::EFAULT)?;
        }
        Err(Errno::EFAULT)
    }
}

/// User buffers, one after the other, as `readv` and `writev` have them: (address, length) pairs.
pub struct UserBuffers<'a, P: Platform> {
    mm: &'a Mm<P>,
    buffers: &'a [(usize, usize)],
    /// Bytes of the first buffer that are done.
    done: usize,
}

impl<'a, P: Platform> UserBuffers<'a, P> {
    /// Addresses need not be good, and the sum of the lengths is at most `isize::MAX`.
    pub fn new(mm: &'a Mm<P>, buffers: &'a [(usize, usize)]) -> Self {
        UserBuffers { mm, buffers, done: 0 }
    }

    fn left(&self) -> usize {
        self.buffers.iter().map(|&(_, len)| len).sum::<usize>() - self.done
    }

    /// Gives `step` address, length and offset of each next piece, `len` bytes in all, as long as it does all of it.
    #[inline]
    fn each(
        &mut self,
        len: usize,
        mut step: impl FnMut(&Mm<P>, usize, usize, usize) -> usize,
    ) -> Result<usize> {
        let mut total = 0;
        while total < len {
            let Some(&(address, size)) = self.buffers.first() else { break };
            let want = (size - self.done).min(len - total);
            if want == 0 {
                self.buffers = &self.buffers[1..];
                self.done = 0;
                continue;
            }
            let moved = match address.checked_add(self.done) {
                Some(at) => step(self.mm, at, want, total),
                None => 0,
            };
            self.done += moved;
            total += moved;
            if moved < want {
                return if total == 0 { Err(Errno::EFAULT) } else { Ok(total) };
            }
        }
        Ok(total)
    }
}

impl<P: Platform> Sink for UserBuffers<'_, P> {
    fn remaining(&self) -> usize {
        self.left()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        self.each(bytes.len(), |mm, at, len, from| mm.write_partial(at, &bytes[from..from + len]))
    }

    fn put_page(&mut self, page: &Page, offset: usize, len: usize) -> Result<usize> {
        let len = len.min(PAGE_SIZE.saturating_sub(offset));
        self.each(len, |mm, at, len, from| {
            page.with_bytes(offset + from, len, |bytes| mm.write_partial(at, bytes))
        })
    }

    fn put_zeros(&mut self, len: usize) -> Result<usize> {
        self.each(len, |mm, at, len, _| mm.fill_partial(at, 0, len))
    }
}

impl<P: Platform> Source for UserBuffers<'_, P> {
    fn remaining(&self) -> usize {
        self.left()
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize> {
        self.each(into.len(), |mm, at, len, from| mm.read_partial(at, &mut into[from..from + len]))
    }

    fn take_page(&mut self, page: &Page, offset: usize, len: usize) -> Result<usize> {
        let len = len.min(PAGE_SIZE.saturating_sub(offset));
        self.each(len, |mm, at, len, from| {
            page.with_bytes_mut(offset + from, len, |bytes| mm.read_partial(at, bytes))
        })
    }

    fn skip(&mut self, count: usize) {
        // Nothing is looked at, so nothing can fault.
        let _ = self.each(count, |_, _, len, _| len);
    }
}
