//! Why a broker releases nothing, with a name for each reason.

use std::fmt;

use kbs_types::ErrorInformation;

use crate::check::{Check, Finding};

/// A reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The message is none of the protocol's.
    Malformed,
    /// A version of the protocol that is not spoken here.
    Version,
    /// Another kind of confidential machine.
    Tee,
    /// There is no such session, or it is over.
    Session,
    /// The challenge was answered before.
    ReplayedNonce,
    /// The answer is to another challenge.
    OtherNonce,
    /// The evidence is for another key than the one that the session is for, or than the one that it comes with.
    OtherKey,
    /// The guest runs another workload image than the one that was measured for.
    OtherWorkload,
    /// The guest obeys another manifest.
    OtherManifest,
    /// A check of the report failed.
    Report(Check),
    /// The guest is what it should be, and that secret is not for it.
    NotForThisGuest,
    /// The broker cannot do what it should.
    Broken,
}

impl Reason {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::Tee => "tee",
            Self::Session => "session",
            Self::ReplayedNonce => "replayed-nonce",
            Self::OtherNonce => "other-nonce",
            Self::OtherKey => "other-key",
            Self::OtherWorkload => "other-workload",
            Self::OtherManifest => "other-manifest",
            Self::Report(check) => check.name(),
            Self::NotForThisGuest => "not-for-this-guest",
            Self::Broken => "broken",
        }
    }

    /// The status of the HTTP response.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Malformed | Self::Version | Self::Tee => 400,
            Self::NotForThisGuest => 403,
            Self::Broken => 500,
            _ => 401,
        }
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What was there.
    pub detail: String,
}

impl Refusal {
    /// For a reason.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// As the protocol has it.
    pub fn to_message(&self) -> ErrorInformation {
        ErrorInformation {
            error_type: format!("{ERROR_TYPE}{}", self.reason.name()),
            detail: self.detail.clone(),
        }
    }
}

/// What the `type` of our errors begins with.
pub const ERROR_TYPE: &str = "urn:litebox:refused:";

impl From<&Finding> for Refusal {
    fn from(finding: &Finding) -> Self {
        Self::new(Reason::Report(finding.check), format!("{}: {}", finding.detail, finding.check.meaning()))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.name(), self.detail)
    }
}

impl std::error::Error for Refusal {}
