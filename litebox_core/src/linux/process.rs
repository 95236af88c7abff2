//! System calls on processes: execution, exit, limits, usage, prctl.

use super::Args;
use crate::errno::{Errno, Result};
use crate::fs::PATH_MAX;
use crate::mm::{Mm, UserPtr};
use crate::north::file;
use crate::platform::{ExitStatus, Platform};
use crate::process::{Limit, Thread, execute};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use linux_raw_sys::{general as c, prctl as pr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The longest argument or variable, and their total.
const MAX_STRING: usize = 128 << 10;
const MAX_STRINGS: usize = 2 << 20;

pub(super) fn arch_prctl<P: Platform>(t: &Thread<P>, code: u64, address: u64) -> Result<usize> {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    let platform = t.platform();
    match code {
        SET_FS | SET_GS => {
            let set =
                if code == SET_FS { platform.set_fs_base(address) } else { platform.set_gs_base(address) };
            if set { Ok(0) } else { Err(Errno::EPERM) }
        }
        GET_FS => t.mm().store(UserPtr::new(address), platform.fs_base()).map(|()| 0),
        GET_GS => t.mm().store(UserPtr::new(address), platform.gs_base()).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn prctl<P: Platform>(t: &Thread<P>, [option, a, b, d, e, _]: Args) -> Result<usize> {
    let mut state = t.process.prctl.lock();
    match option as u32 {
        pr::PR_SET_NAME => {
            drop(state);
            let mut name = [0u8; 16];
            // Up to its NUL byte: what is behind need not be mapped.
            for (i, byte) in name.iter_mut().take(15).enumerate() {
                let at = (a as usize).checked_add(i).ok_or(Errno::EFAULT)?;
                t.mm().read(at, core::slice::from_mut(byte))?;
                if *byte == 0 {
                    break;
                }
            }
            t.set_comm(&name);
            Ok(0)
        }
        pr::PR_GET_NAME => {
            drop(state);
            let name = *t.comm.lock();
            t.mm().write(a as usize, &name).map(|()| 0)
        }
        pr::PR_SET_DUMPABLE if a <= 1 => {
            state.dumpable = a;
            Ok(0)
        }
        pr::PR_GET_DUMPABLE => Ok(state.dumpable as usize),
        pr::PR_SET_PDEATHSIG if a <= 64 => {
            state.parent_death_signal = a as u32;
            Ok(0)
        }
        pr::PR_GET_PDEATHSIG => {
            let signal = state.parent_death_signal;
            drop(state);
            t.mm().store(UserPtr::new(a), signal).map(|()| 0)
        }
        pr::PR_SET_NO_NEW_PRIVS if (a, b, d, e) == (1, 0, 0, 0) => {
            state.no_new_privs = true;
            Ok(0)
        }
        pr::PR_GET_NO_NEW_PRIVS if (a, b, d, e) == (0, 0, 0, 0) => Ok(usize::from(state.no_new_privs)),
        pr::PR_SET_CHILD_SUBREAPER => {
            state.child_subreaper = a != 0;
            Ok(0)
        }
        pr::PR_GET_CHILD_SUBREAPER => {
            let value = u32::from(state.child_subreaper);
            drop(state);
            t.mm().store(UserPtr::new(a), value).map(|()| 0)
        }
        pr::PR_SET_TIMERSLACK => {
            state.timer_slack = if a == 0 { 50_000 } else { a };
            Ok(0)
        }
        pr::PR_GET_TIMERSLACK => Ok(state.timer_slack as usize),
        pr::PR_SET_THP_DISABLE if (b, d, e) == (0, 0, 0) => {
            state.thp_disable = a != 0;
            Ok(0)
        }
        pr::PR_GET_THP_DISABLE if (a, b, d, e) == (0, 0, 0, 0) => Ok(usize::from(state.thp_disable)),
        pr::PR_GET_KEEPCAPS => Ok(0),
        pr::PR_SET_KEEPCAPS if a <= 1 => Ok(0),
        // 0..=40 are the capabilities of Linux 6.1; uid 0 has them all.
        pr::PR_CAPBSET_READ if a <= 40 => Ok(1),
        pr::PR_GET_SECCOMP => Ok(0),
        // Names for anonymous mappings are decoration.
        pr::PR_SET_VMA => Ok(0),
        pr::PR_GET_TID_ADDRESS => {
            drop(state);
            let address = t.clear_child_tid.lock().address() as u64;
            t.mm().store(UserPtr::new(a), address).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn exit<P: Platform>(t: &Thread<P>, status: u64) -> Result<usize> {
    t.exit(status as u8);
    Ok(0)
}

pub(super) fn exit_group<P: Platform>(t: &Thread<P>, status: u64) -> Result<usize> {
    t.terminate(ExitStatus::Exited(status as u8));
    Ok(0)
}

/// Reads an array of string pointers that NULL ends; NULL itself is an empty one, as on Linux. E2BIG.
fn strings<P: Platform>(t: &Thread<P>, array: u64, total: &mut usize) -> Result<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    let Some(array) = UserPtr::<u64>::new(array).non_null() else { return Ok(out) };
    for i in 0.. {
        let address = t.mm().load(array.element(i)?)?;
        if address == 0 {
            break;
        }
        let string = t.mm().read_cstr(address as usize, MAX_STRING - 1, Errno::E2BIG)?;
        *total += string.len() + 1 + size_of::<u64>();
        if *total > MAX_STRINGS {
            return Err(Errno::E2BIG);
        }
        out.push(string);
    }
    Ok(out)
}

pub(super) fn execve<P: Platform>(t: &Arc<Thread<P>>, path: u64, argv: u64, envp: u64) -> Result<usize> {
    let path = t.mm().read_cstr(path as usize, PATH_MAX - 1, Errno::ENAMETOOLONG)?;
    exec(t, &path, argv, envp)
}

pub(super) fn execveat<P: Platform>(
    t: &Arc<Thread<P>>,
    dir: u64,
    path: u64,
    argv: u64,
    envp: u64,
    flags: u64,
) -> Result<usize> {
    let flags = flags as u32;
    if flags & !(c::AT_EMPTY_PATH | c::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut name = t.mm().read_cstr(path as usize, PATH_MAX - 1, Errno::ENAMETOOLONG)?;
    if name.is_empty() && flags & c::AT_EMPTY_PATH == 0 {
        return Err(Errno::ENOENT);
    }
    if name.first() != Some(&b'/') && dir as i32 != c::AT_FDCWD {
        // By its path: a file without one cannot be executed.
        let open = file::get(&**t, crate::fd::Fd::from_raw(dir as i32)?)?;
        let place = open.location().ok_or(Errno::EACCES)?;
        let mut whole = place.path_or_deleted(&t.process.fs.lock().root).map_err(|_| Errno::ENOENT)?;
        if !name.is_empty() {
            whole.push(b'/');
            whole.append(&mut name);
        }
        name = whole;
    }
    exec(t, &name, argv, envp)
}

fn exec<P: Platform>(t: &Arc<Thread<P>>, path: &[u8], argv: u64, envp: u64) -> Result<usize> {
    let mut total = 0;
    let mut args = strings(t, argv, &mut total)?;
    let env = strings(t, envp, &mut total)?;
    if args.is_empty() {
        // Linux gives a program at least its name, since programs have not coped with less.
        args.push(Vec::new());
    }
    let signals = t.signals.lock().clone();
    let mm = Mm::new(t.platform())?;
    match execute(&t.process, mm, Some(t), path, &args, &env, signals) {
        Ok((successor, registers)) => {
            t.succeed(successor, registers);
            Ok(0)
        }
        Err(error) => {
            t.mm().activate();
            Err(error.errno)
        }
    }
}

pub(super) fn set_tid_address<P: Platform>(t: &Thread<P>, address: u64) -> Result<usize> {
    *t.clear_child_tid.lock() = UserPtr::new(address);
    Ok(t.tid as usize)
}

/// `sizeof(struct robust_list_head)`.
const ROBUST_HEAD: u64 = 24;

pub(super) fn set_robust_list<P: Platform>(t: &Thread<P>, head: u64, len: u64) -> Result<usize> {
    if len != ROBUST_HEAD {
        return Err(Errno::EINVAL);
    }
    t.robust_list.store(head, Ordering::Relaxed);
    Ok(0)
}

pub(super) fn get_robust_list<P: Platform>(t: &Thread<P>, tid: u64, head: u64, len: u64) -> Result<usize> {
    let tid = tid as i32;
    let found = if tid == 0 {
        t.robust_list.load(Ordering::Relaxed)
    } else {
        let other = u32::try_from(tid).ok().and_then(|tid| t.process.thread(tid)).ok_or(Errno::ESRCH)?;
        other.robust_list.load(Ordering::Relaxed)
    };
    t.mm().store(UserPtr::new(len), ROBUST_HEAD)?;
    t.mm().store(UserPtr::new(head), found).map(|()| 0)
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Rlimit64 {
    soft: u64,
    hard: u64,
}

pub(super) fn prlimit64<P: Platform>(
    t: &Thread<P>,
    pid: u64,
    resource: u64,
    new: u64,
    old: u64,
) -> Result<usize> {
    if pid as i32 != 0 && pid as i32 != t.process.pid() as i32 {
        return Err(Errno::ESRCH);
    }
    let resource = u64::from(resource as u32);
    let before = t.process.limits.lock().by_number(resource)?;
    let new = match UserPtr::<Rlimit64>::new(new).non_null() {
        Some(new) => Some(t.mm().load(new)?),
        None => None,
    };
    if let Some(new) = new {
        let limit = Limit { soft: new.soft, hard: new.hard };
        let privileged = t.process.fs.lock().credentials.privileged();
        t.process.limits.lock().set_by_number(resource, limit, privileged)?;
        t.mm().set_limits(t.process.memory_limits());
    }
    if let Some(old) = UserPtr::new(old).non_null() {
        t.mm().store(old, Rlimit64 { soft: before.soft, hard: before.hard })?;
    }
    Ok(0)
}

/// Unlike `prlimit64`, NULL is no way to leave the limits out.
pub(super) fn getrlimit<P: Platform>(t: &Thread<P>, resource: u64, to: u64) -> Result<usize> {
    let limit = t.process.limits.lock().by_number(u64::from(resource as u32))?;
    t.mm().store(UserPtr::new(to), Rlimit64 { soft: limit.soft, hard: limit.hard }).map(|()| 0)
}

pub(super) fn setrlimit<P: Platform>(t: &Thread<P>, resource: u64, from: u64) -> Result<usize> {
    t.mm().load::<Rlimit64>(UserPtr::new(from))?;
    prlimit64(t, 0, resource, from, 0)
}

#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Rusage {
    user: [i64; 2],
    system: [i64; 2],
    max_resident: i64,
    unused: [i64; 13],
}
const _: () = assert!(size_of::<Rusage>() == 144);

impl Rusage {
    /// CPU time in ns, and the resident set in bytes.
    pub(super) fn of(cpu_time: u64, resident: usize) -> Rusage {
        let micros = (cpu_time / 1000) as i64;
        Rusage {
            user: [micros / 1_000_000, micros % 1_000_000],
            max_resident: (resident / 1024) as i64,
            ..Rusage::default()
        }
    }
}

pub(super) fn getrusage<P: Platform>(t: &Thread<P>, who: u64, to: u64) -> Result<usize> {
    const SELF: i32 = 0;
    const CHILDREN: i32 = -1;
    const THREAD: i32 = 1;
    let usage = match who as i32 {
        SELF | THREAD => {
            let time = if who as i32 == THREAD { t.cpu_time() } else { t.process.cpu_time() };
            Rusage::of(time, t.mm().usage().resident)
        }
        CHILDREN => Rusage::of(t.process.children_cpu_time.load(Ordering::Relaxed), 0),
        _ => return Err(Errno::EINVAL),
    };
    t.mm().store(UserPtr::new(to), usage).map(|()| 0)
}

pub(super) fn times<P: Platform>(t: &Thread<P>, to: u64) -> Result<usize> {
    /// Nanoseconds in a tick of 100 Hz.
    const TICK: u64 = 10_000_000;
    if let Some(to) = UserPtr::<[i64; 4]>::new(to).non_null() {
        let children = t.process.children_cpu_time.load(Ordering::Relaxed);
        let ticks = |ns: u64| (ns / TICK) as i64;
        t.mm().store(to, [ticks(t.process.cpu_time()), 0, ticks(children), 0])?;
    }
    Ok((t.platform().monotonic() / TICK) as usize)
}

pub(super) fn personality(persona: u64) -> Result<usize> {
    // Only PER_LINUX exists here; asking (0xffffffff) and setting it are the same. Flags like ADDR_NO_RANDOMIZE are not kept.
    if persona as u32 == u32::MAX || persona as u32 & 0xff == 0 { Ok(0) } else { Err(Errno::EINVAL) }
}
