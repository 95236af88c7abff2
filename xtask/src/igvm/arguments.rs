//! The command lines of `inspect`, `measure` and `build-igvm`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use litebox_igvm::policy::GuestPolicy;
use litebox_igvm::profile::HostProfile;

use super::image::Entry;
use crate::workload::arguments::Program;

/// What `build-igvm` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Three files: FILE.igvm, which the host launches and the PSP measures; FILE.img, the workload image, which travels beside it untrusted and is
checked by the guest; FILE.json, reference values for verifiers (docs/igvm.md). Equal sources give equal bytes, in any folder.

A policy is words with commas between them: default (SMT allowed, no migration, no debugging), a number such as 0x30000, abi=MAJOR.MINOR, smt,
migrate, debug, single-socket, cxl, aes-256-xts, no-rapl, ciphertext-hiding, no-page-swap, each also with =no. With `debug`, which must
be said by name, FILE has to have `debug` in its name.

Keys are P-384 private keys, PEM or DER, such as `openssl ecparam -name secp384r1 -genkey -noout -out key.pem` makes.")]
pub struct BuildIgvm {
    /// Where the launch image goes; the other two go beside it
    #[arg(short = 'o', long = "output", value_name = "FILE.igvm")]
    pub output: PathBuf,
    /// The VMM that shall launch it, whose rules it must keep
    #[arg(long, value_name = "VMM", default_value = "qemu", value_parser = vmm())]
    pub host: HostProfile,
    /// The guest policy
    #[arg(long, default_value = "default")]
    pub policy: GuestPolicy,
    /// Sign an ID block with this key: the PSP then launches no other guest in its owner's name
    #[arg(long, value_name = "KEY")]
    pub id_key: Option<PathBuf>,
    /// Sign the ID key with this one
    #[arg(long, value_name = "KEY", requires = "id_key")]
    pub author_key: Option<PathBuf>,
    /// Family of the ID block: up to 16 bytes in hexadecimal
    #[arg(long, value_name = "HEX", requires = "id_key", default_value = "", value_parser = identifier)]
    pub family_id: [u8; 16],
    /// Image of the ID block: up to 16 bytes in hexadecimal
    #[arg(long, value_name = "HEX", requires = "id_key", default_value = "", value_parser = identifier)]
    pub image_id: [u8; 16],
    /// Security version number of the ID block
    #[arg(long, value_name = "N", requires = "id_key", default_value_t = 0)]
    pub guest_svn: u32,
    /// Position of the C-bit
    #[arg(long, value_name = "51|47", default_value = "51", value_parser = PossibleValuesParser::new(["51", "47"]).try_map(|text| text.parse::<u32>()))]
    pub c_bit: u32,
    /// Mode of the first instruction
    #[arg(long, value_enum, default_value_t = Entry::Long)]
    pub entry: Entry,
    /// Let the kernel log, for the host to read; measured like everything else
    #[arg(short, long)]
    pub verbose: bool,
    /// What runs.
    #[command(flatten)]
    pub program: Program,
}

/// What `inspect` takes.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The file, whoever made it
    #[arg(value_name = "FILE.igvm")]
    pub file: PathBuf,
    /// Draw what lies where into this file
    #[arg(long, value_name = "OUT.svg")]
    pub svg: Option<PathBuf>,
    /// The report as JSON
    #[arg(long)]
    pub json: bool,
}

/// What `measure` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0; 1 if a host that was asked for would refuse the file (without --host: if all would); 125 if it is no IGVM file.

With one --host the digest stands alone on a line. KVM measures a save area for each CPU. A file gives the first one's; the others are those of a
CPU after reset, with the signature of the CPU model in RDX. That is known of QEMU only.")]
pub struct Measure {
    /// The file, whoever made it
    #[arg(value_name = "FILE.igvm")]
    pub file: PathBuf,
    /// Who loads it (repeatable) [default: each that is known]
    #[arg(long, value_name = "HOST", value_parser = host())]
    pub host: Vec<HostProfile>,
    /// The guest's CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub cpus: u16,
    /// CPUID leaf 1 EAX of the CPU model, for more than one CPU: such as 0x00a00f11 of QEMU's EPYC-Milan
    #[arg(long, value_name = "EAX", value_parser = signature)]
    pub cpu_signature: Option<u32>,
    /// The digests, and why a host refuses, as JSON
    #[arg(long)]
    pub json: bool,
}

/// Bytes in hexadecimal, filled up with zeros.
fn identifier(text: &str) -> Result<[u8; 16], String> {
    let wrong = || format!("`{text}` is not up to 16 bytes in hexadecimal");
    let (digits, bytes) = (text.as_bytes(), text.len() / 2);
    let mut out = [0; 16];
    for (at, pair) in digits.chunks(2).enumerate() {
        let digit = |at: usize| pair.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        let byte = digit(0).zip(digit(1)).map(|(high, low)| (high << 4 | low) as u8);
        *out.get_mut(at).ok_or_else(wrong)? = byte.filter(|_| bytes <= 16).ok_or_else(wrong)?;
    }
    Ok(out)
}

/// Every host that is known, by its name.
pub fn host() -> impl TypedValueParser<Value = HostProfile> {
    named(HostProfile::ALL.map(HostProfile::name))
}

/// The hosts that are VMMs.
pub fn vmm() -> impl TypedValueParser<Value = HostProfile> {
    named([HostProfile::Qemu, HostProfile::CloudHypervisor, HostProfile::OpenVmm].map(HostProfile::name))
}

fn named<const N: usize>(names: [&'static str; N]) -> impl TypedValueParser<Value = HostProfile> {
    PossibleValuesParser::new(names).try_map(|name| HostProfile::from_name(&name).ok_or("unknown host"))
}

fn signature(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0x").ok_or("write it in hexadecimal, such as 0x00a00f11")?;
    u32::from_str_radix(digits, 16).map_err(|_| format!("`{text}` is no number of 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Task};
    use clap::Parser;

    fn build(words: &[&str]) -> Result<BuildIgvm, clap::Error> {
        let words = ["cargo xtask", "build-igvm", "-o", "x"].iter().chain(words);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Task::BuildIgvm(build) => *build,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn identifiers_are_up_to_16_bytes() {
        assert_eq!(identifier(""), Ok([0; 16]));
        assert_eq!(identifier("0aFf").unwrap()[..3], [0x0a, 0xff, 0]);
        assert_eq!(identifier(&"11".repeat(16)), Ok([0x11; 16]));
        for text in ["1", "zz", "123", "é", &"11".repeat(17)] {
            assert!(identifier(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_are_checked_and_keys_belong_together() {
        for words in [
            &["app", "--help-me-not"][..0],
            &["--author-key", "k", "app"],
            &["--image-id", "00", "app"],
            &["--policy", "0xb0000", "app"],
            &["--host", "xen", "app"],
            &["--c-bit", "50", "app"],
        ] {
            assert!(build(words).is_err(), "{words:?}");
        }
        let args = build(&["--policy", "smt=no", "--host", "openvmm", "app", "--host"]).unwrap();
        assert_eq!((args.policy.0, args.host), (0x2_0000, HostProfile::OpenVmm));
        assert_eq!(args.program.args(), ["--host"]);
    }
}
