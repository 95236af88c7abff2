//! What no SNP host can load, whoever wrote it.

use zerocopy::IntoBytes;

use super::Check;
use crate::format::{Directive, Initialization};

pub(super) fn check(check: &mut Check<'_, '_>) {
    unknown_headers(check);
    guest_policy(check);
    id_block(check);
}

/// IGVM specification, "Variable Header": a loader that does not know a header may skip it only where its type has the high bit.
fn unknown_headers(check: &mut Check<'_, '_>) {
    const SOURCE: &str = "IGVM specification, Variable Header";
    let platform = check.file.unknown_platforms().map(|at| (at.offset, at.header));
    let initialization = check.file.initializations().filter_map(|at| match at.header {
        Initialization::Unknown(unknown) => Some((at.offset, unknown)),
        _ => None,
    });
    let directives = check.file.directives().filter_map(|at| match at.header {
        Directive::Unknown(unknown) => Some((at.offset, unknown)),
        _ => None,
    });
    let unknown: alloc::vec::Vec<_> = platform.chain(initialization).chain(directives).collect();
    for (offset, unknown) in unknown {
        let what = alloc::format!("header type {:#x} is not known and not optional", unknown.header_type);
        check.fail_unless(unknown.is_optional(), offset, SOURCE, what);
    }
}

/// SNP firmware ABI (56860), "Guest Policy": bit 17 is reserved and must be one; there must be a policy at all.
pub(super) fn guest_policy(check: &mut Check<'_, '_>) {
    const SOURCE: &str = "SNP firmware ABI, Guest Policy";
    match check.image.guest_policy() {
        None => check.fail(0, SOURCE, "no guest policy: add GUEST_POLICY to the initialization headers"),
        Some(policy) => check.fail_unless(
            policy & (1 << 17) != 0,
            0,
            SOURCE,
            alloc::format!("guest policy {policy:#x}: bit 17 must be one"),
        ),
    }
}

/// SNP firmware ABI (56860), SNP_LAUNCH_FINISH takes one ID block, of version 1. IGVM_VHS_SNP_ID_BLOCK: an author key that is not
/// enabled is zero; QEMU looks at the key alone (`backends/igvm.c`, `target/i386/sev.c`).
pub(super) fn id_block(check: &mut Check<'_, '_>) {
    const SOURCE: &str = "SNP firmware ABI, ID Block Structure";
    let blocks: alloc::vec::Vec<_> = check
        .image
        .directives()
        .filter_map(|at| match at.header {
            Directive::SnpIdBlock(block) => Some((at.offset, block)),
            _ => None,
        })
        .collect();
    for (index, (offset, block)) in blocks.into_iter().enumerate() {
        check.fail_unless(index == 0, offset, SOURCE, "a second ID block: keep one");
        let author_key_is_zero = block.author_key_algorithm == 0
            && block.author_public_key.as_bytes().iter().all(|&byte| byte == 0)
            && block.author_key_signature.as_bytes().iter().all(|&byte| byte == 0);
        check.fail_unless(
            block.author_key_enabled != 0 || author_key_is_zero,
            offset,
            "IGVM specification, IGVM_VHS_SNP_ID_BLOCK",
            "an author key that is not enabled, which QEMU would use all the same: enable it or clear its fields",
        );
        let version = block.version.get();
        check.fail_unless(
            version == 1,
            offset,
            SOURCE,
            alloc::format!("ID block version {version}: must be 1"),
        );
    }
}
