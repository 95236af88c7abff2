//! Starts a [`Machine`] in QEMU, carries its streams, and says how it ended.
//!
//! One thread per stream copies bytes, so that a slow reader of the output delays nothing but that output; the calling
//! thread waits for events only. Invariant: QEMU never outlives the caller. `run-snp`, `test` and `bench` all start their
//! virtual machines here; `emulate` has machines of another kind.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;

use crate::boot_rom::Rom;
use crate::machine::{Boot, Endpoint, Machine, Streams, inherited};
use crate::protocol::{Line, Parser, Verdict, status};
use crate::qemu::process::{self, Qemu};
pub use crate::qemu::streams::Input;
use crate::qemu::streams::{read_some, write_all};
use platform_snp::snp::Violation;
use platform_snp::snp::violation::REASON_SET;

/// Where a stream of output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// To this process's own.
    Inherit,
    /// Into the [`Outcome`].
    Capture,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct LaunchSpec {
    /// QEMU's path.
    pub qemu: PathBuf,
    /// The machine.
    pub machine: Machine,
    /// The encoded manifest, or the IGVM file that holds it.
    pub payload: Vec<u8>,
    /// The emulator's attack script, as it takes it; empty: none.
    pub script: Vec<u8>,
    /// Standard input.
    pub stdin: Input,
    /// Standard output.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Output,
    /// The kernel's log: to this process's standard error, or into the outcome only.
    pub show_log: bool,
    /// When to end the machine.
    pub timeout: Option<Duration>,
    /// Whether Ctrl-C and SIGTERM end the machine (they then no longer end this process by themselves).
    pub handle_signals: bool,
}

/// Why a machine stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest said so.
    Verdict(Verdict),
    /// The timeout passed.
    TimedOut,
    /// This signal reached the launcher.
    Interrupted(i32),
    /// Nobody reads the output any more.
    OutputClosed,
    /// The machine is gone without a word.
    Vanished {
        /// Whether the kernel had started.
        booted: bool,
        /// How QEMU ended and what it said.
        qemu: String,
    },
}

impl Ending {
    /// The launcher's exit status.
    pub fn status(&self) -> i32 {
        match self {
            Self::Verdict(verdict) => verdict.status(),
            Self::TimedOut => status::TIMED_OUT,
            Self::Interrupted(signal) => status::SIGNALED + signal,
            Self::OutputClosed => status::SIGNALED + Signal::SIGPIPE as i32,
            Self::Vanished { booted: false, .. } => status::LAUNCH_FAILED,
            Self::Vanished { booted: true, .. } => status::KERNEL_BUG,
        }
    }
}

/// When things happened, counted from QEMU's start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// The kernel said that it runs.
    pub booted: Option<Duration>,
    /// The first byte of the workload's output arrived.
    pub first_byte: Option<Duration>,
    /// The first line of the workload's output was complete.
    pub first_line: Option<Duration>,
    /// The guest said how it ended.
    pub verdict: Option<Duration>,
    /// QEMU was gone and every stream had been passed on.
    pub total: Duration,
}

/// How a launch went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why the machine stopped.
    pub ending: Ending,
    /// When things happened.
    pub timing: Timing,
    /// Captured standard output.
    pub stdout: Vec<u8>,
    /// Captured standard error.
    pub stderr: Vec<u8>,
    /// The kernel's log (at most [`LOG_MAX`] lines, the last ones dropped).
    pub log: Vec<String>,
    /// What the emulator reported, lines of JSON; empty without it.
    pub emulator: String,
}

/// The last line of an emulator's report.
#[derive(serde::Deserialize)]
struct Summary {
    ending: String,
    words: String,
    #[serde(default)]
    set: u8,
    #[serde(default)]
    code: u8,
}

/// How an emulated machine ended that did not say it itself: the emulator knows.
fn emulated(report: &str, attacked: bool, otherwise: &Ending) -> Ending {
    let summary = report.lines().rev().find_map(|line| serde_json::from_str::<Summary>(line).ok());
    match summary {
        // The guest's own reason codes: it found an attack.
        Some(summary) if summary.ending == "terminated" && summary.set == REASON_SET => {
            let reason = match Violation::from_code(summary.code) {
                Some(violation) => format!("{} {}", violation.name(), violation.words()),
                None => summary.words,
            };
            Ending::Verdict(Verdict::HostAttack(reason))
        }
        // No instruction of the guest's was executed: the host, or its PSP, refused the file.
        // The hardware does not let a guest go on whose memory the host has taken. Without a script it is the guest that uses a page in the wrong way.
        Some(summary) if attacked && matches!(summary.ending.as_str(), "rmp-fault" | "no-memory") => {
            Ending::Verdict(Verdict::HostAttack(format!("{} {}", summary.ending, summary.words)))
        }
        Some(summary) => Ending::Vanished { booted: summary.ending != "launch-failed", qemu: summary.words },
        None => match report.lines().find(|line| line.contains("emulator_bug")) {
            Some(line) => Ending::Vanished { booted: false, qemu: format!("bug of the emulator: {line}") },
            None => otherwise.clone(),
        },
    }
}

/// Lines of log that an [`Outcome`] keeps.
pub const LOG_MAX: usize = 10_000;

/// After the guest's last word QEMU has this long to go by itself.
const GRACE: Duration = Duration::from_secs(2);

enum Event {
    Serial(Line),
    First { byte: bool },
    Closed(Stream, Vec<u8>),
    OutputClosed,
    Signal(i32),
    QemuExited,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Serial,
    Stdout,
    Stderr,
    QemuErrors,
}

/// The firmware that starts the kernel, and whether the manifest is in it.
fn firmware(spec: &LaunchSpec) -> Result<(Vec<u8>, bool)> {
    let path = &spec.machine.kernel;
    // The start of an ELF header: its entry point is the kernel's PVH entry.
    let mut header = [0; 32];
    File::open(path)
        .and_then(|mut kernel| kernel.read_exact(&mut header))
        .with_context(|| format!("cannot read {}", path.display()))?;
    let entry = u64::from_le_bytes(header[24..].try_into().context("the header has 32 bytes")?);
    let rom = Rom {
        entry: entry.try_into().with_context(|| format!("{} is no kernel of ours", path.display()))?,
        memory: spec.machine.memory,
        low_memory_end: spec.machine.bus.low_memory_end(spec.machine.memory),
        command_line: &spec.machine.command_line(),
        manifest: &spec.payload,
    };
    Ok((rom.build(), rom.holds_manifest()))
}

/// Starts the machine and waits for its end.
///
/// # Errors
/// QEMU could not be started at all. How a machine that did start went is never an `Err`.
pub fn launch(spec: &LaunchSpec) -> Result<Outcome> {
    let (serial, serial_qemu) = UnixStream::pair().context("cannot make a socket pair")?;
    let (stdin, stdin_qemu) = UnixStream::pair().context("cannot make a socket pair")?;
    let (stdout, stdout_qemu) = UnixStream::pair().context("cannot make a socket pair")?;
    let (stderr, stderr_qemu) = UnixStream::pair().context("cannot make a socket pair")?;
    let payload: OwnedFd =
        memfd_create(c"payload", MFdFlags::MFD_CLOEXEC).context("cannot make a memory file")?;
    let mut payload = File::from(payload);
    payload.write_all(&spec.payload).context("cannot write what the guest is made of")?;
    let mut script: File =
        memfd_create(c"script", MFdFlags::MFD_CLOEXEC).context("cannot make a memory file")?.into();
    script.write_all(&spec.script).context("cannot write the attack script")?;
    let mut report: File =
        memfd_create(c"report", MFdFlags::MFD_CLOEXEC).context("cannot make a memory file")?.into();

    let rom = match spec.machine.boot {
        Boot::Pvh => Some(firmware(spec)?),
        Boot::Emulator | Boot::Snp => None,
    };
    let mut firmware: File =
        memfd_create(c"firmware", MFdFlags::MFD_CLOEXEC).context("cannot make a memory file")?.into();
    let in_rom = rom.as_ref().is_some_and(|(_, holds_manifest)| *holds_manifest);
    if let Some((image, _)) = rom {
        firmware.write_all(&image).context("cannot write the firmware")?;
    }

    let streams = Streams {
        serial: Endpoint::Socket(serial_qemu.as_raw_fd()),
        stdin: Endpoint::Socket(stdin_qemu.as_raw_fd()),
        stdout: Endpoint::Socket(stdout_qemu.as_raw_fd()),
        stderr: Endpoint::Socket(stderr_qemu.as_raw_fd()),
        payload: inherited(payload.as_raw_fd()),
        report: inherited(report.as_raw_fd()),
        rom: inherited(firmware.as_raw_fd()),
        script: inherited(script.as_raw_fd()),
    };
    if spec.handle_signals {
        process::block_signals()?;
    }
    let descriptors = vec![
        serial_qemu.as_raw_fd(),
        stdin_qemu.as_raw_fd(),
        stdout_qemu.as_raw_fd(),
        stderr_qemu.as_raw_fd(),
        payload.as_raw_fd(),
        report.as_raw_fd(),
        firmware.as_raw_fd(),
        script.as_raw_fd(),
    ];
    let arguments = spec.machine.arguments(&streams, !in_rom);
    let start = Instant::now();
    let mut qemu = Qemu::start(&spec.qemu, &arguments, descriptors)?;
    // QEMU's ends live in QEMU alone, or its death would not end the streams.
    drop((serial_qemu, stdin_qemu, stdout_qemu, stderr_qemu, payload, firmware, script));

    let (events, inbox) = mpsc::channel();
    carry_serial(serial, events.clone());
    carry_output(stdout, Stream::Stdout, spec.stdout, events.clone());
    carry_output(stderr, Stream::Stderr, spec.stderr, events.clone());
    if let Some(errors) = qemu.take_errors() {
        let events = events.clone();
        thread::spawn(move || {
            let said = process::read_errors(errors);
            let _ = events.send(Event::Closed(Stream::QemuErrors, said));
        });
    }
    // Half-closed at the end of input, and kept open until the end: QEMU takes a full close for "discard".
    let stdin_end = stdin.try_clone().context("cannot duplicate a socket")?;
    let input = spec.stdin.clone();
    thread::spawn(move || {
        input.copy_to(&stdin);
        let _ = stdin.shutdown(Shutdown::Write);
    });
    if spec.handle_signals {
        let events = events.clone();
        process::watch_signals(move |signal| events.send(Event::Signal(signal)).is_ok());
    }
    qemu.watch(move || drop(events.send(Event::QemuExited)));

    let mut wait = Wait {
        start,
        timing: Timing::default(),
        verdict: None,
        forced: None,
        log: Vec::new(),
        show_log: spec.show_log,
        captured: [Vec::new(), Vec::new(), Vec::new()],
        open: 4,
        exited: false,
        deadline: spec.timeout.map(|timeout| start + timeout),
    };
    wait.until_over(&inbox, &mut qemu);
    drop(stdin_end);
    wait.timing.total = start.elapsed();
    let exit = qemu.reap();
    let [stdout, stderr, errors] = wait.captured;
    let ending = match (wait.forced, wait.verdict) {
        (Some(Ending::TimedOut), Some(verdict)) | (None, Some(verdict)) => Ending::Verdict(verdict),
        (Some(forced), _) => forced,
        (None, None) => Ending::Vanished {
            booted: wait.timing.booted.is_some(),
            qemu: process::describe_exit(exit, &errors),
        },
    };
    let mut emulator = String::new();
    // What is no text is a bug of the emulator's, and shows as one.
    let _ = report.seek(SeekFrom::Start(0)).and_then(|_| report.read_to_string(&mut emulator));
    let ending = match ending {
        Ending::Vanished { .. } if spec.machine.boot == Boot::Emulator => {
            emulated(&emulator, spec.machine.attacked, &ending)
        }
        other => other,
    };
    Ok(Outcome { ending, timing: wait.timing, stdout, stderr, log: wait.log, emulator })
}

/// The state of [`launch`] while the machine runs.
struct Wait {
    start: Instant,
    timing: Timing,
    verdict: Option<Verdict>,
    forced: Option<Ending>,
    log: Vec<String>,
    show_log: bool,
    captured: [Vec<u8>; 3],
    open: u32,
    exited: bool,
    deadline: Option<Instant>,
}

impl Wait {
    /// Takes events until QEMU is gone and its streams are drained.
    fn until_over(&mut self, inbox: &mpsc::Receiver<Event>, qemu: &mut Qemu) {
        while !(self.exited && self.open == 0) {
            let event = match self.deadline {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            };
            match event {
                Ok(event) => self.take(event, qemu),
                Err(RecvTimeoutError::Disconnected) => break,
                // Killed and still not drained: whoever reads our output has stopped.
                Err(RecvTimeoutError::Timeout) if self.forced.is_some() => break,
                Err(RecvTimeoutError::Timeout) if self.exited => self.deadline = None,
                Err(RecvTimeoutError::Timeout) => self.force(Ending::TimedOut, qemu),
            }
        }
    }

    fn force(&mut self, ending: Ending, qemu: &mut Qemu) {
        qemu.kill();
        self.forced.get_or_insert(ending);
        self.deadline = Some(Instant::now() + Duration::from_millis(300));
    }

    fn take(&mut self, event: Event, qemu: &mut Qemu) {
        let now = self.start.elapsed();
        match event {
            Event::Serial(Line::Booted) => self.timing.booted = self.timing.booted.or(Some(now)),
            Event::Serial(Line::Verdict(verdict)) => {
                self.timing.verdict = Some(now);
                self.verdict = Some(verdict);
                let grace = Instant::now() + GRACE;
                self.deadline = Some(self.deadline.map_or(grace, |deadline| deadline.min(grace)));
            }
            Event::Serial(Line::Log(line)) => {
                if self.show_log {
                    // Nobody may be reading; the log is not worth failing for.
                    let _ = writeln!(io::stderr(), "{line}");
                }
                if self.log.len() < LOG_MAX {
                    self.log.push(line);
                }
            }
            Event::First { byte: true } => self.timing.first_byte = self.timing.first_byte.or(Some(now)),
            Event::First { byte: false } => self.timing.first_line = self.timing.first_line.or(Some(now)),
            Event::Closed(stream, bytes) => {
                self.open = self.open.saturating_sub(1);
                match stream {
                    Stream::Stdout => self.captured[0] = bytes,
                    Stream::Stderr => self.captured[1] = bytes,
                    Stream::QemuErrors => self.captured[2] = bytes,
                    Stream::Serial => {}
                }
            }
            Event::OutputClosed => self.force(Ending::OutputClosed, qemu),
            Event::Signal(signal) => self.force(Ending::Interrupted(signal), qemu),
            Event::QemuExited => self.exited = true,
        }
    }
}

fn carry_serial(mut from: UnixStream, events: Sender<Event>) {
    thread::spawn(move || {
        let (mut parser, mut buffer) = (Parser::default(), vec![0; 4096]);
        let mut send = |line| drop(events.send(Event::Serial(line)));
        while let Some(bytes) = read_some(&mut from, &mut buffer) {
            parser.feed(bytes, &mut send);
        }
        parser.finish(&mut send);
        let _ = events.send(Event::Closed(Stream::Serial, Vec::new()));
    });
}

fn carry_output(mut from: UnixStream, stream: Stream, output: Output, events: Sender<Event>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        let mut kept = Vec::new();
        let (mut seen_byte, mut seen_line) = (stream != Stream::Stdout, stream != Stream::Stdout);
        let target = match (output, stream) {
            (Output::Capture, _) => None,
            (Output::Inherit, Stream::Stdout) => nix::unistd::dup(io::stdout()).ok().map(File::from),
            (Output::Inherit, _) => nix::unistd::dup(io::stderr()).ok().map(File::from),
        };
        let mut broken = false;
        while let Some(bytes) = read_some(&mut from, &mut buffer) {
            if !seen_byte {
                seen_byte = true;
                let _ = events.send(Event::First { byte: true });
            }
            if !seen_line && bytes.contains(&b'\n') {
                seen_line = true;
                let _ = events.send(Event::First { byte: false });
            }
            match &target {
                None if output == Output::Capture => kept.extend_from_slice(bytes),
                Some(target) if !broken && write_all(target, bytes).is_err() => {
                    broken = true;
                    // As on Linux, a program whose output nobody reads is ended; one whose errors nobody reads is not.
                    if stream == Stream::Stdout {
                        let _ = events.send(Event::OutputClosed);
                    }
                }
                _ => {}
            }
        }
        let _ = events.send(Event::Closed(stream, kept));
    });
}
