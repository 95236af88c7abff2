//! System calls on signals.

use super::time;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::platform::Platform;
use crate::process::signal::info::code;
use crate::process::signal::{Action, AltStack, Info, SignalSet, UNBLOCKABLE, bit, sa, sig};
use crate::process::{Process, Thread};
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

/// A signal's number. EINVAL.
pub(super) fn number(raw: u64) -> Result<u32> {
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
            let (mask, flags) = (raw.mask & !UNBLOCKABLE, raw.flags & sa::KNOWN);
            let action = Action { handler: raw.handler, flags, restorer: raw.restorer, mask };
            signals.set_action(signal, action);
            if action.ignores(signal) {
                signals.pending.discard(bit(signal));
            }
        }
        before
    };
    if new.is_some_and(|raw| Action { handler: raw.handler, ..before }.ignores(signal)) {
        for thread in t.process.threads() {
            thread.signals.lock().pending.discard(bit(signal));
        }
    }
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
        t.set_blocked(after);
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
        let process = t.process.signals.lock().pending.set();
        let mine = t.signals.lock();
        (process | mine.pending.set()) & mine.blocked
    };
    let bytes = pending.to_le_bytes();
    t.mm().write(to as usize, bytes.get(..size as usize).unwrap_or_default()).map(|()| 0)
}

pub(super) fn rt_sigsuspend<P: Platform>(t: &Thread<P>, set: u64, size: u64) -> Result<usize> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let set = t.mm().load::<SignalSet>(UserPtr::new(set))?;
    let before = t.signals.lock().blocked;
    t.set_blocked(set);
    let result = pause(t);
    // The signal that ended the wait is delivered with this mask, then the old one holds again.
    t.signals.lock().suspended = Some(before);
    t.call_attention();
    result
}

pub(super) fn pause<P: Platform>(t: &Thread<P>) -> Result<usize> {
    t.wait_for(&[], &mut || false, None).map(|_| 0).map_err(|_| Errno::ERESTARTNOHAND)
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
    let mut taken = None;
    let came = t.wait_for(
        &[&t.process.signal_arrived],
        &mut || {
            taken = t.accept_signal(set);
            taken.is_some()
        },
        deadline,
    );
    came.map_err(|_| Errno::EINTR)?;
    let accepted = taken.ok_or(Errno::EAGAIN)?;
    if let Some(to) = UserPtr::new(info).non_null() {
        t.mm().store(to, accepted)?;
    }
    Ok(accepted.number() as usize)
}

pub(super) fn sigaltstack<P: Platform>(t: &Thread<P>, new: u64, old: u64, sp: u64) -> Result<usize> {
    let new = match UserPtr::<AltStack>::new(new).non_null() {
        Some(at) => Some(t.mm().load(at)?),
        None => None,
    };
    let before = {
        let mut mine = t.signals.lock();
        let before = mine.stack.report(sp);
        if let Some(new) = new {
            mine.stack.replace(new, sp)?;
        }
        before
    };
    if let Some(at) = UserPtr::new(old).non_null() {
        t.mm().store(at, before)?;
    }
    Ok(0)
}

/// What a signal says of its sender.
fn own_info<P: Platform>(t: &Thread<P>, signal: u32, code: i32) -> Info {
    Info::from_process(signal, code, t.process.pid(), t.process.fs.lock().credentials.uid)
}

pub(super) fn kill<P: Platform>(t: &Thread<P>, pid: u64, signal: u64) -> Result<usize> {
    let signal = if signal as u32 == 0 { 0 } else { number(signal)? };
    let processes = &t.process.processes;
    let own = *t.process.identity.lock();
    let group = |pgid: u32| {
        let mut all = processes.all();
        all.retain(|process| process.identity.lock().pgid == pgid);
        all
    };
    let targets = match pid as i32 {
        0 => group(own.pgid),
        // Everybody else, but for the first process.
        -1 => {
            let mut all = processes.all();
            all.retain(|process| process.pid() > 1 && process.pid() != own.pid);
            all
        }
        pid @ ..-1 => group(pid.unsigned_abs()),
        pid => processes.find(pid as u32).into_iter().collect(),
    };
    if targets.is_empty() {
        return Err(Errno::ESRCH);
    }
    if signal != 0 {
        for process in targets {
            process.send(own_info(t, signal, code::USER))?;
        }
    }
    Ok(0)
}

/// The process that a signal with a made-up `siginfo_t` goes to. ESRCH.
fn target<P: Platform>(t: &Thread<P>, pid: u64) -> Result<Arc<Process<P>>> {
    t.process.processes.find(pid as u32).ok_or(Errno::ESRCH)
}

pub(super) fn tgkill<P: Platform>(t: &Thread<P>, group: Option<u64>, tid: u64, signal: u64) -> Result<usize> {
    if (tid as i32) <= 0 || group.is_some_and(|group| (group as i32) <= 0) {
        return Err(Errno::EINVAL);
    }
    let signal = if signal as u32 == 0 { 0 } else { number(signal)? };
    let process = match group {
        Some(group) => target(t, group)?,
        None => {
            let all = t.process.processes.all();
            all.into_iter().find(|process| process.thread(tid as u32).is_some()).ok_or(Errno::ESRCH)?
        }
    };
    let target = process.thread(tid as u32).ok_or(Errno::ESRCH)?;
    if signal != 0 {
        target.send(own_info(t, signal, code::TKILL))?;
    }
    Ok(0)
}

/// The `siginfo_t` that a program made up, for the signal `number`. To others it may not claim to come from the kernel or `kill`. EPERM.
fn forged(info: Info, signal: u32, to_self: bool) -> Result<Info> {
    if !to_self && (info.code >= 0 || info.code == code::TKILL) {
        return Err(Errno::EPERM);
    }
    // A timer's id would be believed.
    let code = if info.code == code::TIMER { code::USER } else { info.code };
    Ok(Info { signal: signal as i32, code, ..info })
}

pub(super) fn rt_sigqueueinfo<P: Platform>(t: &Thread<P>, pid: u64, signal: u64, info: u64) -> Result<usize> {
    let info = t.mm().load::<Info>(UserPtr::new(info))?;
    let target = target(t, pid)?;
    if signal as u32 != 0 {
        let signal = number(signal)?;
        target.send(forged(info, signal, Arc::ptr_eq(&target, &t.process))?)?;
    }
    Ok(0)
}

pub(super) fn rt_tgsigqueueinfo<P: Platform>(
    t: &Thread<P>,
    group: u64,
    tid: u64,
    signal: u64,
    info: u64,
) -> Result<usize> {
    let info = t.mm().load::<Info>(UserPtr::new(info))?;
    if (group as i32) <= 0 || (tid as i32) <= 0 {
        return Err(Errno::EINVAL);
    }
    let process = target(t, group)?;
    let thread = process.thread(tid as u32).ok_or(Errno::ESRCH)?;
    if signal as u32 != 0 {
        let signal = number(signal)?;
        thread.send(forged(info, signal, Arc::ptr_eq(&process, &t.process))?)?;
    }
    Ok(0)
}
