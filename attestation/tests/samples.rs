//! Reports and certificates that real machines made and AMD signed, as the source of the crate `sev` has them for its own tests: fetched by
//! cargo with that crate, and none of them kept here.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use attestation::certificates::Bundle;
use attestation::chain::{Root, follow};
use attestation::check::{Check, Outcome};
use attestation::unhex_any;
use attestation::verify::{Demands, Verdict, verify};

/// Where cargo has the source of `sev`.
fn samples() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let sev = packages.iter().find(|package| package["name"] == "sev").expect("sev is a dependency");
    let manifest = PathBuf::from(sev["manifest_path"].as_str().expect("a path"));
    manifest.parent().expect("a directory").join("tests/certs_data")
}

fn read(name: &str) -> Vec<u8> {
    let path = samples().join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn milan_report() -> Vec<u8> {
    let text = read("report_milan.hex");
    unhex_any(std::str::from_utf8(&text).unwrap().trim()).unwrap()
}

fn bundle(names: &[&str]) -> Bundle {
    let mut bundle = Bundle::default();
    names.iter().for_each(|name| bundle.add_file(&read(name)));
    bundle
}

fn judge(report: &[u8], bundle: &Bundle) -> Verdict {
    // It is a report of version 2, of 2022 or so: it cannot say whether memory was checked for aliases.
    verify(report, bundle, &Demands { allow_no_alias_check: true, ..Demands::default() })
}

#[test]
fn the_report_of_a_real_milan_is_accepted_up_to_amds_root() {
    let report = milan_report();
    for names in [&["vcek_milan.der"][..], &["vcek_milan.der", "cert_chain_milan"]] {
        let verdict = judge(&report, &bundle(names));
        assert!(verdict.accepted, "{verdict:#?}");
        assert_eq!(verdict.root, Some(Root::AmdMilan));
        assert!(verdict.warnings.is_empty());
        let signature = verdict.findings.iter().find(|finding| finding.check == Check::Signature).unwrap();
        assert_eq!(signature.outcome, Outcome::Passed);
    }
    let strict = verify(&report, &bundle(&["vcek_milan.der"]), &Demands::default());
    assert_eq!(strict.failure().map(|failure| failure.check), Some(Check::AliasCheck));
}

#[test]
fn the_key_of_a_real_turin_leads_to_amds_root_and_to_no_other() {
    for names in [&["vcek_turin.der"][..], &["vcek_turin.der", "cert_chain_turin"]] {
        let bundle = bundle(names);
        let chain = follow(&bundle.vceks[0], &bundle).unwrap();
        assert_eq!(chain.root, Root::AmdTurin);
    }
    let mixed = bundle(&["vcek_turin.der", "cert_chain_milan"]);
    assert_eq!(follow(&mixed.vceks[0], &mixed).unwrap_err().0, Check::Chain);
    assert!(!judge(&milan_report(), &bundle(&["vcek_turin.der"])).accepted);
}

/// One bit of what AMD's chip and AMD's keys signed, at places all over the files: refused, whichever it is.
#[test]
fn no_changed_real_report_or_certificate_is_accepted() {
    let (report, certificate) = (milan_report(), read("vcek_milan.der"));
    let bundle = bundle(&["vcek_milan.der"]);
    for at in (0..report.len()).step_by(7) {
        let mut changed = report.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(!judge(&changed, &bundle).accepted, "report, byte {at}");
    }
    for at in (0..certificate.len()).step_by(7) {
        let mut changed = certificate.clone();
        changed[at] ^= 1 << (at % 8);
        let mut bundle = Bundle::default();
        bundle.add(&changed);
        let verdict = judge(&report, &bundle);
        assert!(!verdict.accepted, "certificate, byte {at}");
    }
}
