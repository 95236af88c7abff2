//! Timers: what is to happen when the monotonic clock reaches a time.
//!
//! One platform thread serves all timers of a machine. It is made when the first one is armed, sleeps until the next is due, and ends with the queue.
//!
//! Locks: `state` is a leaf; timers are called without it.

use crate::errno::{Errno, Result};
use crate::platform::{Clock, ThreadToken, Threads};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use spin::Mutex;

/// What the queue needs of the platform.
pub trait Driver: Threads + Clock + Send + Sync {}
impl<P: Threads + Clock + Send + Sync> Driver for P {}

/// Whom a timer tells.
pub trait Expire: Send + Sync {
    /// The time has come. Called once for each time that it was armed, by the queue's thread.
    fn expire(self: Arc<Self>);
}

/// Time, and a number that makes the key one of its own.
type Key = (u64, u64);

struct State {
    due: BTreeMap<Key, Weak<dyn Expire>>,
    next: u64,
    thread: Option<ThreadToken>,
}

/// The timers of a machine.
pub struct TimerQueue {
    driver: &'static dyn Driver,
    state: Mutex<State>,
}

/// An armed timer; dropping it disarms it, though it may just be expiring.
pub struct Armed {
    queue: Arc<TimerQueue>,
    key: Key,
}

impl TimerQueue {
    /// No timers yet, and no thread.
    pub fn new(driver: &'static dyn Driver) -> Arc<TimerQueue> {
        Arc::new(TimerQueue {
            driver,
            state: Mutex::new(State { due: BTreeMap::new(), next: 0, thread: None }),
        })
    }

    /// Monotonic time, ns.
    pub fn now(&self) -> u64 {
        self.driver.monotonic()
    }

    /// Has `whom` told when the monotonic clock reaches `at`. ENOMEM: there can be no thread.
    pub fn arm(self: &Arc<Self>, at: u64, whom: Weak<dyn Expire>) -> Result<Armed> {
        let mut state = self.state.lock();
        if state.thread.is_none() {
            let queue = Arc::downgrade(self);
            let driver = self.driver;
            let thread = driver.spawn(Box::new(move || serve(driver, &queue))).map_err(|_| Errno::ENOMEM)?;
            state.thread = Some(thread);
        }
        let key = (at, state.next);
        state.next += 1;
        let first = state.due.first_key_value().is_none_or(|(first, _)| key < *first);
        state.due.insert(key, whom);
        let thread = state.thread.filter(|_| first);
        drop(state);
        if let Some(thread) = thread {
            self.driver.unpark(thread);
        }
        Ok(Armed { queue: self.clone(), key })
    }

    /// Takes out a timer that is due, else says when the next one is.
    fn take_due(&self) -> Result<Weak<dyn Expire>, Option<u64>> {
        let mut state = self.state.lock();
        match state.due.first_entry() {
            Some(entry) if entry.key().0 <= self.driver.monotonic() => Ok(entry.remove()),
            Some(entry) => Err(Some(entry.key().0)),
            None => Err(None),
        }
    }
}

fn serve(driver: &'static dyn Driver, queue: &Weak<TimerQueue>) {
    while let Some(timers) = queue.upgrade() {
        let next = loop {
            match timers.take_due() {
                Ok(timer) => {
                    if let Some(timer) = timer.upgrade() {
                        timer.expire();
                    }
                }
                Err(next) => break next,
            }
        };
        // Not held over the sleep: the queue ends when nobody else has it.
        drop(timers);
        driver.park(next);
    }
}

impl Drop for TimerQueue {
    fn drop(&mut self) {
        if let Some(thread) = self.state.get_mut().thread {
            self.driver.unpark(thread);
        }
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.queue.state.lock().due.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::hosted::Hosted;

    struct Log(Mutex<alloc::vec::Vec<u32>>, ThreadToken, &'static Hosted);
    struct Named(u32, Arc<Log>);
    impl Expire for Named {
        fn expire(self: Arc<Self>) {
            self.1.0.lock().push(self.0);
            self.1.2.unpark(self.1.1);
        }
    }

    #[test]
    fn timers_expire_in_order_and_disarmed_ones_do_not() {
        let host = Hosted::leak(1024);
        let queue = TimerQueue::new(host);
        let log = Arc::new(Log(Mutex::default(), host.current(), host));
        let timers = [1, 2, 3].map(|n| Arc::new(Named(n, log.clone())));
        let now = queue.now();
        let arm = |i: usize, after: u64| {
            let whom: Arc<dyn Expire> = timers[i].clone();
            queue.arm(now + after, Arc::downgrade(&whom)).unwrap()
        };
        let _late = arm(2, 30_000_000);
        drop(arm(1, 1_000_000));
        let _early = arm(0, 2_000_000);
        while log.0.lock().len() < 2 {
            host.park(None);
        }
        assert_eq!(*log.0.lock(), [1, 3]);
        assert!(queue.now() >= now + 30_000_000);
    }
}
