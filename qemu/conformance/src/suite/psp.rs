//! Guest messages: what the PSP answers, and what it and the host refuse.
//!
//! The VMPCKs come out of the secrets page; the guest's side of the messages is that of `test_psp::message`.

use super::requests::BAD_INPUT;
use super::{Guest, quad, word};
use crate::machine::ghcb::{self, Field, Reply, Request, code};
use crate::machine::probe;
use crate::report::Report;
use alloc::vec;
use alloc::vec::Vec;
use test_psp::message::{Message, Vmpck, kind, seal, unseal};

const MESSAGES: &str = "ABI, guest messages";
const REQUESTS: &str = "GHCB 4.1.7";
const EXTENDED: &str = "GHCB 4.1.8";
const REPORTS: &str = "ABI, ATTESTATION_REPORT";
const KEYS: &str = "ABI, MSG_KEY_REQ";
/// Status codes of the firmware.
pub const BAD_MEASUREMENT: u64 = 0x0b;
const INVALID_PARAM: u64 = 0x16;
pub const AEAD_OFLOW: u64 = 0x1d;
/// SW_EXITINFO2 of an extended request with too little room.
const INVALID_LEN: u64 = 1 << 32;

/// A dialogue with the PSP by one VMPCK.
struct Channel {
    key: Vmpck,
    vmpck: u8,
    /// Sequence number of the next request.
    next: u64,
    request: u64,
    response: u64,
}

impl Channel {
    fn message(&self, kind: u8, payload: Vec<u8>) -> Message {
        Message { kind, version: 1, vmpck: self.vmpck, payload }
    }

    /// A message, sealed with a sequence number.
    fn sealed(&self, sequence: u64, message: &Message) -> [u8; 4096] {
        let mut page = [0; 4096];
        // A payload that fits can be sealed.
        let _ = seal(&self.key, sequence, message, &mut page);
        page
    }

    /// Hands a page to the PSP as it is.
    fn hand_over(&self, page: &[u8; 4096]) -> Reply {
        ghcb::write_bytes(self.request, page);
        ghcb::clear(self.response);
        Request::new(code::GUEST_REQUEST, self.request, self.response).send()
    }

    /// Opens the answer to the request with this number.
    fn answer(&self, sequence: u64) -> Option<Message> {
        let mut page = [0; 4096];
        ghcb::read_bytes(self.response, &mut page);
        unseal(&self.key, sequence + 1, &page).ok()
    }

    /// A whole exchange: the payload of the answer.
    fn ask(&mut self, kind: u8, payload: Vec<u8>) -> Option<Vec<u8>> {
        let page = self.sealed(self.next, &self.message(kind, payload));
        if self.hand_over(&page).info() != (0, 0) {
            return None;
        }
        let answer = self.answer(self.next)?;
        self.next += 2;
        (answer.kind == kind + 1 && answer.vmpck == self.vmpck).then_some(answer.payload)
    }
}

pub fn run(guest: &Guest, report: &mut Report) {
    let secrets = guest.page(guest.block.secrets);
    let (request, response) = (probe::shared_page(), probe::shared_page());
    let mut channels: Vec<Channel> = (0..4usize)
        .map(|i| {
            let key = secrets.get(0x20 + 32 * i..0x40 + 32 * i).and_then(|key| key.try_into().ok());
            Channel { key: key.unwrap_or_default(), vmpck: i as u8, next: 1, request, response }
        })
        .collect();
    reports(&mut channels, report);
    let Some(first) = channels.first_mut() else { return };
    sequence(first, report);
    headers(first, report);
    payloads(first, report);
    derived_keys(first, report);
    if let Some(second) = channels.get_mut(1) {
        levels(second, report);
    }
    let Some(first) = channels.first_mut() else { return };
    pages(first, report);
    extended(first, report);
}

fn report_request(vmpl: u32) -> Vec<u8> {
    let mut payload: Vec<u8> = (0..64).map(|i| i ^ 0xa5).collect();
    payload.extend_from_slice(&vmpl.to_le_bytes());
    payload.resize(96, 0);
    payload
}

fn reports(channels: &mut [Channel], report: &mut Report) {
    let mut measurement: Option<Vec<u8>> = None;
    for channel in channels {
        let vmpl = u32::from(channel.vmpck);
        let Some(answer) = channel.ask(kind::REPORT_REQUEST, report_request(vmpl)) else {
            report.equal(format_args!("a report by VMPCK{vmpl}"), REPORTS, false, true);
            continue;
        };
        report.equal(
            format_args!("a report by VMPCK{vmpl}: status, size"),
            REPORTS,
            (word(&answer, 0), word(&answer, 4)),
            (0, 1184),
        );
        let body = answer.get(32..).unwrap_or_default();
        report.holds(
            format_args!("VMPCK{vmpl}: version 2 or later"),
            REPORTS,
            word(body, 0) >= 2,
            word(body, 0),
        );
        report.equal(
            format_args!("VMPCK{vmpl}: SVN, policy, VMPL, algorithm"),
            REPORTS,
            (word(body, 4), quad(body, 8), word(body, 0x30), word(body, 0x34)),
            (0, 0x3_0000, vmpl, 1),
        );
        let data = body.get(0x50..0x90).unwrap_or_default();
        report.equal(
            format_args!("VMPCK{vmpl}: the data is that of the request"),
            REPORTS,
            data.iter().zip(0u8..).find(|&(&byte, i)| byte != i ^ 0xa5),
            None,
        );
        let this = body.get(0x90..0xc0).unwrap_or_default().to_vec();
        report.holds(
            format_args!("VMPCK{vmpl}: the launch was measured"),
            REPORTS,
            this.iter().any(|&byte| byte != 0),
            (),
        );
        let same = measurement.get_or_insert_with(|| this.clone()) == &this;
        report.holds(format_args!("VMPCK{vmpl}: the measurement is that of the launch"), REPORTS, same, ());
        let signature = body.get(0x2a0..0x330).unwrap_or_default();
        report.holds(
            format_args!("VMPCK{vmpl}: it is signed"),
            REPORTS,
            signature.iter().any(|&byte| byte != 0),
            (),
        );
        let beyond = body.get(0x330..).unwrap_or_default();
        report.equal(
            format_args!("VMPCK{vmpl}: nothing behind the signature"),
            REPORTS,
            beyond.iter().position(|&byte| byte != 0),
            None,
        );
    }
}

/// Replayed, left out, from the past: refused, and the sequence stays where it is.
fn sequence(channel: &mut Channel, report: &mut Report) {
    let message = channel.message(kind::KEY_REQUEST, key_request(0, 0));
    let next = channel.next;
    for (name, number) in [
        ("the one before", next - 2),
        ("the answer's of before", next - 1),
        ("one ahead", next + 1),
        ("two ahead", next + 2),
        ("zero", 0),
        ("the last there is", u64::MAX),
    ] {
        let page = channel.sealed(number, &message);
        report.equal(
            format_args!("sequence number: {name}"),
            MESSAGES,
            channel.hand_over(&page).info(),
            (0, AEAD_OFLOW),
        );
    }
    let page = channel.sealed(next, &message);
    report.equal("sequence number: the next one", MESSAGES, channel.hand_over(&page).info(), (0, 0));
    report.holds(
        "sequence number: its answer has the one after",
        MESSAGES,
        channel.answer(next).is_some(),
        (),
    );
    report.equal("the same message again", MESSAGES, channel.hand_over(&page).info(), (0, AEAD_OFLOW));
    let untouched = channel.answer(next).is_none();
    report.holds("a refused message has no answer", MESSAGES, untouched, ());
    channel.next = next + 2;
}

/// Every field of the header, and every part that the tag covers.
fn headers(channel: &mut Channel, report: &mut Report) {
    let message = channel.message(kind::KEY_REQUEST, key_request(0, 0));
    let page = channel.sealed(channel.next, &message);
    for (name, at, value, want) in [
        ("no algorithm", 0x30, 0, INVALID_PARAM),
        ("another algorithm", 0x30, 2, INVALID_PARAM),
        ("header version 0", 0x31, 0, INVALID_PARAM),
        ("header version 2", 0x31, 2, INVALID_PARAM),
        ("a shorter header", 0x32, 0x50, INVALID_PARAM),
        ("a longer header", 0x33, 1, INVALID_PARAM),
        ("a message that does not fit into the page", 0x37, 0xff, INVALID_PARAM),
        ("VMPCK4", 0x3c, 4, INVALID_PARAM),
        ("VMPCK255", 0x3c, 255, INVALID_PARAM),
        ("reserved at 0x28", 0x28, 1, INVALID_PARAM),
        ("reserved at 0x38", 0x38, 1, INVALID_PARAM),
        ("reserved at 0x3d", 0x3d, 1, INVALID_PARAM),
        ("reserved at 0x5f", 0x5f, 1, INVALID_PARAM),
        ("a tag with more than 16 bytes", 0x10, 1, INVALID_PARAM),
        ("another tag", 0x00, page[0] ^ 1, BAD_MEASUREMENT),
        ("another tag, last byte", 0x0f, page[0x0f] ^ 0x80, BAD_MEASUREMENT),
        ("another type than was sealed", 0x34, kind::REPORT_REQUEST, BAD_MEASUREMENT),
        ("another message version than was sealed", 0x35, 2, BAD_MEASUREMENT),
        ("a size less than was sealed", 0x36, 31, BAD_MEASUREMENT),
        ("a size more than was sealed", 0x36, 33, BAD_MEASUREMENT),
        ("another first byte", 0x60, page[0x60] ^ 1, BAD_MEASUREMENT),
        ("another last byte", 0x7f, page[0x7f] ^ 1, BAD_MEASUREMENT),
    ] {
        let mut changed = page;
        if let Some(byte) = changed.get_mut(at) {
            *byte = value;
        }
        report.equal(
            format_args!("message with {name}"),
            MESSAGES,
            channel.hand_over(&changed).info(),
            (0, want),
        );
    }
    let other = Channel { key: [0x77; 32], ..*channel };
    let forged = other.sealed(channel.next, &message);
    report.equal(
        "a message sealed with another key",
        MESSAGES,
        channel.hand_over(&forged).info(),
        (0, BAD_MEASUREMENT),
    );
    report.equal("an empty page", MESSAGES, channel.hand_over(&[0; 4096]).info(), (0, INVALID_PARAM));
    report.equal("a page of ones", MESSAGES, channel.hand_over(&[0xff; 4096]).info(), (0, INVALID_PARAM));
    for kind in [0, 2, 99, 255] {
        let unknown = channel.sealed(channel.next, &channel.message(kind, vec![0; 32]));
        report.equal(
            format_args!("message type {kind}, which is none"),
            MESSAGES,
            channel.hand_over(&unknown).info(),
            (0, INVALID_PARAM),
        );
    }
    report.equal("the message itself is still the next", MESSAGES, channel.hand_over(&page).info(), (0, 0));
    channel.next += 2;
}

/// Well sealed, and asking for what cannot be had: the status is in the answer, and the sequence moves on.
fn payloads(channel: &mut Channel, report: &mut Report) {
    let mut reserved = report_request(0);
    reserved[0x48] = 1;
    let mut selection = report_request(0);
    selection[0x44] = 3;
    let mut key_reserved = key_request(0, 0);
    key_reserved[4] = 1;
    let mut newer = key_request(0, 0);
    newer[0x18] = 0xff;
    let mut svn = key_request(0, 0);
    svn[0x14] = 1;
    let requests = [
        ("a report request that is too short", kind::REPORT_REQUEST, report_request(0)[..95].to_vec()),
        ("an empty report request", kind::REPORT_REQUEST, Vec::new()),
        ("a report request for VMPL4", kind::REPORT_REQUEST, report_request(4)),
        ("a report request with a reserved byte", kind::REPORT_REQUEST, reserved),
        ("a report request with a key selection that is none", kind::REPORT_REQUEST, selection),
        ("a key request that is too short", kind::KEY_REQUEST, key_request(0, 0)[..31].to_vec()),
        ("a key request with a reserved word", kind::KEY_REQUEST, key_reserved),
        ("a key request with fields that are none", kind::KEY_REQUEST, key_request(1 << 20, 0)),
        ("a key request for VMPL4", kind::KEY_REQUEST, key_request(0, 4)),
        ("a key request for a newer TCB", kind::KEY_REQUEST, newer),
        ("a key request for a newer guest", kind::KEY_REQUEST, svn),
        ("TSC information without Secure TSC", kind::TSC_INFO_REQUEST, vec![0; 128]),
    ];
    for (name, kind, payload) in requests {
        let status = channel.ask(kind, payload).map(|answer| u64::from(word(&answer, 0)));
        report.equal(name, MESSAGES, status, Some(INVALID_PARAM));
    }
}

fn key_request(fields: u64, vmpl: u32) -> Vec<u8> {
    let mut payload = vec![0; 32];
    payload[8..16].copy_from_slice(&fields.to_le_bytes());
    payload[16..20].copy_from_slice(&vmpl.to_le_bytes());
    payload
}

fn derived_keys(channel: &mut Channel, report: &mut Report) {
    let mut key = |fields, vmpl| {
        let answer = channel.ask(kind::KEY_REQUEST, key_request(fields, vmpl))?;
        (word(&answer, 0) == 0 && answer.len() == 64).then(|| answer[32..].to_vec())
    };
    let plain = key(0, 0);
    report.holds("a derived key", KEYS, plain.as_ref().is_some_and(|key| key.iter().any(|&b| b != 0)), ());
    report.holds("the same request gives the same key", KEYS, key(0, 0) == plain, ());
    let mut seen = vec![plain];
    for (name, fields, vmpl) in [
        ("policy", 1, 0),
        ("measurement", 8, 0),
        ("policy and measurement", 9, 0),
        ("VMPL1", 0, 1),
        ("VMPL3", 0, 3),
    ] {
        let this = key(fields, vmpl);
        report.holds(
            format_args!("a key with {name} is another one"),
            KEYS,
            this.is_some() && !seen.contains(&this),
            (),
        );
        seen.push(this);
    }
}

/// A VMPCK asks for its own VMPL and those below it.
fn levels(channel: &mut Channel, report: &mut Report) {
    let status = |answer: Option<Vec<u8>>| answer.map(|answer| word(&answer, 0));
    for (vmpl, want) in [(0, 0x16), (1, 0), (3, 0)] {
        let got = status(channel.ask(kind::KEY_REQUEST, key_request(0, vmpl)));
        report.equal(format_args!("VMPCK1, a key for VMPL{vmpl}"), KEYS, got, Some(want));
    }
    let got = status(channel.ask(kind::REPORT_REQUEST, report_request(0)));
    report.equal("VMPCK1, a report for VMPL0", REPORTS, got, Some(0x16));
}

/// What the host checks about the two pages.
fn pages(channel: &Channel, report: &mut Report) {
    let page = channel.sealed(channel.next, &channel.message(kind::KEY_REQUEST, key_request(0, 0)));
    ghcb::write_bytes(channel.request, &page);
    let (request, response) = (channel.request, channel.response);
    let private = probe::validated_page();
    for (name, from, to) in [
        ("a request that is not a page", request + 8, response),
        ("a response that is not a page", request, response + 8),
        ("both in one page", request, request),
        ("a private request", private, response),
        ("a private response", request, private),
        ("a request where there is no memory", 1 << 45, response),
        ("a response where there is no memory", request, 1 << 45),
        ("a request at a device", 0xfee0_0000, response),
    ] {
        let reply = Request::new(code::GUEST_REQUEST, from, to).send();
        report.equal(name, REQUESTS, reply.info(), (2, BAD_INPUT));
        let reply = Request::new(code::EXTENDED_GUEST_REQUEST, from, to)
            .with(Field::Rax, 0)
            .with(Field::Rbx, 0)
            .send();
        let refused = reply.info() == (2, BAD_INPUT) || reply.info() == (0, INVALID_LEN);
        report.holds(format_args!("{name}, extended"), EXTENDED, refused, reply.info());
    }
}

fn extended(channel: &mut Channel, report: &mut Report) {
    let certificates = probe::shared_page();
    let page = channel.sealed(channel.next, &channel.message(kind::REPORT_REQUEST, report_request(0)));
    ghcb::write_bytes(channel.request, &page);
    ghcb::clear(channel.response);
    let send = |gpa: u64, room: u64| {
        let request = Request::new(code::EXTENDED_GUEST_REQUEST, channel.request, channel.response);
        request.with(Field::Rax, gpa).with(Field::Rbx, room).send()
    };
    let reply = send(certificates, 0);
    report.equal("no room for certificates", EXTENDED, reply.info(), (0, INVALID_LEN));
    report.holds("no room for certificates: how many pages it takes", EXTENDED, reply.rbx >= 1, reply.rbx);
    let needed = reply.rbx;
    if needed > 1 {
        report.skip("certificates with a report", EXTENDED, "this host's take more than one page");
        return;
    }
    for (name, gpa) in [
        ("in private memory", probe::validated_page()),
        ("where there is no memory", 1 << 45),
        ("not at a page", certificates + 8),
    ] {
        report.equal(
            format_args!("room for certificates {name}"),
            EXTENDED,
            send(gpa, 1).info(),
            (2, BAD_INPUT),
        );
    }
    let reply = send(certificates, needed);
    report.equal("the message was not used up", EXTENDED, reply.info(), (0, 0));
    let answer = channel.answer(channel.next).map(|answer| word(&answer.payload, 0));
    report.equal("the report comes with it", EXTENDED, answer, Some(0));
    channel.next += 2;
    let mut table = [0; 4096];
    ghcb::read_bytes(certificates, &mut table);
    let entries: Vec<(u64, u64, u32, u32)> = (0..8)
        .map(|i| {
            (
                quad(&table, i * 24),
                quad(&table, i * 24 + 8),
                word(&table, i * 24 + 16),
                word(&table, i * 24 + 20),
            )
        })
        .take_while(|entry| *entry != (0, 0, 0, 0))
        .collect();
    let inside = entries.iter().all(|entry| u64::from(entry.2) + u64::from(entry.3) <= needed * 4096);
    report.holds(
        "the table of certificates has entries inside of it",
        EXTENDED,
        inside && !entries.is_empty(),
        &entries,
    );
    let der = entries.iter().all(|entry| table.get(entry.2 as usize) == Some(&0x30));
    report.holds("each is a certificate", EXTENDED, der, &entries);
}
