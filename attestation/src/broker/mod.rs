//! The key broker: challenges, judges the answer, and encrypts secrets to the guest that gave it.
//!
//! The protocol is that of the Confidential Containers key broker (message types: `kbs-types`): request, challenge, attestation,
//! and then a response for each secret. Between broker and guest there is a host that may do anything to the messages. Invariants:
//! - a secret leaves encrypted to the key that REPORT_DATA binds to this session's nonce and to a manifest that is expected;
//! - a challenge is answered once, and a failed answer uses it up;
//! - what a stranger sends costs a bounded amount of memory.
//!
//! This module knows no HTTP: [`crate::http`] carries it.

pub mod policy;
mod refusal;
mod session;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kbs_types::{Attestation, Challenge, Request, Response, Tee};
use litebox_core::manifest::Manifest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::chain::Root;
use crate::check::Check;
use crate::runtime_data::{KeyRelease, canonical, report_data};
use crate::verify::{Demands, verify};
use crate::{hex, jose, keys};
use policy::{Admitted, Policy};
pub use refusal::{ERROR_TYPE, Reason, Refusal};
use session::{Guest, Sessions, State};

/// The version of the protocol, as `Request` has it; newer ones with the same first number are understood too.
pub const PROTOCOL_VERSION: &str = "0.4.0";
/// How a manifest is called in `InitData`.
pub const INIT_DATA_FORMAT: &str = "litebox-manifest";

/// `primary_evidence` of an attestation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The report, in base64.
    pub report: String,
    /// The host's certificate table, in base64.
    pub certificates: String,
}

/// What the guest that passed is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Admission {
    /// The image.
    pub image: String,
    /// MEASUREMENT.
    pub measurement: String,
    /// Who vouches.
    pub root: Option<Root>,
    /// What it may ask for.
    pub secrets: Vec<String>,
    /// What has to be said even so.
    pub warnings: Vec<String>,
}

/// A broker.
pub struct Broker {
    policy: Policy,
    sessions: Mutex<Sessions>,
}

impl Broker {
    /// With a policy.
    pub fn new(policy: Policy) -> Self {
        let sessions = Mutex::new(Sessions::new(policy.lifetime));
        Self { policy, sessions }
    }

    /// What is released, and to whom.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        // Each change of a session is one assignment: there is no half of one to be seen.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session: its name, and a challenge.
    ///
    /// # Errors
    /// The message is none, or of another protocol.
    pub fn auth(&self, body: &[u8]) -> Result<(String, Challenge), Refusal> {
        let request: Request = parse(body)?;
        if !request.version.starts_with("0.") {
            return Err(Refusal::new(
                Reason::Version,
                format!("version {:?}; spoken here is {PROTOCOL_VERSION}", request.version),
            ));
        }
        if request.tee != Tee::Snp {
            return Err(Refusal::new(Reason::Tee, format!("{}; only SEV-SNP is judged here", request.tee)));
        }
        let key = request.extra_params.get("tee-pubkey").and_then(jose::from_jwk);
        let random = |error: anyhow::Error| Refusal::new(Reason::Broken, error.to_string());
        let name = hex(&keys::random::<16>().map_err(random)?);
        let nonce = BASE64_STANDARD.encode(keys::random::<32>().map_err(random)?);
        let state = State::Challenged { nonce: nonce.clone(), key };
        self.sessions().open(name.clone(), state, Instant::now());
        Ok((name, Challenge { nonce, extra_params: Value::String(String::new()) }))
    }

    /// Judges the answer to a challenge.
    ///
    /// # Errors
    /// Anything is not as it should be; the challenge is used up then.
    pub fn attest(&self, session: &str, body: &[u8]) -> Result<Admission, Refusal> {
        let now = Instant::now();
        let State::Challenged { nonce, key } = self.sessions().take(session, now)? else {
            return Err(Refusal::new(Reason::ReplayedNonce, "this session's challenge was answered before"));
        };
        let message: Value = parse(body)?;
        let attestation: Attestation = parse(body)?;
        let runtime = message.get("runtime-data").unwrap_or(&Value::Null);
        let release = KeyRelease::parse(runtime).ok_or_else(|| {
            Refusal::new(Reason::Malformed, "runtime-data has to be `litebox-manifest`, `nonce`, and `tee-pubkey` on P-256 with ECDH-ES+A256KW")
        })?;
        if release.nonce != nonce {
            let (reason, why) = if self.sessions().was_answered(&release.nonce) {
                (Reason::ReplayedNonce, "the answer is to a challenge that was answered before")
            } else {
                (Reason::OtherNonce, "the answer is to another challenge than this session's")
            };
            return Err(Refusal::new(reason, why));
        }
        if key.is_some_and(|key| key != release.key) {
            return Err(Refusal::new(
                Reason::OtherKey,
                "the session was opened for another key than the one in the evidence",
            ));
        }
        let (admitted, admission) = self.judge(&attestation, &release, runtime)?;
        let guest = Guest { key: release.key, nonce, secrets: admitted.secrets.clone() };
        self.sessions().admit(session, guest);
        Ok(admission)
    }

    fn judge(
        &self,
        attestation: &Attestation,
        release: &KeyRelease,
        runtime: &Value,
    ) -> Result<(&Admitted, Admission), Refusal> {
        let evidence: Evidence = serde_json::from_value(attestation.tee_evidence.primary_evidence.clone())
            .map_err(|error| Refusal::new(Reason::Malformed, format!("primary_evidence: {error}")))?;
        let bytes = |what: &str, text: &str| {
            BASE64_STANDARD
                .decode(text)
                .map_err(|_| Refusal::new(Reason::Malformed, format!("{what} is not in base64")))
        };
        let report = bytes("report", &evidence.report)?;
        let mut bundle = self.policy.certificates.clone();
        bundle.add_table(&bytes("certificates", &evidence.certificates)?);
        // Whose word it is comes first: what a report says counts only then.
        let bound = report_data(canonical(runtime).as_bytes());
        let general = Demands { report_data: Some(bound), ..self.policy.demands.clone() };
        let verdict = verify(&report, &bundle, &general);
        if let Some(failure) = verdict.failure() {
            return Err(match failure.check {
                Check::Nonce => Refusal::new(
                    Reason::OtherKey,
                    "REPORT_DATA does not bind this key, nonce and manifest: the report was made for another key, or the message was altered",
                ),
                _ => failure.into(),
            });
        }
        let same = |admitted: &&Admitted| admitted.image.manifest == Some(release.manifest);
        let Some(admitted) = self.policy.images.iter().find(same) else {
            return Err(self.stranger(attestation, release));
        };
        let demands = Demands { image: Some(admitted.image.clone()), ..general };
        let verdict = verify(&report, &bundle, &demands);
        if let Some(failure) = verdict.failure() {
            return Err(failure.into());
        }
        let measurement =
            crate::report::Report::parse(&report).map(|report| hex(&report.fields().measurement));
        let admission = Admission {
            image: admitted.image.name.clone(),
            measurement: measurement.unwrap_or_default(),
            root: verdict.root,
            secrets: admitted.secrets.iter().cloned().collect(),
            warnings: verdict.warnings,
        };
        Ok((admitted, admission))
    }

    /// What is different about a manifest that is none of those expected. What is refused here is refused in any case: the host's copy
    /// of the manifest only helps to say why.
    fn stranger(&self, attestation: &Attestation, release: &KeyRelease) -> Refusal {
        let manifest =
            attestation.init_data.as_ref().filter(|data| data.format == INIT_DATA_FORMAT).and_then(|data| {
                let encoded = BASE64_STANDARD.decode(&data.body).ok()?;
                let is_it = <[u8; 32]>::from(Sha256::digest(&encoded)) == release.manifest;
                Manifest::parse(&encoded).ok().filter(|_| is_it)
            });
        let root = manifest.as_ref().and_then(|manifest| manifest.root).map(|root| root.verity);
        let words = hex(&release.manifest);
        match root {
            Some(root) if self.policy.images.iter().all(|admitted| admitted.image.workload != Some(root)) => {
                Refusal::new(
                    Reason::OtherWorkload,
                    format!(
                        "the guest runs the workload image with root hash {}, which is none of those expected",
                        hex(&root)
                    ),
                )
            }
            _ => Refusal::new(
                Reason::OtherManifest,
                format!(
                    "the guest obeys manifest {words}, which is none of those expected: other arguments, environment, outputs, secrets or owner"
                ),
            ),
        }
    }

    /// A secret, encrypted to the session's guest.
    ///
    /// # Errors
    /// The session has no guest that passed, or the secret is not for it.
    pub fn resource(&self, session: &str, name: &str) -> Result<Response, Refusal> {
        let guest = self.sessions().guest(session, Instant::now())?;
        let secret = self.policy.secrets.get(name).filter(|_| guest.secrets.contains(name));
        let Some(secret) = secret else {
            return Err(Refusal::new(
                Reason::NotForThisGuest,
                format!("{name:?} is no secret of this guest's"),
            ));
        };
        let aad = format!("litebox:{}:{name}", guest.nonce);
        jose::seal(secret, &guest.key, Some(&aad))
            .map_err(|error| Refusal::new(Reason::Broken, error.to_string()))
    }
}

fn parse<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::new(Reason::Malformed, error.to_string()))
}

/// The request that opens a session for a key.
pub fn request(key: &p256::PublicKey) -> Request {
    Request {
        version: PROTOCOL_VERSION.into(),
        tee: Tee::Snp,
        extra_params: json!({"tee-pubkey": jose::to_jwk(key)}),
    }
}
