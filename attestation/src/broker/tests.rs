use std::collections::BTreeMap;
use std::time::Duration;

use litebox_core::manifest::Root;
use p256::SecretKey;
use p256::elliptic_curve::zeroize::Zeroizing;
use proptest::prelude::*;
use test_psp::chip::Chip;
use test_psp::report::{Report, ReportVersion};

use super::*;
use crate::certificates::Bundle;
use crate::expect::Image;
use crate::testing::{MEASUREMENT, POLICY, certificate_table, milan, signed, unsigned};
use crate::verify::Asker;

const SECRET: &[u8] = b"rows of a table";

fn manifest() -> Manifest {
    Manifest {
        root: Some(Root { verity: [4; 32], blocks: 10 }),
        exec: b"/join".to_vec(),
        args: vec![b"join".to_vec()],
        cwd: b"/".to_vec(),
        ..Manifest::default()
    }
}

fn digest(manifest: &Manifest) -> [u8; 32] {
    Sha256::digest(manifest.encode().unwrap()).into()
}

fn image(name: &str, measurement: [u8; 48], manifest: [u8; 32]) -> Image {
    Image {
        name: name.into(),
        digests: [("qemu".to_owned(), measurement)].into(),
        policy: POLICY,
        id_key: None,
        author_key: None,
        manifest: Some(manifest),
        workload: Some([4; 32]),
    }
}

fn policy() -> Policy {
    let secrets =
        ["acme/table/a", "acme/table/b"].map(|name| (name.to_owned(), Zeroizing::new(SECRET.to_vec())));
    Policy {
        images: vec![
            Admitted {
                image: image("join", MEASUREMENT, digest(&manifest())),
                secrets: ["acme/table/a".to_owned()].into(),
            },
            Admitted { image: image("other", [6; 48], [7; 32]), secrets: ["acme/table/b".to_owned()].into() },
        ],
        secrets: BTreeMap::from(secrets),
        certificates: Bundle::default(),
        lifetime: Duration::from_secs(300),
        demands: Demands {
            allow_emulated: true,
            min_tcb: "snp=20".parse().unwrap(),
            asker: Asker::Kernel,
            ..Demands::default()
        },
    }
}

/// A guest with its session, about to answer.
struct Dialogue {
    session: String,
    key: SecretKey,
    release: KeyRelease,
    chip: Chip,
    manifest: Manifest,
}

impl Dialogue {
    fn new(broker: &Broker) -> Self {
        let key = keys::generate().unwrap();
        let (session, challenge) =
            broker.auth(&serde_json::to_vec(&request(&key.public_key())).unwrap()).unwrap();
        let manifest = manifest();
        let release =
            KeyRelease { nonce: challenge.nonce, key: key.public_key(), manifest: digest(&manifest) };
        Self { session, key, release, chip: milan(ReportVersion::V3), manifest }
    }

    /// The report of an honest machine, changed before it is signed.
    fn report(&self, change: impl FnOnce(&mut Report)) -> Vec<u8> {
        let mut report = unsigned(&self.chip, report_data(canonical(&self.release.to_json()).as_bytes()));
        change(&mut report);
        signed(&self.chip, report)
    }

    fn message(&self, report: &[u8]) -> Value {
        let evidence = Evidence {
            report: BASE64_STANDARD.encode(report),
            certificates: BASE64_STANDARD.encode(certificate_table(&self.chip)),
        };
        json!({
            "init-data": {"format": INIT_DATA_FORMAT, "body": BASE64_STANDARD.encode(self.manifest.encode().unwrap())},
            "runtime-data": self.release.to_json(),
            "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
        })
    }

    fn answer(&self, broker: &Broker, change: impl FnOnce(&mut Report)) -> Result<Admission, Reason> {
        self.send(broker, &self.message(&self.report(change)))
    }

    fn send(&self, broker: &Broker, message: &Value) -> Result<Admission, Reason> {
        let refused = |refusal: Refusal| refusal.reason;
        let admission = broker.attest(&self.session, message.to_string().as_bytes()).map_err(refused);
        // Whoever was refused gets nothing, whatever it asks for.
        if admission.is_err() {
            for name in ["acme/table/a", "acme/table/b"] {
                assert_eq!(broker.resource(&self.session, name).unwrap_err().reason, Reason::Session);
            }
        }
        admission
    }
}

#[test]
fn a_guest_that_passes_gets_its_secret_and_no_other() {
    let broker = Broker::new(policy());
    let guest = Dialogue::new(&broker);
    assert_eq!(broker.resource(&guest.session, "acme/table/a").unwrap_err().reason, Reason::Session);
    let admission = guest.answer(&broker, |_| ()).unwrap();
    assert_eq!((admission.image.as_str(), admission.root), ("join", Some(crate::chain::Root::Emulator)));
    assert_eq!(admission.warnings.len(), 1);
    let sealed = broker.resource(&guest.session, "acme/table/a").unwrap();
    assert_eq!(*jose::open(&sealed, &guest.key).unwrap(), SECRET);
    let aad = format!("litebox:{}:acme/table/a", guest.release.nonce);
    assert_eq!(sealed.aad.as_deref(), Some(jose::encode(aad.as_bytes()).as_bytes()));
    for name in ["acme/table/b", "acme/table/c", "", "../acme/table/a"] {
        assert_eq!(broker.resource(&guest.session, name).unwrap_err().reason, Reason::NotForThisGuest);
    }
}

/// Each refusal that the issue of a key can end in has its own name.
#[test]
fn each_refusal_has_a_reason_of_its_own() {
    let broker = Broker::new(policy());
    let refused = |change: fn(&mut Report)| Dialogue::new(&broker).answer(&broker, change).unwrap_err();
    assert_eq!(refused(|report| report.measurement[0] ^= 1), Reason::Report(Check::Measurement));
    assert_eq!(refused(|report| report.policy = 0xb_0000.into()), Reason::Report(Check::Debug));
    assert_eq!(refused(|report| report.policy = 0x7_0000.into()), Reason::Report(Check::Migration));
    assert_eq!(refused(|report| report.policy = 0x2_0000.into()), Reason::Report(Check::Policy));
    assert_eq!(refused(|report| report.launch_tcb[6] = 19), Reason::Report(Check::Tcb));
    assert_eq!(refused(|report| report.vmpl = 1.into()), Reason::Report(Check::Vmpl));
    assert_eq!(refused(|report| report.platform_info = 0.into()), Reason::Report(Check::AliasCheck));
    assert_eq!(refused(|report| report.report_data[0] ^= 1), Reason::OtherKey);
    let strict =
        Broker::new(Policy { demands: Demands { allow_emulated: false, ..policy().demands }, ..policy() });
    assert_eq!(Dialogue::new(&strict).answer(&strict, |_| ()).unwrap_err(), Reason::Report(Check::Root));
}

#[test]
fn a_workload_or_a_manifest_that_was_exchanged_is_named() {
    let broker = Broker::new(policy());
    let changed = |change: fn(&mut Manifest)| {
        let mut guest = Dialogue::new(&broker);
        change(&mut guest.manifest);
        guest.release.manifest = digest(&guest.manifest);
        // What was launched holds that manifest, so it is measured differently too.
        guest.answer(&broker, |report| report.measurement = [8; 48]).unwrap_err()
    };
    assert_eq!(
        changed(|manifest| manifest.root = Some(Root { verity: [5; 32], blocks: 10 })),
        Reason::OtherWorkload
    );
    assert_eq!(changed(|manifest| manifest.args[0][0] ^= 1), Reason::OtherManifest);
    // The manifest's digest alone does not help: the measurement is that of another image.
    let mut guest = Dialogue::new(&broker);
    guest.release.manifest = [7; 32];
    assert_eq!(guest.answer(&broker, |_| ()).unwrap_err(), Reason::Report(Check::Measurement));
    // A copy of the manifest that is not the one that is bound explains nothing, and changes nothing.
    let mut guest = Dialogue::new(&broker);
    guest.release.manifest = [1; 32];
    assert_eq!(guest.answer(&broker, |_| ()).unwrap_err(), Reason::OtherManifest);
}

#[test]
fn a_challenge_is_answered_once() {
    let broker = Broker::new(policy());
    let first = Dialogue::new(&broker);
    let message = first.message(&first.report(|_| ()));
    first.send(&broker, &message).unwrap();
    assert_eq!(
        broker.attest(&first.session, message.to_string().as_bytes()).unwrap_err().reason,
        Reason::ReplayedNonce
    );
    // In another session too; and an answer to a challenge that nobody has answered yet is not a replay.
    let second = Dialogue::new(&broker);
    assert_eq!(second.send(&broker, &message), Err(Reason::ReplayedNonce));
    let (third, fourth) = (Dialogue::new(&broker), Dialogue::new(&broker));
    assert_eq!(third.send(&broker, &fourth.message(&fourth.report(|_| ()))), Err(Reason::OtherNonce));
    // A refused answer uses the challenge up.
    assert_eq!(third.answer(&broker, |_| ()), Err(Reason::ReplayedNonce));
    assert!(fourth.answer(&broker, |_| ()).is_ok());
}

#[test]
fn evidence_is_for_its_own_key_alone() {
    let broker = Broker::new(policy());
    let thief = keys::generate().unwrap();
    // The relay puts its own key in the place of the guest's.
    let guest = Dialogue::new(&broker);
    let mut message = guest.message(&guest.report(|_| ()));
    message["runtime-data"] = KeyRelease { key: thief.public_key(), ..guest.release.clone() }.to_json();
    assert_eq!(guest.send(&broker, &message), Err(Reason::OtherKey));
    // The same, in a session that it opened itself for its own key.
    let mut guest = Dialogue::new(&broker);
    let (session, challenge) =
        broker.auth(&serde_json::to_vec(&request(&thief.public_key())).unwrap()).unwrap();
    (guest.session, guest.release.nonce) = (session, challenge.nonce);
    assert_eq!(guest.answer(&broker, |_| ()), Err(Reason::OtherKey));
}

#[test]
fn what_is_no_message_is_refused() {
    let broker = Broker::new(policy());
    let reason = |body: &[u8]| broker.auth(body).map(drop).unwrap_err().reason;
    for body in [
        &b""[..],
        b"{}",
        b"[",
        b"null",
        b"\xff\xfe",
        br#"{"version":"0.1.0","tee":"moon","extra-params":""}"#,
    ] {
        assert_eq!(reason(body), Reason::Malformed);
    }
    assert_eq!(reason(br#"{"version":"1.0.0","tee":"snp","extra-params":""}"#), Reason::Version);
    assert_eq!(reason(br#"{"version":"0.1.1","tee":"tdx","extra-params":""}"#), Reason::Tee);
    // Another client of the protocol, which does not say its key before it has to.
    assert!(broker.auth(br#"{"version":"0.1.1","tee":"snp","extra-params":""}"#).is_ok());
    assert_eq!(broker.attest("no such", b"{}").unwrap_err().reason, Reason::Session);
    let guest = Dialogue::new(&broker);
    assert_eq!(broker.attest(&guest.session, b"{}").unwrap_err().reason, Reason::Malformed);
}

/// Every place of a message that says something.
fn leaves(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                path.push(name.clone());
                leaves(value, path, found);
                path.pop();
            }
        }
        _ => found.push(path.clone()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever one bit of the evidence message is changed, nothing is released but to the guest's own key, and that only where the
    /// bit says nothing: in the host's copy of the manifest, or in the additional evidence that there is none of.
    #[test]
    fn no_changed_message_is_answered_with_a_secret(at in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let broker = Broker::new(policy());
        let guest = Dialogue::new(&broker);
        let mut message = guest.message(&guest.report(|_| ()));
        let mut places = Vec::new();
        leaves(&message, &mut Vec::new(), &mut places);
        places.retain(|path| path[0] != "init-data" && path.last().is_none_or(|name| name != "additional_evidence"));
        let place = &places[at.index(places.len())];
        let leaf = place.iter().fold(&mut message, |value, name| &mut value[name.as_str()]);
        let mut text = leaf.as_str().expect("all that is said is text").as_bytes().to_vec();
        let byte = byte.index(text.len());
        text[byte] ^= 1_u8 << bit;
        match String::from_utf8(text) {
            Ok(changed) => *leaf = changed.into(),
            // No JSON holds it.
            Err(_) => return Ok(()),
        }
        match guest.send(&broker, &message) {
            Err(_) => {}
            Ok(_) => prop_assert!(false, "{place:?} byte {byte} bit {bit} was accepted"),
        }
    }

    #[test]
    fn any_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..300), name in ".{0,40}") {
        let broker = Broker::new(policy());
        prop_assert!(broker.auth(&body).is_err());
        let guest = Dialogue::new(&broker);
        prop_assert!(broker.attest(&guest.session, &body).is_err());
        prop_assert!(broker.resource(&guest.session, &name).is_err());
    }
}
