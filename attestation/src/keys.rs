//! P-256 keys of owners, parties and brokers, as files: the private half in PKCS #8, the public one in SPKI, both PEM.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use p256::elliptic_curve::zeroize::Zeroizing;
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use p256::{PublicKey, SecretKey};

/// Bytes that nobody can foretell.
///
/// # Errors
/// The system has none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no randomness from the system: {error}"))?;
    Ok(bytes)
}

/// A new key.
///
/// # Errors
/// The system has no randomness.
pub fn generate() -> Result<SecretKey> {
    loop {
        // All but one number of 256 bits in 2³² is a key.
        let candidate = Zeroizing::new(random::<32>()?);
        if let Ok(key) = SecretKey::from_slice(candidate.as_slice()) {
            return Ok(key);
        }
    }
}

/// The place of the public half of a key.
pub fn public_path(private: &Path) -> PathBuf {
    let mut path = private.to_owned();
    path.as_mut_os_string().push(".pub");
    path
}

/// Makes a key, and writes both halves; the private one for its owner's eyes only.
///
/// # Errors
/// A file is there already, or cannot be written.
pub fn create(path: &Path) -> Result<PublicKey> {
    let key = generate()?;
    let private =
        key.to_pkcs8_pem(LineEnding::LF).map_err(|error| anyhow!("cannot encode the key: {error}"))?;
    let public = key
        .public_key()
        .to_public_key_pem(LineEnding::LF)
        .map_err(|error| anyhow!("cannot encode the key: {error}"))?;
    let cannot = |path: &Path| format!("cannot write {}", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| cannot(path))?;
    file.write_all(private.as_bytes()).with_context(|| cannot(path))?;
    let public_path = public_path(path);
    fs::write(&public_path, public).with_context(|| cannot(&public_path))?;
    Ok(key.public_key())
}

/// Reads a private key.
///
/// # Errors
/// There is none in the file.
pub fn read_private(path: &Path) -> Result<SecretKey> {
    let text =
        Zeroizing::new(fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?);
    SecretKey::from_pkcs8_pem(&text).map_err(|error| {
        anyhow!(
            "{}: no P-256 private key in PKCS #8 (PEM), such as `cargo xtask keygen` makes: {error}",
            path.display()
        )
    })
}

/// Reads a public key.
///
/// # Errors
/// There is none in the file.
pub fn read_public(path: &Path) -> Result<PublicKey> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    PublicKey::from_public_key_pem(&text).map_err(|error| {
        anyhow!("{}: no P-256 public key (PEM), such as `cargo xtask keygen` makes: {error}", path.display())
    })
}
