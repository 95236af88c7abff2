//! The MSR protocol: requests and answers in the 64 bits of the GHCB MSR (specification, section 2.3.1 and tables 1 to 3).

/// The MSR.
pub const MSR_GHCB: u32 = 0xc001_0130;
/// Versions of the GHCB protocol that this host speaks: minimum and maximum.
pub const VERSIONS: (u16, u16) = (1, 2);

/// Who asks for the end, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termination {
    /// Set of reason codes.
    pub set: u8,
    /// Code in the set.
    pub code: u8,
}

impl Termination {
    /// In words, where the sets are known: the specification's (0) and Linux's (1).
    pub fn words(self) -> &'static str {
        match (self.set, self.code) {
            (0, 0) => "general termination request",
            (0, 1) => "the GHCB protocol's version is not supported",
            (0, 2) => "SEV-SNP features are not supported",
            (1, 0) => "Linux: the GHCB could not be registered",
            (1, 1) => "Linux: a page state change failed",
            (1, 2) => "Linux: PVALIDATE failed",
            (1, 3) => "Linux: not running at VMPL0",
            (1, 4) => "Linux: no CPUID table, or a bad one",
            (1, 5) => "Linux: hypervisor's answer to a CPUID request was refused",
            _ => "a reason that only the guest's authors know",
        }
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The value is the address of a GHCB page: use that.
    Page(u64),
    /// 0x002: SEV information.
    SevInformation,
    /// 0x004: a register of a CPUID leaf.
    Cpuid {
        /// Leaf.
        leaf: u32,
        /// 0 EAX to 3 EDX.
        register: u8,
    },
    /// 0x006: wait for a start-up IPI.
    ResetHold,
    /// 0x010: where the host would like the GHCB.
    PreferredPage,
    /// 0x012: registers a GHCB page.
    Register(u64),
    /// 0x014: page state change.
    PageState {
        /// Address.
        gpa: u64,
        /// 1 private, 2 shared.
        operation: u8,
    },
    /// 0x016: run another VMPL.
    RunVmpl(u8),
    /// 0x080: hypervisor features.
    Features,
    /// 0x100: the end.
    Terminate(Termination),
    /// Anything else.
    Unknown(u16),
}

impl Request {
    /// Reads the MSR's value.
    pub fn decode(value: u64) -> Request {
        match value & 0xfff {
            0 => Request::Page(value),
            0x002 => Request::SevInformation,
            0x004 => Request::Cpuid { leaf: (value >> 32) as u32, register: (value >> 30 & 3) as u8 },
            0x006 => Request::ResetHold,
            0x010 => Request::PreferredPage,
            0x012 => Request::Register(value & !0xfff),
            0x014 => {
                Request::PageState { gpa: value & 0x000f_ffff_ffff_f000, operation: (value >> 52 & 15) as u8 }
            }
            0x016 => Request::RunVmpl((value >> 32) as u8),
            0x080 => Request::Features,
            0x100 => {
                Request::Terminate(Termination { set: (value >> 12 & 15) as u8, code: (value >> 16) as u8 })
            }
            other => Request::Unknown(other as u16),
        }
    }

    /// Its name, for traces and counters.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Page(_) => "ghcb-page",
            Request::SevInformation => "msr-sev-information",
            Request::Cpuid { .. } => "msr-cpuid",
            Request::ResetHold => "msr-ap-reset-hold",
            Request::PreferredPage => "msr-preferred-ghcb",
            Request::Register(_) => "msr-register-ghcb",
            Request::PageState { .. } => "msr-page-state-change",
            Request::RunVmpl(_) => "msr-run-vmpl",
            Request::Features => "msr-hypervisor-features",
            Request::Terminate(_) => "msr-terminate",
            Request::Unknown(_) => "msr-unknown",
        }
    }
}

/// Answers, as the MSR's value.
pub mod response {
    use super::VERSIONS;

    /// 0x001: versions and the C-bit.
    pub fn sev_information(c_bit: u32) -> u64 {
        u64::from(VERSIONS.1) << 48 | u64::from(VERSIONS.0) << 32 | u64::from(c_bit) << 24 | 0x001
    }
    /// 0x005: a register.
    pub fn cpuid(register: u8, value: u32) -> u64 {
        u64::from(value) << 32 | u64::from(register) << 30 | 0x005
    }
    /// 0x007: woken, not zero in 63:12 on success.
    pub fn reset_hold() -> u64 {
        1 << 12 | 0x007
    }
    /// 0x011: no preference.
    pub fn preferred_page() -> u64 {
        0xffff_ffff_ffff_f011
    }
    /// 0x013: the registered page, or all ones.
    pub fn register(gpa: Option<u64>) -> u64 {
        gpa.unwrap_or(!0xfff) | 0x013
    }
    /// 0x015: an error code, 0 if all went well.
    pub fn page_state(error: u32) -> u64 {
        u64::from(error) << 32 | 0x015
    }
    /// 0x017: an error code.
    pub fn run_vmpl(error: u32) -> u64 {
        u64::from(error) << 32 | 0x017
    }
    /// 0x081: features.
    pub fn features(bits: u64) -> u64 {
        bits << 12 | 0x081
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        assert_eq!(Request::decode(0x8_5000), Request::Page(0x8_5000));
        assert_eq!(Request::decode(0x8000_001f_4000_0004), Request::Cpuid { leaf: 0x8000_001f, register: 1 });
        let private = Request::PageState { gpa: 0x1234_5000, operation: 1 };
        assert_eq!(Request::decode(1 << 52 | 0x1234_5014), private);
        let end = Termination { set: 1, code: 3 };
        assert_eq!(Request::decode(0x3_1100), Request::Terminate(end));
        assert_eq!(end.words(), "Linux: not running at VMPL0");
        assert_eq!(Request::decode(0xf03), Request::Unknown(0xf03));
    }

    #[test]
    fn answers() {
        assert_eq!(response::sev_information(51), 0x0002_0001_3300_0001);
        assert_eq!(response::register(Some(0x5000)), 0x5013);
        assert_eq!(response::features(3), 0x3081);
    }
}
