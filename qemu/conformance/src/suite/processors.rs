//! Other CPUs: AP creation in all its forms, interrupts between CPUs, AP reset hold, and memory as another CPU sees it.

use super::requests::BAD_INPUT;
use super::{Guest, word};
use crate::machine::ghcb::{self, write_mmio};
use crate::machine::instructions::pvalidate;
use crate::machine::processor::{
    self, Command, FAULT, FEATURES, ask, give, is_alive, linger, request, result, wait,
};
use crate::machine::{arena, paging, probe, traps};
use crate::report::Report;

const CREATION: &str = "GHCB 4.1.9";
const HOLD: &str = "GHCB 4.1.5";
const APIC: &str = "APM 2, 16.5";
const TLB: &str = "APM 2, 15.36.6 and 15.36.10";
const REFUSED: (u64, u64) = (2, BAD_INPUT);
const DONE: (u64, u64) = (0, 0);
const AT_INIT: u64 = 0;
const NOW: u64 = 1;
const DESTROY: u64 = 2;
/// Interrupt commands.
const NMI: u64 = 4 << 8;
const INIT: u64 = 5 << 8 | 1 << 14;
const STARTUP: u64 = 6 << 8 | 8;
const LOGICAL: u64 = 1 << 11;
const ALL: u64 = 2 << 18;
const OTHERS: u64 = 3 << 18;

pub fn run(guest: &Guest, report: &mut Report) {
    let cpus = (word(&guest.page(guest.block.parameters), 0) as usize).min(super::CPUS);
    refused(report);
    for number in 1..cpus {
        create(number, report);
    }
    if cpus < 2 {
        return;
    }
    between(cpus, report);
    memory(report);
    hold(report);
    again(report);
}

/// Sends an interrupt command to a CPU, by the xAPIC.
fn send(to: u64, command: u64) {
    write_mmio(0xfee0_0310, 4, to << 24);
    write_mmio(0xfee0_0300, 4, command);
}

/// What cannot be created. No CPU starts.
fn refused(report: &mut Report) {
    let state = processor::state(1);
    let id = 1;
    report.equal("a state that is no VMSA", CREATION, request(NOW, id, 0, state, FEATURES), REFUSED);
    report.equal(
        "a state that is no VMSA, at INIT",
        CREATION,
        request(AT_INIT, id, 0, state, FEATURES),
        REFUSED,
    );
    processor::make_vmsa(state);
    for (name, what, apic_id, vmpl, vmsa, features) in [
        ("an APIC id that nobody has", NOW, 99, 0, state, FEATURES),
        ("an APIC id that nobody has, at INIT", AT_INIT, 99, 0, state, FEATURES),
        ("an APIC id that nobody has, to be destroyed", DESTROY, 99, 0, 0, 0),
        ("VMPL4", NOW, id, 4, state, FEATURES),
        ("VMPL15", NOW, id, 15, state, FEATURES),
        ("a request that is none", 3, id, 0, state, FEATURES),
        ("a request that is none, 0xffff", 0xffff, id, 0, state, FEATURES),
        ("a state that does not begin at a page", NOW, id, 0, state + 8, FEATURES),
        ("a state where there is no memory", NOW, id, 0, 1 << 45, FEATURES),
        ("a state in shared memory", NOW, id, 0, ghcb::page(), FEATURES),
        ("no features, not even SNP", NOW, id, 0, state, 0),
        ("other features than the state has", NOW, id, 0, state, FEATURES | 1 << 5),
        ("virtual top of memory", NOW, id, 0, state, FEATURES | 1 << 1),
        ("restricted injection, which is not announced", NOW, id, 0, state, FEATURES | 1 << 3),
        ("alternate injection", NOW, id, 0, state, FEATURES | 1 << 4),
        ("features that nobody knows", NOW, id, 0, state, FEATURES | 1 << 60),
    ] {
        report.equal(
            format_args!("created with {name}"),
            CREATION,
            request(what, apic_id, vmpl, vmsa, features),
            REFUSED,
        );
    }
    let aligned = arena::large();
    pvalidate(paging::private(aligned), 1, true);
    processor::make_vmsa(aligned);
    report.equal(
        "created with a state at a multiple of 2 MiB",
        "KVM, sev_snp_ap_creation",
        request(NOW, id, 0, aligned, FEATURES),
        REFUSED,
    );
    linger();
    report.equal("none of them has started a CPU", CREATION, is_alive(1), None);
}

fn create(number: usize, report: &mut Report) {
    let id = number as u64;
    processor::prepare(number);
    let state = processor::state(number);
    processor::make_vmsa(state);
    report.equal(
        format_args!("CPU {number} is created"),
        CREATION,
        request(NOW, id, 0, state, FEATURES),
        DONE,
    );
    report.holds(format_args!("CPU {number} runs"), CREATION, wait(|| is_alive(number).is_some()), ());
    report.equal(
        format_args!("CPU {number} has the registers of its VMSA"),
        "APM 2, B-4",
        is_alive(number),
        Some(0),
    );
    report.equal(
        format_args!("CPU {number} has its APIC id"),
        APIC,
        ask(number, Command::ReadApic, 0x20),
        Some(id << 24),
    );
    report.equal(
        format_args!("CPU {number} may not use the first one's GHCB"),
        "GHCB 2.3.2",
        ask(number, Command::ForeignGhcb, 0),
        Some(2 << 32 | 1),
    );
}

/// Whether a vector's count at a CPU comes to be one more than `before`.
fn arrives(number: usize, vector: u64, before: u64) -> bool {
    wait(|| traps::count(number, vector) > before) && traps::count(number, vector) == before + 1
}

/// Interrupts from one CPU to another.
fn between(cpus: usize, report: &mut Report) {
    for number in 1..cpus {
        let before = traps::count(number, 0x60);
        send(number as u64, 0x60);
        report.holds(format_args!("an IPI to CPU {number}"), APIC, arrives(number, 0x60, before), ());
        let before = traps::count(number, 2);
        send(number as u64, NMI);
        report.holds(format_args!("an NMI to CPU {number}"), APIC, arrives(number, 2, before), ());
        let before = traps::count(0, 0x61);
        ask(number, Command::Send, 0x61);
        let arrived = wait(|| {
            crate::machine::cpu::interrupt_window();
            traps::count(0, 0x61) > before
        });
        report.holds(format_args!("an IPI from CPU {number}"), APIC, arrived, ());
        // A CPU that sleeps is woken.
        give(number, Command::Halt, 0);
        linger();
        send(number as u64, 0x62);
        report.holds(
            format_args!("an IPI wakes CPU {number} out of HLT"),
            APIC,
            result(number).is_some(),
            (),
        );
    }
    let counts =
        |vector: u64| -> [u64; super::CPUS] { core::array::from_fn(|cpu| traps::count(cpu, vector)) };
    for (name, shorthand, vector, first) in [("all but the sender", OTHERS, 0x63, 0), ("all", ALL, 0x64, 1)] {
        let before = counts(vector);
        send(0, shorthand | vector);
        let want: [u64; super::CPUS] = core::array::from_fn(|cpu| {
            before[cpu]
                + if cpu >= cpus {
                    0
                } else if cpu == 0 {
                    first
                } else {
                    1
                }
        });
        wait(|| {
            crate::machine::cpu::interrupt_window();
            counts(vector) == want
        });
        report.equal(format_args!("an IPI to {name}"), APIC, counts(vector), want);
    }
    // Logical ids, flat: this CPU's is bit 7, which no other has.
    write_mmio(0xfee0_00e0, 4, 0xffff_ffff);
    write_mmio(0xfee0_00d0, 4, 0x80 << 24);
    let before = counts(0x65);
    send(0x80, LOGICAL | 0x65);
    wait(|| {
        crate::machine::cpu::interrupt_window();
        traps::count(0, 0x65) > before[0]
    });
    let mut want = before;
    want[0] += 1;
    report.equal("an IPI to a logical id", APIC, counts(0x65), want);
}

/// Memory, as the second CPU sees it while the first changes its state.
fn memory(report: &mut Report) {
    let page = probe::validated_page();
    let at = paging::private(page);
    probe::write(at, 0x1111);
    let read = || ask(1, Command::Read, at);
    report.equal("another CPU reads private memory", TLB, read(), Some(0x1111));
    pvalidate(at, 0, false);
    report.equal("another CPU finds a rescinded page not validated", TLB, read(), Some(FAULT | 0x404));
    pvalidate(at, 0, true);
    report.equal("another CPU reads it when it is validated again", TLB, read(), Some(0x1111));
    pvalidate(at, 0, false);
    ghcb::share(page);
    ghcb::write_shared(page, 0x2222);
    report.equal(
        "another CPU reads shared memory",
        TLB,
        ask(1, Command::Read, paging::shared(page)),
        Some(0x2222),
    );
    let answer = ghcb::msr_protocol(1 << 52 | page | 0x014);
    report.equal("made private while another CPU has it in its TLB", TLB, answer, 0x015);
    report.equal("another CPU finds it not validated", TLB, read(), Some(FAULT | 0x404));
    pvalidate(at, 0, true);
    probe::write(at, 0x3333);
    report.equal("another CPU reads what is private again", TLB, read(), Some(0x3333));
    let large = arena::large();
    let inside = paging::private(large) + 0x7000;
    pvalidate(paging::private(large), 1, true);
    probe::write(inside, 0x4444);
    report.equal("another CPU reads 2 MiB", TLB, ask(1, Command::Read, inside), Some(0x4444));
    pvalidate(inside, 0, false);
    report.equal(
        "another CPU finds one page of them rescinded",
        TLB,
        ask(1, Command::Read, inside),
        Some(FAULT | 0x404),
    );
    report.equal("and its neighbour not", TLB, ask(1, Command::Read, inside + 4096), Some(0));
}

/// AP reset hold: the CPU waits in the host for a start-up IPI.
fn hold(report: &mut Report) {
    for (name, command) in [("by the MSR", Command::HoldByMsr), ("by the page", Command::HoldByPage)] {
        give(1, command, 0);
        linger();
        send(1, INIT);
        send(1, STARTUP);
        let got = result(1);
        let woken = match command {
            Command::HoldByMsr => got.is_some_and(|answer| answer & 0xfff == 7 && answer >> 12 != 0),
            _ => got.is_some_and(|info2| info2 != 0),
        };
        report.holds(format_args!("AP reset hold {name} ends with a start-up IPI"), HOLD, woken, got);
    }
    report.equal("the CPU goes on where it was", HOLD, ask(1, Command::ReadApic, 0x20), Some(1 << 24));
}

/// Destroyed and created again; created at INIT.
fn again(report: &mut Report) {
    report.equal("CPU 1 is destroyed", CREATION, request(DESTROY, 1, 0, 0, 0), DONE);
    linger();
    give(1, Command::Window, 0);
    linger();
    let before = traps::count(1, 0x66);
    send(1, 0x66);
    linger();
    report.equal("it takes no interrupt any more", CREATION, traps::count(1, 0x66), before);
    report.equal("CPU 1 is destroyed twice", CREATION, request(DESTROY, 1, 0, 0, 0), DONE);
    processor::forget(1);
    let state = processor::state(1);
    processor::make_vmsa(state);
    report.equal(
        "CPU 1 is created, to start at INIT",
        CREATION,
        request(AT_INIT, 1, 0, state, FEATURES),
        DONE,
    );
    linger();
    report.equal("it does not start before INIT", CREATION, is_alive(1), None);
    send(1, INIT);
    report.holds("it starts at INIT", CREATION, wait(|| is_alive(1).is_some()), ());
    report.equal("with the registers of its VMSA", "APM 2, B-4", is_alive(1), Some(0));
    report.equal("and works", CREATION, ask(1, Command::ReadApic, 0x20), Some(1 << 24));
}
