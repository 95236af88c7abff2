//! The structures of a file as they lie in it: little-endian, at any alignment, nothing checked.
//!
//! Source: IGVM specification, which is the documentation of the `igvm_defs` crate, version 0.5.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "IGVM".
pub(crate) const MAGIC: [u8; 4] = *b"IGVM";

/// Set in a header's type: who does not know the header may skip it.
pub const OPTIONAL: u32 = 1 << 31;

/// The types of variable headers (IGVM_VHT_*).
pub mod header_type {
    #![allow(missing_docs)]
    pub const SUPPORTED_PLATFORM: u32 = 0x1;
    pub const GUEST_POLICY: u32 = 0x101;
    pub const RELOCATABLE_REGION: u32 = 0x102;
    pub const PAGE_TABLE_RELOCATION_REGION: u32 = 0x103;
    pub const CORIM_DOCUMENT: u32 = 0x104;
    pub const CORIM_SIGNATURE: u32 = 0x105;
    pub const CCA_POLICY: u32 = 0x106;
    pub const PARAMETER_AREA: u32 = 0x301;
    pub const PAGE_DATA: u32 = 0x302;
    pub const PARAMETER_INSERT: u32 = 0x303;
    pub const VP_CONTEXT: u32 = 0x304;
    pub const REQUIRED_MEMORY: u32 = 0x305;
    pub const VP_COUNT_PARAMETER: u32 = 0x307;
    pub const SRAT: u32 = 0x308;
    pub const MADT: u32 = 0x309;
    pub const MMIO_RANGES: u32 = 0x30a;
    pub const SNP_ID_BLOCK: u32 = 0x30b;
    pub const MEMORY_MAP: u32 = 0x30c;
    pub const ERROR_RANGE: u32 = 0x30d;
    pub const COMMAND_LINE: u32 = 0x30e;
    pub const SLIT: u32 = 0x30f;
    pub const PPTT: u32 = 0x310;
    pub const VBS_MEASUREMENT: u32 = 0x311;
    pub const DEVICE_TREE: u32 = 0x312;
    pub const ENVIRONMENT_INFO_PARAMETER: u32 = 0x313;
}

macro_rules! layout {
    ($($(#[$doc:meta])* $visibility:vis struct $name:ident = $size:literal { $($(#[$fdoc:meta])* $fvis:vis $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
            #[repr(C)]
            $visibility struct $name { $($(#[$fdoc])* $fvis $field: $type,)* }
            const _: () = assert!(size_of::<$name>() == $size);
        )*
    };
}

layout! {
    /// IGVM_FIXED_HEADER; version 2 appends [`FixedHeaderV2`].
    pub(crate) struct FixedHeader = 24 {
        pub(crate) magic: [u8; 4],
        pub(crate) format_version: U32,
        pub(crate) variable_header_offset: U32,
        pub(crate) variable_header_size: U32,
        pub(crate) total_file_size: U32,
        pub(crate) checksum: U32,
    }

    /// What IGVM_FIXED_HEADER_V2 has more.
    pub(crate) struct FixedHeaderV2 = 8 {
        pub(crate) architecture: U32,
        pub(crate) page_size: U32,
    }

    /// IGVM_VHS_VARIABLE_HEADER.
    pub(crate) struct VariableHeader = 8 {
        pub(crate) header_type: U32,
        pub(crate) length: U32,
    }

    /// IGVM_VHS_SUPPORTED_PLATFORM.
    pub(crate) struct SupportedPlatform = 16 {
        pub(crate) compatibility_mask: U32,
        pub(crate) highest_vtl: u8,
        pub(crate) platform_type: u8,
        pub(crate) platform_version: U16,
        pub(crate) shared_gpa_boundary: U64,
    }

    /// IGVM_VHS_GUEST_POLICY.
    pub(crate) struct GuestPolicy = 16 {
        pub(crate) policy: U64,
        pub(crate) compatibility_mask: U32,
        pub(crate) reserved: U32,
    }

    /// IGVM_VHS_RELOCATABLE_REGION.
    pub(crate) struct RelocatableRegion = 48 {
        pub(crate) compatibility_mask: U32,
        pub(crate) vp_index: U16,
        pub(crate) vtl: u8,
        pub(crate) flags: u8,
        pub(crate) relocation_alignment: U64,
        pub(crate) relocation_region_gpa: U64,
        pub(crate) relocation_region_size: U64,
        pub(crate) minimum_relocation_gpa: U64,
        pub(crate) maximum_relocation_gpa: U64,
    }

    /// IGVM_VHS_PAGE_TABLE_RELOCATION.
    pub(crate) struct PageTableRelocation = 32 {
        pub(crate) compatibility_mask: U32,
        pub(crate) vp_index: U16,
        pub(crate) vtl: u8,
        pub(crate) reserved: u8,
        pub(crate) gpa: U64,
        pub(crate) size: U64,
        pub(crate) used_size: U64,
    }

    /// IGVM_VHS_CORIM_DATA.
    pub(crate) struct CorimData = 16 {
        pub(crate) compatibility_mask: U32,
        pub(crate) file_offset: U32,
        pub(crate) size_bytes: U32,
        pub(crate) reserved: U32,
    }

    /// IGVM_VHS_PARAMETER_AREA.
    pub(crate) struct ParameterArea = 16 {
        pub(crate) number_of_bytes: U64,
        pub(crate) parameter_area_index: U32,
        pub(crate) file_offset: U32,
    }

    /// IGVM_VHS_PAGE_DATA.
    pub(crate) struct PageData = 24 {
        pub(crate) gpa: U64,
        pub(crate) compatibility_mask: U32,
        pub(crate) file_offset: U32,
        pub(crate) flags: U32,
        pub(crate) data_type: U16,
        pub(crate) reserved: U16,
    }

    /// IGVM_VHS_PARAMETER_INSERT.
    pub(crate) struct ParameterInsert = 16 {
        pub(crate) gpa: U64,
        pub(crate) compatibility_mask: U32,
        pub(crate) parameter_area_index: U32,
    }

    /// IGVM_VHS_PARAMETER.
    pub(crate) struct Parameter = 8 {
        pub(crate) parameter_area_index: U32,
        pub(crate) byte_offset: U32,
    }

    /// IGVM_VHS_VP_CONTEXT: the one whose size is no multiple of 8.
    pub(crate) struct VpContext = 20 {
        pub(crate) gpa: U64,
        pub(crate) compatibility_mask: U32,
        pub(crate) file_offset: U32,
        pub(crate) vp_index: U16,
        pub(crate) reserved: U16,
    }

    /// IGVM_VHS_ERROR_RANGE.
    pub(crate) struct ErrorRange = 16 {
        pub(crate) gpa: U64,
        pub(crate) compatibility_mask: U32,
        pub(crate) size_bytes: U32,
    }

    /// IGVM_VHS_REQUIRED_MEMORY.
    pub(crate) struct RequiredMemory = 24 {
        pub(crate) gpa: U64,
        pub(crate) compatibility_mask: U32,
        pub(crate) number_of_bytes: U32,
        pub(crate) flags: U32,
        pub(crate) reserved: U32,
    }

    /// IGVM_VHS_SNP_ID_BLOCK_SIGNATURE: numbers of 72 bytes, little-endian.
    pub struct IdSignature = 144 {
        /// The component r.
        pub r: [u8; 72],
        /// The component s.
        pub s: [u8; 72],
    }

    /// IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY: a point, coordinates of 72 bytes, little-endian.
    pub struct IdPublicKey = 152 {
        /// Curve: 1 is P-256, 2 is P-384.
        pub curve: U32,
        /// Zero. The PSP's structure has no such field.
        pub reserved: U32,
        /// x.
        pub qx: [u8; 72],
        /// y.
        pub qy: [u8; 72],
    }

    /// IGVM_VHS_SNP_ID_BLOCK: ID block and ID authentication in one, without the policy, which is that of the guest.
    pub struct SnpIdBlock = 696 {
        /// Compatibility mask.
        pub compatibility_mask: U32,
        /// 1 where the author key is to be used.
        pub author_key_enabled: u8,
        /// Zero.
        pub reserved: [u8; 3],
        /// Expected launch digest.
        pub ld: [u8; 48],
        /// Family, for the guest's owner.
        pub family_id: [u8; 16],
        /// Image, for the guest's owner.
        pub image_id: [u8; 16],
        /// Version of the block: 1.
        pub version: U32,
        /// Security version number.
        pub guest_svn: U32,
        /// Algorithm of the ID key: 1 is ECDSA P-384 with SHA-384.
        pub id_key_algorithm: U32,
        /// Algorithm of the author key.
        pub author_key_algorithm: U32,
        /// Signature of the ID block by the ID key.
        pub id_key_signature: IdSignature,
        /// ID key.
        pub id_public_key: IdPublicKey,
        /// Signature of the ID key by the author key.
        pub author_key_signature: IdSignature,
        /// Author key.
        pub author_public_key: IdPublicKey,
    }

    /// IGVM_VHS_MEMORY_MAP_ENTRY: what the loader deposits for a memory map, one after the other until one of zero pages.
    pub struct MemoryMapEntry = 24 {
        /// First page.
        pub starting_gpa_page_number: U64,
        /// Pages.
        pub number_of_pages: U64,
        /// 0 memory, 1 reserved by the platform, 2 persistent, 3 memory that VTL2 can protect.
        pub entry_type: U16,
        /// Flags.
        pub flags: U16,
        /// Zero.
        pub reserved: U32,
    }

    /// IGVM_VHS_MEMORY_RANGE; a parameter of MMIO ranges is two of them.
    pub struct MemoryRange = 16 {
        /// First page.
        pub starting_gpa_page_number: U64,
        /// Pages.
        pub number_of_pages: U64,
    }
}
