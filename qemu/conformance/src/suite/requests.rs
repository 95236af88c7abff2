//! The GHCB page: what must be in it, for every exit; and what each exit answers.

use super::{Guest, launch};
use crate::machine::ghcb::{self, Field, IN, Reply, Request, code, port_info};
use crate::machine::instructions::pvalidate;
use crate::machine::{arena, paging, probe};
use crate::report::Report;

const FIELDS: &str = "GHCB 4.1, table 6";
const ERRORS: &str = "GHCB 4.1, table 5";
const SECTION: &str = "GHCB 4.1";

/// SW_EXITINFO1: malformed input, reason in SW_EXITINFO2.
const MALFORMED: u64 = 2;
/// Reasons.
const NOT_REGISTERED: u64 = 1;
const BAD_USAGE: u64 = 2;
pub const BAD_SCRATCH: u64 = 3;
const MISSING: u64 = 4;
pub const BAD_INPUT: u64 = 5;
const BAD_EVENT: u64 = 6;
/// SW_EXITINFO1: an exception is to be taken, described in SW_EXITINFO2; #GP(0).
pub const EXCEPTION_GP: (u64, u64) = (1, 13 | 3 << 8 | 1 << 11 | 1 << 31);

pub fn run(guest: &Guest, report: &mut Report) {
    missing_fields(report);
    form(report);
    unknown(report);
    cpuid(guest, report);
    instructions(report);
    features(report);
    apic_ids(guest, report);
}

/// Name, code, SW_EXITINFO1 and 2, and the fields that the exit needs besides these three.
type Case = (&'static str, u64, u64, u64, &'static [Field]);

fn cases() -> [Case; 21] {
    let (shared, other) = (0x100_0000, 0x100_1000);
    [
        ("a read of DR7", code::READ_DR7, 0, 0, &[]),
        ("a write of DR7", code::WRITE_DR7, 0, 0, &[Field::Rax]),
        ("RDTSC", code::RDTSC, 0, 0, &[]),
        ("RDPMC", code::RDPMC, 0, 0, &[Field::Rcx]),
        ("CPUID", code::CPUID, 0, 0, &[Field::Rax, Field::Rcx]),
        ("INVD", code::INVD, 0, 0, &[]),
        ("IN", code::IOIO, port_info(0x3ff, 1, IN), 0, &[]),
        ("OUT", code::IOIO, port_info(0x3ff, 1, 0), 0, &[Field::Rax]),
        ("INSB", code::IOIO, port_info(0x3ff, 1, IN | ghcb::STRING), 1, &[Field::Scratch]),
        ("OUTSB", code::IOIO, port_info(0x3ff, 1, ghcb::STRING), 1, &[Field::Scratch]),
        ("RDMSR", code::MSR, 0, 0, &[Field::Rcx]),
        ("WRMSR", code::MSR, 1, 0, &[Field::Rcx, Field::Rax, Field::Rdx]),
        ("VMMCALL", code::VMMCALL, 0, 0, &[Field::Rax, Field::Cpl]),
        ("RDTSCP", code::RDTSCP, 0, 0, &[]),
        ("WBINVD", code::WBINVD, 0, 0, &[]),
        ("MMIO read", code::MMIO_READ, 0xfee0_0030, 4, &[Field::Scratch]),
        ("MMIO write", code::MMIO_WRITE, 0xfee0_0280, 4, &[Field::Scratch]),
        ("page state change", code::PAGE_STATE, 0, 0, &[Field::Scratch]),
        ("extended guest request", code::EXTENDED_GUEST_REQUEST, shared, other, &[Field::Rax, Field::Rbx]),
        ("APIC ids", code::APIC_IDS, 0, 0, &[Field::Rax]),
        ("hypervisor features", code::FEATURES, 0, 0, &[]),
    ]
}

fn request(case: &Case) -> Request {
    let &(_, code, info1, info2, fields) = case;
    let mut request = Request::new(code, info1, info2);
    for &field in fields {
        request = if field == Field::Scratch { request.with_buffer() } else { request.with(field, 0) };
    }
    request
}

fn missing_fields(report: &mut Report) {
    for case in &cases() {
        let needed = [Field::Code, Field::Info1, Field::Info2].into_iter().chain(case.4.iter().copied());
        for field in needed {
            let reply = request(case).without(field).send();
            report.equal(
                format_args!("{} without {field:?}", case.0),
                FIELDS,
                reply.info(),
                (MALFORMED, MISSING),
            );
        }
    }
    let extended = Request::new(code::CPUID, 0, 0).with(Field::Rax, 0xd).with(Field::Rcx, 0).send();
    report.equal("CPUID 0xD without XCR0", FIELDS, extended.info(), (MALFORMED, MISSING));
    for (name, what) in [("create", 1), ("create on INIT", 0)] {
        let reply = Request::new(code::AP_CREATION, 7 << 32 | what, 0x100_0000).send();
        report.equal(
            format_args!("AP creation, {name}, without RAX"),
            FIELDS,
            reply.info(),
            (MALFORMED, MISSING),
        );
    }
}

/// Version, usage, registration.
fn form(report: &mut Report) {
    for version in [0, 3, 7, 0xffff] {
        let reply = Request::new(code::RDTSC, 0, 0).version(version).send();
        report.equal(format_args!("version {version}"), "GHCB 2.6", reply.info1, MALFORMED);
    }
    for usage in [1, 2, 0x8000_0000, u32::MAX] {
        let reply = Request::new(code::RDTSC, 0, 0).usage(usage).send();
        report.equal(format_args!("usage {usage:#x}"), ERRORS, reply.info(), (MALFORMED, BAD_USAGE));
    }
    let other = probe::shared_page();
    let reply = Request::new(code::RDTSC, 0, 0).at(other).send();
    report.equal("a GHCB that is not registered", ERRORS, reply.info(), (MALFORMED, NOT_REGISTERED));
    let reply = Request::new(code::RDTSC, 0, 0).send();
    report.equal("the registered one goes on working", SECTION, reply.info1, 0);
}

fn unknown(report: &mut Report) {
    let codes = [
        0x00,
        0x40,
        0x5d,
        0x60,
        0x78,
        0x7f,
        0x80,
        0x400,
        0x8000_0000,
        0x8000_0006,
        0x8000_0099,
        0x8000_ffff,
        !0,
    ];
    for number in codes {
        let reply = Request::new(number, 0, 0).send();
        report.equal(
            format_args!("exit {number:#x}, which is none"),
            ERRORS,
            reply.info(),
            (MALFORMED, BAD_EVENT),
        );
    }
    // What the features do not announce is not there.
    let announced = Request::new(code::FEATURES, 0, 0).send().info2;
    for (name, number, feature) in [
        ("#HV doorbell page", code::HV_DOORBELL, 2),
        ("#HV IPI", code::HV_IPI, 2),
        ("#HV timer", code::HV_TIMER, 3),
    ] {
        if announced >> feature & 1 == 0 {
            let reply = Request::new(number, 0, 0).send();
            report.equal(
                format_args!("{name}, which is not announced"),
                ERRORS,
                reply.info(),
                (MALFORMED, BAD_EVENT),
            );
        } else {
            report.skip(format_args!("{name}, not announced"), ERRORS, "this host announces it");
        }
    }
    for what in [0, 1, 2] {
        let reply = Request::new(code::JUMP_TABLE, what, 0).send();
        report.equal(format_args!("AP jump table, {what}: not for SNP"), SECTION, reply.info1, MALFORMED);
    }
    for vmpl in [1, 3, 4] {
        let reply = Request::new(code::RUN_VMPL, vmpl, 0).send();
        report.equal(
            format_args!("run VMPL{vmpl}, for which there is no state"),
            SECTION,
            reply.info1,
            MALFORMED,
        );
    }
}

/// What the host may say differently than the PSP: APIC ids and counts of CPUs.
fn is_topology(leaf: u32) -> bool {
    matches!(leaf, 0xb | 0x8000_001e | 0x8000_0026)
}

fn cpuid(guest: &Guest, report: &mut Report) {
    let ask = |leaf: u32, subleaf: u32, xcr0: u64| {
        let request =
            Request::new(code::CPUID, 0, 0).with(Field::Rax, leaf.into()).with(Field::Rcx, subleaf.into());
        let reply = request.with(Field::Xcr0, xcr0).send();
        (reply.info1, [reply.rax as u32, reply.rbx as u32, reply.rcx as u32, reply.rdx as u32])
    };
    for entry in launch::cpuid_entries(guest).iter().filter(|entry| !is_topology(entry.0)) {
        let (error, mut got) = ask(entry.0, entry.1, 1);
        let mut want = entry.4;
        if entry.0 == 1 {
            // APIC id and number of CPUs are the host's; OSXSAVE follows CR4.
            (got[1], want[1]) = (got[1] & 0xffff, want[1] & 0xffff);
            (got[2], want[2]) = (got[2] & !(1 << 27), want[2] & !(1 << 27));
        }
        report.equal(
            format_args!("CPUID {:#x}/{:#x} as in the CPUID page", entry.0, entry.1),
            "GHCB 4.1.3",
            (error, got),
            (0, want),
        );
    }
    for leaf in [0x4fff_ffff, 0x9000_0000, 0x8fff_ffff] {
        report.equal(
            format_args!("CPUID {leaf:#x}, which is not there"),
            "GHCB 4.1.3",
            ask(leaf, 0, 1),
            (0, [0; 4]),
        );
    }
}

fn instructions(report: &mut Report) {
    let first = Request::new(code::RDTSC, 0, 0).send();
    let second = Request::new(code::RDTSC, 0, 0).send();
    let tsc = |reply: Reply| reply.rdx << 32 | reply.rax;
    report.holds(
        "RDTSC: time runs on",
        SECTION,
        first.info1 == 0 && tsc(second) > tsc(first),
        (first, second),
    );
    report.equal("RDTSCP", SECTION, Request::new(code::RDTSCP, 0, 0).send().info1, 0);
    let counter = |n| Request::new(code::RDPMC, 0, 0).with(Field::Rcx, n).send().info();
    report.equal("RDPMC of counter 0", SECTION, counter(0), (0, 0));
    report.equal("RDPMC of a counter that is none", SECTION, counter(0x1234), EXCEPTION_GP);
    for (name, number) in [
        ("INVD", code::INVD),
        ("WBINVD", code::WBINVD),
        ("MONITOR", code::MONITOR),
        ("NMI complete", code::NMI_COMPLETE),
    ] {
        report.equal(name, SECTION, Request::new(number, 0, 0).send().info(), (0, 0));
    }
    let write = Request::new(code::WRITE_DR7, 0, 0).with(Field::Rax, 0x400).send();
    report.equal("a write of DR7", SECTION, write.info(), (0, 0));
    let read = Request::new(code::READ_DR7, 0, 0).send();
    report.equal("a read of DR7", SECTION, (read.info(), read.dr7 & 0x400), ((0, 0), 0x400));
    let call = Request::new(code::VMMCALL, 0, 0).with(Field::Rax, 0x7fff_ffff).with(Field::Cpl, 0).send();
    report.equal("VMMCALL: an answer", SECTION, call.info1, 0);
    msrs(report);
}

fn msrs(report: &mut Report) {
    let read = |msr| Request::new(code::MSR, 0, 0).with(Field::Rcx, msr).send();
    let write = |msr: u64, value: u64| {
        let request = Request::new(code::MSR, 1, 0).with(Field::Rcx, msr);
        request.with(Field::Rax, value & 0xffff_ffff).with(Field::Rdx, value >> 32).send().info()
    };
    let base = read(0x1b);
    report.equal(
        "RDMSR of the APIC base",
        SECTION,
        (base.info(), base.rax & 0xffff_f800),
        ((0, 0), 0xfee0_0800),
    );
    for (name, msr) in
        [("MTRR capabilities", 0xfe), ("the default memory type", 0x2ff), ("the microcode's version", 0x8b)]
    {
        report.equal(format_args!("RDMSR of {name}"), SECTION, read(msr).info(), (0, 0));
    }
    for msr in [0x1234_5678, 0xdead, 0xc001_ffff, 0xffff_ffff] {
        report.equal(
            format_args!("RDMSR of {msr:#x}, which is none: #GP"),
            "GHCB 4.1.6",
            read(msr).info(),
            EXCEPTION_GP,
        );
        report.equal(
            format_args!("WRMSR of {msr:#x}, which is none: #GP"),
            "GHCB 4.1.6",
            write(msr, 1),
            EXCEPTION_GP,
        );
    }
    report.equal(
        "WRMSR of a base where no APIC can be: #GP",
        SECTION,
        write(0x1b, 0xfee0_0400),
        EXCEPTION_GP,
    );
    report.equal(
        "RDMSR of an x2APIC register in xAPIC mode: #GP",
        "APM 2, 16.11",
        read(0x802).info(),
        EXCEPTION_GP,
    );
    for direction in [2, 3, !0] {
        let reply = Request::new(code::MSR, direction, 0)
            .with(Field::Rcx, 0x1b)
            .with(Field::Rax, 0)
            .with(Field::Rdx, 0)
            .send();
        report.equal(
            format_args!("MSR access in direction {direction:#x}"),
            ERRORS,
            reply.info(),
            (MALFORMED, BAD_INPUT),
        );
    }
}

fn features(report: &mut Report) {
    let reply = Request::new(code::FEATURES, 0, 0).send();
    report.equal("hypervisor features", "GHCB 4.1.13", reply.info1, 0);
    report.equal(
        "they are those of the MSR protocol",
        "GHCB 4.1.13",
        reply.info2,
        ghcb::msr_protocol(0x080) >> 12,
    );
}

/// APIC ID list: how many pages it takes, then the list.
fn apic_ids(guest: &Guest, report: &mut Report) {
    let cpus = super::word(&guest.page(guest.block.parameters), 0);
    let list = probe::shared_page();
    let ask = |gpa, pages| Request::new(code::APIC_IDS, gpa, 0).with(Field::Rax, pages).send();
    let reply = ask(0, 0);
    report.equal("APIC ids: how many pages", "GHCB 4.1.16", (reply.info(), reply.rax), ((0, 0), 1));
    report.equal("APIC ids: a list", "GHCB 4.1.16", ask(list, 1).info(), (0, 0));
    let count = ghcb::read_shared(list) as u32;
    report.equal("APIC ids: as many as there are CPUs", "GHCB 4.1.16", count, cpus);
    let ids: alloc::vec::Vec<u32> = (0..u64::from(count.min(8)))
        .map(|i| {
            let at = list + 4 + 4 * i;
            (ghcb::read_shared(at & !7) >> (at % 8 * 8)) as u32
        })
        .collect();
    let twice = ids.iter().enumerate().any(|(i, id)| ids.iter().skip(i + 1).any(|other| other == id));
    report.holds("APIC ids: no one twice", "GHCB 4.1.16", !twice, ids);
    let own = arena::page();
    pvalidate(paging::private(own), 0, true);
    report.equal("APIC ids into private memory", "GHCB 4.1.16", ask(own, 1).info(), (MALFORMED, BAD_INPUT));
}
