//! Timers that send signals: `setitimer(2)` and `timer_create(2)`.
//!
//! As on Linux a periodic timer whose signal waits is not armed again until that signal is taken; the periods in between are its overrun. So no interval,
//! however short, keeps the machine busy.
//!
//! Locks: a timer's state before the machine's timer queue; signals are sent without it.

use super::object::Process;
use super::signal::{Info, sig};
use crate::errno::{Errno, Result};
use crate::event::{Armed, Expire};
use crate::platform::Platform;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use spin::Mutex;

/// How often a clock that runs with the program is looked at, at most: what a tick is on Linux.
const TICK: u64 = 4_000_000;
/// `RLIMIT_SIGPENDING` bounds them on Linux; here a number.
const MAX_TIMERS: usize = 4096;

/// Which clock a timer follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerClock {
    /// Monotonic time.
    Monotonic,
    /// Time since 1970: monotonic time, moved.
    Realtime,
    /// CPU time of the process.
    Process,
}

/// What happens when it expires.
#[derive(Clone, Copy, Debug)]
pub enum Notify {
    /// Nothing; it can be asked.
    Nothing,
    /// A signal to the process.
    Process(Info),
    /// A signal to one thread.
    Thread(u32, Info),
}

#[derive(Default)]
struct State {
    /// When it expires next, by its clock; 0: not armed.
    next: u64,
    interval: u64,
    armed: Option<Armed>,
    /// Its signal was sent and not taken yet.
    waiting: bool,
    overrun: u32,
}

/// A timer of a process.
pub struct SignalTimer<P: Platform> {
    process: Weak<Process<P>>,
    clock: TimerClock,
    notify: Notify,
    state: Mutex<State>,
}

/// What is left until a timer expires, and its interval; nanoseconds, 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Setting {
    pub left: u64,
    pub interval: u64,
}

impl State {
    /// Moves a periodic timer beyond `now`; how many more periods than one have passed.
    fn forward(&mut self, now: u64) -> u32 {
        if self.interval == 0 || self.next > now {
            return 0;
        }
        let more = (now - self.next) / self.interval;
        self.next = self.next.saturating_add(self.interval.saturating_mul(more + 1));
        u32::try_from(more).unwrap_or(i32::MAX as u32).min(i32::MAX as u32)
    }
}

impl<P: Platform> SignalTimer<P> {
    /// One that is not armed.
    pub fn new(process: &Arc<Process<P>>, clock: TimerClock, notify: Notify) -> Arc<SignalTimer<P>> {
        let process = Arc::downgrade(process);
        Arc::new(SignalTimer { process, clock, notify, state: Mutex::default() })
    }

    /// The time by its clock.
    pub fn now(&self, process: &Process<P>) -> u64 {
        match self.clock {
            TimerClock::Monotonic => process.platform().monotonic(),
            TimerClock::Realtime => process.platform().realtime(),
            TimerClock::Process => process.cpu_time(),
        }
    }

    /// Has the queue tell it at `state.next`, or when that is worth another look.
    fn arm(self: &Arc<Self>, process: &Process<P>, state: &mut State, now: u64) -> Result<()> {
        let monotonic = process.platform().monotonic();
        let wait = state.next.saturating_sub(now);
        let wait = match self.clock {
            TimerClock::Monotonic | TimerClock::Realtime => wait,
            // All CPUs may run the process.
            TimerClock::Process => (wait / process.platform().cpu_count().max(1) as u64).max(TICK),
        };
        let whom: Arc<dyn Expire> = self.clone();
        let armed = process.system.timers.arm(monotonic.saturating_add(wait), Arc::downgrade(&whom))?;
        state.armed = Some(armed);
        Ok(())
    }

    /// What is left of it.
    pub fn get(&self) -> Setting {
        let Some(process) = self.process.upgrade() else { return Setting::default() };
        let now = self.now(&process);
        let mut state = self.state.lock();
        if state.next == 0
            || state.interval == 0 && state.next <= now && matches!(self.notify, Notify::Nothing)
        {
            return Setting { left: 0, interval: state.interval };
        }
        let mut next = state.next;
        if state.interval != 0 && next <= now {
            // Its signal waits, or it has none: when it would expire next.
            let mut copy = State { next, interval: state.interval, ..State::default() };
            copy.forward(now);
            next = copy.next;
            if matches!(self.notify, Notify::Nothing) {
                state.next = next;
            }
        }
        // Never 0 for one that is armed.
        Setting { left: next.saturating_sub(now).max(1), interval: state.interval }
    }

    /// Arms it for `first` by its clock (0: disarms), and then each `interval`; what it was. ENOMEM.
    pub fn set(self: &Arc<Self>, first: u64, interval: u64) -> Result<Setting> {
        let before = self.get();
        let process = self.process.upgrade().ok_or(Errno::ESRCH)?;
        let now = self.now(&process);
        let mut state = self.state.lock();
        // Outside of the queue's lock, inside of ours: nobody is told of the old time any more, or finds a new one.
        *state = State { next: first, interval, ..State::default() };
        if first != 0 && !matches!(self.notify, Notify::Nothing) {
            self.arm(&process, &mut state, now)?;
        }
        Ok(before)
    }

    /// The overrun of the signal that was taken last.
    pub fn overrun(&self) -> u32 {
        self.state.lock().overrun
    }

    /// Its signal was taken: it goes on; how many periods passed meanwhile.
    fn taken(self: &Arc<Self>) -> u32 {
        let Some(process) = self.process.upgrade() else { return 0 };
        let now = self.now(&process);
        let mut state = self.state.lock();
        if !core::mem::take(&mut state.waiting) {
            return 0;
        }
        if state.interval == 0 {
            state.next = 0;
            state.overrun = 0;
            return 0;
        }
        state.overrun = state.forward(now);
        if self.arm(&process, &mut state, now).is_err() {
            state.next = 0;
        }
        state.overrun
    }
}

impl<P: Platform> Expire for SignalTimer<P> {
    fn expire(self: Arc<Self>) {
        let Some(process) = self.process.upgrade() else { return };
        let now = self.now(&process);
        {
            let mut state = self.state.lock();
            if state.next == 0 || state.waiting {
                return;
            }
            if now < state.next {
                // Its clock runs slower than the wall's.
                let _ = self.arm(&process, &mut state, now);
                return;
            }
            state.waiting = true;
        }
        let sent = match self.notify {
            Notify::Nothing => Ok(false),
            Notify::Process(info) => process.send(info),
            Notify::Thread(tid, info) => process.thread(tid).map_or(Ok(false), |thread| thread.send(info)),
        };
        if !matches!(sent, Ok(true)) {
            // Nobody will take it: as if somebody had, but no sooner than the next tick.
            let mut state = self.state.lock();
            state.waiting = false;
            if state.interval == 0 {
                state.next = 0;
            } else {
                state.forward(now.saturating_add(TICK));
                let _ = self.arm(&process, &mut state, now);
            }
        }
    }
}

/// The timers of a process.
pub struct Timers<P: Platform> {
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF, once used.
    interval: Mutex<[Option<Arc<SignalTimer<P>>>; 3]>,
    posix: Mutex<Vec<Option<Arc<SignalTimer<P>>>>>,
}

impl<P: Platform> Default for Timers<P> {
    fn default() -> Timers<P> {
        Timers { interval: Mutex::new([None, None, None]), posix: Mutex::default() }
    }
}

impl<P: Platform> Timers<P> {
    /// Forgets those of `timer_create` (`execve(2)`).
    pub fn clear_posix(&self) {
        let old = core::mem::take(&mut *self.posix.lock());
        drop(old);
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.clear_posix();
        let old = core::mem::take(&mut *self.interval.lock());
        drop(old);
    }

    /// The timer with this id. EINVAL.
    pub fn posix(&self, id: u32) -> Result<Arc<SignalTimer<P>>> {
        self.posix.lock().get(id as usize).cloned().flatten().ok_or(Errno::EINVAL)
    }

    /// Makes one; `make` is given its id. EAGAIN.
    pub fn create(&self, make: impl FnOnce(u32) -> Arc<SignalTimer<P>>) -> Result<u32> {
        let mut all = self.posix.lock();
        let id = all.iter().position(Option::is_none).unwrap_or(all.len());
        if id >= MAX_TIMERS {
            return Err(Errno::EAGAIN);
        }
        let timer = make(id as u32);
        match all.get_mut(id) {
            Some(slot) => *slot = Some(timer),
            None => all.push(Some(timer)),
        }
        Ok(id as u32)
    }

    /// Takes one out. EINVAL.
    pub fn delete(&self, id: u32) -> Result<()> {
        let timer = self.posix.lock().get_mut(id as usize).and_then(Option::take);
        timer.map(drop).ok_or(Errno::EINVAL)
    }
}

impl<P: Platform> Process<P> {
    /// The interval timer `which`: 0, 1 or 2. EINVAL.
    pub fn interval_timer(self: &Arc<Self>, which: u64) -> Result<Arc<SignalTimer<P>>> {
        let (clock, signal) = match which as u32 {
            0 => (TimerClock::Monotonic, sig::ALRM),
            // User mode and kernel are not told apart, so virtual time is profiling time.
            1 => (TimerClock::Process, sig::VTALRM),
            2 => (TimerClock::Process, sig::PROF),
            _ => return Err(Errno::EINVAL),
        };
        let mut all = self.timers.interval.lock();
        let slot = all.get_mut(which as u32 as usize).ok_or(Errno::EINVAL)?;
        let make = || SignalTimer::new(self, clock, Notify::Process(Info::kernel(signal)));
        Ok(slot.get_or_insert_with(make).clone())
    }

    /// A signal was taken off the queue: the timer that sent it goes on, and tells its overrun.
    pub(super) fn signal_taken(&self, info: &mut Info) {
        if let Some(id) = info.timer_id() {
            if let Ok(timer) = self.timers.posix(id) {
                info.set_overrun(timer.taken());
            }
            return;
        }
        let which = match info.number() {
            sig::ALRM => 0,
            sig::VTALRM => 1,
            sig::PROF => 2,
            _ => return,
        };
        let timer = self.timers.interval.lock().get(which).cloned().flatten();
        if let Some(timer) = timer {
            timer.taken();
        }
    }
}
