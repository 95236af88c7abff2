//! A thread as whoever makes file calls ([`Files`], [`Caller`]).

use super::limits::Resource;
use super::signal::sig;
use super::thread::Thread;
use crate::errno::{Errno, Result};
use crate::event::WaitQueue;
use crate::fd::FdTable;
use crate::fs::{FsContext, Host};
use crate::linux::Restart;
use crate::linux::file::Caller;
use crate::mm::{Sink, Source, UserBuffers};
use crate::north::file::Files;
use crate::platform::{Platform, ThreadToken};
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use spin::Mutex;

/// Wakes a thread of the platform.
struct Unpark<P: Platform> {
    platform: &'static P,
    thread: ThreadToken,
}

impl<P: Platform> Wake for Unpark<P> {
    fn wake(self: Arc<Self>) {
        self.platform.unpark(self.thread);
    }
}

impl<P: Platform> Thread<P> {
    /// Blocks until `ready`, whatever signals come, or until it has been woken once.
    pub(super) fn wait_regardless(&self, queue: &WaitQueue, ready: &mut dyn FnMut() -> bool) {
        let platform = self.platform();
        let _place = queue.register(Arc::new(Unpark { platform, thread: platform.current() }).into());
        if !ready() {
            platform.park(None);
        }
    }

    /// Blocks until `ready` (`true`) or until the monotonic clock reaches `deadline` (`false`); see [`Files::wait`].
    pub fn wait_for(
        &self,
        queues: &[&WaitQueue],
        ready: &mut dyn FnMut() -> bool,
        deadline: Option<u64>,
    ) -> Result<bool> {
        let platform = self.platform();
        let waker = Arc::new(Unpark { platform, thread: platform.current() });
        // Registered before looking: a wake-up in between is not lost.
        let _places: Vec<_> = queues.iter().map(|queue| queue.register(waker.clone().into())).collect();
        loop {
            if ready() {
                return Ok(true);
            }
            if self.is_interrupted() {
                return Err(Errno::ERESTARTSYS);
            }
            if deadline.is_some_and(|at| platform.monotonic() >= at) {
                return Ok(false);
            }
            platform.park(deadline);
        }
    }
}

impl<P: Platform> Files for Thread<P> {
    #[inline]
    fn fds(&self) -> &Mutex<FdTable> {
        &self.process.fds
    }

    #[inline]
    fn fs(&self) -> Arc<FsContext> {
        self.process.fs.lock().clone()
    }

    fn update_fs(&self, change: &mut dyn FnMut(&mut FsContext)) {
        let mut fs = self.process.fs.lock();
        let mut changed = FsContext::clone(&fs);
        change(&mut changed);
        *fs = Arc::new(changed);
    }

    fn descriptor_limit(&self) -> u64 {
        self.process.limits.lock().get(Resource::Files).soft
    }

    fn host(&self) -> &'static dyn Host {
        self.platform()
    }

    fn wait(
        &self,
        queues: &[&WaitQueue],
        ready: &mut dyn FnMut() -> bool,
        deadline: Option<u64>,
    ) -> Result<bool> {
        self.wait_for(queues, ready, deadline)
    }

    fn broken_pipe(&self) {
        self.send_own(sig::PIPE);
    }

    fn file_size_limit(&self) -> u64 {
        self.process.limits.lock().get(Resource::FileSize).soft
    }

    fn file_too_large(&self) {
        self.send_own(sig::XFSZ);
    }
}

impl<P: Platform> Caller for Thread<P> {
    #[inline]
    fn read_memory(&self, address: usize, to: &mut [u8]) -> Result<()> {
        self.mm().read(address, to)
    }

    #[inline]
    fn write_memory(&self, address: usize, from: &[u8]) -> Result<()> {
        self.mm().write(address, from)
    }

    fn sink<'a>(&'a self, buffers: &'a [(usize, usize)]) -> impl Sink + 'a {
        UserBuffers::new(self.mm(), buffers)
    }

    fn source<'a>(&'a self, buffers: &'a [(usize, usize)]) -> impl Source + 'a {
        UserBuffers::new(self.mm(), buffers)
    }

    #[inline]
    fn address_limit(&self) -> usize {
        self.platform().user_range().end
    }

    fn with_signal_mask<T>(&self, mask: Option<u64>, wait: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(mask) = mask else { return wait() };
        let before = self.signals.lock().blocked;
        self.set_blocked(mask);
        let result = wait();
        if result.as_ref().is_err_and(|errno| errno.is_restart()) {
            // The signal that came is delivered with this mask, then the old one holds again.
            self.signals.lock().suspended = Some(before);
            self.call_attention();
        } else {
            self.set_blocked(before);
        }
        result
    }

    fn keep_restart(&self, restart: Restart) {
        self.signals.lock().restart = Some(restart);
    }

    fn memory_file_limit(&self) -> u64 {
        self.platform().pages().total_pages() as u64 / 2
    }
}
