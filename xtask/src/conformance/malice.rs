//! The attacks of `qemu/conformance/malice/` on a guest that defends itself against nothing: a boot for each, in the emulator, which must have carried the attack out.
//!
//! The guest says whether the attack worked (`qemu/conformance/src/naive/`); where hardware or the PSP stops it, the script says how the run ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use ::conformance::attack::Attack;
use ::conformance::scenario::Scenario;
use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::image::Image;
use super::{Boot, Conformance};
use crate::emulate::script;
use crate::host;
use crate::igvm::kernel::Kernel;

/// Where the scripts are.
fn scripts() -> PathBuf {
    host::workspace().join("qemu/conformance/malice")
}

/// The script of an attack.
fn script_of(attack: Attack) -> PathBuf {
    scripts().join(attack.name()).with_extension("toml")
}

/// Carries the attacks out, says what does not work, and the sums. The exit status.
///
/// # Errors
/// A boot cannot be made at all.
pub fn carry_out(attacks: &[Attack], args: &Conformance, kernel: &Kernel, c_bit: u32) -> Result<i32> {
    let mut failed = 0;
    for &attack in attacks {
        let name = attack.name();
        match boot(attack, args, kernel, c_bit)? {
            Ok(words) => println!("{name}: {words}"),
            Err(why) => {
                failed += 1;
                println!("FAILED  {name}: {why}");
            }
        }
    }
    println!("{} passed, {failed} failed", attacks.len() - failed);
    Ok(i32::from(failed != 0))
}

/// One attack: what came of it, in words, or why it does not bite.
fn boot(
    attack: Attack,
    args: &Conformance,
    kernel: &Kernel,
    c_bit: u32,
) -> Result<std::result::Result<String, String>> {
    let (scenario, attack_of) = (Scenario::Naive, Some(attack));
    let image = Image { kernel, c_bit, scenario, attack: attack_of, entry: args.entry }.build()?;
    let script = script_of(attack);
    let (output, report) = Boot::new(attack.name(), &image)?.emulate(args, c_bit, Some(&script))?;
    judge(&script, &output, &report)
}

/// Whether the guest was bitten as the script says.
fn judge(script: &Path, output: &Output, report: &Value) -> Result<std::result::Result<String, String>> {
    let text = fs::read_to_string(script).with_context(|| format!("cannot read {}", script.display()))?;
    let Some(expected) = script::expectation(&text)? else {
        bail!("{} does not say how the guest ends: it needs [expect]", script.display());
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let sum = said.lines().last().unwrap_or_default();
    let word = |key: &str| report.get(key).and_then(Value::as_str).unwrap_or_default();
    let all_carried_out = || {
        let never = report.get("never_carried_out").and_then(Value::as_array);
        never.is_some_and(Vec::is_empty)
    };
    let fail = |why: &str| {
        let errors = String::from_utf8_lossy(&output.stderr);
        Ok(Err(format!("{why}\n{}{}  report: {report}", said, errors)))
    };
    if output.status.code() != Some(expected.status) {
        return fail(&format!("{}, and the script expects {}", output.status, expected.status));
    }
    // What fails at the launch has no guest.
    if word("ending") != "launch-failed" && !all_carried_out() {
        return fail("not every rule was carried out");
    }
    match expected.ending {
        None if sum.contains(" passed, 0 failed") => Ok(Ok(sum.to_owned())),
        None => fail("the guest does not say that the attack worked"),
        Some(ending) if ending == word("ending") => Ok(Ok(format!("stopped: {}", word("words")))),
        Some(ending) => fail(&format!("it did not end with {ending}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snp_emulator::malice::event::Moment;
    use snp_emulator::malice::kind::Kind;
    use snp_emulator::malice::places;
    use snp_emulator::malice::script::{Action, Place, Rule};

    fn rules() -> Vec<Rule> {
        let read = |&attack: &Attack| {
            let file = script_of(attack);
            let text = fs::read_to_string(&file).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
            assert!(script::expectation(&text).unwrap().is_some(), "{} has no [expect]", file.display());
            script::read(&text).unwrap_or_else(|why| panic!("{}: {why:#}", file.display())).rules
        };
        Attack::ALL.iter().flat_map(read).collect()
    }

    #[test]
    fn every_kind_has_a_script_that_bites() {
        let rules = rules();
        // The guest has no driver for a virtqueue; the kernel's scripts (`tests/attacks/virtio-ring/`) are the only ones.
        for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::ChangeRing) {
            assert!(rules.iter().any(|rule| rule.action.kind() == *kind), "no script shows: {}", kind.name());
        }
        for moment in Moment::ALL {
            assert!(rules.iter().any(|rule| rule.trigger.on == moment), "no script waits for {moment:?}");
        }
    }

    #[test]
    fn every_field_of_the_ghcb_lies() {
        let rules = rules();
        for (name, at, _) in places::GHCB {
            let lies = |rule: &Rule| matches!(&rule.action, Action::Change { place: Place::Ghcb(place), .. } if *place == at);
            assert!(rules.iter().any(lies), "no script lies in {name}");
        }
    }

    #[test]
    fn every_script_has_its_check() {
        for entry in fs::read_dir(scripts()).unwrap() {
            let file = entry.unwrap().path();
            let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            assert!(Attack::from_name(name).is_some(), "the guest knows no attack {name}");
        }
    }
}
