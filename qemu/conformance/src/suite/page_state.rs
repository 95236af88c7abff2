//! Page state changes in batches, and what becomes of the memory.

use super::Guest;
use super::requests::BAD_SCRATCH;
use crate::machine::ghcb::{self, BUFFER, Field, Request, code, read_shared, write_shared};
use crate::machine::instructions::{DONE, FAIL_SIZEMISMATCH, UNCHANGED, pvalidate};
use crate::machine::probe;
use crate::machine::{arena, paging};
use crate::report::Report;
use alloc::vec::Vec;

const SECTION: &str = "GHCB 4.1.6";
const STATES: &str = "APM 2, 15.36.5 and 15.36.6";
const PRIVATE: u64 = 1;
const SHARED: u64 = 2;
const PSMASH: u64 = 3;
const UNSMASH: u64 = 4;
/// SW_EXITINFO2: the header cannot be; an entry cannot be.
const BAD_HEADER: u64 = 1 << 32 | 1;
const BAD_ENTRY: u64 = 1 << 32 | 2;
const NOTHING: (u64, u64) = (probe::DONE, 0);

/// An entry for 4 KiB.
fn small(operation: u64, gpa: u64) -> u64 {
    operation << 52 | gpa
}

/// An entry for 2 MiB.
fn large(operation: u64, gpa: u64) -> u64 {
    1 << 56 | small(operation, gpa)
}

/// Sends a structure with these indices: SW_EXITINFO1 and 2, and the indices afterwards.
fn send(current: u16, end: u16, entries: &[u64]) -> ((u64, u64), (u16, u16)) {
    let buffer = ghcb::page() + BUFFER;
    write_shared(buffer, u64::from(end) << 16 | u64::from(current));
    for (at, &entry) in (buffer + 8..).step_by(8).zip(entries) {
        write_shared(at, entry);
    }
    let reply = Request::new(code::PAGE_STATE, 0, 0).with_buffer().send();
    let header = read_shared(buffer);
    (reply.info(), (header as u16, (header >> 16) as u16))
}

/// All of them: SW_EXITINFO1 and 2.
fn change(entries: &[u64]) -> (u64, u64) {
    send(0, entries.len() as u16 - 1, entries).0
}

pub fn run(_: &Guest, report: &mut Report) {
    progress(report);
    headers(report);
    entries(report);
    contents(report);
    large_pages(report);
    split(report);
}

fn progress(report: &mut Report) {
    let first = arena::pages(300);
    let list = |operation| -> Vec<u64> { (0..253).map(|i| small(operation, first + i * 4096)).collect() };
    let answer = send(0, 252, &list(SHARED));
    report.equal("253 entries, as many as there can be: all done", SECTION, answer, ((0, 0), (253, 252)));
    for page in [0, 100, 252] {
        write_shared(first + page * 4096, page + 1);
        report.equal(
            format_args!("entry {page} of them is shared"),
            SECTION,
            read_shared(first + page * 4096),
            page + 1,
        );
    }
    let entry = read_shared(ghcb::page() + BUFFER + 8);
    report.equal("the current page of a done entry", SECTION, entry & 0xfff, 1);
    report.equal("253 entries made private", SECTION, send(0, 252, &list(PRIVATE)), ((0, 0), (253, 252)));
    let at = paging::private(first + 252 * 4096);
    report.equal("they are not validated", STATES, probe::read(at).event(), (29, 0x404));
    report.equal("they can be", STATES, pvalidate(at, 0, true), DONE);
    let begin = first + 260 * 4096;
    let tail = [small(SHARED, begin), small(SHARED, begin + 4096), small(SHARED, begin + 8192)];
    report.equal("only from the current entry on", SECTION, send(2, 2, &tail), ((0, 0), (3, 2)));
    write_shared(begin + 8192, 5);
    report.equal("the current entry is done", SECTION, read_shared(begin + 8192), 5);
    report.equal("those before it are not", SECTION, pvalidate(paging::private(begin), 0, true), DONE);
    let mixed =
        [small(SHARED, begin + 3 * 4096), small(PRIVATE, begin + 2 * 4096), small(SHARED, begin + 4 * 4096)];
    report.equal("operations of both kinds", SECTION, change(&mixed), (0, 0));
    report.equal("the one made private", STATES, pvalidate(paging::private(begin + 2 * 4096), 0, true), DONE);
    let again = [small(SHARED, begin + 3 * 4096)];
    write_shared(begin + 3 * 4096, 6);
    report.equal("shared again", SECTION, change(&again), (0, 0));
    report.equal(
        "what is in a page stays when it is shared again",
        SECTION,
        read_shared(begin + 3 * 4096),
        6,
    );
    report.equal("one page twice in a list", SECTION, change(&[again[0], again[0]]), (0, 0));
}

fn headers(report: &mut Report) {
    let page = small(SHARED, arena::page());
    for (name, current, end) in [
        ("an end beyond the buffer", 0, 253),
        ("an end far beyond the buffer", 0, u16::MAX),
        ("an end before the current entry", 2, 1),
        ("a current entry beyond the buffer", 253, 253),
    ] {
        let (info, header) = send(current, end, &[page, page, page]);
        report.equal(format_args!("{name}: refused"), SECTION, info, (0, BAD_HEADER));
        report.equal(format_args!("{name}: the header stays"), SECTION, header, (current, end));
    }
    let fresh = paging::private(page & 0x000f_ffff_ffff_f000);
    report.equal("nothing was done for them", SECTION, pvalidate(fresh, 0, true), DONE);
    for (name, at) in [
        ("beside the GHCB's buffer", ghcb::page() + BUFFER + 8),
        ("at the GHCB's start", ghcb::page()),
        ("in private memory", arena::page()),
        ("where there is no memory", 1 << 45),
    ] {
        let reply = Request::new(code::PAGE_STATE, 0, 0).with(Field::Scratch, at).send();
        report.equal(format_args!("the structure {name}"), SECTION, reply.info(), (2, BAD_SCRATCH));
    }
}

fn entries(report: &mut Report) {
    let page = arena::page();
    let nowhere = 1 << 45;
    for (name, entry) in [
        ("operation 0", small(0, page)),
        ("operation 5", small(5, page)),
        ("operation 15", small(15, page)),
        ("2 MiB at an address that is none of theirs", large(SHARED, page | 0x1000)),
        ("more pages done than there are", small(SHARED, page) | 2),
        ("2 MiB with more pages done than there are", large(SHARED, 0x200_0000) | 513),
        ("no memory, shared", small(SHARED, nowhere)),
        ("no memory, private", small(PRIVATE, nowhere)),
        ("no memory, 2 MiB", large(SHARED, nowhere)),
    ] {
        let good = arena::page();
        let list = [small(SHARED, good), entry, small(SHARED, arena::page())];
        let (info, header) = send(0, 2, &list);
        report.equal(format_args!("an entry with {name}"), SECTION, info, (0, BAD_ENTRY));
        report.equal(format_args!("an entry with {name}: where it stopped"), SECTION, header, (1, 2));
        write_shared(good, 9);
        report.equal(
            format_args!("an entry with {name}: the one before is done"),
            SECTION,
            read_shared(good),
            9,
        );
    }
    report.equal("a refused page is as it was", SECTION, pvalidate(paging::private(page), 0, true), DONE);
}

/// What one side wrote the other does not find.
fn contents(report: &mut Report) {
    let page = probe::validated_page();
    let at = paging::private(page);
    let pattern = |i: u64| 0x0101_0101_0101_0101 * (i & 0xff) + i;
    for i in 0..512 {
        probe_write(at + i * 8, pattern(i));
    }
    pvalidate(at, 0, false);
    report.equal("made shared", SECTION, change(&[small(SHARED, page)]), (0, 0));
    let same = (0..512).filter(|&i| read_shared(page + i * 8) == pattern(i)).count();
    report.equal("words of the guest's that the host finds", "APM 2, 15.34.8", same, 0);
    for i in 0..512 {
        write_shared(page + i * 8, pattern(i));
    }
    report.equal("made private again", SECTION, change(&[small(PRIVATE, page)]), (0, 0));
    report.equal("and validated", STATES, pvalidate(at, 0, true), DONE);
    let same = (0..512).filter(|&i| probe_read(at + i * 8) == pattern(i)).count();
    report.equal("words of the host's that the guest finds", "APM 2, 15.34.8", same, 0);
    let left = (0..511).filter(|&i| probe_read(at + i * 8) == probe_read(at + i * 8 + 8)).count();
    report.equal("ciphertext does not repeat", "APM 2, 7.10.4", left, 0);
}

fn probe_write(address: u64, value: u64) {
    // SAFETY: a page of the arena, private and validated; nothing of Rust's is in it.
    unsafe { (address as *mut u64).write_volatile(value) };
}

fn probe_read(address: u64) -> u64 {
    // SAFETY: as above.
    unsafe { (address as *const u64).read_volatile() }
}

fn large_pages(report: &mut Report) {
    let base = arena::large();
    report.equal("2 MiB made shared", SECTION, send(0, 0, &[large(SHARED, base)]), ((0, 0), (1, 0)));
    report.equal(
        "the current page of a done entry of 2 MiB",
        SECTION,
        read_shared(ghcb::page() + BUFFER + 8) & 0xfff,
        512,
    );
    for page in [0, 255, 511] {
        write_shared(base + page * 4096, page + 3);
        report.equal(format_args!("page {page} of them"), SECTION, read_shared(base + page * 4096), page + 3);
    }
    report.equal("2 MiB made private", SECTION, change(&[large(PRIVATE, base)]), (0, 0));
    report.equal("2 MiB validated at once", STATES, pvalidate(paging::private(base), 1, true), DONE);
    let two = arena::large();
    let mixed = [small(SHARED, base + 4096), large(SHARED, two), small(PRIVATE, two + 8192)];
    report.equal("sizes of both kinds", SECTION, change(&mixed), (0, 0));
    report.equal(
        "the pages beside one that was taken out",
        STATES,
        pvalidate(paging::private(base), 0, true),
        UNCHANGED,
    );
    report.equal(
        "the page that was made private out of 2 MiB",
        STATES,
        pvalidate(paging::private(two + 8192), 0, true),
        DONE,
    );
}

/// PSMASH and its opposite: the entry's size changes, and nothing else.
fn split(report: &mut Report) {
    let base = arena::large();
    let at = paging::private(base);
    report.equal("2 MiB to be split", STATES, pvalidate(at, 1, true), DONE);
    probe_write(at + 0x5000, 0x5a5a);
    report.equal("PSMASH", SECTION, change(&[large(PSMASH, base)]), (0, 0));
    report.equal("the entries are small", "APM 2, 15.36.11", pvalidate(at, 1, true).code, FAIL_SIZEMISMATCH);
    report.equal("validation stays", "APM 2, 15.36.11", pvalidate(at + 0x5000, 0, true), UNCHANGED);
    report.equal("contents stay", "APM 2, 15.36.11", probe_read(at + 0x5000), 0x5a5a);
    report.equal("PSMASH of what is small", SECTION, change(&[large(PSMASH, base)]), (0, 0));
    report.equal("UNSMASH", SECTION, change(&[large(UNSMASH, base)]), (0, 0));
    report.equal("the entry is large", "APM 2, 15.36.11", pvalidate(at, 1, true), UNCHANGED);
    report.equal("contents stay in one entry", "APM 2, 15.36.11", probe_read(at + 0x5000), 0x5a5a);
    pvalidate(at + 0x3000, 0, false);
    report.equal("UNSMASH of unlike entries", SECTION, change(&[large(UNSMASH, base)]), (0, 0));
    report.equal("they stay small", "APM 2, 15.36.11", pvalidate(at, 1, true).code, FAIL_SIZEMISMATCH);
    report.equal("they stay readable", "APM 2, 15.36.11", probe::read(at + 0x5000).event(), NOTHING);
}
