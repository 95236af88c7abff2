//! `emulate`: boots an SNP guest in the SNP emulator (`docs/emulator.md`), from the command line to the exit status.

pub mod arguments;
mod channel;
mod input;
mod machine;
mod report;
pub mod script;
mod session;

use std::io::{self, Write};

use anyhow::Result;

use crate::cli::Accel;
use crate::machine::Accelerator;
use crate::protocol::status;
use crate::{accel, host, kernel, qemu};
use arguments::Emulate;
use input::Inputs;
use machine::Machine;
use report::Facts;

/// The emulator's package.
pub const PACKAGE: &str = "snp_emulator";

/// Boots the guest and returns the exit status.
pub fn emulate(args: &Emulate) -> i32 {
    match attempt(args) {
        Ok(status) => status,
        Err(error) => {
            complain(&format!("{error:#}"));
            status::LAUNCH_FAILED
        }
    }
}

fn complain(why: &str) {
    // A closed stderr must not turn into a panic.
    let _ = writeln!(io::stderr(), "xtask: {why}");
}

fn attempt(args: &Emulate) -> Result<i32> {
    let inputs = Inputs::open(args)?;
    let qemu = qemu::find_or_install()?;
    let emulator = kernel::build(PACKAGE)?;
    let accelerator = match args.accel {
        Accel::Auto => Accelerator::Tcg,
        wish => accel::choose(wish, &qemu)?,
    };
    let tsc_khz = host::tsc_khz();
    let machine =
        Machine { emulator, inputs, accelerator, memory: args.memory, cpus: args.cpus, c_bit: args.c_bit };
    let options = machine::options(args, tsc_khz);
    let (ending, timing) = session::run(&qemu, &machine, &options, args.timeout)?;
    if let Some(words) = report::words(&ending, args.timeout) {
        complain(&words);
    }
    if let Some(file) = &args.json {
        let guest = args.igvm.as_ref().or(args.linux.as_ref());
        let facts = Facts {
            file: guest.map(|file| file.display().to_string()).unwrap_or_default(),
            host: args.host.name(),
            cpus: args.cpus,
            memory: args.memory,
            c_bit: args.c_bit,
            accelerator: accelerator.to_string(),
            qemu: qemu::version(&qemu),
            tsc_khz,
        };
        report::write(file, &report::json(&facts, &ending, &timing))?;
    }
    Ok(report::exit_status(&ending))
}
