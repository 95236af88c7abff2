//! RMPADJUST and RMPQUERY.

use super::{Guest, launch};
use crate::machine::instructions::{
    DONE, FAIL_INPUT, FAIL_PERMISSION, FAIL_SIZEMISMATCH, UNCHANGED, opcode, pvalidate, rmpadjust, rmpquery,
};
use crate::machine::probe::{self, Input, Mode};
use crate::machine::{arena, paging, traps};
use crate::report::Report;

const SOURCE: &str = "APM 3, RMPADJUST";
const QUERY: &str = "APM 3, RMPQUERY";
const SIZES: &str = "APM 2, table 15-40";
/// The attribute: the page holds a VMSA.
const VMSA: u64 = 1 << 16;
const NOTHING: (u64, u64) = (probe::DONE, 0);

pub fn run(guest: &Guest, report: &mut Report) {
    permissions(report);
    sizes(report);
    operands(report);
    vmsa(report);
    let claimed = launch::cpuid_entries(guest).iter().any(|e| e.0 == 0x8000_001f && e.4[0] >> 6 & 1 != 0);
    if claimed {
        query(report);
    } else {
        let event = probe::kernel(opcode::RMPQUERY, Input::default()).event();
        report.equal("RMPQUERY, which CPUID does not claim: #UD", QUERY, event, (traps::UD, 0));
    }
}

fn permissions(report: &mut Report) {
    let at = paging::private(probe::validated_page());
    for vmpl in 1..=3 {
        for permissions in [0, 1, 3, 7, 15, 5] {
            let code = rmpadjust(at, 0, permissions << 8 | vmpl);
            report.equal(format_args!("permissions {permissions:#x} for VMPL{vmpl}"), SOURCE, code, 0);
        }
    }
    report.equal("VMPL0 for itself", SOURCE, rmpadjust(at, 0, 15 << 8), FAIL_PERMISSION);
    report.holds("a VMPL that is none", SOURCE, rmpadjust(at, 0, 15 << 8 | 4) != 0, ());
    report.holds("a VMPL that is none, 255", SOURCE, rmpadjust(at, 0, 15 << 8 | 255) != 0, ());
    report.equal("what VMPL0 may itself does not change", SOURCE, probe::write(at, 1).event(), NOTHING);
    let outcome = probe::kernel(opcode::RMPADJUST, Input { rax: at, rbx: 9, rdx: 0x301, ..Input::default() });
    let frame = outcome.frame;
    report.equal(
        "EAX, and other registers stay",
        SOURCE,
        (frame.rax(), frame.rbx(), frame.rcx(), frame.rdx()),
        (0, 9, 0, 0x301),
    );
    report.equal("RIP moves on", SOURCE, outcome.offset, 6);
}

fn sizes(report: &mut Report) {
    let at = paging::private(probe::validated_page());
    let base = arena::large();
    let large = paging::private(base);
    pvalidate(large, 1, true);
    report.equal("2 MiB at once", SOURCE, rmpadjust(large, 1, 0x101), 0);
    report.equal("4 KiB of a 2 MiB entry: the host splits it", SIZES, rmpadjust(large + 0x3000, 0, 0x301), 0);
    report.equal("the split kept validation", SIZES, pvalidate(large + 0x4000, 0, true), UNCHANGED);
    report.equal("2 MiB of 4 KiB entries", SIZES, rmpadjust(large, 1, 0x101), FAIL_SIZEMISMATCH);
    for size in [2, 3, 0xffff_ffff] {
        report.equal(format_args!("size {size:#x}"), SOURCE, rmpadjust(at, size, 0x101), FAIL_INPUT);
    }
    report.equal(
        "2 MiB at an address 4 KiB too high",
        SOURCE,
        rmpadjust(large + 0x1000, 1, 0x101),
        FAIL_INPUT,
    );
}

fn operands(report: &mut Report) {
    let page = arena::page();
    let at = paging::map(
        probe::FIRST_FREE,
        page | paging::c_bit() | paging::PRESENT | paging::WRITABLE | paging::USER,
    );
    let input = |rax| Input { rax, rdx: 0x101, ..Input::default() };
    let outcome = probe::kernel(opcode::RMPADJUST, input(at));
    report.equal("a page that is not validated: #VC", "APM 2, 15.36.10", outcome.event_at(), (29, 0x404, 0));
    pvalidate(at, 0, true);
    for mode in [Mode::User, Mode::User32] {
        let outcome = probe::execute(mode, opcode::RMPADJUST, input(at));
        report.equal(format_args!("{mode:?}: #GP(0)"), SOURCE, outcome.event_at(), (traps::GP, 0, 0));
    }
    let outcome = probe::execute(Mode::Kernel32, opcode::RMPADJUST, input(at | 0xffff_ffff_0000_0000));
    report.equal(
        "32 bits: the upper half of RAX does not count",
        SOURCE,
        (outcome.event(), outcome.frame.rax()),
        (NOTHING, 0),
    );
    paging::map(probe::FIRST_FREE, 0);
    let outcome = probe::kernel(opcode::RMPADJUST, input(at));
    report.equal("a page that is not mapped: #PF", SOURCE, outcome.event_at(), (traps::PF, 0, 0));
    report.equal("a page that is not mapped: CR2", SOURCE, outcome.cr2, at);
}

fn vmsa(report: &mut Report) {
    let at = paging::private(probe::validated_page());
    report.equal("a page becomes a VMSA", SOURCE, rmpadjust(at, 0, VMSA | 1), 0);
    report.equal("and is none any more", SOURCE, rmpadjust(at, 0, 1), 0);
    report.equal("it is validated all the time", SOURCE, pvalidate(at, 0, true), UNCHANGED);
    report.equal("and can be rescinded", "APM 3, PVALIDATE", pvalidate(at, 0, false), DONE);
}

fn query(report: &mut Report) {
    let at = paging::private(probe::validated_page());
    for (vmpl, permissions) in [(1, 0), (2, 1), (3, 15)] {
        rmpadjust(at, 0, permissions << 8 | vmpl);
    }
    for (vmpl, permissions) in [(1, 0), (2, 1), (3, 15)] {
        let (code, attributes, size) = rmpquery(at, vmpl);
        let got = (code, attributes >> 8 & 0xff, attributes >> 16 & 1, size);
        report.equal(
            format_args!("VMPL{vmpl}: EAX, permissions, VMSA, size"),
            QUERY,
            got,
            (0, permissions, 0, 0),
        );
    }
    rmpadjust(at, 0, VMSA | 1);
    report.equal("the VMSA bit", QUERY, rmpquery(at, 1).1 >> 16 & 1, 1);
    rmpadjust(at, 0, 1);
    report.equal("VMPL0 about itself", QUERY, rmpquery(at, 0).0, FAIL_PERMISSION);
    let outcome = probe::execute(Mode::User, opcode::RMPQUERY, Input { rax: at, rdx: 1, ..Input::default() });
    report.equal("ring 3: #GP(0)", QUERY, outcome.event_at(), (traps::GP, 0, 0));
}
