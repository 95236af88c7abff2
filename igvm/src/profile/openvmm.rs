//! OpenVMM on KVM: `openvmm_core/src/worker/vm_loaders/igvm.rs` and `vmm_core/virt_kvm/src/snp.rs` of 2026.

use super::{Check, igvm_crate, kvm};
use crate::format::{Directive, Initialization, PageDataType};
use crate::vmsa::{CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, EFER_NXE, SevFeatures, Vmsa};

const SNP: &str = "OpenVMM vmm_core/virt_kvm/src/snp.rs";

pub(super) fn check(check: &mut Check<'_, '_>) {
    igvm_crate::check(check);
    kvm::check(check);
    platform(check);
    pages(check);
    entry_state(check);
    check.vmsas_survive("OpenVMM vmm_core/virt_kvm/src/snp.rs, validate_snp_igvm_vmsa_state", rebuilt);
}

/// `prepare_snp_config`: one VTL, no vTOM, no relocation.
fn platform(check: &mut Check<'_, '_>) {
    let platform = check.image.platform();
    check.fail_unless(platform.highest_vtl == 0, 0, SNP, "highest VTL must be 0");
    check.fail_unless(
        platform.shared_gpa_boundary == 0,
        0,
        SNP,
        "shared GPA boundary must be 0: use the C-bit",
    );
    for at in check.image.initializations() {
        let relocation = matches!(
            at.header,
            Initialization::RelocatableRegion(_) | Initialization::PageTableRelocation(_)
        );
        check.fail_unless(!relocation, at.offset, SNP, "relocation is not supported: leave the header out");
    }
}

/// `snp_launch_page_type` has no second CPUID page; `error_range_pages` wants a size.
fn pages(check: &mut Check<'_, '_>) {
    for at in check.image.directives() {
        match at.header {
            Directive::PageData(page) => check.fail_unless(
                page.data_type != PageDataType::CpuidXf,
                at.offset,
                "OpenVMM vmm_core/virt_kvm/src/arch/x86_64/snp.rs, snp_launch_page_type",
                "a CPUID page for extended state is not supported: use one CPUID page",
            ),
            Directive::ErrorRange(range) => check.fail_unless(
                range.size != 0,
                at.offset,
                "OpenVMM openvmm_core/src/worker/vm_loaders/igvm.rs, error_range_pages",
                "an error range without pages: leave it out",
            ),
            _ => {}
        }
    }
}

/// `validate_snp_bsp_register_state`: 64-bit mode on page tables, at an address that is not 0; `prepare_snp_config`: no vTOM.
fn entry_state(check: &mut Check<'_, '_>) {
    const SOURCE: &str = "OpenVMM vmm_core/virt_kvm/src/snp.rs, validate_snp_bsp_register_state";
    for (at, vmsa) in check.contexts() {
        let present = vmsa.cs.attributes & (1 << 7) != 0;
        let demands = [
            (vmsa.cr0 & (CR0_PE | CR0_PG) == CR0_PE | CR0_PG, "CR0 must have PE and PG"),
            (vmsa.cr3 != 0, "CR3 must not be 0"),
            (vmsa.cr4 & CR4_PAE != 0, "CR4 must have PAE"),
            (
                vmsa.efer & (EFER_LME | EFER_LMA | EFER_NXE) == EFER_LME | EFER_LMA | EFER_NXE,
                "EFER must have LME, LMA and NXE",
            ),
            (present && vmsa.cs.is_long(), "CS must be present and 64-bit"),
            (vmsa.rip != 0, "RIP must not be 0"),
            (
                !vmsa.features().contains(SevFeatures::VTOM) && vmsa.virtual_tom == 0,
                "vTOM is not supported: use the C-bit",
            ),
        ];
        for (ok, what) in demands {
            check.fail_unless(ok, at.offset, SOURCE, what);
        }
    }
}

/// What `set_snp_igvm_vmsa_state` can hand to KVM.
fn rebuilt(vmsa: &Vmsa) -> Vmsa {
    let mut copy = Vmsa::zeroed();
    (copy.es, copy.cs, copy.ss) = (vmsa.es, vmsa.cs, vmsa.ss);
    (copy.ds, copy.fs, copy.gs) = (vmsa.ds, vmsa.fs, vmsa.gs);
    (copy.gdtr, copy.idtr, copy.ldtr, copy.tr) = (vmsa.gdtr, vmsa.idtr, vmsa.ldtr, vmsa.tr);
    (copy.efer, copy.xss, copy.xcr0) = (vmsa.efer, vmsa.xss, vmsa.xcr0);
    (copy.cr0, copy.cr2, copy.cr3, copy.cr4) = (vmsa.cr0, vmsa.cr2, vmsa.cr3, vmsa.cr4);
    (copy.dr, copy.dr6, copy.dr7) = (vmsa.dr, vmsa.dr6, vmsa.dr7);
    (copy.rip, copy.rflags) = (vmsa.rip, vmsa.rflags);
    (copy.rax, copy.rcx, copy.rdx, copy.rbx) = (vmsa.rax, vmsa.rcx, vmsa.rdx, vmsa.rbx);
    (copy.rsp, copy.rbp, copy.rsi, copy.rdi) = (vmsa.rsp, vmsa.rbp, vmsa.rsi, vmsa.rdi);
    copy.r8_r15 = vmsa.r8_r15;
    (copy.star, copy.lstar, copy.cstar, copy.sfmask) = (vmsa.star, vmsa.lstar, vmsa.cstar, vmsa.sfmask);
    copy.kernel_gs_base = vmsa.kernel_gs_base;
    copy.sysenter_cs = vmsa.sysenter_cs;
    (copy.sysenter_esp, copy.sysenter_eip) = (vmsa.sysenter_esp, vmsa.sysenter_eip);
    (copy.pat, copy.spec_ctrl, copy.tsc_aux) = (vmsa.pat, vmsa.spec_ctrl, vmsa.tsc_aux);
    (copy.x87_dp, copy.x87_fsw, copy.x87_fcw) = (vmsa.x87_dp, vmsa.x87_fsw, vmsa.x87_fcw);
    (copy.x87_fop, copy.x87_rip, copy.mxcsr) = (vmsa.x87_fop, vmsa.x87_rip, vmsa.mxcsr);
    copy.sev_features = vmsa.sev_features;
    copy
}
