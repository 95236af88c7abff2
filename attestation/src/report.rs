//! An attestation report, as the PSP made it.
//!
//! A value of [`Report`] has the form of a report of a known version, and every bit of it is accounted for: encoding its fields
//! again gives the same bytes. So what is not covered by the signature (the signature's own padding) is zero. Whether a report
//! was signed, and by whom, is for [`crate::verify`].
//!
//! Source: SEV-SNP firmware ABI (56860), table "ATTESTATION_REPORT structure"; fields and their order by generation: the `sev`
//! crate.

use std::fmt;
use std::ops::Range;

use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

/// Bytes of a report.
pub const REPORT_SIZE: usize = test_psp::report::REPORT_SIZE;

/// Where the upper bytes of r and s are that P-384 does not need, and what follows them.
const PADDING: [Range<usize>; 2] = [0x2a0 + 48..0x2e8, 0x2e8 + 48..REPORT_SIZE];
/// CHIP_ID.
const CHIP_ID: Range<usize> = 0x1a0..0x1e0;

/// A report.
#[derive(Clone, Debug)]
pub struct Report {
    bytes: Vec<u8>,
    fields: AttestationReport,
}

/// Why bytes are no report.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReportError {
    /// Not [`REPORT_SIZE`] bytes.
    Size(usize),
    /// A version that is not known here.
    Version(u32),
    /// SIGNATURE_ALGO is not ECDSA over P-384 with SHA-384.
    Algorithm(u32),
    /// CHIP_ID is masked, so that the report cannot be tied to a chip's key.
    MaskedChip,
    /// The generation of the chip is not known, so that the order of the TCB's bytes is not either.
    Generation,
    /// A reserved field, or the signature's padding, is not zero.
    Reserved,
}

impl fmt::Display for ReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "{size} bytes; a report has {REPORT_SIZE}"),
            Self::Version(version) => write!(f, "version {version}; known are 2 to 5"),
            Self::Algorithm(algorithm) => {
                write!(f, "signature algorithm {algorithm}; known is 1, ECDSA P-384 with SHA-384")
            }
            Self::MaskedChip => f.write_str(
                "the host masked the chip's identity (MASK_CHIP_ID); the report cannot be tied to a chip's key",
            ),
            Self::Generation => f.write_str("a CPU of a family or model that is not known"),
            Self::Reserved => f.write_str("a reserved field or the signature's padding is not zero"),
        }
    }
}

impl std::error::Error for ReportError {}

impl Report {
    /// Checks the form.
    ///
    /// # Errors
    /// The bytes are no report of a known version.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let word = |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        if bytes.len() != REPORT_SIZE {
            return Err(ReportError::Size(bytes.len()));
        }
        let (version, algorithm) =
            (word(0).map_or(0, u32::from_le_bytes), word(0x34).map_or(0, u32::from_le_bytes));
        if !(2..=5).contains(&version) {
            return Err(ReportError::Version(version));
        }
        if algorithm != test_psp::report::ECDSA_P384_SHA384 {
            return Err(ReportError::Algorithm(algorithm));
        }
        let zero = |range: &Range<usize>| {
            bytes.get(range.clone()).is_some_and(|part| part.iter().all(|&byte| byte == 0))
        };
        if version == 2 && zero(&CHIP_ID) {
            return Err(ReportError::MaskedChip);
        }
        if !PADDING.iter().all(zero) {
            return Err(ReportError::Reserved);
        }
        let fields = AttestationReport::from_bytes(bytes).map_err(|_| ReportError::Generation)?;
        // What the fields do not hold is reserved.
        let again = fields.to_bytes().map_err(|_| ReportError::Reserved)?;
        if again.as_slice() != bytes {
            return Err(ReportError::Reserved);
        }
        if zero(&CHIP_ID) {
            return Err(ReportError::MaskedChip);
        }
        Ok(Self { bytes: bytes.to_vec(), fields })
    }

    /// As they came.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The fields.
    pub fn fields(&self) -> &AttestationReport {
        &self.fields
    }

    /// POLICY.
    pub fn policy(&self) -> u64 {
        self.fields.policy.into()
    }
}
