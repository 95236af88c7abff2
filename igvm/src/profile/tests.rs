//! Each rule: a file that every host loads, and the one change that breaks it.

use super::*;
use crate::format::layout::SnpIdBlock;
use crate::format::{
    ErrorRange, FileBuilder, Initialization, PageData, PageDataType, Parameter, ParameterArea,
    ParameterInsert, ParameterKind, Platform, RelocatableRegion, Revision, Unknown,
};
use crate::vmsa::{KVM_VMSA_GPA, SevFeatures};
use zerocopy::FromZeros;

const PAGE: [u8; 4096] = [0xcc; 4096];

/// What a test changes.
struct Draft {
    platform: Platform,
    policy: Option<u64>,
    /// Before the save area.
    before: Vec<Directive<'static>>,
    vmsa: Vmsa,
    vmsa_gpa: u64,
    vp_index: u16,
    after: Vec<Directive<'static>>,
    first_platform: Option<Platform>,
    initialization: Option<Initialization<'static>>,
}

fn page(gpa: u64) -> PageData<'static> {
    PageData {
        gpa,
        compatibility_mask: 1,
        large: false,
        unmeasured: false,
        shared: false,
        data_type: PageDataType::Normal,
        data: Some(&PAGE),
    }
}

/// The violations of a file in which one thing is changed, by the sources they name.
fn violations(profile: HostProfile, change: impl FnOnce(&mut Draft)) -> Vec<Violation> {
    let mut draft = Draft {
        platform: Platform::sev_snp(1),
        policy: Some(0x3_0000),
        before: vec![Directive::PageData(page(0x1000))],
        vmsa: Vmsa::long_mode(0x1000, 0x2000),
        vmsa_gpa: KVM_VMSA_GPA,
        vp_index: 0,
        after: Vec::new(),
        first_platform: None,
        initialization: None,
    };
    change(&mut draft);
    let vmsa = draft.vmsa.to_page();
    let mut builder = FileBuilder::new(Revision::V1);
    for platform in draft.first_platform.into_iter().chain([draft.platform]) {
        builder.platform(platform);
    }
    if let Some(policy) = draft.policy {
        builder.initialization(Initialization::GuestPolicy { policy, compatibility_mask: 1 });
    }
    if let Some(header) = draft.initialization {
        builder.initialization(header);
    }
    for &header in &draft.before {
        builder.directive(header);
    }
    builder.directive(Directive::VpContext(VpContext {
        gpa: draft.vmsa_gpa,
        compatibility_mask: 1,
        vp_index: draft.vp_index,
        data: &vmsa,
    }));
    for &header in &draft.after {
        builder.directive(header);
    }
    let bytes = builder.write().unwrap();
    profile.check(&IgvmFile::parse(&bytes).unwrap())
}

/// Which of the hosts refuse it.
fn refusers(change: impl Fn(&mut Draft)) -> Vec<&'static str> {
    let mut names = Vec::new();
    for profile in HostProfile::ALL {
        let found = violations(profile, &change);
        if !found.is_empty() {
            assert!(found.iter().all(|violation| !violation.source.is_empty() && !violation.what.is_empty()));
            names.push(profile.name());
        }
    }
    names
}

const EVERYONE: [&str; 4] = ["specification", "qemu", "openvmm", "cloud-hypervisor"];
const ALL_KVM: [&str; 3] = ["qemu", "openvmm", "cloud-hypervisor"];

#[test]
fn names_go_both_ways() {
    for profile in HostProfile::ALL {
        assert_eq!(HostProfile::from_name(profile.name()), Some(profile));
    }
    assert_eq!(HostProfile::from_name("xen"), None);
}

#[test]
fn the_draft_is_loaded_by_everyone() {
    for profile in HostProfile::ALL {
        assert_eq!(violations(profile, |_| {}), []);
    }
}

#[test]
fn policy() {
    assert_eq!(refusers(|d| d.policy = None), EVERYONE);
    assert_eq!(refusers(|d| d.policy = Some(0x1_0000)), EVERYONE);
}

#[test]
fn unknown_headers() {
    let unknown = |header_type| Directive::Unknown(Unknown { header_type, body: &[] });
    assert_eq!(refusers(|d| d.before.push(unknown(0x3f0))), EVERYONE);
    assert_eq!(refusers(|d| d.before.push(unknown(0x8000_03f0))), ALL_KVM);
}

#[test]
fn a_hostile_file_gets_a_short_answer() {
    let unknown = Directive::Unknown(Unknown { header_type: 0x3f0, body: &[] });
    let found = violations(HostProfile::Qemu, |d| d.before.extend([unknown; 5000]));
    assert_eq!(found.len(), MAX_VIOLATIONS);
}

#[test]
fn save_area() {
    assert_eq!(refusers(|d| d.vmsa_gpa = 0x4000), ALL_KVM);
    assert_eq!(refusers(|d| d.vp_index = 1), ALL_KVM);
    assert_eq!(refusers(|d| d.after.push(Directive::PageData(page(0x5000)))), ALL_KVM);
    assert_eq!(refusers(|d| d.vmsa.efer &= !crate::vmsa::EFER_SVME), ALL_KVM);
    assert_eq!(refusers(|d| d.vmsa.sev_features = 0), ALL_KVM);
    assert_eq!(refusers(|d| d.vmsa.sev_features |= SevFeatures::RESTRICTED_INJECTION.bits()), ALL_KVM);
    assert_eq!(refusers(|d| d.vmsa.sev_features |= SevFeatures::DEBUG_SWAP.bits()), [""; 0]);
    assert_eq!(refusers(|d| d.vmsa.gdtr.limit = 0x1_0000), ALL_KVM);
    assert_eq!(refusers(|d| d.vmsa.gdtr.attributes = 1), ALL_KVM);
    let again = Directive::VpContext(VpContext {
        gpa: KVM_VMSA_GPA,
        compatibility_mask: 1,
        vp_index: 0,
        data: &PAGE,
    });
    assert_eq!(refusers(|d| d.after.push(again)), ALL_KVM);
}

/// What each hands to KVM; the lists differ.
#[test]
fn registers() {
    assert_eq!(refusers(|d| d.vmsa.r8_r15[7] = 1), [""; 0]);
    assert_eq!(refusers(|d| d.vmsa.pl_ssp[0] = 1), ALL_KVM);
    assert_eq!(refusers(|d| d.vmsa.fpreg_xmm[0] = 1), ALL_KVM);
    assert_eq!(refusers(|d| d.vmsa.star = 1), ["qemu", "cloud-hypervisor"]);
    assert_eq!(refusers(|d| d.vmsa.xss = 1), ["qemu", "cloud-hypervisor"]);
    assert_eq!(refusers(|d| d.vmsa.dr6 = 0), ["cloud-hypervisor"]);
    assert_eq!(refusers(|d| d.vmsa.mxcsr = 0), ["cloud-hypervisor"]);
    assert_eq!(refusers(|d| d.vmsa.virtual_tom = 1), ALL_KVM);
    let found = violations(HostProfile::Qemu, |d| d.vmsa.cstar = 1);
    assert!(found[0].what.contains("`cstar`") && found[0].source.contains("QEMU"), "{}", found[0]);
}

#[test]
fn entry_mode() {
    assert_eq!(refusers(|d| d.vmsa = Vmsa::protected_mode(0x1000)), ["openvmm"]);
    assert_eq!(refusers(|d| d.vmsa.rip = 0), ["openvmm"]);
    assert_eq!(refusers(|d| d.vmsa.cr3 = 0), ["openvmm"]);
}

#[test]
fn platform() {
    assert_eq!(refusers(|d| d.platform.highest_vtl = 2), ["openvmm"]);
    assert_eq!(refusers(|d| d.platform.shared_gpa_boundary = 1 << 46), ["openvmm"]);
    assert_eq!(refusers(|d| d.platform.version = 2), ALL_KVM);
    let native = Platform { platform_type: PlatformType::Native, ..Platform::sev_snp(2) };
    assert_eq!(refusers(|d| d.first_platform = Some(native)), ["cloud-hypervisor"]);
    let odd = Platform { platform_type: PlatformType::Other(9), ..Platform::sev_snp(2) };
    assert_eq!(refusers(|d| d.first_platform = Some(odd)), ALL_KVM);
    assert_eq!(refusers(|d| d.platform.platform_type = PlatformType::SevEs), EVERYONE);
}

#[test]
fn initialization() {
    let region = Initialization::RelocatableRegion(RelocatableRegion {
        compatibility_mask: 1,
        vp_index: 0,
        vtl: 0,
        flags: 0,
        alignment: 0x1000,
        gpa: 0,
        size: 0x1000,
        minimum_gpa: 0,
        maximum_gpa: 0,
    });
    assert_eq!(refusers(|d| d.initialization = Some(region)), ["qemu", "openvmm"]);
    let corim = Initialization::CorimDocument { compatibility_mask: 1, document: b"reference values" };
    assert_eq!(refusers(|d| d.initialization = Some(corim)), ALL_KVM);
}

#[test]
fn pages() {
    let with = |change: fn(&mut PageData<'static>)| {
        refusers(move |d| {
            let mut page = page(0x20_0000);
            change(&mut page);
            d.before.push(Directive::PageData(page));
        })
    };
    assert_eq!(with(|_| {}), [""; 0]);
    assert_eq!(with(|page| page.unmeasured = true), [""; 0]);
    assert_eq!(with(|page| page.data_type = PageDataType::CpuidData), [""; 0]);
    assert_eq!(with(|page| page.data_type = PageDataType::CpuidXf), ["openvmm", "cloud-hypervisor"]);
    assert_eq!(with(|page| page.shared = true), ["qemu", "cloud-hypervisor"]);
    assert_eq!(with(|page| (page.large, page.data) = (true, None)), ALL_KVM);
    let range = Directive::ErrorRange(ErrorRange { gpa: 0x8000, compatibility_mask: 1, size: 0x1000 });
    assert_eq!(refusers(|d| d.before.push(range)), ["qemu", "cloud-hypervisor"]);
    let empty = Directive::ErrorRange(ErrorRange { gpa: 0x8000, compatibility_mask: 1, size: 0 });
    assert_eq!(refusers(|d| d.before.push(empty)), ALL_KVM);
}

#[test]
fn parameters() {
    let with = |kind, byte_offset, initial: Option<&'static [u8]>| {
        refusers(move |d| {
            let area = ParameterArea { index: 0, size: 4096, initial };
            let insert = ParameterInsert { gpa: 0x8000, compatibility_mask: 1, index: 0 };
            d.before.extend([
                Directive::ParameterArea(area),
                Directive::Parameter(Parameter { kind, index: 0, byte_offset }),
                Directive::ParameterInsert(insert),
            ]);
        })
    };
    let refused = |kind| with(kind, 0, None);
    assert_eq!(refused(ParameterKind::VpCount), [""; 0]);
    assert_eq!(refused(ParameterKind::MemoryMap), [""; 0]);
    assert_eq!(refused(ParameterKind::Madt), ["cloud-hypervisor"]);
    assert_eq!(refused(ParameterKind::EnvironmentInfo), ["cloud-hypervisor"]);
    assert_eq!(refused(ParameterKind::CommandLine), ["qemu"]);
    for kind in [
        ParameterKind::Srat,
        ParameterKind::Slit,
        ParameterKind::Pptt,
        ParameterKind::MmioRanges,
        ParameterKind::DeviceTree,
    ] {
        assert_eq!(refused(kind), ["qemu", "cloud-hypervisor"]);
    }
    assert_eq!(with(ParameterKind::MemoryMap, 8, None), ["qemu"]);
    assert_eq!(with(ParameterKind::VpCount, 4093, None), ALL_KVM);
    assert_eq!(with(ParameterKind::VpCount, 4092, None), [""; 0]);
    assert_eq!(with(ParameterKind::VpCount, 0, Some(&PAGE)), ["qemu"]);
}

#[test]
fn id_blocks() {
    let block: &'static SnpIdBlock = Box::leak(Box::new({
        let mut block = SnpIdBlock::new_zeroed();
        (block.compatibility_mask, block.version) = (1.into(), 1.into());
        block
    }));
    assert_eq!(refusers(|d| d.before.push(Directive::SnpIdBlock(block))), [""; 0]);
    assert_eq!(refusers(|d| d.before.extend([Directive::SnpIdBlock(block); 2])), EVERYONE);
    let mut hidden = *block;
    hidden.author_public_key.curve = 2.into();
    let hidden: &'static SnpIdBlock = Box::leak(Box::new(hidden));
    assert_eq!(refusers(|d| d.before.push(Directive::SnpIdBlock(hidden))), EVERYONE);
    let enabled: &'static SnpIdBlock = Box::leak(Box::new(SnpIdBlock { author_key_enabled: 1, ..*hidden }));
    assert_eq!(refusers(|d| d.before.push(Directive::SnpIdBlock(enabled))), [""; 0]);
    let old: &'static SnpIdBlock = Box::leak(Box::new(SnpIdBlock { version: 0.into(), ..*block }));
    assert_eq!(refusers(|d| d.before.push(Directive::SnpIdBlock(old))), EVERYONE);
}
