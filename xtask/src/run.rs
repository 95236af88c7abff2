//! `run-snp`: from the command line to the program's exit status.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cli::{Platform, Run};
use crate::launch::{Ending, Input, LaunchSpec, Outcome, Output, launch};
use crate::machine::{Boot, Bus, Machine};
use crate::protocol::status;
use crate::workload::manifest::{Session, manifest};
use crate::{accel, host, igvm, kernel, qemu, workload};

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

/// What the machine is made of.
struct Parts {
    /// The workload image, and whether it was there already.
    image: PathBuf,
    reused: bool,
    /// The manifest, or the launch image that holds it.
    payload: Vec<u8>,
}

/// Packs the program and writes its manifest; for a kernel that boots as an SNP guest, into a launch image.
fn parts(args: &Run, boot: Boot, kernel: &Path) -> Result<Parts, Failure> {
    if let Some(built) = igvm::Built::open(&args.program)? {
        if boot == Boot::Pvh {
            return Err(anyhow::anyhow!("an IGVM file is for SNP guests: use --platform snp-emulated").into());
        }
        return Ok(Parts { image: built.image, reused: true, payload: built.igvm });
    }
    let workload = workload::resolve(&args.program)
        .map_err(|refusal| Failure { status: refusal.status, why: refusal.why })?;
    let manifest = manifest(&args.program, &workload, &Session::current(), args.verbose)?;
    let payload = match boot {
        Boot::Pvh => manifest,
        Boot::Emulator => igvm::launch_image(kernel, &manifest)?,
    };
    Ok(Parts { image: workload.image.path, reused: workload.image.reused, payload })
}

fn attempt(args: &Run, ran: &mut Option<(Machine, bool)>) -> Result<Outcome, Failure> {
    let boot = choose_platform(args.platform)?;
    let qemu = qemu::find_or_install()?;
    let kernel = kernel::build(args.kernel.as_deref().unwrap_or(kernel::PACKAGE))?;
    let accelerator = accel::choose(args.accel, &qemu)?;
    let Parts { mut image, reused, payload } = parts(args, boot, &kernel)?;
    if let Some(offset) = args.test_tamper {
        image = workload::tamper(&image, offset)?;
    }
    let mut machine = machine(kernel, accelerator, args.memory, Some(image.clone()));
    machine.bus = args.bus;
    if boot == Boot::Emulator {
        machine.kernel = kernel::build(kernel::EMULATOR)?;
        machine.cpu = "max,phys-bits=52,+la57".into();
        machine.boot = boot;
        machine.trace = args.trace.is_some();
    }
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
        let _ = fs::remove_file(&image);
    }
    let outcome = outcome?;
    if let Some(file) = &args.trace {
        fs::write(file, &outcome.emulator).with_context(|| format!("cannot write {}", file.display()))?;
    }
    *ran = Some((spec.machine, reused));
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
        app: args.program.app().to_string_lossy().into_owned(),
        args: args.program.args().iter().map(|arg| arg.to_string_lossy().into_owned()).collect(),
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
