//! `verify`: judges a report in a file.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use attestation::certificates::Bundle;
use attestation::check::Outcome;
use attestation::expect::Image;
use attestation::report::REPORT_SIZE;
use attestation::runtime_data::of_nonce;
use attestation::tcb::TcbFloor;
use attestation::verify::{Asker, Demands, Verdict, verify};
use attestation::{unhex, unhex_any};
use clap::{Args, ValueEnum};

/// What `verify` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 the report is accepted; 1 it is refused; 125 there is nothing to judge.

AMD's root and signing keys for Milan, Genoa and Turin are built in (those of the crate `sev`). The chip's certificate (VCEK) is not: it comes from
--certs, or from REPORT.certs, a file beside the report. For a VLEK, --certs has to have the ASVK too.

Revocation lists are not consulted. What each check means: docs/attestation.md.")]
pub struct Verify {
    /// The report: 1184 bytes, or the same in hexadecimal
    pub report: PathBuf,
    /// What shall have been launched: the IGVM file, or the reference values that build-igvm wrote beside it
    #[arg(long, value_name = "FILE.igvm|REFERENCE.json")]
    pub expect: Option<PathBuf>,
    /// The nonce that the report was asked for with: then it is no older than that
    #[arg(long, value_name = "HEX", value_parser = bytes, conflicts_with = "report_data")]
    pub nonce: Option<Bytes>,
    /// REPORT_DATA as a whole, for reports that the workload asked for
    #[arg(long, value_name = "HEX", value_parser = exactly::<64>)]
    pub report_data: Option<[u8; 64]>,
    /// Certificates: a file (DER, PEM, or a host's certificate table), or a directory of such files (repeatable)
    #[arg(long, value_name = "PATH")]
    pub certs: Vec<PathBuf>,
    /// Least levels of the reported, the current and the launch TCB, such as bootloader=4,snp=24,microcode=219
    #[arg(long, value_name = "LEVELS")]
    pub min_tcb: Option<TcbFloor>,
    /// Least levels of the committed TCB, which the platform cannot go back from
    #[arg(long, value_name = "LEVELS")]
    pub min_committed_tcb: Option<TcbFloor>,
    /// SHA-384 of the key that shall have signed the ID block [default: what --expect says]
    #[arg(long, value_name = "HEX", value_parser = exactly::<48>)]
    pub id_key: Option<[u8; 48]>,
    /// SHA-384 of the key that shall have signed the ID key
    #[arg(long, value_name = "HEX", value_parser = exactly::<48>)]
    pub author_key: Option<[u8; 48]>,
    /// Who in the guest shall have asked: the kernel (VMPL 0) or the workload (VMPL 1 to 3)
    #[arg(long, value_enum, default_value_t = Who::Anyone)]
    pub asked_by: Who,
    /// Accept the SNP emulator's root, which proves nothing
    #[arg(long)]
    pub allow_emulated: bool,
    /// Accept a policy that lets the host debug the guest
    #[arg(long)]
    pub allow_debug: bool,
    /// Accept a migration agent
    #[arg(long)]
    pub allow_migration: bool,
    /// Accept a platform whose memory was not checked for aliases
    #[arg(long)]
    pub allow_no_alias_check: bool,
    /// The verdict as JSON
    #[arg(long)]
    pub json: bool,
}

/// Bytes of any number, in a type that clap takes for one value.
#[derive(Clone, Debug)]
pub struct Bytes(Vec<u8>);

/// Who asked for a report.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Who {
    /// Whoever
    Anyone,
    /// VMPL 0
    Kernel,
    /// VMPL 1 to 3
    Workload,
}

fn bytes(text: &str) -> Result<Bytes, String> {
    unhex_any(text).map(Bytes).ok_or_else(|| format!("`{text}` is not in hexadecimal, two digits a byte"))
}

fn exactly<const N: usize>(text: &str) -> Result<[u8; N], String> {
    unhex(text).ok_or_else(|| format!("`{text}` is not {N} bytes in hexadecimal"))
}

/// Judges; the exit status.
pub fn run(args: &Verify) -> Result<i32> {
    let report = read_report(&args.report)?;
    let mut bundle = Bundle::default();
    for path in &args.certs {
        bundle.add_path(path)?;
    }
    let mut beside = args.report.clone();
    beside.as_mut_os_string().push(".certs");
    if args.certs.is_empty() && beside.is_file() {
        bundle.add_path(&beside)?;
    }
    let demands = Demands {
        image: args.expect.as_deref().map(Image::open).transpose()?,
        report_data: args.report_data.or(args.nonce.as_ref().map(|nonce| of_nonce(&nonce.0))),
        min_tcb: args.min_tcb.unwrap_or_default(),
        min_committed_tcb: args.min_committed_tcb.unwrap_or_default(),
        id_key: args.id_key,
        author_key: args.author_key,
        asker: match args.asked_by {
            Who::Anyone => Asker::Anyone,
            Who::Kernel => Asker::Kernel,
            Who::Workload => Asker::Workload,
        },
        allow_emulated: args.allow_emulated,
        allow_debug: args.allow_debug,
        allow_migration: args.allow_migration,
        allow_no_alias_check: args.allow_no_alias_check,
    };
    let verdict = verify(&report, &bundle, &demands);
    let text = if args.json { serde_json::to_string_pretty(&verdict)? + "\n" } else { words(&verdict) };
    // A closed pipe is the reader's choice.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(i32::from(!verdict.accepted))
}

fn read_report(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = std::str::from_utf8(&bytes).ok().map(str::trim);
    Ok(text.filter(|text| text.len() == 2 * REPORT_SIZE).and_then(unhex_any).unwrap_or(bytes))
}

/// The verdict for people: each check on a line, and what a failure means below it.
fn words(verdict: &Verdict) -> String {
    let mut text = String::new();
    for finding in &verdict.findings {
        let outcome = match finding.outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "-",
        };
        text += &format!("{:<12} {outcome:<7} {}\n", finding.check.name(), finding.detail);
        if finding.outcome == Outcome::Failed {
            text += &format!("{:20} {}\n", "", finding.check.meaning());
        }
    }
    for warning in &verdict.warnings {
        text += &format!("WARNING: {warning}\n");
    }
    text += match (verdict.accepted, verdict.failure()) {
        (true, _) => "accepted\n".to_owned(),
        (false, Some(failure)) => format!("REFUSED: {}\n", failure.check.name()),
        (false, None) => "REFUSED\n".to_owned(),
    }
    .as_str();
    text
}
