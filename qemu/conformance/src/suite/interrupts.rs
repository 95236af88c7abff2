//! Interrupts: the local APIC in both of its modes, its timer, the I/O APIC, NMI; when the CPU takes them, and when it does not.

use super::Guest;
use crate::machine::probe::{self, Input, Mode};
use crate::machine::{cpu, ghcb, traps};
use crate::report::Report;

const APIC: &str = "APM 2, 16";
const ACCEPT: &str = "APM 2, 16.6.3";
const WINDOW: &str = "APM 2, 8.5 and 8.8";
const IF: u64 = 1 << 9;
const IOPL: u64 = 3 << 12;
/// Offsets in the page of the local APIC.
const TPR: u64 = 0x80;
const EOI: u64 = 0xb0;
const SVR: u64 = 0xf0;
const ISR: u64 = 0x100;
const IRR: u64 = 0x200;
const ICR: u64 = 0x300;
const LVT_TIMER: u64 = 0x320;
const LVT_LINT0: u64 = 0x350;
const INITIAL: u64 = 0x380;
const CURRENT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;
const MASKED: u64 = 1 << 16;
const PERIODIC: u64 = 1 << 17;
/// To this CPU.
const SELF: u64 = 1 << 18;
const ENABLED: u64 = 0x1ff;

fn read(register: u64) -> u64 {
    ghcb::read_mmio(0xfee0_0000 + register, 4)
}

fn write(register: u64, value: u64) {
    ghcb::write_mmio(0xfee0_0000 + register, 4, value);
}

/// Whether a vector's bit is set in one of the APIC's 256-bit registers.
fn is_set(register: u64, vector: u64) -> bool {
    read(register + vector / 32 * 16) >> (vector % 32) & 1 != 0
}

/// Opens a window until a vector has arrived `times` more, or some time has passed: how often it did.
fn arrivals(vector: u64, times: u64) -> u64 {
    let before = traps::count(0, vector);
    let end = cpu::rdtsc() + 4_000_000_000;
    while traps::count(0, vector) - before < times && cpu::rdtsc() < end {
        cpu::interrupt_window();
    }
    traps::count(0, vector) - before
}

pub fn run(_: &Guest, report: &mut Report) {
    // The 8259 stays out of this.
    write(LVT_LINT0, MASKED);
    write(SVR, ENABLED);
    to_itself(report);
    priorities(report);
    windows(report);
    timer(report);
    nmi(report);
    lines(report);
    x2apic(report);
}

fn to_itself(report: &mut Report) {
    for vector in [0x20, 0x41, 0x80, 0xef] {
        write(ICR, SELF | vector);
        report.holds(format_args!("vector {vector:#x} is pending in IRR"), APIC, is_set(IRR, vector), ());
        report.equal(format_args!("vector {vector:#x} arrives once"), APIC, arrivals(vector, 1), 1);
        report.holds(
            format_args!("vector {vector:#x} is over"),
            APIC,
            !is_set(IRR, vector) && !is_set(ISR, vector),
            (),
        );
    }
    let count = traps::count(0, 0x42);
    write(ICR, SELF | 0x42);
    write(ICR, SELF | 0x42);
    arrivals(0x42, 1);
    cpu::interrupt_window();
    report.equal("a vector that is pending already counts once", ACCEPT, traps::count(0, 0x42) - count, 1);
    for vector in [0, 5, 15] {
        write(ICR, SELF | vector);
        report.holds(
            format_args!("vector {vector}, which is the CPU's, is not taken"),
            ACCEPT,
            !is_set(IRR, vector),
            (),
        );
    }
    write(SVR, 0xff);
    write(ICR, SELF | 0x43);
    report.holds("an APIC that is switched off takes nothing", APIC, !is_set(IRR, 0x43), ());
    write(SVR, ENABLED);
}

fn priorities(report: &mut Report) {
    write(TPR, 0x50);
    let before = traps::count(0, 0x51);
    write(ICR, SELF | 0x51);
    write(ICR, SELF | 0x61);
    report.equal("a vector above the task priority", ACCEPT, arrivals(0x61, 1), 1);
    report.equal("one in its class waits", ACCEPT, traps::count(0, 0x51) - before, 0);
    write(TPR, 0);
    report.equal("until the priority falls", ACCEPT, arrivals(0x51, 1), 1);
    // The probe takes it, so that it stays in service.
    write(ICR, SELF | 0x71);
    let outcome = probe::kernel(&[0x90, 0x90], Input { rflags: IF, ..Input::default() });
    report.equal("a vector interrupts what runs", WINDOW, outcome.frame.vector, 0x71);
    report.holds("it is in service", ACCEPT, is_set(ISR, 0x71), ());
    let before = traps::count(0, 0x61);
    write(ICR, SELF | 0x61);
    cpu::interrupt_window();
    report.equal("a lower one waits for its end", ACCEPT, traps::count(0, 0x61) - before, 0);
    write(ICR, SELF | 0x91);
    report.equal("a higher one does not", ACCEPT, arrivals(0x91, 1), 1);
    write(EOI, 0);
    report.equal("then the lower one comes", ACCEPT, arrivals(0x61, 1), 1);
}

/// IF, the shadow of STI, HLT, ring 3.
fn windows(report: &mut Report) {
    write(ICR, SELF | 0x44);
    let outcome = probe::kernel(&[0x90], Input::default());
    report.equal("nothing with IF clear", WINDOW, outcome.event(), (probe::DONE, 0));
    // sti; nop; nop
    let outcome = probe::kernel(&[0xfb, 0x90, 0x90], Input::default());
    report.equal(
        "after STI: one instruction is in its shadow",
        WINDOW,
        (outcome.frame.vector, outcome.offset),
        (0x44, 2),
    );
    report.equal("the frame has IF set", WINDOW, outcome.frame.rflags & IF, IF);
    report.equal("the handler has it clear", WINDOW, outcome.handler_flags & IF, 0);
    write(EOI, 0);
    write(ICR, SELF | 0x44);
    // sti; cli
    let outcome = probe::kernel(&[0xfb, 0xfa], Input::default());
    report.equal("STI and CLI: no window", WINDOW, outcome.event(), (probe::DONE, 0));
    let outcome = probe::kernel(&[0xfb, 0xf4, 0x90], Input::default());
    report.equal("STI and HLT with one pending", WINDOW, (outcome.frame.vector, outcome.offset), (0x44, 2));
    write(EOI, 0);
    for (mode, rflags) in
        [(Mode::User, IF), (Mode::User32, IF), (Mode::User, IF | IOPL), (Mode::Kernel32, IF)]
    {
        write(ICR, SELF | 0x44);
        let outcome = probe::execute(mode, &[0x90, 0x90], Input { rflags, ..Input::default() });
        report.equal(format_args!("in {mode:?}"), WINDOW, outcome.event(), (0x44, 0));
        write(EOI, 0);
    }
    // HLT waits for the timer.
    write(DIVIDE, 0xb);
    write(LVT_TIMER, 0x45);
    write(INITIAL, 2_000_000);
    let before = traps::count(0, 0x45);
    cpu::halt_with_interrupts();
    report.equal("HLT waits for an interrupt", WINDOW, traps::count(0, 0x45) - before, 1);
    let outcome = probe::kernel(&[0xfb, 0x90, 0x90], Input::default());
    report.equal("and nothing comes twice", WINDOW, outcome.event(), (probe::DONE, 0));
}

fn timer(report: &mut Report) {
    write(LVT_TIMER, 0x46);
    write(INITIAL, u64::from(u32::MAX));
    let first = read(CURRENT);
    let second = read(CURRENT);
    report.holds("the timer counts down", APIC, second < first && first > 0, (first, second));
    write(INITIAL, 0);
    report.equal("an initial count of zero stops it", APIC, read(CURRENT), 0);
    write(INITIAL, 100_000);
    report.equal("one shot", APIC, arrivals(0x46, 1), 1);
    report.equal("one shot: the count stays at zero", APIC, read(CURRENT), 0);
    write(LVT_TIMER, PERIODIC | 0x47);
    write(INITIAL, 500_000);
    report.holds("periodic", APIC, arrivals(0x47, 3) >= 3, traps::count(0, 0x47));
    write(LVT_TIMER, MASKED | 0x48);
    write(INITIAL, 1000);
    let end = cpu::rdtsc() + 20_000_000;
    while cpu::rdtsc() < end {
        cpu::interrupt_window();
    }
    report.equal("masked", APIC, traps::count(0, 0x48), 0);
    write(INITIAL, 0);
    for (divide, shift) in [(0u64, 1u32), (1, 2), (2, 3), (3, 4), (8, 5), (9, 6), (10, 7), (11, 0)] {
        write(DIVIDE, divide);
        report.equal(format_args!("divide configuration for 2^{shift}"), APIC, read(DIVIDE), divide);
    }
}

fn nmi(report: &mut Report) {
    const NMI: u64 = 4 << 8;
    let before = traps::count(0, 2);
    write(ICR, SELF | NMI);
    let end = cpu::rdtsc() + 4_000_000_000;
    while traps::count(0, 2) == before && cpu::rdtsc() < end {
        core::hint::spin_loop();
    }
    report.equal("an NMI comes with IF clear", "APM 2, 8.2.3", traps::count(0, 2) - before, 1);
}

/// A line of the I/O APIC: the 8254's, which is pin 2 behind every PC's I/O APIC.
fn lines(report: &mut Report) {
    const PIN: u64 = 2;
    const VECTOR: u64 = 0x49;
    let io = |register: u64, value: u64| {
        ghcb::write_mmio(0xfec0_0000, 4, register);
        ghcb::write_mmio(0xfec0_0010, 4, value);
    };
    let entry = |register: u64| {
        ghcb::write_mmio(0xfec0_0000, 4, register);
        ghcb::read_mmio(0xfec0_0010, 4)
    };
    io(0x11 + 2 * PIN, read(0x20));
    io(0x10 + 2 * PIN, VECTOR);
    report.equal(
        "I/O APIC: an entry is read back",
        "Intel 82093AA",
        entry(0x10 + 2 * PIN) & 0x1_a7ff,
        VECTOR,
    );
    // Channel 0, both bytes, mode 2, about 1 kHz.
    for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)] {
        ghcb::write_port(port, 1, value);
    }
    report.holds(
        "I/O APIC: a line's interrupts arrive",
        "Intel 82093AA",
        arrivals(VECTOR, 3) >= 3,
        traps::count(0, VECTOR),
    );
    io(0x10 + 2 * PIN, MASKED | VECTOR);
    cpu::interrupt_window();
    let before = traps::count(0, VECTOR);
    let end = cpu::rdtsc() + 20_000_000;
    while cpu::rdtsc() < end {
        cpu::interrupt_window();
    }
    report.equal("I/O APIC: a masked line's do not", "Intel 82093AA", traps::count(0, VECTOR) - before, 0);
}

/// x2APIC: the same by MSRs.
fn x2apic(report: &mut Report) {
    let page = ghcb::page();
    let source = "APM 2, 16.11 to 16.14";
    let base = ghcb::read_msr(page, 0x1b).unwrap_or(0);
    report.holds("x2APIC is switched on", source, ghcb::write_msr(page, 0x1b, base | 0xc00), base);
    report.equal(
        "x2APIC: the APIC base says so",
        source,
        ghcb::read_msr(page, 0x1b).map(|base| base & 0xc00),
        Some(0xc00),
    );
    report.equal("x2APIC: the id", source, ghcb::read_msr(page, 0x802), Some(0));
    report.equal("x2APIC: the version", source, ghcb::read_msr(page, 0x803).map(|v| v & 0xf0), Some(0x10));
    for (name, msr) in [
        ("the destination format", 0x80e),
        ("the upper half of ICR", 0x831),
        ("EOI", 0x80b),
        ("SELF IPI", 0x83f),
    ] {
        report.equal(format_args!("x2APIC: {name} cannot be read"), source, ghcb::read_msr(page, msr), None);
    }
    report.holds("x2APIC: the id cannot be written", source, !ghcb::write_msr(page, 0x802, 5), ());
    report.holds("x2APIC: EOI takes zero only", source, !ghcb::write_msr(page, 0x80b, 1), ());
    report.holds("x2APIC: SELF IPI", source, ghcb::write_msr(page, 0x83f, 0x52), ());
    report.equal("x2APIC: SELF IPI arrives", source, arrivals(0x52, 1), 1);
    report.holds("x2APIC: an IPI to one's own id", source, ghcb::write_msr(page, 0x830, 0x53), ());
    report.equal("x2APIC: an IPI to one's own id arrives", source, arrivals(0x53, 1), 1);
    report.holds(
        "x2APIC: not back without switching off",
        source,
        !ghcb::write_msr(page, 0x1b, base & !0x400 | 0x800),
        (),
    );
    ghcb::write_msr(page, 0x1b, base & !0xc00);
    report.holds("xAPIC again, through off", source, ghcb::write_msr(page, 0x1b, base & !0x400 | 0x800), ());
    write(SVR, ENABLED);
    write(LVT_LINT0, MASKED);
    write(ICR, SELF | 0x54);
    report.equal("xAPIC again: it works", source, arrivals(0x54, 1), 1);
}
