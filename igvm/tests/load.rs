//! Load plans: the order of each host, written out a second time, and what is refused before anyone asks the PSP.

mod common;

use common::{Guest, Item, MASK, PAGE, POLICY, portable_guest};
use litebox_igvm::digest::{LaunchDigest, PageType, VmplPermissions};
use litebox_igvm::format::{
    Directive, FileBuilder, IgvmFile, Initialization, PageData, PageDataType, ParameterArea, ParameterInsert,
    Platform, Revision, VpContext,
};
use litebox_igvm::load::{LoadError, LoadOp, LoadPlan, MAX_LAUNCH_PAGES, measure};
use litebox_igvm::profile::HostProfile;
use litebox_igvm::vmsa::{KVM_VMSA_GPA, Vmsa};
use proptest::prelude::*;

fn item_page(data: bool) -> Item {
    Item::Page { data_type: PageDataType::Normal, unmeasured: false, data: data.then(|| common::page_of(3)) }
}

/// What each step is, for comparison.
fn steps(guest: &Guest, profile: HostProfile) -> Vec<(char, u64)> {
    let bytes = guest.build();
    let file = IgvmFile::parse(&bytes).unwrap();
    let plan = LoadPlan::new(&file, profile).unwrap();
    assert_eq!(plan.policy, POLICY);
    plan.ops
        .iter()
        .filter_map(|op| match op {
            LoadOp::Page { gpa, page_type, .. } => {
                Some((if *page_type == PageType::Zero { 'z' } else { 'p' }, *gpa))
            }
            LoadOp::ParameterInsert { gpa, .. } => Some(('i', *gpa)),
            LoadOp::Vmsa { gpa, .. } => Some(('v', *gpa)),
            _ => None,
        })
        .collect()
}

/// QEMU adds a run of pages late, and an insertion at once; that changes the digest, and the others do not do it.
#[test]
fn qemu_adds_insertions_before_the_run_of_pages() {
    let insert = || Item::Parameters { pages: 1, kinds: vec![] };
    let vmsa = Item::Vmsa(Box::new(Vmsa::long_mode(0x1000, 0x2000)));
    let items = vec![item_page(true), item_page(true), insert(), item_page(true), item_page(false), vmsa];
    let guest = Guest { items, scatter: 0 };
    let at = |index| guest.gpa(index);
    let file_order =
        [('p', at(0)), ('p', at(1)), ('i', at(2)), ('p', at(3)), ('p', at(4)), ('v', KVM_VMSA_GPA)];
    assert_eq!(steps(&guest, HostProfile::Specification), file_order);
    assert_eq!(steps(&guest, HostProfile::OpenVmm), file_order);
    let mut with_zero = file_order;
    with_zero[4].0 = 'z';
    assert_eq!(steps(&guest, HostProfile::CloudHypervisor), with_zero);
    // Pages 0 and 1 are one run; the insertion overtakes it.
    let qemu = [('i', at(2)), ('p', at(0)), ('p', at(1)), ('p', at(3)), ('p', at(4)), ('v', KVM_VMSA_GPA)];
    assert_eq!(steps(&guest, HostProfile::Qemu), qemu);
    let bytes = guest.build();
    let file = IgvmFile::parse(&bytes).unwrap();
    let digests: Vec<_> = HostProfile::ALL.map(|profile| measure(&file, profile).unwrap()).to_vec();
    assert_eq!(digests[0], digests[2]);
    assert_ne!(digests[0], digests[1]);
    assert_ne!(digests[0], digests[3]);
}

/// Insertions first, data in every page: then all hosts agree, and an image can carry one ID block for all.
#[test]
fn a_careful_order_gives_one_digest() {
    let vmsa = Item::Vmsa(Box::new(Vmsa::long_mode(0x1000, 0x2000)));
    let items = vec![Item::Parameters { pages: 2, kinds: vec![] }, item_page(true), item_page(true), vmsa];
    let bytes = Guest { items, scatter: 0 }.build();
    let file = IgvmFile::parse(&bytes).unwrap();
    let digests = HostProfile::ALL.map(|profile| measure(&file, profile).unwrap());
    assert!(digests.iter().all(|digest| *digest == digests[0]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// The digest is that of the items in order, computed from the list and not from the file.
    #[test]
    fn the_digest_is_that_of_the_list(guest in portable_guest()) {
        let bytes = guest.build();
        let file = IgvmFile::parse(&bytes).unwrap();
        for (profile, zero) in [(HostProfile::OpenVmm, PageType::Normal), (HostProfile::CloudHypervisor, PageType::Zero)] {
            let mut digest = LaunchDigest::new();
            for (index, item) in guest.items.iter().enumerate() {
                let mut page = |page_type, gpa, data: Option<&[u8; 4096]>| {
                    digest.page(page_type, gpa, data, false, VmplPermissions::NONE);
                };
                match item {
                    Item::Page { data_type: PageDataType::Secrets, .. } => page(PageType::Secrets, guest.gpa(index), None),
                    Item::Page { data_type: PageDataType::CpuidData, .. } => page(PageType::Cpuid, guest.gpa(index), None),
                    Item::Page { unmeasured: true, .. } => page(PageType::Unmeasured, guest.gpa(index), None),
                    Item::Page { data: None, .. } => page(zero, guest.gpa(index), None),
                    Item::Page { data, .. } => page(PageType::Normal, guest.gpa(index), data.as_deref()),
                    Item::Parameters { pages, .. } => {
                        for n in 0..*pages {
                            page(PageType::Unmeasured, guest.gpa(index) + n * PAGE, None);
                        }
                    }
                    Item::RequiredMemory => {}
                    Item::Vmsa(vmsa) => digest.vmsa(KVM_VMSA_GPA, &vmsa.to_page()),
                }
            }
            prop_assert_eq!(&measure(&file, profile).unwrap(), digest.value());
        }
    }
}

fn refused(directives: &[Directive<'_>]) -> LoadError {
    let page = common::page_of(1);
    let mut builder = FileBuilder::new(Revision::V1);
    builder.platform(Platform::sev_snp(MASK));
    builder.initialization(Initialization::GuestPolicy { policy: POLICY, compatibility_mask: MASK });
    builder.page(MASK, 0x1000, &page);
    for &directive in directives {
        builder.directive(directive);
    }
    let bytes = builder.write().unwrap();
    LoadPlan::new(&IgvmFile::parse(&bytes).unwrap(), HostProfile::Specification).unwrap_err()
}

fn large(gpa: u64) -> Directive<'static> {
    Directive::PageData(PageData {
        gpa,
        compatibility_mask: MASK,
        large: true,
        unmeasured: false,
        shared: false,
        data_type: PageDataType::Normal,
        data: None,
    })
}

#[test]
fn memory_is_given_once() {
    let area = |index, size| Directive::ParameterArea(ParameterArea { index, size, initial: None });
    let insert =
        |index, gpa| Directive::ParameterInsert(ParameterInsert { gpa, compatibility_mask: MASK, index });
    assert!(matches!(refused(&[large(0)]), LoadError::Overlap { gpa: 0, .. }));
    assert!(matches!(refused(&[area(0, 0x2000), insert(0, 0)]), LoadError::Overlap { gpa: 0, .. }));
    assert!(matches!(
        refused(&[area(0, 0x4000), insert(0, 0x4000), area(1, 0x1000), insert(1, 0x7000)]),
        LoadError::Overlap { gpa: 0x7000, .. }
    ));
    let vmsa = [7; 4096];
    let context = VpContext { gpa: 0x1000, compatibility_mask: MASK, vp_index: 0, data: &vmsa };
    assert!(matches!(refused(&[Directive::VpContext(context)]), LoadError::Overlap { gpa: 0x1000, .. }));
}

#[test]
fn work_is_bounded() {
    let area = |index, size| Directive::ParameterArea(ParameterArea { index, size, initial: None });
    assert!(matches!(refused(&[area(0, !0xfff)]), LoadError::TooLarge { .. }));
    assert!(matches!(refused(&[large(1 << 52)]), LoadError::AddressTooHigh { .. }));
    let pages: Vec<_> = (1..=MAX_LAUNCH_PAGES / 512).map(|n| large(n << 21)).collect();
    assert!(matches!(refused(&pages), LoadError::TooLarge { .. }));
}

/// 2 MiB pages are 512 pages to the digest, and their contents count.
#[test]
fn large_pages_are_measured() {
    let data: Vec<u8> = (0..2 << 20).map(|n: u32| (n / 4096) as u8).collect();
    let mut page = match large(0x20_0000) {
        Directive::PageData(page) => page,
        _ => unreachable!(),
    };
    page.data = Some(&data);
    let mut builder = FileBuilder::new(Revision::V1);
    builder.platform(Platform::sev_snp(MASK));
    builder.initialization(Initialization::GuestPolicy { policy: POLICY, compatibility_mask: MASK });
    builder.directive(Directive::PageData(page));
    let bytes = builder.write().unwrap();
    let mut digest = LaunchDigest::new();
    for (n, page) in data.as_chunks::<4096>().0.iter().enumerate() {
        digest.page(PageType::Normal, 0x20_0000 + n as u64 * PAGE, Some(page), false, VmplPermissions::NONE);
    }
    let file = IgvmFile::parse(&bytes).unwrap();
    assert_eq!(&measure(&file, HostProfile::Specification).unwrap(), digest.value());
}
