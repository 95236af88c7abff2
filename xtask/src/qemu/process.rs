//! QEMU's process.
//!
//! Invariant: it never outlives its [`Qemu`], nor this process: it is killed on drop, and by the Linux kernel (`PR_SET_PDEATHSIG`)
//! when the caller dies.

use std::io::{self, Read};
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// QEMU, running or ended. Dropping it kills it.
pub struct Qemu {
    child: Child,
    reaped: Option<ExitStatus>,
}

impl Qemu {
    /// Starts QEMU with these descriptors open in it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        path: &Path,
        arguments: &[impl AsRef<std::ffi::OsStr>],
        inherited: Vec<RawFd>,
    ) -> Result<Self> {
        let mut command = super::command(path);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child =
            spawn(&mut command, inherited).with_context(|| format!("cannot start {}", path.display()))?;
        Ok(Self { child, reaped: None })
    }

    /// What it says on standard error, once.
    pub fn take_errors(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Ends it.
    pub fn kill(&mut self) {
        if self.reaped.is_none() {
            // It may have exited by itself in the meantime; then there is nothing to kill.
            let _ = self.child.kill();
        }
    }

    /// Waits for its end.
    pub fn reap(&mut self) -> Option<ExitStatus> {
        if self.reaped.is_none() {
            self.reaped = self.child.wait().ok();
        }
        self.reaped
    }

    /// Calls `ended` from a thread when it has ended, without reaping it, so that its process id stays ours to kill.
    pub fn watch(&self, ended: impl FnOnce() + Send + 'static) {
        let pid = Pid::from_raw(self.child.id() as i32);
        thread::spawn(move || {
            while let Err(nix::Error::EINTR) =
                waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
            {}
            ended();
        });
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
        self.reap();
    }
}

fn spawn(command: &mut Command, inherited: Vec<RawFd>) -> io::Result<Child> {
    // A group of its own: Ctrl-C on the terminal is the launcher's to handle, not QEMU's.
    command.process_group(0);
    let parent = nix::unistd::getpid();
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if nix::unistd::getppid() != parent {
            return Err(io::Error::other("the launcher is gone"));
        }
        ending_signals().thread_unblock()?;
        for &fd in &inherited {
            // SAFETY: the caller keeps these descriptors open until after the fork.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only (`prctl`, `getppid`, `sigprocmask`, `fcntl`), all
    // async-signal-safe; it allocates only on the way to failing.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// The signals that end a machine.
fn ending_signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// Takes the signals that end a machine away from this process; [`watch_signals`] reports them instead. To be called before any thread
/// starts, so that each inherits the mask and only the one that waits takes them.
///
/// # Errors
/// The signal mask cannot be changed.
pub fn block_signals() -> Result<()> {
    ending_signals().thread_block().context("cannot block signals")
}

/// Calls `arrived` from a thread with each signal of [`block_signals`], until it returns false.
pub fn watch_signals(mut arrived: impl FnMut(i32) -> bool + Send + 'static) {
    thread::spawn(move || {
        while let Ok(signal) = ending_signals().wait() {
            if !arrived(signal as i32) {
                break;
            }
        }
    });
}

/// The beginning of what QEMU says on standard error; reads it to its end.
pub fn read_errors(mut from: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let _ = from.by_ref().take(64 * 1024).read_to_end(&mut kept);
    let _ = io::copy(&mut from, &mut io::sink());
    kept
}

/// How QEMU ended and what it said, in words.
pub fn describe_exit(exit: Option<ExitStatus>, errors: &[u8]) -> String {
    let exit = exit.map_or_else(|| "QEMU is gone".to_owned(), |exit| format!("QEMU ended with {exit}"));
    match String::from_utf8_lossy(errors).trim() {
        "" => exit,
        errors => format!("{exit} and said:\n{errors}"),
    }
}
