//! `run-snp`: from the command line to the program's exit status.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use litebox_core::manifest::{LogLevel, Manifest, Root, StreamKind};
use serde::Serialize;

use crate::cli::{Platform, Run};
use crate::launch::{Ending, Input, LaunchSpec, Outcome, Output, launch};
use crate::machine::{Boot, Bus, Machine};
use crate::protocol::status;
use crate::workload::{self, Workload};
use crate::{accel, host, igvm, kernel, qemu};

/// What Linux gives a program that has no environment of its own to inherit.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The `--json` report.
#[derive(Serialize)]
struct Report<'a> {
    app: String,
    args: Vec<String>,
    platform: &'a str,
    confidential: bool,
    accelerator: Option<String>,
    cpu: Option<&'a str>,
    memory_bytes: u64,
    image: Option<String>,
    image_reused: Option<bool>,
    ending: String,
    exit_status: i32,
    boot_ms: Option<f64>,
    first_line_ms: Option<f64>,
    total_ms: Option<f64>,
}

/// Runs the program and returns the exit status.
pub fn run(args: &Run) -> i32 {
    let mut ran = None;
    let (status, ending) = match attempt(args, &mut ran) {
        Ok(outcome) => {
            let why = explain(&outcome.ending, args);
            if let Some(why) = &why {
                complain(why);
            }
            (outcome.ending.status(), (why, Some(outcome)))
        }
        Err(failure) => {
            complain(&failure.why);
            (failure.status, (Some(failure.why), None))
        }
    };
    if let Some(target) = &args.json {
        report(args, target.as_ref(), status, ending, ran);
    }
    status
}

/// Why nothing was started.
struct Failure {
    status: i32,
    why: String,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { status: status::LAUNCH_FAILED, why: format!("{error:#}") }
    }
}

fn complain(why: &str) {
    use std::io::Write;
    // A closed stderr must not turn into a panic.
    let _ = writeln!(io::stderr(), "xtask: {why}");
}

fn attempt(args: &Run, ran: &mut Option<(Machine, bool)>) -> Result<Outcome, Failure> {
    let boot = choose_platform(args.platform)?;
    let workload =
        workload::resolve(args).map_err(|refusal| Failure { status: refusal.status, why: refusal.why })?;
    let qemu = qemu::find_or_install()?;
    let kernel = kernel::build(args.kernel.as_deref().unwrap_or(kernel::PACKAGE))?;
    let accelerator = accel::choose(args.accel, &qemu)?;
    let manifest = manifest(args, &workload)?;
    let mut machine = machine(kernel, accelerator, args.memory, Some(workload.image.path.clone()));
    machine.bus = args.bus;
    let payload = match boot {
        Boot::Pvh => manifest,
        Boot::Emulator => {
            let file = igvm::launch_image(&machine.kernel, &manifest)?;
            machine.kernel = kernel::build(kernel::EMULATOR)?;
            machine.cpu = "max,phys-bits=52,+la57".into();
            machine.boot = boot;
            machine.trace = args.trace.is_some();
            file
        }
    };
    let spec = LaunchSpec {
        qemu,
        machine,
        payload,
        stdin: Input::Inherit,
        stdout: Output::Inherit,
        stderr: Output::Inherit,
        show_log: args.verbose,
        timeout: args.timeout,
        handle_signals: true,
    };
    let outcome = launch(&spec);
    if args.test_tamper.is_some() {
        let _ = fs::remove_file(&workload.image.path);
    }
    let outcome = outcome?;
    if let Some(file) = &args.trace {
        fs::write(file, &outcome.emulator).with_context(|| format!("cannot write {}", file.display()))?;
    }
    *ran = Some((spec.machine, workload.image.reused));
    Ok(outcome)
}

/// The machine that `run-snp` starts.
pub fn machine(
    kernel: PathBuf,
    accelerator: crate::machine::Accelerator,
    memory: u64,
    root: Option<PathBuf>,
) -> Machine {
    let realtime_ns = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|time| u64::try_from(time.as_nanos()).ok())
        .unwrap_or_default();
    Machine {
        boot: Boot::Pvh,
        bus: Bus::Mmio,
        trace: false,
        kernel,
        root,
        memory,
        accelerator,
        cpu: "max".into(),
        tsc_khz: host::tsc_khz(),
        realtime_ns,
    }
}

fn choose_platform(platform: Platform) -> Result<Boot, Failure> {
    match platform {
        Platform::Vm => Ok(Boot::Pvh),
        Platform::Auto => {
            complain(
                "platform: vm, an ordinary virtual machine. NOT CONFIDENTIAL: the host can read and change everything in it",
            );
            Ok(Boot::Pvh)
        }
        Platform::SnpEmulated => Ok(Boot::Emulator),
        Platform::Snp => Err(Failure {
            status: status::LAUNCH_FAILED,
            why: "this platform is not there yet; use --platform snp-emulated or vm (not confidential)"
                .into(),
        }),
    }
}

/// The manifest that `run-snp` gives the machine.
///
/// # Errors
/// A word cannot be passed to a program.
pub fn manifest(args: &Run, workload: &Workload) -> Result<Vec<u8>> {
    let given = |key: &str| args.env.iter().any(|pair| pair.as_bytes().starts_with(key.as_bytes()));
    let mut env: Vec<Vec<u8>> = Vec::new();
    for default in [DEFAULT_PATH, "HOME=/root"] {
        if !given(default.split_inclusive('=').next().unwrap_or_default()) {
            env.push(default.into());
        }
    }
    let terminals = [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()];
    if terminals.contains(&true)
        && !given("TERM=")
        && let Some(term) = std::env::var_os("TERM")
    {
        env.push([b"TERM=", term.as_bytes()].concat());
    }
    env.extend(args.env.iter().map(|pair| pair.as_bytes().to_vec()));
    let [stdin, stdout, stderr] = terminals.map(|is| if is { StreamKind::Tty } else { StreamKind::Pipe });
    let manifest = Manifest {
        root: Some(Root { verity: workload.image.root_hash, blocks: workload.image.data_blocks }),
        exec: workload.exec.as_bytes().to_vec(),
        args: args.command.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env,
        cwd: args.workdir.clone().into_bytes(),
        hostname: Vec::new(),
        stdin,
        stdout,
        stderr,
        winsize: window_size(),
        log: if args.verbose { LogLevel::Info } else { LogLevel::Off },
    };
    manifest.encode().map_err(|error| anyhow::anyhow!("arguments, environment or --workdir: {error}"))
}

nix::ioctl_read_bad!(get_window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);

/// Columns and rows of the first of our standard streams that is a terminal.
fn window_size() -> Option<(u16, u16)> {
    (0..=2).find_map(|fd| {
        let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the pointer is to a `winsize` of ours, which is what TIOCGWINSZ writes; a descriptor that is no terminal,
        // or not open, gives an error.
        unsafe { get_window_size(fd, &mut size) }.ok()?;
        (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
    })
}

fn explain(ending: &Ending, args: &Run) -> Option<String> {
    match ending {
        Ending::Verdict(verdict) => verdict.explanation(),
        Ending::TimedOut => {
            Some(format!("timed out after {} s", args.timeout.unwrap_or(Duration::ZERO).as_secs_f64()))
        }
        Ending::Interrupted(_) | Ending::OutputClosed => None,
        Ending::Vanished { booted: false, qemu } => Some(format!("the kernel did not start: {qemu}")),
        Ending::Vanished { booted: true, qemu } => Some(format!(
            "kernel bug: the machine stopped without a word (-v shows the kernel's log): {qemu}"
        )),
    }
}

fn report(
    args: &Run,
    target: Option<&PathBuf>,
    status: i32,
    (why, outcome): (Option<String>, Option<Outcome>),
    ran: Option<(Machine, bool)>,
) {
    let (machine, image_reused) = ran.map_or((None, None), |(machine, reused)| (Some(machine), Some(reused)));
    let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let timing = outcome.as_ref().map(|outcome| outcome.timing);
    let ending = match outcome.as_ref().map(|outcome| &outcome.ending) {
        Some(Ending::Interrupted(signal)) => format!("interrupted by signal {signal}"),
        Some(Ending::OutputClosed) => "nobody reads the output".into(),
        _ => why.unwrap_or_else(|| match status {
            129..=192 => format!("ended by signal {}", status - status::SIGNALED),
            _ => "exited".into(),
        }),
    };
    let report = Report {
        app: args.app().to_string_lossy().into_owned(),
        args: args.args().iter().map(|arg| arg.to_string_lossy().into_owned()).collect(),
        platform: match args.platform {
            Platform::Snp => "snp",
            Platform::SnpEmulated => "snp-emulated",
            Platform::Auto | Platform::Vm => "vm",
        },
        confidential: false,
        accelerator: machine.as_ref().map(|machine| machine.accelerator.to_string()),
        cpu: machine.as_ref().map(|machine| machine.cpu.as_str()),
        memory_bytes: args.memory,
        image: machine.as_ref().and_then(|m| m.root.as_ref()).map(|root| root.display().to_string()),
        image_reused,
        ending,
        exit_status: status,
        boot_ms: timing.and_then(|timing| timing.booted).map(ms),
        first_line_ms: timing.and_then(|timing| timing.first_line).map(ms),
        total_ms: timing.map(|timing| ms(timing.total)),
    };
    let written =
        serde_json::to_string(&report).context("cannot encode the report").and_then(|text| match target {
            None => {
                use std::io::Write;
                writeln!(io::stderr(), "{text}").context("cannot write the report to stderr")
            }
            Some(file) => fs::write(file, text + "\n")
                .with_context(|| format!("cannot write the report to {}", file.display())),
        });
    if let Err(error) = written {
        complain(&format!("{error:#}"));
    }
}
