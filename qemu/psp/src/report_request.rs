//! MSG_REPORT_REQ and MSG_REPORT_RSP: a guest asks for an attestation report.
//!
//! Source: SEV-SNP firmware ABI (56860), tables "MSG_REPORT_REQ Message Structure" and "MSG_REPORT_RSP Message Structure".

use alloc::vec::Vec;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::message::Message;
use crate::report::{REPORT_SIZE, Report};
use crate::status::Status;

/// KEY_SEL of a request: the VLEK if the host loaded one, else the VCEK.
const KEY_SELECT_EITHER: u32 = 0;
/// KEY_SEL: the VCEK.
const KEY_SELECT_VCEK: u32 = 1;
/// KEY_SEL: the VLEK.
const KEY_SELECT_VLEK: u32 = 2;

/// Checks a selection of the key that signs or that keys are derived from; there is no VLEK here.
pub(crate) fn check_key_select(select: u32) -> Result<(), Status> {
    match select {
        KEY_SELECT_EITHER | KEY_SELECT_VCEK => Ok(()),
        KEY_SELECT_VLEK => Err(Status::InvalidKey),
        _ => Err(Status::InvalidParam),
    }
}

/// Checks a VMPL that a request names: no more privileged than the key that the request came with, and one that exists.
pub(crate) fn check_vmpl(vmpl: u32, message: &Message) -> Result<(), Status> {
    if (u32::from(message.vmpck)..=3).contains(&vmpl) { Ok(()) } else { Err(Status::InvalidParam) }
}

/// MSG_REPORT_REQ.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReportRequest {
    /// Goes into the report as it is.
    pub report_data: [u8; 64],
    /// VMPL that the report is to name.
    pub vmpl: U32,
    /// Bits 1:0 KEY_SEL; the others zero.
    pub key_select: U32,
    /// Zero.
    pub reserved_048: [u8; 24],
}

/// MSG_REPORT_RSP, before the report.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ReportResponse {
    status: U32,
    size: U32,
    reserved_008: [u8; 24],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<ReportRequest>() == 0x60);
    assert!(offset_of!(ReportRequest, vmpl) == 0x40);
    assert!(offset_of!(ReportRequest, key_select) == 0x44);
    assert!(size_of::<ReportResponse>() == 0x20);
};

impl ReportRequest {
    /// Checks a request.
    pub fn parse(message: &Message) -> Result<Self, Status> {
        let request = Self::read_from_bytes(&message.payload).map_err(|_| Status::InvalidParam)?;
        if message.version != 1 || request.reserved_048 != [0; 24] {
            return Err(Status::InvalidParam);
        }
        check_vmpl(request.vmpl.get(), message)?;
        check_key_select(request.key_select.get())?;
        Ok(request)
    }
}

/// The payload of the answer.
pub fn response(result: Result<Report, Status>) -> Vec<u8> {
    let mut response = ReportResponse::new_zeroed();
    match result {
        Ok(report) => {
            response.size = (REPORT_SIZE as u32).into();
            [response.as_bytes(), report.as_bytes()].concat()
        }
        Err(status) => {
            response.status = status.code().into();
            response.as_bytes().to_vec()
        }
    }
}
