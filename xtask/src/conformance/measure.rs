//! `conformance --measure`: how long the emulator takes to a guest's first instruction, beside a plain start of QEMU, and what exits cost.
//!
//! The plain start is that of the emulator's own ELF file as an ordinary guest of the same machine, until its first instructions say so on the debug console. Starts are
//! taken in turns, and the best of each is compared.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use ::conformance::scenario::Scenario;
use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::image::Image;
use super::{Boot, Conformance};
use crate::igvm::kernel::Kernel;
use crate::{emulate, host, kernel, qemu};

/// Starts of each kind.
const STARTS: u32 = 8;
/// What the other costs are compared with: the guest's name for it.
const UNIT: &str = "VMMCALL";
/// What the emulator may add to a start.
const BUDGET_MS: f64 = 500.0;

/// Measures and prints; status 1 if a start is over its budget.
///
/// # Errors
/// A guest could not be started, or says nothing.
pub fn measure(args: &Conformance, guest: &Kernel, c_bit: u32) -> Result<i32> {
    let khz = host::tsc_khz().context("this host does not say how fast its TSC is")?;
    let (scenario, attack) = (Scenario::Measure, None);
    let image = Image { kernel: guest, c_bit, scenario, attack, entry: args.entry }.build()?;
    let boot = Boot::new("measure", &image)?;
    let (emulator, qemu) = (kernel::build(emulate::PACKAGE)?, qemu::find_or_install()?);
    let (mut plain, mut emulated) = (f64::MAX, f64::MAX);
    let mut costs: Vec<(String, u64)> = Vec::new();
    for _ in 0..STARTS {
        plain = plain.min(plain_start(&qemu, &emulator)?);
        let (output, report) = boot.emulate(args, c_bit, None)?;
        let first = report.get("first_instruction_ms").and_then(Value::as_f64);
        emulated = emulated.min(first.context("the emulator came to no first instruction")?);
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let (name, ticks) = line.split_once('\t').with_context(|| format!("the guest says: {line}"))?;
            let ticks = ticks.trim_end().parse().with_context(|| format!("the guest says: {line}"))?;
            match costs.iter_mut().find(|cost| cost.0 == name) {
                Some(cost) => cost.1 = cost.1.min(ticks),
                None => costs.push((name.to_owned(), ticks)),
            }
        }
    }
    let Some(unit) = costs.iter().find(|cost| cost.0.starts_with(UNIT)).map(|cost| cost.1) else {
        bail!("the guest measured nothing");
    };
    let more = emulated - plain;
    println!("first instruction, best of {STARTS} starts each");
    println!("{:>12.1} ms  plain QEMU", plain);
    println!("{:>12.1} ms  a guest in the emulator: {more:.1} ms more", emulated);
    println!("cost, best of {STARTS} runs");
    for (name, ticks) in &costs {
        let ns = *ticks as f64 * 1e6 / khz as f64;
        println!("{ns:>12.0} ns {:>8.2}  {name}", *ticks as f64 / unit as f64);
    }
    Ok(i32::from(more > BUDGET_MS))
}

/// Milliseconds from QEMU's start to the first instructions of an ordinary guest.
fn plain_start(qemu: &Path, guest: &Path) -> Result<f64> {
    let begin = Instant::now();
    let mut child = Command::new(qemu)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-M",
            "q35",
            "-accel",
            "tcg",
        ])
        .args([
            "-m",
            "128M",
            "-chardev",
            "stdio,id=channel",
            "-device",
            "isa-debugcon,iobase=0x5f0,chardev=channel",
        ])
        .arg("-kernel")
        .arg(guest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start QEMU")?;
    let mut byte = [0];
    let read = child.stdout.take().context("QEMU has no output")?.read_exact(&mut byte);
    let time = begin.elapsed();
    // It is not needed any more; if it is gone already, so much the better.
    let _ = child.kill();
    child.wait().context("cannot wait for QEMU")?;
    read.context("the plain guest came to no first instruction")?;
    Ok(time.as_secs_f64() * 1e3)
}
