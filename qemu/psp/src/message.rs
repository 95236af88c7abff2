//! Guest messages: what guest and PSP say to each other through a page that the host carries and can read and change.
//!
//! A [`Message`] that came out of [`Channels::open`] is what a holder of its VMPCK sealed, byte for byte, and it is the next one: it
//! was never opened before, and none was left out. Only [`Channels::answer`] moves the sequence on, by two: the request and its
//! answer. A refused message leaves it where it is.
//!
//! Source: SEV-SNP firmware ABI (56860), chapter "Guest Messages" and SNP_GUEST_REQUEST, table "Message Header Format"; as one side
//! does it, Linux, arch/x86/coco/sev/core.c. Which status belongs to which fault: reserved fields and parameters INVALID_PARAM,
//! the tag BAD_MEASUREMENT; for a sequence number that is not the next one AEAD_OFLOW was seen on hardware (AMDESE/linux-svsm,
//! issue 22).

use alloc::vec::Vec;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce, Tag};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::PAGE_SIZE;
use crate::status::Status;

/// Bytes of a header.
pub const HEADER_SIZE: usize = 0x60;
/// Bytes that a message may have.
pub const MAX_PAYLOAD: usize = PAGE_SIZE - HEADER_SIZE;
/// Version of the header.
pub const HEADER_VERSION: u8 = 1;
/// ALGO: AES-256-GCM.
pub const AES_256_GCM: u8 = 1;
/// VMPCKs that a guest has, one for each VMPL.
pub const VMPCKS: usize = 4;

/// MSG_TYPE of the messages that this PSP answers. A response has the number after its request's.
pub mod kind {
    /// MSG_KEY_REQ.
    pub const KEY_REQUEST: u8 = 3;
    /// MSG_REPORT_REQ.
    pub const REPORT_REQUEST: u8 = 5;
    /// MSG_TSC_INFO_REQ.
    pub const TSC_INFO_REQUEST: u8 = 17;
}

/// Header of a message.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    tag: [u8; 16],
    /// The field for the tag has 32 bytes; GCM's has 16.
    rest_of_tag: [u8; 16],
    sequence: U64,
    reserved_028: U64,
    authenticated: Authenticated,
}

/// The part of the header that the tag covers; the sequence number is the IV.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Authenticated {
    algorithm: u8,
    header_version: u8,
    header_size: U16,
    kind: u8,
    version: u8,
    size: U16,
    reserved_038: U32,
    vmpck: u8,
    reserved_03d: [u8; 35],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Header>() == HEADER_SIZE);
    assert!(offset_of!(Header, sequence) == 0x20);
    assert!(offset_of!(Header, authenticated) == 0x30);
    assert!(offset_of!(Authenticated, header_size) == 0x32 - 0x30);
    assert!(offset_of!(Authenticated, kind) == 0x34 - 0x30);
    assert!(offset_of!(Authenticated, size) == 0x36 - 0x30);
    assert!(offset_of!(Authenticated, vmpck) == 0x3c - 0x30);
};

/// A message, in clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// MSG_TYPE: [`kind`].
    pub kind: u8,
    /// MSG_VERSION: of the payload.
    pub version: u8,
    /// MSG_VMPCK: which key, and so which VMPL at least.
    pub vmpck: u8,
    /// What is said.
    pub payload: Vec<u8>,
}

/// A VM platform communication key.
pub type Vmpck = [u8; 32];

fn nonce(sequence: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    for (to, from) in nonce.iter_mut().zip(sequence.to_le_bytes()) {
        *to = from;
    }
    nonce.into()
}

fn cipher(key: &Vmpck) -> Aes256Gcm {
    Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key))
}

/// Encrypts a message into a page, as both sides do. The same sequence number must never be used twice with a key. A payload of
/// more than [`MAX_PAYLOAD`] bytes is INVALID_PARAM.
pub fn seal(key: &Vmpck, sequence: u64, message: &Message, page: &mut [u8; PAGE_SIZE]) -> Result<(), Status> {
    let size = u16::try_from(message.payload.len()).map_err(|_| Status::InvalidParam)?;
    let authenticated = Authenticated {
        algorithm: AES_256_GCM,
        header_version: HEADER_VERSION,
        header_size: (HEADER_SIZE as u16).into(),
        kind: message.kind,
        version: message.version,
        size: size.into(),
        reserved_038: 0.into(),
        vmpck: message.vmpck,
        reserved_03d: [0; 35],
    };
    let (header, payload) = page.split_at_mut(HEADER_SIZE);
    let payload = payload.get_mut(..message.payload.len()).ok_or(Status::InvalidParam)?;
    payload.copy_from_slice(&message.payload);
    let tag = cipher(key)
        .encrypt_inout_detached(&nonce(sequence), authenticated.as_bytes(), payload.into())
        .map_err(|_| Status::InvalidParam)?;
    let sealed = Header {
        tag: tag.into(),
        rest_of_tag: [0; 16],
        sequence: sequence.into(),
        reserved_028: 0.into(),
        authenticated,
    };
    sealed.write_to(header).map_err(|_| Status::InvalidParam)
}

/// The form of a header: everything that does not need a key.
fn parse(page: &[u8; PAGE_SIZE]) -> Result<(Header, &[u8]), Status> {
    let (header, payload) = Header::read_from_prefix(page).map_err(|_| Status::InvalidParam)?;
    let authenticated = &header.authenticated;
    let right = header.rest_of_tag == [0; 16]
        && header.reserved_028.get() == 0
        && authenticated.algorithm == AES_256_GCM
        && authenticated.header_version == HEADER_VERSION
        && usize::from(authenticated.header_size.get()) == HEADER_SIZE
        && authenticated.reserved_038.get() == 0
        && usize::from(authenticated.vmpck) < VMPCKS
        && authenticated.reserved_03d == [0; 35];
    let payload = payload.get(..authenticated.size.get().into());
    payload.filter(|_| right).map(|payload| (header, payload)).ok_or(Status::InvalidParam)
}

/// Opens a message that must have the sequence number `sequence`: form, then sequence, then tag.
pub fn unseal(key: &Vmpck, sequence: u64, page: &[u8; PAGE_SIZE]) -> Result<Message, Status> {
    let (header, payload) = parse(page)?;
    if header.sequence.get() != sequence {
        return Err(Status::AeadOverflow);
    }
    let mut payload = payload.to_vec();
    let authenticated = header.authenticated;
    cipher(key)
        .decrypt_inout_detached(
            &nonce(sequence),
            authenticated.as_bytes(),
            payload.as_mut_slice().into(),
            &Tag::from(header.tag),
        )
        .map_err(|_| Status::BadMeasurement)?;
    let Authenticated { kind, version, vmpck, .. } = authenticated;
    Ok(Message { kind, version, vmpck, payload })
}

/// The keys of a guest, and how many messages went by with each.
pub struct Channels {
    channels: [Channel; VMPCKS],
}

struct Channel {
    key: Vmpck,
    /// MSG_COUNT: the sequence number of the last answer.
    count: u64,
}

impl Channels {
    /// Of a guest that has said nothing yet.
    pub fn new(keys: [Vmpck; VMPCKS]) -> Self {
        Self { channels: keys.map(|key| Channel { key, count: 0 }) }
    }

    /// The keys, for the secrets page.
    pub fn keys(&self) -> impl Iterator<Item = &Vmpck> {
        self.channels.iter().map(|channel| &channel.key)
    }

    /// Sequence number of the last answer with a key, if there is such a key.
    pub fn count(&self, vmpck: u8) -> Option<u64> {
        self.channels.get(usize::from(vmpck)).map(|channel| channel.count)
    }

    /// Opens a request. That alone does not move the sequence on: only an answer does.
    pub fn open(&self, page: &[u8; PAGE_SIZE]) -> Result<Message, Status> {
        let (header, _) = parse(page)?;
        let vmpck = usize::from(header.authenticated.vmpck);
        let channel = self.channels.get(vmpck).ok_or(Status::InvalidParam)?;
        // There must be a number for the answer too.
        channel.count.checked_add(2).ok_or(Status::AeadOverflow)?;
        unseal(&channel.key, channel.count + 1, page)
    }

    /// Seals the answer to a request that [`Self::open`] has just opened.
    pub fn answer(
        &mut self,
        request: &Message,
        payload: Vec<u8>,
        page: &mut [u8; PAGE_SIZE],
    ) -> Result<(), Status> {
        let channel = self.channels.get_mut(usize::from(request.vmpck)).ok_or(Status::InvalidParam)?;
        let sequence = channel.count.checked_add(2).ok_or(Status::AeadOverflow)?;
        let kind = request.kind.checked_add(1).ok_or(Status::InvalidParam)?;
        let answer = Message { kind, payload, ..*request };
        seal(&channel.key, sequence, &answer, page)?;
        channel.count = sequence;
        Ok(())
    }

    /// For tests: as if so many messages had gone by.
    #[cfg(test)]
    pub(crate) fn set_count(&mut self, vmpck: usize, count: u64) {
        self.channels[vmpck].count = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEYS: [Vmpck; VMPCKS] = [[1; 32], [2; 32], [3; 32], [4; 32]];

    fn message(vmpck: u8, payload: &[u8]) -> Message {
        Message { kind: kind::REPORT_REQUEST, version: 1, vmpck, payload: payload.to_vec() }
    }

    fn sealed(key: &Vmpck, sequence: u64, message: &Message) -> [u8; PAGE_SIZE] {
        let mut page = [0; PAGE_SIZE];
        seal(key, sequence, message, &mut page).unwrap();
        page
    }

    #[test]
    fn a_dialogue_moves_the_sequence_on_by_two() {
        let mut channels = Channels::new(KEYS);
        let mut page = [0; PAGE_SIZE];
        for sequence in [1, 3, 5] {
            let request = message(2, b"question");
            let opened = channels.open(&sealed(&KEYS[2], sequence, &request)).unwrap();
            assert_eq!(opened, request);
            assert_eq!(channels.count(2), Some(sequence - 1), "opening alone changes nothing");
            channels.answer(&opened, b"answer".to_vec(), &mut page).unwrap();
            let answer = unseal(&KEYS[2], sequence + 1, &page).unwrap();
            assert_eq!(answer, Message { kind: kind::REPORT_REQUEST + 1, ..message(2, b"answer") });
        }
        assert_eq!(channels.count(2), Some(6));
        assert_eq!([0, 1, 3].map(|vmpck| channels.count(vmpck)), [Some(0); 3], "each key counts for itself");
        assert_eq!(channels.count(4), None);
    }

    #[test]
    fn a_message_out_of_sequence_is_refused() {
        let mut channels = Channels::new(KEYS);
        channels.set_count(0, 6);
        let request = message(0, b"");
        for sequence in [0, 1, 6, 8, 9, u64::MAX] {
            let page = sealed(&KEYS[0], sequence, &request);
            assert_eq!(channels.open(&page), Err(Status::AeadOverflow), "{sequence}");
        }
        assert!(channels.open(&sealed(&KEYS[0], 7, &request)).is_ok());
    }

    #[test]
    fn the_last_sequence_numbers_are_not_used() {
        let mut channels = Channels::new(KEYS);
        let request = message(0, b"");
        channels.set_count(0, u64::MAX - 1);
        assert_eq!(channels.open(&sealed(&KEYS[0], u64::MAX, &request)), Err(Status::AeadOverflow));
        channels.set_count(0, u64::MAX);
        assert_eq!(channels.open(&sealed(&KEYS[0], 0, &request)), Err(Status::AeadOverflow));
        assert_eq!(channels.answer(&request, vec![], &mut [0; PAGE_SIZE]), Err(Status::AeadOverflow));
    }

    #[test]
    fn a_message_under_another_key_is_refused() {
        let channels = Channels::new(KEYS);
        let page = sealed(&KEYS[1], 1, &message(0, b"question"));
        assert_eq!(channels.open(&page), Err(Status::BadMeasurement));
    }

    #[test]
    fn every_fault_of_a_header_has_its_status() {
        let channels = Channels::new(KEYS);
        let page = sealed(&KEYS[0], 1, &message(0, &[7; 96]));
        let faults = [
            (0x00, Status::BadMeasurement),
            (0x0f, Status::BadMeasurement),
            (0x10, Status::InvalidParam),
            (0x1f, Status::InvalidParam),
            (0x20, Status::AeadOverflow),
            (0x27, Status::AeadOverflow),
            (0x28, Status::InvalidParam),
            (0x2f, Status::InvalidParam),
            (0x30, Status::InvalidParam),
            (0x31, Status::InvalidParam),
            (0x32, Status::InvalidParam),
            (0x33, Status::InvalidParam),
            (0x34, Status::BadMeasurement),
            (0x35, Status::BadMeasurement),
            (0x36, Status::BadMeasurement),
            (0x38, Status::InvalidParam),
            (0x3b, Status::InvalidParam),
            (0x3c, Status::InvalidParam),
            (0x3d, Status::InvalidParam),
            (0x5f, Status::InvalidParam),
            (0x60, Status::BadMeasurement),
            (0xbf, Status::BadMeasurement),
        ];
        for (offset, status) in faults {
            let mut page = page;
            page[offset] ^= 0x40;
            assert_eq!(channels.open(&page), Err(status), "{offset:#x}");
        }
        let mut beyond = page;
        beyond[0x36..0x38].copy_from_slice(&(MAX_PAYLOAD as u16 + 1).to_le_bytes());
        assert_eq!(channels.open(&beyond), Err(Status::InvalidParam));
        let mut after = page;
        after[0xc0] ^= 1;
        assert!(channels.open(&after).is_ok(), "what follows the message is not part of it");
    }

    #[test]
    fn a_page_holds_so_much_and_no_more() {
        let full = message(3, &[9; MAX_PAYLOAD]);
        assert_eq!(Channels::new(KEYS).open(&sealed(&KEYS[3], 1, &full)), Ok(full));
        let mut page = [0; PAGE_SIZE];
        for size in [MAX_PAYLOAD + 1, 0x10000] {
            let beyond = message(3, &vec![9; size]);
            assert_eq!(seal(&KEYS[3], 1, &beyond, &mut page), Err(Status::InvalidParam));
        }
    }

    proptest! {
        #[test]
        fn any_page_is_opened_or_refused(page in prop::collection::vec(any::<u8>(), PAGE_SIZE)) {
            let page: [u8; PAGE_SIZE] = page.try_into().unwrap();
            prop_assert!(Channels::new(KEYS).open(&page).is_err());
        }

        /// Nobody but the holder of the key can say anything: no change of header or payload is accepted.
        #[test]
        fn no_changed_message_is_opened(
            payload in prop::collection::vec(any::<u8>(), 0..300),
            vmpck in 0..4_u8,
            changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
        ) {
            let request = message(vmpck, &payload);
            let original = sealed(&KEYS[usize::from(vmpck)], 1, &request);
            let mut page = original;
            for (at, change) in changes {
                page[at.index(HEADER_SIZE + payload.len())] ^= change;
            }
            prop_assume!(page != original);
            prop_assert!(Channels::new(KEYS).open(&page).is_err());
        }
    }
}
