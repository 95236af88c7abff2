//! `doctor`: what this host can do, each fact tried and not guessed, and what to install.

use std::io::{self, IsTerminal, Write};
use std::process::Command;

use serde::Serialize;

use crate::cli::Doctor;
use crate::{accel, host, install, kernel, qemu, snp_host};

/// How good a fact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Ok,
    /// Works without it.
    Absent,
    /// `run-snp` needs it.
    Missing,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Fact {
    name: &'static str,
    grade: Grade,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

fn fact(name: &'static str, grade: Grade, value: impl Into<String>, advice: Option<&str>) -> Fact {
    Fact { name, grade, value: value.into(), advice: advice.map(str::to_owned) }
}

/// Prints the report; status 0 if `--platform vm` can run here, else 1.
pub fn doctor(args: &Doctor) -> i32 {
    let mut facts = examine();
    let snp = snp_host::look(qemu::find().as_deref());
    let confidential = snp_host::usable(&snp).is_ok();
    for found in snp {
        let grade = if found.good { Grade::Ok } else { Grade::Absent };
        let advice = format!("needed for platform snp only: {}", found.advice);
        facts.push(fact(found.name, grade, found.value, (!found.good).then_some(advice.as_str())));
    }
    let usable = facts.iter().all(|fact| fact.grade != Grade::Missing);
    let text = if args.json {
        serde_json::json!({ "usable": usable, "snp": confidential, "facts": facts }).to_string() + "\n"
    } else {
        table(&facts, io::stdout().is_terminal()) + verdict(usable, confidential)
    };
    // A closed pipe is the reader's choice.
    let _ = io::stdout().write_all(text.as_bytes());
    i32::from(!usable)
}

fn table(facts: &[Fact], colour: bool) -> String {
    let mut out = String::new();
    for fact in facts {
        let (mark, code) = match fact.grade {
            Grade::Ok => ("ok", 32),
            Grade::Absent => ("no", 33),
            Grade::Missing => ("MISSING", 31),
        };
        let mark = if colour { format!("\x1b[{code}m{mark:<7}\x1b[0m") } else { format!("{mark:<7}") };
        out += &format!("{mark}  {:<14} {}\n", fact.name, fact.value);
        if let Some(advice) = &fact.advice {
            out += &format!("{:>25}{advice}\n", "-> ");
        }
    }
    out
}

/// The last line.
fn verdict(usable: bool, snp: bool) -> &'static str {
    match (usable, snp) {
        (false, _) => "\nInstall what is missing; as root, `cargo xtask run-snp` does that by itself.\n",
        (true, false) => {
            "\n`cargo xtask run-snp` can run here, on the platforms snp-emulated and vm: not confidential.\n"
        }
        (true, true) => {
            "\n`cargo xtask run-snp` can run here, on SNP hardware by what can be seen; it was never tried on silicon.\n"
        }
    }
}

fn examine() -> Vec<Fact> {
    let mut facts = Vec::new();
    let install_qemu = "apt-get install -y --no-install-recommends qemu-system-x86";
    match qemu::find() {
        None => {
            facts.push(fact("QEMU", Grade::Missing, format!("{} not found", qemu::NAME), Some(install_qemu)))
        }
        Some(path) => {
            let version = qemu::version(&path);
            let grade = if version.is_some() { Grade::Ok } else { Grade::Missing };
            let version = version.unwrap_or_else(|| "does not run".into());
            facts.push(fact("QEMU", grade, format!("{version} ({})", path.display()), None));
            let help = |words: &[&str]| host::output_of(Command::new(&path).args(words)).unwrap_or_default();
            let microvm = help(&["-M", "help"]).lines().any(|line| line.starts_with("microvm"));
            facts.push(match microvm {
                true => fact("microvm", Grade::Ok, "machine type is there", None),
                false => fact(
                    "microvm",
                    Grade::Missing,
                    "this QEMU has no machine type microvm",
                    Some(install_qemu),
                ),
            });
            facts.push(match accel::try_kvm(&path) {
                Ok(()) => fact("KVM", Grade::Ok, "tried, works", None),
                Err(why) => fact(
                    "KVM",
                    Grade::Absent,
                    format!("tried, does not work: {why}"),
                    Some("TCG is used; slower"),
                ),
            });
        }
    }
    let rustc = host::output_of(Command::new("rustc").arg("--version"));
    facts.push(match rustc {
        Some(version) => fact("Rust", Grade::Ok, version.trim(), None),
        None => fact("Rust", Grade::Missing, "rustc does not run", Some("install https://rustup.rs")),
    });
    let add = format!("rustup target add {}", kernel::TARGET);
    facts.push(match install::has_rust_target(kernel::TARGET) {
        true => fact("Rust target", Grade::Ok, kernel::TARGET, None),
        false => fact("Rust target", Grade::Missing, kernel::TARGET, Some(&add)),
    });
    facts.push(match host::tsc_khz() {
        Some(khz) => fact("TSC", Grade::Ok, format!("{:.3} MHz", khz as f64 / 1000.0), None),
        None => fact("TSC", Grade::Absent, "not measurable; the kernel calibrates it", None),
    });
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_colour_only_where_it_is_wanted() {
        let facts = [fact("QEMU", Grade::Missing, "not found", Some("apt-get install x"))];
        assert!(table(&facts, true).contains("\x1b[31m"));
        let plain = table(&facts, false);
        assert!(!plain.contains('\x1b') && plain.contains("apt-get install x"));
    }
}
