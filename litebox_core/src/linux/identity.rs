//! Users, groups, process groups, sessions, capabilities.

use crate::errno::{Errno, Result};
use crate::fs::Credentials;
use crate::mm::UserPtr;
use crate::north::file::Files;
use crate::platform::Platform;
use crate::process::{Process, Thread};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(super) fn credentials<P: Platform>(t: &Thread<P>) -> Arc<Credentials> {
    t.process.fs.lock().credentials.clone()
}

/// The process with this pid, 0 for the caller's. ESRCH.
fn process<P: Platform>(t: &Thread<P>, pid: u64) -> Result<Arc<Process<P>>> {
    match pid as i32 {
        0 => Ok(t.process.clone()),
        pid => u32::try_from(pid).ok().and_then(|pid| t.process.processes.find(pid)).ok_or(Errno::ESRCH),
    }
}

pub(super) fn getpgid<P: Platform>(t: &Thread<P>, pid: u64) -> Result<usize> {
    Ok(process(t, pid)?.identity.lock().pgid as usize)
}

pub(super) fn setpgid<P: Platform>(t: &Thread<P>, pid: u64, pgid: u64) -> Result<usize> {
    if (pgid as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let target = process(t, pid)?;
    // One after the other: they may be the same.
    let own = *t.process.identity.lock();
    let identity = *target.identity.lock();
    if identity.pid != own.pid {
        // Its own children, as long as they run its program.
        if identity.ppid != own.pid {
            return Err(Errno::ESRCH);
        }
        if identity.sid != own.sid {
            return Err(Errno::EPERM);
        }
        if target.executed.load(Ordering::Relaxed) {
            return Err(Errno::EACCES);
        }
    }
    // A session leader's group cannot change.
    if identity.sid == identity.pid {
        return Err(Errno::EPERM);
    }
    let pgid = if pgid as u32 == 0 { identity.pid } else { pgid as u32 };
    let exists = |other: &Arc<Process<P>>| {
        let other = *other.identity.lock();
        other.pgid == pgid && other.sid == own.sid
    };
    if pgid != identity.pid && !t.process.processes.all().iter().any(exists) {
        return Err(Errno::EPERM);
    }
    target.identity.lock().pgid = pgid;
    Ok(0)
}

pub(super) fn getsid<P: Platform>(t: &Thread<P>, pid: u64) -> Result<usize> {
    Ok(process(t, pid)?.identity.lock().sid as usize)
}

pub(super) fn setsid<P: Platform>(t: &Thread<P>) -> Result<usize> {
    let mut identity = t.process.identity.lock();
    if identity.pgid == identity.pid {
        return Err(Errno::EPERM);
    }
    identity.sid = identity.pid;
    identity.pgid = identity.pid;
    Ok(identity.pid as usize)
}

fn store3<P: Platform>(t: &Thread<P>, value: u32, to: [u64; 3]) -> Result<usize> {
    for address in to {
        t.mm().store(UserPtr::new(address), value)?;
    }
    Ok(0)
}

pub(super) fn getresuid<P: Platform>(t: &Thread<P>, a: u64, b: u64, d: u64) -> Result<usize> {
    store3(t, credentials(t).uid, [a, b, d])
}

pub(super) fn getresgid<P: Platform>(t: &Thread<P>, a: u64, b: u64, d: u64) -> Result<usize> {
    store3(t, credentials(t).gid, [a, b, d])
}

/// Real, effective and saved ids are one here: what is asked for must be the same number, or none (-1).
fn one_id(ids: &[u64], now: u32, privileged: bool) -> Result<Option<u32>> {
    let mut wanted = ids.iter().map(|&id| id as u32).filter(|&id| id != u32::MAX);
    let Some(first) = wanted.next() else { return Ok(None) };
    if wanted.any(|id| id != first) {
        return Err(Errno::EINVAL);
    }
    if first != now && !privileged { Err(Errno::EPERM) } else { Ok(Some(first)) }
}

fn change<P: Platform>(t: &Thread<P>, change: impl Fn(&mut Credentials)) {
    t.update_fs(&mut |fs| {
        let mut credentials = Credentials::clone(&fs.credentials);
        change(&mut credentials);
        fs.credentials = Arc::new(credentials);
    });
}

pub(super) fn set_uid<P: Platform>(t: &Thread<P>, ids: &[u64]) -> Result<usize> {
    let now = credentials(t);
    if let [id] = ids
        && *id as u32 == u32::MAX
    {
        return Err(Errno::EINVAL);
    }
    if let Some(uid) = one_id(ids, now.uid, now.privileged())? {
        change(t, |credentials| credentials.uid = uid);
    }
    Ok(0)
}

pub(super) fn set_gid<P: Platform>(t: &Thread<P>, ids: &[u64]) -> Result<usize> {
    let now = credentials(t);
    if let [id] = ids
        && *id as u32 == u32::MAX
    {
        return Err(Errno::EINVAL);
    }
    if let Some(gid) = one_id(ids, now.gid, now.privileged())? {
        change(t, |credentials| credentials.gid = gid);
    }
    Ok(0)
}

pub(super) fn getgroups<P: Platform>(t: &Thread<P>, size: u64, to: u64) -> Result<usize> {
    let groups = credentials(t).groups.clone();
    let size = size as i32;
    if size < 0 || size != 0 && (size as usize) < groups.len() {
        return Err(Errno::EINVAL);
    }
    if size != 0 {
        t.mm().write(to as usize, groups.as_bytes())?;
    }
    Ok(groups.len())
}

pub(super) fn setgroups<P: Platform>(t: &Thread<P>, size: u64, from: u64) -> Result<usize> {
    /// `NGROUPS_MAX`.
    const MAX: usize = 65536;
    if !credentials(t).privileged() {
        return Err(Errno::EPERM);
    }
    let size = usize::try_from(size as u32).ok().filter(|&size| size <= MAX).ok_or(Errno::EINVAL)?;
    let mut groups: Vec<u32> = alloc::vec![0; size];
    t.mm().read(from as usize, groups.as_mut_bytes())?;
    change(t, |credentials| credentials.groups = groups.clone());
    Ok(0)
}

/// `struct __user_cap_header_struct`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

const VERSION_1: u32 = 0x1998_0330;
const VERSION_2: u32 = 0x2007_1026;
const VERSION_3: u32 = 0x2008_0522;

/// Checks the header; how many words the sets have.
fn cap_words<P: Platform>(t: &Thread<P>, header: u64) -> Result<usize> {
    let at = UserPtr::<CapHeader>::new(header);
    let mut header = t.mm().load(at)?;
    let words = match header.version {
        VERSION_1 => 1,
        VERSION_2 | VERSION_3 => 2,
        _ => {
            header.version = VERSION_3;
            t.mm().store(at, header)?;
            return Err(Errno::EINVAL);
        }
    };
    process(t, header.pid as u64)?;
    Ok(words)
}

pub(super) fn capget<P: Platform>(t: &Thread<P>, header: u64, data: u64) -> Result<usize> {
    let words = match cap_words(t, header) {
        Err(Errno::EINVAL) if data == 0 => return Ok(0),
        other => other?,
    };
    // Capabilities 0 to 40, for uid 0; effective, permitted, inheritable.
    let all = if credentials(t).privileged() { [u32::MAX, 0x1ff] } else { [0, 0] };
    for (i, set) in all.into_iter().enumerate().take(words) {
        let to = UserPtr::<[u32; 3]>::new(data).element(i)?;
        t.mm().store(to, [set, set, 0u32])?;
    }
    Ok(0)
}

pub(super) fn capset<P: Platform>(t: &Thread<P>, header: u64, data: u64) -> Result<usize> {
    let words = cap_words(t, header)?;
    for i in 0..words {
        t.mm().load::<[u32; 3]>(UserPtr::new(data).element(i)?)?;
    }
    // Giving capabilities up is granted; uid 0 keeps what the permission checks look at, which is the uid.
    if credentials(t).privileged() { Ok(0) } else { Err(Errno::EPERM) }
}
