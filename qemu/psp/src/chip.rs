//! The chip and its firmware, as reports and certificates name them: identity, versions, state of the platform.
//!
//! Source: SEV-SNP firmware ABI (56860), tables "TCB_VERSION structure", "ATTESTATION_REPORT structure" (PLATFORM_INFO), and
//! "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification" (57230).

use bitflags::bitflags;

use crate::report::ReportVersion;

/// TCB_VERSION: the security patch levels of what the trust in a report rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcbVersion {
    /// FMC firmware. Chips from Turin on have it, and order the bytes differently; earlier ones have none.
    pub fmc: Option<u8>,
    /// PSP bootloader.
    pub bootloader: u8,
    /// PSP operating system.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode, the lowest of all cores.
    pub microcode: u8,
}

impl TcbVersion {
    /// As in reports and requests.
    pub const fn to_bytes(self) -> [u8; 8] {
        let Self { fmc, bootloader, tee, snp, microcode } = self;
        match fmc {
            None => [bootloader, tee, 0, 0, 0, 0, snp, microcode],
            Some(fmc) => [fmc, bootloader, tee, snp, 0, 0, 0, microcode],
        }
    }
}

/// Version of the SNP firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FirmwareVersion {
    /// Major version of its ABI.
    pub major: u8,
    /// Minor version of its ABI.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

bitflags! {
    /// PLATFORM_INFO of a report.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PlatformInfo: u64 {
        /// Simultaneous multithreading is on.
        const SMT = 1 << 0;
        /// Transparent memory encryption is on.
        const TSME = 1 << 1;
        /// Memory has ECC.
        const ECC = 1 << 2;
        /// Power reporting is off.
        const RAPL_DISABLED = 1 << 3;
        /// Ciphertext hiding is on.
        const CIPHERTEXT_HIDING = 1 << 4;
        /// Memory was checked for aliases since reset, and has none (report version 3).
        const ALIAS_CHECK_COMPLETE = 1 << 5;
        /// SEV-TIO is on (report version 5).
        const TIO = 1 << 7;
    }
}

/// A chip with its firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chip {
    /// CHIP_ID, which goes into reports and into the VCEK's certificate. Turin's have 8 bytes, then zeros.
    pub id: [u8; 64],
    /// Family, base and extended added up.
    pub family: u8,
    /// Model, extended model in the upper half.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
    /// State of the platform.
    pub platform_info: PlatformInfo,
    /// Firmware that runs.
    pub current_version: FirmwareVersion,
    /// Firmware below which the platform cannot be taken back.
    pub committed_version: FirmwareVersion,
    /// TCB that runs.
    pub current_tcb: TcbVersion,
    /// TCB that the host had put into reports; the VCEK is derived from it.
    pub reported_tcb: TcbVersion,
    /// TCB below which the platform cannot be taken back.
    pub committed_tcb: TcbVersion,
    /// CurrentMitVector: mitigations in effect (report version 5).
    pub mitigations: u64,
}

impl Chip {
    /// A chip that does not exist: the model that reports and QEMU know as Milan, with an identity that says what it is, and firmware that
    /// makes such reports.
    pub const fn test(report: ReportVersion) -> Self {
        let tcb = TcbVersion { fmc: None, bootloader: 4, tee: 0, snp: 24, microcode: 219 };
        let version = match report {
            ReportVersion::V3 => FirmwareVersion { major: 1, minor: 55, build: 40 },
            ReportVersion::V5 => FirmwareVersion { major: 1, minor: 58, build: 1 },
        };
        Self {
            id: *b"LiteBox TEST chip, emulated, NOT AMD, worthless as proof........",
            family: 0x19,
            model: 0x01,
            stepping: 0x01,
            platform_info: PlatformInfo::ECC.union(PlatformInfo::ALIAS_CHECK_COMPLETE),
            current_version: version,
            committed_version: version,
            current_tcb: tcb,
            reported_tcb: tcb,
            committed_tcb: tcb,
            mitigations: 0,
        }
    }

    /// The reports that its firmware makes: version 5 from 1.58 on.
    pub const fn report_version(&self) -> ReportVersion {
        let FirmwareVersion { major, minor, .. } = self.current_version;
        if major > 1 || (major == 1 && minor >= 58) { ReportVersion::V5 } else { ReportVersion::V3 }
    }

    /// CPUID leaf 1 EAX: stepping, model and family as the secrets page has them.
    pub const fn cpuid_signature(&self) -> u32 {
        let (family, model) = (self.family as u32, self.model as u32);
        let (base, extended) = if family > 0xf { (0xf, family - 0xf) } else { (family, 0) };
        extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xf) << 4 | (self.stepping & 0xf) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_of_the_tcb_are_those_of_the_sev_crate() {
        use sev::Generation;
        use sev::firmware::host::TcbVersion as Theirs;
        use sev::parser::Encoder;
        for (fmc, generation) in [(None, Generation::Milan), (Some(9), Generation::Turin)] {
            let ours = TcbVersion { fmc, bootloader: 1, tee: 2, snp: 3, microcode: 4 };
            let theirs = Theirs { fmc, bootloader: 1, tee: 2, snp: 3, microcode: 4 };
            let mut bytes = Vec::new();
            theirs.encode(&mut bytes, generation).unwrap();
            assert_eq!(ours.to_bytes().as_slice(), bytes);
        }
    }

    #[test]
    fn the_signature_is_that_of_a_milan() {
        assert_eq!(Chip::test(ReportVersion::V3).cpuid_signature(), 0x00a0_0f11);
        assert_eq!(Chip::test(ReportVersion::V5).report_version(), ReportVersion::V5);
        assert_eq!(
            Chip { family: 6, model: 0x8f, ..Chip::test(ReportVersion::V3) }.cpuid_signature(),
            0x0008_06f1
        );
    }
}
