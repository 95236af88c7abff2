//! clone, clone3, fork, vfork: new threads and processes.

use super::Args;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::platform::{Platform, Registers};
use crate::process::signal::sig;
use crate::process::{Fork, NewTask, Thread};
use alloc::sync::Arc;
use core::mem::offset_of;
use linux_raw_sys::general as c;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `struct clone_args`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// The size of the structure when it was new.
const CLONE_ARGS_SIZE_VER0: usize = offset_of!(CloneArgs, set_tid);
/// `CSIGNAL`: the signal at the child's end, in the flags of `clone`.
const CSIGNAL: u64 = 0xff;
/// What a thread shares with its creator.
const SHARED: u64 = (c::CLONE_VM | c::CLONE_FS | c::CLONE_FILES | c::CLONE_SIGHAND | c::CLONE_THREAD) as u64;
/// What may be asked for besides. SYSVSEM: there are no semaphores to share; DETACHED and PTRACE and UNTRACED mean nothing here.
const KNOWN: u64 = (c::CLONE_SYSVSEM
    | c::CLONE_SETTLS
    | c::CLONE_PARENT_SETTID
    | c::CLONE_CHILD_CLEARTID
    | c::CLONE_CHILD_SETTID
    | c::CLONE_DETACHED
    | c::CLONE_PTRACE
    | c::CLONE_UNTRACED) as u64;
/// `CLONE_CLEAR_SIGHAND`, of `clone3` only.
const CLEAR_SIGHAND: u64 = 1 << 32;
/// What a process may be asked for.
const PROCESS: u64 = (c::CLONE_VM | c::CLONE_VFORK) as u64 | CLEAR_SIGHAND;

pub(super) fn clone<P: Platform>(
    t: &Arc<Thread<P>>,
    [flags, stack, parent_tid, child_tid, tls, _]: Args,
    registers: &Registers,
) -> Result<usize> {
    let flags = u64::from(flags as u32);
    let args = CloneArgs {
        flags: flags & !CSIGNAL,
        pidfd: parent_tid,
        child_tid,
        parent_tid,
        exit_signal: flags & CSIGNAL,
        stack,
        stack_size: 0,
        tls,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    start(t, &args, stack, registers)
}

pub(super) fn clone3<P: Platform>(
    t: &Arc<Thread<P>>,
    at: u64,
    size: u64,
    registers: &Registers,
) -> Result<usize> {
    let size = usize::try_from(size).map_err(|_| Errno::E2BIG)?;
    if size > crate::platform::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < CLONE_ARGS_SIZE_VER0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = alloc::vec![0; size.max(size_of::<CloneArgs>())];
    t.mm().read(at as usize, bytes.get_mut(..size).unwrap_or_default())?;
    let (args, unknown) = CloneArgs::read_from_prefix(&bytes).map_err(|_| Errno::EINVAL)?;
    if unknown.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    // Choosing ids and control groups is the privilege of others.
    if args.set_tid_size != 0 || args.cgroup != 0 || args.flags & CSIGNAL != 0 || args.exit_signal > 64 {
        return Err(Errno::EINVAL);
    }
    if (args.stack == 0) != (args.stack_size == 0) {
        return Err(Errno::EINVAL);
    }
    let stack = args.stack.checked_add(args.stack_size).ok_or(Errno::EINVAL)?;
    start(t, &args, stack, registers)
}

fn start<P: Platform>(
    t: &Arc<Thread<P>>,
    args: &CloneArgs,
    stack: u64,
    registers: &Registers,
) -> Result<usize> {
    let has = |flag: u32| args.flags & u64::from(flag) != 0;
    if has(c::CLONE_SIGHAND) && !has(c::CLONE_VM) || has(c::CLONE_THREAD) && !has(c::CLONE_SIGHAND) {
        return Err(Errno::EINVAL);
    }
    // Threads of one process share all that a process has; processes share nothing of it but, for a while, memory.
    let thread = has(c::CLONE_THREAD);
    let (wanted, known) = if thread { (SHARED, SHARED | KNOWN) } else { (0, PROCESS | KNOWN) };
    if args.flags & wanted != wanted || args.flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let mut registers = Registers { rax: 0, ..*registers };
    if stack != 0 {
        registers.rsp = stack;
    }
    let word = |flag: u32, address: u64| UserPtr::<u32>::new(if has(flag) { address } else { 0 });
    let new = NewTask {
        registers,
        tls: has(c::CLONE_SETTLS).then_some(args.tls),
        set_child_tid: word(c::CLONE_CHILD_SETTID, args.child_tid),
        clear_child_tid: word(c::CLONE_CHILD_CLEARTID, args.child_tid),
        set_parent_tid: word(c::CLONE_PARENT_SETTID, args.parent_tid),
    };
    if thread {
        return t.spawn(new).map(|tid| tid as usize);
    }
    let how = Fork {
        shares_memory: has(c::CLONE_VM),
        waits_for_memory: has(c::CLONE_VFORK),
        exit_signal: args.exit_signal as u32,
        clears_handlers: args.flags & CLEAR_SIGHAND != 0,
    };
    let child = t.fork(new, &how)?;
    let pid = child.pid();
    if how.waits_for_memory {
        t.wait_for_memory(&child);
    }
    Ok(pid as usize)
}

pub(super) fn fork<P: Platform>(t: &Arc<Thread<P>>, registers: &Registers) -> Result<usize> {
    clone(t, [sig::CHLD.into(), 0, 0, 0, 0, 0], registers)
}

pub(super) fn vfork<P: Platform>(t: &Arc<Thread<P>>, registers: &Registers) -> Result<usize> {
    let flags = c::CLONE_VM | c::CLONE_VFORK | sig::CHLD;
    clone(t, [flags.into(), 0, 0, 0, 0, 0], registers)
}
