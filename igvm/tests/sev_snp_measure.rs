//! The Python package `sev-snp-measure` as an oracle (class `gctx.GCTX`): the same digest for generated lists of pages of every
//! type. Needs Python with `venv` and a package index; where they are missing it says so and skips, but fails in CI, which installs them.

#[path = "common/python.rs"]
mod python;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use litebox_igvm::PAGE_SIZE;
use litebox_igvm::digest::{LaunchDigest, PageType, VmplPermissions};
use litebox_igvm::vmsa::{KVM_VMSA_GPA, SevFeatures, Vmsa};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// Reads lines `TYPE GPA FILL` and `end`; prints a digest for each list.
const SCRIPT: &str = "
import sys
from sevsnpmeasure.gctx import GCTX
gctx = GCTX()
for line in sys.stdin:
    if line.strip() == 'end':
        print(gctx.ld().hex())
        gctx = GCTX()
        continue
    kind, gpa, fill = (int(word, 0) for word in line.split())
    data = bytes((fill + i * 7) & 0xff for i in range(4096))
    if kind == 1: gctx.update_normal_pages(gpa, data)
    elif kind == 2: gctx.update_vmsa_page(data)
    elif kind == 3: gctx.update_zero_pages(gpa, 4096)
    elif kind == 4: gctx.update_unmeasured_pages(gpa, 4096)
    elif kind == 5: gctx.update_secrets_page(gpa)
    elif kind == 6: gctx.update_cpuid_page(gpa)
";

fn pages() -> impl Strategy<Value = Vec<(PageType, u64, u8)>> {
    let page_type = prop::sample::select(vec![
        PageType::Normal,
        PageType::Vmsa,
        PageType::Zero,
        PageType::Unmeasured,
        PageType::Secrets,
        PageType::Cpuid,
    ]);
    prop::collection::vec((page_type, 0..1u64 << 36, any::<u8>()), 0..20).prop_map(|mut pages| {
        for (page_type, gpa, _) in &mut pages {
            // The package knows one address of save areas, that of KVM.
            *gpa = if *page_type == PageType::Vmsa { KVM_VMSA_GPA } else { *gpa << 12 };
        }
        pages
    })
}

#[test]
fn digests_are_equal() {
    let Some(python) = python::find() else { return };
    let mut runner = TestRunner::deterministic();
    let mut input = String::new();
    let mut expected = String::new();
    let mut seen = BTreeMap::new();
    for _ in 0..64 {
        let mut digest = LaunchDigest::new();
        for (page_type, gpa, fill) in pages().new_tree(&mut runner).unwrap().current() {
            writeln!(input, "{} {gpa:#x} {fill}", page_type as u8).unwrap();
            *seen.entry(page_type as u8).or_insert(0) += 1;
            let data: [u8; PAGE_SIZE] = std::array::from_fn(|i| fill.wrapping_add((i * 7) as u8));
            match page_type {
                PageType::Vmsa => digest.vmsa(gpa, &data),
                _ => digest.page(page_type, gpa, Some(&data), false, VmplPermissions::NONE),
            }
        }
        input += "end\n";
        for byte in digest.value() {
            write!(expected, "{byte:02x}").unwrap();
        }
        expected += "\n";
    }
    assert!((1..=6).all(|page_type| seen[&page_type] > 20), "types that were tried: {seen:?}");
    assert_eq!(python::run(&python, SCRIPT, &input), expected);
}

/// What KVM measures for a CPU that QEMU has only reset.
#[test]
fn save_areas_after_reset_are_equal() {
    const SCRIPT: &str = "
import sys
from sevsnpmeasure.vmsa import VMSA
for line in sys.stdin:
    signature, features = (int(word, 0) for word in line.split())
    print(bytes(VMSA.build_save_area(0xfffffff0, features, signature)).hex())
";
    let Some(python) = python::find() else { return };
    let cpus = [(0x0080_0f12, 1), (0x00a0_0f11, 0x21), (0x00b0_0f00, 0x201)];
    let input: String =
        cpus.iter().map(|(signature, features)| format!("{signature:#x} {features:#x}\n")).collect();
    let output = python::run(&python, SCRIPT, &input);
    for ((signature, features), theirs) in cpus.into_iter().zip(output.lines()) {
        let vmsa = Vmsa::reset(signature, SevFeatures::from_bits_retain(features));
        let ours: String = vmsa.to_page().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(ours, theirs, "{signature:#x}");
    }
    assert_eq!(output.lines().count(), cpus.len());
}
