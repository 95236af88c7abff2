//! `conformance`: builds the conformance guest (`qemu/conformance/`) as an IGVM file, and runs it in the emulator or leaves it to be run elsewhere.

mod boot;
mod image;
mod malice;
mod measure;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use ::conformance::attack::Attack;
use ::conformance::scenario::Scenario;
use anyhow::{Context, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser};

use crate::cli::{Accel, Cli, Task, seconds};
use crate::emulate::{self, arguments::Emulate};
use crate::igvm::image::Entry;
use crate::igvm::kernel::Kernel;
use crate::kernel;
use crate::protocol::status;
use boot::Boot;
use image::Image;

/// The guest's package.
const PACKAGE: &str = "conformance";
/// Memory that it needs: what the arena of its checks has, and what a host keeps below 128 MiB.
const MEMORY: &str = "128M";

/// What `conformance` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
The guest writes a line for each check that fails or is skipped to the serial port 0x3f8, then their sums. It ends with status 0 (ACPI
soft-off) if none failed, else with 1 (debug-exit port 0xf4). A scenario is a boot that must end the guest in a certain way; the emulator's JSON says how it did.
--malice boots a guest that defends itself against nothing under each attack of qemu/conformance/malice/, and checks that the attack works.")]
pub struct Conformance {
    /// Position of the C-bit
    #[arg(long, value_name = "51|47", default_value = "51", value_parser = PossibleValuesParser::new(["51", "47"]))]
    pub c_bit: String,
    /// The guest's CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub cpus: u32,
    /// Mode of the first instruction
    #[arg(long, value_enum, default_value_t = Entry::Long)]
    pub entry: Entry,
    /// What to do: all checks, or one thing that ends the guest
    #[arg(long, value_name = "NAME", default_value = "checks", value_parser = PossibleValuesParser::new(Scenario::ALL.iter().map(|s| s.name())).try_map(scenario))]
    pub scenario: Scenario,
    /// Attack a guest without defences instead, by this script or by all
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = ALL, conflicts_with_all = ["scenario", "write", "json", "trace"], value_parser = PossibleValuesParser::new(attacks()))]
    pub malice: Option<String>,
    /// Measure how long a start takes beside a plain one of QEMU, and what exits cost, instead
    #[arg(long, conflicts_with_all = ["malice", "scenario", "write", "json", "trace"])]
    pub measure: bool,
    /// Write the IGVM file, for another host, and do not run it
    #[arg(long, value_name = "FILE.igvm", conflicts_with_all = ["json", "trace", "timeout"])]
    pub write: Option<PathBuf>,
    /// Write what the emulator counted into this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Say each exchange between guest and host on stderr
    #[arg(long)]
    pub trace: bool,
    /// End the machine after this many seconds, with status 124
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// What executes the emulator
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
}

/// All attacks, on the command line.
const ALL: &str = "all";

fn attacks() -> impl Iterator<Item = &'static str> {
    [ALL].into_iter().chain(Attack::ALL.iter().map(|attack| attack.name()))
}

fn scenario(name: String) -> Result<Scenario, String> {
    Scenario::from_name(&name).ok_or_else(|| format!("no scenario {name}"))
}

/// Builds the guest, and runs it unless it is to be written only. The exit status.
pub fn conformance(args: &Conformance) -> i32 {
    match attempt(args) {
        Ok(status) => status,
        Err(error) => {
            // A closed stderr must not turn into a panic.
            let _ = writeln!(io::stderr(), "xtask: {error:#}");
            status::LAUNCH_FAILED
        }
    }
}

fn attempt(args: &Conformance) -> Result<i32> {
    let guest = kernel::build(PACKAGE)?;
    let file = fs::read(&guest).with_context(|| format!("cannot read {}", guest.display()))?;
    let kernel = Kernel::parse(&file)?;
    let c_bit = args.c_bit.parse().context("--c-bit")?;
    if let Some(name) = &args.malice {
        let chosen = Attack::from_name(name).map_or_else(|| Attack::ALL.to_vec(), |attack| vec![attack]);
        return malice::carry_out(&chosen, args, &kernel, c_bit);
    }
    if args.measure {
        return measure::measure(args, &kernel, c_bit);
    }
    let (scenario, attack) = (args.scenario, None);
    let image = Image { kernel: &kernel, c_bit, scenario, attack, entry: args.entry }.build()?;
    if let Some(path) = &args.write {
        fs::write(path, image).with_context(|| format!("cannot write {}", path.display()))?;
        return Ok(0);
    }
    let path = std::env::temp_dir().join(format!("conformance.{}.igvm", std::process::id()));
    fs::write(&path, image).with_context(|| format!("cannot write {}", path.display()))?;
    let status = emulate::emulate(&options(args, &path)?);
    let _ = fs::remove_file(&path);
    Ok(status)
}

/// The same as on the command line of `emulate`, with its defaults.
fn options(args: &Conformance, image: &std::path::Path) -> Result<Emulate> {
    let mut words =
        vec!["xtask".into(), "emulate".into(), "--memory".into(), MEMORY.into(), "--c-bit".into()];
    words.push(args.c_bit.clone().into());
    words.push(image.as_os_str().to_owned());
    let Task::Emulate(emulate) = Cli::try_parse_from(words)?.command else {
        anyhow::bail!("the command line of `emulate` has changed");
    };
    Ok(Emulate {
        cpus: args.cpus,
        json: args.json.clone(),
        trace: args.trace,
        timeout: args.timeout,
        accel: args.accel,
        ..*emulate
    })
}
