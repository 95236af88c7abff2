//! Scheduling: affinity, policies, priorities. There is one policy; what programs ask is answered as on an idle Linux.

use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::platform::Platform;
use crate::process::Thread;
use linux_raw_sys::general as c;

fn known<P: Platform>(t: &Thread<P>, pid: u64) -> Result<()> {
    let id = pid as i32;
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    if id == 0 || id as u32 == t.process.pid() || t.process.thread(id as u32).is_some() {
        Ok(())
    } else {
        Err(Errno::ESRCH)
    }
}

pub(super) fn sched_yield<P: Platform>(t: &Thread<P>) -> Result<usize> {
    t.platform().yield_now();
    Ok(0)
}

pub(super) fn sched_getaffinity<P: Platform>(t: &Thread<P>, pid: u64, size: u64, to: u64) -> Result<usize> {
    known(t, pid)?;
    if !size.is_multiple_of(8) || size == 0 {
        return Err(Errno::EINVAL);
    }
    let cpus = t.platform().cpu_count().min(64);
    let mask = if cpus == 64 { u64::MAX } else { (1 << cpus) - 1 };
    t.mm().store(UserPtr::new(to), mask)?;
    Ok(size_of::<u64>())
}

pub(super) fn sched_setaffinity<P: Platform>(t: &Thread<P>, pid: u64, size: u64, from: u64) -> Result<usize> {
    known(t, pid)?;
    let mut mask = [0u8; 8];
    let len = (size as usize).min(8);
    t.mm().read(from as usize, mask.get_mut(..len).unwrap_or_default())?;
    let mask = u64::from_le_bytes(mask);
    let cpus = t.platform().cpu_count().min(63);
    // A mask without a CPU that exists is refused; any other can be kept.
    if mask & ((1 << cpus) - 1) == 0 { Err(Errno::EINVAL) } else { Ok(0) }
}

pub(super) fn sched_getscheduler<P: Platform>(t: &Thread<P>, pid: u64) -> Result<usize> {
    known(t, pid).map(|()| c::SCHED_NORMAL as usize)
}

pub(super) fn sched_setscheduler<P: Platform>(
    t: &Thread<P>,
    pid: u64,
    policy: u64,
    parameter: u64,
) -> Result<usize> {
    if (pid as i32) < 0 || parameter == 0 {
        return Err(Errno::EINVAL);
    }
    let priority = t.mm().load::<i32>(UserPtr::new(parameter))?;
    known(t, pid)?;
    match policy as u32 {
        c::SCHED_NORMAL | c::SCHED_BATCH | c::SCHED_IDLE if priority == 0 => Ok(0),
        c::SCHED_FIFO | c::SCHED_RR if (1..=99).contains(&priority) => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn sched_getparam<P: Platform>(t: &Thread<P>, pid: u64, to: u64) -> Result<usize> {
    if to == 0 {
        return Err(Errno::EINVAL);
    }
    known(t, pid)?;
    t.mm().store(UserPtr::new(to), 0i32).map(|()| 0)
}

pub(super) fn priority_bound(policy: u64, realtime: usize) -> Result<usize> {
    match policy as u32 {
        c::SCHED_FIFO | c::SCHED_RR => Ok(realtime),
        c::SCHED_NORMAL | c::SCHED_BATCH | c::SCHED_IDLE | c::SCHED_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn sched_rr_get_interval<P: Platform>(t: &Thread<P>, pid: u64, to: u64) -> Result<usize> {
    known(t, pid)?;
    t.mm().store(UserPtr::new(to), [0i64, 4_000_000]).map(|()| 0)
}

pub(super) fn getpriority<P: Platform>(t: &Thread<P>, which: u64, who: u64) -> Result<usize> {
    match which as u32 {
        0 => known(t, who)?,
        1 | 2 => {}
        _ => return Err(Errno::EINVAL),
    }
    // 20 - nice.
    Ok(20)
}

pub(super) fn setpriority<P: Platform>(t: &Thread<P>, which: u64, who: u64) -> Result<usize> {
    getpriority(t, which, who).map(|_| 0)
}

pub(super) fn ioprio(number: u32, which: u64) -> Result<usize> {
    if !(1..=3).contains(&(which as u32)) {
        return Err(Errno::EINVAL);
    }
    // Best effort, level 4.
    Ok(if number == c::__NR_ioprio_get { 2 << 13 | 4 } else { 0 })
}

pub(super) fn getcpu<P: Platform>(t: &Thread<P>, cpu: u64, node: u64) -> Result<usize> {
    if let Some(cpu) = UserPtr::new(cpu).non_null() {
        t.mm().store(cpu, t.platform().cpu_index() as u32)?;
    }
    if let Some(node) = UserPtr::new(node).non_null() {
        t.mm().store(node, 0u32)?;
    }
    Ok(0)
}
