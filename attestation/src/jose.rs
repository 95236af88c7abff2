//! JSON Web Encryption to P-256 keys: secrets to a guest (ECDH-ES+A256KW), results to an owner (ECDH-ES), both with A256GCM.
//!
//! Invariant: a key encrypts once. Each sealing makes an ephemeral key and a content key of its own, so no nonce of AES-GCM can
//! come twice.
//!
//! Source: RFC 7516 (JWE), RFC 7518 sections 4.6 (ECDH-ES, Concat KDF), 4.4 (A256KW), 5.3 (A256GCM); RFC 3394.

use std::fmt;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use aes_kw::KwAes256;
use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use kbs_types::{ProtectedHeader, Response};
use p256::elliptic_curve::sec1::ToSec1Point;
use p256::elliptic_curve::zeroize::Zeroizing;
use p256::{PublicKey, SecretKey};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::keys::{generate, random};

/// The algorithm that agrees on a key that wraps.
pub const ECDH_ES_A256KW: &str = "ECDH-ES+A256KW";
/// The algorithm that agrees on the content's key.
pub const ECDH_ES: &str = "ECDH-ES";
/// The content's.
pub const A256GCM: &str = "A256GCM";

/// What is sealed is not for this key, or was altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOurs;

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not encrypted to this key, or altered since")
    }
}

impl std::error::Error for NotOurs {}

/// base64url without padding.
pub fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The reverse.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

/// A public key as a JSON Web Key.
pub fn to_jwk(key: &PublicKey) -> Value {
    let point = key.to_sec1_point(false);
    let (x, y) = point.as_bytes().get(1..).unwrap_or_default().split_at(32);
    json!({"crv": "P-256", "kty": "EC", "x": encode(x), "y": encode(y)})
}

/// The public key in a JSON Web Key; other members do not matter.
pub fn from_jwk(jwk: &Value) -> Option<PublicKey> {
    let member = |name: &str| jwk.get(name).and_then(Value::as_str);
    if member("kty") != Some("EC") || member("crv") != Some("P-256") {
        return None;
    }
    let coordinate = |name: &str| member(name).and_then(decode).filter(|bytes| bytes.len() == 32);
    let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
    PublicKey::from_sec1_bytes(&point).ok()
}

/// Concat KDF for one block of 256 bits, with empty PartyUInfo and PartyVInfo.
pub(crate) fn concat_kdf(secret: &[u8], algorithm: &str) -> Zeroizing<[u8; 32]> {
    let mut hash = Sha256::new();
    hash.update(1_u32.to_be_bytes());
    hash.update(secret);
    hash.update((algorithm.len() as u32).to_be_bytes());
    hash.update(algorithm);
    // Two empty strings, and the length of the key in bits.
    hash.update([0; 8]);
    hash.update(256_u32.to_be_bytes());
    Zeroizing::new(hash.finalize().into())
}

fn agree(secret: &SecretKey, public: &PublicKey, algorithm: &str) -> Zeroizing<[u8; 32]> {
    concat_kdf(secret.diffie_hellman(public).raw_secret_bytes(), algorithm)
}

/// Encrypts to a key. `aad` is bound to what comes out, and travels with it.
///
/// # Errors
/// The system has no randomness.
pub fn seal(plaintext: &[u8], to: &PublicKey, aad: Option<&str>) -> Result<Response> {
    let ephemeral = generate()?;
    let wrapping = agree(&ephemeral, to, ECDH_ES_A256KW);
    let (content_key, iv) = (Zeroizing::new(random::<32>()?), random::<12>()?);
    let mut encrypted_key = vec![0; 40];
    KwAes256::new((&*wrapping).into())
        .wrap_key(content_key.as_slice(), &mut encrypted_key)
        .map_err(|error| anyhow!("cannot wrap the key: {error}"))?;
    let other_fields = Map::from_iter([("epk".to_owned(), to_jwk(&ephemeral.public_key()))]);
    let protected = ProtectedHeader { alg: ECDH_ES_A256KW.into(), enc: A256GCM.into(), other_fields };
    let aad = aad.map(|aad| encode(aad.as_bytes()).into_bytes());
    let bound = bound(&protected.generate_aad().context("cannot encode the header")?, aad.as_deref());
    let payload = Payload { msg: plaintext, aad: &bound };
    let mut ciphertext = Aes256Gcm::new((&*content_key).into())
        .encrypt((&iv).into(), payload)
        .map_err(|_| anyhow!("too much to encrypt at once"))?;
    let tag = ciphertext.split_off(plaintext.len());
    Ok(Response { protected, encrypted_key, aad, iv: iv.to_vec(), ciphertext, tag })
}

/// What AES-GCM authenticates: the header and, if there is one, what was bound (RFC 7516, section 5.1, step 14).
fn bound(protected: &[u8], aad: Option<&[u8]>) -> Vec<u8> {
    let mut bound = protected.to_vec();
    if let Some(aad) = aad {
        bound.push(b'.');
        bound.extend_from_slice(aad);
    }
    bound
}

fn decrypt(
    key: &[u8; 32],
    iv: &[u8],
    ciphertext: &[u8],
    tag: &[u8],
    bound: &[u8],
) -> Result<Vec<u8>, NotOurs> {
    let iv: &[u8; 12] = iv.try_into().map_err(|_| NotOurs)?;
    let sealed = match tag.len() {
        16 => [ciphertext, tag].concat(),
        _ => return Err(NotOurs),
    };
    Aes256Gcm::new(key.into()).decrypt(iv.into(), Payload { msg: &sealed, aad: bound }).map_err(|_| NotOurs)
}

/// Opens what [`seal`] made.
///
/// # Errors
/// It is for another key, or was altered.
pub fn open(sealed: &Response, key: &SecretKey) -> Result<Zeroizing<Vec<u8>>, NotOurs> {
    let header = &sealed.protected;
    if header.alg != ECDH_ES_A256KW || header.enc != A256GCM {
        return Err(NotOurs);
    }
    let ephemeral = header.other_fields.get("epk").and_then(from_jwk).ok_or(NotOurs)?;
    let wrapping = agree(key, &ephemeral, ECDH_ES_A256KW);
    let mut content_key = Zeroizing::new([0; 32]);
    if sealed.encrypted_key.len() != 40 {
        return Err(NotOurs);
    }
    KwAes256::new((&*wrapping).into())
        .unwrap_key(&sealed.encrypted_key, content_key.as_mut_slice())
        .map_err(|_| NotOurs)?;
    let bound = bound(&header.generate_aad().map_err(|_| NotOurs)?, sealed.aad.as_deref());
    decrypt(&content_key, &sealed.iv, &sealed.ciphertext, &sealed.tag, &bound).map(Zeroizing::new)
}

/// A message under a key that both sides agree on directly; as a guest seals its results.
#[derive(Clone, Copy, Debug)]
pub struct Direct<'a> {
    /// The header, as text in base64url.
    pub protected: &'a [u8],
    /// 12 bytes.
    pub iv: &'a [u8],
    /// The message.
    pub ciphertext: &'a [u8],
    /// 16 bytes.
    pub tag: &'a [u8],
}

impl Direct<'_> {
    /// Opens it; `aad` is what has to be bound.
    ///
    /// # Errors
    /// It is for another key, was altered, or something else is bound.
    pub fn open(&self, key: &SecretKey, aad: &str) -> Result<Zeroizing<Vec<u8>>, NotOurs> {
        let text = std::str::from_utf8(self.protected).map_err(|_| NotOurs)?;
        let header: ProtectedHeader =
            decode(text).and_then(|json| serde_json::from_slice(&json).ok()).ok_or(NotOurs)?;
        if header.alg != ECDH_ES || header.enc != A256GCM {
            return Err(NotOurs);
        }
        let ephemeral = header.other_fields.get("epk").and_then(from_jwk).ok_or(NotOurs)?;
        let content_key = agree(key, &ephemeral, A256GCM);
        let bound = bound(self.protected, Some(encode(aad.as_bytes()).as_bytes()));
        decrypt(&content_key, self.iv, self.ciphertext, self.tag, &bound).map(Zeroizing::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 7518, appendix C; the KDF's key there has 128 bits, and the first block of the hash is the same but for that length.
    #[test]
    fn the_agreement_is_that_of_the_rfc() {
        let alice = json!({"kty": "EC", "crv": "P-256",
            "x": "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0", "y": "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps"});
        let bob = decode("VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw").unwrap();
        let bob = SecretKey::from_slice(&bob).unwrap();
        let shared = bob.diffie_hellman(&from_jwk(&alice).unwrap());
        let expected: [u8; 32] = [
            158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156, 251, 49, 110, 163,
            218, 128, 106, 72, 246, 218, 167, 121, 140, 254, 144, 196,
        ];
        assert_eq!(shared.raw_secret_bytes().as_slice(), expected);
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_alone() {
        let (key, other) = (generate().unwrap(), generate().unwrap());
        for (text, aad) in [(&b"secret"[..], Some("for you")), (b"", None)] {
            let sealed = seal(text, &key.public_key(), aad).unwrap();
            assert_eq!(*open(&sealed, &key).unwrap(), text);
            assert_eq!(open(&sealed, &other), Err(NotOurs));
            // Through JSON, as it travels.
            let json = serde_json::to_vec(&sealed).unwrap();
            assert_eq!(*open(&serde_json::from_slice(&json).unwrap(), &key).unwrap(), text);
            let again = seal(text, &key.public_key(), aad).unwrap();
            assert_ne!(again.encrypted_key, sealed.encrypted_key);
        }
    }

    #[test]
    fn what_is_no_point_is_no_key() {
        let mut jwk = to_jwk(&generate().unwrap().public_key());
        assert!(from_jwk(&jwk).is_some());
        jwk["y"] = encode(&[1; 32]).into();
        assert!(from_jwk(&jwk).is_none());
        jwk["y"] = encode(&[1; 31]).into();
        assert!(from_jwk(&jwk).is_none());
        assert!(from_jwk(&json!({"kty": "RSA"})).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_changed_secret_opens(part in 0..6_usize, at in any::<prop::sample::Index>(), bit in 0..8) {
            let key = generate().unwrap();
            let mut sealed = seal(b"a secret", &key.public_key(), Some("bound")).unwrap();
            let flip = |bytes: &mut Vec<u8>| {
                let at = at.index(bytes.len());
                bytes[at] ^= 1_u8 << bit;
            };
            match part {
                0 => flip(&mut sealed.encrypted_key),
                1 => flip(sealed.aad.as_mut().unwrap()),
                2 => flip(&mut sealed.iv),
                3 => flip(&mut sealed.ciphertext),
                4 => flip(&mut sealed.tag),
                _ => {
                    let name = ["x", "y"][at.index(2)];
                    let epk = &mut sealed.protected.other_fields["epk"][name];
                    let mut bytes = decode(epk.as_str().unwrap()).unwrap();
                    flip(&mut bytes);
                    *epk = encode(&bytes).into();
                }
            }
            prop_assert_eq!(open(&sealed, &key), Err(NotOurs));
        }
    }
}
