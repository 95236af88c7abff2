//! What the launcher wants: lines of `key=value` in a fw_cfg item.
//!
//! The launcher is ours (`xtask/src/emulate/`) and has checked what its user said; what cannot be is refused all the same, in words, since a
//! C-bit or a number of CPUs that is out of range would end the emulator later in none.

use crate::vmsa::features;
use alloc::format;
use alloc::string::{String, ToString};
use litebox_igvm::profile::HostProfile;
use test_psp::report::ReportVersion;

/// The port of the channel to the launcher (`isa-debugcon`).
pub const CHANNEL: u16 = 0x5f0;
/// QEMU's `isa-debug-exit`.
pub const DEBUG_EXIT: u16 = 0xf4;
/// CPUs that a guest can have.
pub const CPUS: usize = 8;

/// The options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Guest CPUs: 1 to [`CPUS`].
    pub cpus: u32,
    /// Position of the C-bit: 47 or 51.
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
    pub host: HostProfile,
    /// Linux's command line.
    pub append: String,
    /// Ticks of the TSC in a millisecond; 0 where the launcher does not know.
    pub tsc_khz: u64,
}

impl Options {
    /// SEV_FEATURES that VMSAs may ask for: what KVM supports of what is emulated (`arch/x86/kvm/svm/sev.c`), and restricted injection where the
    /// host is none in particular.
    pub fn sev_features(&self) -> u64 {
        let restricted = match self.host {
            HostProfile::Specification => features::RESTRICTED_INJECTION,
            _ => 0,
        };
        features::SNP | features::DEBUG_SWAP | restricted | self.features
    }

    /// Reads them; a key that is not known is for a newer emulator, and not there. `seed` is taken where none is given.
    ///
    /// # Errors
    /// What cannot be, in words.
    pub fn parse(text: &[u8], seed: u64) -> Result<Options, String> {
        let mut options = Options {
            cpus: 1,
            c_bit: 51,
            trace: false,
            strict: true,
            seed: seed.max(1),
            report_version: ReportVersion::V3,
            features: 0,
            host: HostProfile::Qemu,
            append: String::new(),
            tsc_khz: 0,
        };
        let text = core::str::from_utf8(text).map_err(|_| "the launcher's options are not UTF-8")?;
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else { continue };
            let bad = || format!("the launcher's option {key}={value} cannot be");
            let number = || value.parse::<u64>().map_err(|_| bad());
            match key {
                "cpus" => options.cpus = number()? as u32,
                "c_bit" => options.c_bit = number()? as u32,
                "trace" => options.trace = number()? != 0,
                "strict" => options.strict = number()? != 0,
                // 0 is for one that nobody knows yet.
                "seed" if number()? != 0 => options.seed = number()?,
                "report_version" => {
                    options.report_version = match number()? {
                        3 => ReportVersion::V3,
                        5 => ReportVersion::V5,
                        _ => return Err(bad()),
                    }
                }
                "features" => options.features = number()?,
                "host" => options.host = HostProfile::from_name(value).ok_or_else(bad)?,
                "tsc_khz" => options.tsc_khz = number()?,
                "append" => options.append = value.to_string(),
                _ => {}
            }
            if options.cpus == 0 || options.cpus as usize > CPUS || !matches!(options.c_bit, 47 | 51) {
                return Err(bad());
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_are_read_and_the_rest_is_as_it_was() {
        let text = b"cpus=2\nc_bit=47\nstrict=0\nhost=openvmm\nappend=a=b c\nnewer=1\nreport_version=5\n";
        let options = Options::parse(text, 7).unwrap();
        assert_eq!((options.cpus, options.c_bit, options.strict, options.seed), (2, 47, false, 7));
        assert_eq!((options.host, options.append.as_str()), (HostProfile::OpenVmm, "a=b c"));
        assert_eq!((options.report_version, options.trace), (ReportVersion::V5, false));
        assert_eq!(options.sev_features(), 0x21);
        assert_eq!(Options::parse(b"host=specification\nfeatures=2", 7).unwrap().sev_features(), 0x2b);
        assert_eq!(Options::parse(b"seed=9", 7).unwrap().seed, 9);
        assert_eq!(Options::parse(b"seed=0", 7).unwrap().seed, 7);
    }

    #[test]
    fn what_cannot_be_is_named() {
        for text in ["cpus=0", "cpus=9", "c_bit=99", "seed=-1", "report_version=4", "host=xen", "trace=x"] {
            let refused = Options::parse(text.as_bytes(), 7).unwrap_err();
            assert!(refused.contains(text), "{refused}");
        }
        assert!(Options::parse(b"\xff", 7).is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in proptest::collection::vec(any::<u8>(), 0..200), n in any::<u64>()) {
            let _ = Options::parse(&text, n);
            if let Ok(options) = Options::parse(format!("cpus={n}\nc_bit={}", n % 64).as_bytes(), n) {
                prop_assert!((1..=CPUS as u32).contains(&options.cpus) && 1u64 << options.c_bit != 0);
            }
        }
    }
}
