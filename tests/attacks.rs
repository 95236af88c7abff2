//! The host attacks our kernel: every script of `tests/attacks/` against a program that keeps a secret.
//!
//! Each ends as its script says: in status 121 with the reason named there, or in the output that an honest host gives, or (where hardware or the PSP stops it) in that. Never in a
//! hang, a wrong answer, or a byte of the secret in what the host sees; and each attack must really have been made.

use std::fs;
use std::path::{Path, PathBuf};

use e2e::build::{self, Link};
use e2e::emulated::unique;
use e2e::tools::repository;
use e2e::{Outcome, Program, Suite, needs};
use serde_json::Value;

const EMULATED: &str = "snp-emulated";
/// Runs of a script until its attack is made: a busy host may let none of its ticks meet the guest in ring 3.
const ATTEMPTS: u32 = 5;
/// What the program answers its launcher, and what it is given to read.
const STATUS: i32 = 3;
const INPUT: &str = "a line\nand another\n";
/// What `keeper.c` keeps: eight bytes of it in a row are looked for.
const SECRET: &str = "LiteBox keeps this one to itself";

/// A script and what it says of itself.
#[derive(Clone)]
struct Attack {
    file: PathBuf,
    name: String,
    kind: String,
    secret: String,
    status: i32,
    reason: Option<String>,
    ending: Option<String>,
}

impl Attack {
    fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        let table: toml::Table = text.parse().map_err(|error| format!("{}: {error}", file.display()))?;
        let word = |table: &toml::Table, key: &str| {
            table.get(key).and_then(|value| value.as_str()).map(str::to_owned)
        };
        let none = toml::Table::new();
        let expect = table.get("expect").and_then(|value| value.as_table()).unwrap_or(&none);
        let status = expect.get("status").and_then(|value| value.as_integer());
        let root = repository().join("tests/attacks");
        let name = file.strip_prefix(&root).unwrap_or(file).with_extension("").display().to_string();
        let missing = |what: &str| format!("{name} has no {what}");
        Ok(Self {
            file: file.to_owned(),
            kind: word(&table, "attack").ok_or_else(|| missing("`attack`"))?,
            secret: word(&table, "secret").ok_or_else(|| missing("`secret`"))?,
            status: status.ok_or_else(|| missing("expected status"))? as i32,
            reason: word(expect, "reason"),
            ending: word(expect, "ending"),
            name,
        })
    }

    /// Carries it out and compares with what it expects; `honest` is what an honest host gives.
    fn check(&self, program: &Program, honest: &Outcome) -> Result<(), String> {
        let mut result = Err(String::new());
        for _ in 0..ATTEMPTS {
            let report = Report(unique("attack"));
            let outcome = self.play(program, &report.0);
            let json = report.last()?;
            result = self.judge(&outcome, &json, honest);
            // Where an honest run came of it, nothing is known yet.
            if json.get("attacks").and_then(Value::as_array).is_none_or(|attacks| !attacks.is_empty()) {
                break;
            }
        }
        result
    }

    fn play(&self, program: &Program, report: &Path) -> Outcome {
        let script = self.file.display().to_string();
        let trace = report.display().to_string();
        program.clone().on(EMULATED).timeout(120).options(["--script", &script, "--trace", &trace]).guest()
    }

    fn judge(&self, outcome: &Outcome, json: &Value, honest: &Outcome) -> Result<(), String> {
        let fail = |why: String| Err(format!("{why}{}\n  report: {json}", outcome.tail()));
        if outcome.status != self.status {
            return fail(format!("status {}, expected {}", outcome.status, self.status));
        }
        if let Some(reason) = &self.reason
            && !String::from_utf8_lossy(&outcome.stderr).contains(&format!("stopped: {reason} "))
        {
            return fail(format!("the guest did not give the reason {reason}"));
        }
        let ending = json.get("ending").and_then(Value::as_str);
        if self.ending.is_some() && self.ending.as_deref() != ending {
            return fail(format!("ended with {ending:?}"));
        }
        if self.status == STATUS && outcome.stdout != honest.stdout {
            return fail("another output than with an honest host".into());
        }
        // What came before an attack was found may be a beginning of it, and nothing else.
        if !honest.stdout.starts_with(&outcome.stdout) {
            return fail("output that an honest host does not give".into());
        }
        match json.get("never_carried_out").and_then(Value::as_array) {
            Some(never) if never.is_empty() => {}
            never => return fail(format!("not every rule was carried out: {never:?}")),
        }
        match json.pointer("/secret/seen").and_then(Value::as_u64) {
            Some(0) => Ok(()),
            seen => fail(format!("the host saw the secret: {seen:?}")),
        }
    }
}

/// A file for the emulator's report, removed at the end.
struct Report(PathBuf);

impl Report {
    fn last(&self) -> Result<Value, String> {
        let text = fs::read_to_string(&self.0).map_err(|error| format!("the emulator's report: {error}"))?;
        let line = text.lines().last().ok_or("the emulator reported nothing")?;
        serde_json::from_str(line).map_err(|error| format!("the emulator's report: {error}"))
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// All scripts, in the order of their names.
fn attacks() -> Vec<Attack> {
    let list = |dir: &Path| {
        let mut files: Vec<PathBuf> = fs::read_dir(dir)
            .expect("the scripts are there")
            .map(|entry| entry.expect("a file").path())
            .collect();
        files.sort();
        files
    };
    let kinds = list(&repository().join("tests/attacks"));
    let files = kinds.iter().flat_map(|kind| list(kind));
    files.map(|file| Attack::read(&file).unwrap_or_else(|why| panic!("{why}"))).collect()
}

/// Carries out these, and says how many ended how.
fn carry_out(name: &'static str, attacks: Vec<Attack>) {
    let Some(keeper) = needs("keeper.c", build::c("keeper.c", Link::StaticMusl)) else { return };
    let program = Program::elf(keeper).stdin(INPUT);
    let honest = program.host();
    assert_eq!(honest.expect_status(&[STATUS]), Ok(()), "{}", honest.text());
    let count = |status: i32| attacks.iter().filter(|attack| attack.status == status).count();
    e2e::note(format!(
        "{} attacks: {} to be detected, {} harmless",
        attacks.len(),
        count(121),
        count(STATUS)
    ));
    let mut suite = Suite::new(name);
    for attack in attacks {
        let (program, honest) = (program.clone(), honest.clone());
        suite.check(attack.name.clone(), move || attack.check(&program, &honest));
    }
    suite.run_in_guest_only();
}

/// One or two of each kind that are over soon.
const QUICK: [&str; 20] = [
    "check-and-use/outcome-changes",
    "cpuid/no-random-numbers",
    "double-validation/validated-later",
    "forged-exception/page-fault-in-ring-3",
    "forged-exception/protection-in-ring-3",
    "fw-cfg/disk-elsewhere",
    "ghcb-answer/forged-page-fault",
    "injected-interrupt/int-80-in-ring-3",
    "injected-interrupt/timer-in-ring-0",
    "injected-vc/port-in-ring-3",
    "late-and-twice/power-stays-on",
    "memory-map/overlapping",
    "msr-protocol/other-ghcb",
    "page-state/never-done",
    "remapping/user-stack-replaced",
    "replayed-memory/stack-replayed",
    "time/to-and-fro",
    "virtio-device/never-resets",
    "virtio-ring/length-grown",
    "workload-image/block-changed",
];

#[test]
fn some_of_each_kind() {
    let attacks: Vec<_> =
        attacks().into_iter().filter(|attack| QUICK.contains(&attack.name.as_str())).collect();
    assert_eq!(attacks.len(), QUICK.len(), "a script of the selection is missing");
    carry_out("some attacks", attacks);
}

#[test]
#[ignore = "takes minutes: cargo test -p e2e --test attacks -- --ignored"]
fn all_attacks() {
    carry_out("all attacks", attacks());
}

/// What the issue of this suite promised, and that every script keeps to its rules.
#[test]
fn there_are_enough_of_enough_kinds() {
    let attacks = attacks();
    let mut kinds: Vec<_> = attacks.iter().map(|attack| attack.kind.as_str()).collect();
    kinds.dedup();
    assert!(attacks.len() >= 60 && kinds.len() >= 15, "{} scripts of {} kinds", attacks.len(), kinds.len());
    for attack in &attacks {
        let name = &attack.name;
        assert!(name.starts_with(&format!("{}/", attack.kind)), "{name} is in another folder than its kind");
        assert_eq!(attack.secret, SECRET, "{name} looks for another secret");
        assert_eq!(
            attack.status == 121,
            attack.reason.is_some(),
            "{name}: 121 has a reason, and nothing else has"
        );
        assert_eq!(
            matches!(attack.status, 122 | 125),
            attack.ending.is_some(),
            "{name}: what the hardware stops is named"
        );
        assert!(matches!(attack.status, 121 | 122 | 125 | STATUS), "{name}: status {}", attack.status);
    }
}

/// The search finds a secret that is there: a program that prints its own.
#[test]
fn a_secret_that_is_told_is_found() {
    let Some(keeper) = needs("keeper.c", build::c("keeper.c", Link::StaticMusl)) else { return };
    let script = Report(unique("told"));
    fs::write(&script.0, format!("version = 1\nsecret = \"{SECRET}\"\n")).expect("write a script");
    let seen = |args: &[&str]| {
        let report = Report(unique("told-report"));
        let options =
            ["--script", &script.0.display().to_string(), "--trace", &report.0.display().to_string()];
        let outcome = Program::elf(&keeper).args(args).on(EMULATED).options(options).guest();
        outcome.expect_status(&[STATUS])?;
        report
            .last()?
            .pointer("/secret/seen")
            .and_then(Value::as_u64)
            .ok_or_else(|| "nothing was looked for".to_owned())
    };
    if !e2e::tools::oracle_only() {
        assert_eq!(seen(&[]), Ok(0));
        assert!(seen(&["tell"]).is_ok_and(|times| times > 0), "a secret in shared memory was not found");
    }
}
