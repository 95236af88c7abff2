//! What the launcher wants: lines of `key=value` in a fw_cfg item.

use alloc::string::{String, ToString};
use test_psp::report::ReportVersion;

/// The port of the channel to the launcher (`isa-debugcon`).
pub const CHANNEL: u16 = 0x5f0;
/// QEMU's `isa-debug-exit`.
pub const DEBUG_EXIT: u16 = 0xf4;

/// The options.
#[derive(Clone, Debug)]
pub struct Options {
    /// Guest CPUs.
    pub cpus: u32,
    /// Position of the C-bit.
    pub c_bit: u32,
    /// Report each exchange.
    pub trace: bool,
    /// End the run where KVM would convert a page.
    pub strict: bool,
    /// Seed of keys and other random numbers; never 0.
    pub seed: u64,
    /// Version of attestation reports.
    pub report_version: ReportVersion,
    /// SEV_FEATURES beyond SNP that VMSAs may ask for.
    pub features: u64,
    /// Whose rules an IGVM file must keep.
    pub host: String,
    /// Linux's command line.
    pub append: String,
}

impl Options {
    /// Reads them; what is not understood is for a newer emulator, and not there.
    pub fn parse(text: &[u8]) -> Options {
        let mut options = Options {
            cpus: 1,
            c_bit: 51,
            trace: false,
            strict: true,
            seed: fresh_seed(),
            report_version: ReportVersion::V3,
            features: 0,
            host: String::from("qemu"),
            append: String::new(),
        };
        for line in core::str::from_utf8(text).unwrap_or_default().lines() {
            let Some((key, value)) = line.split_once('=') else { continue };
            let number = || value.parse::<u64>().unwrap_or(0);
            match key {
                "cpus" => options.cpus = number() as u32,
                "c_bit" => options.c_bit = number() as u32,
                "trace" => options.trace = number() != 0,
                "strict" => options.strict = number() != 0,
                "seed" if number() != 0 => options.seed = number(),
                "report_version" if number() == 5 => options.report_version = ReportVersion::V5,
                "features" => options.features = number(),
                "host" => options.host = value.to_string(),
                "append" => options.append = value.to_string(),
                _ => {}
            }
        }
        options
    }
}

/// Another one each time. What comes of it are test keys, not secrets: the clock will do.
fn fresh_seed() -> u64 {
    super::apic::tsc() | 1
}
