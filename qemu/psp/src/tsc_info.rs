//! MSG_TSC_INFO_REQ and MSG_TSC_INFO_RSP: a guest with Secure TSC asks for what its save area for other CPUs needs.
//!
//! Source: SEV-SNP firmware ABI (56860), tables "MSG_TSC_INFO_REQ Message Structure" and "MSG_TSC_INFO_RSP Message Structure";
//! Linux, arch/x86/include/asm/sev.h.

use alloc::vec::Vec;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::message::Message;
use crate::status::Status;

/// Bytes of a request, all zero.
pub const REQUEST_SIZE: usize = 128;

/// What Secure TSC is for a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TscInfo {
    /// GUEST_TSC_SCALE: guest ticks per host tick, 32 bits after the binary point.
    pub scale: u64,
    /// GUEST_TSC_OFFSET.
    pub offset: u64,
    /// TSC_FACTOR: by how many hundred-thousandths the mean frequency is below the nominal.
    pub factor: u32,
}

/// MSG_TSC_INFO_RSP.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct TscInfoResponse {
    status: U32,
    reserved_004: U32,
    scale: U64,
    offset: U64,
    factor: U32,
    reserved_01c: [u8; 100],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<TscInfoResponse>() == 128);
    assert!(offset_of!(TscInfoResponse, scale) == 0x08);
    assert!(offset_of!(TscInfoResponse, offset) == 0x10);
    assert!(offset_of!(TscInfoResponse, factor) == 0x18);
};

/// The payload of the answer. A guest that was launched without Secure TSC has none: INVALID_PARAM.
pub fn answer(message: &Message, info: Option<TscInfo>) -> Vec<u8> {
    let mut response = TscInfoResponse::new_zeroed();
    let right = message.version == 1 && message.payload == [0; REQUEST_SIZE];
    match info.filter(|_| right) {
        Some(info) => {
            response.scale = info.scale.into();
            response.offset = info.offset.into();
            response.factor = info.factor.into();
        }
        None => response.status = Status::InvalidParam.code().into(),
    }
    response.as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::kind::TSC_INFO_REQUEST;

    #[test]
    fn a_guest_with_secure_tsc_is_told() {
        let info = TscInfo { scale: 1 << 32, offset: u64::MAX - 4, factor: 200 };
        let message =
            Message { kind: TSC_INFO_REQUEST, version: 1, vmpck: 0, payload: vec![0; REQUEST_SIZE] };
        let response = answer(&message, Some(info));
        assert_eq!(response.len(), 128);
        assert_eq!(response[..8], [0; 8]);
        assert_eq!(response[8..16], (1_u64 << 32).to_le_bytes());
        assert_eq!(response[16..24], (u64::MAX - 4).to_le_bytes());
        assert_eq!(response[24..28], 200_u32.to_le_bytes());
        let refused = |message: &Message, info| {
            let response = answer(message, info);
            assert_eq!(response[..4], 0x16_u32.to_le_bytes());
            assert_eq!(response[4..], [0; 124]);
        };
        refused(&message, None);
        refused(&Message { version: 2, ..message.clone() }, Some(info));
        refused(&Message { payload: vec![0; 127], ..message.clone() }, Some(info));
        let mut reserved = message;
        reserved.payload[127] = 1;
        refused(&reserved, Some(info));
    }
}
