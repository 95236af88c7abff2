//! The owner's commands, which `cargo xtask` builds when one is first asked for: verify, broker, and what belongs to them.

mod command;

use std::io::Write;

use clap::{Parser, Subcommand};

/// Status of a command that could not do what it should; what it did and found wanting is status 1.
const FAILED: i32 = 125;

/// Attestation, from the owner's side.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check an attestation report: who signed it, and whether it says what is expected
    Verify(Box<command::verify::Verify>),
    /// Release secrets to guests whose reports pass
    Broker(command::broker::Serve),
    /// Encrypt a file for a broker to keep
    Seal(command::keys::Seal),
    /// Make a key for an owner, a party or a broker: P-256
    Keygen(command::keys::Keygen),
}

fn main() {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let status = if error.use_stderr() { FAILED } else { 0 };
            let _ = error.print();
            std::process::exit(status);
        }
    };
    let result = match cli.task {
        Task::Verify(args) => command::verify::run(&args),
        Task::Broker(args) => command::broker::run(&args),
        Task::Seal(args) => command::keys::seal(&args),
        Task::Keygen(args) => command::keys::keygen(&args),
    };
    let status = result.unwrap_or_else(|error| {
        // A closed stderr must not turn into a panic.
        let _ = writeln!(std::io::stderr(), "xtask: {error:#}");
        FAILED
    });
    std::process::exit(status);
}
