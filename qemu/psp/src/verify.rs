//! The verifier's side, for the command line and for tests: was this report signed by the chip that this certificate names?
//!
//! It ties report and certificate together as AMD asks of verifiers: signature, identity of the chip, TCB. It says nothing about
//! what is in the report (measurement, policy), and for a genuine report nothing about the chain above the VCEK: AMD's has RSA
//! keys. [`verify_test_chain`] accepts the emulator's own chain and no other.
//!
//! Source: "VCEK Certificate and KDS Interface Specification" (57230), SEV-SNP firmware ABI (56860), chapter "Attestation".

use core::fmt;

use p384::ecdsa::signature::Verifier;
use p384::ecdsa::{DerSignature, VerifyingKey};
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};
use x509_cert::spki::ObjectIdentifier;

use crate::chip::{Chip, TcbVersion};
use crate::hierarchy::{Certificates, oid};
use crate::report::{Report, ReportError, ReportVersion};

/// ecdsa-with-SHA384 (RFC 5758).
const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");

/// Why a report or a chain is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyError {
    /// The bytes are no report.
    Report(ReportError),
    /// A certificate that is none, or lacks what it must have: its name.
    Certificate(&'static str),
    /// The report says that it was not signed by a VCEK, or that the key is masked.
    NotByVcek,
    /// The signature is not that of the certificate's key.
    Signature,
    /// The certificate is for another chip.
    Chip,
    /// The certificate is for another TCB.
    Tcb,
    /// A certificate is not signed by the one above it: its name.
    Link(&'static str),
    /// The root is not the emulator's.
    Root,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Report(error) => error.fmt(f),
            Self::Certificate(name) => write!(f, "the {name} certificate is malformed"),
            Self::NotByVcek => f.write_str("report: not signed by a VCEK"),
            Self::Signature => f.write_str("report: the signature is not by the key of the VCEK certificate"),
            Self::Chip => f.write_str("report: from another chip than the VCEK certificate's"),
            Self::Tcb => f.write_str("report: of another TCB than the VCEK certificate's"),
            Self::Link(name) => {
                write!(f, "the {name} certificate is not signed by the one above it")
            }
            Self::Root => f.write_str("the root is not the emulator's test root"),
        }
    }
}

impl core::error::Error for VerifyError {}

fn parse(name: &'static str, der: &[u8]) -> Result<Certificate, VerifyError> {
    Certificate::from_der(der).map_err(|_| VerifyError::Certificate(name))
}

fn key(name: &'static str, certificate: &Certificate) -> Result<VerifyingKey, VerifyError> {
    let info = certificate.tbs_certificate().subject_public_key_info();
    let point = info.subject_public_key.as_bytes();
    point.and_then(|point| VerifyingKey::from_sec1_bytes(point).ok()).ok_or(VerifyError::Certificate(name))
}

/// The value of an extension that is there once.
pub fn extension(certificate: &Certificate, oid: ObjectIdentifier) -> Option<&[u8]> {
    let mut found = certificate.tbs_certificate().extensions()?.iter().filter(|e| e.extn_id == oid);
    let value = found.next()?.extn_value.as_bytes();
    found.next().is_none().then_some(value)
}

/// The TCB that a VCEK or VLEK is for.
pub fn certified_tcb(certificate: &Certificate) -> Option<TcbVersion> {
    let level = |oid| extension(certificate, oid).and_then(|value| u8::from_der(value).ok());
    Some(TcbVersion {
        fmc: level(oid::FMC),
        bootloader: level(oid::BOOTLOADER)?,
        tee: level(oid::TEE)?,
        snp: level(oid::SNP)?,
        microcode: level(oid::MICROCODE)?,
    })
}

/// Checks that `report` was signed by the chip that `vcek_der` names, at the TCB that it names.
pub fn verify_report(report: &[u8], vcek_der: &[u8]) -> Result<Report, VerifyError> {
    let report = Report::parse(report).map_err(VerifyError::Report)?;
    // SIGNING_KEY and MASK_CHIP_KEY.
    if report.key_info.get() & 0x1e != 0 {
        return Err(VerifyError::NotByVcek);
    }
    let certificate = parse("VCEK", vcek_der)?;
    if !report.verify(&key("VCEK", &certificate)?) {
        return Err(VerifyError::Signature);
    }
    if extension(&certificate, oid::HARDWARE_ID) != Some(report.chip_id.as_slice()) {
        return Err(VerifyError::Chip);
    }
    let tcb = certified_tcb(&certificate).ok_or(VerifyError::Certificate("VCEK"))?;
    if tcb.to_bytes() != report.reported_tcb {
        return Err(VerifyError::Tcb);
    }
    Ok(report)
}

fn link(name: &'static str, issuer: &Certificate, subject: &Certificate) -> Result<(), VerifyError> {
    let error = VerifyError::Link(name);
    let named = subject.tbs_certificate().issuer() == issuer.tbs_certificate().subject();
    let same = subject.signature_algorithm() == subject.tbs_certificate().signature();
    if !named || !same || subject.signature_algorithm().oid != ECDSA_WITH_SHA384 {
        return Err(error);
    }
    let signed = subject.tbs_certificate().to_der().map_err(|_| error)?;
    let signature = subject.signature().as_bytes().and_then(|bytes| DerSignature::try_from(bytes).ok());
    let key = key(name, issuer)?;
    key.verify(&signed, &signature.ok_or(error)?).map_err(|_| error)
}

/// Checks that a chain is of the emulator's making: its root, and each certificate signed by the one above it.
pub fn verify_test_chain(chain: &Certificates) -> Result<(), VerifyError> {
    // The root does not depend on the chip.
    let ours =
        Certificates::of(&Chip::test(ReportVersion::V3)).map_err(|_| VerifyError::Certificate("ARK"))?;
    if chain.ark != ours.ark {
        return Err(VerifyError::Root);
    }
    let (ark, ask, vcek) =
        (parse("ARK", &chain.ark)?, parse("ASK", &chain.ask)?, parse("VCEK", &chain.vcek)?);
    link("ARK", &ark, &ark)?;
    link("ASK", &ark, &ask)?;
    link("VCEK", &ask, &vcek)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hierarchy::vcek;
    use proptest::prelude::*;
    use sev::certs::snp::{Certificate as Theirs, Verifiable};
    use sev::firmware::guest::AttestationReport;
    use sev::parser::ByteParser;
    use zerocopy::IntoBytes;

    fn report(chip: &Chip) -> Report {
        let mut report = Report::new(chip.report_version());
        report.policy = 0x30000.into();
        report.measurement = [0x5a; 48];
        (report.family, report.model, report.stepping) = (chip.family, chip.model, chip.stepping);
        report.chip_id = chip.id;
        report.reported_tcb = chip.reported_tcb.to_bytes();
        report.sign(&vcek(chip)).unwrap();
        report
    }

    fn turin() -> Chip {
        let tcb = TcbVersion { fmc: Some(1), bootloader: 2, tee: 3, snp: 4, microcode: 5 };
        let mut id = [0; 64];
        id[..8].copy_from_slice(b"TESTCHIP");
        Chip { id, family: 0x1a, model: 2, reported_tcb: tcb, ..Chip::test(ReportVersion::V5) }
    }

    /// The `sev` crate parses the report, finds in it what was put there, and verifies it under the VCEK's certificate. Its chain
    /// it does not verify: version 8 knows RSA keys only for ARK and ASK (without OpenSSL), so the links are checked by
    /// [`verify_test_chain`].
    #[test]
    fn the_sev_crate_verifies_the_report() {
        for chip in [Chip::test(ReportVersion::V3), Chip::test(ReportVersion::V5), turin()] {
            let chain = Certificates::of(&chip).unwrap();
            let mut report = report(&chip);
            assert_eq!(verify_report(report.as_bytes(), &chain.vcek), Ok(report));
            verify_test_chain(&chain).unwrap();
            let theirs = AttestationReport::from_bytes(report.as_bytes()).unwrap();
            assert_eq!(theirs.measurement, [0x5a; 48]);
            assert_eq!(theirs.reported_tcb.microcode, chip.reported_tcb.microcode);
            assert_eq!(theirs.reported_tcb.fmc, chip.reported_tcb.fmc);
            let vcek = Theirs::from_der(&chain.vcek).unwrap();
            (&vcek, &theirs).verify().unwrap();
            report.measurement[0] ^= 1;
            let theirs = AttestationReport::from_bytes(report.as_bytes()).unwrap();
            assert!((&vcek, &theirs).verify().is_err());
        }
    }

    #[test]
    fn a_report_goes_with_its_own_certificate_only() {
        let chip = Chip::test(ReportVersion::V3);
        let report = report(&chip);
        for other in [Chip { id: [1; 64], ..chip.clone() }, turin()] {
            let certificate = Certificates::of(&other).unwrap().vcek;
            assert_eq!(verify_report(report.as_bytes(), &certificate), Err(VerifyError::Signature));
        }
        let certificate = Certificates::of(&chip).unwrap().vcek;
        // Signed by the right key, and yet of another chip or TCB.
        let resigned = |change: fn(&mut Report)| {
            let mut report = report;
            change(&mut report);
            report.sign(&vcek(&chip)).unwrap();
            verify_report(report.as_bytes(), &certificate).unwrap_err()
        };
        assert_eq!(resigned(|report| report.chip_id[63] ^= 1), VerifyError::Chip);
        assert_eq!(resigned(|report| report.reported_tcb[7] ^= 1), VerifyError::Tcb);
        assert_eq!(resigned(|report| report.key_info = (1 << 2).into()), VerifyError::NotByVcek);
        assert_eq!(resigned(|report| report.key_info = 2.into()), VerifyError::NotByVcek);
    }

    #[test]
    fn a_chain_that_is_not_the_emulators_is_refused() {
        let chain = Certificates::of(&Chip::test(ReportVersion::V3)).unwrap();
        let Certificates { ark, ask, vcek } = chain.clone();
        let try_chain = |ark: &[u8], ask: &[u8], vcek: &[u8]| {
            verify_test_chain(&Certificates { ark: ark.into(), ask: ask.into(), vcek: vcek.into() })
        };
        assert_eq!(try_chain(&ask, &ask, &vcek), Err(VerifyError::Root));
        assert_eq!(try_chain(&ark, &ark, &vcek), Err(VerifyError::Link("VCEK")));
        assert_eq!(try_chain(&ark, &vcek, &vcek), Err(VerifyError::Link("ASK")));
        assert_eq!(try_chain(&ark, &ask, &ask), Err(VerifyError::Link("VCEK")));
        let milan = Theirs::from_pem(sev::certs::snp::builtin::milan::ARK).unwrap().to_der().unwrap();
        assert_eq!(try_chain(&milan, &ask, &vcek), Err(VerifyError::Root));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_are_judged_without_panic(
            report in prop::collection::vec(any::<u8>(), 0..0x4a2),
            vcek in prop::collection::vec(any::<u8>(), 0..900),
        ) {
            prop_assert!(verify_report(&report, &vcek).is_err());
        }

        /// A changed chain is refused: every byte of a certificate is signed, or is its signature, or breaks its form.
        #[test]
        fn no_changed_certificate_is_accepted(which in 0..3_usize, at in any::<prop::sample::Index>(), bit in 0..8) {
            let mut chain = Certificates::of(&Chip::test(ReportVersion::V3)).unwrap();
            let der = [&mut chain.ark, &mut chain.ask, &mut chain.vcek].into_iter().nth(which).unwrap();
            let at = at.index(der.len());
            der[at] ^= 1_u8 << bit;
            prop_assert!(verify_test_chain(&chain).is_err());
        }
    }
}
