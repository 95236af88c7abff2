//! Guest messages to the emulated PSP, any and in any order: what was not sealed with the key, or is not the next one, changes nothing; what was is
//! answered once; a report says what the launch was (`test_psp::guest`, `message`).
#![no_main]

use std::sync::OnceLock;

use litebox_fuzz::Input;
use test_psp::PAGE_SIZE;
use test_psp::certificates::{VCEK, chain, find, table};
use test_psp::chip::Chip;
use test_psp::derived_key::FieldSelect;
use test_psp::guest::{Finish, Guest};
use test_psp::hierarchy::Certificates;
use test_psp::message::{HEADER_SIZE, MAX_PAYLOAD, Message, VMPCKS, Vmpck, kind, seal, unseal};
use test_psp::report::{Report, ReportVersion};
use test_psp::status::Status;
use test_psp::tsc_info::TscInfo;
use test_psp::verify::verify_report;

litebox_fuzz::target!(litebox_fuzz::seeds::psp, run);

type Page = [u8; PAGE_SIZE];

const MEASUREMENT: [u8; 48] = [0x3c; 48];
const STEPS: usize = 24;

struct Dialogue<'a> {
    guest: Guest,
    input: Input<'a>,
    keys: [Vmpck; VMPCKS],
    /// Sequence number of the last answer with each key.
    counts: [u64; VMPCKS],
    finished: bool,
    /// The request before this one.
    last: Page,
    /// Derived keys, by VMPCK and request.
    derived: Vec<(Message, Vec<u8>)>,
    /// A report was verified.
    verified: bool,
}

/// The chip's certificate, which is the same for all versions of reports; making it takes long.
fn vcek() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let certificates = || Certificates::of(&Chip::test(ReportVersion::V3)).expect("the test hierarchy");
    find(TABLE.get_or_init(|| table(&certificates())), &VCEK).expect("made just now")
}

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (mode, policy, seed) = (input.u8(), input.u64(), [input.u8(); 32]);
    let version = if mode & 1 == 0 { ReportVersion::V3 } else { ReportVersion::V5 };
    let policy = if mode & 2 == 0 { 0x3_0000 } else { policy };
    let tsc = (mode & 4 != 0).then_some(TscInfo { scale: policy, offset: 5, factor: 200 });
    let guest = match Guest::start(Chip::test(version), policy, &seed, tsc) {
        Ok(guest) => guest,
        Err(why) => return assert!(matches!(why, Status::InvalidParam | Status::PolicyFailure)),
    };
    let secrets = guest.secrets_page();
    let keys = std::array::from_fn(|i| secrets[0x20 + 32 * i..][..32].try_into().expect("32 bytes"));
    let distinct = |i: usize| keys.iter().skip(i + 1).all(|key: &Vmpck| *key != keys[i]);
    assert!((0..VMPCKS).all(distinct) && !keys.contains(&[0; 32]));
    let (counts, last) = ([0; VMPCKS], [0; PAGE_SIZE]);
    let mut dialogue =
        Dialogue { guest, input, keys, counts, finished: false, last, derived: Vec::new(), verified: false };
    for _ in 0..STEPS {
        if dialogue.input.is_empty() {
            break;
        }
        dialogue.step();
    }
    // Tables and reports that a host made up.
    let rest = dialogue.input.rest();
    let _ = chain(rest);
    assert!(verify_report(rest, vcek()).is_err(), "a report that nobody signed");
}

impl Dialogue<'_> {
    fn step(&mut self) {
        match self.input.u8() % 8 {
            0 => {
                let finish = Finish { measurement: MEASUREMENT, host_data: [2; 32], identity: None };
                let before = std::mem::replace(&mut self.finished, true);
                assert_eq!(self.guest.finish(finish).is_err(), before, "a launch is finished once");
            }
            1 => {
                let mut page = [0; PAGE_SIZE];
                let bytes = self.input.bytes(PAGE_SIZE.min(256));
                page[..bytes.len()].copy_from_slice(bytes);
                self.refused(&page);
            }
            // Again, word for word.
            2 => {
                let page = self.last;
                self.refused(&page);
            }
            3 => {
                let (message, vmpck) = self.message();
                let mut page = [0; PAGE_SIZE];
                let (by, ahead) = (usize::from(self.input.u8()) % VMPCKS, self.input.u64());
                let sequence = self.counts[vmpck].wrapping_add(1).wrapping_add(ahead);
                if (by != vmpck || ahead != 0) && seal(&self.keys[by], sequence, &message, &mut page).is_ok()
                {
                    self.refused(&page);
                }
            }
            4 => {
                let (message, vmpck) = self.message();
                let mut page = [0; PAGE_SIZE];
                let sealed = seal(&self.keys[vmpck], self.counts[vmpck] + 1, &message, &mut page);
                let (at, flip) = (usize::from(self.input.u16()), self.input.u8());
                if sealed.is_ok() && flip != 0 {
                    page[at % (HEADER_SIZE + message.payload.len())] ^= flip;
                    self.refused(&page);
                }
            }
            _ => self.ask(),
        }
    }

    /// A message as the input has it, most of them well formed; and the key that it is for.
    fn message(&mut self) -> (Message, usize) {
        let shape = self.input.u8();
        let vmpck = usize::from(shape) % VMPCKS;
        let (kind, version, len) = match shape >> 2 & 7 {
            0 => (kind::REPORT_REQUEST, 1, 96),
            1 => (kind::KEY_REQUEST, 1, 32),
            2 => (kind::KEY_REQUEST, 2, 40),
            3 => (kind::TSC_INFO_REQUEST, 1, 128),
            _ => (self.input.u8(), self.input.u8(), usize::from(self.input.u16()) % (MAX_PAYLOAD + 1)),
        };
        let mut payload = vec![0; len];
        let given = usize::from(self.input.u8()).min(len);
        let bytes = self.input.bytes(given);
        payload[..bytes.len()].copy_from_slice(bytes);
        (Message { kind, version, vmpck: vmpck as u8, payload }, vmpck)
    }

    /// Sends what the PSP must not take.
    fn refused(&mut self, page: &Page) {
        let mut response = [0x77; PAGE_SIZE];
        let status = self.guest.request(page, &mut response);
        assert_ne!(status, Status::Success);
        assert!(response == [0x77; PAGE_SIZE], "an answer to what was refused");
    }

    /// Sends the next message, well sealed.
    fn ask(&mut self) {
        let (message, vmpck) = self.message();
        let (key, sequence) = (self.keys[vmpck], self.counts[vmpck] + 1);
        let (mut page, mut response) = ([0; PAGE_SIZE], [0x77; PAGE_SIZE]);
        seal(&key, sequence, &message, &mut page).expect("it fits");
        let status = self.guest.request(&page, &mut response);
        self.last = page;
        let known = [kind::REPORT_REQUEST, kind::KEY_REQUEST, kind::TSC_INFO_REQUEST].contains(&message.kind);
        assert_eq!(status == Status::Success, self.finished && known, "{message:?}: {status:?}");
        if status != Status::Success {
            assert!(response == [0x77; PAGE_SIZE]);
            // It was not used up; what is sent twice is refused as before.
            return self.last = [0; PAGE_SIZE];
        }
        self.counts[vmpck] += 2;
        let answer = unseal(&key, self.counts[vmpck], &response).expect("sealed for the guest");
        assert_eq!((answer.kind, answer.version), (message.kind + 1, message.version));
        assert_eq!(usize::from(answer.vmpck), vmpck);
        let code = u32::from_le_bytes(answer.payload[..4].try_into().expect("four bytes"));
        match message.kind {
            kind::REPORT_REQUEST => self.report(&message, code, &answer.payload),
            kind::KEY_REQUEST => self.key(message, code, &answer.payload),
            _ => assert_eq!(answer.payload.len(), 128),
        }
    }

    fn report(&mut self, message: &Message, code: u32, payload: &[u8]) {
        if code != 0 {
            return assert_eq!(payload.len(), 32);
        }
        let report = if std::mem::replace(&mut self.verified, true) {
            Report::parse(&payload[32..]).expect("a report")
        } else {
            verify_report(&payload[32..], vcek()).expect("signed by the chip")
        };
        assert_eq!((report.measurement, report.host_data), (MEASUREMENT, [2; 32]));
        assert_eq!(report.report_data[..], message.payload[..64]);
        let vmpl = report.vmpl.get();
        assert!((u32::from(message.vmpck)..4).contains(&vmpl), "a report for a more privileged level");
    }

    fn key(&mut self, message: Message, code: u32, payload: &[u8]) {
        assert_eq!(payload.len(), 64);
        if code != 0 {
            return assert_eq!(payload[32..], [0; 32], "a key with a refusal");
        }
        let word =
            |at: usize| u32::from_le_bytes(message.payload[at..at + 4].try_into().expect("four bytes"));
        assert!((u32::from(message.vmpck)..4).contains(&word(16)), "a key of a more privileged level");
        assert!(FieldSelect::from_bits(u64::from(word(8)) | u64::from(word(12)) << 32).is_some());
        for (other, key) in &self.derived {
            let same = other.payload == message.payload && other.version == message.version;
            assert!(!same || key == payload, "another key for the same request");
        }
        self.derived.push((message, payload.to_vec()));
    }
}
