//! Clocks and sleep.

use super::Restart;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::platform::Platform;
use crate::process::Thread;
use linux_raw_sys::general as c;
use zerocopy::{FromBytes, Immutable, IntoBytes};

const NS: u64 = 1_000_000_000;

/// `struct timespec`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Timespec {
    pub(super) sec: i64,
    pub(super) nsec: i64,
}

impl Timespec {
    /// From nanoseconds.
    pub(super) fn from_ns(ns: u64) -> Timespec {
        Timespec { sec: (ns / NS) as i64, nsec: (ns % NS) as i64 }
    }

    /// Nanoseconds, saturating. EINVAL for what is no time.
    pub(super) fn to_ns(self) -> Result<u64> {
        if self.sec < 0 || !(0..NS as i64).contains(&self.nsec) {
            return Err(Errno::EINVAL);
        }
        Ok((self.sec as u64).saturating_mul(NS).saturating_add(self.nsec as u64))
    }
}

/// What a clock's number means.
enum Kind {
    Realtime,
    Monotonic,
    /// CPU time of the process.
    Process,
    /// CPU time of the thread with this id, 0 for the caller.
    Thread(u32),
}

fn kind(clock: u64) -> Result<Kind> {
    let id = clock as i32;
    match id as u32 {
        c::CLOCK_REALTIME | c::CLOCK_REALTIME_COARSE | c::CLOCK_REALTIME_ALARM => Ok(Kind::Realtime),
        c::CLOCK_TAI => Ok(Kind::Realtime),
        c::CLOCK_MONOTONIC
        | c::CLOCK_MONOTONIC_RAW
        | c::CLOCK_MONOTONIC_COARSE
        | c::CLOCK_BOOTTIME
        | c::CLOCK_BOOTTIME_ALARM => Ok(Kind::Monotonic),
        c::CLOCK_PROCESS_CPUTIME_ID => Ok(Kind::Process),
        c::CLOCK_THREAD_CPUTIME_ID => Ok(Kind::Thread(0)),
        // Negative: a CPU clock of a process or thread by number (clock_getcpuclockid(3)): its complement, whether it is a thread's, and which kind.
        _ if id < 0 && id & 3 != 3 => {
            let number = !(id >> 3) as u32;
            Ok(if id & 4 != 0 { Kind::Thread(number) } else { Kind::Process })
        }
        _ => Err(Errno::EINVAL),
    }
}

/// The time of a clock. EINVAL: of a thread that there is not.
fn now<P: Platform>(t: &Thread<P>, kind: &Kind) -> Result<u64> {
    let platform = t.platform();
    Ok(match *kind {
        Kind::Realtime => platform.realtime(),
        Kind::Monotonic => platform.monotonic(),
        Kind::Process => t.process.cpu_time(),
        Kind::Thread(0) => t.cpu_time(),
        Kind::Thread(tid) => t.process.thread(tid).ok_or(Errno::EINVAL)?.cpu_time(),
    })
}

pub(super) fn clock_gettime<P: Platform>(t: &Thread<P>, clock: u64, to: u64) -> Result<usize> {
    let value = now(t, &kind(clock)?)?;
    t.mm().store(UserPtr::new(to), Timespec::from_ns(value)).map(|()| 0)
}

pub(super) fn clock_getres<P: Platform>(t: &Thread<P>, clock: u64, to: u64) -> Result<usize> {
    kind(clock)?;
    if let Some(to) = UserPtr::new(to).non_null() {
        t.mm().store(to, Timespec::from_ns(t.platform().resolution()))?;
    }
    Ok(0)
}

pub(super) fn time<P: Platform>(t: &Thread<P>, to: u64) -> Result<usize> {
    let seconds = t.platform().realtime() / NS;
    if let Some(to) = UserPtr::new(to).non_null() {
        t.mm().store(to, seconds)?;
    }
    Ok(seconds as usize)
}

pub(super) fn gettimeofday<P: Platform>(t: &Thread<P>, to: u64, zone: u64) -> Result<usize> {
    if let Some(to) = UserPtr::<[i64; 2]>::new(to).non_null() {
        let now = t.platform().realtime();
        t.mm().store(to, [(now / NS) as i64, (now % NS / 1000) as i64])?;
    }
    if let Some(zone) = UserPtr::<[u32; 2]>::new(zone).non_null() {
        t.mm().store(zone, [0u32; 2])?;
    }
    Ok(0)
}

/// Sleeps until the monotonic clock reaches `deadline`. Interrupted: what is left goes to `remaining`, if there is such a place (0: nobody wants to know), and
/// `restart_syscall` sleeps on; without one (`None`) the call is simply made again.
pub(super) fn sleep_until<P: Platform>(
    t: &Thread<P>,
    deadline: u64,
    remaining: Option<u64>,
) -> Result<usize> {
    if t.wait_for(&[], &mut || false, Some(deadline)).is_ok() {
        return Ok(0);
    }
    let Some(remaining) = remaining else { return Err(Errno::ERESTARTNOHAND) };
    if let Some(to) = UserPtr::new(remaining).non_null() {
        let left = deadline.saturating_sub(t.platform().monotonic());
        t.mm().store(to, Timespec::from_ns(left))?;
    }
    t.signals.lock().restart = Some(Restart::Sleep { deadline, remaining });
    Err(Errno::ERESTART_RESTARTBLOCK)
}

pub(super) fn nanosleep<P: Platform>(t: &Thread<P>, request: u64, remaining: u64) -> Result<usize> {
    let length = t.mm().load::<Timespec>(UserPtr::new(request))?.to_ns()?;
    sleep_until(t, t.platform().monotonic().saturating_add(length), Some(remaining))
}

pub(super) fn clock_nanosleep<P: Platform>(
    t: &Thread<P>,
    clock: u64,
    flags: u64,
    request: u64,
    remaining: u64,
) -> Result<usize> {
    let kind = kind(clock)?;
    if clock as u32 == c::CLOCK_THREAD_CPUTIME_ID {
        return Err(Errno::EINVAL);
    }
    let time = t.mm().load::<Timespec>(UserPtr::new(request))?.to_ns()?;
    let monotonic = t.platform().monotonic();
    if flags & u64::from(c::TIMER_ABSTIME) != 0 {
        let wait = time.saturating_sub(now(t, &kind)?);
        // An absolute sleep leaves nothing to tell.
        sleep_until(t, monotonic.saturating_add(wait), None)
    } else {
        sleep_until(t, monotonic.saturating_add(time), Some(remaining))
    }
}

/// The monotonic deadline that an optional relative timeout means; `None`: for ever.
pub(super) fn relative_deadline<P: Platform>(t: &Thread<P>, timeout: u64) -> Result<Option<u64>> {
    match UserPtr::<Timespec>::new(timeout).non_null() {
        Some(at) => Ok(Some(t.platform().monotonic().saturating_add(t.mm().load(at)?.to_ns()?))),
        None => Ok(None),
    }
}

/// The monotonic deadline of an optional absolute time of either clock.
pub(super) fn absolute_deadline<P: Platform>(
    t: &Thread<P>,
    timeout: u64,
    realtime: bool,
) -> Result<Option<u64>> {
    let Some(at) = UserPtr::<Timespec>::new(timeout).non_null() else { return Ok(None) };
    let time = t.mm().load(at)?.to_ns()?;
    let platform = t.platform();
    let base = if realtime { platform.realtime() } else { platform.monotonic() };
    Ok(Some(platform.monotonic().saturating_add(time.saturating_sub(base))))
}
