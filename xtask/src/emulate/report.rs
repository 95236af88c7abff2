//! What a run came to: exit status, words, JSON.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::session::{Ending, Timing};
use crate::protocol::status;

/// The set of reason codes with which our own kernel ends itself when it detects an attack (`docs/emulator.md`).
const ATTACK_SET: u64 = 0xb;

/// The guest ended in a way that is neither the machine's end nor an attack that it detected.
const GUEST_ENDED: i32 = 123;

/// The exit status.
pub fn exit_status(ending: &Ending) -> i32 {
    let report = match ending {
        Ending::Reported(report) => report,
        Ending::Bug(_) => return status::KERNEL_BUG,
        Ending::TimedOut => return status::TIMED_OUT,
        Ending::Interrupted(signal) => return status::SIGNALED + signal,
        Ending::OutputClosed => return status::SIGNALED + nix::sys::signal::Signal::SIGPIPE as i32,
        Ending::Vanished(_) => return status::LAUNCH_FAILED,
    };
    let number = |key: &str| report.get(key).and_then(Value::as_u64);
    match report.get("ending").and_then(Value::as_str) {
        Some("power-off") => 0,
        // Linux keeps eight bits of a status.
        Some("debug-exit") => number("value").map_or(GUEST_ENDED, |value| (value & 0xff) as i32),
        Some("terminated") if number("set") == Some(ATTACK_SET) => status::HOST_ATTACK,
        Some("launch-failed") => status::LAUNCH_FAILED,
        Some("limit") => status::KERNEL_BUG,
        _ => GUEST_ENDED,
    }
}

/// What to tell a human; nothing where the guest ended the machine itself or the launcher's user did.
pub fn words(ending: &Ending, timeout: Option<Duration>) -> Option<String> {
    match ending {
        Ending::Reported(report) => {
            let words = report.get("words").and_then(Value::as_str).unwrap_or("the emulator gave no reason");
            match report.get("ending").and_then(Value::as_str) {
                Some("power-off" | "debug-exit") => None,
                _ => Some(words.to_owned()),
            }
        }
        Ending::Bug(why) => Some(format!("emulator bug: {why}")),
        Ending::TimedOut => Some(format!("timed out after {} s", timeout.unwrap_or_default().as_secs_f64())),
        Ending::Interrupted(_) | Ending::OutputClosed => None,
        Ending::Vanished(qemu) => Some(format!("the emulator did not report: {qemu}")),
    }
}

/// What the launcher knows about a run.
#[derive(Debug)]
pub struct Facts {
    /// The guest's file.
    pub file: String,
    /// The VMM whose rules held.
    pub host: &'static str,
    /// CPUs.
    pub cpus: u32,
    /// Bytes of the guest's memory.
    pub memory: u64,
    /// Position of the C-bit.
    pub c_bit: u32,
    /// What executed the emulator.
    pub accelerator: String,
    /// QEMU's version.
    pub qemu: Option<String>,
    /// The frequency of the TSC, in which the emulator counts cycles.
    pub tsc_khz: Option<u64>,
}

/// The JSON: the emulator's report, or the name of what happened instead, and what the launcher adds.
pub fn json(facts: &Facts, ending: &Ending, timing: &Timing) -> Map<String, Value> {
    let mut object = match ending {
        Ending::Reported(report) => report.clone(),
        other => {
            let name = match other {
                Ending::Bug(_) => "emulator-bug",
                Ending::TimedOut => "timed-out",
                Ending::Vanished(_) => "no-report",
                _ => "interrupted",
            };
            let words = words(other, None).unwrap_or_else(|| name.to_owned());
            Map::from_iter([("ending".to_owned(), json!(name)), ("words".to_owned(), json!(words))])
        }
    };
    let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let cycles = object.get("cycles").and_then(Value::as_f64);
    let guest_ms = cycles.zip(facts.tsc_khz).map(|(cycles, khz)| (cycles / khz as f64 * 1e3).round() / 1e3);
    for (key, value) in [
        ("exit_status", json!(exit_status(ending))),
        ("file", json!(facts.file)),
        ("host", json!(facts.host)),
        ("cpus", json!(facts.cpus)),
        ("memory_bytes", json!(facts.memory)),
        ("c_bit", json!(facts.c_bit)),
        ("accelerator", json!(facts.accelerator)),
        ("qemu", json!(facts.qemu)),
        ("tsc_khz", json!(facts.tsc_khz)),
        ("first_instruction_ms", json!(timing.first_instruction.map(ms))),
        ("first_byte_ms", json!(timing.first_byte.map(ms))),
        ("report_ms", json!(timing.report.map(ms))),
        ("total_ms", json!(ms(timing.total))),
        ("guest_ms", json!(guest_ms)),
    ] {
        object.insert(key.to_owned(), value);
    }
    object
}

/// Writes the JSON.
///
/// # Errors
/// The file cannot be written.
pub fn write(file: &Path, object: &Map<String, Value>) -> Result<()> {
    let mut text = serde_json::to_string_pretty(object).context("cannot encode the report")?;
    text.push('\n');
    fs::write(file, text).with_context(|| format!("cannot write the report to {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(value: Value) -> Ending {
        match value {
            Value::Object(object) => Ending::Reported(object),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn every_ending_has_the_documented_status() {
        for (report, want) in [
            (json!({"ending": "power-off"}), 0),
            (json!({"ending": "debug-exit", "value": 0}), 0),
            (json!({"ending": "debug-exit", "value": 0x1_2a}), 42),
            (json!({"ending": "debug-exit"}), 123),
            (json!({"ending": "terminated", "set": 11, "code": 3}), 121),
            (json!({"ending": "terminated", "set": 1, "code": 3}), 123),
            (json!({"ending": "shutdown"}), 123),
            (json!({"ending": "reset"}), 123),
            (json!({"ending": "launch-failed"}), 125),
            (json!({"ending": "limit"}), 122),
            (json!({"ending": 7}), 123),
        ] {
            assert_eq!(exit_status(&reported(report.clone())), want, "{report}");
        }
        assert_eq!(exit_status(&Ending::Bug("x".into())), 122);
        assert_eq!(exit_status(&Ending::TimedOut), 124);
        assert_eq!(exit_status(&Ending::Vanished("x".into())), 125);
        assert_eq!(exit_status(&Ending::Interrupted(2)), 130);
    }

    #[test]
    fn words_are_for_what_was_not_meant() {
        assert_eq!(words(&reported(json!({"ending": "power-off", "words": "off"})), None), None);
        let reset = reported(json!({"ending": "reset", "words": "the guest reset the machine"}));
        assert_eq!(words(&reset, None).as_deref(), Some("the guest reset the machine"));
    }

    #[test]
    fn json_keeps_the_report_and_adds_times() {
        let facts = Facts {
            file: "f".into(),
            host: "qemu",
            cpus: 2,
            memory: 1,
            c_bit: 51,
            accelerator: "tcg".into(),
            qemu: None,
            tsc_khz: Some(2_000_000),
        };
        let timing = Timing { first_instruction: Some(Duration::from_millis(70)), ..Timing::default() };
        let ending = reported(json!({"ending": "power-off", "cycles": 4_000_000, "exits": {"0x81": 3}}));
        let object = json(&facts, &ending, &timing);
        assert_eq!(object["exits"]["0x81"], json!(3));
        assert_eq!(object["guest_ms"], json!(2.0));
        assert_eq!(object["first_instruction_ms"], json!(70.0));
        assert_eq!(object["exit_status"], json!(0));
        let object = json_of(&facts, &Ending::TimedOut);
        assert_eq!((&object["ending"], &object["exit_status"]), (&json!("timed-out"), &json!(124)));
    }

    fn json_of(facts: &Facts, ending: &Ending) -> Map<String, Value> {
        json(facts, ending, &Timing::default())
    }
}
