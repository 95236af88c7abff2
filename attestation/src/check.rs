//! The checks of a report, each with a name that people and programs see, and what came out of them.

use serde::Serialize;

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Check {
    /// The bytes are a report of a known version.
    Form,
    /// There is a certificate for the key that signed.
    Certificate,
    /// The chain of certificates ends at a root that is believed.
    Root,
    /// Each certificate is signed by the one above it.
    Chain,
    /// No certificate has expired.
    Validity,
    /// The report was signed by the certificate's key.
    Signature,
    /// The certificate is that of the report's chip.
    Chip,
    /// The certificate is for the TCB that the report claims.
    KeyTcb,
    /// What was launched.
    Measurement,
    /// The host may not debug the guest.
    Debug,
    /// No migration agent may move the guest.
    Migration,
    /// Under which policy.
    Policy,
    /// The firmware is new enough.
    Tcb,
    /// Who signed the guest's ID block.
    IdKey,
    /// Who vouches for the ID key.
    AuthorKey,
    /// Who in the guest asked for the report.
    Vmpl,
    /// The platform's memory was checked for aliases (BadRAM).
    AliasCheck,
    /// The report was made for this verifier, now.
    Nonce,
}

impl Check {
    /// All, in their order.
    pub const ALL: [Self; 18] = [
        Self::Form,
        Self::Certificate,
        Self::Root,
        Self::Chain,
        Self::Validity,
        Self::Signature,
        Self::Chip,
        Self::KeyTcb,
        Self::Measurement,
        Self::Debug,
        Self::Migration,
        Self::Policy,
        Self::Tcb,
        Self::IdKey,
        Self::AuthorKey,
        Self::Vmpl,
        Self::AliasCheck,
        Self::Nonce,
    ];

    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Certificate => "certificate",
            Self::Root => "root",
            Self::Chain => "chain",
            Self::Validity => "validity",
            Self::Signature => "signature",
            Self::Chip => "chip",
            Self::KeyTcb => "key-tcb",
            Self::Measurement => "measurement",
            Self::Policy => "policy",
            Self::Debug => "debug",
            Self::Migration => "migration",
            Self::Tcb => "tcb",
            Self::IdKey => "id-key",
            Self::AuthorKey => "author-key",
            Self::Vmpl => "vmpl",
            Self::AliasCheck => "alias-check",
            Self::Nonce => "nonce",
        }
    }

    /// What it means when it fails.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Form => "these bytes are no report, or were damaged; nothing in them can be believed",
            Self::Certificate => {
                "the signature cannot be checked; fetch the VCEK from AMD's key distribution service, or have the host hand it out"
            }
            Self::Root => "whoever signed this is not AMD, so it says nothing about the hardware",
            Self::Chain => "a certificate was altered, or is not from AMD",
            Self::Validity => "AMD no longer, or not yet, vouches for that key",
            Self::Signature => "the report was altered, or signed by another chip or at another TCB",
            Self::Chip => "certificate and report are of different chips",
            Self::KeyTcb => "the report claims a TCB that its key does not stand for",
            Self::Measurement => {
                "something else was launched than what is expected: another program, other arguments, another kernel"
            }
            Self::Policy => "the guest was launched under other rules than those of the image",
            Self::Debug => "the host may read and change all of the guest's memory",
            Self::Migration => "a migration agent may copy the guest's memory to another machine",
            Self::Tcb => "the firmware has holes that are known and mended in later versions",
            Self::IdKey => "the image was signed by somebody else, or by nobody",
            Self::AuthorKey => "the image's ID key is not vouched for by this author",
            Self::Vmpl => {
                "another part of the guest asked for this report than the one that is to be believed"
            }
            Self::AliasCheck => {
                "a memory module can lie about its size and show the host the guest's memory (BadRAM, CVE-2024-21944)"
            }
            Self::Nonce => "it may be an old report, or one made for somebody else",
        }
    }
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As demanded.
    Passed,
    /// Not as demanded: the report is refused.
    Failed,
    /// Nothing was demanded, or an earlier failure left nothing to check.
    Skipped,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check.
    pub check: Check,
    /// How it went.
    pub outcome: Outcome,
    /// What was there, and what was demanded.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own_and_the_same_in_json() {
        for (at, check) in Check::ALL.iter().enumerate() {
            assert_eq!(serde_json::to_value(check).unwrap(), check.name());
            assert!(Check::ALL.iter().skip(at + 1).all(|other| other.name() != check.name()));
        }
    }
}
