//! South: threads that block and wake.

use super::OutOfMemory;
use alloc::boxed::Box;

/// Names a thread of the platform, for [`Threads::unpark`]. Not a Linux thread id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadToken(pub u64);

/// South: threads, with `park`/`unpark` as in `std::thread`: an `unpark` that comes first makes the next `park` return at once.
pub trait Threads {
    /// The thread that calls.
    fn current(&self) -> ThreadToken;

    /// Blocks until an `unpark`, or until the monotonic clock reaches `deadline` (ns). May return earlier: callers loop.
    /// No spin lock may be held.
    fn park(&self, deadline: Option<u64>);

    /// Wakes `thread`. Harmless for one that is running or gone.
    fn unpark(&self, thread: ThreadToken);

    /// Nanoseconds that `thread` has run, waiting not counted; 0 for one that is gone.
    fn cpu_time(&self, thread: ThreadToken) -> u64;

    /// Lets others run.
    fn yield_now(&self);

    /// A new thread that runs `body` and ends.
    fn spawn(&self, body: Box<dyn FnOnce() + Send>) -> Result<ThreadToken, OutOfMemory>;
}
