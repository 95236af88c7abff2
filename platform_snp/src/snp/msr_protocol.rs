//! The GHCB MSR protocol (GHCB specification 56421, version 2, section 2.3.1): each request and each answer a type.
//!
//! An answer is taken only if it is one to the request that was made, with every bit that must be zero zero.

use super::{Instructions, Violation};

/// What the guest asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// 0x002: versions.
    SevInformation,
    /// 0x012: register the GHCB page at this address.
    RegisterGhcb(u64),
    /// 0x014: page state change: 1 private, 2 shared.
    PageState {
        /// Address.
        gpa: u64,
        /// Whether it is to be private.
        private: bool,
    },
    /// 0x080: hypervisor features.
    Features,
    /// 0x100: the end.
    Terminate {
        /// Set of reason codes.
        set: u8,
        /// Code.
        code: u8,
    },
}

impl From<Request> for u64 {
    fn from(request: Request) -> u64 {
        match request {
            Request::SevInformation => 0x002,
            Request::RegisterGhcb(gpa) => gpa & !0xfff | 0x012,
            Request::PageState { gpa, private } => {
                (if private { 1 } else { 2 }) << 52 | gpa & 0x000f_ffff_ffff_f000 | 0x014
            }
            Request::Features => 0x080,
            Request::Terminate { set, code } => u64::from(code) << 16 | u64::from(set & 15) << 12 | 0x100,
        }
    }
}

/// 0x001: what the host speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SevInformation {
    /// Lowest version.
    pub minimum: u16,
    /// Highest version.
    pub maximum: u16,
}

impl TryFrom<u64> for SevInformation {
    type Error = Violation;
    fn try_from(value: u64) -> Result<Self, Violation> {
        // Bits 31:24 are the C-bit: the host's word, which is not asked for.
        if value & 0xfff != 0x001 {
            return Err(Violation::BadMsrAnswer);
        }
        let (minimum, maximum) = ((value >> 32) as u16, (value >> 48) as u16);
        if minimum > maximum { Err(Violation::BadMsrAnswer) } else { Ok(Self { minimum, maximum }) }
    }
}

/// Hypervisor features, GHCB specification section 4.1.11.
pub const FEATURE_SNP: u64 = 1 << 0;

/// Version 2 is spoken, and the host has SNP.
pub fn negotiate(cpu: &impl Instructions) -> Result<(), Violation> {
    let versions = SevInformation::try_from(cpu.msr_exchange(Request::SevInformation.into()))?;
    if !(versions.minimum..=versions.maximum).contains(&2) {
        return Err(Violation::ProtocolVersion);
    }
    let answer = cpu.msr_exchange(Request::Features.into());
    if answer & 0xfff != 0x081 {
        return Err(Violation::BadMsrAnswer);
    }
    if answer >> 12 & FEATURE_SNP == 0 { Err(Violation::Features) } else { Ok(()) }
}

/// Registers the GHCB page at `gpa`: the answer must be that very page.
pub fn register_ghcb(cpu: &impl Instructions, gpa: u64) -> Result<(), Violation> {
    let answer = cpu.msr_exchange(Request::RegisterGhcb(gpa).into());
    if answer == gpa & !0xfff | 0x013 { Ok(()) } else { Err(Violation::GhcbRegistration) }
}

/// Asks for a page to be private or shared.
pub fn change_page(cpu: &impl Instructions, gpa: u64, private: bool) -> Result<(), Violation> {
    let answer = cpu.msr_exchange(Request::PageState { gpa, private }.into());
    match answer {
        // An error in 63:32; 31:12 are zero.
        0x015 => Ok(()),
        other if other & 0xffff_ffff == 0x015 => Err(Violation::Refused),
        _ => Err(Violation::BadMsrAnswer),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ghcb::tests::Scripted;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_as_the_specification_has_them() {
        assert_eq!(u64::from(Request::PageState { gpa: 0x1234_5000, private: false }), 2 << 52 | 0x1234_5014);
        assert_eq!(u64::from(Request::Terminate { set: 0xb, code: 0x0a }), 0x0a_b100);
    }

    #[test]
    fn negotiation() {
        let answers = |info, features| negotiate(&Scripted::new([info, features]));
        assert_eq!(answers(0x0002_0001_3300_0001, 0x1081), Ok(()));
        assert_eq!(answers(0x0001_0001_3300_0001, 0x1081), Err(Violation::ProtocolVersion));
        assert_eq!(answers(0x0002_0001_3300_0005, 0x1081), Err(Violation::BadMsrAnswer));
        assert_eq!(answers(0x0001_0002_3300_0001, 0x1081), Err(Violation::BadMsrAnswer));
        assert_eq!(answers(0x0002_0001_3300_0001, 0x2081), Err(Violation::Features));
    }

    proptest! {
        /// Of all answers only the one is taken.
        #[test]
        fn one_answer_registers(answer in any::<u64>(), page in 0u64..1 << 40) {
            let gpa = page << 12;
            prop_assert_eq!(register_ghcb(&Scripted::new([answer]), gpa).is_ok(), answer == gpa | 0x013);
            prop_assert_eq!(register_ghcb(&Scripted::new([gpa | 0x013]), gpa), Ok(()));
            prop_assert_eq!(change_page(&Scripted::new([answer]), gpa, true).is_ok(), answer == 0x015);
        }
    }
}
