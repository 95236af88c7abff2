//! The guest policy, as the PSP checks it at the launch.
//!
//! Source: SEV-SNP firmware ABI (56860), SNP_LAUNCH_START.

pub use litebox_igvm::policy::PolicyFlags;

use crate::chip::{Chip, PlatformInfo};
use crate::status::Status;

/// A policy that the chip meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy(u64);

impl Policy {
    /// Checks a policy as SNP_LAUNCH_START does: reserved bits, then the version of the ABI, then what the platform must be. The
    /// emulated memory has no AES-256-XTS.
    pub fn check(policy: u64, chip: &Chip) -> Result<Self, Status> {
        let [minor, major, ..] = policy.to_le_bytes();
        let flags = PolicyFlags::from_bits(policy & !0xffff).ok_or(Status::InvalidParam)?;
        if !flags.contains(PolicyFlags::RESERVED_ONE) {
            return Err(Status::InvalidParam);
        }
        let (asks, is) = (|flag| flags.contains(flag), |info| chip.platform_info.contains(info));
        let version = chip.current_version;
        let allowed = (major, minor) <= (version.major, version.minor)
            && (asks(PolicyFlags::SMT) || !is(PlatformInfo::SMT))
            && !asks(PolicyFlags::MEM_AES_256_XTS)
            && (!asks(PolicyFlags::RAPL_DISABLED) || is(PlatformInfo::RAPL_DISABLED))
            && (!asks(PolicyFlags::CIPHERTEXT_HIDING) || is(PlatformInfo::CIPHERTEXT_HIDING));
        if allowed { Ok(Self(policy)) } else { Err(Status::PolicyFailure) }
    }

    /// As it was given.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ReportVersion;

    #[test]
    fn a_platform_that_the_policy_does_not_allow_is_refused() {
        let chip = Chip::test(ReportVersion::V3);
        let plain = PolicyFlags::RESERVED_ONE;
        let check =
            |flags: PolicyFlags, version: u64| Policy::check(flags.bits() | version, &chip).map(Policy::bits);
        assert_eq!(check(plain, 0), Ok(0x20000));
        assert_eq!(check(plain | PolicyFlags::SMT | PolicyFlags::DEBUG, 0), Ok(0xb0000));
        assert_eq!(check(plain, 0x0137), Ok(0x20137));
        assert_eq!(check(plain, 0x0138), Err(Status::PolicyFailure));
        assert_eq!(check(plain, 0x0200), Err(Status::PolicyFailure));
        for flag in [PolicyFlags::MEM_AES_256_XTS, PolicyFlags::RAPL_DISABLED, PolicyFlags::CIPHERTEXT_HIDING]
        {
            assert_eq!(check(plain | flag, 0), Err(Status::PolicyFailure));
        }
        let multithreaded = Chip { platform_info: PlatformInfo::SMT, ..chip.clone() };
        assert_eq!(Policy::check(0x20000, &multithreaded), Err(Status::PolicyFailure));
        assert!(Policy::check(0x30000, &multithreaded).is_ok());
        assert_eq!(check(PolicyFlags::SMT, 0), Err(Status::InvalidParam));
        assert_eq!(Policy::check(1 << 26 | 0x20000, &chip), Err(Status::InvalidParam));
    }
}
