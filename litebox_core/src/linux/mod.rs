//! The Linux system calls: registers in, a typed call, an error number out. One file per family; no state of its own.

mod clone;
pub mod file;
mod futex;
mod identity;
mod memory;
mod names;
mod process;
mod restart;
mod schedule;
mod signal;
mod system;
mod time;
mod timer;
mod wait;

pub use futex::{robust_list_exit, wake as futex_wake};
pub use restart::Restart;

use crate::errno::{Errno, Result};
use crate::platform::{Platform, Registers};
use crate::process::Thread;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use linux_raw_sys::general as nr;
use spin::Mutex;

/// `uname -r`: the Linux whose interface this is, and whose it is.
pub const RELEASE: &str = "6.1.0-litebox";

/// The arguments of a call: RDI, RSI, RDX, R10, R8, R9.
pub type Args = [u64; 6];

/// Makes the call that `registers` ask for, and puts the result into RAX. When earlier ones have left the kernel too little memory to make any more,
/// the process is killed, before the kernel itself runs out.
#[inline]
pub fn dispatch<P: Platform>(thread: &Arc<Thread<P>>, registers: &mut Registers) {
    if thread.platform().pages().is_exhausted() {
        return thread.out_of_memory();
    }
    let args = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    // The number is the low half of RAX, as on Linux.
    let number = registers.rax as u32;
    if number == nr::__NR_rt_sigreturn {
        // Sets every register itself.
        return thread.return_from_handler(registers);
    }
    registers.rax = match call(thread, number, args, registers) {
        Ok(value) => value as u64,
        Err(mut errno) => {
            if errno.is_restart() {
                errno = thread.interrupt_call(registers.rax, errno);
            }
            -i64::from(errno.raw()) as u64
        }
    };
}

fn call<P: Platform>(t: &Arc<Thread<P>>, number: u32, args: Args, registers: &Registers) -> Result<usize> {
    let [a, b, d, e, f, g] = args;
    match number {
        // The frequent ones first: a match is not always a table.
        nr::__NR_getpid => Ok(t.process.pid() as usize),
        nr::__NR_gettid => Ok(t.tid as usize),
        nr::__NR_futex => futex::futex(t, a, b, d, e, f, g),
        nr::__NR_clock_gettime => time::clock_gettime(t, a, b),

        nr::__NR_mmap => memory::mmap(t, args),
        nr::__NR_munmap => memory::munmap(t, a, b),
        nr::__NR_mprotect => memory::mprotect(t, a, b, d),
        nr::__NR_mremap => memory::mremap(t, a, b, d, e, f),
        nr::__NR_madvise => memory::madvise(t, a, b, d),
        nr::__NR_brk => Ok(t.mm().brk(a as usize)),
        nr::__NR_mincore => memory::mincore(t, a, b, d),
        nr::__NR_msync => memory::msync(t, a, b, d),
        nr::__NR_mlock => memory::mlock(t, a, b, 0),
        nr::__NR_mlock2 => memory::mlock(t, a, b, d),
        nr::__NR_munlock => memory::munlock(t, a, b),
        nr::__NR_mlockall => memory::mlockall(a),
        nr::__NR_munlockall => Ok(0),
        nr::__NR_mbind | nr::__NR_set_mempolicy | nr::__NR_migrate_pages => {
            memory::set_mempolicy(number, args)
        }
        nr::__NR_get_mempolicy => memory::get_mempolicy(t, a, b, d, f),
        nr::__NR_membarrier => memory::membarrier(a, b),
        nr::__NR_pkey_alloc | nr::__NR_pkey_free | nr::__NR_pkey_mprotect => memory::pkey(t, number, args),

        nr::__NR_arch_prctl => process::arch_prctl(t, a, b),
        nr::__NR_prctl => process::prctl(t, args),
        nr::__NR_fork => clone::fork(t, registers),
        nr::__NR_vfork => clone::vfork(t, registers),
        nr::__NR_clone => clone::clone(t, args, registers),
        nr::__NR_clone3 => clone::clone3(t, a, b, registers),
        nr::__NR_exit => process::exit(t, a),
        nr::__NR_exit_group => process::exit_group(t, a),
        nr::__NR_execve => process::execve(t, a, b, d),
        nr::__NR_execveat => process::execveat(t, a, b, d, e, f),
        nr::__NR_set_tid_address => process::set_tid_address(t, a),
        nr::__NR_set_robust_list => process::set_robust_list(t, a, b),
        nr::__NR_get_robust_list => process::get_robust_list(t, a, b, d),
        nr::__NR_wait4 => wait::wait4(t, a, b, d, e),
        nr::__NR_waitid => wait::waitid(t, a, b, d, e, f),
        nr::__NR_getrlimit => process::getrlimit(t, a, b),
        nr::__NR_setrlimit => process::setrlimit(t, a, b),
        nr::__NR_prlimit64 => process::prlimit64(t, a, b, d, e),
        nr::__NR_getrusage => process::getrusage(t, a, b),
        nr::__NR_times => process::times(t, a),
        nr::__NR_personality => process::personality(a),

        nr::__NR_getppid => Ok(t.process.identity.lock().ppid as usize),
        nr::__NR_getpgrp => Ok(t.process.identity.lock().pgid as usize),
        nr::__NR_getpgid => identity::getpgid(t, a),
        nr::__NR_setpgid => identity::setpgid(t, a, b),
        nr::__NR_getsid => identity::getsid(t, a),
        nr::__NR_setsid => identity::setsid(t),
        nr::__NR_getuid | nr::__NR_geteuid => Ok(identity::credentials(t).uid as usize),
        nr::__NR_getgid | nr::__NR_getegid => Ok(identity::credentials(t).gid as usize),
        nr::__NR_getresuid => identity::getresuid(t, a, b, d),
        nr::__NR_getresgid => identity::getresgid(t, a, b, d),
        nr::__NR_setuid => identity::set_uid(t, &[a]),
        nr::__NR_setgid => identity::set_gid(t, &[a]),
        nr::__NR_setreuid => identity::set_uid(t, &[a, b]),
        nr::__NR_setregid => identity::set_gid(t, &[a, b]),
        nr::__NR_setresuid => identity::set_uid(t, &[a, b, d]),
        nr::__NR_setresgid => identity::set_gid(t, &[a, b, d]),
        nr::__NR_setfsuid => Ok(identity::credentials(t).uid as usize),
        nr::__NR_setfsgid => Ok(identity::credentials(t).gid as usize),
        nr::__NR_getgroups => identity::getgroups(t, a, b),
        nr::__NR_setgroups => identity::setgroups(t, a, b),
        nr::__NR_capget => identity::capget(t, a, b),
        nr::__NR_capset => identity::capset(t, a, b),

        nr::__NR_time => time::time(t, a),
        nr::__NR_gettimeofday => time::gettimeofday(t, a, b),
        nr::__NR_clock_getres => time::clock_getres(t, a, b),
        nr::__NR_clock_settime | nr::__NR_settimeofday | nr::__NR_adjtimex | nr::__NR_clock_adjtime => {
            Err(Errno::EPERM)
        }
        nr::__NR_nanosleep => time::nanosleep(t, a, b),
        nr::__NR_clock_nanosleep => time::clock_nanosleep(t, a, b, d, e),

        nr::__NR_rt_sigaction => signal::rt_sigaction(t, a, b, d, e),
        nr::__NR_rt_sigprocmask => signal::rt_sigprocmask(t, a, b, d, e),
        nr::__NR_rt_sigpending => signal::rt_sigpending(t, a, b),
        nr::__NR_rt_sigsuspend => signal::rt_sigsuspend(t, a, b),
        nr::__NR_rt_sigtimedwait => signal::rt_sigtimedwait(t, a, b, d, e),
        nr::__NR_sigaltstack => signal::sigaltstack(t, a, b, registers.rsp),
        nr::__NR_rt_sigqueueinfo => signal::rt_sigqueueinfo(t, a, b, d),
        nr::__NR_rt_tgsigqueueinfo => signal::rt_tgsigqueueinfo(t, a, b, d, e),
        nr::__NR_restart_syscall => restart::restart_syscall(t),
        nr::__NR_alarm => timer::alarm(t, a),
        nr::__NR_getitimer => timer::getitimer(t, a, b),
        nr::__NR_setitimer => timer::setitimer(t, a, b, d),
        nr::__NR_timer_create => timer::timer_create(t, a, b, d),
        nr::__NR_timer_settime => timer::timer_settime(t, a, b, d, e),
        nr::__NR_timer_gettime => timer::timer_gettime(t, a, b),
        nr::__NR_timer_getoverrun => timer::timer_getoverrun(t, a),
        nr::__NR_timer_delete => timer::timer_delete(t, a),
        nr::__NR_kill => signal::kill(t, a, b),
        nr::__NR_tkill => signal::tgkill(t, None, a, b),
        nr::__NR_tgkill => signal::tgkill(t, Some(a), b, d),
        nr::__NR_pause => signal::pause(t),

        nr::__NR_sched_yield => schedule::sched_yield(t),
        nr::__NR_sched_getaffinity => schedule::sched_getaffinity(t, a, b, d),
        nr::__NR_sched_setaffinity => schedule::sched_setaffinity(t, a, b, d),
        nr::__NR_sched_getscheduler => schedule::sched_getscheduler(t, a),
        nr::__NR_sched_setscheduler => schedule::sched_setscheduler(t, a, b, d),
        nr::__NR_sched_getparam => schedule::sched_getparam(t, a, b),
        nr::__NR_sched_setparam => schedule::sched_setscheduler(t, a, 0, b),
        nr::__NR_sched_get_priority_max => schedule::priority_bound(a, 99),
        nr::__NR_sched_get_priority_min => schedule::priority_bound(a, 1),
        nr::__NR_sched_rr_get_interval => schedule::sched_rr_get_interval(t, a, b),
        nr::__NR_getpriority => schedule::getpriority(t, a, b),
        nr::__NR_setpriority => schedule::setpriority(t, a, b),
        nr::__NR_ioprio_get | nr::__NR_ioprio_set => schedule::ioprio(number, a),
        nr::__NR_getcpu => schedule::getcpu(t, a, b),

        nr::__NR_uname => system::uname(t, a),
        nr::__NR_sysinfo => system::sysinfo(t, a),
        nr::__NR_getrandom => system::getrandom(t, a, b, d),
        nr::__NR_sethostname | nr::__NR_setdomainname | nr::__NR_syslog | nr::__NR_reboot => {
            Err(Errno::EPERM)
        }

        _ => match file::call(&**t, number, args) {
            Some(result) => result,
            None => unimplemented_call(t, number),
        },
    }
}

/// Numbers beyond the table that are logged, each once; a program that tries them all does not fill the log.
const UNKNOWN_LOGGED: usize = 32;

/// ENOSYS; the first time a number comes, the log says its name.
#[cold]
fn unimplemented_call<P: Platform>(t: &Thread<P>, number: u32) -> Result<usize> {
    static SEEN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
    let platform = t.platform();
    if platform.log_enabled() {
        let name = names::name(number);
        let mut seen = SEEN.lock();
        let room =
            name.is_some() || seen.iter().filter(|&&n| names::name(n).is_none()).count() < UNKNOWN_LOGGED;
        if room && seen.insert(number) {
            match name {
                Some(name) => platform.log(format_args!("system call {name} is not implemented: ENOSYS")),
                None => platform.log(format_args!("system call {number} does not exist: ENOSYS")),
            }
        }
    }
    Err(Errno::ENOSYS)
}
