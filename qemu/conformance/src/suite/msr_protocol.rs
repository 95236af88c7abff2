//! The MSR protocol, request by request. What ends the guest is in [`crate::endings`].

use super::{Guest, launch};
use crate::machine::ghcb::{self, msr_protocol};
use crate::machine::instructions::{DONE, pvalidate};
use crate::machine::{arena, paging, probe};
use crate::report::Report;

const SECTION: &str = "GHCB 2.3.1";

pub fn run(guest: &Guest, report: &mut Report) {
    information(guest, report);
    cpuid(guest, report);
    registration(report);
    page_state(report);
    let features = msr_protocol(0x080);
    report.equal("hypervisor features: the answer", SECTION, features & 0xfff, 0x081);
    report.equal("hypervisor features: SNP and AP creation", "GHCB 4.1.13", features >> 12 & 3, 3);
    report.equal("hypervisor features: nothing undefined", "GHCB 4.1.13", features >> 12 & !0x3f, 0);
    let answer = msr_protocol(3 << 32 | 0x016);
    report.equal("run VMPL3, for which there is no state: the answer", SECTION, answer & 0xfff, 0x017);
    report.holds("run VMPL3, for which there is no state: an error", SECTION, answer >> 32 != 0, answer);
    // The SEV information comes with the same bits as at the entry.
    let information = msr_protocol(0x002);
    report.equal("SEV information twice", SECTION, msr_protocol(0x002), information);
}

fn information(guest: &Guest, report: &mut Report) {
    let answer = msr_protocol(0x002);
    report.equal("SEV information: the answer", SECTION, answer & 0xfff, 0x001);
    report.equal("SEV information: the C-bit", SECTION, answer >> 24 & 0xff, guest.block.c_bit);
    report.holds(
        "SEV information: version 2 is spoken",
        SECTION,
        answer >> 48 >= 2 && answer >> 32 & 0xffff <= 2,
        answer,
    );
    report.equal("SEV information: reserved bits", SECTION, answer >> 12 & 0xfff, 0);
    let ignored = msr_protocol(0xffff_ffff_ffff_f002);
    report.equal("SEV information: other bits of the request do not count", SECTION, ignored, answer);
}

/// Leaves of which every host says what the CPUID page says.
const LEAVES: [u32; 6] = [0, 0x8000_0000, 0x8000_0002, 0x8000_0003, 0x8000_0004, 0x8000_001f];

fn cpuid(guest: &Guest, report: &mut Report) {
    let entries = launch::cpuid_entries(guest);
    for leaf in LEAVES {
        let Some(entry) = entries.iter().find(|entry| entry.0 == leaf) else { continue };
        for (register, want) in (0..4u64).zip(entry.4) {
            let answer = msr_protocol(u64::from(leaf) << 32 | register << 30 | 0x004);
            let want = u64::from(want) << 32 | register << 30 | 0x005;
            report.equal(
                format_args!("CPUID {leaf:#x} register {register} by the MSR"),
                "GHCB 2.3.1",
                answer,
                want,
            );
        }
    }
    let answer = msr_protocol(0x4fff_ffff << 32 | 0x004);
    report.equal("CPUID of a leaf that is not there", SECTION, answer, 0x005);
}

fn registration(report: &mut Report) {
    let preferred = msr_protocol(0x010);
    report.equal("preferred GHCB: the answer", SECTION, preferred & 0xfff, 0x011);
    report.equal("preferred GHCB: no preference", SECTION, preferred >> 12, (1 << 52) - 1);
    let page = arena::page();
    report.equal("a GHCB is registered", SECTION, msr_protocol(page | 0x012), page | 0x013);
    let nowhere = 1 << 45;
    report.equal(
        "a GHCB where there is no memory is refused",
        SECTION,
        msr_protocol(nowhere | 0x012),
        0xffff_ffff_ffff_f013,
    );
    let own = ghcb::page();
    report.equal("the GHCB is registered again", SECTION, msr_protocol(own | 0x012), own | 0x013);
}

fn page_state(report: &mut Report) {
    let page = arena::page();
    report.equal("a page is made shared", SECTION, msr_protocol(2 << 52 | page | 0x014), 0x015);
    ghcb::write_shared(page, 77);
    report.equal("a shared page can be written and read", SECTION, ghcb::read_shared(page), 77);
    report.equal("a page is made shared again", SECTION, msr_protocol(2 << 52 | page | 0x014), 0x015);
    report.equal(
        "what is in a shared page stays when it is made shared again",
        SECTION,
        ghcb::read_shared(page),
        77,
    );
    report.equal("a page is made private", SECTION, msr_protocol(1 << 52 | page | 0x014), 0x015);
    let touched = probe::read(paging::private(page)).event();
    report.equal("a page made private is not validated", "APM 2, 15.36.6", touched, (29, 0x404));
    report.equal(
        "a page made private can be validated",
        "APM 3, PVALIDATE",
        pvalidate(paging::private(page), 0, true),
        DONE,
    );
    for operation in [0u64, 5, 6, 7, 8, 15] {
        let answer = msr_protocol(operation << 52 | page | 0x014);
        report.equal(
            format_args!("page state operation {operation}: the answer"),
            SECTION,
            answer & 0xffff_ffff,
            0x015,
        );
        report.holds(
            format_args!("page state operation {operation}: an error"),
            SECTION,
            answer >> 32 != 0,
            answer,
        );
    }
    for operation in [1u64, 2] {
        let answer = msr_protocol(operation << 52 | 1 << 45 | 0x014);
        report.equal(
            format_args!("page state {operation} where there is no memory: the answer"),
            SECTION,
            answer & 0xffff_ffff,
            0x015,
        );
        report.holds(
            format_args!("page state {operation} where there is no memory: an error"),
            SECTION,
            answer >> 32 != 0,
            answer,
        );
    }
    let kept = probe::read(paging::private(page)).event();
    report.equal("refused requests change nothing", SECTION, kept, (probe::DONE, 0));
}
