//! What a broker's owner says: which images get which secrets, and what is demanded of the machines they run on.
//!
//! Paths are relative to the policy's file. The schema is in `docs/attestation.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kbs_types::Response;
use p256::SecretKey;
use p256::elliptic_curve::zeroize::Zeroizing;
use serde::Deserialize;

use crate::certificates::Bundle;
use crate::expect::Image;
use crate::tcb::TcbFloor;
use crate::verify::{Asker, Demands};
use crate::{jose, keys};

/// What is bound to a secret that was sealed for a broker to keep.
pub const SEALED_AAD: &str = "litebox-sealed-for-a-broker";

/// The file.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    #[serde(default)]
    allow_emulated: bool,
    #[serde(default)]
    allow_migration: bool,
    #[serde(default)]
    allow_no_alias_check: bool,
    #[serde(default)]
    min_tcb: TcbFloor,
    #[serde(default)]
    min_committed_tcb: TcbFloor,
    #[serde(default = "nonce_seconds")]
    nonce_seconds: u64,
    certificates: Option<PathBuf>,
    key: Option<PathBuf>,
    #[serde(default, rename = "image")]
    images: Vec<ImageEntry>,
    #[serde(default, rename = "secret")]
    secrets: Vec<SecretEntry>,
}

const fn nonce_seconds() -> u64 {
    300
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ImageEntry {
    reference: PathBuf,
    secrets: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SecretEntry {
    resource: String,
    file: Option<PathBuf>,
    sealed: Option<PathBuf>,
    text: Option<String>,
}

/// An image that is known, and what it gets.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The image.
    pub image: Image,
    /// Names of secrets.
    pub secrets: BTreeSet<String>,
}

/// A policy.
pub struct Policy {
    /// Images.
    pub images: Vec<Admitted>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// Certificates beside those that come with the evidence.
    pub certificates: Bundle,
    /// How long a challenge, and what follows from answering it, holds.
    pub lifetime: Duration,
    /// What is demanded of every report but what its image says.
    pub demands: Demands,
}

/// Whether a name is `repository/type/tag`, each of letters, digits, `.`, `_`, `-`, and no path that leads elsewhere.
pub fn is_resource(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 64
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    name.split('/').count() == 3 && name.split('/').all(part)
}

impl Policy {
    /// Reads a policy and all that it names.
    ///
    /// # Errors
    /// Something is missing, or contradicts itself.
    pub fn open(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, directory).with_context(|| path.display().to_string())
    }

    /// Of the text of a file in a directory.
    ///
    /// # Errors
    /// As [`Policy::open`].
    pub fn parse(text: &str, directory: &Path) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        let at = |path: &Path| directory.join(path);
        let key = file.key.as_deref().map(|path| keys::read_private(&at(path))).transpose()?;
        let mut secrets = BTreeMap::new();
        for entry in file.secrets {
            let name = entry.resource.clone();
            ensure!(
                is_resource(&name),
                "`{name}` is no name of a secret: write repository/type/tag, each of letters, digits, `.`, `_`, `-`"
            );
            let secret = secret(entry, directory, key.as_ref()).with_context(|| format!("secret {name}"))?;
            ensure!(secrets.insert(name.clone(), secret).is_none(), "{name} stands twice");
        }
        let mut images: Vec<Admitted> = Vec::new();
        for entry in file.images {
            let image = Image::open(&at(&entry.reference))?;
            ensure!(
                image.manifest.is_some(),
                "{}: give the reference values that build-igvm wrote beside the image",
                entry.reference.display()
            );
            if let Some(unknown) = entry.secrets.iter().find(|name| !secrets.contains_key(*name)) {
                bail!("{} is to get {unknown}, and no [[secret]] is called so", entry.reference.display());
            }
            images.push(Admitted { image, secrets: entry.secrets });
        }
        ensure!(!images.is_empty(), "no [[image]]: nobody would get anything");
        let mut certificates = Bundle::default();
        if let Some(path) = &file.certificates {
            certificates.add_path(&at(path))?;
        }
        let demands = Demands {
            min_tcb: file.min_tcb,
            min_committed_tcb: file.min_committed_tcb,
            asker: Asker::Kernel,
            allow_emulated: file.allow_emulated,
            allow_migration: file.allow_migration,
            allow_no_alias_check: file.allow_no_alias_check,
            ..Demands::default()
        };
        let lifetime = Duration::from_secs(file.nonce_seconds);
        Ok(Self { images, secrets, certificates, lifetime, demands })
    }
}

fn secret(entry: SecretEntry, directory: &Path, key: Option<&SecretKey>) -> Result<Zeroizing<Vec<u8>>> {
    let read = |path: &Path| {
        let path = directory.join(path);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    match (entry.file, entry.sealed, entry.text) {
        (Some(path), None, None) => Ok(Zeroizing::new(read(&path)?)),
        (None, Some(path), None) => {
            let key = key.context("it is sealed, and the policy names no `key` of the broker's")?;
            open_sealed(&read(&path)?, key).with_context(|| path.display().to_string())
        }
        (None, None, Some(text)) => Ok(Zeroizing::new(text.into_bytes())),
        _ => bail!("give one of `file`, `sealed` and `text`"),
    }
}

/// Seals a secret for the holder of a broker's key.
///
/// # Errors
/// The system has no randomness.
pub fn seal_for_broker(secret: &[u8], broker: &p256::PublicKey) -> Result<String> {
    let sealed = jose::seal(secret, broker, Some(SEALED_AAD))?;
    Ok(serde_json::to_string_pretty(&sealed)? + "\n")
}

/// Opens what [`seal_for_broker`] made.
///
/// # Errors
/// It is for another, or was altered.
pub fn open_sealed(json: &[u8], key: &SecretKey) -> Result<Zeroizing<Vec<u8>>> {
    let sealed: Response =
        serde_json::from_slice(json).context("no sealed secret, such as `cargo xtask seal` makes")?;
    ensure!(
        sealed.aad.as_deref() == Some(jose::encode(SEALED_AAD.as_bytes()).as_bytes()),
        "not sealed for a broker"
    );
    Ok(jose::open(&sealed, key)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_three_parts() {
        for good in ["a/b/c", "acme/table/customers-2.csv", "A_1/b.c/d-e"] {
            assert!(is_resource(good), "{good}");
        }
        let long = format!("a/b/{}", "c".repeat(65));
        for bad in ["", "a/b", "a/b/c/d", "a//c", "../b/c", "a/./c", "a/b/c ", "a/b/%2e", "a/b/ü", &long] {
            assert!(!is_resource(bad), "{bad}");
        }
    }

    #[test]
    fn a_policy_that_contradicts_itself_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "no [[image]]"),
            ("allow-emulate = true", "unknown field"),
            ("min-tcb = \"psp=1\"", "write levels such as"),
            ("[[secret]]\nresource = \"a/b\"\ntext = \"x\"", "no name of a secret"),
            ("[[secret]]\nresource = \"a/b/c\"", "give one of"),
            ("[[secret]]\nresource = \"a/b/c\"\ntext = \"x\"\nfile = \"y\"", "give one of"),
            ("[[secret]]\nresource = \"a/b/c\"\nsealed = \"x\"", "names no `key`"),
            (
                "[[secret]]\nresource = \"a/b/c\"\ntext = \"x\"\n[[secret]]\nresource = \"a/b/c\"\ntext = \"y\"",
                "twice",
            ),
            ("[[image]]\nreference = \"/nonexistent\"\nsecrets = []", "cannot read /nonexistent"),
        ] {
            let error = Policy::parse(text, Path::new("/"))
                .err()
                .map(|error| format!("{error:#}"))
                .unwrap_or_default();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_sealed_secret_opens_for_its_broker_alone() {
        let (broker, other) = (keys::generate().unwrap(), keys::generate().unwrap());
        let sealed = seal_for_broker(b"rows", &broker.public_key()).unwrap();
        assert_eq!(*open_sealed(sealed.as_bytes(), &broker).unwrap(), b"rows");
        assert!(open_sealed(sealed.as_bytes(), &other).is_err());
        assert!(open_sealed(b"rows", &broker).is_err());
        // What is sealed for a guest is not for a broker to keep.
        let released = jose::seal(b"rows", &broker.public_key(), Some("litebox:n:a/b/c")).unwrap();
        assert!(open_sealed(&serde_json::to_vec(&released).unwrap(), &broker).is_err());
    }
}
