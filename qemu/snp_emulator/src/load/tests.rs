//! Launches, up to the report that a guest gets.

use super::igvm::{self, Environment};
use super::launch::{Launch, Platform};
use super::linux::{E820, Linux, place};
use crate::ending::Ending;
use crate::memory::PhysicalMemory;
use crate::vm::testing::{TestMachine, machine};
use crate::vm::{FIRST_VMSA, State};
use litebox_igvm::digest::{LaunchDigest, PageType, VmplPermissions};
use litebox_igvm::format::{
    Directive, FileBuilder, IgvmFile, Initialization, PageData, PageDataType, Platform as Header, Revision,
    VpContext,
};
use litebox_igvm::id_block::{EcdsaPublicKey, IdBlock, Identity};
use litebox_igvm::load::measure;
use litebox_igvm::profile::HostProfile;
use litebox_igvm::vmsa::{KVM_VMSA_GPA, Vmsa};
use p384::ecdsa::SigningKey;
use test_psp::message::{Message, kind, seal, unseal};
use test_psp::report::{Report, ReportVersion};

const POLICY: u64 = 0x3_0000;
const SECRETS: u64 = 0x2000;

fn platform(version: ReportVersion) -> Platform {
    Platform::new(version, 9)
}

/// The report that a guest gets, with the key out of the secrets page in its memory.
fn report(machine: &mut TestMachine, secrets: u64) -> Report {
    let mut key = [0; 32];
    machine.memory.read(secrets + 0x20, &mut key);
    let message = Message { kind: kind::REPORT_REQUEST, version: 1, vmpck: 0, payload: vec![0; 96] };
    let (mut request, mut response) = ([0; 4096], [0; 4096]);
    seal(&key, 1, &message, &mut request).unwrap();
    assert_eq!(machine.psp.as_mut().unwrap().request(&request, &mut response), 0);
    Report::parse(&unseal(&key, 2, &response).unwrap().payload[32..]).unwrap()
}

fn file(identity: Option<&Identity>, policy: u64) -> Vec<u8> {
    let (page, vmsa) = ([7; 4096], Vmsa::long_mode(0x1001, 0x5000).to_page());
    let mut builder = FileBuilder::new(Revision::V1);
    builder.platform(Header::sev_snp(1));
    builder.initialization(Initialization::GuestPolicy { policy, compatibility_mask: 1 });
    let header = identity.map(|identity| identity.to_header(1));
    if let Some(header) = &header {
        builder.directive(Directive::SnpIdBlock(header));
    }
    for (gpa, data_type, data) in [
        (0x1000, PageDataType::Normal, Some(&page[..])),
        (SECRETS, PageDataType::Secrets, None),
        (0x3000, PageDataType::CpuidData, None),
    ] {
        let (large, unmeasured, shared) = (false, false, false);
        builder.directive(Directive::PageData(PageData {
            gpa,
            compatibility_mask: 1,
            large,
            unmeasured,
            shared,
            data_type,
            data,
        }));
    }
    builder.directive(Directive::VpContext(VpContext {
        gpa: KVM_VMSA_GPA,
        compatibility_mask: 1,
        vp_index: 0,
        data: &vmsa,
    }));
    builder.write().unwrap()
}

fn load(file: &[u8], version: ReportVersion) -> Result<TestMachine, Ending> {
    let mut machine = machine(0x10_0000);
    let mut environment = Environment {
        profile: HostProfile::Qemu,
        memory: &[(0, 0x10_0000)],
        platform: platform(version),
        more_memory: &mut |_| None,
    };
    igvm::load(&mut machine, file, &mut environment).map(|()| machine)
}

fn signed(digest: [u8; 48], policy: u64, author: Option<&SigningKey>) -> Identity {
    let block = IdBlock {
        launch_digest: digest,
        family_id: [1; 16],
        image_id: [2; 16],
        version: 1.into(),
        guest_svn: 7.into(),
        policy: policy.into(),
    };
    Identity::sign(block, &SigningKey::from_slice(&[3; 48]).unwrap(), author)
}

fn predicted(file: &[u8]) -> [u8; 48] {
    measure(&IgvmFile::parse(file).unwrap(), HostProfile::Qemu).unwrap()
}

#[test]
fn the_report_is_about_what_was_loaded() {
    let file = file(None, POLICY);
    for version in [ReportVersion::V3, ReportVersion::V5] {
        let mut machine = load(&file, version).unwrap();
        assert_eq!(machine.cpus[0].state, State::Starting { vmsa: FIRST_VMSA });
        let report = report(&mut machine, SECRETS);
        assert_eq!(report.version.get(), version as u32);
        assert_eq!((report.measurement, machine.digest), (predicted(&file), predicted(&file)));
        assert_eq!((report.policy.get(), report.id_key_digest), (POLICY, [0; 48]));
    }
}

#[test]
fn keys_follow_from_the_seed() {
    let seeds = [1, 2, 1].map(|seed| Platform::new(ReportVersion::V3, seed).seed);
    assert_eq!(seeds[0], seeds[2]);
    assert_ne!(seeds[0], seeds[1]);
}

#[test]
fn an_id_block_is_checked_and_reported() {
    let author = SigningKey::from_slice(&[4; 48]).unwrap();
    let digest = predicted(&file(None, POLICY));
    for author in [None, Some(&author)] {
        let identity = signed(digest, POLICY, author);
        let mut machine = load(&file(Some(&identity), POLICY), ReportVersion::V3).unwrap();
        let report = report(&mut machine, SECRETS);
        assert_eq!((report.family_id, report.image_id, report.guest_svn.get()), ([1; 16], [2; 16], 7));
        assert_eq!(report.id_key_digest, identity.authentication.id_key.digest());
        let key = author.map_or([0; 48], |key| EcdsaPublicKey::from_key(key.verifying_key()).digest());
        assert_eq!(report.author_key_digest, key);
        assert_eq!(report.key_info.get() & 1, u32::from(author.is_some()));
    }
    let mut forged = signed(digest, POLICY, None);
    forged.block.guest_svn = 8.into();
    for wrong in [signed([0; 48], POLICY, None), forged] {
        let refused = load(&file(Some(&wrong), POLICY), ReportVersion::V3).err();
        assert!(matches!(&refused, Some(Ending::Launch(why)) if why.contains("SNP_LAUNCH_FINISH: ID block")));
    }
}

#[test]
fn a_policy_that_the_platform_cannot_keep_ends_the_launch() {
    let refused = load(&file(None, POLICY | 1 << 24), ReportVersion::V3).err();
    assert!(matches!(&refused, Some(Ending::Launch(why)) if why.contains("POLICY_FAILURE")), "{refused:?}");
}

/// A kernel of 1.5 pages at 16 MiB and a RAM disk of a page and a byte, in memory that was not empty.
fn linux(command_line: &str, stale: u8) -> TestMachine {
    const KERNEL: u64 = 0x1800;
    const INITRD: (u64, u64) = (place::KERNEL + 0x10_0000, 0x1001);
    let mut machine = machine(place::KERNEL + 0x20_0000);
    let mut setup = vec![0; 0x600];
    setup[0x1f1] = 2;
    setup[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    setup[0x201..0x206].copy_from_slice(b"\x6aHdrS");
    setup[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    setup[0x236] = 1;
    setup[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    for (at, size, with) in [(place::KERNEL, KERNEL, 5), (INITRD.0, INITRD.1, 6)] {
        machine.memory.write(at, &vec![stale; 0x4000]);
        machine.memory.write(at, &vec![with; size as usize]);
    }
    machine.validate_range(0, place::KERNEL + 0x20_0000);
    let linux = Linux {
        setup: &setup,
        command_line,
        kernel_size: KERNEL,
        initrd: INITRD,
        memory: &[(0, place::KERNEL + 0x20_0000, E820::Usable)],
        root: Some([3; 36]),
        c_bit: 51,
    };
    let launch = Launch::start(&platform(ReportVersion::V3), POLICY).unwrap();
    linux.load(&mut machine, launch).unwrap();
    machine
}

/// The digest, computed a second time from what is in memory, by the order that the documentation gives.
#[test]
fn linux_is_measured_by_address_and_its_cpu_last() {
    let mut machine = linux("quiet", 0xee);
    let mut digest = LaunchDigest::new();
    let low = [0x1_0000, 0x1_1000, 0x1_2000, 0x1_4000, 0x1_5000, 0x1_6000, 0x1_7000, 0x1_8000, 0x1_b000];
    let high = [0x100_0000, 0x100_1000, 0x110_0000, 0x110_1000];
    for gpa in low.into_iter().chain(high) {
        let mut page = [0; 4096];
        machine.memory.read(gpa, &mut page);
        let kind = match gpa {
            0x1_4000 => PageType::Secrets,
            0x1_5000 => PageType::Cpuid,
            _ => PageType::Normal,
        };
        digest.page(kind, gpa, Some(&page), false, VmplPermissions::NONE);
    }
    digest.vmsa(KVM_VMSA_GPA, &machine.first_vmsa);
    assert_eq!(machine.digest, *digest.value());
    assert_eq!(report(&mut machine, place::SECRETS).measurement, machine.digest);
    assert_eq!((machine.counters.measured_pages, machine.counters.launched_pages), (12, 13));
    let mut root = [0; 36];
    machine.memory.read(place::ROOT_POINTER, &mut root);
    assert_eq!(root, [3; 36]);
}

#[test]
fn the_digest_is_of_what_was_loaded_and_of_nothing_else() {
    let digest = linux("quiet", 0xee).digest;
    assert_eq!(linux("quiet", 0x11).digest, digest, "memory was not empty before");
    assert_ne!(linux("quieT", 0xee).digest, digest);
}
