//! The attestation report.
//!
//! A value of [`Report`] has the bytes of a report, signed or not; that one was signed is shown by [`Report::verify`] alone.
//!
//! Source: SEV-SNP firmware ABI (56860), table "ATTESTATION_REPORT structure", and chapter "Digital Signatures": ECDSA over P-384
//! with SHA-384, r and s little-endian in 72 bytes each, over bytes 0 to 0x29F.

use core::fmt;

use p384::ecdsa::signature::{self, Signer, Verifier};
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a report.
pub const REPORT_SIZE: usize = 0x4a0;
/// Bytes of a report that are signed.
pub const SIGNED_SIZE: usize = 0x2a0;
/// SIGNATURE_ALGO: ECDSA over P-384 with SHA-384.
pub const ECDSA_P384_SHA384: u32 = 1;
/// Bytes of r and s that P-384 needs.
const SCALAR_SIZE: usize = 48;

/// Layout of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum ReportVersion {
    /// Of firmware 1.55: family, model and stepping, and the check for aliases.
    #[default]
    V3 = 3,
    /// Of firmware 1.58: mitigation vectors too.
    V5 = 5,
}

/// A firmware version: build, minor, major, then zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VersionBytes {
    /// Build.
    pub build: u8,
    /// Minor.
    pub minor: u8,
    /// Major.
    pub major: u8,
    /// Zero.
    pub reserved: u8,
}

/// ATTESTATION_REPORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Report {
    /// [`ReportVersion`].
    pub version: U32,
    /// Security version of the guest, out of its ID block.
    pub guest_svn: U32,
    /// Policy of the guest.
    pub policy: U64,
    /// Family, out of the ID block.
    pub family_id: [u8; 16],
    /// Image, out of the ID block.
    pub image_id: [u8; 16],
    /// VMPL that the request named; at least that of its key.
    pub vmpl: U32,
    /// [`ECDSA_P384_SHA384`].
    pub signature_algorithm: U32,
    /// TCB that ran.
    pub current_tcb: [u8; 8],
    /// [`crate::chip::PlatformInfo`].
    pub platform_info: U64,
    /// Bit 0: there is an author key; bit 1: the chip's key is masked; bits 4:2: 0 signed by the VCEK, 1 by a VLEK, 7 by none.
    pub key_info: U32,
    /// Zero.
    pub reserved_04c: U32,
    /// What the guest gave.
    pub report_data: [u8; 64],
    /// Launch digest.
    pub measurement: [u8; 48],
    /// What the host gave at launch.
    pub host_data: [u8; 32],
    /// SHA-384 of the ID key, or zero.
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the author key, or zero.
    pub author_key_digest: [u8; 48],
    /// Of this launch.
    pub report_id: [u8; 32],
    /// Of the migration agent; all ones for none.
    pub report_id_ma: [u8; 32],
    /// TCB that the VCEK is derived from.
    pub reported_tcb: [u8; 8],
    /// Family of the chip.
    pub family: u8,
    /// Model.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
    /// Zero.
    pub reserved_18b: [u8; 21],
    /// Identity of the chip.
    pub chip_id: [u8; 64],
    /// TCB that the platform is committed to.
    pub committed_tcb: [u8; 8],
    /// Firmware that ran.
    pub current_version: VersionBytes,
    /// Firmware that the platform is committed to.
    pub committed_version: VersionBytes,
    /// TCB that ran when the guest was launched.
    pub launch_tcb: [u8; 8],
    /// Mitigations at launch (version 5).
    pub launch_mitigations: U64,
    /// Mitigations now (version 5).
    pub current_mitigations: U64,
    /// Zero.
    pub reserved_208: [u8; 152],
    /// r, little-endian.
    pub r: [u8; 72],
    /// s, little-endian.
    pub s: [u8; 72],
    /// Zero.
    pub reserved_330: [u8; 368],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Report>() == REPORT_SIZE);
    assert!(offset_of!(Report, policy) == 0x08);
    assert!(offset_of!(Report, vmpl) == 0x30);
    assert!(offset_of!(Report, current_tcb) == 0x38);
    assert!(offset_of!(Report, platform_info) == 0x40);
    assert!(offset_of!(Report, key_info) == 0x48);
    assert!(offset_of!(Report, report_data) == 0x50);
    assert!(offset_of!(Report, measurement) == 0x90);
    assert!(offset_of!(Report, host_data) == 0xc0);
    assert!(offset_of!(Report, id_key_digest) == 0xe0);
    assert!(offset_of!(Report, author_key_digest) == 0x110);
    assert!(offset_of!(Report, report_id) == 0x140);
    assert!(offset_of!(Report, report_id_ma) == 0x160);
    assert!(offset_of!(Report, reported_tcb) == 0x180);
    assert!(offset_of!(Report, family) == 0x188);
    assert!(offset_of!(Report, chip_id) == 0x1a0);
    assert!(offset_of!(Report, committed_tcb) == 0x1e0);
    assert!(offset_of!(Report, current_version) == 0x1e8);
    assert!(offset_of!(Report, committed_version) == 0x1ec);
    assert!(offset_of!(Report, launch_tcb) == 0x1f0);
    assert!(offset_of!(Report, launch_mitigations) == 0x1f8);
    assert!(offset_of!(Report, current_mitigations) == 0x200);
    assert!(offset_of!(Report, r) == SIGNED_SIZE);
};

/// Why bytes are not a report of a version that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReportError {
    /// Not [`REPORT_SIZE`] bytes.
    Size(usize),
    /// Neither 3 nor 5.
    Version(u32),
    /// Something in a field that must be zero in this version.
    Reserved,
    /// Not [`ECDSA_P384_SHA384`].
    Algorithm(u32),
    /// r or s is none.
    Signature,
}

impl fmt::Display for ReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "report: {size} bytes, not {REPORT_SIZE}"),
            Self::Version(version) => write!(f, "report: version {version}, not 3 or 5"),
            Self::Reserved => f.write_str("report: a reserved field is not zero"),
            Self::Algorithm(algorithm) => {
                write!(f, "report: signature algorithm {algorithm}, not ECDSA P-384 with SHA-384")
            }
            Self::Signature => f.write_str("report: no signature in the place of one"),
        }
    }
}

impl core::error::Error for ReportError {}

fn to_wide(number: &[u8]) -> [u8; 72] {
    let mut wide = [0; 72];
    for (wide, byte) in wide.iter_mut().zip(number.iter().rev()) {
        *wide = *byte;
    }
    wide
}

/// The number in big-endian, if it has no more bytes than the curve.
fn from_wide(wide: &[u8; 72]) -> Option<[u8; SCALAR_SIZE]> {
    let (number, rest) = wide.split_first_chunk::<SCALAR_SIZE>()?;
    let mut number = *number;
    number.reverse();
    rest.iter().all(|&byte| byte == 0).then_some(number)
}

impl Report {
    /// An empty, unsigned report.
    pub fn new(version: ReportVersion) -> Self {
        let mut report = Self::new_zeroed();
        report.version = (version as u32).into();
        report.signature_algorithm = ECDSA_P384_SHA384.into();
        report
    }

    /// Checks the form of a report; its signature is yet to be verified.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let report = Self::read_from_bytes(bytes).map_err(|_| ReportError::Size(bytes.len()))?;
        let version = report.version.get();
        if version != ReportVersion::V3 as u32 && version != ReportVersion::V5 as u32 {
            return Err(ReportError::Version(version));
        }
        if report.signature_algorithm.get() != ECDSA_P384_SHA384 {
            return Err(ReportError::Algorithm(report.signature_algorithm.get()));
        }
        let mitigations = report.launch_mitigations.get() | report.current_mitigations.get();
        let zero = report.reserved_04c.get() == 0
            && report.key_info.get() & !0x1f == 0
            && report.reserved_18b == [0; 21]
            && report.current_version.reserved == 0
            && report.committed_version.reserved == 0
            && (version >= ReportVersion::V5 as u32 || mitigations == 0)
            && report.reserved_208 == [0; 152]
            && report.reserved_330 == [0; 368];
        if !zero {
            return Err(ReportError::Reserved);
        }
        Ok(report)
    }

    /// The bytes that are signed.
    pub fn signed_part(&self) -> &[u8] {
        self.as_bytes().get(..SIGNED_SIZE).unwrap_or_default()
    }

    /// Signs. The same report and key give the same signature (RFC 6979).
    pub fn sign(&mut self, key: &SigningKey) -> Result<(), signature::Error> {
        let signature: Signature = key.try_sign(self.signed_part())?;
        let (r, s) = signature.split_bytes();
        (self.r, self.s) = (to_wide(r.as_slice()), to_wide(s.as_slice()));
        Ok(())
    }

    /// The signature.
    pub fn signature(&self) -> Result<Signature, ReportError> {
        let scalars = from_wide(&self.r).zip(from_wide(&self.s));
        scalars.and_then(|(r, s)| Signature::from_scalars(r, s).ok()).ok_or(ReportError::Signature)
    }

    /// Whether `key` signed this very report.
    pub fn verify(&self, key: &VerifyingKey) -> bool {
        self.signature().is_ok_and(|signature| key.verify(self.signed_part(), &signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> SigningKey {
        SigningKey::from_slice(&[7; 48]).unwrap()
    }

    fn signed(version: ReportVersion) -> Report {
        let mut report = Report::new(version);
        report.measurement = [0x5a; 48];
        report.family = 0x19;
        report.sign(&key()).unwrap();
        report
    }

    #[test]
    fn a_signed_report_parses_and_verifies() {
        for version in [ReportVersion::V3, ReportVersion::V5] {
            let report = signed(version);
            let parsed = Report::parse(report.as_bytes()).unwrap();
            assert_eq!(parsed, report);
            assert!(parsed.verify(key().verifying_key()));
            assert!(!parsed.verify(SigningKey::from_slice(&[8; 48]).unwrap().verifying_key()));
            assert_eq!(report, signed(version), "signing is deterministic");
        }
    }

    #[test]
    fn an_unsigned_report_does_not_verify() {
        let report = Report::new(ReportVersion::V3);
        assert_eq!(report.signature(), Err(ReportError::Signature));
        assert!(!report.verify(key().verifying_key()));
    }

    #[test]
    fn mitigation_vectors_belong_to_version_5() {
        let mut report = Report::new(ReportVersion::V3);
        report.current_mitigations = 1.into();
        assert_eq!(Report::parse(report.as_bytes()), Err(ReportError::Reserved));
        report.version = 5.into();
        assert!(Report::parse(report.as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..REPORT_SIZE + 2)) {
            if let Ok(report) = Report::parse(&bytes) {
                prop_assert_eq!(report.as_bytes(), bytes);
            }
        }

        #[test]
        fn no_changed_report_verifies(offset in 0..REPORT_SIZE, bit in 0..8) {
            let mut report = signed(ReportVersion::V5);
            report.as_mut_bytes()[offset] ^= 1_u8 << bit;
            if let Ok(parsed) = Report::parse(report.as_bytes()) {
                prop_assert!(!parsed.verify(key().verifying_key()));
            }
        }
    }
}
