//! Timers that send signals: `alarm(2)`, `setitimer(2)`, `timer_create(2)`.

use super::signal::number;
use super::time::Timespec;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::platform::Platform;
use crate::process::Thread;
use crate::process::signal::{Info, sig};
use crate::process::timers::{Notify, Setting, SignalTimer, TimerClock};
use alloc::sync::Arc;
use linux_raw_sys::general as c;
use zerocopy::{FromBytes, Immutable, IntoBytes};

const NS: u64 = 1_000_000_000;

/// `struct itimerval`: interval and value, each seconds and microseconds.
type RawInterval = [i64; 4];

fn encode(setting: Setting) -> RawInterval {
    let Setting { left, interval } = setting;
    // Rounded up, so that an armed timer never looks disarmed.
    let parts = |ns: u64| [(ns.div_ceil(1000) / 1_000_000) as i64, (ns.div_ceil(1000) % 1_000_000) as i64];
    let ([a, b], [c, d]) = (parts(interval), parts(left));
    [a, b, c, d]
}

fn decode([interval_s, interval_us, value_s, value_us]: RawInterval) -> Result<Setting> {
    let ns = |seconds: i64, micros: i64| {
        if seconds < 0 || !(0..1_000_000).contains(&micros) {
            return Err(Errno::EINVAL);
        }
        Ok((seconds as u64).saturating_mul(NS).saturating_add(micros as u64 * 1000))
    };
    Ok(Setting { interval: ns(interval_s, interval_us)?, left: ns(value_s, value_us)? })
}

/// Arms `timer` for `left` from now.
fn arm<P: Platform>(t: &Thread<P>, timer: &Arc<SignalTimer<P>>, setting: Setting) -> Result<Setting> {
    let first = if setting.left == 0 { 0 } else { timer.now(&t.process).saturating_add(setting.left) };
    timer.set(first, setting.interval)
}

pub(super) fn alarm<P: Platform>(t: &Thread<P>, seconds: u64) -> Result<usize> {
    let timer = t.process.interval_timer(0)?;
    let left = u64::from(seconds as u32).saturating_mul(NS);
    let before = arm(t, &timer, Setting { left, interval: 0 })?.left;
    // To the nearest second, but never to none.
    let (whole, part) = (before / NS, before % NS);
    let up = part >= NS / 2 || whole == 0 && part > 0;
    Ok((whole + u64::from(up)) as usize)
}

pub(super) fn getitimer<P: Platform>(t: &Thread<P>, which: u64, to: u64) -> Result<usize> {
    let timer = t.process.interval_timer(which)?;
    t.mm().store(UserPtr::new(to), encode(timer.get())).map(|()| 0)
}

pub(super) fn setitimer<P: Platform>(t: &Thread<P>, which: u64, new: u64, old: u64) -> Result<usize> {
    // NULL disarms, a Linux habit.
    let setting = match UserPtr::<RawInterval>::new(new).non_null() {
        Some(new) => decode(t.mm().load(new)?)?,
        None => Setting::default(),
    };
    let before = arm(t, &t.process.interval_timer(which)?, setting)?;
    if let Some(old) = UserPtr::new(old).non_null() {
        t.mm().store(old, encode(before))?;
    }
    Ok(0)
}

/// `struct sigevent`: value, signal, how to notify, thread id; 64 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawEvent {
    value: u64,
    signal: i32,
    notify: i32,
    tid: i32,
    pad: [i32; 11],
}
const _: () = assert!(size_of::<RawEvent>() == 64);

pub(super) fn timer_create<P: Platform>(t: &Thread<P>, clock: u64, event: u64, to: u64) -> Result<usize> {
    const SIGNAL: i32 = 0;
    const NONE: i32 = 1;
    const THREAD: i32 = 2;
    const THREAD_ID: i32 = 4;
    let clock = match clock as u32 {
        c::CLOCK_REALTIME | c::CLOCK_TAI => TimerClock::Realtime,
        c::CLOCK_MONOTONIC | c::CLOCK_BOOTTIME => TimerClock::Monotonic,
        c::CLOCK_PROCESS_CPUTIME_ID | c::CLOCK_THREAD_CPUTIME_ID => TimerClock::Process,
        _ => return Err(Errno::EINVAL),
    };
    let event = match UserPtr::<RawEvent>::new(event).non_null() {
        Some(event) => Some(t.mm().load(event)?),
        None => None,
    };
    let notify = |id: u32| -> Result<Notify> {
        let Some(event) = event else {
            return Ok(Notify::Process(Info::timer(sig::ALRM, id, id.into())));
        };
        let info = || number(event.signal as u64).map(|signal| Info::timer(signal, id, event.value));
        match event.notify {
            SIGNAL | THREAD => info().map(Notify::Process),
            NONE => Ok(Notify::Nothing),
            THREAD_ID => {
                let tid = u32::try_from(event.tid).map_err(|_| Errno::EINVAL)?;
                t.process.thread(tid).ok_or(Errno::EINVAL)?;
                info().map(|info| Notify::Thread(tid, info))
            }
            _ => Err(Errno::EINVAL),
        }
    };
    notify(0)?;
    let timers = &t.process.timers;
    let id =
        timers.create(|id| SignalTimer::new(&t.process, clock, notify(id).unwrap_or(Notify::Nothing)))?;
    if let Err(error) = t.mm().store(UserPtr::new(to), id) {
        timers.delete(id)?;
        return Err(error);
    }
    Ok(0)
}

fn raw(setting: Setting) -> [Timespec; 2] {
    [Timespec::from_ns(setting.interval), Timespec::from_ns(setting.left)]
}

pub(super) fn timer_settime<P: Platform>(
    t: &Thread<P>,
    id: u64,
    flags: u64,
    new: u64,
    old: u64,
) -> Result<usize> {
    let timer = t.process.timers.posix(id as u32)?;
    if new == 0 {
        return Err(Errno::EINVAL);
    }
    let [interval, value] = t.mm().load::<[Timespec; 2]>(UserPtr::new(new))?;
    let setting = Setting { interval: interval.to_ns()?, left: value.to_ns()? };
    let before = if flags as u32 & c::TIMER_ABSTIME != 0 && setting.left != 0 {
        timer.set(setting.left, setting.interval)?
    } else {
        arm(t, &timer, setting)?
    };
    if let Some(old) = UserPtr::new(old).non_null() {
        t.mm().store(old, raw(before))?;
    }
    Ok(0)
}

pub(super) fn timer_gettime<P: Platform>(t: &Thread<P>, id: u64, to: u64) -> Result<usize> {
    let timer = t.process.timers.posix(id as u32)?;
    t.mm().store(UserPtr::new(to), raw(timer.get())).map(|()| 0)
}

pub(super) fn timer_getoverrun<P: Platform>(t: &Thread<P>, id: u64) -> Result<usize> {
    Ok(t.process.timers.posix(id as u32)?.overrun() as usize)
}

pub(super) fn timer_delete<P: Platform>(t: &Thread<P>, id: u64) -> Result<usize> {
    t.process.timers.delete(id as u32).map(|()| 0)
}
