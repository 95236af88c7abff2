//! `test`: every check that the README promises, closing with a line of counts.
//!
//! A step is a command, or a reason to skip it. Steps go on after a failure, so that one run shows everything. Tests inside a
//! step count one by one where the step says how many it had (libtest's `test result:` line), else the step is one test.

use std::fs;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::cli::Test;
use crate::host::{cargo, nightly};
use crate::{fuzz, host, install, kernel};

/// Passed, failed, skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// The stripped kernel may be this big.
const KERNEL_MAX: u64 = 512 * 1024;

/// What holds `unsafe`, or keeps what a host wrote from becoming it, and is interpreted by Miri: packages, and the part of each; all of it where there is no part.
const MIRI: [(&str, &str); 6] = [
    ("litebox_core", "mm::page"),
    ("platform_snp", "dma::"),
    ("platform_snp", "snp::ghcb"),
    ("platform_snp", "snp::page_state"),
    ("platform_snp", "snp::secrets_page"),
    ("boot", ""),
];

struct Suite<'a> {
    args: &'a Test,
    counts: Counts,
    skipped: Vec<String>,
    failed: Vec<String>,
}

/// Runs everything; status 0 if nothing failed.
pub fn test(args: &Test) -> i32 {
    let mut suite = Suite { args, counts: Counts::default(), skipped: Vec::new(), failed: Vec::new() };
    suite.host_checks();
    suite.kernel_checks();
    suite.miri();
    suite.fuzz();
    suite.end_to_end();
    let mut out = io::stdout();
    for reason in &suite.skipped {
        let _ = writeln!(out, "skipped: {reason}");
    }
    for name in &suite.failed {
        let _ = writeln!(out, "FAILED: {name}");
    }
    let Counts { passed, failed, skipped } = suite.counts;
    let _ = writeln!(out, "{passed} passed, {failed} failed, {skipped} skipped");
    i32::from(failed > 0 || (passed == 0 && skipped == 0))
}

impl Suite<'_> {
    fn host_checks(&mut self) {
        self.step("format", &mut cargo(&["fmt", "--all", "--check"]));
        self.step("clippy", &mut cargo(&["clippy", "-q", "--all-targets", "--", "-D", "warnings"]));
        self.step(
            "rustdoc",
            cargo(&["doc", "-q", "--no-deps", "--document-private-items"]).env("RUSTDOCFLAGS", "-D warnings"),
        );
        let mut unit = cargo(&["test"]);
        if let Some(filter) = self.test_filter() {
            unit.arg(filter);
        }
        self.step("unit", &mut unit);
    }

    fn kernel_checks(&mut self) {
        if let Err(why) = install::rust_target(kernel::TARGET) {
            self.skip("kernel", &format!("{why:#}"));
            return;
        }
        let target = ["-p", "kernel", "--release", "--target", kernel::TARGET];
        let with = |first: &[&str], last: &[&str]| cargo(&[first, &target, last].concat());
        self.step("kernel-clippy", &mut with(&["clippy", "-q"], &["--", "-D", "warnings"]));
        // The PSP by itself too: what another crate turns on must not be what makes it build there.
        let psp = ["clippy", "-q", "-p", "test_psp", "--release", "--target", kernel::TARGET];
        self.step("psp-clippy", &mut cargo(&[&psp[..], &["--", "-D", "warnings"]].concat()));
        let emulator = ["clippy", "-q", "-p", "snp_emulator", "--release", "--target", kernel::TARGET];
        self.step("emulator-clippy", &mut cargo(&[&emulator[..], &["--", "-D", "warnings"]].concat()));
        self.check("kernel-dependencies", || bare_dependencies("kernel"));
        self.check("emulator-dependencies", || bare_dependencies("snp_emulator"));
        self.check("kernel-size", kernel_size);
    }

    fn miri(&mut self) {
        if self.args.quick {
            self.skip("miri", "--quick");
        } else if !nightly(&["miri", "--version"]).output().is_ok_and(|output| output.status.success()) {
            self.skip(
                "miri",
                "no nightly toolchain with Miri (rustup toolchain install nightly -c miri,rust-src)",
            );
        } else {
            for (package, part) in MIRI {
                let mut miri = nightly(&["miri", "test", "-q", "-p", package, "--lib", part]);
                // Random cases are for native speed: Miri looks for undefined behaviour, and one case shows that. Pools live as
                // long as the machine, so tests leak them.
                miri.env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-ignore-leaks")
                    .env("PROPTEST_CASES", "2");
                self.step("miri", &mut miri);
            }
        }
    }

    /// The targets compile; `cargo xtask fuzz` runs them.
    fn fuzz(&mut self) {
        match fuzz::missing() {
            Some(what) => {
                self.skip("fuzz", &format!("{what} is not installed (cargo xtask fuzz installs it)"))
            }
            None => {
                let manifest = fuzz::directory().join("Cargo.toml");
                self.step("fuzz", nightly(&["check", "-q", "--manifest-path"]).arg(manifest));
            }
        }
    }

    fn end_to_end(&mut self) {
        if self.args.quick {
            self.skip("e2e", "--quick");
            return;
        }
        let mut command = cargo(&["test", "-p", "e2e", "--no-fail-fast"]);
        if let Some(filter) = self.test_filter() {
            command.arg(filter);
        }
        self.step("e2e", &mut command);
    }

    /// The filter, if it is for tests and does not name a step.
    fn test_filter(&self) -> Option<&str> {
        self.args.filter.as_deref().filter(|filter| !STEPS.iter().any(|step| step.contains(filter)))
    }

    fn wanted(&self, name: &str) -> bool {
        match (&self.args.filter, self.test_filter()) {
            (None, _) => true,
            (Some(_), Some(_)) => matches!(name, "unit" | "e2e"),
            (Some(filter), None) => name.contains(filter.as_str()),
        }
    }

    fn skip(&mut self, name: &str, why: &str) {
        if self.wanted(name) {
            self.counts.skipped += 1;
            self.skipped.push(format!("{name}: {why}"));
        }
    }

    fn step(&mut self, name: &str, command: &mut Command) {
        if !self.wanted(name) {
            return;
        }
        eprintln!("== {name}");
        let start = Instant::now();
        let result = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().and_then(|mut child| {
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            let text = std::thread::scope(|scope| {
                let errors =
                    scope.spawn(|| stderr.map(|from| pass_on(from, io::stderr())).unwrap_or_default());
                let text = stdout.map(|from| pass_on(from, io::stdout())).unwrap_or_default();
                text + &errors.join().unwrap_or_default()
            });
            Ok((child.wait()?, text))
        });
        let (success, text) = match result {
            Ok((status, text)) => (status.success(), text),
            Err(error) => (false, format!("cannot run it: {error}")),
        };
        eprintln!(
            "== {name}: {} in {:.1} s",
            if success { "ok" } else { "FAILED" },
            start.elapsed().as_secs_f64()
        );
        let mut counts = counts(&text);
        // libtest counts a test that found nothing to run with as passed; it says so on stderr.
        let excuses: Vec<&str> = text.lines().filter(|line| line.contains(" skipped: ")).collect();
        let excused = (excuses.len() as u64).min(counts.passed);
        counts.passed -= excused;
        self.skipped.extend(excuses.iter().map(|line| format!("{name}: {}", line.trim())));
        let ignored = counts.skipped;
        counts.skipped += excused;
        self.counts.passed += counts.passed;
        self.counts.failed += counts.failed;
        self.counts.skipped += counts.skipped;
        if ignored > 0 {
            self.skipped
                .push(format!("{name}: {ignored} tests marked #[ignore], for the reasons in their sources"));
        }
        match (success, counts) {
            // A command that is a check itself; one whose tests a filter left out was none.
            (true, Counts { passed: 0, failed: 0, skipped: 0 }) => {
                self.counts.passed += u64::from(!text.contains("test result: "));
            }
            (false, counts) => {
                self.failed.push(name.to_owned());
                self.counts.failed += u64::from(counts.failed == 0);
            }
            _ => {}
        }
    }

    fn check(&mut self, name: &str, check: fn() -> Result<String, String>) {
        if !self.wanted(name) {
            return;
        }
        match check() {
            Ok(what) => {
                self.counts.passed += 1;
                eprintln!("== {name}: ok, {what}");
            }
            Err(why) => {
                self.counts.failed += 1;
                self.failed.push(format!("{name}: {why}"));
            }
        }
    }
}

/// Passes on a step's output line by line, and keeps it.
fn pass_on(from: impl io::Read, mut to: impl Write) -> String {
    let (mut from, mut line, mut text) = (io::BufReader::new(from), Vec::new(), String::new());
    while io::BufRead::read_until(&mut from, b'\n', &mut line).is_ok_and(|read| read > 0) {
        // The step goes on even if nobody reads what it says.
        let _ = to.write_all(&line);
        text += &String::from_utf8_lossy(&line);
        line.clear();
    }
    text
}

/// The names of all steps, for the filter.
const STEPS: &[&str] = &[
    "format",
    "clippy",
    "rustdoc",
    "unit",
    "kernel-clippy",
    "psp-clippy",
    "emulator-clippy",
    "kernel-dependencies",
    "emulator-dependencies",
    "kernel-size",
    "miri",
    "fuzz",
    "e2e",
];

/// Nothing that needs an operating system may be in what boots on bare metal.
fn bare_dependencies(package: &str) -> Result<String, String> {
    let tree = host::output_of(&mut cargo(&[
        "tree",
        "-p",
        package,
        "--target",
        kernel::TARGET,
        "-e",
        "normal",
        "--prefix",
        "none",
        "-f",
        "{p} {f}",
    ]))
    .ok_or("cargo tree failed")?;
    match tree.lines().find(|line| is_hosted(line)) {
        Some(line) => Err(format!("{package} depends on {line}")),
        None => Ok(format!("{} crates, none of them needs an operating system", tree.lines().count())),
    }
}

/// Whether a line of `cargo tree -f "{p} {f}"` is a crate for hosts, or one with its `std` feature on.
fn is_hosted(line: &str) -> bool {
    let name = line.split_whitespace().next().unwrap_or_default();
    let features = line.trim_end_matches(" (*)").rsplit(' ').next().unwrap_or_default();
    matches!(name, "libc" | "getrandom" | "std") || features.split(',').any(|feature| feature == "std")
}

fn kernel_size() -> Result<String, String> {
    let kernel = kernel::build(kernel::PACKAGE).map_err(|error| format!("{error:#}"))?;
    let stripped = host::cache_dir().join("kernel.stripped");
    fs::create_dir_all(host::cache_dir()).map_err(|error| error.to_string())?;
    let done = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(&kernel)
        .output()
        .map_err(|e| format!("strip: {e}"))?;
    let size = fs::metadata(&stripped).map_err(|error| error.to_string())?.len();
    match size {
        _ if !done.status.success() => Err("strip failed".into()),
        size if size > KERNEL_MAX => Err(format!("{size} bytes stripped, more than {KERNEL_MAX}")),
        size => Ok(format!("{size} bytes stripped")),
    }
}

/// Adds up libtest's `test result: ok. 3 passed; 0 failed; 1 ignored; …` lines.
fn counts(text: &str) -> Counts {
    let mut sum = Counts::default();
    for line in text.lines() {
        let Some(result) = line.trim_start().strip_prefix("test result: ") else { continue };
        for part in result.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(kind)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match kind {
                "passed" => sum.passed += number,
                "failed" => sum.failed += number,
                "ignored" | "skipped" => sum.skipped += number,
                _ => {}
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtest_results_are_added_up() {
        let text = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.20s\n\
                    noise\ntest result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured\n";
        assert_eq!(counts(text), Counts { passed: 5, failed: 4, skipped: 1 });
    }

    #[test]
    fn hosted_crates_are_recognised() {
        assert!(is_hosted("libc v0.2.191 default,std"));
        assert!(is_hosted("sha2 v0.11.0 alloc,std"));
        assert!(is_hosted("sha2 v0.11.0 std (*)"));
        assert!(!is_hosted("stdlib-like v1.0.0 alloc"));
        assert!(!is_hosted("kernel v0.1.0 (/work/std/kernel)"));
    }
}
