//! Linux as an SNP guest in the emulator: by `emulate`, as a user would start it, in a process of its own.
//!
//! Times come from that process's report, which counts from QEMU's start; so the program's first line has to be the first thing that the guest says.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::guest::{MEMORY, Mode, Run, TIMEOUT};
use super::linux::Linux;
use super::sample::FIRST_LINE;
use crate::host;

/// How a guest ends that restarts a machine which does not restart.
const ENDINGS: [&str; 3] = ["shutdown", "reset", "power-off"];

/// The requests of a guest, out of the emulator's report.
pub fn exits(report: &Value) -> Option<u64> {
    report.get("vmgexits").and_then(Value::as_u64)
}

/// Runs the program in a fresh guest.
///
/// # Errors
/// It did not come to its end.
pub fn run_linux(linux: &Linux, mode: Mode) -> Result<Run> {
    let json = host::cache_dir().join(format!("bench-emulate-{}.json", std::process::id()));
    let program = std::env::current_exe().context("this program does not know its own path")?;
    let mut child = Command::new(program)
        .arg("emulate")
        .args(["--memory", &MEMORY.to_string(), "--timeout", &TIMEOUT.as_secs().to_string()])
        .args(["--append", &linux.command_line_snp(host::tsc_khz(), mode.arguments())])
        .arg("--linux")
        .arg(&linux.image)
        .arg("--initrd")
        .arg(&linux.initramfs)
        .arg("--json")
        .arg(&json)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the emulator")?;
    let (mut output, mut first, mut last) = (String::new(), None, None);
    let stdout = child.stdout.take().context("the emulator has no output")?;
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let line = line.trim_end_matches('\r');
        first.get_or_insert_with(Instant::now);
        if line.starts_with("elapsed\t") {
            last = Some(Instant::now());
        }
        output.push_str(line);
        output.push('\n');
    }
    let mut errors = String::new();
    // What is not there is missing in a message only.
    let _ = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut errors));
    child.wait().context("cannot wait for the emulator")?;
    let report = fs::read_to_string(&json).with_context(|| format!("no report of the emulator: {errors}"))?;
    let _ = fs::remove_file(&json);
    let report: Value = serde_json::from_str(&report).context("the emulator's report is no JSON")?;
    let ending = report.get("ending").and_then(Value::as_str).unwrap_or_default();
    ensure!(ENDINGS.contains(&ending), "Linux ended with {ending}: {errors}; its console:\n{output}");
    ensure!(
        output.lines().next() == Some(FIRST_LINE),
        "its output does not begin with the first line:\n{output}"
    );
    let ms = report.get("first_byte_ms").and_then(Value::as_f64).context("its first line did not arrive")?;
    Ok(Run {
        first_line: Duration::from_secs_f64(ms / 1e3),
        measured: first.zip(last).map(|(first, last)| last - first).unwrap_or_default(),
        output,
        exits: exits(&report),
    })
}
