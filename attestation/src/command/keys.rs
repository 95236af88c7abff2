//! `keygen` and `seal`: keys, and secrets for a broker to keep.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use attestation::broker::policy::seal_for_broker;
use attestation::keys;
use clap::Args;

/// What `keygen` takes.
#[derive(Debug, Args)]
pub struct Keygen {
    /// Where the private key goes; the public one goes to FILE.pub beside it
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// What `seal` takes.
#[derive(Debug, Args)]
pub struct Seal {
    /// What to encrypt
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The broker's public key
    #[arg(long, value_name = "BROKER.pub")]
    pub to: PathBuf,
    /// Where it goes
    #[arg(short, long, value_name = "FILE.sealed")]
    pub output: PathBuf,
}

/// Makes a key; the exit status.
pub fn keygen(args: &Keygen) -> Result<i32> {
    keys::create(&args.file)?;
    let public = keys::public_path(&args.file);
    let _ = writeln!(
        io::stdout(),
        "{}: private, keep it\n{}: public, give it away",
        args.file.display(),
        public.display()
    );
    Ok(0)
}

/// Encrypts a file; the exit status.
pub fn seal(args: &Seal) -> Result<i32> {
    let broker = keys::read_public(&args.to)?;
    let secret = fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let sealed = seal_for_broker(&secret, &broker)?;
    fs::write(&args.output, sealed).with_context(|| format!("cannot write {}", args.output.display()))?;
    Ok(0)
}
