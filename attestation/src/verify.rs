//! Whether a report is to be believed, and says what it should.
//!
//! All checks run, so that one look shows everything that is wrong; but nothing in a report counts while its signature does not:
//! a [`Verdict`] is accepted only if no check failed, and there is no other way from a report to anything that acts on it.
//!
//! Source: SEV-SNP firmware ABI (56860), "ATTESTATION_REPORT structure"; 57230, chapter "Verification".

use std::time::{SystemTime, UNIX_EPOCH};

use litebox_igvm::policy::{GuestPolicy, PolicyFlags};
use serde::Serialize;
use sev::certs::snp::{Certificate as SevCertificate, Verifiable};
use sev::firmware::host::TcbVersion;
use test_psp::hierarchy::oid;
use test_psp::verify::{certified_tcb, extension};

use crate::certificates::{Bundle, Encoded};
use crate::chain::{self, Root};
use crate::check::{Check, Finding, Outcome};
use crate::expect::Image;
use crate::hex;
use crate::report::Report;
use crate::tcb::{TcbFloor, Words};

#[cfg(test)]
mod tests;

/// Who in the guest shall have asked for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asker {
    /// Whoever.
    #[default]
    Anyone,
    /// The kernel, which alone can ask in the name of VMPL 0.
    Kernel,
    /// The workload, for which the kernel asks in the name of VMPL 1 to 3.
    Workload,
}

/// What is demanded of a report.
#[derive(Clone, Debug, Default)]
pub struct Demands {
    /// What shall have been launched.
    pub image: Option<Image>,
    /// REPORT_DATA.
    pub report_data: Option<[u8; 64]>,
    /// Floor of the reported TCB, of the current one, and of the one at launch.
    pub min_tcb: TcbFloor,
    /// Floor of the TCB that the platform cannot go back from.
    pub min_committed_tcb: TcbFloor,
    /// SHA-384 of the ID key, whatever the image says.
    pub id_key: Option<[u8; 48]>,
    /// SHA-384 of the author key, likewise.
    pub author_key: Option<[u8; 48]>,
    /// Who asked.
    pub asker: Asker,
    /// The emulator's root counts.
    pub allow_emulated: bool,
    /// A debug policy is accepted.
    pub allow_debug: bool,
    /// A migration agent is accepted.
    pub allow_migration: bool,
    /// A platform that did not check for aliases is accepted.
    pub allow_no_alias_check: bool,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Whether the report is to be believed and says what was demanded.
    pub accepted: bool,
    /// Who vouches for it, if anyone.
    pub root: Option<Root>,
    /// Each check, in order.
    pub findings: Vec<Finding>,
    /// What has to be said even so.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// The first check that failed.
    pub fn failure(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.outcome == Outcome::Failed)
    }

    /// Whether this check failed.
    pub fn failed(&self, check: Check) -> bool {
        self.findings.iter().any(|finding| finding.check == check && finding.outcome == Outcome::Failed)
    }
}

/// That a test root vouched.
pub const EMULATED_WARNING: &str =
    "this report is from the SNP emulator, whose keys are public: it proves nothing about any machine";

/// Judges the bytes of a report.
pub fn verify(bytes: &[u8], bundle: &Bundle, demands: &Demands) -> Verdict {
    let mut judge = Judge { findings: Vec::new(), root: None };
    match Report::parse(bytes) {
        Ok(report) => {
            judge.passed(Check::Form, format!("version {}", report.fields().version));
            judge.origin(&report, bundle, demands.allow_emulated);
            judge.contents(&report, demands);
        }
        Err(error) => judge.failed(Check::Form, error.to_string()),
    }
    let missing =
        Check::ALL.into_iter().filter(|check| !judge.findings.iter().any(|found| found.check == *check));
    let skipped = missing.map(|check| Finding {
        check,
        outcome: Outcome::Skipped,
        detail: "not checked: an earlier check failed".into(),
    });
    let mut findings: Vec<_> = skipped.collect();
    findings.extend(judge.findings);
    findings.sort_by_key(|finding| Check::ALL.iter().position(|check| *check == finding.check));
    let accepted = findings.iter().all(|finding| finding.outcome != Outcome::Failed);
    let warnings = (judge.root == Some(Root::Emulator)).then(|| EMULATED_WARNING.to_owned());
    Verdict { accepted, root: judge.root, findings, warnings: warnings.into_iter().collect() }
}

struct Judge {
    findings: Vec<Finding>,
    root: Option<Root>,
}

impl Judge {
    fn say(&mut self, check: Check, outcome: Outcome, detail: impl Into<String>) {
        self.findings.push(Finding { check, outcome, detail: detail.into() });
    }

    fn passed(&mut self, check: Check, detail: impl Into<String>) {
        self.say(check, Outcome::Passed, detail);
    }

    fn failed(&mut self, check: Check, detail: impl Into<String>) {
        self.say(check, Outcome::Failed, detail);
    }

    fn judge(&mut self, check: Check, good: bool, detail: impl Into<String>) {
        self.say(check, if good { Outcome::Passed } else { Outcome::Failed }, detail);
    }

    /// Who signed.
    fn origin(&mut self, report: &Report, bundle: &Bundle, allow_emulated: bool) {
        let key_info = report.fields().key_info;
        if key_info.mask_chip_key() {
            return self.failed(
                Check::Certificate,
                "the host masked the chip's key (MASK_CHIP_KEY): the report is not signed",
            );
        }
        let (kind, candidates) = match key_info.signing_key() {
            0 => ("VCEK", &bundle.vceks),
            1 => ("VLEK", &bundle.vleks),
            other => {
                return self.failed(
                    Check::Certificate,
                    format!("signed by no key that is known (SIGNING_KEY {other})"),
                );
            }
        };
        if bundle.malformed > 0 {
            return self.failed(
                Check::Certificate,
                "what came with the report is no certificate, or no table of them",
            );
        }
        let fits = |one: &&Encoded| is_of_chip(one, report) != Some(false) && is_at_tcb(one, report);
        let Some(key) = candidates.iter().find(fits).or(candidates.first()) else {
            return self.failed(
                Check::Certificate,
                format!("no {kind} certificate for the report; --certs names where there is one"),
            );
        };
        self.passed(Check::Certificate, format!("{kind}: {}", key.subject()));
        match chain::follow(key, bundle) {
            Ok(chain) => {
                self.root = Some(chain.root);
                self.passed(Check::Chain, "each certificate is signed by the one above it");
                let detail = match chain.root {
                    Root::Emulator if !allow_emulated => {
                        "the emulator's test root, which proves nothing; --allow-emulated accepts it, for trying things out"
                    }
                    root => root.name(),
                };
                self.judge(Check::Root, chain.root != Root::Emulator || allow_emulated, detail);
                self.validity(&chain.links);
            }
            Err((check, why)) => self.failed(check, why),
        }
        let signed = SevCertificate::from_der(&key.der)
            .is_ok_and(|certificate| (&certificate, report.fields()).verify().is_ok());
        let detail = if signed { "by the certificate's key" } else { "not by the certificate's key" };
        self.judge(Check::Signature, signed, detail);
        match is_of_chip(key, report) {
            None => self.say(Check::Chip, Outcome::Skipped, "a VLEK is of a provider, not of a chip"),
            Some(same) => {
                let id = hex(report.fields().chip_id.get(..8).unwrap_or_default());
                let detail = if same {
                    format!("{id}…")
                } else {
                    format!("the report is from chip {id}…, the certificate for another")
                };
                self.judge(Check::Chip, same, detail);
            }
        }
        let reported = Words(&report.fields().reported_tcb).to_string();
        self.judge(Check::KeyTcb, is_at_tcb(key, report), format!("the report claims {reported}"));
    }

    fn validity(&mut self, links: &[Encoded]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expired = links.iter().find(|link| {
            let validity = link.certificate.tbs_certificate().validity();
            now < validity.not_before.to_unix_duration() || now > validity.not_after.to_unix_duration()
        });
        match expired {
            None => self.passed(Check::Validity, "all certificates are in their time"),
            Some(link) => {
                self.failed(Check::Validity, format!("{} has expired, or is not valid yet", link.subject()))
            }
        }
    }

    /// What it says.
    fn contents(&mut self, report: &Report, demands: &Demands) {
        let fields = report.fields();
        self.image(report, demands);
        let policy = PolicyFlags::from_bits_retain(report.policy());
        let debug = policy.contains(PolicyFlags::DEBUG);
        let words = if debug { "the policy lets the host debug the guest" } else { "not allowed" };
        self.judge(Check::Debug, !debug || demands.allow_debug, words);
        let agent = policy.contains(PolicyFlags::MIGRATE_MA) || fields.report_id_ma != [0xff; 32];
        let words =
            if agent { "a migration agent is there, or allowed by the policy" } else { "no migration agent" };
        self.judge(Check::Migration, !agent || demands.allow_migration, words);
        self.tcb(report, demands);
        self.keys(report, demands);
        let asker = if fields.vmpl == 0 {
            "the kernel asked (VMPL 0)".into()
        } else {
            format!("the workload asked (VMPL {})", fields.vmpl)
        };
        match demands.asker {
            Asker::Anyone => {
                self.say(Check::Vmpl, Outcome::Skipped, format!("{asker}; nothing was demanded"))
            }
            Asker::Kernel => {
                self.judge(Check::Vmpl, fields.vmpl == 0, format!("{asker}; the kernel's word is demanded"))
            }
            Asker::Workload => {
                self.judge(
                    Check::Vmpl,
                    (1..=3).contains(&fields.vmpl),
                    format!("{asker}; the workload's word is demanded"),
                );
            }
        }
        let words = match (fields.version, fields.plat_info.alias_check_complete()) {
            (2, _) => "reports of version 2 cannot say whether memory was checked for aliases",
            (_, true) => "memory was checked for aliases",
            (_, false) => "memory was not checked for aliases",
        };
        let checked = fields.version >= 3 && fields.plat_info.alias_check_complete();
        self.judge(Check::AliasCheck, checked || demands.allow_no_alias_check, words);
        match demands.report_data {
            None => self.say(Check::Nonce, Outcome::Skipped, "no nonce was given: this may be an old report"),
            Some(expected) => {
                let same = fields.report_data == expected;
                let words = if same {
                    "REPORT_DATA is what the nonce makes it"
                } else {
                    "REPORT_DATA is of another nonce, or of none"
                };
                self.judge(Check::Nonce, same, words);
            }
        }
    }

    fn image(&mut self, report: &Report, demands: &Demands) {
        let measurement = hex(&report.fields().measurement);
        let policy = GuestPolicy(report.policy());
        let Some(image) = &demands.image else {
            self.say(Check::Measurement, Outcome::Skipped, format!("{measurement}; nothing was expected"));
            return self.say(Check::Policy, Outcome::Skipped, format!("{policy}; nothing was expected"));
        };
        match image.hosts_with(&report.fields().measurement).as_slice() {
            [] => {
                let expected: Vec<_> =
                    image.digests.iter().map(|(host, digest)| format!("{} ({host})", hex(digest))).collect();
                self.failed(Check::Measurement, format!("{measurement}; expected {}", expected.join(" or ")));
            }
            hosts => self.passed(
                Check::Measurement,
                format!("{measurement}, {} under {}", image.name, hosts.join(", ")),
            ),
        }
        let same = report.policy() == image.policy;
        let words = if same {
            policy.to_string()
        } else {
            format!("{policy}; the image has {}", GuestPolicy(image.policy))
        };
        self.judge(Check::Policy, same, words);
    }

    fn tcb(&mut self, report: &Report, demands: &Demands) {
        let fields = report.fields();
        if demands.min_tcb.is_none() && demands.min_committed_tcb.is_none() {
            let words = format!("{}; no floor was demanded", Words(&fields.reported_tcb));
            return self.say(Check::Tcb, Outcome::Skipped, words);
        }
        let levels: [(&str, &TcbVersion, &TcbFloor); 4] = [
            ("reported", &fields.reported_tcb, &demands.min_tcb),
            ("current", &fields.current_tcb, &demands.min_tcb),
            ("launch", &fields.launch_tcb, &demands.min_tcb),
            ("committed", &fields.committed_tcb, &demands.min_committed_tcb),
        ];
        let lacks: Vec<_> = levels
            .iter()
            .flat_map(|(name, tcb, floor)| {
                floor.lacks(tcb).into_iter().map(move |lack| format!("{name} TCB: {lack}"))
            })
            .collect();
        let words = if lacks.is_empty() { Words(&fields.reported_tcb).to_string() } else { lacks.join("; ") };
        self.judge(Check::Tcb, lacks.is_empty(), words);
    }

    fn keys(&mut self, report: &Report, demands: &Demands) {
        let fields = report.fields();
        let of_image = |key: fn(&Image) -> Option<[u8; 48]>| demands.image.as_ref().and_then(key);
        let keys = [
            (Check::IdKey, fields.id_key_digest, demands.id_key.or_else(|| of_image(|image| image.id_key))),
            (
                Check::AuthorKey,
                fields.author_key_digest,
                demands.author_key.or_else(|| of_image(|image| image.author_key)),
            ),
        ];
        for (check, found, expected) in keys {
            let words = if found == [0; 48] { "none".to_owned() } else { hex(&found) };
            match expected {
                None => self.say(check, Outcome::Skipped, format!("{words}; nothing was expected")),
                Some(expected) if expected == found => self.passed(check, words),
                Some(expected) => self.failed(check, format!("{words}; expected {}", hex(&expected))),
            }
        }
    }
}

/// Whether a VCEK is of the report's chip; nothing for a VLEK. Turin's identities have 8 bytes.
fn is_of_chip(key: &Encoded, report: &Report) -> Option<bool> {
    let id = extension(&key.certificate, oid::HARDWARE_ID)?;
    let (same, rest) = report.fields().chip_id.split_at_checked(id.len())?;
    Some(matches!(id.len(), 8 | 64) && same == id && rest.iter().all(|&byte| byte == 0))
}

/// Whether a key is derived from the TCB that the report claims.
fn is_at_tcb(key: &Encoded, report: &Report) -> bool {
    let TcbVersion { fmc, bootloader, tee, snp, microcode } = report.fields().reported_tcb;
    certified_tcb(&key.certificate)
        .is_some_and(|tcb| tcb == test_psp::chip::TcbVersion { fmc, bootloader, tee, snp, microcode })
}
