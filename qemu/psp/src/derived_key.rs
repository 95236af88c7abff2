//! MSG_KEY_REQ and MSG_KEY_RSP: a guest asks for a key that only it, as it is, can get again.
//!
//! The same request of the same guest on the same chip gives the same key; what the request selects to be mixed in, and nothing
//! else, makes keys differ. A guest can ask for the keys of a less privileged VMPL, of an older version of itself and of an older
//! TCB, never the other way.
//!
//! Source: SEV-SNP firmware ABI (56860), tables "MSG_KEY_REQ Message Structure", "GUEST_FIELD_SELECT" and "MSG_KEY_RSP Message
//! Structure"; Linux, include/uapi/linux/sev-guest.h. The derivation itself AMD does not publish; ours is SHA-384 of what is
//! selected and of a secret that is none ([`crate::hierarchy::SEED`]).

use alloc::vec::Vec;

use bitflags::bitflags;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::hierarchy;
use crate::message::Message;
use crate::report_request::{check_key_select, check_vmpl};
use crate::status::Status;

bitflags! {
    /// GUEST_FIELD_SELECT: what is mixed into the key.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FieldSelect: u64 {
        /// Policy of the guest.
        const GUEST_POLICY = 1 << 0;
        /// Image of the ID block.
        const IMAGE_ID = 1 << 1;
        /// Family of the ID block.
        const FAMILY_ID = 1 << 2;
        /// Launch digest.
        const MEASUREMENT = 1 << 3;
        /// The security version that the request names.
        const GUEST_SVN = 1 << 4;
        /// The TCB that the request names.
        const TCB_VERSION = 1 << 5;
        /// The mitigations that the request names (message version 2).
        const LAUNCH_MITIGATIONS = 1 << 6;
    }
}

/// MSG_KEY_REQ, version 1.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KeyRequest {
    /// Bit 0: 0 derived from the VCEK or VLEK, 1 from the VMRK; bits 2:1 KEY_SEL, which of the first two.
    pub root_key_select: U32,
    /// Zero.
    pub reserved_004: U32,
    /// [`FieldSelect`].
    pub guest_field_select: U64,
    /// VMPL that the key is for; always mixed in.
    pub vmpl: U32,
    /// At most that of the ID block.
    pub guest_svn: U32,
    /// At most the committed TCB, in every component.
    pub tcb_version: [u8; 8],
}

/// MSG_KEY_RSP.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct KeyResponse {
    status: U32,
    reserved_004: [u8; 28],
    key: [u8; 32],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<KeyRequest>() == 0x20);
    assert!(offset_of!(KeyRequest, guest_field_select) == 0x08);
    assert!(offset_of!(KeyRequest, vmpl) == 0x10);
    assert!(offset_of!(KeyRequest, tcb_version) == 0x18);
    assert!(size_of::<KeyResponse>() == 0x40);
};

/// What a guest is, as far as keys are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Identity of the chip, from which the root key is.
    pub chip_id: &'a [u8; 64],
    /// VMRK: of this launch.
    pub vmrk: &'a [u8; 48],
    /// Policy.
    pub policy: u64,
    /// Image, out of the ID block.
    pub image_id: &'a [u8; 16],
    /// Family, out of the ID block.
    pub family_id: &'a [u8; 16],
    /// Launch digest.
    pub measurement: &'a [u8; 48],
    /// Security version, out of the ID block.
    pub guest_svn: u32,
    /// The TCB that the platform is committed to.
    pub committed_tcb: [u8; 8],
    /// Mitigations at launch; none for firmware that does not know message version 2.
    pub mitigations: Option<u64>,
}

/// A request that may be answered.
struct Checked {
    request: KeyRequest,
    fields: FieldSelect,
    mitigations: u64,
}

impl Subject<'_> {
    fn check(&self, message: &Message) -> Result<Checked, Status> {
        let refused = Status::InvalidParam;
        let (request, rest) = KeyRequest::read_from_prefix(&message.payload).map_err(|_| refused)?;
        let (known, mitigations) = match (message.version, self.mitigations) {
            (1, _) => (FieldSelect::all() - FieldSelect::LAUNCH_MITIGATIONS, None),
            (2, Some(at_launch)) => (FieldSelect::all(), Some(at_launch)),
            _ => return Err(refused),
        };
        let named = match mitigations {
            None if rest.is_empty() => 0,
            None => return Err(refused),
            Some(at_launch) => {
                let named = U64::read_from_bytes(rest).map_err(|_| refused)?.get();
                // A guest may leave mitigations out, not make them up.
                if named & !at_launch != 0 {
                    return Err(refused);
                }
                named
            }
        };
        let fields = FieldSelect::from_bits(request.guest_field_select.get()).ok_or(refused)?;
        let newer = request.tcb_version.iter().zip(self.committed_tcb).any(|(asked, is)| *asked > is);
        if !known.contains(fields)
            || request.reserved_004.get() != 0
            || request.guest_svn.get() > self.guest_svn
            || newer
        {
            return Err(refused);
        }
        check_vmpl(request.vmpl.get(), message)?;
        check_key_select(request.root_key_select.get() >> 1)?;
        Ok(Checked { request, fields, mitigations: named })
    }

    fn derive(&self, checked: &Checked) -> [u8; 32] {
        let Checked { request, fields, mitigations } = checked;
        let vmrk = request.root_key_select.get() & 1 == 1;
        let root: &[u8] = if vmrk { self.vmrk } else { self.chip_id };
        // What is not selected counts as nothing at all, which no value that is selected equals.
        let mix = |field, bytes: &[u8]| if fields.contains(field) { bytes.to_vec() } else { Vec::new() };
        let context = [
            root.to_vec(),
            request.vmpl.as_bytes().to_vec(),
            mix(FieldSelect::GUEST_POLICY, &self.policy.to_le_bytes()),
            mix(FieldSelect::IMAGE_ID, self.image_id),
            mix(FieldSelect::FAMILY_ID, self.family_id),
            mix(FieldSelect::MEASUREMENT, self.measurement),
            mix(FieldSelect::GUEST_SVN, request.guest_svn.as_bytes()),
            mix(FieldSelect::TCB_VERSION, &request.tcb_version),
            mix(FieldSelect::LAUNCH_MITIGATIONS, &mitigations.to_le_bytes()),
        ];
        let purpose = if vmrk { "derived from VMRK" } else { "derived from VCEK" };
        let secret = hierarchy::secret(purpose, &context.each_ref().map(Vec::as_slice));
        let mut key = [0; 32];
        for (to, from) in key.iter_mut().zip(secret) {
            *to = from;
        }
        key
    }

    /// The payload of the answer.
    pub fn answer(&self, message: &Message) -> Vec<u8> {
        let mut response = KeyResponse::new_zeroed();
        match self.check(message) {
            Ok(checked) => response.key = self.derive(&checked),
            Err(status) => response.status = status.code().into(),
        }
        response.as_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::kind::KEY_REQUEST;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const SUBJECT: Subject<'_> = Subject {
        chip_id: &[1; 64],
        vmrk: &[2; 48],
        policy: 0x30000,
        image_id: &[3; 16],
        family_id: &[4; 16],
        measurement: &[5; 48],
        guest_svn: 7,
        committed_tcb: [4, 0, 0, 0, 0, 0, 24, 219],
        mitigations: Some(0b1010),
    };

    fn request() -> KeyRequest {
        KeyRequest::new_zeroed()
    }

    fn ask(subject: &Subject<'_>, vmpck: u8, request: KeyRequest) -> Result<[u8; 32], u32> {
        let payload = request.as_bytes().to_vec();
        ask_raw(subject, Message { kind: KEY_REQUEST, version: 1, vmpck, payload })
    }

    fn ask_raw(subject: &Subject<'_>, message: Message) -> Result<[u8; 32], u32> {
        let response = subject.answer(&message);
        assert_eq!(response.len(), 64);
        assert_eq!(response[4..32], [0; 28]);
        let key: [u8; 32] = response[32..].try_into().unwrap();
        match u32::from_le_bytes(response[..4].try_into().unwrap()) {
            0 => Ok(key),
            status => {
                assert_eq!(key, [0; 32], "no key comes with a refusal");
                Err(status)
            }
        }
    }

    #[test]
    fn every_selection_has_a_key_of_its_own() {
        let mut keys = HashSet::new();
        for fields in 0..0x40_u64 {
            for root in [0, 1] {
                for vmpl in 0..4_u32 {
                    let request = KeyRequest {
                        root_key_select: root.into(),
                        guest_field_select: fields.into(),
                        vmpl: vmpl.into(),
                        ..request()
                    };
                    let key = ask(&SUBJECT, 0, request).unwrap();
                    assert_eq!(ask(&SUBJECT, 0, request), Ok(key), "the same again");
                    assert!(keys.insert(key), "{fields:#x} {root} {vmpl}");
                }
            }
        }
    }

    /// What is selected makes keys differ, and what is not does not.
    #[test]
    fn a_field_counts_if_it_is_selected() {
        let others: [(FieldSelect, Subject<'_>); 4] = [
            (FieldSelect::GUEST_POLICY, Subject { policy: 0x20000, ..SUBJECT }),
            (FieldSelect::IMAGE_ID, Subject { image_id: &[0; 16], ..SUBJECT }),
            (FieldSelect::FAMILY_ID, Subject { family_id: &[0; 16], ..SUBJECT }),
            (FieldSelect::MEASUREMENT, Subject { measurement: &[0; 48], ..SUBJECT }),
        ];
        for (field, other) in others {
            for fields in 0..0x10_u64 {
                let request = KeyRequest { guest_field_select: fields.into(), ..request() };
                let differ = ask(&SUBJECT, 0, request) != ask(&other, 0, request);
                assert_eq!(differ, fields & field.bits() != 0, "{field:?} in {fields:#x}");
            }
        }
        type Change = fn(&mut KeyRequest);
        let named: [(FieldSelect, Change); 2] = [
            (FieldSelect::GUEST_SVN, |request| request.guest_svn = 3.into()),
            (FieldSelect::TCB_VERSION, |request| request.tcb_version[7] = 200),
        ];
        for (field, change) in named {
            for fields in [FieldSelect::empty(), field] {
                let before = KeyRequest { guest_field_select: fields.bits().into(), ..request() };
                let mut after = before;
                change(&mut after);
                let differ = ask(&SUBJECT, 0, before) != ask(&SUBJECT, 0, after);
                assert_eq!(differ, !fields.is_empty(), "{field:?}");
            }
        }
    }

    #[test]
    fn the_root_counts_if_it_is_selected() {
        let (chip, launch) =
            (Subject { chip_id: &[9; 64], ..SUBJECT }, Subject { vmrk: &[9; 48], ..SUBJECT });
        let from_vcek = request();
        let from_vmrk = KeyRequest { root_key_select: 1.into(), ..request() };
        assert_ne!(ask(&SUBJECT, 0, from_vcek), ask(&chip, 0, from_vcek));
        assert_eq!(ask(&SUBJECT, 0, from_vcek), ask(&launch, 0, from_vcek));
        assert_eq!(ask(&SUBJECT, 0, from_vmrk), ask(&chip, 0, from_vmrk));
        assert_ne!(ask(&SUBJECT, 0, from_vmrk), ask(&launch, 0, from_vmrk));
        let named = KeyRequest { root_key_select: 2.into(), ..request() };
        assert_eq!(
            ask(&SUBJECT, 0, from_vcek),
            ask(&SUBJECT, 0, named),
            "without a VLEK, either is the VCEK"
        );
    }

    #[test]
    fn what_a_guest_may_not_have_is_refused() {
        let refused = |vmpck, change: fn(&mut KeyRequest)| {
            let mut request = request();
            change(&mut request);
            ask(&SUBJECT, vmpck, request).unwrap_err()
        };
        assert_eq!(refused(0, |request| request.root_key_select = 4.into()), 0x27, "there is no VLEK");
        assert_eq!(refused(0, |request| request.root_key_select = 6.into()), 0x16);
        assert_eq!(refused(0, |request| request.root_key_select = 8.into()), 0x16);
        assert_eq!(refused(0, |request| request.reserved_004 = 1.into()), 0x16);
        assert_eq!(refused(0, |request| request.guest_field_select = 0x40.into()), 0x16);
        assert_eq!(refused(0, |request| request.guest_field_select = 0x80.into()), 0x16);
        assert_eq!(refused(0, |request| request.vmpl = 4.into()), 0x16);
        assert_eq!(refused(2, |request| request.vmpl = 1.into()), 0x16, "a more privileged VMPL");
        assert_eq!(refused(0, |request| request.guest_svn = 8.into()), 0x16, "a later version");
        assert_eq!(
            refused(0, |request| request.tcb_version = [4, 0, 0, 0, 0, 0, 25, 1]),
            0x16,
            "a later TCB"
        );
        let latest = KeyRequest { guest_svn: 7.into(), tcb_version: SUBJECT.committed_tcb, ..request() };
        assert!(ask(&SUBJECT, 0, latest).is_ok());
    }

    #[test]
    fn message_version_2_mixes_mitigations() {
        let message = |version, mitigations: &[u8]| {
            let request = KeyRequest { guest_field_select: 0x40.into(), ..request() };
            let payload = [request.as_bytes(), mitigations].concat();
            Message { kind: KEY_REQUEST, version, vmpck: 0, payload }
        };
        let of = |mitigations: u64| ask_raw(&SUBJECT, message(2, &mitigations.to_le_bytes()));
        let keys = [0b0000, 0b0010, 0b1000, 0b1010].map(|mitigations| of(mitigations).unwrap());
        assert_eq!(keys.into_iter().collect::<HashSet<_>>().len(), 4);
        assert_eq!(of(0b0100), Err(0x16));
        assert_eq!(ask_raw(&SUBJECT, message(2, &[])), Err(0x16));
        assert_eq!(ask_raw(&SUBJECT, message(1, &[0; 8])), Err(0x16));
        assert_eq!(ask_raw(&SUBJECT, message(3, &[0; 8])), Err(0x16));
        let older = Subject { mitigations: None, ..SUBJECT };
        assert_eq!(ask_raw(&older, message(2, &[0; 8])), Err(0x16));
    }

    proptest! {
        #[test]
        fn any_request_is_answered(
            payload in prop::collection::vec(any::<u8>(), 0..50),
            version in 0..4_u8,
            vmpck in 0..4_u8,
        ) {
            let _ = ask_raw(&SUBJECT, Message { kind: KEY_REQUEST, version, vmpck, payload });
        }
    }
}
