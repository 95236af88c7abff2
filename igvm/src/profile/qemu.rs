//! QEMU with `igvm-cfg` and `sev-snp-guest`: `backends/igvm.c` and `target/i386/sev.c` of 10.1 and later.

use alloc::format;

use super::{Check, igvm_crate, kvm};
use crate::format::{Directive, Initialization, ParameterKind};
use crate::vmsa::Vmsa;

const IGVM: &str = "QEMU backends/igvm.c";
const SEV: &str = "QEMU target/i386/sev.c, check_vmsa_supported";

pub(super) fn check(check: &mut Check<'_, '_>) {
    igvm_crate::check(check);
    kvm::check(check);
    header_types(check);
    parameter_areas(check);
    shared_pages(check);
    check.vmsas_survive(SEV, rebuilt);
}

/// `handlers`: a header of any other type ends the launch, also one that is for another platform.
fn header_types(check: &mut Check<'_, '_>) {
    for at in check.file.initializations() {
        let known = matches!(at.header, Initialization::GuestPolicy { .. });
        check.fail_unless(
            known,
            at.offset,
            IGVM,
            "the only initialization header that is handled is GUEST_POLICY",
        );
    }
    for at in check.file.directives() {
        let refused = match at.header {
            Directive::Parameter(parameter) => match parameter.kind {
                ParameterKind::VpCount
                | ParameterKind::Madt
                | ParameterKind::MemoryMap
                | ParameterKind::EnvironmentInfo => None,
                kind => Some(kind.header_type()),
            },
            Directive::ErrorRange(_) => Some(crate::format::layout::header_type::ERROR_RANGE),
            _ => None,
        };
        if let Some(header_type) = refused {
            check.fail(at.offset, IGVM, format!("directive {header_type:#x} is not handled: leave it out"));
        }
    }
}

/// `qigvm_directive_parameter_area` ignores initial contents, `qigvm_directive_memory_map` ignores the offset.
fn parameter_areas(check: &mut Check<'_, '_>) {
    for at in check.file.directives() {
        match at.header {
            Directive::ParameterArea(area) => check.fail_unless(
                area.initial.is_none(),
                at.offset,
                IGVM,
                "initial contents of a parameter area are ignored: use a page of its own",
            ),
            Directive::Parameter(parameter) if parameter.kind == ParameterKind::MemoryMap => check
                .fail_unless(
                    parameter.byte_offset == 0,
                    at.offset,
                    IGVM,
                    "the memory map is written at the start of its area: use offset 0",
                ),
            _ => {}
        }
    }
}

/// `qigvm_type_to_cgs_type`: the flag `shared` is not looked at, the page is private and measured.
fn shared_pages(check: &mut Check<'_, '_>) {
    for at in check.image.directives() {
        if let Directive::PageData(page) = at.header {
            check.fail_unless(
                !page.shared,
                at.offset,
                IGVM,
                "the flag `shared` is ignored: let the guest share the page",
            );
        }
    }
}

/// What `sev_apply_cpu_context` hands to KVM; everything else must be zero.
fn rebuilt(vmsa: &Vmsa) -> Vmsa {
    let mut copy = Vmsa::zeroed();
    (copy.es, copy.cs, copy.ss) = (vmsa.es, vmsa.cs, vmsa.ss);
    (copy.ds, copy.fs, copy.gs) = (vmsa.ds, vmsa.fs, vmsa.gs);
    (copy.gdtr, copy.idtr) = (vmsa.gdtr, vmsa.idtr);
    (copy.ldtr, copy.tr) = (vmsa.ldtr, vmsa.tr);
    (copy.efer, copy.cr0, copy.cr3, copy.cr4) = (vmsa.efer, vmsa.cr0, vmsa.cr3, vmsa.cr4);
    (copy.xcr0, copy.dr6, copy.dr7) = (vmsa.xcr0, vmsa.dr6, vmsa.dr7);
    (copy.rax, copy.rcx, copy.rdx, copy.rbx) = (vmsa.rax, vmsa.rcx, vmsa.rdx, vmsa.rbx);
    (copy.rsp, copy.rbp, copy.rsi, copy.rdi) = (vmsa.rsp, vmsa.rbp, vmsa.rsi, vmsa.rdi);
    copy.r8_r15 = vmsa.r8_r15;
    (copy.rip, copy.rflags, copy.pat) = (vmsa.rip, vmsa.rflags, vmsa.pat);
    (copy.x87_fcw, copy.mxcsr) = (vmsa.x87_fcw, vmsa.mxcsr);
    copy.sev_features = vmsa.sev_features;
    copy
}
