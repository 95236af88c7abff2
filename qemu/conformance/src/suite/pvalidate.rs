//! PVALIDATE, to the letter.

use super::Guest;
use crate::machine::instructions::{DONE, FAIL_INPUT, FAIL_SIZEMISMATCH, UNCHANGED, opcode, pvalidate};
use crate::machine::probe::{self, Input, Mode};
use crate::machine::{arena, ghcb, paging, traps};
use crate::report::Report;

const SOURCE: &str = "APM 3, PVALIDATE";
const SIZES: &str = "APM 2, table 15-40";
const CHECKS: &str = "APM 2, 15.36.10";
/// An exception of the probe's: #VC for a page that is not validated.
const NOT_VALIDATED: (u64, u64) = (29, 0x404);
const NOTHING: (u64, u64) = (probe::DONE, 0);
/// CF, PF, ZF, SF, OF.
const FLAGS: u64 = 0x8c5;

pub fn run(_: &Guest, report: &mut Report) {
    small(report);
    flags(report);
    large(report);
    mixed(report);
    operands(report);
    rings_and_modes(report);
    hypervisors_own(report);
}

/// Every access to a page that is not validated.
fn untouchable(what: &str, page: u64, report: &mut Report) {
    let at = paging::private(page);
    report.equal(format_args!("{what}: a read"), CHECKS, probe::read(at).event_at(), (29, 0x404, 0));
    report.equal(format_args!("{what}: a write"), CHECKS, probe::write(at, 1).event_at(), (29, 0x404, 0));
    report.equal(
        format_args!("{what}: a fetch"),
        CHECKS,
        probe::at(Mode::Kernel, at, Input::default()).event_at(),
        (29, 0x404, 0),
    );
    // lock inc qword ptr [rbx]; push qword ptr [rbx]
    for (name, bytes) in [("an atomic", &[0xf0, 0x48, 0xff, 0x03][..]), ("a push", &[0xff, 0x33])] {
        let event = probe::kernel(bytes, Input { rbx: at, ..Input::default() }).event_at();
        report.equal(format_args!("{what}: {name}"), CHECKS, event, (29, 0x404, 0));
    }
}

fn small(report: &mut Report) {
    let page = arena::page();
    let at = paging::private(page);
    untouchable("a page that was never validated", page, report);
    report.equal("a page is validated", SOURCE, pvalidate(at, 0, true), DONE);
    report.equal("a validated page can be written", CHECKS, probe::write(at, 0x1234).event(), NOTHING);
    report.equal("a validated page can be read", CHECKS, probe::read(at).frame.rax(), 0x1234);
    report.equal("a page is validated twice: CF", SOURCE, pvalidate(at, 0, true), UNCHANGED);
    report.equal("and keeps its contents", SOURCE, probe::read(at).frame.rax(), 0x1234);
    report.equal("validation is rescinded", SOURCE, pvalidate(at, 0, false), DONE);
    untouchable("a page whose validation was rescinded", page, report);
    report.equal("validation is rescinded twice: CF", SOURCE, pvalidate(at, 0, false), UNCHANGED);
    report.equal("a page is validated again", SOURCE, pvalidate(at, 0, true), DONE);
    report.equal("its contents are what they were", SOURCE, probe::read(at).frame.rax(), 0x1234);
    let neighbour = arena::page();
    report.equal(
        "a neighbour is not validated with it",
        SOURCE,
        probe::read(paging::private(neighbour)).event(),
        NOT_VALIDATED,
    );
}

fn flags(report: &mut Report) {
    let page = arena::page();
    let input =
        |rcx, rdx| Input { rax: paging::private(page), rcx, rdx, rbx: 3, rsi: 4, rdi: 5, rflags: FLAGS };
    for (name, rcx, rdx, want) in [
        ("SUCCESS, changed", 0, 1, (0, 0x44)),
        ("SUCCESS, unchanged", 0, 1, (0, 0x45)),
        ("SUCCESS, rescinded", 0, 0, (0, 0x44)),
        ("SUCCESS, rescinded before", 0, 0, (0, 0x45)),
        ("FAIL_INPUT", 2, 1, (FAIL_INPUT, 0)),
    ] {
        let outcome = probe::kernel(opcode::PVALIDATE, input(rcx, rdx));
        let frame = outcome.frame;
        report.equal(
            format_args!("EAX and CF, PF, ZF, SF, OF: {name}"),
            SOURCE,
            (frame.rax(), frame.rflags & FLAGS),
            want,
        );
        report.equal(
            format_args!("other registers: {name}"),
            SOURCE,
            (frame.rbx(), frame.rcx(), frame.rdx()),
            (3, rcx, rdx),
        );
        report.equal(format_args!("RIP moves on: {name}"), SOURCE, outcome.offset, 6);
    }
}

fn large(report: &mut Report) {
    let base = arena::large();
    let at = paging::private(base);
    report.equal("2 MiB are validated", SOURCE, pvalidate(at, 1, true), DONE);
    for page in [0, 1, 255, 511] {
        let event = probe::read(at + page * 4096).event();
        report.equal(format_args!("page {page} of them is validated"), SOURCE, event, NOTHING);
    }
    report.equal("2 MiB twice: CF", SOURCE, pvalidate(at, 1, true), UNCHANGED);
    report.equal("2 MiB are rescinded", SOURCE, pvalidate(at, 1, false), DONE);
    for page in [0, 1, 255, 511] {
        let event = probe::read(at + page * 4096).event();
        report.equal(format_args!("page {page} of them is rescinded"), SOURCE, event, NOT_VALIDATED);
    }
    report.equal("2 MiB are validated again", SOURCE, pvalidate(at, 1, true), DONE);
}

/// Table 15-40: 4 KiB of a 2 MiB entry are split off by the host; 2 MiB of small entries are the guest's to do one by one.
fn mixed(report: &mut Report) {
    let base = arena::large();
    let at = paging::private(base);
    report.equal("2 MiB are validated, to be split", SOURCE, pvalidate(at, 1, true), DONE);
    let inside = at + 5 * 4096;
    report.equal("4 KiB of a 2 MiB entry: the host splits it", SIZES, pvalidate(inside, 0, true), UNCHANGED);
    report.equal("then one page can be rescinded", SIZES, pvalidate(inside, 0, false), DONE);
    report.equal("which is not validated", SIZES, probe::read(inside).event(), NOT_VALIDATED);
    report.equal("its neighbours are as before", SIZES, probe::read(inside + 4096).event(), NOTHING);
    report.equal("2 MiB of 4 KiB entries", SIZES, pvalidate(at, 1, true).code, FAIL_SIZEMISMATCH);
    report.equal(
        "2 MiB of 4 KiB entries, rescinding",
        SIZES,
        pvalidate(at, 1, false).code,
        FAIL_SIZEMISMATCH,
    );
    report.equal("a failure changes nothing", SIZES, probe::read(at).event(), NOTHING);
    let mut odd = 0;
    for page in 0..512 {
        let answer = pvalidate(at + page * 4096, 0, true);
        odd += u32::from(answer != if page == 5 { DONE } else { UNCHANGED });
    }
    report.equal("each of the 4 KiB pages alone", SIZES, odd, 0);
    let base = arena::large();
    ghcb::share(base + 7 * 4096);
    let answer = pvalidate(paging::private(base), 1, true);
    report.equal("2 MiB with a shared page in them", SIZES, answer.code, FAIL_SIZEMISMATCH);
    report.equal("their other pages alone", SIZES, pvalidate(paging::private(base), 0, true), DONE);
}

fn operands(report: &mut Report) {
    let base = arena::large();
    let at = paging::private(base);
    for offset in [0x1000, 0x2000, 0x10_0000, 0x1f_f000] {
        let answer = pvalidate(at + offset, 1, true);
        report.equal(
            format_args!("2 MiB at an address {offset:#x} too high"),
            SOURCE,
            answer.code,
            FAIL_INPUT,
        );
    }
    for size in [2, 3, 0xffff_ffff] {
        report.equal(format_args!("size {size:#x}"), SOURCE, pvalidate(at, size, true).code, FAIL_INPUT);
    }
    report.equal("none of them has validated anything", SOURCE, probe::read(at).event(), NOT_VALIDATED);
    let hole = paging::map(probe::FIRST_FREE, 0);
    let outcome = probe::kernel(opcode::PVALIDATE, Input { rax: hole, rdx: 1, ..Input::default() });
    report.equal("4 KiB that are not mapped: #PF", SOURCE, outcome.event_at(), (traps::PF, 0, 0));
    report.equal("4 KiB that are not mapped: CR2", SOURCE, outcome.cr2, hole);
    let wild = Input { rax: 0x8000_0000_0000, rdx: 1, ..Input::default() };
    let outcome = probe::kernel(opcode::PVALIDATE, wild);
    report.holds(
        "an address that is not canonical: an exception",
        SOURCE,
        outcome.frame.vector != probe::DONE,
        outcome.event(),
    );
}

fn rings_and_modes(report: &mut Report) {
    let page = arena::page();
    let input = |rax| Input { rax, rdx: 1, ..Input::default() };
    let at = paging::map(
        probe::FIRST_FREE,
        page | paging::c_bit() | paging::PRESENT | paging::WRITABLE | paging::USER,
    );
    let outcome = probe::execute(Mode::User, opcode::PVALIDATE, input(at));
    report.equal("ring 3: #GP(0)", SOURCE, outcome.event_at(), (traps::GP, 0, 0));
    let outcome = probe::execute(Mode::User32, opcode::PVALIDATE, input(at));
    report.equal("ring 3, 32 bits: #GP(0)", SOURCE, outcome.event_at(), (traps::GP, 0, 0));
    report.equal("neither has validated anything", SOURCE, probe::read(at).event(), NOT_VALIDATED);
    let outcome = probe::execute(Mode::Kernel32, opcode::PVALIDATE, input(at | 0xffff_ffff_0000_0000));
    report.equal(
        "32 bits: the upper half of RAX does not count",
        SOURCE,
        (outcome.event(), outcome.frame.rax()),
        (NOTHING, 0),
    );
    report.equal("32 bits: the page is validated", SOURCE, probe::read(at).event(), NOTHING);
    paging::map(probe::FIRST_FREE, 0);
}

/// PSMASH and RMPUPDATE exist in the host only.
fn hypervisors_own(report: &mut Report) {
    for (name, bytes) in [("PSMASH", opcode::PSMASH), ("RMPUPDATE", opcode::RMPUPDATE)] {
        for mode in [Mode::Kernel, Mode::User] {
            let outcome = probe::execute(mode, bytes, Input::default());
            report.equal(
                format_args!("{name} in a guest, {mode:?}: #UD"),
                "APM 3",
                outcome.event_at(),
                (traps::UD, 0, 0),
            );
        }
    }
}
