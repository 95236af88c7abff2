//! What a guest binds into REPORT_DATA: the broker's nonce, the guest's key, and which manifest it obeys.
//!
//! REPORT_DATA is SHA-384 of the JSON text, sixteen zero bytes behind it. The text is canonical (no spaces, members in order), so
//! a side that has the members has the text; it is hashed as it came all the same.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use p256::PublicKey;
use serde_json::{Value, json};
use sha2::{Digest, Sha384};

use crate::jose;
use crate::unhex;

/// REPORT_DATA of runtime data.
pub fn report_data(runtime_data: &[u8]) -> [u8; 64] {
    let mut data = [0; 64];
    data.iter_mut().zip(Sha384::digest(runtime_data)).for_each(|(to, from)| *to = from);
    data
}

/// REPORT_DATA of a report that the kernel asked for with this nonce.
pub fn of_nonce(nonce: &[u8]) -> [u8; 64] {
    report_data(json!({"nonce": BASE64_STANDARD.encode(nonce)}).to_string().as_bytes())
}

/// The canonical text of a JSON value: `serde_json` keeps members in order.
pub fn canonical(value: &Value) -> String {
    value.to_string()
}

/// Runtime data of a key release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRelease {
    /// What the broker challenged with.
    pub nonce: String,
    /// The guest's key.
    pub key: PublicKey,
    /// SHA-256 of the manifest, as the kernel read it.
    pub manifest: [u8; 32],
}

impl KeyRelease {
    /// Reads it. Members that nobody knows make it something else: they were hashed too.
    pub fn parse(value: &Value) -> Option<Self> {
        let members = value.as_object().filter(|members| members.len() == 3)?;
        let key = members.get("tee-pubkey")?;
        if key.get("alg").and_then(Value::as_str) != Some(jose::ECDH_ES_A256KW) {
            return None;
        }
        Some(Self {
            nonce: members.get("nonce")?.as_str()?.to_owned(),
            key: jose::from_jwk(key)?,
            manifest: unhex(members.get("litebox-manifest")?.as_str()?)?,
        })
    }

    /// As JSON, of which [`canonical`] is what is hashed.
    pub fn to_json(&self) -> Value {
        let mut key = jose::to_jwk(&self.key);
        key["alg"] = jose::ECDH_ES_A256KW.into();
        json!({"litebox-manifest": crate::hex(&self.manifest), "nonce": self.nonce, "tee-pubkey": key})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_in_order_and_comes_back() {
        let key = crate::keys::generate().unwrap().public_key();
        let release = KeyRelease { nonce: "bm9uY2U=".into(), key, manifest: [0xab; 32] };
        let text = canonical(&release.to_json());
        let start = format!(
            "{{\"litebox-manifest\":\"{}\",\"nonce\":\"bm9uY2U=\",\"tee-pubkey\":{{\"alg\":\"ECDH-ES+A256KW\",\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"",
            "ab".repeat(32)
        );
        assert!(text.starts_with(&start), "{text}");
        assert_eq!(KeyRelease::parse(&serde_json::from_str(&text).unwrap()), Some(release.clone()));
        let mut more = release.to_json();
        more["more"] = 1.into();
        assert_eq!(KeyRelease::parse(&more), None);
    }

    #[test]
    fn a_nonce_for_a_report_is_hashed_with_its_name() {
        assert_eq!(of_nonce(b"\0\x01"), report_data(br#"{"nonce":"AAE="}"#));
        assert_eq!(of_nonce(b"")[48..], [0; 16]);
    }
}
