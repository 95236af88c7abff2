//! Reads the keys that sign ID blocks: private keys of P-384, as openssl writes them.
//!
//! PEM or DER, SEC1 (RFC 5915) or PKCS #8 (RFC 5958). What is another key, or none, gets a sentence that says what it is.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use p384::SecretKey;
use p384::ecdsa::SigningKey;
use p384::pkcs8::der::{Decode, pem};
use p384::pkcs8::{ObjectIdentifier, PrivateKeyInfoRef};
use sec1::EcPrivateKey;

/// Keys are a few hundred bytes.
const SIZE_MAX: u64 = 64 << 10;

const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// DER of the algorithm of an encrypted PKCS #8 key, PBES2 (RFC 8018).
const PBES2: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];

const MAKE_ONE: &str = "make one with `openssl ecparam -name secp384r1 -genkey -noout -out KEY.pem`";

/// Reads a key; says so on stderr where others can read it too.
///
/// # Errors
/// It is missing, no private key of P-384, or encrypted.
pub fn read(path: &Path) -> Result<SigningKey> {
    let look = || {
        let metadata = fs::metadata(path).context("cannot read it")?;
        ensure!(metadata.is_file() && metadata.len() <= SIZE_MAX, "it is no key; {MAKE_ONE}");
        let key = parse(&fs::read(path).context("cannot read it")?)?;
        if metadata.permissions().mode() & 0o077 != 0 {
            let name = path.display();
            let line =
                format!("warning: others may read the key {name}; if they should not: chmod 600 {name}");
            // A closed stderr must not turn into a panic.
            let _ = writeln!(std::io::stderr(), "xtask: {line}");
        }
        Ok(key)
    };
    look().with_context(|| format!("the key {}", path.display()))
}

fn parse(bytes: &[u8]) -> Result<SigningKey> {
    const BEGIN: &str = "-----BEGIN ";
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    if !text.contains(BEGIN) {
        return der(bytes);
    }
    let mut found = Vec::new();
    for (at, _) in text.match_indices(BEGIN) {
        let block = &text[at..];
        let label = block[BEGIN.len()..].split("-----").next().unwrap_or_default();
        let encrypted = block.lines().nth(1).is_some_and(|line| line.starts_with("Proc-Type:"));
        match label {
            // Openssl writes the curve in front of the key.
            "EC PARAMETERS" => {}
            "ENCRYPTED PRIVATE KEY" => bail!("{}", encrypted_key()),
            "EC PRIVATE KEY" if encrypted => bail!("{}", encrypted_key()),
            "EC PRIVATE KEY" | "PRIVATE KEY" => {
                let end = block.find("-----END ").context("it is cut off")?;
                let length = block[end..].find('\n').map_or(block.len(), |line| end + line + 1);
                let decoded = pem::decode_vec(&block.as_bytes()[..length]);
                let (_, der) = decoded.map_err(|error| anyhow::anyhow!("it is damaged: {error}"))?;
                return if label == "PRIVATE KEY" { pkcs8(&der) } else { sec1(&der) };
            }
            other => found.push(other.to_owned()),
        }
    }
    bail!("it holds no private key of P-384 but: {}; {MAKE_ONE}", found.join(", "))
}

fn encrypted_key() -> String {
    "it is encrypted, and this program asks for no passwords: decrypt it into a file that only you can read \
     (`umask 077; openssl pkey -in KEY -out DECRYPTED.pem`), and delete that afterwards"
        .into()
}

fn der(bytes: &[u8]) -> Result<SigningKey> {
    if PrivateKeyInfoRef::from_der(bytes).is_ok() {
        return pkcs8(bytes);
    }
    if EcPrivateKey::from_der(bytes).is_ok() {
        return sec1(bytes);
    }
    ensure!(!bytes.windows(PBES2.len()).any(|window| window == PBES2), "{}", encrypted_key());
    bail!("it is neither PEM nor DER of a private key; {MAKE_ONE}")
}

fn pkcs8(der: &[u8]) -> Result<SigningKey> {
    let info = PrivateKeyInfoRef::from_der(der).map_err(|error| anyhow::anyhow!("it is damaged: {error}"))?;
    let algorithm = info.algorithm;
    ensure!(
        algorithm.oid == EC_PUBLIC_KEY,
        "it is {}, and P-384 is needed; {MAKE_ONE}",
        algorithm_name(algorithm.oid)
    );
    check_curve(algorithm.parameters_oid().ok())?;
    sec1_key(info.private_key.as_bytes())
}

fn sec1(der: &[u8]) -> Result<SigningKey> {
    let key = EcPrivateKey::from_der(der).map_err(|error| {
        anyhow::anyhow!(
            "it is damaged, or gives its curve by numbers (then convert it with `openssl ec -param_enc named_curve`): {error}"
        )
    })?;
    check_curve(key.parameters.and_then(|parameters| parameters.named_curve()))?;
    sec1_key(der)
}

fn sec1_key(der: &[u8]) -> Result<SigningKey> {
    match SecretKey::from_sec1_der(der) {
        Ok(secret) => Ok(SigningKey::from(secret)),
        Err(_) => bail!("its number is none of P-384, or its public half is another's; {MAKE_ONE}"),
    }
}

fn check_curve(curve: Option<ObjectIdentifier>) -> Result<()> {
    let curve = curve.context(
        "it does not say by name of which curve it is; convert it with `openssl ec -param_enc named_curve`",
    )?;
    ensure!(curve == P384, "it is of {}, and the PSP takes P-384; {MAKE_ONE}", curve_name(curve));
    Ok(())
}

fn curve_name(curve: ObjectIdentifier) -> String {
    match curve.to_string().as_str() {
        "1.2.840.10045.3.1.7" => "P-256".into(),
        "1.3.132.0.35" => "P-521".into(),
        "1.3.132.0.33" => "P-224".into(),
        "1.3.132.0.10" => "secp256k1".into(),
        other => format!("the curve {other}"),
    }
}

fn algorithm_name(algorithm: ObjectIdentifier) -> String {
    match algorithm.to_string().as_str() {
        "1.2.840.113549.1.1.1" => "an RSA key".into(),
        "1.3.101.112" => "an Ed25519 key".into(),
        "1.3.101.113" => "an Ed448 key".into(),
        "1.3.101.110" => "an X25519 key".into(),
        other => format!("a key of the algorithm {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p384::pkcs8::der::Encode;
    use p384::pkcs8::{EncodePrivateKey, LineEnding};

    fn secret() -> SecretKey {
        SecretKey::from_slice(&[7; 48]).unwrap()
    }

    fn refused(bytes: &[u8]) -> String {
        format!("{:#}", parse(bytes).expect_err("it should be refused"))
    }

    /// SEC1 as openssl writes it: with the curve's name.
    fn sec1_named(curve: ObjectIdentifier) -> Vec<u8> {
        use sec1::EcParameters;
        let parameters = Some(EcParameters::NamedCurve(curve));
        let key = EcPrivateKey { private_key: &[7; 48], parameters, public_key: None };
        key.to_der().unwrap()
    }

    #[test]
    fn every_encoding_gives_the_same_key() {
        let expected = *SigningKey::from(secret()).verifying_key();
        let pkcs8 = secret().to_pkcs8_der().unwrap();
        let sec1 = sec1_named(P384);
        let pem = pem::encode_string("EC PRIVATE KEY", LineEnding::LF, &sec1).unwrap();
        let with_parameters =
            format!("-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n{pem}");
        let pkcs8_pem = secret().to_pkcs8_pem(LineEnding::LF).unwrap();
        for encoded in
            [pkcs8.as_bytes(), &sec1, pem.as_bytes(), with_parameters.as_bytes(), pkcs8_pem.as_bytes()]
        {
            assert_eq!(*parse(encoded).unwrap().verifying_key(), expected);
        }
    }

    #[test]
    fn what_is_another_key_is_named() {
        let p256 = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
        assert!(refused(&sec1_named(p256)).contains("of P-256"));
        // PKCS #8 of Ed25519 (RFC 8410): version, algorithm, a key of 32 bytes.
        let ed25519 = [
            &[0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20]
                [..],
            &[1; 32],
        ]
        .concat();
        assert!(refused(&ed25519).contains("an Ed25519 key"));
        let public = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        assert!(refused(public.as_bytes()).contains("PUBLIC KEY"));
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(refused(encrypted.as_bytes()).contains("openssl pkey"));
        let old =
            "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END EC PRIVATE KEY-----\n";
        assert!(refused(old.as_bytes()).contains("encrypted"));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let der = sec1_named(P384);
        let pem = pem::encode_string("EC PRIVATE KEY", LineEnding::LF, &der).unwrap();
        for end in (0..der.len()).step_by(7) {
            assert!(parse(&der[..end]).is_err());
        }
        for end in (0..pem.len() - 2).step_by(11) {
            assert!(parse(&pem.as_bytes()[..end]).is_err(), "{end}");
        }
        // Zero is no key, nor is a number beyond the order of the curve.
        for number in [[0; 48], [0xff; 48]] {
            let key = EcPrivateKey {
                private_key: &number,
                parameters: Some(sec1::EcParameters::NamedCurve(P384)),
                public_key: None,
            };
            assert!(parse(&key.to_der().unwrap()).is_err());
        }
    }
}
