//! wait4, waitid.

use super::process::Rusage;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::platform::{ExitStatus, Platform};
use crate::process::signal::{Info, sig};
use crate::process::{Ended, Thread, Which};
use linux_raw_sys::general as c;

/// What `wait4` says: an exit status in the second byte, or a signal in the first.
fn encode(status: ExitStatus) -> u32 {
    match status {
        ExitStatus::Signaled(signal) => signal.into(),
        ExitStatus::Exited(code) => u32::from(code) << 8,
        // Processes end in no other way.
        _ => 0,
    }
}

fn store_usage<P: Platform>(t: &Thread<P>, to: u64, ended: &Ended) -> Result<()> {
    UserPtr::new(to).non_null().map_or(Ok(()), |to| t.mm().store(to, Rusage::of(ended.cpu_time, 0)))
}

pub(super) fn wait4<P: Platform>(
    t: &Thread<P>,
    pid: u64,
    to: u64,
    options: u64,
    usage: u64,
) -> Result<usize> {
    let options = options as u32;
    const KNOWN: u32 = c::WNOHANG | c::WUNTRACED | c::WCONTINUED | c::__WNOTHREAD | c::__WCLONE | c::__WALL;
    if options & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let which = match pid as i32 {
        -1 => Which::Any,
        0 => Which::Group(t.process.identity.lock().pgid),
        i32::MIN => return Err(Errno::ESRCH),
        group @ ..-1 => Which::Group(group.unsigned_abs()),
        pid => Which::Pid(pid as u32),
    };
    let Some(ended) = t.wait_child(which, options & c::WNOHANG != 0, false)? else { return Ok(0) };
    if let Some(to) = UserPtr::new(to).non_null() {
        t.mm().store(to, encode(ended.status))?;
    }
    store_usage(t, usage, &ended)?;
    Ok(ended.pid as usize)
}

pub(super) fn waitid<P: Platform>(
    t: &Thread<P>,
    kind: u64,
    id: u64,
    info: u64,
    options: u64,
    usage: u64,
) -> Result<usize> {
    let options = options as u32;
    let wanted = c::WEXITED | c::WSTOPPED | c::WCONTINUED;
    let known = wanted | c::WNOHANG | c::WNOWAIT | c::__WNOTHREAD | c::__WCLONE | c::__WALL;
    if options & !known != 0 || options & wanted == 0 {
        return Err(Errno::EINVAL);
    }
    let id = u32::try_from(id as i32);
    let which = match kind as u32 {
        c::P_ALL => Which::Any,
        c::P_PID => Which::Pid(id.ok().filter(|&id| id > 0).ok_or(Errno::EINVAL)?),
        c::P_PGID => match id.map_err(|_| Errno::EINVAL)? {
            0 => Which::Group(t.process.identity.lock().pgid),
            group => Which::Group(group),
        },
        _ => return Err(Errno::EINVAL),
    };
    // Nothing stops or continues here: who waits for that alone waits for a signal.
    let ended = if options & c::WEXITED != 0 {
        t.wait_child(which, options & c::WNOHANG != 0, options & c::WNOWAIT != 0)?
    } else {
        t.wait_child(which, true, true)?;
        if options & c::WNOHANG == 0 {
            t.wait_for(&[], &mut || false, None)?;
        }
        None
    };
    let said =
        ended.map_or(Info::default(), |ended| Info::child(sig::CHLD, ended.pid, ended.uid, ended.status));
    if let Some(to) = UserPtr::new(info).non_null() {
        t.mm().store(to, said)?;
    }
    if let Some(ended) = ended {
        store_usage(t, usage, &ended)?;
    }
    Ok(0)
}
