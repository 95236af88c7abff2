//! Memory that the host takes, moves, brings back or changes.

use super::{SOURCE, cue, read, validations, write};
use crate::machine::ghcb::{read_shared, share, write_shared};
use crate::machine::instructions::{UNCHANGED, pvalidate};
use crate::machine::probe::{shared_page, validated_page};
use crate::machine::{arena, ghcb, paging};
use crate::report::Report;
use crate::suite::Guest;

const ONE: u64 = 0x1111_1111_1111_1111;
const TWO: u64 = 0x2222_2222_2222_2222;
/// What the scripts write.
const LIE: u64 = 0x0bad;

/// A private page that holds a word.
fn holding(word: u64) -> u64 {
    let page = validated_page();
    write(page, word);
    page
}

/// A shared page that holds a word.
fn sharing(word: u64) -> u64 {
    let page = shared_page();
    write_shared(page, word);
    page
}

pub fn unmapped(_: &Guest, report: &mut Report) {
    let page = holding(ONE);
    report.equal("its own memory, at first", SOURCE, read(page), ONE);
    cue();
    report.equal("its own memory is what the host says", SOURCE, read(page), LIE);
}

pub fn shared_remapped(_: &Guest, report: &mut Report) {
    let (page, _other) = (sharing(ONE), sharing(TWO));
    report.equal("a shared page, at first", SOURCE, read_shared(page), ONE);
    cue();
    report.equal("a shared page is another", SOURCE, read_shared(page), TWO);
}

/// Hardware stops it.
pub fn private_remapped(_: &Guest, report: &mut Report) {
    let (page, _other) = (holding(ONE), holding(TWO));
    report.equal("a private page, at first", SOURCE, read(page), ONE);
    cue();
    report.equal(
        "the reverse map table stops a private page that is another",
        SOURCE,
        Some(read(page)),
        None,
    );
}

pub fn replaced(_: &Guest, report: &mut Report) {
    let page = holding(ONE);
    report.equal("its own memory, at first", SOURCE, read(page), ONE);
    cue();
    report.equal("its own memory is empty", SOURCE, read(page), 0);
    report.equal("SNP tells it by #VC 0x404", SOURCE, validations(), 1);
}

pub fn swapped(_: &Guest, report: &mut Report) {
    let (one, two) = (holding(ONE), holding(TWO));
    report.equal("two pages, at first", SOURCE, (read(one), read(two)), (ONE, TWO));
    cue();
    report.equal("two pages are each other", SOURCE, (read(one), read(two)), (TWO, ONE));
    report.equal("SNP tells it by #VC 0x404, twice", SOURCE, validations(), 2);
}

pub fn private_replayed(_: &Guest, report: &mut Report) {
    let page = holding(ONE);
    cue();
    write(page, TWO);
    report.equal("what it wrote, at first", SOURCE, read(page), TWO);
    cue();
    report.equal("what it wrote is undone", SOURCE, read(page), ONE);
    report.equal("SNP tells it by #VC 0x404", SOURCE, validations(), 1);
}

pub fn shared_replayed(_: &Guest, report: &mut Report) {
    let page = sharing(ONE);
    cue();
    write_shared(page, TWO);
    report.equal("what it wrote, at first", SOURCE, read_shared(page), TWO);
    cue();
    report.equal("what it wrote is undone", SOURCE, read_shared(page), ONE);
}

pub fn validated_behind(_: &Guest, report: &mut Report) {
    let page = arena::page();
    share(page);
    let answer = ghcb::msr_protocol(1 << 52 | page | 0x014);
    report.equal("the page becomes private", SOURCE, answer, 0x015);
    let answer = pvalidate(paging::private(page), 0, true);
    report.equal("SNP tells it by PVALIDATE's carry flag", SOURCE, answer, UNCHANGED);
    report.equal("its new private memory is what the host wrote", SOURCE, read(page), LIE);
}

pub fn ciphertext_changed(_: &Guest, report: &mut Report) {
    let page = holding(ONE);
    report.equal("its own memory, at first", SOURCE, read(page), ONE);
    cue();
    report.equal("its own memory is another", SOURCE, read(page), ONE ^ 0xff);
    report.equal("SNP tells it by #VC 0x404", SOURCE, validations(), 1);
}

pub fn check_and_use(_: &Guest, report: &mut Report) {
    const LIMIT: u64 = 8;
    let page = sharing(1);
    let checked = read_shared(page);
    let used = read_shared(page);
    report.holds("the number is checked", SOURCE, checked < LIMIT, checked);
    report.holds("the number that is used is over the limit", SOURCE, used >= LIMIT, used);
}
