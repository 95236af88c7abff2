//! Initialization headers: what a platform is told before the first page.

use super::error::ParseError;
use super::layout::{self, header_type};
use super::raw::{FileData, RawHeader, Unknown};

/// RELOCATABLE_REGION: memory that the loader may move as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelocatableRegion {
    /// Platforms.
    pub compatibility_mask: u32,
    /// CPU whose registers are adjusted.
    pub vp_index: u16,
    /// Trust level whose registers are adjusted.
    pub vtl: u8,
    /// Bit 0: is VTL2; 1: adjust RIP; 2: adjust GDTR.
    pub flags: u8,
    /// Granularity of a move.
    pub alignment: u64,
    /// Where it is built for.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
    /// Lowest address.
    pub minimum_gpa: u64,
    /// Highest address.
    pub maximum_gpa: u64,
}

/// PAGE_TABLE_RELOCATION_REGION: page tables that the loader fixes after a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageTableRelocation {
    /// Platforms.
    pub compatibility_mask: u32,
    /// CPU whose CR3 points in here.
    pub vp_index: u16,
    /// Its trust level.
    pub vtl: u8,
    /// Start.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes in use.
    pub used_size: u64,
}

/// An initialization header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Initialization<'a> {
    /// GUEST_POLICY.
    GuestPolicy {
        /// For SNP the guest policy of SNP_LAUNCH_START.
        policy: u64,
        /// Platforms.
        compatibility_mask: u32,
    },
    /// RELOCATABLE_REGION.
    RelocatableRegion(RelocatableRegion),
    /// PAGE_TABLE_RELOCATION_REGION.
    PageTableRelocation(PageTableRelocation),
    /// CORIM_DOCUMENT: reference values as CBOR, no part of the launch.
    CorimDocument {
        /// Platforms.
        compatibility_mask: u32,
        /// The document.
        document: &'a [u8],
    },
    /// CORIM_SIGNATURE: COSE_Sign1 over the document.
    CorimSignature {
        /// Platforms.
        compatibility_mask: u32,
        /// The signature.
        signature: &'a [u8],
    },
    /// Any other.
    Unknown(Unknown<'a>),
}

impl<'a> Initialization<'a> {
    /// The platforms that it is for; `None` means all.
    pub const fn compatibility_mask(&self) -> Option<u32> {
        match self {
            Self::GuestPolicy { compatibility_mask, .. }
            | Self::CorimDocument { compatibility_mask, .. }
            | Self::CorimSignature { compatibility_mask, .. } => Some(*compatibility_mask),
            Self::RelocatableRegion(region) => Some(region.compatibility_mask),
            Self::PageTableRelocation(region) => Some(region.compatibility_mask),
            Self::Unknown(_) => None,
        }
    }

    pub(super) fn decode(raw: &RawHeader<'a>, data: FileData<'a>) -> Result<Self, ParseError> {
        Ok(match raw.header_type {
            header_type::GUEST_POLICY => {
                let body: &layout::GuestPolicy = raw.body()?;
                raw.check_reserved(body.reserved == 0)?;
                Self::GuestPolicy {
                    policy: body.policy.get(),
                    compatibility_mask: body.compatibility_mask.get(),
                }
            }
            header_type::RELOCATABLE_REGION => {
                let body: &layout::RelocatableRegion = raw.body()?;
                raw.check_aligned(body.relocation_region_size.get(), 4096)?;
                raw.check_range(body.relocation_region_gpa.get(), body.relocation_region_size.get())?;
                Self::RelocatableRegion(RelocatableRegion {
                    compatibility_mask: body.compatibility_mask.get(),
                    vp_index: body.vp_index.get(),
                    vtl: body.vtl,
                    flags: body.flags,
                    alignment: body.relocation_alignment.get(),
                    gpa: body.relocation_region_gpa.get(),
                    size: body.relocation_region_size.get(),
                    minimum_gpa: body.minimum_relocation_gpa.get(),
                    maximum_gpa: body.maximum_relocation_gpa.get(),
                })
            }
            header_type::PAGE_TABLE_RELOCATION_REGION => {
                let body: &layout::PageTableRelocation = raw.body()?;
                raw.check_reserved(body.reserved == 0)?;
                raw.check_range(body.gpa.get(), body.size.get())?;
                Self::PageTableRelocation(PageTableRelocation {
                    compatibility_mask: body.compatibility_mask.get(),
                    vp_index: body.vp_index.get(),
                    vtl: body.vtl,
                    gpa: body.gpa.get(),
                    size: body.size.get(),
                    used_size: body.used_size.get(),
                })
            }
            header_type::CORIM_DOCUMENT | header_type::CORIM_SIGNATURE => {
                let body: &layout::CorimData = raw.body()?;
                raw.check_reserved(body.reserved == 0)?;
                let compatibility_mask = body.compatibility_mask.get();
                let data = data
                    .get(raw, body.file_offset.get(), body.size_bytes.get().into())?
                    .ok_or(ParseError::MissingData { offset: raw.offset })?;
                if raw.header_type == header_type::CORIM_DOCUMENT {
                    Self::CorimDocument { compatibility_mask, document: data }
                } else {
                    Self::CorimSignature { compatibility_mask, signature: data }
                }
            }
            _ => Self::Unknown(raw.unknown()),
        })
    }
}
