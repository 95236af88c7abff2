//! From the key that signed a report up to a root that is believed: AMD's, or, where that is asked for, the emulator's.
//!
//! AMD's roots and signing keys are the ones built into the `sev` crate (Milan, Genoa, Turin). A root that comes with the report
//! counts only if it is one of these, byte for byte. Revocation lists are not consulted: they would have to be fetched.
//!
//! Source: 57230, chapters 2 and 3: RSA-PSS with SHA-384 from the ARK to the ASK (VCEK) or ASVK (VLEK) to the key.

use std::sync::LazyLock;

use sev::certs::snp::{Certificate as SevCertificate, Verifiable, builtin};
use test_psp::chip::Chip;
use test_psp::hierarchy::Certificates;
use test_psp::report::ReportVersion;
use test_psp::verify::{VerifyError, verify_test_chain};

use crate::certificates::{Bundle, Encoded};
use crate::check::Check;

/// Who vouches in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// AMD, for chips of this generation.
    AmdMilan,
    /// Likewise.
    AmdGenoa,
    /// Likewise.
    AmdTurin,
    /// The SNP emulator, whose keys everybody can read: it proves nothing.
    Emulator,
}

impl Root {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AmdMilan => "AMD's root for Milan",
            Self::AmdGenoa => "AMD's root for Genoa",
            Self::AmdTurin => "AMD's root for Turin",
            Self::Emulator => "the emulator's test root, which proves nothing",
        }
    }

    /// ARK and ASK, in PEM; nothing for the emulator.
    const fn amd(self) -> Option<(&'static [u8], &'static [u8])> {
        match self {
            Self::AmdMilan => Some((builtin::milan::ARK, builtin::milan::ASK)),
            Self::AmdGenoa => Some((builtin::genoa::ARK, builtin::genoa::ASK)),
            Self::AmdTurin => Some((builtin::turin::ARK, builtin::turin::ASK)),
            Self::Emulator => None,
        }
    }

    const AMD: [Self; 3] = [Self::AmdMilan, Self::AmdGenoa, Self::AmdTurin];
}

/// A check that failed, and why.
pub type Failure = (Check, String);

/// A chain that holds.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Who vouches.
    pub root: Root,
    /// Root, intermediate, key.
    pub links: [Encoded; 3],
}

fn der(pem: &[u8]) -> Option<Encoded> {
    let certificate = SevCertificate::from_pem(pem).ok()?;
    Encoded::new(&certificate.to_der().ok()?)
}

/// Follows `key` up to a root.
///
/// # Errors
/// It leads nowhere, or a signature on the way is wrong.
pub fn follow(key: &Encoded, bundle: &Bundle) -> Result<Chain, Failure> {
    let test = emulator();
    if bundle.roots.iter().any(|root| root.der == test.ark) || key.issuer() == test_psp::hierarchy::ASK_NAME {
        return follow_emulator(key, bundle, test);
    }
    if let Some(stranger) = bundle.roots.iter().find(|root| !Root::AMD.iter().any(|amd| is_root(*amd, root)))
    {
        return Err((Check::Root, format!("a root that is none of AMD's: {}", stranger.subject())));
    }
    let mut chain_error = None;
    for root in Root::AMD {
        let Some((ark, ask)) = root.amd().and_then(|(ark, ask)| Some((der(ark)?, der(ask)?))) else {
            continue;
        };
        // What came with the report counts first, so that what is altered there shows; AMD's own fills the gap.
        let given = bundle.intermediates.iter().filter(|one| one.subject() == key.issuer()).cloned();
        let built_in = (bundle.intermediates.is_empty() && ask.subject() == key.issuer()).then_some(ask);
        for intermediate in given.chain(built_in).filter(|one| one.issuer() == ark.subject()) {
            match signs(&ark, &intermediate).and_then(|()| signs(&intermediate, key)) {
                Ok(()) => return Ok(Chain { root, links: [ark, intermediate, key.clone()] }),
                Err(why) => chain_error = Some(why),
            }
        }
    }
    let nobody = || match bundle.intermediates.is_empty() {
        true => format!(
            "it was issued by {}, which is not an ASK of AMD's; a VLEK needs its ASVK too",
            key.issuer()
        ),
        false => format!("no certificate that came along leads from {} to a root of AMD's", key.issuer()),
    };
    Err((Check::Chain, chain_error.unwrap_or_else(nobody)))
}

fn is_root(root: Root, given: &Encoded) -> bool {
    root.amd().and_then(|(ark, _)| der(ark)).is_some_and(|ark| ark.der == given.der)
}

/// That `issuer` signed `subject`, as AMD does.
fn signs(issuer: &Encoded, subject: &Encoded) -> Result<(), String> {
    let error = || format!("{} is not signed by {}", subject.subject(), issuer.subject());
    let certificate = &subject.certificate;
    // Outside what is signed there is only the signature, and its algorithm for the second time.
    let whole = certificate.signature().as_bytes().is_some()
        && certificate.signature_algorithm() == certificate.tbs_certificate().signature();
    let [upper, lower] = [issuer, subject].map(|one| SevCertificate::from_der(&one.der).map_err(|_| error()));
    if !whole {
        return Err(error());
    }
    (&upper?, &lower?).verify().map_err(|_| error())
}

/// The emulator's certificates; its root does not depend on the chip.
fn emulator() -> &'static Certificates {
    static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(|| {
        Certificates::of(&Chip::test(ReportVersion::V3)).expect("the emulator's certificates are constants")
    });
    &CERTIFICATES
}

fn follow_emulator(key: &Encoded, bundle: &Bundle, test: &Certificates) -> Result<Chain, Failure> {
    // Without its own, a key is judged by the emulator's ASK, as AMD's are by AMD's.
    let pick =
        |given: &[Encoded], own: &[u8]| given.first().map_or_else(|| own.to_vec(), |one| one.der.clone());
    let chain = Certificates {
        ark: pick(&bundle.roots, &test.ark),
        ask: pick(&bundle.intermediates, &test.ask),
        vcek: key.der.clone(),
    };
    verify_test_chain(&chain).map_err(|error| match error {
        VerifyError::Root => (Check::Root, error.to_string()),
        _ => (Check::Chain, error.to_string()),
    })?;
    let links = [&chain.ark, &chain.ask, &chain.vcek].map(|der| Encoded::new(der));
    match links {
        [Some(ark), Some(ask), Some(key)] => Ok(Chain { root: Root::Emulator, links: [ark, ask, key] }),
        _ => Err((Check::Chain, "a certificate is malformed".into())),
    }
}
