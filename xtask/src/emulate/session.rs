//! One run of the emulator: starts QEMU, carries the guest's serial port, listens to the emulator, and waits for the end.
//!
//! As in [`crate::launch`], a thread per stream copies bytes and the calling thread waits for events only.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::{Map, Value};

use super::channel::{Message, Parser};
use super::machine::{Machine, Streams};
use crate::qemu::process::{self, Qemu};
use crate::qemu::streams::{Input, read_some, write_all};

/// Why the machine stopped.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// The emulator gave its report.
    Reported(Map<String, Value>),
    /// The emulator panicked.
    Bug(String),
    /// The timeout passed.
    TimedOut,
    /// This signal reached the launcher.
    Interrupted(i32),
    /// Nobody reads the output any more.
    OutputClosed,
    /// QEMU is gone without a word of the emulator's; how it ended and what it said.
    Vanished(String),
}

/// When things happened, counted from QEMU's start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// The guest's first instruction was next.
    pub first_instruction: Option<Duration>,
    /// The first byte from the guest's serial port arrived.
    pub first_byte: Option<Duration>,
    /// The emulator's report arrived.
    pub report: Option<Duration>,
    /// QEMU was gone and every stream had been passed on.
    pub total: Duration,
}

/// After the emulator's last word QEMU has this long to go by itself.
const GRACE: Duration = Duration::from_secs(2);

enum Event {
    Message(Message),
    FirstByte,
    Closed,
    QemuErrors(Vec<u8>),
    OutputClosed,
    Signal(i32),
    QemuExited,
}

/// Runs the machine to its end, with this process's standard streams as the guest's serial port and the trace.
///
/// # Errors
/// QEMU could not be started at all.
pub fn run(
    qemu: &Path,
    machine: &Machine,
    options: &str,
    timeout: Option<Duration>,
) -> Result<(Ending, Timing)> {
    let (serial, serial_qemu) = UnixStream::pair().context("cannot make a socket pair")?;
    let (channel, channel_qemu) = UnixStream::pair().context("cannot make a socket pair")?;
    let options = memory_file(options.as_bytes())?;
    let script = memory_file(machine.inputs.script.as_deref().unwrap_or_default())?;
    let streams = Streams {
        serial: serial_qemu.as_raw_fd(),
        channel: channel_qemu.as_raw_fd(),
        options: options.as_raw_fd(),
        script: script.as_raw_fd(),
    };
    process::block_signals()?;
    let inherited = vec![streams.serial, streams.channel, streams.options, streams.script];
    let arguments = machine.arguments(&streams);
    let start = Instant::now();
    let mut qemu = Qemu::start(qemu, &arguments, inherited)?;
    // QEMU's ends live in QEMU alone, or its death would not end the streams.
    drop((serial_qemu, channel_qemu, options, script));

    let (events, inbox) = mpsc::channel();
    // A serial port has no end of file: the socket stays open when the input has ended.
    let input = serial.try_clone().context("cannot duplicate a socket")?;
    thread::spawn(move || Input::Inherit.copy_to(&input));
    carry_serial(serial, events.clone());
    carry_channel(channel, events.clone());
    let mut open = 2;
    if let Some(errors) = qemu.take_errors() {
        open += 1;
        let events = events.clone();
        thread::spawn(move || drop(events.send(Event::QemuErrors(process::read_errors(errors)))));
    }
    let signals = events.clone();
    process::watch_signals(move |signal| signals.send(Event::Signal(signal)).is_ok());
    qemu.watch(move || drop(events.send(Event::QemuExited)));

    let deadline = timeout.map(|timeout| start + timeout);
    let mut wait =
        Wait { start, timing: Timing::default(), ending: None, errors: Vec::new(), open, deadline };
    wait.until_over(&inbox, &mut qemu);
    wait.timing.total = start.elapsed();
    let ending = match wait.ending {
        Some(ending) => ending,
        None => Ending::Vanished(process::describe_exit(qemu.reap(), &wait.errors)),
    };
    Ok((ending, wait.timing))
}

/// A nameless file with these contents.
fn memory_file(bytes: &[u8]) -> Result<File> {
    let file: OwnedFd =
        memfd_create(c"emulate", MFdFlags::MFD_CLOEXEC).context("cannot make a memory file")?;
    let mut file = File::from(file);
    file.write_all(bytes).context("cannot write a memory file")?;
    Ok(file)
}

/// The state of [`run`] while the machine runs.
struct Wait {
    start: Instant,
    timing: Timing,
    ending: Option<Ending>,
    errors: Vec<u8>,
    open: u32,
    deadline: Option<Instant>,
}

impl Wait {
    /// Takes events until QEMU is gone and its streams are drained.
    fn until_over(&mut self, inbox: &mpsc::Receiver<Event>, qemu: &mut Qemu) {
        let mut exited = false;
        while !(exited && self.open == 0) {
            let event = match self.deadline {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            };
            match event {
                Ok(Event::QemuExited) => {
                    exited = true;
                    // What it wrote before is still to be read, unless whoever reads our output has stopped.
                    self.deadline = Some(Instant::now() + GRACE);
                }
                Ok(event) => self.take(event, qemu),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if exited => break,
                Err(RecvTimeoutError::Timeout) => self.force(Ending::TimedOut, qemu),
            }
        }
    }

    fn force(&mut self, ending: Ending, qemu: &mut Qemu) {
        qemu.kill();
        self.ending.get_or_insert(ending);
        self.deadline = Some(Instant::now() + GRACE);
    }

    fn take(&mut self, event: Event, qemu: &mut Qemu) {
        let now = self.start.elapsed();
        match event {
            Event::Message(Message::Started) => {
                self.timing.first_instruction.get_or_insert(now);
            }
            Event::Message(Message::Trace(line) | Message::Unknown(line)) => {
                // Nobody may be reading; the trace is not worth failing for.
                let _ = writeln!(io::stderr(), "{line}");
            }
            Event::Message(Message::Summary(report)) => {
                self.timing.report.get_or_insert(now);
                self.over(Ending::Reported(report));
            }
            Event::Message(Message::Bug(why)) => self.over(Ending::Bug(why)),
            Event::FirstByte => {
                self.timing.first_byte.get_or_insert(now);
            }
            Event::Closed => self.open = self.open.saturating_sub(1),
            Event::QemuErrors(bytes) => {
                self.errors = bytes;
                self.open = self.open.saturating_sub(1);
            }
            Event::OutputClosed => self.force(Ending::OutputClosed, qemu),
            Event::Signal(signal) => self.force(Ending::Interrupted(signal), qemu),
            Event::QemuExited => {}
        }
    }

    /// The emulator has spoken; QEMU is about to end.
    fn over(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        let grace = Instant::now() + GRACE;
        self.deadline = Some(self.deadline.map_or(grace, |deadline| deadline.min(grace)));
    }
}

fn carry_serial(mut from: UnixStream, events: Sender<Event>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        let (mut seen, mut broken) = (false, false);
        let stdout = nix::unistd::dup(io::stdout()).ok().map(File::from);
        while let Some(bytes) = read_some(&mut from, &mut buffer) {
            if !seen {
                seen = true;
                let _ = events.send(Event::FirstByte);
            }
            if let Some(stdout) = &stdout
                && !broken
                && write_all(stdout, bytes).is_err()
            {
                broken = true;
                let _ = events.send(Event::OutputClosed);
            }
        }
        let _ = events.send(Event::Closed);
    });
}

fn carry_channel(mut from: UnixStream, events: Sender<Event>) {
    thread::spawn(move || {
        let (mut parser, mut buffer) = (Parser::default(), vec![0; 64 * 1024]);
        let mut send = |message| drop(events.send(Event::Message(message)));
        while let Some(bytes) = read_some(&mut from, &mut buffer) {
            parser.feed(bytes, &mut send);
        }
        parser.finish(&mut send);
        let _ = events.send(Event::Closed);
    });
}
