//! The state in which the first instruction finds the CPU: that of the VMSA in the file, and nothing else.

use super::{Guest, quad};
use crate::machine::entry::{FOUND_32, PAGE_32, STATE, WORD_32};
use crate::machine::instructions::UNCHANGED;
use crate::machine::{instructions, paging};
use crate::report::Report;

const VMSA: &str = "APM 2, B-4";
const NAMES: [&str; 16] = [
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14",
    "R15",
];
/// CF, PF, ZF, SF, OF.
const FLAGS: u32 = 0x8c5;

pub fn run(guest: &Guest, report: &mut Report) {
    // SAFETY: written by the entry, before any Rust ran.
    let state = unsafe { *STATE.get() };
    let long = guest.block.entry == 64;
    for (i, (name, got)) in NAMES.iter().zip(state.registers).enumerate() {
        let want = if i == 6 { guest.block.itself } else { 0 };
        report.equal(format_args!("{name} at the entry"), VMSA, got, want);
    }
    let c = 1 << guest.block.c_bit;
    let (cr0, efer, cr3) =
        if long { (0x8000_0031, 0x1d00, guest.block.tables | c) } else { (0x31, 0x1800, 0) };
    report.equal("CR0 at the entry", VMSA, state.cr0, cr0);
    report.equal("CR3 at the entry", VMSA, state.cr3, cr3);
    report.equal("CR4 at the entry", VMSA, state.cr4, 0x60);
    report.equal("EFER at the entry", "APM 2, 15.35.10: SVME stays", state.efer, efer);
    report.equal("RFLAGS at the entry", VMSA, state.rflags, 2);
    for (name, (got, want)) in
        ["CS", "DS", "ES", "SS", "FS", "GS"].iter().zip(state.selectors.iter().zip([8, 16, 16, 16, 16, 16]))
    {
        report.equal(format_args!("{name} at the entry"), VMSA, got & 0xffff, want);
    }
    report.equal("PAT at the entry", VMSA, state.pat, 0x0007_0406_0007_0406);
    report.equal("the x87 control word at the entry", VMSA, state.fcw & 0xffff, 0x37f);
    if long {
        report.equal("limits of GDTR and IDTR at the entry", VMSA, state.limits, [0, 0]);
    }
    report.equal("SEV_STATUS: SEV, SEV-ES, SNP", "APM 2, 15.34.10", state.sev_status, 7);
    let versions =
        state.ghcb & 0xfff == 1 && state.ghcb >> 48 >= 2 && state.ghcb >> 24 & 0xff == guest.block.c_bit;
    report.holds("the GHCB MSR holds the SEV information", "GHCB 2.3.1", versions, state.ghcb);
    if !long {
        without_paging(report);
    }
}

/// What the 32-bit entry found out before paging was on.
fn without_paging(report: &mut Report) {
    // SAFETY: as above.
    let found = unsafe { *FOUND_32.get() };
    let source = "APM 3, PVALIDATE";
    let flags = |[code, flags]: [u32; 2]| (code, flags & FLAGS);
    report.equal("32 bits: the checks were made", source, found.made, 1);
    report.equal("32 bits: a page is validated", source, flags(found.first), (0, 0x44));
    report.equal("32 bits: a second time changes nothing", source, flags(found.second), (0, 0x45));
    report.equal("32 bits: validation is rescinded", source, flags(found.rescinded), (0, 0x44));
    report.equal("32 bits: a size that does not exist is FAIL_INPUT", source, flags(found.bad_size), (1, 0));
    report.equal("32 bits: RMPADJUST for VMPL1", "APM 3, RMPADJUST", found.rmpadjust, 0);
    report.equal("32 bits: memory without paging", "APM 2, 15.34.8", found.word, WORD_32);
    // SAFETY: the window maps all memory; nothing of Rust's is there.
    let seen = unsafe { (paging::private(PAGE_32) as *const u32).read_volatile() };
    report.equal("memory written without paging is private", "APM 2, 15.34.8 note 1", seen, WORD_32);
    let again = instructions::pvalidate(paging::private(PAGE_32), 0, true);
    report.equal("memory validated without paging is validated with it", source, again, UNCHANGED);
    report.equal("32 bits: #VC at CPUID: vector, error code, EIP", "APM 2, 15.35.5", found.vc, [29, 0x72, 0]);
    let page: [u8; 8] = [found.information[0].to_le_bytes(), found.information[1].to_le_bytes()]
        .concat()
        .try_into()
        .unwrap_or_default();
    report.equal("32 bits: SEV information by the MSR protocol", "GHCB 2.3.1", quad(&page, 0) & 0xfff, 1);
}
