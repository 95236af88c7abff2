//! System calls on signals.

use super::time;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::platform::{Platform, Registers};
use crate::process::Thread;
use crate::process::signal::{Action, SignalSet, UNBLOCKABLE, bit, sig};
use alloc::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `sizeof(sigset_t)` in the kernel's interface.
const SET_SIZE: u64 = 8;

/// `struct sigaction` of the system call.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

fn number(raw: u64) -> Result<u32> {
    let number = raw as u32;
    if (1..=sig::MAX).contains(&number) { Ok(number) } else { Err(Errno::EINVAL) }
}

pub(super) fn rt_sigaction<P: Platform>(
    t: &Thread<P>,
    signal: u64,
    new: u64,
    old: u64,
    size: u64,
) -> Result<usize> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let signal = number(signal)?;
    let new = match UserPtr::<RawAction>::new(new).non_null() {
        Some(at) => Some(t.mm().load(at)?),
        None => None,
    };
    if new.is_some() && bit(signal) & UNBLOCKABLE != 0 {
        return Err(Errno::EINVAL);
    }
    let before = {
        let mut signals = t.process.signals.lock();
        let before = signals.action(signal);
        if let Some(raw) = new {
            let mask = raw.mask & !UNBLOCKABLE;
            signals.set_action(
                signal,
                Action { handler: raw.handler, flags: raw.flags, restorer: raw.restorer, mask },
            );
        }
        before
    };
    if let Some(at) = UserPtr::new(old).non_null() {
        let Action { handler, flags, restorer, mask } = before;
        t.mm().store(at, RawAction { handler, flags, restorer, mask })?;
    }
    Ok(0)
}

pub(super) fn rt_sigprocmask<P: Platform>(
    t: &Thread<P>,
    how: u64,
    new: u64,
    old: u64,
    size: u64,
) -> Result<usize> {
    const BLOCK: u32 = 0;
    const UNBLOCK: u32 = 1;
    const SET: u32 = 2;
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let before = t.signals.lock().blocked;
    if let Some(at) = UserPtr::<SignalSet>::new(new).non_null() {
        let set = t.mm().load(at)?;
        let after = match how as u32 {
            BLOCK => before | set,
            UNBLOCK => before & !set,
            SET => set,
            _ => return Err(Errno::EINVAL),
        };
        t.signals.lock().blocked = after & !UNBLOCKABLE;
        t.call_attention();
    }
    if let Some(at) = UserPtr::new(old).non_null() {
        t.mm().store(at, before)?;
    }
    Ok(0)
}

pub(super) fn rt_sigpending<P: Platform>(t: &Thread<P>, to: u64, size: u64) -> Result<usize> {
    if size > SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let pending = {
        let process = t.process.signals.lock().pending;
        let mine = t.signals.lock();
        (process | mine.pending) & mine.blocked
    };
    let bytes = pending.to_le_bytes();
    t.mm().write(to as usize, bytes.get(..size as usize).unwrap_or_default()).map(|()| 0)
}

pub(super) fn rt_sigsuspend<P: Platform>(t: &Thread<P>, set: u64, size: u64) -> Result<usize> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let set = t.mm().load::<SignalSet>(UserPtr::new(set))? & !UNBLOCKABLE;
    let before = core::mem::replace(&mut t.signals.lock().blocked, set);
    let result = t.wait_for(&[], &mut || false, None);
    // The signal that ended the wait is delivered with this mask, then the old one holds again.
    t.signals.lock().suspended = Some(before);
    t.call_attention();
    result.map(|_| 0)
}

pub(super) fn pause<P: Platform>(t: &Thread<P>) -> Result<usize> {
    t.wait_for(&[], &mut || false, None).map(|_| 0)
}

pub(super) fn rt_sigtimedwait<P: Platform>(
    t: &Thread<P>,
    set: u64,
    info: u64,
    timeout: u64,
    size: u64,
) -> Result<usize> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let set = t.mm().load::<SignalSet>(UserPtr::new(set))? & !UNBLOCKABLE;
    let deadline = time::relative_deadline(t, timeout)?;
    let mut taken = 0;
    let came = t.wait_for(
        &[],
        &mut || {
            let mut process = t.process.signals.lock();
            let mut mine = t.signals.lock();
            let found = (mine.pending | process.pending) & set;
            if found != 0 {
                taken = found.trailing_zeros() + 1;
                mine.pending &= !bit(taken);
                process.pending &= !bit(taken);
            }
            found != 0
        },
        deadline,
    )?;
    if !came {
        return Err(Errno::EAGAIN);
    }
    if info != 0 {
        let mut bytes = [0u8; 128];
        if let Some(first) = bytes.first_chunk_mut::<4>() {
            *first = taken.to_le_bytes();
        }
        t.mm().write(info as usize, &bytes)?;
    }
    Ok(taken as usize)
}

/// `stack_t`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawStack {
    address: u64,
    flags: u32,
    pad: u32,
    size: u64,
}

pub(super) fn sigaltstack<P: Platform>(t: &Thread<P>, new: u64, old: u64) -> Result<usize> {
    const DISABLE: u32 = 2;
    const AUTODISARM: u32 = 1 << 31;
    const MINIMUM: u64 = 2048;
    let (address, size, flags) = t.signals.lock().stack;
    let before = RawStack { address, flags, pad: 0, size };
    if let Some(at) = UserPtr::<RawStack>::new(new).non_null() {
        let stack = t.mm().load(at)?;
        match stack.flags & !AUTODISARM {
            DISABLE => t.signals.lock().stack = (0, 0, DISABLE),
            0 | 1 if stack.size < MINIMUM => return Err(Errno::ENOMEM),
            0 | 1 => t.signals.lock().stack = (stack.address, stack.size, stack.flags & AUTODISARM),
            _ => return Err(Errno::EINVAL),
        }
    }
    if let Some(at) = UserPtr::new(old).non_null() {
        t.mm().store(at, before)?;
    }
    Ok(0)
}

pub(super) fn kill<P: Platform>(t: &Thread<P>, pid: u64, signal: u64) -> Result<usize> {
    let signal = if signal as u32 == 0 { 0 } else { number(signal)? };
    let (pid, identity) = (pid as i32, *t.process.identity.lock());
    // Itself, its own group, its group by number. Everybody (-1) means everybody else.
    let own = pid == identity.pid as i32
        || pid == 0
        || pid.checked_neg() == Some(identity.pgid as i32) && pid != -1;
    if !own {
        return Err(Errno::ESRCH);
    }
    if signal != 0 {
        t.process.signals.lock().pending |= bit(signal);
        t.process.threads().iter().for_each(|thread| thread.call_attention());
    }
    Ok(0)
}

pub(super) fn tgkill<P: Platform>(t: &Thread<P>, group: Option<u64>, tid: u64, signal: u64) -> Result<usize> {
    if (tid as i32) <= 0 || group.is_some_and(|group| (group as i32) <= 0) {
        return Err(Errno::EINVAL);
    }
    let signal = if signal as u32 == 0 { 0 } else { number(signal)? };
    if group.is_some_and(|group| group as u32 != t.process.pid()) {
        return Err(Errno::ESRCH);
    }
    let target = t.process.thread(tid as u32).ok_or(Errno::ESRCH)?;
    if signal != 0 {
        target.send_signal(signal);
    }
    Ok(0)
}

pub(super) fn rt_sigreturn<P: Platform>(t: &Arc<Thread<P>>, registers: &mut Registers) {
    crate::process::signal::restore(t, registers);
}
