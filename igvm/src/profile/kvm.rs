//! What KVM makes of a launch, whoever drives it: it builds the save areas from its own registers, and measures them last.

use alloc::format;

use super::{Check, specification};
use crate::format::Directive;
use crate::vmsa::{EFER_SVME, KVM_VMSA_GPA, SevFeatures};

pub(super) fn check(check: &mut Check<'_, '_>) {
    specification::guest_policy(check);
    specification::id_block(check);
    one_context(check);
    context_is_last(check);
    features(check);
}

/// QEMU `target/i386/sev.c`, `check_vmsa_supported`, and OpenVMM `virt_kvm/src/snp.rs`, `prepare_snp_config`: one save area, that
/// of the first CPU, at the address where KVM will measure it.
fn one_context(check: &mut Check<'_, '_>) {
    const SOURCE: &str = "Linux arch/x86/kvm/svm/sev.c, snp_launch_update_vmsa";
    let count = check.contexts().count();
    check.fail_unless(count == 1, 0, SOURCE, format!("{count} VP contexts: must be one"));
    for (at, _) in check.contexts() {
        check.fail_unless(
            at.header.vp_index == 0,
            at.offset,
            SOURCE,
            format!("VP context of CPU {}: must be for CPU 0", at.header.vp_index),
        );
        check.fail_unless(
            at.header.gpa == KVM_VMSA_GPA,
            at.offset,
            SOURCE,
            format!("save area at {:#x}: KVM measures it at {KVM_VMSA_GPA:#x}", at.header.gpa),
        );
    }
}

/// COCONUT-SVSM `igvmmeasure --check-kvm`: no page may follow the save area, since KVM measures that last.
fn context_is_last(check: &mut Check<'_, '_>) {
    const SOURCE: &str = "COCONUT-SVSM tools/igvmmeasure, --check-kvm";
    let mut context = None;
    for at in check.image.directives() {
        match at.header {
            Directive::VpContext(_) => context = Some(at.offset),
            Directive::PageData(_) | Directive::ParameterInsert(_) if context.is_some() => {
                check.fail(
                    at.offset,
                    SOURCE,
                    "a page after the VP context, which KVM measures last: swap them",
                );
                return;
            }
            _ => {}
        }
    }
}

/// Linux `arch/x86/kvm/svm/sev.c`: `sev_supported_vmsa_features` has DEBUG_SWAP and SECURE_TSC; KVM itself sets SNP_ACTIVE, and
/// EFER.SVME (`svm_set_efer`). The descriptor tables' limits are 16 bits in `struct kvm_dtable`.
fn features(check: &mut Check<'_, '_>) {
    const SOURCE: &str = "Linux arch/x86/kvm/svm/sev.c, sev_supported_vmsa_features";
    let supported = SevFeatures::SNP_ACTIVE | SevFeatures::DEBUG_SWAP | SevFeatures::SECURE_TSC;
    for (at, vmsa) in check.contexts() {
        let features = vmsa.features();
        check.fail_unless(
            features.contains(SevFeatures::SNP_ACTIVE),
            at.offset,
            SOURCE,
            "SEV_FEATURES without SNP_ACTIVE: set bit 0",
        );
        let others = features.difference(supported);
        check.fail_unless(
            others.is_empty(),
            at.offset,
            SOURCE,
            format!("SEV_FEATURES {:#x} are not KVM's: clear them", others.bits()),
        );
        check.fail_unless(
            vmsa.efer & EFER_SVME != 0,
            at.offset,
            "Linux arch/x86/kvm/svm/svm.c, svm_set_efer",
            "EFER without SVME, which KVM sets: set bit 12",
        );
        for table in [vmsa.gdtr, vmsa.idtr] {
            check.fail_unless(
                table.limit <= 0xffff && table.selector == 0 && table.attributes == 0,
                at.offset,
                "Linux arch/x86/include/uapi/asm/kvm.h, struct kvm_dtable",
                "a descriptor table has a base and a limit of 16 bits: clear the rest",
            );
        }
    }
}
