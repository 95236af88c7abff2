//! Status codes of the firmware: what a command ends with, and what a response message carries.
//!
//! Source: SEV-SNP firmware ABI (56860), table "Status Codes"; Linux, include/uapi/linux/psp-sev.h.

use core::fmt;

/// A status code. Those of commands reach the guest in SW_EXITINFO2\[31:0\].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u32)]
pub enum Status {
    /// Done.
    Success = 0x00,
    /// The guest is not in the state for this.
    InvalidGuestState = 0x02,
    /// The policy does not allow this platform.
    PolicyFailure = 0x07,
    /// The authentication tag is not that of the message.
    BadMeasurement = 0x0b,
    /// A parameter or a reserved field is wrong.
    InvalidParam = 0x16,
    /// The sequence number is not the next one, or there is no next one.
    AeadOverflow = 0x1d,
    /// The key that was asked for is not there.
    InvalidKey = 0x27,
}

impl Status {
    /// The number.
    pub const fn code(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "SUCCESS",
            Self::InvalidGuestState => "INVALID_GUEST_STATE: the guest was not launched to the end",
            Self::PolicyFailure => "POLICY_FAILURE: the guest policy does not allow this platform",
            Self::BadMeasurement => "BAD_MEASUREMENT: the authentication tag is wrong",
            Self::InvalidParam => "INVALID_PARAM: a parameter or a reserved field is wrong",
            Self::AeadOverflow => "AEAD_OFLOW: the sequence number is not the next one",
            Self::InvalidKey => "INVALID_KEY: the key is not there",
        })
    }
}

impl core::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;
    use sev::error::SevError;

    #[test]
    fn the_numbers_are_those_of_the_sev_crate() {
        let pairs = [
            (Status::InvalidGuestState, SevError::InvalidGuestState),
            (Status::PolicyFailure, SevError::PolicyFailure),
            (Status::BadMeasurement, SevError::BadMeasurement),
            (Status::InvalidParam, SevError::InvalidParam),
            (Status::AeadOverflow, SevError::AEADOFlow),
            (Status::InvalidKey, SevError::InvalidKey),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(ours.code(), theirs as u32, "{ours}");
        }
    }
}
