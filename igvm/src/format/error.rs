//! What can be wrong with a file: where, and what its builder should do about it.

use core::fmt;

use super::Section;

/// Why bytes are no IGVM file. `offset` is that of the header concerned, in bytes from the start of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseError {
    /// Shorter than its headers.
    Truncated {
        /// Where more was expected.
        offset: usize,
        /// Bytes that should be there.
        needed: usize,
    },
    /// Does not start with `IGVM`.
    BadMagic {
        /// Always 0.
        offset: usize,
    },
    /// A version other than 1 and 2.
    UnsupportedVersion {
        /// Of the field.
        offset: usize,
        /// The version.
        version: u32,
    },
    /// A page size other than 4096 (version 2).
    UnsupportedPageSize {
        /// Of the field.
        offset: usize,
        /// The page size.
        page_size: u32,
    },
    /// An architecture that is not known (version 2).
    UnsupportedArchitecture {
        /// Of the field.
        offset: usize,
        /// The architecture.
        architecture: u32,
    },
    /// `total_file_size` is not the size of the file.
    WrongFileSize {
        /// Of the field.
        offset: usize,
        /// What it says.
        stated: u32,
        /// What it is.
        actual: usize,
    },
    /// The variable headers are not 8-aligned, or not between fixed header and end of file.
    BadVariableHeaderRange {
        /// Of the field `variable_header_offset`.
        offset: usize,
    },
    /// The CRC-32 over the headers is another.
    BadChecksum {
        /// Of the field.
        offset: usize,
        /// What it says.
        stated: u32,
        /// What it is.
        actual: u32,
    },
    /// The padding after a header is not zero.
    PaddingNotZero {
        /// Of the header.
        offset: usize,
    },
    /// A reserved field or bit is not zero.
    ReservedNotZero {
        /// Of the header.
        offset: usize,
    },
    /// A header has another length than its type demands.
    WrongHeaderLength {
        /// Of the header.
        offset: usize,
        /// Its type.
        header_type: u32,
        /// Its length.
        length: u32,
    },
    /// A header after one of a later section.
    SectionOrder {
        /// Of the header.
        offset: usize,
        /// Where it belongs.
        section: Section,
    },
    /// No platform is described.
    NoPlatform {
        /// Of the first variable header.
        offset: usize,
    },
    /// The mask of a platform has not exactly one bit.
    PlatformMaskNotOneBit {
        /// Of the header.
        offset: usize,
        /// The mask.
        mask: u32,
    },
    /// Two platforms of the same type or with the same mask.
    DuplicatePlatform {
        /// Of the second header.
        offset: usize,
    },
    /// An address or a size that is not aligned.
    Unaligned {
        /// Of the header.
        offset: usize,
        /// Address or size.
        value: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// A range of addresses that runs over the end of the address space.
    AddressOverflow {
        /// Of the header.
        offset: usize,
        /// Where the range starts.
        gpa: u64,
    },
    /// File data lie outside the file, or inside its headers.
    DataOutsideFile {
        /// Of the header.
        offset: usize,
        /// Where the data should start.
        data_offset: u32,
        /// Their size.
        size: u64,
    },
    /// A header that cannot do without file data has none.
    MissingData {
        /// Of the header.
        offset: usize,
    },
    /// A data type of a page that is not known.
    UnknownPageDataType {
        /// Of the header.
        offset: usize,
        /// The type.
        data_type: u16,
    },
    /// The index of a parameter area is used a second time.
    DuplicateParameterArea {
        /// Of the header.
        offset: usize,
        /// The index.
        index: u32,
    },
    /// A parameter area that was not declared before, or was inserted already.
    NoParameterArea {
        /// Of the header.
        offset: usize,
        /// The index.
        index: u32,
    },
    /// A parameter that starts outside its area.
    ParameterOutsideArea {
        /// Of the header.
        offset: usize,
        /// Where it starts.
        byte_offset: u32,
        /// Size of the area.
        area_size: u64,
    },
}

impl ParseError {
    /// Where in the file.
    pub const fn offset(&self) -> usize {
        match *self {
            Self::Truncated { offset, .. }
            | Self::BadMagic { offset }
            | Self::UnsupportedVersion { offset, .. }
            | Self::UnsupportedPageSize { offset, .. }
            | Self::UnsupportedArchitecture { offset, .. }
            | Self::WrongFileSize { offset, .. }
            | Self::BadVariableHeaderRange { offset }
            | Self::BadChecksum { offset, .. }
            | Self::PaddingNotZero { offset }
            | Self::ReservedNotZero { offset }
            | Self::WrongHeaderLength { offset, .. }
            | Self::SectionOrder { offset, .. }
            | Self::NoPlatform { offset }
            | Self::PlatformMaskNotOneBit { offset, .. }
            | Self::DuplicatePlatform { offset }
            | Self::Unaligned { offset, .. }
            | Self::AddressOverflow { offset, .. }
            | Self::DataOutsideFile { offset, .. }
            | Self::MissingData { offset }
            | Self::UnknownPageDataType { offset, .. }
            | Self::DuplicateParameterArea { offset, .. }
            | Self::NoParameterArea { offset, .. }
            | Self::ParameterOutsideArea { offset, .. } => offset,
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:#x}: ", self.offset())?;
        match *self {
            Self::Truncated { needed, .. } => {
                write!(f, "the file ends here, but {needed} bytes must follow: it was cut; copy it again")
            }
            Self::BadMagic { .. } => f.write_str("does not start with `IGVM`: give an IGVM file"),
            Self::UnsupportedVersion { version, .. } => {
                write!(f, "format version {version}: build the file in version 1 or 2")
            }
            Self::UnsupportedPageSize { page_size, .. } => {
                write!(f, "pages of {page_size} bytes: build the file for pages of 4096 bytes")
            }
            Self::UnsupportedArchitecture { architecture, .. } => {
                write!(f, "architecture {architecture}: 0 (x86-64) and 1 (AArch64) are known")
            }
            Self::WrongFileSize { stated, actual, .. } => {
                write!(f, "the header says {stated} bytes, the file has {actual}: copy it again")
            }
            Self::BadVariableHeaderRange { .. } => f.write_str(
                "variable headers must start 8-aligned after the fixed header and end inside the file: fix the builder",
            ),
            Self::BadChecksum { stated, actual, .. } => {
                write!(f, "CRC-32 {stated:#010x}, computed {actual:#010x}: the headers were changed; build the file again")
            }
            Self::PaddingNotZero { .. } => f.write_str("the padding after this header must be zero"),
            Self::ReservedNotZero { .. } => {
                f.write_str("a reserved field is set: the file needs a newer loader, or its builder must clear it")
            }
            Self::WrongHeaderLength { header_type, length, .. } => {
                write!(f, "a header of type {header_type:#x} cannot have {length} bytes: fix the builder")
            }
            Self::SectionOrder { section, .. } => {
                write!(f, "this header belongs to the {section} section, which is over: order the headers")
            }
            Self::NoPlatform { .. } => f.write_str("no supported platform: add a SUPPORTED_PLATFORM header first"),
            Self::PlatformMaskNotOneBit { mask, .. } => {
                write!(f, "a platform's mask must have one bit, {mask:#x} has not")
            }
            Self::DuplicatePlatform { .. } => {
                f.write_str("type or mask of this platform was used by one before: remove one of the two")
            }
            Self::Unaligned { value, alignment, .. } => {
                write!(f, "{value:#x} must be a multiple of {alignment:#x}")
            }
            Self::AddressOverflow { gpa, .. } => {
                write!(f, "the range from {gpa:#x} leaves the address space: make it smaller")
            }
            Self::DataOutsideFile { data_offset, size, .. } => {
                write!(f, "{size} bytes of data from {data_offset:#x} are not in the file's data: fix the offset")
            }
            Self::MissingData { .. } => f.write_str("this header needs file data: give it an offset"),
            Self::UnknownPageDataType { data_type, .. } => {
                write!(f, "page data type {data_type}: 0 normal, 1 secrets, 2 and 3 CPUID are known")
            }
            Self::DuplicateParameterArea { index, .. } => {
                write!(f, "parameter area {index} was declared before: give each its own index")
            }
            Self::NoParameterArea { index, .. } => {
                write!(f, "parameter area {index} is not declared, or already inserted: declare it before, insert it last")
            }
            Self::ParameterOutsideArea { byte_offset, area_size, .. } => {
                write!(f, "offset {byte_offset:#x} is outside the area of {area_size:#x} bytes: enlarge the area")
            }
        }
    }
}

impl core::error::Error for ParseError {}
