//! Platforms: for which kinds of isolation a file has directives, and by which bit of a compatibility mask each is known.

use super::error::ParseError;
use super::layout;

/// Kind of isolation (IGVM platform type).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PlatformType {
    /// None.
    Native,
    /// Hyper-V's VSM.
    VsmIsolation,
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX.
    Tdx,
    /// AMD SEV.
    Sev,
    /// AMD SEV-ES.
    SevEs,
    /// Arm CCA.
    Cca,
    /// One that is not known.
    Other(u8),
}

impl PlatformType {
    /// From the value in a file.
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::Native,
            1 => Self::VsmIsolation,
            2 => Self::SevSnp,
            3 => Self::Tdx,
            4 => Self::Sev,
            5 => Self::SevEs,
            6 => Self::Cca,
            other => Self::Other(other),
        }
    }

    /// The value in a file.
    pub const fn to_raw(self) -> u8 {
        match self {
            Self::Native => 0,
            Self::VsmIsolation => 1,
            Self::SevSnp => 2,
            Self::Tdx => 3,
            Self::Sev => 4,
            Self::SevEs => 5,
            Self::Cca => 6,
            Self::Other(other) => other,
        }
    }

    /// Whether a VP context of this platform is a save area.
    pub(crate) const fn has_vmsa(self) -> bool {
        matches!(self, Self::SevSnp | Self::SevEs)
    }
}

/// SUPPORTED_PLATFORM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The bit by which other headers mean this platform.
    pub compatibility_mask: u32,
    /// Highest virtual trust level that is used.
    pub highest_vtl: u8,
    /// Kind of isolation.
    pub platform_type: PlatformType,
    /// Version of the platform: 1.
    pub version: u16,
    /// Memory from here on is shared with the host (vTOM); 0: the guest decides page by page.
    pub shared_gpa_boundary: u64,
}

impl Platform {
    /// SEV-SNP without vTOM, under the mask given.
    pub const fn sev_snp(compatibility_mask: u32) -> Self {
        Self {
            compatibility_mask,
            highest_vtl: 0,
            platform_type: PlatformType::SevSnp,
            version: 1,
            shared_gpa_boundary: 0,
        }
    }

    pub(super) fn decode(offset: usize, raw: &layout::SupportedPlatform) -> Result<Self, ParseError> {
        let mask = raw.compatibility_mask.get();
        if mask.count_ones() != 1 {
            return Err(ParseError::PlatformMaskNotOneBit { offset, mask });
        }
        Ok(Self {
            compatibility_mask: mask,
            highest_vtl: raw.highest_vtl,
            platform_type: PlatformType::from_raw(raw.platform_type),
            version: raw.platform_version.get(),
            shared_gpa_boundary: raw.shared_gpa_boundary.get(),
        })
    }

    pub(super) fn encode(&self) -> layout::SupportedPlatform {
        layout::SupportedPlatform {
            compatibility_mask: self.compatibility_mask.into(),
            highest_vtl: self.highest_vtl,
            platform_type: self.platform_type.to_raw(),
            platform_version: self.version.into(),
            shared_gpa_boundary: self.shared_gpa_boundary.into(),
        }
    }
}
