//! The command line: options, their values and their help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use litebox_igvm::profile::HostProfile;

use crate::conformance::Conformance;
use crate::emulate::arguments::Emulate;
use crate::igvm::arguments::{BuildIgvm, Inspect, Measure, vmm};
use crate::machine::Bus;
use crate::owner::Words;
use crate::workload::arguments::Program;

/// Run one Linux program alone in a virtual machine, and what belongs to that.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Task,
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Run a Linux program in a virtual machine that holds our kernel and it, and nothing else
    RunSnp(Run),
    /// Boot an SNP guest, from an IGVM file or a Linux kernel, in the SNP emulator
    Emulate(Box<Emulate>),
    /// Build the launch image of a program: an IGVM file, the workload image, and reference values for verifiers
    BuildIgvm(Box<BuildIgvm>),
    /// Say the launch digest of an IGVM file, without launching it
    Measure(Measure),
    /// Explain an IGVM file: what lies where, what is measured, what is to run, who would refuse it
    Inspect(Inspect),
    /// Check an attestation report: who signed it, and whether it says what is expected
    Verify(Words),
    /// Release secrets to guests whose reports pass
    Broker(Words),
    /// Check and open the result of a job
    Open(Words),
    /// Encrypt a file for a broker to keep
    Seal(Words),
    /// Make a key for an owner, a party or a broker
    Keygen(Words),
    /// Check the SNP emulator, or any other host, with a guest that tries everything that AMD's manuals promise
    Conformance(Conformance),
    /// Fetch Debian's cloud kernel, for `emulate --linux`, and print the directory it is in
    FetchLinux(FetchLinux),
    /// Say what this host can do and what to install
    Doctor(Doctor),
    /// Run every check and test that the README promises
    Test(Test),
    /// Compare with Linux: time to the first line, and the time of calls
    Bench(Bench),
    /// Run the fuzz targets: every parser of what a guest, a host or a file says
    Fuzz(Fuzz),
}

/// What `run-snp` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: the program's own; 128+N if signal N ended it; 121 the guest detected an attack by the host;
122 kernel bug; 124 timed out; 125 the launcher failed; 126 not executable; 127 not found; 130 Ctrl-C.

With --rootfs, APP is looked up inside the root file system first (names without a slash along its PATH:
/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin); only what is not found there is taken from the host.

APP may also be the FILE.igvm that build-igvm wrote, with FILE.img beside it: then it runs as it was built and measured.")]
pub struct Run {
    /// Where it runs; `auto` takes snp where this host can, else snp-emulated, and says which
    #[arg(long, value_enum, default_value_t = Platform::Auto)]
    pub platform: Platform,
    /// The machine's memory: bytes, or with a suffix K, M, G (16M to 3G)
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = memory_size)]
    pub memory: u64,
    /// End the machine after this many seconds, with status 124
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// What executes the guest; `auto` is tcg under the emulator, and else tries kvm and falls back to tcg
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// How the machine has its devices
    #[arg(long, value_enum, default_value_t = Bus::Mmio)]
    pub bus: Bus,
    /// Print the command that launches APP, a FILE.igvm, on SNP hardware, and start nothing
    #[arg(long)]
    pub print_command: bool,
    /// The VMM of that command
    #[arg(long, value_name = "VMM", default_value = "qemu", value_parser = vmm(), requires = "print_command")]
    pub host: HostProfile,
    /// Show the kernel's log on stderr
    #[arg(short, long)]
    pub verbose: bool,
    /// Report what ran, where, how long and its exit status as JSON: into FILE, or as the last line of stderr
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub json: Option<Option<PathBuf>>,
    /// Under the emulator: write what it counted, and each exchange between guest and host, to FILE (lines of JSON)
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Under the emulator: attacks of the host's to carry out (TOML; docs/emulator.md)
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// Boot this package of the workspace, which is linked with the kernel as a library, instead of the kernel proper
    #[arg(long, value_name = "PACKAGE", hide = true)]
    pub kernel: Option<String>,
    /// Change a byte of the packed image before it is used, counted from the end if negative (for tests)
    #[arg(long, value_name = "OFFSET", hide = true, allow_negative_numbers = true)]
    pub test_tamper: Option<i64>,
    /// What runs.
    #[command(flatten)]
    pub program: Program,
}

/// What `fetch-linux` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
The directory holds the kernel (bzImage), its configuration (config), and drivers for virtio disks and SNP guests with what they
need (modules/, in the order of modules/order). It is fetched once, with apt, which checks Debian's signatures; nothing is installed.")]
pub struct FetchLinux {
    /// The kernel of Debian's stable release, even where this host runs another
    #[arg(long)]
    pub stable: bool,
}

/// What `doctor` takes.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The report as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

/// What `test` takes.
#[derive(Debug, Args)]
pub struct Test {
    /// Leave out what takes long: Miri and the end-to-end tests
    #[arg(long)]
    pub quick: bool,
    /// Run only the checks whose name, or the tests whose name, contains this
    pub filter: Option<String>,
}

/// What `bench` takes.
#[derive(Debug, Args)]
pub struct Bench {
    /// Starts per column for the time to the first line
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// The guests' CPU model
    #[arg(long, value_enum, default_value_t = BenchCpu::Both)]
    pub cpu: BenchCpu,
    /// What executes the guests; `auto` tries kvm and falls back to tcg
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Where the numbers go [default: target/litebox/bench.json]
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where the page with charts goes [default: target/litebox/bench.html]
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Measure only our own column
    #[arg(long)]
    pub no_linux: bool,
    /// Leave out the SNP guests in the emulator
    #[arg(long)]
    pub no_snp: bool,
}

/// What `fuzz` takes.
#[derive(Debug, Args)]
pub struct Fuzz {
    /// Only this target [default: all, one after the other]
    pub target: Option<String>,
    /// Seconds for each target
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Only list the targets
    #[arg(long)]
    pub list: bool,
}

/// A choice of CPU models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchCpu {
    /// An old one, which makes Linux faster under QEMU's translator
    Westmere,
    /// All that QEMU has
    Max,
    /// One after the other
    Both,
}

/// A place to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Platform {
    /// snp where this host can, else snp-emulated
    Auto,
    /// A confidential VM on SEV-SNP hardware: QEMU 10.1 or newer on KVM. Never tried on silicon
    Snp,
    /// The SNP emulator
    SnpEmulated,
    /// An ordinary VM: not confidential
    Vm,
}

/// A choice of accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// KVM where it works
    Auto,
    /// The CPU itself
    Kvm,
    /// QEMU's translator
    Tcg,
}

/// The least memory that the kernel runs in.
const MEMORY_MIN: u64 = 16 << 20;
/// The memory below the devices of a microvm; more would have a hole in it that no test covers yet.
const MEMORY_MAX: u64 = 3 << 30;

/// Parses `4096`, `64M`, `1G`, `512MiB`.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size; write bytes or a number with K, M or G, such as 256M");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

fn memory_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes if bytes < MEMORY_MIN => Err("the kernel needs at least 16M".into()),
        bytes if bytes > MEMORY_MAX => Err("at most 3G are supported".into()),
        // Whole pages; a machine's memory is made of them.
        bytes => Ok(bytes & !0xfff),
    }
}

/// Parses a number of seconds, which may have a fraction.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a number of seconds above zero");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<Run, clap::Error> {
        let words = ["cargo xtask", "run-snp"].iter().chain(words);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Task::RunSnp(run) => run,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn a_working_directory_is_absolute() {
        assert_eq!(run(&["--workdir", "/tmp", "app"]).unwrap().program.workdir, "/tmp");
        for relative in ["", "tmp", "./tmp"] {
            assert!(run(&["--workdir", relative, "app"]).is_err(), "{relative}");
        }
    }

    #[test]
    fn definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        for (text, want) in [("0", 0), ("4096", 4096), ("1k", 1024), ("256M", 256 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(size(text), Ok(want), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "1T", "1 M", "99999999999999999999", "18446744073709551615K"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        assert!(run(&["--memory", "15M", "a"]).is_err());
        assert!(run(&["--memory", "64G", "a"]).is_err());
        assert_eq!(run(&["--memory", "16M", "a"]).unwrap().memory, 16 << 20);
        assert_eq!(run(&["a"]).unwrap().memory, 256 << 20);
    }

    #[test]
    fn what_follows_the_program_is_its_own() {
        let run = run(&["--env", "A=b=c", "app", "--memory", "1", "-v", "--", "-x"]).unwrap();
        assert_eq!(run.program.env, ["A=b=c"]);
        assert_eq!(run.program.app(), "app");
        assert_eq!(run.program.args(), ["--memory", "1", "-v", "--", "-x"]);
        assert!(!run.verbose);
    }

    #[test]
    fn json_takes_a_file_only_after_an_equals_sign() {
        assert_eq!(run(&["app"]).unwrap().json, None);
        assert_eq!(run(&["--json", "app"]).unwrap().json, Some(None));
        assert_eq!(run(&["--json=x", "app"]).unwrap().json, Some(Some("x".into())));
    }

    #[test]
    fn wrong_values_are_refused() {
        for words in [
            &["--env", "novalue", "a"][..],
            &["--env", "=v", "a"],
            &["--timeout", "0", "a"],
            &["--timeout", "-1", "a"],
            &["--timeout", "nan", "a"],
            &["--platform", "moon", "a"],
            &[],
        ] {
            assert!(run(words).is_err(), "{words:?}");
        }
    }
}
