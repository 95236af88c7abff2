//! What the `igvm` crate 0.5 refuses: all three VMMs parse with it, QEMU through its C interface.
//!
//! Only rules beyond those that [`IgvmFile::parse`](crate::format::IgvmFile::parse) has itself.

use alloc::format;

use super::Check;
use crate::format::{
    Architecture, Directive, Initialization, ParameterKind, PlatformType, Revision, layout::MemoryMapEntry,
};

const SOURCE: &str = "igvm crate, igvm/src/lib.rs";

pub(super) fn check(check: &mut Check<'_, '_>) {
    file(check);
    platforms(check);
    initializations(check);
    directives(check);
    parameters(check);
}

/// `new_from_binary`: something must follow the headers. `validate_platform_headers`: SEV-SNP is for x86-64.
fn file(check: &mut Check<'_, '_>) {
    check.fail_unless(
        check.file.has_data(),
        0,
        SOURCE,
        "no data after the headers: give at least one page its contents",
    );
    let foreign = check.file.revision() == Revision::V2(Architecture::Aarch64);
    check.fail_unless(!foreign, 24, SOURCE, "SEV-SNP in a file for AArch64: build it for x86-64");
}

/// `IgvmPlatformHeader::validate`, for every platform of the file.
fn platforms(check: &mut Check<'_, '_>) {
    let platforms: alloc::vec::Vec<_> = check.file.platforms().collect();
    for at in platforms {
        let platform = at.header;
        check.fail_unless(
            matches!(platform.highest_vtl, 0 | 2),
            at.offset,
            SOURCE,
            format!("highest VTL {}: must be 0 or 2", platform.highest_vtl),
        );
        check.fail_unless(
            platform.version == 1,
            at.offset,
            SOURCE,
            format!("platform version {}: must be 1", platform.version),
        );
        check.fail_unless(
            !matches!(platform.platform_type, PlatformType::Other(_)),
            at.offset,
            SOURCE,
            format!("platform type {}: not known", platform.platform_type.to_raw()),
        );
        let no_boundary = matches!(platform.platform_type, PlatformType::Native | PlatformType::VsmIsolation);
        check.fail_unless(
            !no_boundary || platform.shared_gpa_boundary == 0,
            at.offset,
            SOURCE,
            "this platform has no shared GPA boundary: must be 0",
        );
    }
    let unknown: alloc::vec::Vec<_> = check.file.unknown_platforms().collect();
    for at in unknown {
        refuse_unknown(check, at.offset, at.header.header_type);
    }
}

/// Every unknown type is refused, also one that may be skipped.
fn refuse_unknown(check: &mut Check<'_, '_>, offset: usize, header_type: u32) {
    check.fail(
        offset,
        SOURCE,
        format!("header type {header_type:#x} is not known, and optional ones are not skipped"),
    );
}

/// `IgvmInitializationHeader::new_from_binary_split`: CoRIM headers are known only to a build with the feature `corim`.
fn initializations(check: &mut Check<'_, '_>) {
    let headers = check.file.initializations();
    for at in headers {
        match at.header {
            Initialization::Unknown(unknown) => refuse_unknown(check, at.offset, unknown.header_type),
            Initialization::CorimDocument { .. } | Initialization::CorimSignature { .. } => check.fail(
                at.offset,
                SOURCE,
                "CoRIM headers are known only to a build with the feature `corim`: deliver them beside the file",
            ),
            _ => {}
        }
    }
}

/// `IgvmDirectiveHeader::new_from_binary_split`: 4 KiB of data are read for every page; a VP context is for one platform.
fn directives(check: &mut Check<'_, '_>) {
    for at in check.file.directives() {
        match at.header {
            Directive::Unknown(unknown) => refuse_unknown(check, at.offset, unknown.header_type),
            Directive::PageData(page) => check.fail_unless(
                !page.large,
                at.offset,
                SOURCE,
                "of a page of 2 MiB only the first 4 KiB are read: use pages of 4 KiB",
            ),
            Directive::VpContext(context) => check.fail_unless(
                context.compatibility_mask.count_ones() == 1,
                at.offset,
                SOURCE,
                "a VP context must be for one platform: write one for each",
            ),
            _ => {}
        }
    }
}

/// `IGVM_VHS_PARAMETER`: a loader is to fail where a value does not fit. The fixed sizes are checked here; QEMU does not check.
fn parameters(check: &mut Check<'_, '_>) {
    let mut sizes = alloc::collections::BTreeMap::new();
    for at in check.file.directives() {
        match at.header {
            Directive::ParameterArea(area) => {
                sizes.insert(area.index, area.size);
            }
            Directive::Parameter(parameter) => {
                let least = match parameter.kind {
                    ParameterKind::VpCount | ParameterKind::EnvironmentInfo => 4,
                    ParameterKind::MmioRanges => 32,
                    ParameterKind::MemoryMap => size_of::<MemoryMapEntry>() as u64,
                    _ => 1,
                };
                let size = sizes.get(&parameter.index).copied().unwrap_or_default();
                check.fail_unless(
                    u64::from(parameter.byte_offset) + least <= size,
                    at.offset,
                    "IGVM specification, IGVM_VHS_PARAMETER",
                    format!(
                        "a value of at least {least} bytes does not fit here: enlarge the parameter area"
                    ),
                );
            }
            _ => {}
        }
    }
}
