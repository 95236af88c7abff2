//! #VC: which instructions raise it, with which error code, and how it is delivered.

use super::Guest;
use crate::machine::instructions::pvalidate;
use crate::machine::probe::{self, Input, Mode, Outcome};
use crate::machine::traps::{self, Gate};
use crate::machine::{arena, ghcb, paging};
use crate::report::Report;

const EXITS: &str = "APM 2, table 15-33: no automatic exit";
const DELIVERY: &str = "APM 2, 15.35.5 and 8.9";
const CHECKS: &str = "APM 2, table 15-39";
const DOUBLE: &str = "APM 2, 15.35.5 and table 8-4";
const IF: u64 = 1 << 9;
const IOPL: u64 = 3 << 12;
/// The local APIC: a device that every guest has.
const DEVICE: u64 = 0xfee0_0020;

pub fn run(_: &Guest, report: &mut Report) {
    instructions(report);
    ports(report);
    outer_ring(report);
    devices(report);
    not_validated(report);
    delivery(report);
    stacks(report);
    during_delivery(report);
}

/// Name, bytes, RCX, and the exit code that is the error code.
const INSTRUCTIONS: &[(&str, &[u8], u64, u64)] = &[
    ("CPUID", &[0x0f, 0xa2], 0, 0x72),
    ("RDPMC", &[0x0f, 0x33], 0, 0x6f),
    ("INVD", &[0x0f, 0x08], 0, 0x76),
    ("WBINVD", &[0x0f, 0x09], 0, 0x89),
    ("RDMSR of the APIC base", &[0x0f, 0x32], 0x1b, 0x7c),
    ("RDMSR of an x2APIC register", &[0x0f, 0x32], 0x802, 0x7c),
    ("RDMSR of an MTRR", &[0x0f, 0x32], 0x2ff, 0x7c),
    ("RDMSR of SYSCFG", &[0x0f, 0x32], 0xc001_0010, 0x7c),
    ("WRMSR of the APIC base", &[0x0f, 0x30], 0x1b, 0x7c),
    ("WRMSR of an MSR that is none", &[0x0f, 0x30], 0x1234_5678, 0x7c),
    ("VMMCALL", &[0x0f, 0x01, 0xd9], 0, 0x81),
    ("MONITOR", &[0x0f, 0x01, 0xc8], 0, 0x8a),
    ("MWAIT", &[0x0f, 0x01, 0xc9], 0, 0x8b),
    ("a write of DR7", &[0x0f, 0x23, 0xf8], 0, 0x37),
    ("a write of DR7 from RSI", &[0x0f, 0x23, 0xfe], 0, 0x37),
    ("a read of DR7", &[0x0f, 0x21, 0xf8], 0, 0x27),
    ("a read of DR7 to RSI", &[0x0f, 0x21, 0xfe], 0, 0x27),
];

/// Name and bytes of what does not exit.
const QUIET: &[(&str, &[u8], u64)] = &[
    ("RDTSC", &[0x0f, 0x31], 0),
    ("RDTSCP", &[0x0f, 0x01, 0xf9], 0),
    ("RDMSR of the GHCB", &[0x0f, 0x32], 0xc001_0130),
    ("RDMSR of SEV_STATUS", &[0x0f, 0x32], 0xc001_0131),
    ("RDMSR of EFER", &[0x0f, 0x32], 0xc000_0080),
    ("RDMSR of the GS base", &[0x0f, 0x32], 0xc000_0101),
    ("PAUSE", &[0xf3, 0x90], 0),
    ("a read of CR3", &[0x0f, 0x20, 0xd8], 0),
    ("a read of DR6", &[0x0f, 0x21, 0xf0], 0),
];

fn instructions(report: &mut Report) {
    for &(name, bytes, rcx, code) in INSTRUCTIONS {
        let outcome = probe::kernel(bytes, Input { rcx, ..Input::default() });
        report.equal(format_args!("{name}: #VC({code:#x})"), EXITS, outcome.event_at(), (29, code, 0));
    }
    for &(name, bytes, rcx) in QUIET {
        let outcome = probe::kernel(bytes, Input { rcx, ..Input::default() });
        report.equal(format_args!("{name} goes on"), EXITS, outcome.event(), (probe::DONE, 0));
    }
    let write = probe::kernel(&[0x0f, 0x30], Input { rcx: 0xc001_0131, ..Input::default() });
    report.equal(
        "SEV_STATUS cannot be written: #GP(0)",
        "APM 2, 15.34.10",
        write.event_at(),
        (traps::GP, 0, 0),
    );
    for (name, bytes) in [
        ("VMRUN", &[0x0f, 0x01, 0xd8][..]),
        ("VMLOAD", &[0x0f, 0x01, 0xda]),
        ("STGI", &[0x0f, 0x01, 0xdc]),
        ("CLGI", &[0x0f, 0x01, 0xdd]),
        ("SKINIT", &[0x0f, 0x01, 0xde]),
        ("INVLPGA", &[0x0f, 0x01, 0xdf]),
    ] {
        let outcome = probe::kernel(bytes, Input::default());
        let refused = outcome.event() != (probe::DONE, 0) && outcome.offset == 0;
        report.holds(format_args!("{name} is not the guest's"), EXITS, refused, outcome.event());
    }
    // VMGEXIT has both prefixes; EFER.SVME stays whatever the guest writes.
    let request = 0x002;
    // SAFETY: the MSR is the guest's own.
    unsafe { crate::machine::cpu::wrmsr(ghcb::MSR, request) };
    let outcome = probe::kernel(&[0xf2, 0x0f, 0x01, 0xd9], Input::default());
    // SAFETY: as above.
    let answer = unsafe { crate::machine::cpu::rdmsr(ghcb::MSR) };
    report.equal(
        "VMGEXIT with F2",
        "APM 3, VMGEXIT",
        (outcome.event(), answer & 0xfff),
        ((probe::DONE, 0), 1),
    );
    let low = Input { rcx: 0xc000_0080, rax: 0xd00, ..Input::default() };
    probe::kernel(&[0x0f, 0x30], low);
    let efer = probe::kernel(&[0x0f, 0x32], Input { rcx: 0xc000_0080, ..Input::default() }).frame.rax();
    report.equal("EFER.SVME stays when it is cleared", "APM 2, 15.35.10", efer & 0x1d00, 0x1d00);
}

/// Name and bytes of port accesses; DX is the serial port's scratch register, memory is the probe's stack.
const PORTS: &[(&str, &[u8])] = &[
    ("IN AL, imm8", &[0xe4, 0x80]),
    ("IN AX, imm8", &[0x66, 0xe5, 0x80]),
    ("IN EAX, imm8", &[0xe5, 0x80]),
    ("IN AL, DX", &[0xec]),
    ("IN AX, DX", &[0x66, 0xed]),
    ("IN EAX, DX", &[0xed]),
    ("OUT imm8, AL", &[0xe6, 0x80]),
    ("OUT imm8, AX", &[0x66, 0xe7, 0x80]),
    ("OUT imm8, EAX", &[0xe7, 0x80]),
    ("OUT DX, AL", &[0xee]),
    ("OUT DX, AX", &[0x66, 0xef]),
    ("OUT DX, EAX", &[0xef]),
    ("INSB", &[0x6c]),
    ("INSW", &[0x66, 0x6d]),
    ("INSD", &[0x6d]),
    ("OUTSB", &[0x6e]),
    ("OUTSW", &[0x66, 0x6f]),
    ("OUTSD", &[0x6f]),
    ("REP INSB", &[0xf3, 0x6c]),
    ("REP INSW", &[0xf3, 0x66, 0x6d]),
    ("REP INSD", &[0xf3, 0x6d]),
    ("REP OUTSB", &[0xf3, 0x6e]),
    ("REP OUTSW", &[0xf3, 0x66, 0x6f]),
    ("REP OUTSD", &[0xf3, 0x6f]),
    ("INSB, 32-bit address", &[0x67, 0x6c]),
];

fn ports(report: &mut Report) {
    let memory = paging::fixture(1);
    let input = Input { rdx: 0x3ff, rcx: 3, rsi: memory, rdi: memory, ..Input::default() };
    for &(name, bytes) in PORTS {
        let outcome = probe::kernel(bytes, input);
        report.equal(format_args!("{name}: #VC(0x7b)"), EXITS, outcome.event_at(), (29, 0x7b, 0));
        let registers = (outcome.frame.rcx(), outcome.frame.rdx());
        report.equal(format_args!("{name}: nothing has been done"), EXITS, registers, (3, 0x3ff));
        let outcome = probe::execute(Mode::User, bytes, Input { rflags: IOPL, ..input });
        report.equal(
            format_args!("{name}, ring 3 with IOPL 3: #VC(0x7b)"),
            EXITS,
            outcome.event_at(),
            (29, 0x7b, 0),
        );
    }
    for (name, bytes) in [("IN", &[0xec][..]), ("OUT", &[0xee]), ("INSB", &[0x6c]), ("OUTSB", &[0x6e])] {
        let outcome = probe::execute(Mode::User, bytes, input);
        report.equal(
            format_args!("{name}, ring 3 with IOPL 0: #GP(0)"),
            "APM 2, table 15-7",
            outcome.event_at(),
            (traps::GP, 0, 0),
        );
    }
}

/// What ring 3 gets: checks of privilege come before intercepts (APM volume 2, table 15-7).
fn outer_ring(report: &mut Report) {
    for (name, bytes, rcx, want) in [
        ("CPUID", &[0x0f, 0xa2][..], 0, (29, 0x72)),
        ("VMMCALL", &[0x0f, 0x01, 0xd9], 0, (29, 0x81)),
        ("RDTSC", &[0x0f, 0x31], 0, (probe::DONE, 0)),
        ("RDTSCP", &[0x0f, 0x01, 0xf9], 0, (probe::DONE, 0)),
        ("RDPMC", &[0x0f, 0x33], 0, (traps::GP, 0)),
        ("HLT", &[0xf4], 0, (traps::GP, 0)),
        ("INVD", &[0x0f, 0x08], 0, (traps::GP, 0)),
        ("WBINVD", &[0x0f, 0x09], 0, (traps::GP, 0)),
        ("RDMSR", &[0x0f, 0x32], 0x1b, (traps::GP, 0)),
        ("WRMSR of the GHCB", &[0x0f, 0x30], 0xc001_0130, (traps::GP, 0)),
        ("RDMSR of the GHCB", &[0x0f, 0x32], 0xc001_0130, (traps::GP, 0)),
        ("a write of DR7", &[0x0f, 0x23, 0xf8], 0, (traps::GP, 0)),
        ("a read of DR7", &[0x0f, 0x21, 0xf8], 0, (traps::GP, 0)),
        ("a read of CR3", &[0x0f, 0x20, 0xd8], 0, (traps::GP, 0)),
    ] {
        let outcome = probe::execute(Mode::User, bytes, Input { rcx, ..Input::default() });
        report.equal(format_args!("{name}, ring 3"), "APM 2, table 15-7", outcome.event(), want);
    }
    let outcome = probe::execute(Mode::User, &[0xf3, 0x0f, 0x01, 0xd9], Input::default());
    report.holds(
        "VMGEXIT, ring 3: the host is not reached",
        "APM 3, VMGEXIT",
        outcome.frame.vector != probe::DONE,
        outcome.event(),
    );
    for mode in [Mode::Kernel32, Mode::User32] {
        let outcome = probe::execute(mode, &[0x0f, 0xa2], Input::default());
        report.equal(format_args!("CPUID, {mode:?}: #VC(0x72)"), EXITS, outcome.event_at(), (29, 0x72, 0));
    }
}

/// Name and bytes of accesses to the address in RBX.
const ACCESSES: &[(&str, &[u8])] = &[
    ("a read of 1 byte", &[0x8a, 0x03]),
    ("a read of 2 bytes", &[0x66, 0x8b, 0x03]),
    ("a read of 4 bytes", &[0x8b, 0x03]),
    ("a read of 8 bytes", &[0x48, 0x8b, 0x03]),
    ("a read with zero extension", &[0x0f, 0xb6, 0x03]),
    ("a write of 1 byte", &[0x88, 0x03]),
    ("a write of 2 bytes", &[0x66, 0x89, 0x03]),
    ("a write of 4 bytes", &[0x89, 0x03]),
    ("a write of 8 bytes", &[0x48, 0x89, 0x03]),
    ("a write of a constant", &[0xc7, 0x03, 1, 2, 3, 4]),
    ("a read and a write", &[0x83, 0x0b, 0x01]),
    ("an exchange", &[0x87, 0x03]),
    ("an addition", &[0x03, 0x03]),
    ("a comparison", &[0x3b, 0x03]),
];

fn devices(report: &mut Report) {
    let input = Input { rbx: paging::shared(DEVICE), rax: 5, ..Input::default() };
    for &(name, bytes) in ACCESSES {
        let outcome = probe::kernel(bytes, input);
        let got = (outcome.event_at(), outcome.frame.rax(), outcome.frame.rbx());
        report.equal(
            format_args!("device memory, {name}: #VC(0x400)"),
            "APM 2, 15.35.4",
            got,
            ((29, 0x400, 0), 5, input.rbx),
        );
    }
    let copy = Input { rsi: input.rbx, rdi: paging::fixture(1), rcx: 4, ..Input::default() };
    let outcome = probe::kernel(&[0xf3, 0xa4], copy);
    report.equal(
        "device memory, REP MOVSB: #VC(0x400)",
        "APM 2, 15.35.4",
        (outcome.event_at(), outcome.frame.rcx()),
        ((29, 0x400, 0), 4),
    );
    let at = paging::map(probe::FIRST_FREE, 0xfee0_0000 | paging::PRESENT | paging::WRITABLE | paging::USER);
    let outcome = probe::execute(Mode::User, &[0x48, 0x8b, 0x03], Input { rbx: at, ..Input::default() });
    report.equal(
        "device memory from ring 3: #VC(0x400)",
        "APM 2, 15.35.4",
        outcome.event_at(),
        (29, 0x400, 0),
    );
    let outcome = probe::at(Mode::Kernel, at, Input::default());
    report.equal(
        "a fetch from device memory: #VC(0x400)",
        "APM 2, 15.35.4",
        outcome.event_at(),
        (29, 0x400, 0),
    );
    paging::map(probe::FIRST_FREE, 0);
}

fn not_validated(report: &mut Report) {
    let page = arena::page();
    let input = Input { rbx: paging::private(page), rax: 5, ..Input::default() };
    for &(name, bytes) in ACCESSES {
        let outcome = probe::kernel(bytes, input);
        report.equal(
            format_args!("not validated, {name}: #VC(0x404)"),
            CHECKS,
            outcome.event_at(),
            (29, 0x404, 0),
        );
    }
    let outcome = probe::read(paging::private(page));
    if outcome.cr2 == paging::private(page) {
        report.equal("not validated: CR2 is the address", CHECKS, outcome.cr2, paging::private(page));
    } else {
        report.skip(
            "not validated: CR2 is the address",
            CHECKS,
            "QEMU's CPU does not tell its hypervisor virtual addresses",
        );
    }
    let at = paging::map(
        probe::FIRST_FREE,
        page | paging::c_bit() | paging::PRESENT | paging::WRITABLE | paging::USER,
    );
    let outcome = probe::execute(Mode::User, &[0x48, 0x8b, 0x03], Input { rbx: at, ..Input::default() });
    report.equal("not validated, ring 3: #VC(0x404)", CHECKS, outcome.event_at(), (29, 0x404, 0));
    let outcome = probe::at(Mode::User, at, Input::default());
    report.equal("not validated, a fetch in ring 3: #VC(0x404)", CHECKS, outcome.event_at(), (29, 0x404, 0));
    // The guest's own checks come first: a mapping that is read-only, or the kernel's.
    paging::map(probe::FIRST_FREE, page | paging::c_bit() | paging::PRESENT);
    let outcome = probe::execute(Mode::User, &[0x48, 0x8b, 0x03], Input { rbx: at, ..Input::default() });
    report.equal(
        "not validated and the kernel's, from ring 3: #PF",
        "APM 2, 15.36.10",
        outcome.event(),
        (traps::PF, 5),
    );
    paging::map(probe::FIRST_FREE, 0);
    // A page table that is not validated.
    let at = paging::map_directory(page | paging::c_bit() | 7);
    let outcome = probe::read(at);
    report.equal(
        "a page table that is not validated: #VC(0x404)",
        CHECKS,
        outcome.event_at(),
        (29, 0x404, 0),
    );
    paging::map_directory(0);
}

/// Frame, flags and alignment.
fn delivery(report: &mut Report) {
    let cpuid = &[0x0f, 0xa2][..];
    let flags = 0x0cd5 | 1 << 21 | IF;
    let outcome = probe::kernel(cpuid, Input { rflags: flags, ..Input::default() });
    let frame = outcome.frame;
    report.equal("frame: CS", DELIVERY, frame.cs, traps::KERNEL_CODE);
    report.equal("frame: SS", DELIVERY, frame.ss, traps::KERNEL_DATA);
    report.equal("frame: RIP", DELIVERY, frame.rip, probe::address());
    report.equal(
        "frame: RFLAGS, with RF since it is a fault",
        DELIVERY,
        frame.rflags & !(1 << 16),
        flags | 2,
    );
    report.equal(
        "IF, TF, NT and RF are clear in the handler",
        DELIVERY,
        outcome.handler_flags & (IF | 1 << 8 | 1 << 14 | 1 << 16),
        0,
    );
    for push in 0..4u64 {
        // push rax as often, then CPUID: the stack is aligned for the frame.
        let mut bytes = [0x50; 6];
        let len = push as usize;
        bytes[len] = 0x0f;
        bytes[len + 1] = 0xa2;
        let outcome = probe::kernel(bytes.get(..len + 2).unwrap_or_default(), Input::default());
        let frame = outcome.frame;
        report.equal(
            format_args!("frame after {push} pushes: RSP, alignment"),
            DELIVERY,
            (outcome.stack, outcome.offset),
            (frame.rsp & !15, push),
        );
    }
    traps::set_gate(traps::VC, Gate { trap: true, ..Gate::default() });
    let outcome = probe::kernel(cpuid, Input { rflags: IF, ..Input::default() });
    report.equal("a trap gate leaves IF", DELIVERY, outcome.handler_flags & IF, IF);
    traps::set_gate(traps::VC, Gate::default());
}

/// Which stack the frame is on.
fn stacks(report: &mut Report) {
    let cpuid = &[0x0f, 0xa2][..];
    let own = |outcome: &Outcome| (outcome.stack, outcome.frame.cs, outcome.frame.ss);
    let outcome = probe::execute(Mode::User, cpuid, Input::default());
    report.equal(
        "from ring 3: the stack of ring 0, CS, SS",
        DELIVERY,
        own(&outcome),
        (traps::ring0_stack(), traps::USER_CODE, traps::USER_DATA),
    );
    let outcome = probe::execute(Mode::User32, cpuid, Input::default());
    report.equal(
        "from ring 3, 32 bits: the stack of ring 0, CS, SS",
        DELIVERY,
        own(&outcome),
        (traps::ring0_stack(), traps::USER_CODE_32, traps::USER_DATA),
    );
    for ist in [1, 2] {
        traps::set_gate(traps::VC, Gate { ist, ..Gate::default() });
        for mode in [Mode::Kernel, Mode::User, Mode::Kernel32, Mode::User32] {
            let outcome = probe::execute(mode, cpuid, Input::default());
            report.equal(
                format_args!("IST {ist}, {mode:?}"),
                DELIVERY,
                (outcome.event(), outcome.stack),
                ((29, 0x72), traps::interrupt_stack(ist)),
            );
        }
    }
    traps::set_gate(traps::VC, Gate { ist: 1, ..Gate::default() });
    let outcome = probe::read(paging::private(arena::page()));
    report.equal(
        "IST 1, not validated",
        DELIVERY,
        (outcome.event(), outcome.stack),
        ((29, 0x404), traps::interrupt_stack(1)),
    );
    traps::set_gate(traps::VC, Gate::default());
}

/// An event: its name, its vector, the bytes that cause it, and what comes instead while its stack is not there.
type Interrupted = (&'static str, u64, &'static [u8], (u64, u64));

/// #VC while another event is being delivered: its stack is not validated. #VC is contributory: after a contributory exception or a page fault it is
/// a double fault, after others it is delivered.
fn during_delivery(report: &mut Report) {
    let page = arena::page();
    let at = paging::private(page);
    traps::set_spare_stack(at + 4096);
    let bad = Gate { ist: 3, ..Gate::default() };
    let cases: [Interrupted; 6] = [
        ("INT n", 0x82, &[0xcd, 0x82], (traps::VC, 0x404)),
        ("INT3", 3, &[0xcc], (traps::VC, 0x404)),
        ("#UD", traps::UD, &[0x0f, 0x0b], (traps::VC, 0x404)),
        ("#DE", 0, &[0x48, 0xf7, 0xf1], (traps::DF, 0)),
        // mov [noncanonical], rax
        ("#GP", traps::GP, &[0x48, 0x89, 0x07], (traps::DF, 0)),
        ("#PF", traps::PF, &[0x48, 0x89, 0x06], (traps::DF, 0)),
    ];
    let hole = paging::map(probe::FIRST_FREE, 0);
    for (name, vector, bytes, want) in cases {
        traps::set_gate(vector, bad);
        traps::set_gate(traps::DF, Gate { ist: 2, ..Gate::default() });
        let input = Input { rdi: 0x8000_0000_0000, rsi: hole, ..Input::default() };
        let outcome = probe::kernel(bytes, input);
        report.equal(format_args!("#VC while {name} is delivered"), DOUBLE, outcome.event(), want);
        if want.0 == traps::VC {
            report.equal(format_args!("#VC while {name} is delivered: RIP"), DOUBLE, outcome.offset, 0);
        }
        traps::set_gate(vector, Gate::default());
        traps::set_gate(traps::DF, Gate::default());
    }
    // With the stack in place the same events arrive.
    pvalidate(at, 0, true);
    for (name, vector, bytes, _) in cases {
        traps::set_gate(vector, bad);
        let input = Input { rdi: 0x8000_0000_0000, rsi: hole, ..Input::default() };
        let outcome = probe::kernel(bytes, input);
        report.equal(
            format_args!("{name} on a stack that is there"),
            DELIVERY,
            (outcome.frame.vector, outcome.stack),
            (vector, at + 4096),
        );
        traps::set_gate(vector, Gate::default());
    }
    traps::set_spare_stack(0);
}
