//! The PSP against a guest driver that shares no code with it: messages made byte by byte as Linux's `sev-guest` driver makes and
//! checks them (`enc_payload`, `verify_and_dec_payload`), reports read and verified by the `sev` crate.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use proptest::prelude::*;
use sev::certs::snp::{Certificate, Verifiable};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;
use test_psp::certificates::{self, VCEK};
use test_psp::chip::Chip;
use test_psp::guest::{Finish, Guest, Identity, KeyDigest};
use test_psp::report::ReportVersion;
use test_psp::status::Status;
use test_psp::tsc_info::TscInfo;
use test_psp::verify::{verify_report, verify_test_chain};

const MEASUREMENT: [u8; 48] = [0x5a; 48];
const POLICY: u64 = 0x30000;

fn launch_with(chip: Chip, identity: Option<Identity>) -> Guest {
    let tsc = TscInfo { scale: 1 << 32, offset: 77, factor: 200 };
    let mut guest = Guest::start(chip, POLICY, &[3; 32], Some(tsc)).unwrap();
    guest.finish(Finish { measurement: MEASUREMENT, host_data: [8; 32], identity }).unwrap();
    guest
}

fn launch(version: ReportVersion) -> Guest {
    launch_with(Chip::test(version), None)
}

/// What the driver knows: a key out of the secrets page, and how many messages went by.
struct Driver {
    key: [u8; 32],
    vmpck: u8,
    sequence: u64,
}

impl Driver {
    fn new(guest: &Guest, vmpck: u8) -> Self {
        let at = 0x20 + 32 * usize::from(vmpck);
        Self { key: guest.secrets_page()[at..at + 32].try_into().unwrap(), vmpck, sequence: 0 }
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(&Key::<Aes256Gcm>::from(self.key))
    }

    fn encrypt(&self, kind: u8, version: u8, payload: &[u8]) -> [u8; 4096] {
        let mut page = [0; 4096];
        let sequence = self.sequence + 1;
        page[0x20..0x28].copy_from_slice(&sequence.to_le_bytes());
        page[0x30] = 1;
        page[0x31] = 1;
        page[0x32..0x34].copy_from_slice(&96_u16.to_le_bytes());
        page[0x34] = kind;
        page[0x35] = version;
        page[0x36..0x38].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_le_bytes());
        page[0x3c] = self.vmpck;
        let mut iv = [0; 12];
        iv[..8].copy_from_slice(&sequence.to_le_bytes());
        let aad = page[0x30..0x60].to_vec();
        let sealed = self.cipher().encrypt(&Nonce::from(iv), Payload { msg: payload, aad: &aad }).unwrap();
        let (ciphertext, tag) = sealed.split_at(payload.len());
        page[0x60..0x60 + payload.len()].copy_from_slice(ciphertext);
        page[..16].copy_from_slice(tag);
        page
    }

    fn decrypt(&mut self, request: &[u8; 4096], response: &[u8; 4096], room: usize) -> Vec<u8> {
        assert_eq!(response[0x20..0x28], (self.sequence + 2).to_le_bytes(), "sequence number of the answer");
        assert_eq!(response[0x34], request[0x34] + 1, "type of the answer");
        assert_eq!(response[0x35], request[0x35], "version of the answer");
        let size = usize::from(u16::from_le_bytes([response[0x36], response[0x37]]));
        assert!(size <= room, "the driver's buffer has {room} bytes, the answer {size}");
        let mut iv = [0; 12];
        iv[..8].copy_from_slice(&response[0x20..0x28]);
        let sealed = [&response[0x60..0x60 + size], &response[..16]].concat();
        let payload = Payload { msg: &sealed, aad: &response[0x30..0x60] };
        let clear = self.cipher().decrypt(&Nonce::from(iv), payload).unwrap();
        self.sequence += 2;
        clear
    }

    fn ask(&mut self, guest: &mut Guest, kind: u8, payload: &[u8], room: usize) -> Vec<u8> {
        let request = self.encrypt(kind, 1, payload);
        let mut response = [0; 4096];
        assert_eq!(guest.request(&request, &mut response), Status::Success);
        self.decrypt(&request, &response, room)
    }

    /// SNP_GET_REPORT.
    fn report(&mut self, guest: &mut Guest, data: [u8; 64], vmpl: u32) -> Result<Vec<u8>, u32> {
        let payload = [&data[..], &vmpl.to_le_bytes(), &[0; 28]].concat();
        let response = self.ask(guest, 5, &payload, 4000);
        assert_eq!(response[8..0x20], [0; 24]);
        let number = |at: usize| u32::from_le_bytes(response[at..at + 4].try_into().unwrap());
        if number(0) != 0 {
            assert_eq!((number(4), response.len()), (0, 0x20), "no report comes with a refusal");
            return Err(number(0));
        }
        assert_eq!(number(4), 0x4a0);
        Ok(response[0x20..].to_vec())
    }

    /// SNP_GET_DERIVED_KEY: the whole answer.
    fn key(&mut self, guest: &mut Guest, fields: u64, svn: u32) -> Vec<u8> {
        let payload = [&[0; 8][..], &fields.to_le_bytes(), &[0; 4], &svn.to_le_bytes(), &[0; 8]].concat();
        self.ask(guest, 3, &payload, 64)
    }
}

#[test]
fn a_report_comes_and_verifies() {
    for version in [ReportVersion::V3, ReportVersion::V5] {
        let mut guest = launch(version);
        let mut driver = Driver::new(&guest, 0);
        let vcek = certificates::find(guest.certificate_table(), &VCEK).unwrap().to_vec();
        for round in 0..3_u8 {
            let bytes = driver.report(&mut guest, [round; 64], 0).unwrap();
            let report = AttestationReport::from_bytes(&bytes).unwrap();
            (&Certificate::from_der(&vcek).unwrap(), &report).verify().unwrap();
            assert_eq!(report.version, version as u32);
            assert_eq!(report.measurement, MEASUREMENT);
            assert_eq!(report.report_data, [round; 64]);
            assert_eq!(report.host_data, [8; 32]);
            assert_eq!(u64::from(report.policy), POLICY);
            assert_eq!(report.sig_algo, 1);
            assert!(report.plat_info.alias_check_complete());
            assert_eq!(report.key_info.signing_key(), 0);
            assert_eq!(report.report_id_ma, [0xff; 32]);
            assert_eq!((report.cpuid_fam_id, report.cpuid_mod_id), (Some(0x19), Some(1)));
            assert_eq!(report.current.minor, if version == ReportVersion::V3 { 55 } else { 58 });
            assert_eq!(report.launch_mit_vector.is_some(), version == ReportVersion::V5);
            assert_eq!(report.id_key_digest, [0; 48]);
            assert_eq!(
                report.to_bytes().unwrap(),
                bytes.as_slice(),
                "nothing is where the crate does not look"
            );
            assert!(verify_report(&bytes, &vcek).is_ok());
        }
        verify_test_chain(&certificates::chain(guest.certificate_table()).unwrap()).unwrap();
    }
}

#[test]
fn the_id_block_is_in_the_report() {
    let mut identity = Identity {
        family_id: [1; 16],
        image_id: [2; 16],
        guest_svn: 7,
        id_key_digest: KeyDigest([3; 48]),
        author_key_digest: None,
    };
    for author in [None, Some(KeyDigest([4; 48]))] {
        identity.author_key_digest = author;
        let mut guest = launch_with(Chip::test(ReportVersion::V3), Some(identity));
        let mut driver = Driver::new(&guest, 1);
        let report = driver.report(&mut guest, [0; 64], 3).unwrap();
        let report = AttestationReport::from_bytes(&report).unwrap();
        assert_eq!((report.family_id, report.image_id, report.guest_svn), ([1; 16], [2; 16], 7));
        assert_eq!(report.id_key_digest, [3; 48]);
        assert_eq!(report.author_key_digest, author.map_or([0; 48], |digest| digest.0));
        assert_eq!(report.key_info.author_key_en(), author.is_some());
        assert_eq!(report.vmpl, 3);
        assert_eq!(driver.key(&mut guest, 0x3f, 7)[..4], [0x16, 0, 0, 0], "VMPL0's key, for VMPL1");
    }
}

#[test]
fn derived_keys_are_the_same_for_the_same_guest() {
    let mut guest = launch(ReportVersion::V3);
    let mut driver = Driver::new(&guest, 0);
    let key = driver.key(&mut guest, 0x2f, 0);
    assert_eq!(key[..32], [0; 32]);
    assert_ne!(key[32..], [0; 32]);
    assert_eq!(driver.key(&mut guest, 0x2f, 0), key);
    assert_ne!(driver.key(&mut guest, 0x2e, 0), key);
    assert_eq!(driver.key(&mut guest, 0, 1)[..4], [0x16, 0, 0, 0], "a later security version");
    // Another launch of the same guest on the same chip.
    let mut again = Guest::start(Chip::test(ReportVersion::V3), POLICY, &[4; 32], None).unwrap();
    again.finish(Finish { measurement: MEASUREMENT, host_data: [0; 32], identity: None }).unwrap();
    let mut other = Driver::new(&again, 0);
    assert_ne!(other.key, driver.key, "the launch has keys of its own for messages");
    assert_eq!(other.key(&mut again, 0x2f, 0), key);
}

#[test]
fn secure_tsc_is_answered() {
    let mut guest = launch(ReportVersion::V3);
    let mut driver = Driver::new(&guest, 0);
    let response = driver.ask(&mut guest, 17, &[0; 128], 128);
    assert_eq!(response[..8], [0; 8]);
    assert_eq!(response[8..16], (1_u64 << 32).to_le_bytes());
    assert_eq!(response[16..24], 77_u64.to_le_bytes());
    assert_eq!(response[24..28], 200_u32.to_le_bytes());
    assert_eq!(guest.secrets_page()[0x160..0x164], 200_u32.to_le_bytes());
}

#[test]
fn the_secrets_page_is_as_linux_reads_it() {
    let guest = launch(ReportVersion::V3);
    let page = guest.secrets_page();
    assert_eq!(page[..4], 3_u32.to_le_bytes());
    assert_eq!(page[8..12], 0x00a0_0f11_u32.to_le_bytes());
    let keys: std::collections::HashSet<_> = page[0x20..0xa0].chunks(32).collect();
    assert_eq!(keys.len(), 4);
    assert!(!keys.contains([0; 32].as_slice()));
    assert_eq!(page[0xa0..0x160], [0; 0xc0], "sequence numbers, tweak bitmap and SVSM fields");
    assert_eq!(page[0x164..], [0; 0xe9c]);
}

#[test]
fn what_a_report_cannot_say_is_refused_in_the_answer() {
    let mut guest = launch(ReportVersion::V3);
    let mut driver = Driver::new(&guest, 2);
    assert_eq!(driver.report(&mut guest, [0; 64], 1), Err(0x16), "a more privileged VMPL");
    assert_eq!(driver.report(&mut guest, [0; 64], 4), Err(0x16));
    let mut ask = |change: fn(&mut Vec<u8>)| {
        let mut payload = vec![0; 96];
        payload[0x40] = 3;
        change(&mut payload);
        driver.ask(&mut guest, 5, &payload, 4000)[0]
    };
    assert_eq!(ask(|_| ()), 0);
    assert_eq!(ask(|payload| payload[0x44] = 1), 0, "the VCEK by name");
    assert_eq!(ask(|payload| payload[0x44] = 2), 0x27, "there is no VLEK");
    assert_eq!(ask(|payload| payload[0x44] = 3), 0x16);
    assert_eq!(ask(|payload| payload[0x44] = 4), 0x16);
    assert_eq!(ask(|payload| payload[0x5f] = 1), 0x16);
    assert_eq!(ask(|payload| payload.truncate(95)), 0x16);
    assert_eq!(ask(|payload| payload.push(0)), 0x16);
}

#[test]
fn a_refused_message_leaves_no_trace() {
    let mut guest = launch(ReportVersion::V3);
    let mut driver = Driver::new(&guest, 0);
    let good = driver.encrypt(5, 1, &[0; 96]);
    let mut response = [0xee; 4096];
    let mut refused = |page: &[u8; 4096], status| {
        assert_eq!(guest.request(page, &mut response), status);
        assert_eq!(response, [0xee; 4096], "nothing is written");
    };
    let mut tampered = good;
    tampered[0x60] ^= 1;
    refused(&tampered, Status::BadMeasurement);
    for kind in [0, 1, 2, 4, 6, 7, 9, 13, 18, 19, 255] {
        refused(&driver.encrypt(kind, 1, &[0; 96]), Status::InvalidParam);
    }
    let mut other_key = good;
    other_key[0x3c] = 1;
    refused(&other_key, Status::BadMeasurement);
    driver.sequence += 2;
    refused(&driver.encrypt(5, 1, &[0; 96]), Status::AeadOverflow);
    driver.sequence -= 2;
    // The sequence is where it was: the good one is taken, once.
    assert_eq!(guest.request(&good, &mut response), Status::Success);
    driver.decrypt(&good, &response, 4000);
    let first = response;
    assert_eq!(guest.request(&good, &mut response), Status::AeadOverflow, "a replay");
    assert_eq!(response, first);
    assert!(driver.report(&mut guest, [1; 64], 0).is_ok());
}

#[test]
fn there_is_no_message_before_the_launch_is_finished() {
    let mut guest = Guest::start(Chip::test(ReportVersion::V3), POLICY, &[3; 32], None).unwrap();
    let mut driver = Driver::new(&guest, 0);
    let request = driver.encrypt(5, 1, &[0; 96]);
    let mut response = [0; 4096];
    assert_eq!(guest.request(&request, &mut response), Status::InvalidGuestState);
    let finish = Finish { measurement: MEASUREMENT, host_data: [0; 32], identity: None };
    guest.finish(finish).unwrap();
    assert_eq!(guest.finish(finish), Err(Status::InvalidGuestState));
    assert_eq!(guest.request(&request, &mut response), Status::Success);
    driver.decrypt(&request, &response, 4000);
    assert_eq!(
        driver.ask(&mut guest, 17, &[0; 128], 128)[0],
        0x16,
        "without Secure TSC there is nothing to tell"
    );
}

#[test]
fn a_policy_that_the_platform_does_not_meet_ends_the_launch() {
    let start = |policy| Guest::start(Chip::test(ReportVersion::V3), policy, &[0; 32], None).err();
    assert_eq!(start(POLICY), None);
    assert_eq!(start(POLICY | 1 << 24), Some(Status::PolicyFailure));
    assert_eq!(start(0), Some(Status::InvalidParam));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any sealed payload of any type is refused or answered, and the dialogue goes on after it.
    #[test]
    fn any_sealed_message_is_answered_or_refused(
        kind in 0..20_u8,
        version in 0..4_u8,
        vmpck in 0..4_u8,
        payload in prop::collection::vec(any::<u8>(), 0..140),
    ) {
        let mut guest = launch(ReportVersion::V5);
        let mut driver = Driver::new(&guest, vmpck);
        let request = driver.encrypt(kind, version, &payload);
        let mut response = [0; 4096];
        match guest.request(&request, &mut response) {
            Status::Success => {
                prop_assert!([3, 5, 17].contains(&kind));
                driver.decrypt(&request, &response, 4000);
            }
            status => prop_assert_eq!(status, Status::InvalidParam),
        }
        prop_assert_eq!(driver.ask(&mut guest, 17, &[0; 128], 128)[0], 0);
    }

    /// Whatever the host does to a page on the way, the guest does not get an answer to it.
    #[test]
    fn no_changed_page_is_answered(at in 0..0xc0_usize, bit in 0..8_u32) {
        let mut guest = launch(ReportVersion::V3);
        let driver = Driver::new(&guest, 0);
        let mut page = driver.encrypt(5, 1, &[0; 96]);
        page[at] ^= 1_u8 << bit;
        prop_assert_ne!(guest.request(&page, &mut [0; 4096]), Status::Success);
    }
}
