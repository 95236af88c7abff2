//! The SNP emulator keeps what AMD's manuals promise: the conformance guest says so, and every way to end a guest is reported as what it is. Its attacks bite a guest
//! that does not defend itself.

use std::process::Command;

use e2e::Outcome;
use e2e::Suite;
use e2e::emulated::unique;
use e2e::program::{Slot, feed};
use e2e::tools::{oracle_only, xtask};
use serde_json::Value;

/// Checks that there are at least in every boot, so that they cannot become fewer unnoticed.
const FLOOR: u32 = 1000;

/// A boot of the guest: what it printed, and the emulator's report.
fn boot(words: &[&str]) -> (Outcome, Value) {
    let json = unique("conformance");
    let mut command = Command::new(xtask());
    command.args(["conformance", "--timeout", "400", "--json"]).arg(&json).args(words);
    let _slot = Slot::take();
    let outcome = feed(command, b"");
    let report = std::fs::read(&json).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let _ = std::fs::remove_file(&json);
    (outcome, report.unwrap_or(Value::Null))
}

/// All checks pass, and there are as many as there should be.
fn conforms(words: &[&str]) -> Result<(), String> {
    let (outcome, report) = boot(words);
    let text = outcome.text();
    let sum = text.lines().last().unwrap_or_default();
    let passed: u32 = sum.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    let all = sum.contains(" passed, 0 failed") && passed >= FLOOR;
    if all && outcome.status == 0 && report.get("ending").and_then(Value::as_str) == Some("power-off") {
        return Ok(());
    }
    Err(format!("status {}, `{sum}`, at least {FLOOR} wanted{}", outcome.status, outcome.tail()))
}

#[test]
fn the_emulator_conforms() {
    if oracle_only() {
        return;
    }
    let mut suite = Suite::new("conformance");
    for words in [&[][..], &["--cpus", "4"], &["--c-bit", "47"], &["--entry", "32"]] {
        suite.check(format!("checks {words:?}"), move || conforms(words));
    }
    suite.run_in_guest_only();
}

/// The least number of attacks, so that they cannot become fewer unnoticed.
const ATTACKS: usize = 36;

#[test]
fn every_attack_bites_a_guest_without_defences() {
    if oracle_only() {
        return;
    }
    let mut command = Command::new(xtask());
    command.args(["conformance", "--malice"]);
    let _slot = Slot::take();
    let outcome = feed(command, b"");
    let text = outcome.text();
    let sum = text.lines().last().unwrap_or_default();
    let passed = sum.strip_suffix(" passed, 0 failed").and_then(|number| number.parse().ok());
    assert!(passed.is_some_and(|passed: usize| passed >= ATTACKS), "`{sum}`{}\n{text}", outcome.tail());
    assert_eq!(outcome.status, 0, "{}", outcome.tail());
}

/// Scenario; `ending`, what `words` must say, and, for terminations, set and code.
type Case = (&'static str, &'static str, &'static str, Option<(u64, u64)>);

/// What ends a guest, and how the report must name it.
const ENDINGS: &[Case] = &[
    ("terminate-general", "terminated", "general termination request", Some((0, 0))),
    ("terminate-protocol", "terminated", "protocol's version is not supported", Some((0, 1))),
    ("terminate-no-snp", "terminated", "SEV-SNP features are not supported", Some((0, 2))),
    ("terminate-unknown", "terminated", "set 7, code 66", Some((7, 0x42))),
    ("terminate-page", "terminated", "set 7, code 66", Some((7, 0x42))),
    ("unknown-msr-request", "unexpected-exit", "0x8000ffff", None),
    ("private-ghcb", "not-shared", "as its GHCB, but that is no page that it shares", None),
    ("missing-ghcb", "not-shared", "0x200000000000", None),
    ("private-access-to-shared", "rmp-fault", "private access", None),
    ("shared-write-to-private", "rmp-fault", "the page is the guest's own", None),
    ("private-access-to-nothing", "no-memory", "private access to 0xd0000000", None),
    ("no-handler", "undeliverable-vc", "#VC(0x89)", None),
    ("halt", "halted", "nothing can wake the guest", None),
    ("triple-fault", "shutdown", "triple fault", None),
    ("reset", "reset", "the guest reset the machine", None),
    ("bad-vmsa", "bad-state", "VMEXIT_INVALID", None),
    ("device-to-private", "private-dma", "no memory that it shares", None),
];

fn ends(case: Case) -> Result<(), String> {
    let (scenario, ending, words, termination) = case;
    let (outcome, report) = boot(&["--cpus", "2", "--scenario", scenario]);
    let text = |name| report.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name| report.get(name).and_then(Value::as_u64);
    let right = text("ending") == ending
        && text("words").contains(words)
        && termination.is_none_or(|(set, code)| (number("set"), number("code")) == (Some(set), Some(code)))
        && outcome.status == 123;
    if right { Ok(()) } else { Err(format!("status {}, report {report}{}", outcome.status, outcome.tail())) }
}

#[test]
fn every_ending_is_named() {
    if oracle_only() {
        return;
    }
    let mut suite = Suite::new("endings");
    for &case in ENDINGS {
        suite.check(case.0, move || ends(case));
    }
    suite.run_in_guest_only();
}
