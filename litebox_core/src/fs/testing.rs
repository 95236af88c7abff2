//! A machine for the tests of this room: memory from the heap, a clock that stands still, a console that nobody reads.

use super::Host;
use crate::errno::Result;
use crate::mm::{Page, PagePool, Sink, Source};
use crate::platform::{Console, Input, PAGE_SIZE, Stream};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

pub(crate) struct TestHost {
    pool: PagePool,
}

impl TestHost {
    pub(crate) fn leak(pages: usize) -> &'static TestHost {
        let host: &'static TestHost = Box::leak(Box::new(TestHost { pool: PagePool::new() }));
        let layout = core::alloc::Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("small");
        // SAFETY: the size is not zero.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        assert!(!memory.is_null());
        // SAFETY: the allocation is never freed, and nobody else has its address.
        unsafe { host.pool.add_region(memory, 0..(pages * PAGE_SIZE) as u64) };
        host
    }
}

impl Console for TestHost {
    fn write(&self, _stream: Stream, bytes: &[u8]) -> usize {
        bytes.len()
    }
    fn read(&self, _buffer: &mut [u8]) -> Input {
        Input::Eof
    }
    fn input_ready(&self) -> bool {
        true
    }
    fn set_notifier(&self, _notify: Box<dyn Fn() + Send + Sync>) {}
    fn flush(&self) {}
}

impl Host for TestHost {
    fn realtime(&self) -> u64 {
        1_700_000_000_000_000_000
    }
    fn monotonic(&self) -> u64 {
        1
    }
    fn fill_random(&self, out: &mut [u8]) {
        out.fill(7);
    }
    fn pages(&self) -> &'static PagePool {
        // SAFETY: `leak` is the only constructor, so `self` lives for ever.
        unsafe { &*core::ptr::from_ref(&self.pool) }
    }
    fn console(&self) -> &dyn Console {
        self
    }
    fn cpu_count(&self) -> usize {
        1
    }
    fn cpuinfo(&self, _index: usize) -> String {
        String::new()
    }
}

/// A sink in memory.
pub(crate) struct VecSink {
    pub(crate) bytes: Vec<u8>,
    pub(crate) room: usize,
}

impl Sink for VecSink {
    fn remaining(&self) -> usize {
        self.room
    }
    fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = bytes.len().min(self.room);
        self.bytes.extend_from_slice(&bytes[..count]);
        self.room -= count;
        Ok(count)
    }
    fn put_page(&mut self, page: &Page, offset: usize, len: usize) -> Result<usize> {
        let mut bytes = vec![0; len];
        page.read(offset, &mut bytes);
        self.put(&bytes)
    }
    fn put_zeros(&mut self, len: usize) -> Result<usize> {
        self.put(&vec![0; len])
    }
}

/// A source in memory.
pub(crate) struct SliceSource<'a>(pub(crate) &'a [u8]);

impl Source for SliceSource<'_> {
    fn remaining(&self) -> usize {
        self.0.len()
    }
    fn take(&mut self, into: &mut [u8]) -> Result<usize> {
        let count = into.len().min(self.0.len());
        into[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
    fn take_page(&mut self, page: &Page, offset: usize, len: usize) -> Result<usize> {
        let count = len.min(self.0.len());
        page.write(offset, &self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
    fn skip(&mut self, count: usize) {
        self.0 = &self.0[count..];
    }
}
