//! `doctor`: what this host can do, each fact tried and not guessed, and what to install.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::process::Command;

use serde::Serialize;

use crate::cli::Doctor;
use crate::{accel, host, install, kernel, qemu};

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
    let facts = examine();
    let usable = facts.iter().all(|fact| fact.grade != Grade::Missing);
    let text = if args.json {
        serde_json::json!({ "usable": usable, "facts": facts }).to_string() + "\n"
    } else {
        table(&facts, usable, io::stdout().is_terminal())
    };
    // A closed pipe is the reader's choice.
    let _ = io::stdout().write_all(text.as_bytes());
    i32::from(!usable)
}

fn table(facts: &[Fact], usable: bool, colour: bool) -> String {
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
    out + if usable {
        "\n`cargo xtask run-snp` can run here (platform vm: not confidential).\n"
    } else {
        "\nInstall what is missing; as root, `cargo xtask run-snp` does that by itself.\n"
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
            let objects = help(&["-object", "help"]);
            let has = |name: &str| objects.lines().any(|line| line.trim() == name);
            facts.push(match has("igvm-cfg") {
                true => fact("IGVM in QEMU", Grade::Ok, "igvm-cfg is there", None),
                false => fact(
                    "IGVM in QEMU",
                    Grade::Absent,
                    "no igvm-cfg",
                    Some("needed for platform snp only: QEMU 10.1 or newer"),
                ),
            });
            facts.push(match has("sev-snp-guest") {
                true => fact("SNP in QEMU", Grade::Ok, "sev-snp-guest is there", None),
                false => fact(
                    "SNP in QEMU",
                    Grade::Absent,
                    "no sev-snp-guest",
                    Some("needed for platform snp only"),
                ),
            });
        }
    }
    let parameter = fs::read_to_string("/sys/module/kvm_amd/parameters/sev_snp").unwrap_or_default();
    let device = std::path::Path::new("/dev/sev").exists();
    facts.push(match (device, parameter.trim()) {
        (true, "Y" | "1") => fact("SNP host", Grade::Ok, "/dev/sev is there, kvm_amd.sev_snp is on", None),
        (device, parameter) => fact(
            "SNP host",
            Grade::Absent,
            format!(
                "/dev/sev {}, kvm_amd.sev_snp {}",
                if device { "is there" } else { "is absent" },
                if parameter.is_empty() { "is absent" } else { parameter }
            ),
            Some("needed for platform snp only: an AMD EPYC 7003 or newer, SNP on in its firmware, Linux 6.11 or newer"),
        ),
    });
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
        assert!(table(&facts, false, true).contains("\x1b[31m"));
        let plain = table(&facts, false, false);
        assert!(!plain.contains('\x1b') && plain.contains("apt-get install x"));
    }
}
