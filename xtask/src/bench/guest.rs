//! Starts one guest, ours or Linux, with the benchmark program in it, and times what it says.
//!
//! Both are started by the same QEMU with the same accelerator, CPU model and memory, and both clocks start right before QEMU does.
//! Invariant: a [`Session`] that is valid came from a guest whose clock agrees with this host's; a guest that measured with a
//! coarse or a wrong clock yields a reason instead of numbers.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use nix::sys::signal::Signal;

use super::emulated;
use super::linux::Linux;
use super::sample::{self, FIRST_LINE, Sample};
use crate::cli::{Cli, Task};
use crate::launch::{Ending, Input, LaunchSpec, Output, launch};
use crate::machine::Accelerator;
use crate::workload::manifest;
use crate::{igvm, qemu, run, workload};

/// Bytes of memory that either guest gets.
pub const MEMORY: u64 = 256 << 20;

/// A guest that has not ended by then is broken.
pub const TIMEOUT: Duration = Duration::from_secs(300);

/// What both guests have in common.
#[derive(Clone, Debug)]
pub struct Setup {
    /// QEMU's path.
    pub qemu: PathBuf,
    /// What executes the guests.
    pub accelerator: Accelerator,
    /// The program.
    pub program: PathBuf,
    /// The TSC's frequency.
    pub tsc_khz: Option<u64>,
}

/// How much the program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only its first line.
    FirstLine,
    /// All rows.
    Table,
}

impl Mode {
    /// The program's arguments.
    pub fn arguments(self) -> &'static str {
        match self {
            Self::FirstLine => "first-line",
            Self::Table => "",
        }
    }
}

/// A guest that did what it was to do.
#[derive(Debug)]
pub struct Session {
    /// From QEMU's start to the arrival of the program's first line.
    pub first_line: Duration,
    /// What the program measured.
    pub sample: Sample,
    /// How often an SNP guest asked its host, from its first instruction to its end.
    pub exits: Option<u64>,
}

/// A kernel to run the program on.
pub enum Guest<'a> {
    /// Ours.
    LiteBox {
        /// The kernel's ELF file, or why there is none.
        kernel: Result<&'a Path, &'a String>,
    },
    /// Ours, as an SNP guest in the emulator.
    LiteBoxSnp {
        /// As above.
        kernel: Result<&'a Path, &'a String>,
    },
    /// Linux.
    Linux(&'a Linux),
    /// Linux, as an SNP guest in the emulator.
    LinuxSnp(&'a Linux),
}

impl Guest<'_> {
    /// Runs the program in a fresh guest with this CPU model.
    ///
    /// # Errors
    /// It did not come to its end, or its results cannot be trusted.
    pub fn run(&self, setup: &Setup, cpu: &str, mode: Mode) -> Result<Session> {
        let run = match self {
            Self::LiteBox { kernel: Ok(kernel) } => litebox(setup, kernel, cpu, mode, false)?,
            Self::LiteBoxSnp { kernel: Ok(kernel) } => litebox(setup, kernel, cpu, mode, true)?,
            Self::LiteBox { kernel: Err(why) } | Self::LiteBoxSnp { kernel: Err(why) } => bail!("{why}"),
            Self::Linux(linux) => run_linux(setup, linux, cpu, mode)?,
            Self::LinuxSnp(linux) => emulated::run_linux(linux, mode)?,
        };
        let sample = sample::parse(&run.output);
        if let Some(why) = &sample.error {
            bail!("the benchmark program gave up: {why}");
        }
        if mode == Mode::Table {
            // `tsc-early` is the same counter before Linux has made it final.
            if matches!(self, Self::Linux(_) | Self::LinuxSnp(_))
                && !matches!(sample.clock_source.as_deref(), Some("tsc" | "tsc-early"))
            {
                bail!(
                    "invalid: its clock source is {} and not tsc",
                    sample.clock_source.as_deref().unwrap_or("unknown")
                );
            }
            let elapsed = sample.elapsed.context("the benchmark program did not come to its end")?;
            ensure!(!sample.rows.is_empty(), "the benchmark program measured nothing");
            check_clock(elapsed, run.measured)?;
        }
        Ok(Session { first_line: run.first_line, sample, exits: run.exits })
    }
}

/// Compares how long the rows took by the guest's clock and by ours.
fn check_clock(guest: Duration, host: Duration) -> Result<()> {
    // Mounting, the console and the program's end lie outside of what the guest counts.
    let tolerance = host.mul_f64(0.05) + Duration::from_millis(50);
    ensure!(
        guest.abs_diff(host) <= tolerance,
        "invalid: its clock counted {:.3} s where {:.3} s passed",
        guest.as_secs_f64(),
        host.as_secs_f64()
    );
    Ok(())
}

/// What a run gives.
pub struct Run {
    /// Time to the first line.
    pub first_line: Duration,
    /// Time from there to the last.
    pub measured: Duration,
    /// What the program printed.
    pub output: String,
    /// Requests of an SNP guest.
    pub exits: Option<u64>,
}

fn litebox(setup: &Setup, kernel: &Path, cpu: &str, mode: Mode, emulated: bool) -> Result<Run> {
    let program = setup.program.as_os_str();
    let mut words: Vec<OsString> = ["xtask", "run-snp", "--platform", "vm"].map(OsString::from).to_vec();
    words.push(program.to_owned());
    words.extend(mode.arguments().split_whitespace().map(OsString::from));
    let Task::RunSnp(args) = Cli::try_parse_from(words)?.command else { bail!("run-snp is not run-snp") };
    let workload = workload::resolve(&args.program).map_err(|refusal| anyhow::anyhow!(refusal.why))?;
    let session = manifest::Session::current();
    let manifest = manifest::manifest(&args.program, &workload, &session, false)?;
    let root = Some(workload.image.path.clone());
    let mut machine = run::machine(kernel.to_owned(), setup.accelerator, MEMORY, root);
    machine.cpu = cpu.to_owned();
    let payload = if emulated {
        run::emulated(&mut machine)?;
        igvm::launch_image(kernel, &manifest)?
    } else {
        manifest
    };
    let outcome = launch(&LaunchSpec {
        qemu: setup.qemu.clone(),
        machine,
        payload,
        script: Vec::new(),
        stdin: Input::Bytes(Vec::new()),
        stdout: Output::Capture,
        stderr: Output::Capture,
        show_log: false,
        timeout: Some(TIMEOUT),
        handle_signals: false,
    })?;
    let said = String::from_utf8_lossy(&outcome.stdout).into_owned();
    if outcome.ending.status() != 0 {
        let why = match outcome.ending {
            Ending::Verdict(verdict) => {
                verdict.explanation().unwrap_or_else(|| format!("it ended with status {}", verdict.status()))
            }
            Ending::Vanished { qemu, .. } => qemu,
            other => format!("{other:?}"),
        };
        let errors = String::from_utf8_lossy(&outcome.stderr);
        let mut last: Vec<&str> = outcome.log.iter().map(String::as_str).chain(errors.lines()).collect();
        last.extend(said.lines().filter(|line| line.starts_with("error")));
        let from = last.len().saturating_sub(8);
        bail!("{why}\n{}", last.get(from..).unwrap_or_default().join("\n"));
    }
    ensure!(said.lines().next() == Some(FIRST_LINE), "its output does not begin with the first line");
    let first_line = outcome.timing.first_line.context("its first line did not arrive")?;
    let end = outcome.timing.verdict.unwrap_or(outcome.timing.total);
    let report = outcome.emulator.lines().last().unwrap_or_default();
    let exits = serde_json::from_str(report).ok().and_then(|report| emulated::exits(&report));
    Ok(Run { first_line, measured: end.saturating_sub(first_line), output: said, exits })
}

/// Kills QEMU when it goes out of scope.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The Linux guest's machine: as ours, with the interrupt controller and timer that Linux wants, and nothing else.
fn linux_arguments(setup: &Setup, linux: &Linux, cpu: &str, mode: Mode) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    add(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    add(&["-M", "microvm,acpi=off,x-option-roms=off,auto-kernel-cmdline=off"]);
    add(&["-accel", &setup.accelerator.to_string(), "-cpu", cpu, "-smp", "1"]);
    add(&["-m", &format!("{}k", MEMORY / 1024), "-serial", "stdio"]);
    add(&["-append", &linux.command_line(setup.tsc_khz, mode.arguments())]);
    args.extend([OsString::from("-kernel"), linux.kernel.clone().into()]);
    args.extend([OsString::from("-initrd"), linux.initramfs.clone().into()]);
    args
}

fn run_linux(setup: &Setup, linux: &Linux, cpu: &str, mode: Mode) -> Result<Run> {
    let mut command = qemu::command(&setup.qemu);
    command
        .args(linux_arguments(setup, linux, cpu, mode))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: between fork and exec the closure makes one system call (`prctl`), which is async-signal-safe.
    unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
    let start = Instant::now();
    let mut qemu = Qemu(command.spawn().with_context(|| format!("cannot start {}", setup.qemu.display()))?);
    let stdout = qemu.0.stdout.take().context("QEMU has no output")?;
    let mut stderr = qemu.0.stderr.take().context("QEMU has no errors")?;
    let (lines, inbox) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if lines.send((start.elapsed(), line)).is_err() {
                break;
            }
        }
    });
    let (mut first, mut end, mut output) = (None, None, String::new());
    let silent = loop {
        let left = (start + TIMEOUT).saturating_duration_since(Instant::now());
        match inbox.recv_timeout(left) {
            Ok((at, line)) => {
                let line = line.trim_end_matches('\r');
                if first.is_none() && line == FIRST_LINE {
                    first = Some(at);
                }
                if line.starts_with("elapsed\t") {
                    end = Some(at);
                }
                output.push_str(line);
                output.push('\n');
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break false,
            Err(mpsc::RecvTimeoutError::Timeout) => break true,
        }
    };
    ensure!(!silent, "Linux did not end within {} s; its console:\n{output}", TIMEOUT.as_secs());
    let Some(first) = first else {
        drop(qemu);
        let mut errors = String::new();
        let _ = stderr.read_to_string(&mut errors);
        bail!("the program's first line did not arrive; console and QEMU said:\n{output}{errors}");
    };
    let measured = end.unwrap_or(first).saturating_sub(first);
    Ok(Run { first_line: first, measured, output, exits: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_disagree_are_found() {
        let seconds = Duration::from_secs_f64;
        assert!(check_clock(seconds(4.0), seconds(4.1)).is_ok());
        assert!(check_clock(seconds(4.0), seconds(3.99)).is_ok());
        assert!(check_clock(seconds(4.0), seconds(5.0)).is_err());
        assert!(check_clock(seconds(8.0), seconds(4.0)).is_err());
    }
}
