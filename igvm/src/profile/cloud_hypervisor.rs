//! Cloud Hypervisor on KVM, with its features `kvm`, `igvm` and `sev_snp`: `vmm/src/igvm/` and `hypervisor/src/kvm/` of 2026.
//!
//! Its page of kernel hashes, which it adds where a kernel is given beside the file, is not modelled: give none.

use alloc::format;

use super::{Check, igvm_crate, kvm};
use crate::format::{Directive, PageDataType, ParameterKind, PlatformType};
use crate::vmsa::{DR6_RESET, DR7_RESET, FCW_RESET, MXCSR_RESET, PAT_RESET, Vmsa};

const LOADER: &str = "Cloud Hypervisor vmm/src/igvm/igvm_loader.rs, load_igvm";

pub(super) fn check(check: &mut Check<'_, '_>) {
    igvm_crate::check(check);
    kvm::check(check);
    platform(check);
    directives(check);
    check.vmsas_survive("Cloud Hypervisor hypervisor/src/kvm/mod.rs, setup_sev_snp_regs", rebuilt);
}

/// The mask is that of the first platform, which has to be SEV-SNP.
fn platform(check: &mut Check<'_, '_>) {
    let first = check.file.platforms().next();
    if let Some(at) = first.filter(|at| at.header.platform_type != PlatformType::SevSnp) {
        check.fail(at.offset, LOADER, "the first platform must be SEV-SNP: write it first");
    }
}

/// What ends in `todo!`, and the flag that is not looked at.
fn directives(check: &mut Check<'_, '_>) {
    for at in check.image.directives() {
        match at.header {
            Directive::PageData(page) => {
                check.fail_unless(
                    page.data_type != PageDataType::CpuidXf,
                    at.offset,
                    LOADER,
                    "a CPUID page for extended state is not supported: use one CPUID page",
                );
                check.fail_unless(
                    !page.shared,
                    at.offset,
                    LOADER,
                    "the flag `shared` is ignored: let the guest share the page",
                );
            }
            Directive::Parameter(parameter) => check.fail_unless(
                matches!(
                    parameter.kind,
                    ParameterKind::VpCount | ParameterKind::MemoryMap | ParameterKind::CommandLine
                ),
                at.offset,
                LOADER,
                format!("directive {:#x} is not supported: leave it out", parameter.kind.header_type()),
            ),
            Directive::ErrorRange(_) => {
                check.fail(at.offset, LOADER, "ERROR_RANGE is not supported: leave it out")
            }
            _ => {}
        }
    }
}

/// What `setup_sev_snp_regs` hands to KVM, and what a CPU that KVM has reset holds in the other registers.
fn rebuilt(vmsa: &Vmsa) -> Vmsa {
    let mut copy = Vmsa::zeroed();
    (copy.es, copy.cs, copy.ss) = (vmsa.es, vmsa.cs, vmsa.ss);
    (copy.ds, copy.fs, copy.gs) = (vmsa.ds, vmsa.fs, vmsa.gs);
    (copy.gdtr, copy.idtr, copy.ldtr, copy.tr) = (vmsa.gdtr, vmsa.idtr, vmsa.ldtr, vmsa.tr);
    (copy.efer, copy.cr0, copy.cr3, copy.cr4) = (vmsa.efer, vmsa.cr0, vmsa.cr3, vmsa.cr4);
    (copy.rax, copy.rcx, copy.rdx, copy.rbx) = (vmsa.rax, vmsa.rcx, vmsa.rdx, vmsa.rbx);
    (copy.rsp, copy.rbp, copy.rsi, copy.rdi) = (vmsa.rsp, vmsa.rbp, vmsa.rsi, vmsa.rdi);
    copy.r8_r15 = vmsa.r8_r15;
    (copy.rip, copy.rflags) = (vmsa.rip, vmsa.rflags);
    (copy.dr6, copy.dr7, copy.pat, copy.xcr0) = (DR6_RESET, DR7_RESET, PAT_RESET, 1);
    (copy.mxcsr, copy.x87_fcw) = (MXCSR_RESET, FCW_RESET);
    copy.sev_features = vmsa.sev_features;
    copy
}
