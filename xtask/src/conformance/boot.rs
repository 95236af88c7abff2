//! A boot of the guest in a process of its own, as a user would start it: what it printed, and what the emulator reported.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::Value;

use super::{Conformance, MEMORY};

/// A boot that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(300);

/// An image that can be booted; its file goes with this.
pub struct Boot {
    igvm: PathBuf,
    json: PathBuf,
}

impl Boot {
    /// Writes the image.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(name: &str, image: &[u8]) -> Result<Self> {
        let file = |what: &str| {
            std::env::temp_dir().join(format!("conformance.{}.{name}.{what}", std::process::id()))
        };
        let boot = Self { igvm: file("igvm"), json: file("json") };
        fs::write(&boot.igvm, image).with_context(|| format!("cannot write {}", boot.igvm.display()))?;
        Ok(boot)
    }

    /// Boots it, under attack by a script if there is one; the report is null where the emulator gave none.
    ///
    /// # Errors
    /// The emulator cannot be started.
    pub fn emulate(&self, args: &Conformance, c_bit: u32, script: Option<&Path>) -> Result<(Output, Value)> {
        let program = std::env::current_exe().context("this program does not know its own path")?;
        let timeout = args.timeout.unwrap_or(TIMEOUT).as_secs().to_string();
        let accelerator = args.accel.to_possible_value();
        let accelerator = accelerator.as_ref().map_or("auto", |value| value.get_name());
        let mut command = Command::new(program);
        command
            .args(["emulate", "--memory", MEMORY, "--cpus", &args.cpus.to_string(), "--timeout", &timeout])
            .args(["--c-bit", &c_bit.to_string(), "--accel", accelerator, "--json"])
            .arg(&self.json)
            .stdin(Stdio::null());
        if let Some(script) = script {
            command.arg("--script").arg(script);
        }
        let output = command.arg(&self.igvm).output().context("cannot start the emulator")?;
        let report = fs::read(&self.json).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Ok((output, report.unwrap_or(Value::Null)))
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        for made in [&self.igvm, &self.json] {
            // What is not there need not be removed.
            let _ = fs::remove_file(made);
        }
    }
}
