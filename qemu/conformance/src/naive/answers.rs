//! Answers of the host, in the GHCB page and in its MSR.

use super::{SOURCE, cue};
use crate::machine::ghcb::{self, Field, Request, code, msr_protocol, read_bytes, read_shared};
use crate::machine::{cpu, probe};
use crate::report::Report;
use crate::suite::Guest;

/// The TSC's ticks in a millisecond at least.
const TICKS_MIN: u64 = 1_000_000;

/// A request for leaf 0x8000_0000 of CPUID.
fn cpuid() -> Request {
    Request::new(code::CPUID, 0, 0).with(Field::Rax, 0x8000_0000).with(Field::Rcx, 0)
}

/// The fields of the GHCB page (GHCB specification, table 3): offset and bytes. What the script writes there is the offset, so many bytes of it.
const FIELDS: [(u64, usize); 17] = [
    (0xcb, 1),
    (0x140, 8),
    (0x160, 8),
    (0x1f8, 8),
    (0x308, 8),
    (0x310, 8),
    (0x318, 8),
    (0x390, 8),
    (0x398, 8),
    (0x3a0, 8),
    (0x3a8, 8),
    (0x3e8, 8),
    (0x3f0, 8),
    (0x3f8, 8),
    (0x800, 8),
    (0xffa, 2),
    (0xffc, 4),
];

pub fn every_field(_: &Guest, report: &mut Report) {
    let field = |at: u64, size: usize| {
        let mut bytes = [0; 8];
        read_bytes(ghcb::page() + at, bytes.get_mut(..size).unwrap_or_default());
        u64::from_le_bytes(bytes)
    };
    let honest = cpuid().send();
    report.equal("an answer, at first", SOURCE, (honest.info1, honest.rax >> 16), (0, 0x8000));
    cpuid().send();
    for (at, size) in FIELDS {
        let lie = if size == 1 { at & 0xff } else { at };
        report.equal(format_args!("the field at {at:#x} is the host's"), SOURCE, field(at, size), lie);
    }
}

pub fn check_and_use(_: &Guest, report: &mut Report) {
    let page = probe::shared_page();
    report.equal("another GHCB", SOURCE, msr_protocol(page | 0x012), page | 0x013);
    cpuid().at(page).fill();
    // SAFETY: the MSR is the guest's own.
    unsafe { cpu::wrmsr(ghcb::MSR, page) };
    ghcb::vmgexit();
    let checked = read_shared(page + Field::Rax as u64);
    let used = read_shared(page + Field::Rax as u64);
    // Back, for the report.
    msr_protocol(ghcb::page() | 0x012);
    report.equal("RAX is checked", SOURCE, checked >> 16, 0x8000);
    report.equal("RAX is another when it is used", SOURCE, used, 0x0bad);
}

pub fn msr(guest: &Guest, report: &mut Report) {
    let c_bit = || msr_protocol(0x002) >> 24 & 0x3f;
    report.equal("the C-bit, at first", SOURCE, c_bit(), guest.block.c_bit);
    report.equal("the C-bit is another", SOURCE, c_bit(), guest.block.c_bit ^ 0x1c);
}

pub fn msr_refused(_: &Guest, report: &mut Report) {
    let has_snp = || msr_protocol(0x080) >> 12 & 1;
    report.equal("the host knows SNP, at first", SOURCE, has_snp(), 1);
    report.equal("the host does not know SNP", SOURCE, has_snp(), 0);
}

pub fn forged_exception(_: &Guest, report: &mut Report) {
    // What the guest is told to raise: the vector.
    let raised = || {
        let reply = cpuid().send();
        (reply.info1 == 1).then_some(reply.info2 & 0xff)
    };
    report.equal("no exception, at first", SOURCE, raised(), None);
    report.equal("a page fault of CPUID", SOURCE, raised(), Some(14));
}

pub fn late(_: &Guest, report: &mut Report) {
    const DEADLINE_MS: u64 = 100;
    let begin = cpu::rdtsc();
    cue();
    let ticks = cpu::rdtsc() - begin;
    report.holds(
        "its deadline is over when the answer comes",
        SOURCE,
        ticks >= DEADLINE_MS * TICKS_MIN,
        ticks,
    );
}
