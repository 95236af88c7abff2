//! Events that nothing caused, and time.

use super::{SOURCE, cue, event};
use crate::machine::ghcb::{self, Request, code};
use crate::machine::probe::{self, Input, Mode};
use crate::machine::{cpu, traps};
use crate::report::Report;
use crate::suite::Guest;

/// Ticks of the TSC that the script adds; it then takes half of them away.
const LEAP: u64 = 10_000_000_000_000;

/// The event of a cue: vector and error code.
fn at_cue(report: &mut Report, what: &str, vector: u64, error: u64) {
    report.equal("no event, at first", SOURCE, event(), (0, 0, 0));
    cue();
    report.equal(what, SOURCE, event(), (vector, error, 1));
}

/// Heckler: in ring 3, with interrupts off.
pub fn int_80(_: &Guest, report: &mut Report) {
    const NUMBER: u64 = 0x3c;
    probe::start();
    // jmp to itself: nothing but the host ends it.
    let outcome = probe::execute(Mode::User, &[0xeb, 0xfe], Input { rax: NUMBER, ..Input::default() });
    report.equal("a system call that nobody made", SOURCE, outcome.event_at(), (0x80, 0, 0));
    report.equal("its number", SOURCE, outcome.frame.rax(), NUMBER);
}

pub fn nmi(_: &Guest, report: &mut Report) {
    at_cue(report, "an NMI of no device", 2, 0);
}

pub fn page_fault(_: &Guest, report: &mut Report) {
    at_cue(report, "a page fault of no access", traps::PF, 7);
}

pub fn software_interrupt(_: &Guest, report: &mut Report) {
    at_cue(report, "a software interrupt of no instruction", 0x80, 0);
}

pub fn hv(_: &Guest, report: &mut Report) {
    at_cue(report, "#HV without restricted injection", 28, 0);
}

/// WeSee: the handler of #VC believes the error code, gives RAX away, takes another and goes on behind an instruction that it never looked at.
pub fn forged_vc(_: &Guest, report: &mut Report) {
    const SECRET: u64 = 0x5ec2_e700;
    let run = || {
        let (mut rax, mut counter) = (SECRET, 0u32);
        Request::new(code::WBINVD, 0, 0).fill();
        // SAFETY: the GHCB is filled; a handler that skips three bytes skips the addition.
        unsafe {
            cpu::wrmsr(ghcb::MSR, ghcb::page());
            core::arch::asm!("rep vmmcall", "add ecx, 1", inout("ecx") counter, inout("rax") rax);
        }
        (rax, counter)
    };
    report.equal("RAX and an addition, at first", SOURCE, run(), (SECRET, 1));
    report.equal("RAX is the host's, and the addition was skipped", SOURCE, run(), (0x0bad, 0));
}

pub fn time_goes_back(_: &Guest, report: &mut Report) {
    let first = cpu::rdtsc();
    cue();
    let second = cpu::rdtsc();
    report.holds("time leaps", SOURCE, second > first + LEAP, (first, second));
    cue();
    let third = cpu::rdtsc();
    report.holds("time has gone back", SOURCE, third < second, (second, third));
}
