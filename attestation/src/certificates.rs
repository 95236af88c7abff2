//! Certificates that come with a report: from the host's table, or out of files.
//!
//! Nothing here is believed: a [`Bundle`] is sorted by what each certificate claims to be, and [`crate::chain`] judges.
//!
//! Source: GHCB specification (56421), table "Certificate Table Entry"; "Versioned Chip Endorsement Key (VCEK) Certificate and KDS
//! Interface Specification" (57230), tables of extensions.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sev::certs::snp::Certificate as SevCertificate;
use test_psp::certificates as guids;
use test_psp::hierarchy::oid;
use test_psp::verify::extension;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// A certificate with its encoding.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// DER.
    pub der: Vec<u8>,
    /// What it says.
    pub certificate: Certificate,
}

impl Encoded {
    /// Decodes DER; nothing if it is no certificate.
    pub fn new(der: &[u8]) -> Option<Self> {
        Certificate::from_der(der).ok().map(|certificate| Self { der: der.to_vec(), certificate })
    }

    /// Whom it is for.
    pub fn subject(&self) -> String {
        self.certificate.tbs_certificate().subject().to_string()
    }

    /// Whom it says it is from.
    pub fn issuer(&self) -> String {
        self.certificate.tbs_certificate().issuer().to_string()
    }
}

/// Certificates, sorted.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// Issued by themselves.
    pub roots: Vec<Encoded>,
    /// Between root and key: ASK and ASVK.
    pub intermediates: Vec<Encoded>,
    /// Of chips.
    pub vceks: Vec<Encoded>,
    /// Of cloud providers.
    pub vleks: Vec<Encoded>,
    /// How many are no certificates at all.
    pub malformed: usize,
}

impl Bundle {
    /// Adds one, in DER.
    pub fn add(&mut self, der: &[u8]) {
        self.add_as(der, None);
    }

    /// Adds one that is said to be of a kind; one that is not so is malformed.
    fn add_as(&mut self, der: &[u8], said: Option<Kind>) {
        let encoded = Encoded::new(der).map(|encoded| (kind(&encoded), encoded));
        match encoded {
            Some((kind, encoded)) if said.is_none_or(|said| said == kind) => match kind {
                Kind::Root => self.roots.push(encoded),
                Kind::Intermediate => self.intermediates.push(encoded),
                Kind::Vcek => self.vceks.push(encoded),
                Kind::Vlek => self.vleks.push(encoded),
            },
            _ => self.malformed += 1,
        }
    }

    /// Adds those of a host's certificate table. What is not as the table says counts as a malformed certificate.
    pub fn add_table(&mut self, table: &[u8]) {
        if table.is_empty() {
            return;
        }
        let Some(entries) = entries(table) else {
            self.malformed += 1;
            return;
        };
        for (guid, der) in entries {
            match guid {
                guids::ARK => self.add_as(der, Some(Kind::Root)),
                guids::ASK => self.add_as(der, Some(Kind::Intermediate)),
                guids::VCEK => self.add_as(der, Some(Kind::Vcek)),
                guids::VLEK => self.add_as(der, Some(Kind::Vlek)),
                guids::CRL => {}
                _ => self.malformed += 1,
            }
        }
    }

    /// Adds a file: DER, PEM (one or more), or a certificate table.
    pub fn add_file(&mut self, bytes: &[u8]) {
        const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
        match std::str::from_utf8(bytes) {
            Ok(text) if text.contains(BEGIN) => {
                for block in text.split(BEGIN).skip(1) {
                    let pem = format!("{BEGIN}{block}");
                    let pem = pem.split_inclusive("-----END CERTIFICATE-----").next().unwrap_or_default();
                    let der =
                        SevCertificate::from_pem(pem.as_bytes()).and_then(|certificate| certificate.to_der());
                    match der {
                        Ok(der) => self.add(&der),
                        Err(_) => self.malformed += 1,
                    }
                }
            }
            _ if Encoded::new(bytes).is_some() => self.add(bytes),
            _ => self.add_table(bytes),
        }
    }

    /// Adds all of a directory, or one file.
    ///
    /// # Errors
    /// It cannot be read, or a file in it is none of certificates.
    pub fn add_path(&mut self, path: &Path) -> Result<()> {
        let name = || path.display().to_string();
        let mut files = vec![path.to_owned()];
        if path.is_dir() {
            let entries = fs::read_dir(path).with_context(name)?;
            files = entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<_, _>>()
                .with_context(name)?;
            files.retain(|file| file.is_file());
            files.sort();
        }
        for file in files {
            let bytes = fs::read(&file).with_context(|| file.display().to_string())?;
            let before = self.malformed;
            self.add_file(&bytes);
            if self.malformed > before {
                bail!("{}: no certificate in DER or PEM, and no certificate table", file.display());
            }
        }
        Ok(())
    }
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Root,
    Intermediate,
    Vcek,
    Vlek,
}

fn kind(encoded: &Encoded) -> Kind {
    let has = |oid| extension(&encoded.certificate, oid).is_some();
    if has(oid::HARDWARE_ID) {
        Kind::Vcek
    } else if has(oid::PROVIDER_ID) {
        Kind::Vlek
    } else if encoded.subject() == encoded.issuer() {
        Kind::Root
    } else {
        Kind::Intermediate
    }
}

/// The entries of a table: GUID and contents. Nothing if an entry is not inside the table, or if the table does not end.
fn entries(table: &[u8]) -> Option<Vec<([u8; 16], &[u8])>> {
    const ENTRY: usize = 24;
    let mut found = Vec::new();
    for entry in table.chunks_exact(ENTRY) {
        let (guid, rest) = entry.split_first_chunk::<16>()?;
        let (offset, length) = rest.split_first_chunk::<4>()?;
        let number = |bytes: [u8; 4]| usize::try_from(u32::from_le_bytes(bytes)).ok();
        let (offset, length) = (number(*offset)?, number(length.try_into().ok()?)?);
        if (*guid, offset, length) == ([0; 16], 0, 0) {
            return Some(found);
        }
        found.push((*guid, table.get(offset..offset.checked_add(length)?)?));
    }
    None
}
