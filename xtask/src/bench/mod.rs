//! `bench`: the same static program in a virtual machine of ours and as `/init` of a Linux guest.
//!
//! Guests are started in turns, so that whatever else the host does falls on both columns; of every number the best of all runs is compared.
//! Numbers go to stdout, progress to stderr. A column that fails is reported as such and does not stop the other.

mod cpio;
mod emulated;
mod guest;
mod html;
mod linux;
mod report;
mod sample;
mod statistics;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cli::{Bench, BenchCpu};
use crate::protocol::status;
use crate::{accel, host, install, kernel, qemu};
use guest::{Guest, MEMORY, Mode, Setup};
use linux::Linux;
use report::{Column, Comparison, Report};

/// The benchmark program's target: static, and with a C library that asks for little.
const TARGET: &str = "x86_64-unknown-linux-musl";

/// How often the whole table is measured per column.
const TABLE_RUNS: u32 = 2;

/// Starts of an SNP guest at most: Linux takes ten seconds for one.
const SNP_RUNS: u32 = 5;

/// The first line has to arrive this many times sooner than Linux's: in plain machines, and as SNP guests.
const FIRST_LINE_GOAL: f64 = 25.0;
const FIRST_LINE_GOAL_SNP: f64 = 30.0;

/// What stands in the place of a CPU model for SNP guests: the emulator offers them what it has of QEMU's `max`.
const SNP: &str = "max, as SNP guests in the emulator";

/// Measures, and writes the results; status 0 if every column has its numbers.
pub fn bench(args: &Bench) -> i32 {
    match attempt(args) {
        Ok(complete) => i32::from(!complete),
        Err(error) => {
            // A closed stderr must not turn into a panic.
            let _ = writeln!(io::stderr(), "xtask: {error:#}");
            status::LAUNCH_FAILED
        }
    }
}

fn attempt(args: &Bench) -> Result<bool> {
    let qemu = qemu::find_or_install()?;
    let accelerator = accel::choose(args.accel, &qemu)?;
    let program = build_program()?;
    // The other column can do without it.
    let kernel = kernel::build(kernel::PACKAGE).map_err(|error| format!("{error:#}"));
    let linux = if args.no_linux { None } else { Some(linux::prepare(&program)?) };
    let setup = Setup { qemu, accelerator, program, tsc_khz: host::tsc_khz() };
    let guests = Guests {
        litebox: Guest::LiteBox { kernel: kernel.as_deref() },
        linux: linux.as_ref().map(Guest::Linux),
    };
    let models = match args.cpu {
        // RDRAND, which Westmere did not have yet, is where our kernel's entropy comes from.
        BenchCpu::Westmere => &["Westmere,+rdrand"][..],
        BenchCpu::Max => &["max"],
        BenchCpu::Both => &["Westmere,+rdrand", "max"],
    };
    let mut comparisons: Vec<Comparison> =
        models.iter().map(|cpu| guests.compare(&setup, cpu, args.runs, FIRST_LINE_GOAL)).collect();
    if !args.no_snp {
        let guests = Guests {
            litebox: Guest::LiteBoxSnp { kernel: kernel.as_deref() },
            linux: linux.as_ref().map(Guest::LinuxSnp),
        };
        comparisons.push(guests.compare(&setup, SNP, args.runs.min(SNP_RUNS), FIRST_LINE_GOAL_SNP));
    }
    let report = Report {
        qemu: qemu::version(&setup.qemu).unwrap_or_else(|| "of unknown version".into()),
        accelerator: accelerator.to_string(),
        memory_bytes: MEMORY,
        tsc_khz: setup.tsc_khz,
        linux_package: linux.as_ref().map(|linux| linux.package.clone()),
        linux_command_line: linux.as_ref().map(|linux: &Linux| linux.command_line(setup.tsc_khz, "")),
        runs: args.runs,
        comparisons,
    };
    io::stdout().write_all(report.text().as_bytes()).context("cannot write the table to stdout")?;
    write(args.json.as_ref(), "bench.json", &(serde_json::to_string_pretty(&report)? + "\n"))?;
    write(args.html.as_ref(), "bench.html", &html::page(&report))?;
    let complete = |column: &Column| !column.first_line_ms.is_empty() && !column.rows.is_empty();
    Ok(report
        .comparisons
        .iter()
        .all(|comparison| complete(&comparison.litebox) && comparison.linux.as_ref().is_none_or(complete)))
}

/// Writes a file where it was asked for, or in the target directory.
fn write(place: Option<&PathBuf>, name: &str, text: &str) -> Result<()> {
    let place = place.cloned().unwrap_or_else(|| host::cache_dir().join(name));
    if let Some(dir) = place.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    fs::write(&place, text).with_context(|| format!("cannot write {}", place.display()))?;
    eprintln!("xtask: wrote {}", place.display());
    Ok(())
}

/// The kernels that are compared.
struct Guests<'a> {
    litebox: Guest<'a>,
    linux: Option<Guest<'a>>,
}

impl Guests<'_> {
    fn compare(&self, setup: &Setup, cpu: &str, runs: u32, goal: f64) -> Comparison {
        let mut litebox = Column::default();
        let mut linux = self.linux.as_ref().map(|_| Column::default());
        let plan = (0..runs).map(|_| Mode::FirstLine).chain((0..TABLE_RUNS.min(runs)).map(|_| Mode::Table));
        for (number, mode) in plan.enumerate() {
            let what = match mode {
                Mode::FirstLine => format!("first line {} of {runs}", number + 1),
                Mode::Table => "table".into(),
            };
            take(&self.litebox, setup, cpu, mode, &mut litebox, &format!("{cpu}: LiteBox: {what}"));
            if let (Some(guest), Some(column)) = (&self.linux, &mut linux) {
                take(guest, setup, cpu, mode, column, &format!("{cpu}: Linux: {what}"));
            }
        }
        Comparison::new(cpu, litebox, linux, goal)
    }
}

/// Runs one guest and adds what it gives to its column.
fn take(guest: &Guest<'_>, setup: &Setup, cpu: &str, mode: Mode, column: &mut Column, what: &str) {
    // What failed twice fails always.
    if column.failures >= 2 {
        return;
    }
    match guest.run(setup, cpu, mode) {
        Ok(session) => {
            let ms = session.first_line.as_secs_f64() * 1e3;
            eprintln!("xtask: {what}: first line after {ms:.1} ms");
            column.first_line_ms.push(ms);
            if mode == Mode::FirstLine {
                column.exits.extend(session.exits);
            }
            column.clock_source = session.sample.clock_source.or(column.clock_source.take());
            sample::merge(&mut column.rows, session.sample.rows);
        }
        Err(error) => {
            eprintln!("xtask: {what}: failed: {error:#}");
            column.failures += 1;
            let problem = format!("{error:#}");
            if !column.problems.contains(&problem) {
                column.problems.push(problem);
            }
        }
    }
}

/// Builds the benchmark program, which is a package of its own, as any user's program is.
fn build_program() -> Result<PathBuf> {
    install::rust_target(TARGET)?;
    let target = host::target_dir().join("bench");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(host::workspace().join("examples/bench"))
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&target)
        .stdin(Stdio::null())
        .output()
        .context("cannot start cargo to build the benchmark program")?;
    if !output.status.success() {
        bail!(
            "the benchmark program does not build:\n{}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(target.join(TARGET).join("release/bench"))
}
