//! Messages of the PSP through a host that changes, replays and withholds them.
//!
//! This guest takes the sequence number that is in a message for the right one, does not clear the page for the answer, and counts a message as sent whatever
//! the host says of it.

use super::SOURCE;
use crate::machine::ghcb::{self, Request, code};
use crate::machine::probe::shared_page;
use crate::report::Report;
use crate::suite::psp::{AEAD_OFLOW, BAD_MEASUREMENT};
use crate::suite::{Guest, quad};
use alloc::vec;
use test_psp::message::{Message, Vmpck, kind, seal, unseal};

/// Where a message has its sequence number (ABI, table "Message Header Format").
const SEQUENCE: usize = 0x20;
/// REPORT_DATA in the payload of a report's answer: 32 bytes before the report, 0x50 in it.
const REPORT_DATA: usize = 32 + 0x50;

struct Channel {
    key: Vmpck,
    next: u64,
    request: u64,
    response: u64,
}

impl Channel {
    fn new(guest: &Guest) -> Channel {
        let secrets = guest.page(guest.block.secrets);
        let key = secrets.get(0x20..0x40).and_then(|key| key.try_into().ok()).unwrap_or_default();
        Channel { key, next: 1, request: shared_page(), response: shared_page() }
    }

    /// Asks for a report with this data: SW_EXITINFO1 and 2, and the data of the report that is in the page for the answer, if it can be opened.
    fn ask(&mut self, data: u64) -> ((u64, u64), Option<u64>) {
        let mut payload = data.to_le_bytes().to_vec();
        payload.resize(96, 0);
        let message = Message { kind: kind::REPORT_REQUEST, version: 1, vmpck: 0, payload };
        let mut page = [0; 4096];
        // A payload that fits can be sealed.
        let _ = seal(&self.key, self.next, &message, &mut page);
        ghcb::write_bytes(self.request, &page);
        self.next += 2;
        let reply = Request::new(code::GUEST_REQUEST, self.request, self.response).send();
        ghcb::read_bytes(self.response, &mut page);
        let answer = unseal(&self.key, quad(&page, SEQUENCE), &page).ok();
        (reply.info(), answer.map(|answer| quad(&answer.payload, REPORT_DATA)))
    }
}

/// Two reports: what came of the second, the first being good.
fn second(guest: &Guest, report: &mut Report) -> ((u64, u64), Option<u64>) {
    let mut channel = Channel::new(guest);
    report.equal("a report, at first", SOURCE, channel.ask(1), ((0, 0), Some(1)));
    channel.ask(2)
}

pub fn reply_corrupted(guest: &Guest, report: &mut Report) {
    let got = second(guest, report);
    report.equal("the PSP's tag tells that the answer was changed", SOURCE, got, ((0, 0), None));
}

pub fn reply_replayed(guest: &Guest, report: &mut Report) {
    let got = second(guest, report);
    report.equal("the report is the one from before", SOURCE, got, ((0, 0), Some(1)));
}

pub fn question_corrupted(guest: &Guest, report: &mut Report) {
    let got = second(guest, report);
    report.equal(
        "the PSP refused, and the report is the one from before",
        SOURCE,
        got,
        ((0, BAD_MEASUREMENT), Some(1)),
    );
}

pub fn wrong_sequence(guest: &Guest, report: &mut Report) {
    let got = second(guest, report);
    report.equal(
        "the PSP refused, and the report is the one from before",
        SOURCE,
        got,
        ((0, AEAD_OFLOW), Some(1)),
    );
}

pub fn message_refused(guest: &Guest, report: &mut Report) {
    let mut channel = Channel::new(guest);
    let answers = vec![channel.ask(1), channel.ask(2), channel.ask(3)];
    let refused = ((0, AEAD_OFLOW), Some(1));
    let want = vec![((0, 0), Some(1)), ((0, 1 << 33), Some(1)), refused];
    report.equal("a message that was counted and never sent ends the channel", SOURCE, answers, want);
}
