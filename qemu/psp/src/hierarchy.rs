//! The test hierarchy: ARK → ASK → VCEK, as AMD's certificates form one, and worthless as proof.
//!
//! Every key is derived from [`SEED`], which anyone can read here; the names of the certificates say so. The same chip gets the
//! same keys and the same certificates, byte for byte, wherever and whenever they are made. Unlike AMD's, ARK and ASK have P-384
//! keys and not RSA: no verifier that knows AMD's roots can take this one for genuine, even by mistake.
//!
//! Source of form and extensions: "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification" (57230),
//! table "VCEK certificate extensions"; RFC 5280; RFC 6979 for signatures that need no randomness.

use alloc::vec;
use alloc::vec::Vec;
use core::str::FromStr;
use core::time::Duration;

use p384::ecdsa::{DerSignature, SigningKey, VerifyingKey};
use sha2::{Digest, Sha384};
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{self, Builder, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{Ia5StringRef, OctetString, UtcTime};
use x509_cert::der::{self, Encode};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{ObjectIdentifier, SubjectPublicKeyInfo, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

use crate::chip::{Chip, TcbVersion};

/// What every key is derived from. It is public: that is the point.
pub const SEED: &[u8] = b"LiteBox SNP emulator: public test seed, version 1";

/// Subject of the root.
pub const ARK_NAME: &str = "CN=LiteBox TEST ARK - NOT AMD - worthless as proof,OU=SNP emulator,O=LiteBox";
/// Subject of the intermediate.
pub const ASK_NAME: &str = "CN=LiteBox TEST ASK - NOT AMD - worthless as proof,OU=SNP emulator,O=LiteBox";
/// Subject of a chip's certificate.
pub const VCEK_NAME: &str = "CN=LiteBox TEST VCEK - NOT AMD - worthless as proof,OU=SNP emulator,O=LiteBox";
/// Subject of a provider's certificate.
pub const VLEK_NAME: &str = "CN=LiteBox TEST VLEK - NOT AMD - worthless as proof,OU=SNP emulator,O=LiteBox";
/// cspID of a provider's certificate.
pub const PROVIDER: &str = "litebox-test-provider";
/// productName of a chip's certificate.
pub const PRODUCT_NAME: &str = "LiteBox-TEST";

/// Extensions of a VCEK's certificate.
pub mod oid {
    use x509_cert::spki::ObjectIdentifier;

    const fn amd(oid: &str) -> ObjectIdentifier {
        ObjectIdentifier::new_unwrap(oid)
    }

    /// structVersion.
    pub const STRUCT_VERSION: ObjectIdentifier = amd("1.3.6.1.4.1.3704.1.1");
    /// productName.
    pub const PRODUCT_NAME: ObjectIdentifier = amd("1.3.6.1.4.1.3704.1.2");
    /// blSPL: bootloader.
    pub const BOOTLOADER: ObjectIdentifier = amd("1.3.6.1.4.1.3704.1.3.1");
    /// teeSPL.
    pub const TEE: ObjectIdentifier = amd("1.3.6.1.4.1.3704.1.3.2");
    /// snpSPL.
    pub const SNP: ObjectIdentifier = amd("1.3.6.1.4.1.3704.1.3.3");
    /// ucodeSPL.
    pub const MICROCODE: ObjectIdentifier = amd("1.3.6.1.4.1.3704.1.3.8");
    /// fmcSPL, from Turin on.
    pub const FMC: ObjectIdentifier = amd("1.3.6.1.4.1.3704.1.3.9");
    /// hwID: the chip's identity, its bytes as they are.
    pub const HARDWARE_ID: ObjectIdentifier = amd("1.3.6.1.4.1.3704.1.4");
    /// cspID: the cloud provider, in a VLEK's certificate, where hwID is missing.
    pub const PROVIDER_ID: ObjectIdentifier = amd("1.3.6.1.4.1.3704.1.5");
}

/// 2026-01-01 and 2049-12-31, in seconds since 1970. A test root's validity has to be long and reproducible, no more.
const VALID: (u64, u64) = (1_767_225_600, 2_524_521_600);

/// A secret of the hierarchy for one purpose.
pub(crate) fn secret(purpose: &str, context: &[&[u8]]) -> [u8; 48] {
    let mut hash = Sha384::new_with_prefix(SEED);
    for part in [purpose.as_bytes()].iter().chain(context) {
        // Lengths first, so that no two contexts run together.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// A key of the hierarchy.
fn key(purpose: &str, context: &[u8]) -> SigningKey {
    let mut attempt = 0_u32;
    loop {
        // All but one number of 384 bits in 2¹⁹⁰ is a key.
        let candidate = secret(purpose, &[context, &attempt.to_le_bytes()]);
        if let Ok(key) = SigningKey::from_slice(&candidate) {
            return key;
        }
        attempt = attempt.wrapping_add(1);
    }
}

/// The key that signs the reports of a chip: of its identity and its reported TCB, as on hardware.
pub fn vcek(chip: &Chip) -> SigningKey {
    let mut context = [0; 72];
    let (id, tcb) = context.split_at_mut(64);
    id.copy_from_slice(&chip.id);
    tcb.copy_from_slice(&chip.reported_tcb.to_bytes());
    key("VCEK", &context)
}

/// The key that signs the reports of the test provider's chips at this TCB, whichever chip it is.
pub fn vlek(tcb: TcbVersion) -> SigningKey {
    key("VLEK", &tcb.to_bytes())
}

/// The certificate for the key of [`vlek`], signed by the ASK, which stands for the ASVK here.
pub fn vlek_certificate(tcb: TcbVersion) -> builder::Result<Vec<u8>> {
    let mut extensions = level_extensions(tcb)?;
    extensions.push(extension(oid::PROVIDER_ID, Ia5StringRef::new(PROVIDER)?.to_der()?)?);
    let profile = Profile {
        subject: Name::from_str(VLEK_NAME)?,
        issuer: Name::from_str(ASK_NAME)?,
        authority: None,
        extensions,
    };
    certificate(profile, 4, vlek(tcb).verifying_key(), &key("ASK", &[]))
}

/// The certificates of a chip, in DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// Root, self-signed.
    pub ark: Vec<u8>,
    /// Signed by the root.
    pub ask: Vec<u8>,
    /// Signed by the ASK, for the key of [`vcek`].
    pub vcek: Vec<u8>,
}

impl Certificates {
    /// Makes them: three signatures. They are the same every time.
    pub fn of(chip: &Chip) -> builder::Result<Self> {
        let (ark, ask) = (key("ARK", &[]), key("ASK", &[]));
        let (ark_name, ask_name) = (Name::from_str(ARK_NAME)?, Name::from_str(ASK_NAME)?);
        let authority = |path: u8, subject: &Name| Profile {
            subject: subject.clone(),
            issuer: ark_name.clone(),
            authority: Some(path),
            extensions: vec![],
        };
        let chip_profile = Profile {
            subject: Name::from_str(VCEK_NAME)?,
            issuer: ask_name.clone(),
            authority: None,
            extensions: chip_extensions(chip)?,
        };
        Ok(Self {
            ark: certificate(authority(1, &ark_name), 1, ark.verifying_key(), &ark)?,
            ask: certificate(authority(0, &ask_name), 2, ask.verifying_key(), &ark)?,
            vcek: certificate(chip_profile, 3, vcek(chip).verifying_key(), &ask)?,
        })
    }
}

fn certificate(
    profile: Profile,
    serial: u8,
    key: &VerifyingKey,
    signer: &SigningKey,
) -> builder::Result<Vec<u8>> {
    let time = |seconds| UtcTime::from_unix_duration(Duration::from_secs(seconds)).map(Time::UtcTime);
    let validity = Validity::new(time(VALID.0)?, time(VALID.1)?);
    let key = SubjectPublicKeyInfo::from_key(key)?;
    let builder = CertificateBuilder::new(profile, SerialNumber::new(&[serial])?, validity, key)?;
    Ok(builder.build::<_, DerSignature>(signer)?.to_der()?)
}

/// What a certificate says.
struct Profile {
    subject: Name,
    issuer: Name,
    /// Certificates that may follow before the last one, for an authority.
    authority: Option<u8>,
    extensions: Vec<Extension>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _: SubjectPublicKeyInfoRef<'_>,
        _: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        let mut extensions = self.extensions.clone();
        if self.authority.is_some() {
            let constraints = BasicConstraints { ca: true, path_len_constraint: self.authority };
            extensions.push(constraints.to_extension(tbs.subject(), &extensions)?);
            let usage = KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign);
            extensions.push(usage.to_extension(tbs.subject(), &extensions)?);
        }
        Ok(extensions)
    }
}

fn extension(extn_id: ObjectIdentifier, value: Vec<u8>) -> der::Result<Extension> {
    Ok(Extension { extn_id, critical: false, extn_value: OctetString::new(value)? })
}

fn chip_extensions(chip: &Chip) -> der::Result<Vec<Extension>> {
    let mut extensions = level_extensions(chip.reported_tcb)?;
    extensions.push(extension(oid::HARDWARE_ID, chip.id.to_vec())?);
    Ok(extensions)
}

/// What certificates of chips and of providers have in common.
fn level_extensions(tcb: TcbVersion) -> der::Result<Vec<Extension>> {
    let levels = [
        (oid::BOOTLOADER, Some(tcb.bootloader)),
        (oid::TEE, Some(tcb.tee)),
        (oid::SNP, Some(tcb.snp)),
        (oid::MICROCODE, Some(tcb.microcode)),
        (oid::FMC, tcb.fmc),
    ];
    let mut extensions = vec![
        extension(oid::STRUCT_VERSION, tcb.fmc.map_or(0_u8, |_| 1).to_der()?)?,
        extension(oid::PRODUCT_NAME, Ia5StringRef::new(PRODUCT_NAME)?.to_der()?)?,
    ];
    for (oid, level) in levels {
        if let Some(level) = level {
            extensions.push(extension(oid, level.to_der()?)?);
        }
    }
    Ok(extensions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ReportVersion;
    use sev::certs::snp::{Certificate as Theirs, Chain, Verifiable, builtin, ca};
    use x509_cert::Certificate;
    use x509_cert::der::Decode;

    fn chip() -> Chip {
        Chip::test(ReportVersion::V3)
    }

    #[test]
    fn the_certificates_are_the_same_every_time() {
        assert_eq!(Certificates::of(&chip()).unwrap(), Certificates::of(&chip()).unwrap());
        // Held here, so that a change of a dependency cannot silently change the root.
        let ark = Sha384::digest(Certificates::of(&chip()).unwrap().ark);
        let ark: String = ark.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(ark, ARK_DIGEST);
    }

    #[test]
    fn every_name_says_that_it_is_a_test() {
        let certificates = Certificates::of(&chip()).unwrap();
        for der in [&certificates.ark, &certificates.ask, &certificates.vcek] {
            let certificate = Certificate::from_der(der).unwrap();
            let tbs = certificate.tbs_certificate();
            for name in [tbs.subject(), tbs.issuer()] {
                let name = name.to_string();
                assert!(name.contains("TEST") && name.contains("NOT AMD - worthless as proof"), "{name}");
            }
        }
    }

    #[test]
    fn the_key_of_a_chip_is_of_its_identity_and_tcb() {
        let tcb = TcbVersion { snp: 1, ..chip().reported_tcb };
        let older = Chip { reported_tcb: tcb, ..chip() };
        let other = Chip { id: [1; 64], ..chip() };
        assert_ne!(vcek(&chip()), vcek(&older));
        assert_ne!(vcek(&chip()), vcek(&other));
        assert_eq!(vcek(&chip()), vcek(&Chip { stepping: 7, ..chip() }));
    }

    /// AMD's roots, as the `sev` crate carries them, must not vouch for anything here.
    #[test]
    fn no_root_of_amd_vouches_for_the_chain() {
        let ours = Certificates::of(&chip()).unwrap();
        let [ark, ask, vcek] = [&ours.ark, &ours.ask, &ours.vcek].map(|der| Theirs::from_der(der).unwrap());
        let roots = [
            (builtin::milan::ark().unwrap(), builtin::milan::ask().unwrap()),
            (builtin::genoa::ark().unwrap(), builtin::genoa::ask().unwrap()),
            (builtin::turin::ark().unwrap(), builtin::turin::ask().unwrap()),
        ];
        for (amd_ark, amd_ask) in roots {
            let genuine = ca::Chain { ark: amd_ark.clone(), ask: amd_ask.clone() };
            genuine.verify().expect("the oracle works");
            for ours in [&ark, &ask, &vcek] {
                assert!((&amd_ark, ours).verify().is_err());
                assert!((&amd_ask, ours).verify().is_err());
            }
            let chains = [
                (&ask, &amd_ark, &vcek),
                (&amd_ask, &amd_ark, &vcek),
                (&ask, &ark, &vcek),
                (&amd_ask, &ark, &vcek),
            ];
            for (ask, ark, vek) in chains {
                let chain = Chain { ca: ca::Chain { ark: ark.clone(), ask: ask.clone() }, vek: vek.clone() };
                assert!(chain.verify().is_err());
            }
        }
    }

    /// Nor does a key of ours, or a name, occur in AMD's.
    #[test]
    fn nothing_is_named_as_amd_names_it() {
        let amd = [builtin::milan::ARK, builtin::genoa::ARK, builtin::turin::ARK];
        let ours = Certificates::of(&chip()).unwrap();
        for pem in amd {
            let amd = Certificate::from_der(&Theirs::from_pem(pem).unwrap().to_der().unwrap()).unwrap();
            for der in [&ours.ark, &ours.ask, &ours.vcek] {
                let ours = Certificate::from_der(der).unwrap();
                let (ours, amd) = (ours.tbs_certificate(), amd.tbs_certificate());
                assert_ne!(ours.issuer(), amd.subject());
                assert_ne!(ours.subject(), amd.subject());
                assert_ne!(ours.subject_public_key_info(), amd.subject_public_key_info());
            }
        }
    }

    /// SHA-384 of the root's DER.
    const ARK_DIGEST: &str = "0c0f9f83134d5cd276abc533226af5d289bf6a69fef0aedff495136a0acbc08f\
                              6f0371d4f72aac1b5b1290302aa701e9";
}
