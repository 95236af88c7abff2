//! `run-snp`: from the command line to the program's exit status.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use litebox_igvm::profile::HostProfile;
use serde::Serialize;

use crate::cli::{Accel, Platform, Run};
use crate::emulate::script;
use crate::launch::{Ending, Input, LaunchSpec, Outcome, Output, launch};
use crate::machine::{Accelerator, Boot, Bus, Machine, SNP_CPU, Streams};
use crate::protocol::status;
use crate::snp_host::vmm;
use crate::workload::manifest::{Session, manifest};
use crate::{accel, host, igvm, kernel, qemu, snp_host, workload};

/// The `--json` report.
#[derive(Serialize)]
struct Report<'a> {
    app: String,
    args: Vec<String>,
    platform: Option<&'a str>,
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
    if args.print_command {
        return match print_command(args) {
            Ok(()) => 0,
            Err(failure) => {
                complain(&failure.why);
                failure.status
            }
        };
    }
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
            return Err(anyhow!("an IGVM file is for SNP guests: leave out --platform vm").into());
        }
        return Ok(Parts { image: built.image, reused: true, payload: built.igvm });
    }
    let workload = workload::resolve(&args.program)
        .map_err(|refusal| Failure { status: refusal.status, why: refusal.why })?;
    let manifest = manifest(&args.program, &workload, &Session::current(), args.verbose)?;
    let payload = match boot {
        Boot::Pvh => manifest,
        Boot::Emulator | Boot::Snp => igvm::launch_image(kernel, &manifest)?,
    };
    Ok(Parts { image: workload.image.path, reused: workload.image.reused, payload })
}

fn attempt(args: &Run, ran: &mut Option<(Machine, bool)>) -> Result<Outcome, Failure> {
    let qemu = qemu::find_or_install()?;
    let boot = choose_platform(args, &qemu)?;
    if args.script.is_some() && boot != Boot::Emulator {
        return Err(anyhow!("--script is for the emulator: add --platform snp-emulated").into());
    }
    if args.trace.is_some() && boot != Boot::Emulator {
        return Err(anyhow!("--trace is the emulator's: add --platform snp-emulated").into());
    }
    let script = args.script.as_deref().map(script::open).transpose()?;
    let kernel = kernel::build(args.kernel.as_deref().unwrap_or(kernel::PACKAGE))?;
    let accelerator = match boot {
        // The PSP's guests run on the CPU itself.
        Boot::Snp => Accelerator::Kvm,
        // Nested SVM under KVM is less tried than the translator.
        Boot::Emulator if args.accel == Accel::Auto => Accelerator::Tcg,
        Boot::Pvh | Boot::Emulator => accel::choose(args.accel, &qemu)?,
    };
    let Parts { mut image, reused, payload } = parts(args, boot, &kernel)?;
    if let Some(offset) = args.test_tamper {
        image = workload::tamper(&image, offset)?;
    }
    let mut machine = machine(kernel, accelerator, args.memory, Some(image.clone()));
    machine.bus = args.bus;
    match boot {
        Boot::Pvh => {}
        Boot::Emulator => {
            emulated(&mut machine)?;
            machine.trace = args.trace.is_some();
            machine.attacked = script.is_some();
        }
        Boot::Snp => {
            machine.boot = boot;
            machine.bus = Bus::Pci;
            machine.cpu = SNP_CPU.into();
        }
    }
    let spec = LaunchSpec {
        qemu,
        machine,
        payload,
        script: script.unwrap_or_default(),
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
pub fn machine(kernel: PathBuf, accelerator: Accelerator, memory: u64, root: Option<PathBuf>) -> Machine {
    let realtime_ns = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|time| u64::try_from(time.as_nanos()).ok());
    Machine {
        boot: Boot::Pvh,
        bus: Bus::Mmio,
        trace: false,
        attacked: false,
        kernel,
        root,
        memory,
        accelerator,
        cpu: "max".into(),
        tsc_khz: host::tsc_khz(),
        realtime_ns,
    }
}

/// Makes a machine one that runs the emulator.
///
/// # Errors
/// The emulator cannot be built.
pub fn emulated(machine: &mut Machine) -> Result<()> {
    machine.kernel = kernel::build(kernel::EMULATOR)?;
    machine.cpu = "max,phys-bits=52,+la57".into();
    machine.boot = Boot::Emulator;
    Ok(())
}

/// What runs the guest, said on stderr where it protects nothing.
fn choose_platform(args: &Run, qemu: &Path) -> Result<Boot, Failure> {
    let boot = match args.platform {
        Platform::Vm => Boot::Pvh,
        Platform::SnpEmulated => Boot::Emulator,
        Platform::Snp => {
            snp_host::usable(&snp_host::look(Some(qemu))).map_err(|missing| {
                anyhow::anyhow!(
                    "this host cannot run SNP guests; `cargo xtask doctor` shows more, and --platform snp-emulated runs the same launch image \
                     without protection:\n  {missing}"
                )
            })?;
            Boot::Snp
        }
        Platform::Auto if snp_host::is_usable(qemu) => Boot::Snp,
        Platform::Auto => Boot::Emulator,
    };
    complain(match boot {
        Boot::Pvh => {
            "platform: vm, an ordinary virtual machine. NOT CONFIDENTIAL: the host can read and change everything in it"
        }
        Boot::Emulator => {
            "platform: snp-emulated, an SNP guest without SNP hardware. NOT CONFIDENTIAL: the host can read and change everything in it"
        }
        Boot::Snp => {
            "platform: snp, a confidential VM. This has never been tried on SNP silicon: attest it before you trust it"
        }
    });
    Ok(boot)
}

/// The command that starts a launch image on SNP hardware, for other hands to start it.
fn print_command(args: &Run) -> Result<(), Failure> {
    let app = Path::new(args.program.app());
    fs::metadata(app).with_context(|| format!("cannot read {}", app.display()))?;
    let built = igvm::Built::open(&args.program)?.with_context(|| {
        format!("{}: no launch image: make one with `cargo xtask build-igvm -o NAME APP`", app.display())
    })?;
    let path = |path: &Path| std::path::absolute(path).with_context(|| format!("{}", path.display()));
    let (igvm, image) = (path(Path::new(args.program.app()))?, path(&built.image)?);
    let mut machine = machine(PathBuf::new(), Accelerator::Kvm, args.memory, Some(image.clone()));
    // The rate of this machine's TSC, and the time, are not those of the machine and the moment of the launch.
    (machine.boot, machine.bus) = (Boot::Snp, Bus::Pci);
    (machine.tsc_khz, machine.realtime_ns) = (None, None);
    machine.cpu = SNP_CPU.into();
    let options = machine.command_line();
    let guest = vmm::Guest { igvm: &igvm, image: &image, memory: args.memory, options: &options };
    let words = match args.host {
        HostProfile::CloudHypervisor => vmm::cloud_hypervisor(&guest),
        HostProfile::OpenVmm => vmm::openvmm(&guest),
        _ => {
            let mut words = vec![qemu::NAME.into()];
            words.extend(machine.arguments(&Streams::by_hand(igvm.clone()), false));
            words
        }
    };
    complain("this command has never been tried on SNP silicon");
    if let Some(lack) = vmm::lack(args.host) {
        complain(lack);
    }
    // A closed pipe is the reader's choice.
    let _ = writeln!(io::stdout(), "{}", vmm::shell(&words));
    Ok(())
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
        platform: machine.as_ref().map(|machine| match machine.boot {
            Boot::Pvh => "vm",
            Boot::Emulator => "snp-emulated",
            Boot::Snp => "snp",
        }),
        confidential: machine.as_ref().is_some_and(|machine| machine.boot == Boot::Snp),
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
            None => writeln!(io::stderr(), "{text}").context("cannot write the report to stderr"),
            Some(file) => fs::write(file, text + "\n")
                .with_context(|| format!("cannot write the report to {}", file.display())),
        });
    if let Err(error) = written {
        complain(&format!("{error:#}"));
    }
}
