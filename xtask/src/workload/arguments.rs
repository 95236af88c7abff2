//! What is to run, on the command lines of `run-snp` and `build-igvm`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use clap::builder::TypedValueParser;

/// A program and what it finds.
#[derive(Debug, Args)]
pub struct Program {
    /// Root file system: a directory or a tar archive
    #[arg(long, value_name = "DIR|TAR")]
    pub rootfs: Option<PathBuf>,
    /// Set an environment variable (repeatable)
    #[arg(long = "env", value_name = "K=V", value_parser = clap::builder::OsStringValueParser::new().try_map(environment))]
    pub env: Vec<OsString>,
    /// Working directory of the program: an absolute path in its root file system
    #[arg(long, value_name = "DIR", default_value = "/", value_parser = absolute)]
    pub workdir: String,
    /// The program, an ELF file on the host or a path inside --rootfs, and its arguments, passed on as they are
    // One list: clap goes on looking for options between two positional arguments.
    #[arg(value_name = "APP [ARGS]", required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

impl Program {
    /// The program.
    pub fn app(&self) -> &OsStr {
        self.command.first().map(OsString::as_os_str).unwrap_or_default()
    }

    /// Its arguments.
    pub fn args(&self) -> &[OsString] {
        self.command.get(1..).unwrap_or_default()
    }
}

fn absolute(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err("an absolute path is wanted, such as /tmp".into())
    }
}

fn environment(text: OsString) -> Result<OsString, String> {
    match text.as_bytes().iter().position(|&byte| byte == b'=') {
        Some(0) | None => Err(format!("`{}` is not of the form K=V", text.display())),
        Some(_) => Ok(text),
    }
}
