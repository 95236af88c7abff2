//! The command line of `emulate`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use litebox_igvm::profile::HostProfile;

use crate::cli::{Accel, seconds, size};
use crate::igvm::arguments::host;

/// What `emulate` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 the guest switched the machine off; N if it wrote N to the debug-exit port 0xf4; 121 it terminated itself because of an
attack that it detected (reason set 0xb); 122 a bug or a limit of the emulator's; 123 it ended in any other way, which stderr says in words;
124 timed out; 125 the launch failed; 130 Ctrl-C.")]
pub struct Emulate {
    /// The guest's launch image
    #[arg(value_name = "FILE.igvm", required_unless_present = "linux", conflicts_with = "linux")]
    pub igvm: Option<PathBuf>,
    /// Boot this Linux kernel as an SNP guest instead
    #[arg(long, value_name = "BZIMAGE")]
    pub linux: Option<PathBuf>,
    /// Linux's initial RAM disk
    #[arg(long, value_name = "FILE", conflicts_with = "igvm")]
    pub initrd: Option<PathBuf>,
    /// Linux's command line
    #[arg(long, value_name = "WORDS", conflicts_with = "igvm", default_value = "console=ttyS0 panic=-1", value_parser = one_line)]
    pub append: String,
    /// The VMM whose rules hold; `specification` is none in particular
    #[arg(long, value_name = "VMM", default_value = "qemu", value_parser = host())]
    pub host: HostProfile,
    /// The guest's CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=CPUS_MAX))]
    pub cpus: u32,
    /// The guest's memory: bytes, or with a suffix K, M, G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = memory)]
    pub memory: u64,
    /// Attacks to carry out (TOML; docs/emulator.md)
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// Say each exchange between guest and host on stderr
    #[arg(long)]
    pub trace: bool,
    /// Write what happened as JSON into this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A disk for the guest, as virtio-blk on PCI; the guest's writes go into the file
    #[arg(long, value_name = "FILE")]
    pub disk: Option<PathBuf>,
    /// End the machine after this many seconds, with status 124
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// End the guest where it touches a page in the wrong way, even where KVM would convert the page silently (the default)
    #[arg(long, conflicts_with = "lenient")]
    pub strict: bool,
    /// Convert pages that the guest touches in the wrong way, as KVM does
    #[arg(long)]
    pub lenient: bool,
    /// Version of the attestation report
    #[arg(long, value_name = "3|5", default_value = "3", value_parser = number(["3", "5"]))]
    pub report_version: u32,
    /// Position of the C-bit: 51 as on Milan and later, 47 as before
    #[arg(long, value_name = "51|47", default_value = "51", value_parser = number(["51", "47"]))]
    pub c_bit: u32,
    /// Keys and other random numbers follow from this; 0, the default, takes others each time
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// What executes the emulator; `auto` is tcg, since nested SVM under KVM is less tried
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
}

/// CPUs that the emulator has room for.
const CPUS_MAX: i64 = 8;

fn number<const N: usize>(choices: [&'static str; N]) -> impl TypedValueParser<Value = u32> {
    PossibleValuesParser::new(choices).try_map(|text| text.parse::<u32>())
}

fn one_line(text: &str) -> Result<String, String> {
    match text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        true => Ok(text.to_owned()),
        false => Err("a kernel's command line is printable ASCII".into()),
    }
}

fn memory(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes if bytes < 32 << 20 => Err("a guest needs at least 32M".into()),
        bytes if bytes > 64 << 30 => Err("at most 64G are supported".into()),
        // The emulator begins at a multiple of 2 MiB.
        bytes => Ok(bytes.next_multiple_of(2 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Task};
    use clap::Parser;

    fn emulate(words: &[&str]) -> Result<Emulate, clap::Error> {
        let words = ["cargo xtask", "emulate"].iter().chain(words);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Task::Emulate(emulate) => *emulate,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn one_guest_and_only_one() {
        assert!(emulate(&[]).is_err());
        assert!(emulate(&["a.igvm", "--linux", "b"]).is_err());
        assert!(emulate(&["a.igvm", "--initrd", "c"]).is_err());
        assert_eq!(emulate(&["a.igvm"]).unwrap().igvm, Some("a.igvm".into()));
        assert_eq!(emulate(&["--linux", "b", "--initrd", "c"]).unwrap().initrd, Some("c".into()));
    }

    #[test]
    fn values_are_checked() {
        for words in [
            &["--cpus", "0"][..],
            &["--cpus", "9"],
            &["--memory", "31M"],
            &["--memory", "65G"],
            &["--c-bit", "50"],
            &["--report-version", "4"],
            &["--host", "xen"],
            &["--seed", "-1"],
            &["--strict", "--lenient"],
            &["--timeout", "0"],
        ] {
            assert!(emulate(&[words, &["a.igvm"]].concat()).is_err(), "{words:?}");
        }
        assert!(emulate(&["--linux", "b", "--append", "a\ncpus=9"]).is_err());
        let args = emulate(&["a.igvm", "--memory", "33M", "--c-bit", "47"]).unwrap();
        assert_eq!((args.memory, args.c_bit), (34 << 20, 47));
    }
}
