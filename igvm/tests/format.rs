//! The format: what is written is read back; what is broken is refused, where it is broken; nothing panics.

mod common;

use common::{Guest, any_guest, portable_guest};
use litebox_igvm::format::{
    Architecture, Directive, FileBuilder, IgvmFile, ParameterArea, ParseError, Platform, PlatformType,
    Revision, Section, Unknown, seal,
};
use litebox_igvm::load::LoadPlan;
use litebox_igvm::profile::HostProfile;
use proptest::prelude::*;

fn headers<'a>(file: &IgvmFile<'a>) -> Vec<Directive<'a>> {
    file.directives().map(|at| at.header).collect()
}

/// Everything that is done with a file, on one that may be anything.
fn use_file(bytes: &[u8]) {
    let Ok(file) = IgvmFile::parse(bytes) else { return };
    assert!(file.directives().all(|at| at.offset < bytes.len()));
    for kind in [PlatformType::SevSnp, PlatformType::Native] {
        if let Some(image) = file.for_platform(kind) {
            assert!(image.directives().count() <= file.directives().count());
            image.guest_policy();
        }
    }
    let again = FileBuilder::from_file(&file).write().expect("what was read can be written");
    assert_eq!(headers(&IgvmFile::parse(&again).unwrap()), headers(&file));
    for profile in HostProfile::ALL {
        let _ = profile.check(&file).iter().map(ToString::to_string).collect::<Vec<_>>();
        let _ = LoadPlan::new(&file, profile).map_err(|error| error.to_string());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(guest in any_guest(), v2 in any::<bool>()) {
        let revision = if v2 { Revision::V2(Architecture::X64) } else { Revision::V1 };
        let bytes = guest.build_in(revision);
        let file = IgvmFile::parse(&bytes).unwrap();
        prop_assert_eq!(file.revision(), revision);
        prop_assert_eq!(&guest.build_in(revision), &bytes);
        prop_assert_eq!(FileBuilder::from_file(&file).write().unwrap(), bytes);
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        use_file(&bytes);
        let mut sealed = [b"IGVM\x01\0\0\0\x18\0\0\0".as_slice(), &bytes].concat();
        seal(&mut sealed);
        use_file(&sealed);
    }

    #[test]
    fn mutated_files_do_not_panic(
        guest in any_guest(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = guest.build();
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        // The headers are what counts; data can be anything.
        let headers = bytes.len().min(1024);
        for (at, value) in changes {
            if headers > 0 {
                bytes[at.index(headers)] = value;
            }
        }
        use_file(&bytes);
        seal(&mut bytes);
        use_file(&bytes);
    }

    #[test]
    fn a_changed_header_is_noticed(guest in any_guest(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut bytes = guest.build();
        let headers_end = 24 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        bytes[at.index(headers_end)] ^= 1u8 << bit;
        prop_assert!(IgvmFile::parse(&bytes).is_err());
    }

    #[test]
    fn every_host_loads_a_portable_guest(guest in portable_guest()) {
        let bytes = guest.build();
        let file = IgvmFile::parse(&bytes).unwrap();
        for profile in HostProfile::ALL {
            prop_assert_eq!(profile.check(&file), vec![]);
            LoadPlan::new(&file, profile).unwrap();
        }
    }
}

fn sample() -> Vec<u8> {
    Guest {
        items: vec![
            common::Item::Page {
                data_type: litebox_igvm::format::PageDataType::Normal,
                unmeasured: false,
                data: Some(common::page_of(1)),
            },
            common::Item::Parameters {
                pages: 1,
                kinds: vec![(litebox_igvm::format::ParameterKind::VpCount, 8)],
            },
        ],
        scatter: 0,
    }
    .build()
}

/// Offsets in [`sample`]: platform, policy, page, area, parameter, insert.
const PLATFORM: usize = 24;
const POLICY: usize = PLATFORM + 24;
const PAGE: usize = POLICY + 24;
const AREA: usize = PAGE + 32;
const PARAMETER: usize = AREA + 24;
const INSERT: usize = PARAMETER + 16;
const END: usize = INSERT + 24;

fn refusal(change: impl FnOnce(&mut Vec<u8>)) -> ParseError {
    let mut bytes = sample();
    change(&mut bytes);
    seal(&mut bytes);
    IgvmFile::parse(&bytes).expect_err("the change breaks the file")
}

fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[test]
fn the_sample_is_as_the_tests_think() {
    let bytes = sample();
    assert_eq!(bytes.len(), END + 4096);
    let file = IgvmFile::parse(&bytes).unwrap();
    let offsets: Vec<_> = file.directives().map(|at| at.offset).collect();
    assert_eq!(offsets, [PAGE, AREA, PARAMETER, INSERT]);
    assert_eq!(file.initializations().next().unwrap().offset, POLICY);
    assert_eq!(file.platforms().next().unwrap().offset, PLATFORM);
    assert!(file.for_platform(PlatformType::Tdx).is_none());
    assert_eq!(file.for_platform(PlatformType::SevSnp).unwrap().guest_policy(), Some(common::POLICY));
}

#[test]
fn each_fault_is_named_where_it_is() {
    use ParseError as E;
    let bytes = sample();
    assert_eq!(IgvmFile::parse(&[]).unwrap_err(), E::Truncated { offset: 0, needed: 24 });
    assert_eq!(
        IgvmFile::parse(&bytes[..100]).unwrap_err(),
        E::WrongFileSize { offset: 16, stated: (END + 4096) as u32, actual: 100 }
    );
    let mut unsealed = bytes.clone();
    unsealed[PAGE + 8] ^= 1;
    assert!(matches!(IgvmFile::parse(&unsealed).unwrap_err(), E::BadChecksum { offset: 20, .. }));

    assert_eq!(refusal(|b| b[0] = b'X'), E::BadMagic { offset: 0 });
    assert_eq!(refusal(|b| b[4] = 3), E::UnsupportedVersion { offset: 4, version: 3 });
    assert_eq!(refusal(|b| b[8] = 28), E::BadVariableHeaderRange { offset: 8 });
    assert_eq!(refusal(|b| b[8] = 16), E::BadVariableHeaderRange { offset: 8 });
    assert_eq!(refusal(|b| set(b, 12, &[0xff; 4])), E::BadVariableHeaderRange { offset: 8 });
    assert_eq!(refusal(|b| b.truncate(END)), {
        E::DataOutsideFile { offset: PAGE, data_offset: END as u32, size: 4096 }
    });
    assert_eq!(refusal(|b| b[PLATFORM + 8] = 3), E::PlatformMaskNotOneBit { offset: PLATFORM, mask: 3 });
    assert_eq!(
        refusal(|b| (b[PLATFORM + 4], b[PLATFORM + 8 + 15]) = (12, 1)),
        E::PaddingNotZero { offset: PLATFORM },
        "a shorter body leaves bytes that are no padding"
    );
    assert_eq!(
        refusal(|b| b[PLATFORM + 4] = 24),
        E::WrongHeaderLength { offset: PLATFORM, header_type: 1, length: 24 }
    );
    assert_eq!(refusal(|b| b[POLICY + 20] = 1), E::ReservedNotZero { offset: POLICY });
    assert_eq!(
        refusal(|b| b[PAGE] = 0x01),
        E::WrongHeaderLength { offset: PAGE, header_type: 0x301, length: 24 }
    );
    assert_eq!(
        refusal(|b| set(b, AREA, &[1, 0])),
        E::SectionOrder { offset: AREA, section: Section::Platform }
    );
    assert_eq!(
        refusal(|b| b[PAGE + 8] = 1),
        E::Unaligned { offset: PAGE, value: 0x10_0001 | u64::from(bytes[PAGE + 9]) << 8, alignment: 4096 }
    );
    assert_eq!(
        refusal(|b| set(b, PAGE + 8, &[0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
        E::AddressOverflow { offset: PAGE, gpa: 0xffff_ffff_ffff_f000 }
    );
    assert_eq!(
        refusal(|b| set(b, PAGE + 20, &[32, 0, 0, 0])),
        E::DataOutsideFile { offset: PAGE, data_offset: 32, size: 4096 },
        "headers are no data"
    );
    assert_eq!(refusal(|b| b[PAGE + 24] = 8), E::ReservedNotZero { offset: PAGE });
    assert_eq!(refusal(|b| b[PAGE + 28] = 4), E::UnknownPageDataType { offset: PAGE, data_type: 4 });
    assert_eq!(refusal(|b| b[PARAMETER + 8] = 9), E::NoParameterArea { offset: PARAMETER, index: 9 });
    assert_eq!(
        refusal(|b| b[PARAMETER + 13] = 0x10),
        E::ParameterOutsideArea { offset: PARAMETER, byte_offset: 0x1008, area_size: 4096 }
    );
    assert_eq!(refusal(|b| b[INSERT + 20] = 7), E::NoParameterArea { offset: INSERT, index: 7 });
}

/// Headers of two builders put one after the other: areas twice, platforms twice, none.
#[test]
fn indices_and_platforms_are_used_once() {
    let area = Directive::ParameterArea(ParameterArea { index: 5, size: 4096, initial: None });
    let mut builder = FileBuilder::new(Revision::V1);
    let error = |builder: &FileBuilder<'_>| match builder.write().unwrap_err() {
        litebox_igvm::format::WriteError::Invalid(error) => error,
        other => panic!("{other}"),
    };
    assert_eq!(error(&builder), ParseError::NoPlatform { offset: 24 });
    builder.platform(Platform::sev_snp(1)).directive(area).directive(area);
    assert_eq!(error(&builder), ParseError::DuplicateParameterArea { offset: 72, index: 5 });
    builder.platform(Platform::sev_snp(2));
    assert_eq!(error(&builder), ParseError::DuplicatePlatform { offset: 48 });
}

#[test]
fn a_flag_of_an_id_block_is_0_or_1() {
    use litebox_igvm::format::layout::SnpIdBlock;
    let mut block: SnpIdBlock = zerocopy::FromZeros::new_zeroed();
    (block.compatibility_mask, block.author_key_enabled) = (1.into(), 4);
    let mut builder = FileBuilder::new(Revision::V1);
    builder.platform(Platform::sev_snp(1)).directive(Directive::SnpIdBlock(&block));
    let error = litebox_igvm::format::WriteError::Invalid(ParseError::ReservedNotZero { offset: 48 });
    assert_eq!(builder.write().unwrap_err(), error);
}

#[test]
fn unknown_headers_are_kept() {
    let unknown = |header_type| Unknown { header_type, body: b"seven b" };
    let mut builder = FileBuilder::new(Revision::V1);
    builder.platform(Platform::sev_snp(1));
    builder.directive(Directive::Unknown(unknown(0x3f0))).directive(Directive::Unknown(unknown(0x8000_03f1)));
    let bytes = builder.write().unwrap();
    let file = IgvmFile::parse(&bytes).unwrap();
    let found: Vec<_> = headers(&file);
    assert_eq!(found, [Directive::Unknown(unknown(0x3f0)), Directive::Unknown(unknown(0x8000_03f1))]);
    assert!(!unknown(0x3f0).is_optional() && unknown(0x8000_03f1).is_optional());
    // Only the one that may not be skipped is in the way.
    let violations = HostProfile::Specification.check(&file);
    assert_eq!(violations.iter().filter(|v| v.source.contains("Variable Header")).count(), 1);
}

/// COCONUT-SVSM's builder sets the bits of all platforms that it knows, whichever it declares.
#[test]
fn bits_of_no_platform_concern_nobody() {
    use litebox_igvm::format::Initialization;
    use litebox_igvm::load::measure;
    use litebox_igvm::profile::HostProfile;
    let page = common::page_of(9);
    let digest = |mask: u32| {
        let mut builder = FileBuilder::new(Revision::V1);
        builder.platform(Platform::sev_snp(1));
        builder
            .initialization(Initialization::GuestPolicy { policy: 0x3_0000, compatibility_mask: mask | 1 });
        builder.page(mask, 0x1000, &page).page(!1, 0x2000, &page);
        measure(&IgvmFile::parse(&builder.write().unwrap()).unwrap(), HostProfile::Specification).unwrap()
    };
    assert_eq!(digest(0x17), digest(1));
    assert_ne!(digest(0x16), digest(1), "not for this platform");
}

#[test]
fn equal_pages_are_stored_once() {
    let page = common::page_of(9);
    let mut builder = FileBuilder::new(Revision::V1);
    builder.platform(Platform::sev_snp(1));
    builder.page(1, 0x1000, &page).page(1, 0x2000, &page).page(1, 0x3000, &[0; 4096]);
    let bytes = builder.write().unwrap();
    assert_eq!(bytes.len(), 24 + 24 + 3 * 32 + 4096);
}

#[test]
fn masks_select() {
    let page = common::page_of(2);
    let native = Platform { platform_type: PlatformType::Native, ..Platform::sev_snp(2) };
    let mut builder = FileBuilder::new(Revision::V1);
    builder.platform(Platform { highest_vtl: 2, shared_gpa_boundary: 1 << 46, ..Platform::sev_snp(1) });
    builder.platform(native);
    builder.page(1, 0x1000, &page).page(2, 0x2000, &page).page(3, 0x3000, &page);
    let bytes = builder.write().unwrap();
    let file = IgvmFile::parse(&bytes).unwrap();
    let addresses = |kind| -> Vec<u64> {
        let image = file.for_platform(kind).unwrap();
        let pages = image.directives().filter_map(|at| match at.header {
            Directive::PageData(page) => Some(page.gpa),
            _ => None,
        });
        pages.collect()
    };
    assert_eq!(addresses(PlatformType::SevSnp), [0x1000, 0x3000]);
    assert_eq!(addresses(PlatformType::Native), [0x2000, 0x3000]);
    let platform = file.for_platform(PlatformType::SevSnp).unwrap().platform();
    assert_eq!((platform.highest_vtl, platform.shared_gpa_boundary), (2, 1 << 46));
}
