//! The `igvm` crate as an oracle: it reads what this crate writes, writes what this crate reads, and finds the same digest.

mod common;

use std::collections::BTreeSet;

use common::{Guest, Item, any_guest, igvm_crate_digest, portable_guest};
use litebox_igvm::format::{Directive, FileBuilder, IgvmFile, Initialization, Platform, Revision, Unknown};
use litebox_igvm::load::measure;
use litebox_igvm::profile::HostProfile;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

type Change<'c> = &'c dyn Fn(&mut FileBuilder<'_>, &mut Platform);

fn has_data(guest: &Guest) -> bool {
    // The crate refuses a file that ends with its headers, and never writes data for a page without.
    guest.items.iter().any(|item| matches!(item, Item::Page { data: Some(_), .. } | Item::Vmsa(_)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Of every page type, save areas anywhere. The crate knows no zero page (type 3), nor does the specification of the format
    /// ask for one: a page without data is a normal page of zeros.
    #[test]
    fn digests_are_equal(guest in any_guest().prop_filter("no data", has_data)) {
        let bytes = guest.build();
        let file = IgvmFile::parse(&bytes).unwrap();
        prop_assert_eq!(measure(&file, HostProfile::Specification).unwrap(), igvm_crate_digest(&bytes));
    }

    #[test]
    fn what_the_crate_builds_is_read_alike(guest in any_guest().prop_filter("no data", has_data)) {
        let theirs = guest.build_with_igvm_crate();
        let file = IgvmFile::parse(&theirs).unwrap();
        let ours = guest.build();
        let directives: Vec<Directive<'_>> = file.directives().map(|at| at.header).collect();
        let expected = IgvmFile::parse(&ours).unwrap();
        let expected: Vec<Directive<'_>> = expected.directives().map(|at| at.header).collect();
        prop_assert_eq!(directives, expected);
        prop_assert_eq!(measure(&file, HostProfile::Specification).unwrap(), igvm_crate_digest(&theirs));
    }

    /// OpenVMM loads in the order of the file and knows no zero page either: same digest.
    #[test]
    fn openvmm_measures_as_the_crate_does(guest in portable_guest()) {
        let bytes = guest.build();
        let file = IgvmFile::parse(&bytes).unwrap();
        prop_assert_eq!(measure(&file, HostProfile::OpenVmm).unwrap(), igvm_crate_digest(&bytes));
    }
}

/// The generated guests have every type of page that the format has, with data and without, measured and not, and save areas.
#[test]
fn every_page_type_is_generated() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..96 {
        for item in any_guest().new_tree(&mut runner).unwrap().current().items {
            seen.insert(match item {
                Item::Page { data_type, unmeasured, data } => {
                    format!("{data_type:?} {unmeasured} {}", data.is_some())
                }
                Item::Vmsa(_) => "save area".into(),
                Item::Parameters { .. } | Item::RequiredMemory => continue,
            });
        }
    }
    assert_eq!(seen.len(), 4 * 2 * 2 + 1, "{seen:?}");
}

/// The crate refuses these as well; that it does is why they are rules.
#[test]
fn rules_of_the_crate_are_its_own() {
    let parses = |bytes: &[u8]| igvm::IgvmFile::new_from_binary(bytes, None).is_ok();
    let page = common::page_of(1);
    let build = |change: Change<'_>| {
        let mut platform = Platform::sev_snp(1);
        let mut builder = FileBuilder::new(Revision::V1);
        change(&mut builder, &mut platform);
        builder.platform(platform);
        builder.initialization(Initialization::GuestPolicy { policy: 0x3_0000, compatibility_mask: 1 });
        builder.page(1, 0x1000, &page);
        builder.write().unwrap()
    };
    let source = "igvm crate, igvm/src/lib.rs";
    let refused = |bytes: &[u8]| {
        let violations = HostProfile::Qemu.check(&IgvmFile::parse(bytes).unwrap());
        violations.iter().any(|violation| violation.source == source)
    };
    assert!(parses(&build(&|_, _| {})) && !refused(&build(&|_, _| {})));
    let changes: [Change<'_>; 3] =
        [&|_, platform| platform.highest_vtl = 1, &|_, platform| platform.version = 2, &|builder, _| {
            builder.directive(Directive::Unknown(Unknown { header_type: 0x8000_03f0, body: &[1; 8] }));
        }];
    for change in changes {
        let bytes = build(change);
        assert!(!parses(&bytes) && refused(&bytes));
    }
    // Nothing behind the headers.
    let mut builder = FileBuilder::new(Revision::V1);
    builder.platform(Platform::sev_snp(1));
    builder.page(1, 0x1000, &[0; 4096]);
    let bytes = builder.write().unwrap();
    assert!(!parses(&bytes) && refused(&bytes));
}
