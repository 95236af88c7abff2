//! The owner's commands: verify, broker and what belongs to them, which the package `attestation` does.
//!
//! That package is built when one of them is first asked for, so that whoever only runs programs does not wait for what it depends on.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use std::io::{self, Write};

use crate::host::{cargo, target_dir};
use crate::protocol::status;

/// The package, and its program.
const PACKAGE: &str = "attestation";

/// What an owner's command takes: `--help` says it.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Words {
    /// See --help
    #[arg(value_name = "…", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

/// Builds the program if that is needed; its path.
///
/// # Errors
/// It does not compile.
pub fn build() -> Result<PathBuf> {
    let program = target_dir().join("debug").join(PACKAGE);
    if !program.exists() {
        // A closed stderr must not turn into a panic.
        let _ = writeln!(io::stderr(), "xtask: building the owner's tools, once");
    }
    let built = cargo(&["build", "--quiet", "--package", PACKAGE]).output().context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&built.stderr);
    ensure!(built.status.success(), "the owner's tools do not build:\n{}", said.trim_end());
    Ok(program)
}

/// Runs a command of the program's; its exit status.
pub fn run(name: &str, args: &Words) -> i32 {
    let attempt = || -> Result<i32> {
        let mut command = Command::new(build()?);
        let ended = command.arg(name).args(&args.words).status().context("cannot start the owner's tools")?;
        Ok(ended.code().unwrap_or(status::LAUNCH_FAILED))
    };
    attempt().unwrap_or_else(|error| {
        // A closed stderr must not turn into a panic.
        let _ = writeln!(io::stderr(), "xtask: {error:#}");
        status::LAUNCH_FAILED
    })
}
