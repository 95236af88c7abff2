//! Wait queues: who is to be woken when an object's readiness may have changed.
//!
//! The order that never loses a wake-up: register, look, and only then sleep. A waker may be called more often than
//! anything happened; the one that is woken looks again.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::Waker;
use spin::Mutex;

/// A list of wakers. `wake_all` may be called from anywhere but an interrupt.
#[derive(Default)]
pub struct WaitQueue {
    waiters: Arc<Waiters>,
}

#[derive(Default)]
struct Waiters {
    list: Mutex<Vec<(usize, Waker)>>,
    next: AtomicUsize,
    count: AtomicUsize,
}

/// A place in a queue; dropping it leaves the queue.
pub struct Registration {
    waiters: Weak<Waiters>,
    id: usize,
}

impl WaitQueue {
    /// An empty queue.
    pub fn new() -> WaitQueue {
        WaitQueue::default()
    }

    /// Has `waker` called at every `wake_all` until the registration is dropped.
    #[must_use]
    pub fn register(&self, waker: Waker) -> Registration {
        let id = self.waiters.next.fetch_add(1, Ordering::Relaxed);
        let mut list = self.waiters.list.lock();
        list.push((id, waker));
        self.waiters.count.store(list.len(), Ordering::Release);
        Registration { waiters: Arc::downgrade(&self.waiters), id }
    }

    /// Calls every waker.
    pub fn wake_all(&self) {
        if self.waiters.count.load(Ordering::Acquire) == 0 {
            return;
        }
        // Called without the lock: a waker may register or leave.
        let wakers: Vec<Waker> = self.waiters.list.lock().iter().map(|(_, waker)| waker.clone()).collect();
        for waker in wakers {
            waker.wake();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(waiters) = self.waiters.upgrade() else { return };
        let mut list = waiters.list.lock();
        list.retain(|(id, _)| *id != self.id);
        waiters.count.store(list.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::task::Wake;

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_those_registered_and_no_others() {
        let queue = WaitQueue::new();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        queue.wake_all();
        let registration = queue.register(count.clone().into());
        queue.wake_all();
        drop(registration);
        queue.wake_all();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
