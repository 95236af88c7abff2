use super::*;
use crate::testing::{MEASUREMENT, POLICY, bundle, certificate_table, genoa, milan, signed, turin, unsigned};
use proptest::prelude::*;
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;
use test_psp::chip::Chip;
use test_psp::hierarchy::{vlek, vlek_certificate};
use test_psp::report::{Report as Raw, ReportVersion};
use zerocopy::{FromBytes, IntoBytes};

fn image() -> Image {
    Image {
        name: "test".into(),
        digests: [("qemu".to_owned(), MEASUREMENT)].into(),
        policy: POLICY,
        id_key: None,
        author_key: None,
        manifest: None,
        workload: None,
    }
}

fn demands() -> Demands {
    Demands { image: Some(image()), report_data: Some([9; 64]), allow_emulated: true, ..Demands::default() }
}

/// One of every version and generation.
fn every_chip() -> [Chip; 5] {
    [
        milan(ReportVersion::V3),
        milan(ReportVersion::V5),
        genoa(),
        turin(ReportVersion::V3),
        turin(ReportVersion::V5),
    ]
}

fn good(chip: &Chip) -> Vec<u8> {
    signed(chip, unsigned(chip, [9; 64]))
}

/// The checks that fail of a report that was changed before it was signed.
fn failures(change: impl FnOnce(&mut Raw), demands: &Demands) -> Vec<Check> {
    let chip = milan(ReportVersion::V3);
    let mut report = unsigned(&chip, [9; 64]);
    change(&mut report);
    let verdict = verify(&signed(&chip, report), &bundle(&chip), demands);
    let failed = |finding: &Finding| (finding.outcome == Outcome::Failed).then_some(finding.check);
    assert_eq!(verdict.accepted, verdict.failure().is_none());
    verdict.findings.iter().filter_map(failed).collect()
}

#[test]
fn a_good_report_of_every_version_and_generation_is_accepted() {
    for chip in every_chip() {
        let verdict = verify(&good(&chip), &bundle(&chip), &demands());
        assert!(verdict.accepted, "{verdict:?}");
        assert_eq!(verdict.warnings, [EMULATED_WARNING]);
        assert_eq!(verdict.findings.len(), Check::ALL.len());
    }
}

/// Version 2 has neither family nor alias check, and is accepted where the latter is not asked for.
#[test]
fn version_2_is_read_and_cannot_answer_for_aliases() {
    for chip in [milan(ReportVersion::V3), turin(ReportVersion::V3)] {
        let mut report = unsigned(&chip, [9; 64]);
        report.version = 2.into();
        (report.family, report.model, report.stepping) = (0, 0, 0);
        let bytes = signed(&chip, report);
        let verdict = verify(&bytes, &bundle(&chip), &demands());
        assert!(verdict.failed(Check::AliasCheck) && verdict.failure().unwrap().check == Check::AliasCheck);
        assert!(
            verify(&bytes, &bundle(&chip), &Demands { allow_no_alias_check: true, ..demands() }).accepted
        );
    }
}

/// What the PSP put at its offsets is what the `sev` crate finds in its fields: two readings of the same table.
#[test]
fn the_fields_are_those_at_their_offsets() {
    for chip in every_chip() {
        let bytes = good(&chip);
        let raw = Raw::read_from_bytes(&bytes).unwrap();
        let report = crate::report::Report::parse(&bytes).unwrap();
        let fields: &AttestationReport = report.fields();
        assert_eq!(fields.version, raw.version.get());
        assert_eq!(report.policy(), raw.policy.get());
        assert_eq!(fields.measurement, raw.measurement);
        assert_eq!(fields.report_data, raw.report_data);
        assert_eq!(fields.chip_id, raw.chip_id);
        assert_eq!(fields.vmpl, raw.vmpl.get());
        let ours = |tcb: &TcbVersion| {
            let TcbVersion { fmc, bootloader, tee, snp, microcode } = *tcb;
            test_psp::chip::TcbVersion { fmc, bootloader, tee, snp, microcode }.to_bytes()
        };
        assert_eq!(ours(&fields.reported_tcb), raw.reported_tcb);
        assert_eq!(ours(&fields.launch_tcb), raw.launch_tcb);
        assert_eq!(
            fields.launch_mit_vector,
            (raw.version.get() == 5).then_some(raw.launch_mitigations.get())
        );
        assert_eq!(AttestationReport::from_bytes(&bytes).unwrap(), *fields);
    }
}

#[test]
fn each_demand_is_a_check_of_its_own() {
    let only = |check: Check, change: fn(&mut Raw), demands: &Demands| {
        assert_eq!(failures(change, demands), [check])
    };
    let strict = demands();
    assert_eq!(failures(|_| (), &strict), []);
    only(Check::Measurement, |report| report.measurement[47] ^= 1, &strict);
    only(Check::Policy, |report| report.policy = 0x2_0000.into(), &strict);
    assert_eq!(failures(|report| report.policy = 0xb_0000.into(), &strict), [Check::Debug, Check::Policy]);
    assert_eq!(
        failures(|report| report.policy = 0x7_0000.into(), &strict),
        [Check::Migration, Check::Policy]
    );
    only(Check::Migration, |report| report.report_id_ma = [1; 32], &strict);
    only(Check::AliasCheck, |report| report.platform_info = 0.into(), &strict);
    only(Check::Nonce, |report| report.report_data[63] ^= 1, &strict);
    only(Check::Chip, |report| report.chip_id[0] ^= 1, &strict);
    assert_eq!(failures(|report| report.reported_tcb[6] ^= 1, &strict), [Check::KeyTcb]);
    only(Check::Certificate, |report| report.key_info = (7 << 2).into(), &strict);
    only(Check::Certificate, |report| report.key_info = 2.into(), &strict);
    only(Check::Certificate, |report| report.key_info = (1 << 2).into(), &strict);
    only(Check::Form, |report| report.version = 6.into(), &strict);
    only(Check::Form, |report| report.version = 1.into(), &strict);
    only(Check::Form, |report| report.chip_id = [0; 64], &strict);
    only(Check::Form, |report| report.family = 0x17, &strict);
    let kernel = Demands { asker: Asker::Kernel, ..demands() };
    only(Check::Vmpl, |report| report.vmpl = 1.into(), &kernel);
    let workload = Demands { asker: Asker::Workload, ..demands() };
    only(Check::Vmpl, |_| (), &workload);
    assert_eq!(failures(|report| report.vmpl = 3.into(), &workload), []);
    let floor = Demands { min_tcb: "snp=24".parse().unwrap(), ..demands() };
    assert_eq!(failures(|_| (), &floor), []);
    only(Check::Tcb, |report| report.launch_tcb[6] = 23, &floor);
    only(Check::Tcb, |report| report.current_tcb[6] = 23, &floor);
    assert_eq!(failures(|report| report.committed_tcb[6] = 23, &floor), []);
    let committed = Demands { min_committed_tcb: "snp=24".parse().unwrap(), ..demands() };
    only(Check::Tcb, |report| report.committed_tcb[6] = 23, &committed);
    let keys = Demands { id_key: Some([1; 48]), author_key: Some([2; 48]), ..demands() };
    assert_eq!(failures(|_| (), &keys), [Check::IdKey, Check::AuthorKey]);
    let with_keys = |report: &mut Raw| (report.id_key_digest, report.author_key_digest) = ([1; 48], [2; 48]);
    assert_eq!(failures(with_keys, &keys), []);
    assert_eq!(
        failures(
            |report| report.policy = 0xf_0000.into(),
            &Demands { allow_debug: true, allow_migration: true, image: None, ..demands() }
        ),
        []
    );
}

#[test]
fn the_emulators_root_counts_only_where_that_is_asked_for() {
    let chip = milan(ReportVersion::V3);
    let verdict = verify(&good(&chip), &bundle(&chip), &Demands { allow_emulated: false, ..demands() });
    let failure = verdict.failure().unwrap();
    assert_eq!((failure.check, verdict.root), (Check::Root, Some(Root::Emulator)));
    assert!(failure.detail.contains("--allow-emulated"));
    assert_eq!(verdict.findings.iter().filter(|finding| finding.outcome == Outcome::Failed).count(), 1);
}

#[test]
fn a_vlek_stands_for_a_provider_and_no_chip() {
    let chip = milan(ReportVersion::V3);
    let mut report = unsigned(&chip, [9; 64]);
    report.key_info = (1 << 2).into();
    report.sign(&vlek(chip.reported_tcb)).unwrap();
    let mut bundle = bundle(&chip);
    bundle.add(&vlek_certificate(chip.reported_tcb).unwrap());
    let verdict = verify(report.as_bytes(), &bundle, &demands());
    assert!(verdict.accepted, "{verdict:?}");
    // The VCEK's signature is not a VLEK's, and a VLEK is for one TCB.
    report.sign(&test_psp::hierarchy::vcek(&chip)).unwrap();
    assert_eq!(verify(report.as_bytes(), &bundle, &demands()).failure().unwrap().check, Check::Signature);
    report.reported_tcb[6] ^= 1;
    report.sign(&vlek(chip.reported_tcb)).unwrap();
    assert_eq!(verify(report.as_bytes(), &bundle, &demands()).failure().unwrap().check, Check::KeyTcb);
}

#[test]
fn without_certificates_or_with_strange_ones_there_is_no_root() {
    let chip = milan(ReportVersion::V3);
    let report = good(&chip);
    let first = |bundle: &Bundle| verify(&report, bundle, &demands()).failure().unwrap().check;
    assert_eq!(first(&Bundle::default()), Check::Certificate);
    let mut garbage = Bundle::default();
    garbage.add_file(b"garbage");
    assert_eq!(first(&garbage), Check::Certificate);
    // The emulator's key under AMD's certificates.
    let mut mixed = bundle(&chip);
    (mixed.roots, mixed.intermediates) = (Vec::new(), Vec::new());
    mixed.add_file(sev::certs::snp::builtin::milan::ARK);
    mixed.add_file(sev::certs::snp::builtin::milan::ASK);
    assert!(matches!(first(&mixed), Check::Root | Check::Chain));
    // Without them it is judged by the emulator's.
    let mut alone = bundle(&chip);
    (alone.roots, alone.intermediates) = (Vec::new(), Vec::new());
    assert!(verify(&report, &alone, &demands()).accepted);
}

fn chips() -> impl Strategy<Value = Chip> {
    prop::sample::select(every_chip().to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Nothing is demanded but a signature: it alone holds every bit of the report.
    #[test]
    fn no_changed_report_is_accepted(chip in chips(), at in 0..crate::report::REPORT_SIZE, bit in 0..8) {
        let mut bytes = good(&chip);
        let loose = Demands { allow_emulated: true, allow_debug: true, allow_migration: true, allow_no_alias_check: true, ..Demands::default() };
        prop_assert!(verify(&bytes, &bundle(&chip), &loose).accepted);
        bytes[at] ^= 1_u8 << bit;
        let verdict = verify(&bytes, &bundle(&chip), &loose);
        let failure = verdict.failure().expect("a failure");
        prop_assert!(!verdict.accepted && [Check::Form, Check::Certificate, Check::Signature].contains(&failure.check), "{failure:?}");
    }

    #[test]
    fn no_changed_certificate_is_accepted(chip in chips(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let report = good(&chip);
        let mut table = certificate_table(&chip);
        let at = at.index(table.len());
        table[at] ^= 1_u8 << bit;
        let mut bundle = Bundle::default();
        bundle.add_table(&table);
        let verdict = verify(&report, &bundle, &demands());
        let check = verdict.failure().expect("a failure").check;
        prop_assert!([Check::Certificate, Check::Root, Check::Chain, Check::Signature].contains(&check), "{check:?}");
    }

    #[test]
    fn any_bytes_are_judged(report in prop::collection::vec(any::<u8>(), 0..1200), table in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut bundle = Bundle::default();
        bundle.add_file(&table);
        prop_assert!(!verify(&report, &bundle, &demands()).accepted);
    }
}
