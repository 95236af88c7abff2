//! `fuzz`: runs the targets of `fuzz/` under libFuzzer (through cargo-fuzz, which wants a nightly Rust), one after the other.
//!
//! A target writes its own seeds into its corpus first; the corpus grows from run to run and is nobody's but this checkout's.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::Fuzz;
use crate::host::{nightly, workspace};
use crate::protocol::status;
use crate::{host, install};

/// An input that takes longer is a finding, in seconds.
const PATIENCE: u32 = 25;
/// A target that takes more memory has a finding, in MiB.
const MEMORY: u32 = 2048;

const NIGHTLY: &str = "a nightly Rust";
const CARGO_FUZZ: &str = "cargo-fuzz";
const CPP: &str = "a C++ compiler";

/// What a run of a target gave.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    target: String,
    executions: u64,
    per_second: u64,
    /// Where each input is that broke it.
    findings: Vec<String>,
    /// It ended well.
    success: bool,
}

/// Where the targets are.
pub fn directory() -> PathBuf {
    workspace().join("fuzz")
}

/// What fuzzing needs and is not there.
pub fn missing() -> Option<&'static str> {
    let works = |mut command: Command| command.output().is_ok_and(|output| output.status.success());
    if !works(nightly(&["--version"])) {
        Some(NIGHTLY)
    } else if !works(nightly(&["fuzz", "--version"])) {
        Some(CARGO_FUZZ)
    } else if host::find_program("c++").is_none() {
        // libFuzzer comes as source.
        Some(CPP)
    } else {
        None
    }
}

/// Runs the targets; status 0 if nothing was found.
pub fn fuzz(args: &Fuzz) -> i32 {
    match try_fuzz(args) {
        Ok(failed) => i32::from(failed > 0),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            status::LAUNCH_FAILED
        }
    }
}

fn try_fuzz(args: &Fuzz) -> Result<usize> {
    let mut targets = targets()?;
    if let Some(wanted) = &args.target {
        targets.retain(|target| target == wanted);
        if targets.is_empty() {
            bail!("there is no fuzz target {wanted}; `cargo xtask fuzz --list` names them");
        }
    }
    if args.list {
        targets.iter().for_each(|target| println!("{target}"));
        return Ok(0);
    }
    install_what_is_missing()?;
    eprintln!("xtask: building {}", count(targets.len(), "fuzz target"));
    let mut build = nightly(&["fuzz", "build"]);
    if let Some(target) = &args.target {
        build.arg(target);
    }
    if !build.status()?.success() {
        bail!("the fuzz targets cannot be built");
    }
    let logs = host::cache_dir().join("fuzz");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let mut outcomes = Vec::new();
    for target in &targets {
        eprintln!("xtask: {target}, {} s", args.seconds);
        let outcome = run(target, args.seconds, &logs.join(format!("{target}.log")))?;
        if !outcome.success {
            report(&outcome, &logs);
        }
        outcomes.push(outcome);
    }
    print!("{}", table(&outcomes));
    let failed = outcomes.iter().filter(|outcome| !outcome.success).count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    Ok(failed)
}

fn install_what_is_missing() -> Result<()> {
    // Each in its turn: what is missing next shows when the one before is there.
    for _ in 0..3 {
        match missing() {
            None => return Ok(()),
            Some(NIGHTLY) => install::rust_nightly()?,
            Some(CARGO_FUZZ) => install::cargo_command("cargo-fuzz")?,
            Some(_) => install::apt(&["g++"], "libFuzzer is compiled by a C++ compiler, and there is none")?,
        }
    }
    missing().map_or(Ok(()), |what| bail!("{what} was installed and cannot be run"))
}

fn targets() -> Result<Vec<String>> {
    let directory = directory().join("fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("{}", directory.display()))? {
        let path = entry?.path();
        if let (Some("rs"), Some(name)) = (path.extension().and_then(|e| e.to_str()), path.file_stem()) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn run(target: &str, seconds: u64, log: &Path) -> Result<Outcome> {
    let corpus = directory().join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let to = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = nightly(&["fuzz", "run", target, "--"])
        .args([format!("-max_total_time={seconds}"), format!("-timeout={PATIENCE}")])
        .args([format!("-rss_limit_mb={MEMORY}"), "-print_final_stats=1".into()])
        // The name is `litebox_fuzz::SEEDS`.
        .env("LITEBOX_FUZZ_SEEDS", &corpus)
        .stdout(to.try_clone()?)
        .stderr(to)
        .status()
        .context("cannot run cargo")?;
    let text = fs::read(log).with_context(|| format!("{}", log.display()))?;
    Ok(outcome(target, &String::from_utf8_lossy(&text), status.success()))
}

/// Reads libFuzzer's closing words.
fn outcome(target: &str, text: &str, success: bool) -> Outcome {
    let number = |name: &str| {
        let line = text.lines().rev().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    let findings: Vec<String> = text
        .lines()
        .filter_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path.trim().to_owned()))
        .collect();
    Outcome {
        target: target.to_owned(),
        executions: number("stat::number_of_executed_units:"),
        per_second: number("stat::average_exec_per_sec:"),
        success: success && findings.is_empty(),
        findings,
    }
}

/// Says what was found, and where the rest is.
fn report(outcome: &Outcome, logs: &Path) {
    let log = logs.join(format!("{}.log", outcome.target));
    let text = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let telling =
        |line: &&str| line.contains("panicked at") || line.contains("ERROR:") || line.contains("SUMMARY:");
    for line in text.lines().filter(telling) {
        eprintln!("xtask: {}: {line}", outcome.target);
    }
    for input in &outcome.findings {
        eprintln!("xtask: the input is {input}; again: cargo +nightly fuzz run {} {input}", outcome.target);
    }
    eprintln!("xtask: everything that was said is in {}", log.display());
}

fn table(outcomes: &[Outcome]) -> String {
    let width = outcomes.iter().map(|outcome| outcome.target.len()).max().unwrap_or(0).max("target".len());
    let mut text = format!("{:width$}  {:>12}  {:>9}  findings\n", "target", "executions", "exec/s");
    for Outcome { target, executions, per_second, findings, success } in outcomes {
        let found = match findings.len() {
            0 if !success => "did not run to its end".to_owned(),
            0 => "none".to_owned(),
            _ => findings.join(" "),
        };
        text += &format!("{target:width$}  {executions:>12}  {per_second:>9}  {found}\n");
    }
    text
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "#12 DONE\nDone 500 runs in 2 second(s)\nstat::number_of_executed_units: 500\n\
                        stat::average_exec_per_sec:     250\nstat::new_units_added:          3\n";

    #[test]
    fn a_run_without_a_finding_passes() {
        let outcome = outcome("elf", GOOD, true);
        assert_eq!((outcome.executions, outcome.per_second, outcome.success), (500, 250, true));
        assert!(outcome.findings.is_empty());
        assert!(table(&[outcome]).ends_with("elf              500        250  none\n"));
    }

    #[test]
    fn a_finding_is_a_failure_and_named() {
        let text = format!(
            "{GOOD}artifact_prefix='x/'; Test unit written to /x/crash-1\nstat::number_of_executed_units: 7\n"
        );
        let found = outcome("elf", &text, false);
        assert_eq!((found.executions, found.success), (7, false));
        assert_eq!(found.findings, ["/x/crash-1"]);
        assert!(table(&[found]).contains("/x/crash-1"));
        assert!(!outcome("elf", &text, true).success, "whatever the status says");
        assert!(table(&[outcome("elf", "", false)]).contains("did not run to its end"));
    }

    #[test]
    fn every_target_is_declared() {
        let manifest = fs::read_to_string(directory().join("Cargo.toml")).unwrap();
        let targets = targets().unwrap();
        assert!(targets.len() >= 3);
        for target in &targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
    }
}
