//! What a host can do that an honest one does not, as reason codes of the guest's end.
//!
//! Sent as the GHCB MSR's termination request (GHCB specification, section 2.3.1, 0x100) with reason set [`REASON_SET`]; `docs/design.md` says what
//! each means. The numbers are an interface to launchers and stay as they are.

use super::msr_protocol::Request;

/// Our set of reason codes; 0 is the specification's, 1 Linux's.
pub const REASON_SET: u8 = 0xb;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Violation {
    /// The workload or the launch ended the machine and the host goes on.
    NotSwitchedOff = 0x01,
    /// The GHCB protocol version 2 is not offered, or the answer makes no sense.
    ProtocolVersion = 0x02,
    /// The host has no SNP, or not what is needed of it.
    Features = 0x03,
    /// The registered GHCB is another one.
    GhcbRegistration = 0x04,
    /// An answer of the MSR protocol is none to the request.
    BadMsrAnswer = 0x05,
    /// An answer in the GHCB page cannot be: exception, fields not valid, a value out of range.
    BadGhcbAnswer = 0x06,
    /// The host refuses what it must grant.
    Refused = 0x07,
    /// A page state change that is not what was asked for.
    PageState = 0x08,
    /// PVALIDATE failed.
    Pvalidate = 0x09,
    /// PVALIDATE changed nothing: the page was in that state already, so memory was remapped.
    DoubleValidation = 0x0a,
    /// The CPUID page is not one, or contradicts itself.
    CpuidPage = 0x0b,
    /// The C-bit is not where the page tables were built to have it.
    CBit = 0x0c,
    /// The secrets page is not one.
    SecretsPage = 0x0d,
    /// The memory map makes no sense.
    MemoryMap = 0x0e,
    /// The memory map has no memory behind the launched image.
    MemoryMissing = 0x0f,
    /// Not at VMPL0.
    Vmpl = 0x10,
    /// A #VC that nothing of ours caused.
    InjectedVc = 0x11,
    /// Private memory was not validated, or not any more.
    MemoryLost = 0x12,
    /// An interrupt outside the allow-list, at a time when there is none, or an NMI.
    BadInterrupt = 0x13,
    /// A device broke the rules.
    BadDevice = 0x14,
    /// The workload's image was changed.
    ImageTampered = 0x15,
    /// The launch block is not one; a bug of whoever built the file.
    LaunchBlock = 0x16,
    /// A kernel bug.
    Bug = 0x17,
    /// The PSP's answer was forged, replayed or dropped.
    PspAnswer = 0x18,
    /// An exception that no instruction of ring 3's caused, or any in the kernel: injected, or a kernel bug.
    BadException = 0x19,
    /// Not at VMPL0, but below an SVSM, which this kernel does not speak to.
    Svsm = 0x1a,
}

impl Violation {
    /// The request that ends the guest.
    pub fn request(self) -> Request {
        Request::Terminate { set: REASON_SET, code: self as u8 }
    }

    /// All of them.
    pub const ALL: [Violation; 26] = [
        Self::Svsm,
        Self::BadException,
        Self::NotSwitchedOff,
        Self::ProtocolVersion,
        Self::Features,
        Self::GhcbRegistration,
        Self::BadMsrAnswer,
        Self::BadGhcbAnswer,
        Self::Refused,
        Self::PageState,
        Self::Pvalidate,
        Self::DoubleValidation,
        Self::CpuidPage,
        Self::CBit,
        Self::SecretsPage,
        Self::MemoryMap,
        Self::MemoryMissing,
        Self::Vmpl,
        Self::InjectedVc,
        Self::MemoryLost,
        Self::BadInterrupt,
        Self::BadDevice,
        Self::ImageTampered,
        Self::LaunchBlock,
        Self::Bug,
        Self::PspAnswer,
    ];

    /// The one with this code.
    pub fn from_code(code: u8) -> Option<Violation> {
        Self::ALL.into_iter().find(|violation| *violation as u8 == code)
    }

    /// Its name, for programs and test scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotSwitchedOff => "not-switched-off",
            Self::Svsm => "svsm",
            Self::BadException => "bad-exception",
            Self::ProtocolVersion => "protocol-version",
            Self::Features => "features",
            Self::GhcbRegistration => "ghcb-registration",
            Self::BadMsrAnswer => "bad-msr-answer",
            Self::BadGhcbAnswer => "bad-ghcb-answer",
            Self::Refused => "refused",
            Self::PageState => "page-state",
            Self::Pvalidate => "pvalidate",
            Self::DoubleValidation => "double-validation",
            Self::CpuidPage => "cpuid-page",
            Self::CBit => "c-bit",
            Self::SecretsPage => "secrets-page",
            Self::MemoryMap => "memory-map",
            Self::MemoryMissing => "memory-missing",
            Self::Vmpl => "vmpl",
            Self::InjectedVc => "injected-vc",
            Self::MemoryLost => "memory-lost",
            Self::BadInterrupt => "bad-interrupt",
            Self::BadDevice => "bad-device",
            Self::ImageTampered => "image-tampered",
            Self::LaunchBlock => "launch-block",
            Self::Bug => "bug",
            Self::PspAnswer => "psp-answer",
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::NotSwitchedOff => "the host did not switch the machine off",
            Self::ProtocolVersion => "the host does not speak version 2 of the GHCB protocol",
            Self::Features => "the host has no SNP",
            Self::GhcbRegistration => "the host registered another GHCB",
            Self::BadMsrAnswer => "an answer of the MSR protocol that is none",
            Self::BadGhcbAnswer => "an answer in the GHCB that cannot be",
            Self::Refused => "the host refuses what it must grant",
            Self::PageState => "a page state change that was not asked for",
            Self::Pvalidate => "PVALIDATE failed",
            Self::DoubleValidation => "a page was validated already: memory was remapped",
            Self::CpuidPage => "the CPUID page makes no sense",
            Self::CBit => "the C-bit is not where the image was built to have it",
            Self::SecretsPage => "the secrets page makes no sense",
            Self::MemoryMap => "the memory map makes no sense",
            Self::MemoryMissing => "the memory map has no memory for the kernel",
            Self::Vmpl => "not at VMPL0",
            Self::InjectedVc => "a #VC was injected",
            Self::MemoryLost => "private memory is not validated any more",
            Self::BadInterrupt => "an interrupt outside the allow-list",
            Self::BadDevice => "a device broke the rules",
            Self::ImageTampered => "the workload's image was changed",
            Self::LaunchBlock => "the launch block is not one",
            Self::Bug => "kernel bug",
            Self::BadException => "an exception that nothing of the guest's caused",
            Self::Svsm => "an SVSM is at VMPL0, which this kernel does not speak to",
            Self::PspAnswer => "the PSP's answer was forged, replayed or dropped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented() {
        let (source, design) = (include_str!("violation.rs"), include_str!("../../../docs/design.md"));
        let codes: Vec<_> = source
            .lines()
            .filter_map(|line| line.strip_prefix("    ")?.strip_suffix(',')?.split_once(" = 0x"))
            .collect();
        assert!(codes.len() > 20 && codes.contains(&("BadException", "19")));
        for (name, code) in codes {
            assert!(design.contains(&format!("| 0x{code} | `{name}` | ")), "{name} is not in docs/design.md");
        }
    }

    #[test]
    fn a_reason_is_a_termination_request() {
        assert_eq!(u64::from(Violation::BadException.request()), 0x19_b100);
        assert!(!Violation::BadException.words().is_empty());
    }

    #[test]
    fn codes_are_found_again() {
        for violation in Violation::ALL {
            assert_eq!(Violation::from_code(violation as u8), Some(violation));
        }
        assert_eq!((Violation::from_code(0), Violation::from_code(0xff)), (None, None));
    }
}
