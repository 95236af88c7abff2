//! Guest requests: messages to the security processor, which the host carries without being able to read them.
//!
//! Source: GHCB specification (56421), "SNP Guest Request" and "SNP Extended Guest Request". Order of an extended one: the certificates have
//! to fit before the PSP sees the message, so that a guest that gave too little room can send the very same message again.

use super::Machine;
use super::ghcb::Answer;
use crate::ghcb::page::{Field, Malformed, Writer};
use crate::hardware::Hardware;
use crate::memory::PhysicalMemory;
use alloc::vec::Vec;
use test_psp::certificates::{INVALID_LEN, supply};
use test_psp::guest::Guest;

/// The security processor, as the guest reaches it through the host.
pub trait Psp: Send {
    /// Answers a guest message: both pages are as in shared memory. The result is the firmware's status.
    fn request(&mut self, request: &[u8; 4096], response: &mut [u8; 4096]) -> u32;
    /// The table of certificates that extended requests return.
    fn certificate_table(&self) -> Vec<u8>;
}

impl Psp for Guest {
    fn request(&mut self, request: &[u8; 4096], response: &mut [u8; 4096]) -> u32 {
        Guest::request(self, request, response).code()
    }

    fn certificate_table(&self) -> Vec<u8> {
        Guest::certificate_table(self).to_vec()
    }
}

/// Where the guest wants certificates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Guest-physical address.
    pub gpa: u64,
    /// Pages.
    pub pages: u64,
}

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// A message to the PSP, with room for certificates if the request is an extended one; `ghcb` is where its GHCB is.
    pub(super) fn guest_request(
        &mut self,
        request: u64,
        response: u64,
        room: Option<Room>,
        ghcb: u64,
    ) -> Answer {
        let (Some(from), Some(to)) = (self.shared(request, 4096), self.shared(response, 4096)) else {
            return Answer::Malformed(Malformed::Input);
        };
        let Some(psp) = self.psp.as_ref() else { return Answer::Malformed(Malformed::Event) };
        if let Some(room) = room {
            let table = psp.certificate_table();
            let table = match supply(&table, room.pages) {
                Ok(table) => table,
                Err(needed) => {
                    Writer { memory: &self.memory, spa: ghcb }.set(Field::Rbx, needed);
                    return Answer::Done(INVALID_LEN);
                }
            };
            // All pages are looked at before one is written.
            let at = |index: u64| self.shared(room.gpa.wrapping_add(index << 12), 4096);
            let places: Option<Vec<u64>> = (0..table.len().div_ceil(4096) as u64).map(at).collect();
            let Some(places) = places else { return Answer::Malformed(Malformed::Input) };
            for (spa, part) in places.into_iter().zip(table.chunks(4096)) {
                self.memory.write(spa, part);
            }
        }
        let Some(psp) = self.psp.as_mut() else { return Answer::Malformed(Malformed::Event) };
        let (mut question, mut answer) = ([0; 4096], [0; 4096]);
        self.memory.read(from, &mut question);
        self.memory.read(to, &mut answer);
        let status = psp.request(&question, &mut answer);
        self.memory.write(to, &answer);
        Answer::Done(status.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestMachine, machine, share};
    use super::*;
    use test_psp::certificates::{VCEK, find, table};
    use test_psp::chip::Chip;
    use test_psp::guest::Finish;
    use test_psp::hierarchy::Certificates;
    use test_psp::message::{Message, kind, seal, unseal};
    use test_psp::report::ReportVersion;
    use test_psp::status::Status;
    use test_psp::verify::verify_report;

    const GHCB: u64 = 0x1000;
    const REQUEST: u64 = 0x2000;
    const RESPONSE: u64 = 0x3000;
    const CERTIFICATES: u64 = 0x4000;
    const MEASUREMENT: [u8; 48] = [0x5a; 48];

    /// What a request was answered with: SW_EXITINFO1 and 2.
    fn ask(machine: &mut TestMachine, room: Option<Room>) -> (u64, u64) {
        match machine.guest_request(REQUEST, RESPONSE, room, GHCB) {
            Answer::Done(info2) => (0, info2),
            Answer::Malformed(why) => (2, why as u64),
            _ => panic!("neither an answer nor a refusal"),
        }
    }

    /// A machine with a PSP and shared pages, the key of VMPL0, and a request for a report in its page.
    fn guest() -> (TestMachine, [u8; 32]) {
        let mut machine = machine(0x10000);
        let mut psp = Guest::start(Chip::test(ReportVersion::V3), 0x3_0000, &[1; 32], None).unwrap();
        let key = psp.secrets_page()[0x20..0x40].try_into().unwrap();
        psp.finish(Finish { measurement: MEASUREMENT, host_data: [0; 32], identity: None }).unwrap();
        machine.psp = Some(alloc::boxed::Box::new(psp));
        for page in [GHCB, REQUEST, RESPONSE, CERTIFICATES] {
            share(&mut machine, page);
        }
        send(&machine, &key, 1);
        (machine, key)
    }

    fn send(machine: &TestMachine, key: &[u8; 32], sequence: u64) {
        let message = Message { kind: kind::REPORT_REQUEST, version: 1, vmpck: 0, payload: vec![0; 96] };
        let mut page = [0; 4096];
        seal(key, sequence, &message, &mut page).unwrap();
        machine.memory.write(REQUEST, &page);
    }

    fn page(machine: &TestMachine, at: u64) -> [u8; 4096] {
        let mut page = [0; 4096];
        machine.memory.read(at, &mut page);
        page
    }

    #[test]
    fn a_report_comes_with_its_certificates() {
        let (mut machine, key) = guest();
        assert_eq!(ask(&mut machine, Some(Room { gpa: CERTIFICATES, pages: 1 })), (0, 0));
        let certificates = page(&machine, CERTIFICATES);
        let answer = unseal(&key, 2, &page(&machine, RESPONSE)).unwrap();
        let report = verify_report(&answer.payload[32..], find(&certificates, &VCEK).unwrap()).unwrap();
        assert_eq!(report.measurement, MEASUREMENT);
        // The same without certificates, the next in the sequence.
        send(&machine, &key, 3);
        assert_eq!(ask(&mut machine, None), (0, 0));
        assert!(unseal(&key, 4, &page(&machine, RESPONSE)).is_ok());
    }

    #[test]
    fn too_little_room_is_said_and_the_message_is_not_used_up() {
        let (mut machine, key) = guest();
        assert_eq!(ask(&mut machine, Some(Room { gpa: CERTIFICATES, pages: 0 })), (0, 1 << 32));
        assert_eq!(machine.memory.read_u64(GHCB + Field::Rbx as u64), 1);
        assert_eq!(page(&machine, RESPONSE), [0; 4096], "nothing reached the PSP");
        // The guest sends the same message again: as a plain request, as Linux does.
        assert_eq!(ask(&mut machine, None), (0, 0));
        assert!(unseal(&key, 2, &page(&machine, RESPONSE)).is_ok());
    }

    #[test]
    fn what_the_psp_refuses_reaches_the_guest_as_its_status() {
        let (mut machine, _) = guest();
        machine.memory.write(REQUEST + 0x60, &[0xff]);
        assert_eq!(ask(&mut machine, None), (0, Status::BadMeasurement.code().into()));
        assert_eq!(page(&machine, RESPONSE), [0; 4096]);
    }

    #[test]
    fn pages_that_are_not_shared_are_refused_and_nothing_is_written() {
        for private in [REQUEST, RESPONSE, CERTIFICATES] {
            let (mut machine, _) = guest();
            machine.launch_page(private, &page(&machine, private));
            machine.map.set_attribute(private, crate::memory::Attribute::Private);
            let before = machine.memory.0.borrow().clone();
            assert_eq!(ask(&mut machine, Some(Room { gpa: CERTIFICATES, pages: 1 })), (2, 5), "{private:#x}");
            assert!(*machine.memory.0.borrow() == before);
        }
        let (mut machine, _) = guest();
        for gpa in [CERTIFICATES + 1, 1 << 40, u64::MAX] {
            assert_eq!(ask(&mut machine, Some(Room { gpa, pages: 1 })), (2, 5), "{gpa:#x}");
        }
    }

    #[test]
    fn the_table_fits_where_the_documentation_says_it_does() {
        let table = table(&Certificates::of(&Chip::test(ReportVersion::V3)).unwrap());
        assert_eq!(test_psp::certificates::pages(&table), 1);
    }
}
