//! From the manifest to the first program, and the loop in which it runs.

use super::exec::{ExecError, execute};
use super::family::Processes;
use super::object::{Identity, Process, System};
use super::signal::ThreadSignals;
use super::thread::Thread;
use crate::errno::Errno;
use crate::fs::erofs::Erofs;
use crate::fs::verity::{OnTamper, VerityDevice};
use crate::fs::{FsContext, Lower, namespace, ops};
use crate::linux;
use crate::manifest::{Manifest, StreamKind};
use crate::mm::Mm;
use crate::platform::{Attack, ExitStatus, PageFault, Platform, Registers, UserExit};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::{boxed::Box, format};
use core::fmt;

/// Pid of the workload: the only process, and so the first.
const PID: u32 = 1;

/// Why there is nothing to run, and the status that says so.
struct Failure {
    status: ExitStatus,
    why: String,
}

impl Failure {
    fn launch(why: impl fmt::Display) -> Failure {
        Failure { status: ExitStatus::BadLaunch, why: format!("{why}") }
    }
}

impl From<ExecError> for Failure {
    fn from(error: ExecError) -> Failure {
        let status = match error.errno {
            Errno::ENOENT | Errno::ENOTDIR => ExitStatus::NotFound,
            _ => ExitStatus::NotExecutable,
        };
        Failure { status, why: error.why.into_owned() }
    }
}

/// Runs what the manifest names, and ends the machine with its status.
pub fn launch<P: Platform>(platform: &'static P, manifest: &Manifest) -> ! {
    let (thread, registers) = match prepare(platform, manifest) {
        Ok(ready) => ready,
        Err(failure) => platform.power_off(failure.status, format_args!("{}", failure.why)),
    };
    let process = thread.process.clone();
    // One reference is kept: what the workload had need not be given back by a machine that ends.
    let last = run(thread.clone(), registers);
    if process.exit_status().is_none() {
        // The first thread has ended, and others may go on.
        last.leave();
        while process.exit_status().is_none() {
            last.wait_regardless(&process.thread_left, &mut || process.exit_status().is_some());
        }
    }
    let status = process.exit_status().unwrap_or(ExitStatus::Exited(0));
    platform.power_off(status, format_args!(""))
}

/// A tampered image is the host's attack.
struct EndMachine<P: Platform>(&'static P);

impl<P: Platform> OnTamper for EndMachine<P> {
    fn tampered(&self, what: fmt::Arguments<'_>) -> ! {
        self.0.host_attack(Attack::ImageTampered, what)
    }
}

/// The workload image as a file system, verified as it is read.
fn image<P: Platform>(platform: &'static P, manifest: &Manifest) -> Result<Option<Arc<dyn Lower>>, Failure> {
    let Some(root) = manifest.root else { return Ok(None) };
    let device = platform
        .root_device()
        .ok_or_else(|| Failure::launch("the manifest names a workload image, and there is no disk"))?;
    let verified =
        VerityDevice::new(device, root.verity, root.blocks, platform.pages(), Box::new(EndMachine(platform)))
            .map_err(|error| Failure::launch(format_args!("workload image: {error}")))?;
    let image =
        Erofs::new(verified).map_err(|error| Failure::launch(format_args!("workload image: {error}")))?;
    Ok(Some(Arc::new(image)))
}

/// A process with the manifest's files, streams and working directory, that runs no program: what a Rust program that is linked in
/// calls the North with ([`crate::north`]).
pub fn enter<P: Platform>(platform: &'static P, manifest: &Manifest) -> Result<Arc<Thread<P>>, String> {
    let process = process(platform, manifest).map_err(|failure| failure.why)?;
    let mm = process.mm.read().clone();
    let thread = Thread::new(&process, mm, PID, b"north");
    thread.bind();
    Ok(thread)
}

fn prepare<P: Platform>(
    platform: &'static P,
    manifest: &Manifest,
) -> Result<(Arc<Thread<P>>, Registers), Failure> {
    let process = process(platform, manifest)?;
    let mm = process.mm.read().clone();
    Ok(execute(&process, mm, None, &manifest.exec, &manifest.args, &manifest.env, ThreadSignals::default())?)
}

/// The workload's process, without a program.
fn process<P: Platform>(platform: &'static P, manifest: &Manifest) -> Result<Arc<Process<P>>, Failure> {
    let lower = image(platform, manifest)?;
    let processes = Processes::new(manifest.hostname.clone());
    let streams = namespace::StandardStreams {
        tty: [manifest.stdin, manifest.stdout, manifest.stderr].map(|kind| kind == StreamKind::Tty),
        window: manifest.winsize,
    };
    let space = namespace::Namespace::new(platform, lower, processes.clone(), streams)
        .map_err(|errno| Failure::launch(format_args!("cannot set the file system up: {errno}")))?;
    platform.pages().set_reclaim_hook(space.reclaimer());

    let mut fs = FsContext::new(space.mounts.root());
    // The root is where it is already.
    if manifest.cwd != b"/" {
        fs.cwd = ops::resolve(&fs, &fs.cwd, &manifest.cwd, true)
            .ok()
            .filter(|place| place.inode.file_type() == crate::fs::FileType::Directory)
            .ok_or_else(|| {
                Failure::launch(format_args!(
                    "working directory {}: no such directory in the workload image",
                    String::from_utf8_lossy(&manifest.cwd)
                ))
            })?;
    }
    let fds = space.standard_streams().map_err(Failure::launch)?;
    let system = System::new(platform, space.mounts.clone(), manifest.hostname.clone());
    let identity = Identity { pid: PID, ppid: 0, pgid: PID, sid: PID };
    let empty = Mm::new(platform).map_err(Failure::launch)?;
    let process = Process::new(platform, system, processes.clone(), identity, fds, fs, empty);
    processes.add(&process);
    Ok(process)
}

/// Runs user code until the thread is to end, by itself or with its process; the thread that it is then, which has yet to [`Thread::leave`].
pub fn run<P: Platform>(mut thread: Arc<Thread<P>>, mut registers: Registers) -> Arc<Thread<P>> {
    let platform = thread.platform();
    thread.bind();
    loop {
        if thread.take_attention() {
            if let Some((successor, first)) = thread.take_successor() {
                successor.bind();
                // The old thread, and with it the old memory, goes here.
                thread = successor;
                registers = first;
            }
            if !thread.is_ending() {
                thread.deliver_signals(&mut registers);
            }
            if thread.is_ending() {
                return thread;
            }
        }
        match platform.run_user(&mut registers) {
            UserExit::Syscall => linux::dispatch(&thread, &mut registers),
            UserExit::PageFault(fault) => page_fault(&thread, &fault),
            UserExit::Exception(exception) => thread.exception(exception, &registers),
            UserExit::Interrupt => platform.yield_now(),
        }
    }
}

fn page_fault<P: Platform>(thread: &Thread<P>, fault: &PageFault) {
    if let Err(error) = thread.mm().handle_fault(fault.address, fault.access) {
        thread.bad_access(fault, error);
    }
}
