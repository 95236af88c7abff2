//! Writes a file. Deterministic: equal headers in equal order give equal bytes; data that occur twice are stored once, in the
//! order of their first use. What is written has been parsed again, so it holds what [`IgvmFile`] promises.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use zerocopy::{Immutable, IntoBytes};

use super::crc32::crc32;
use super::directive::{Directive, PageData};
use super::error::ParseError;
use super::file::{Architecture, IgvmFile, Revision};
use super::initialization::Initialization;
use super::layout::{self, header_type};
use super::platform::Platform;
use crate::PAGE_SIZE;

/// Why a file cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// The contents of a page are not as long as the page.
    PageDataLength {
        /// Where the page goes.
        gpa: u64,
        /// Bytes given.
        length: usize,
    },
    /// The initial contents of a parameter area are not as long as it.
    ParameterAreaLength {
        /// Index of the area.
        index: u32,
        /// Bytes given.
        length: usize,
    },
    /// 4 GiB or more.
    TooLarge,
    /// The headers contradict each other.
    Invalid(ParseError),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PageDataLength { gpa, length } => {
                write!(f, "page at {gpa:#x}: {length} bytes of data; give exactly a page")
            }
            Self::ParameterAreaLength { index, length } => {
                write!(f, "parameter area {index}: {length} bytes of data; give exactly its size")
            }
            Self::TooLarge => f.write_str("an IGVM file is smaller than 4 GiB: leave something out"),
            Self::Invalid(error) => write!(f, "the headers make no valid file: {error}"),
        }
    }
}

impl core::error::Error for WriteError {}

/// Collects the headers of a file.
#[derive(Clone, Debug)]
pub struct FileBuilder<'a> {
    revision: Revision,
    platforms: Vec<Platform>,
    initializations: Vec<Initialization<'a>>,
    directives: Vec<Directive<'a>>,
}

/// Bytes of headers, and the data behind them.
struct Output<'a> {
    headers: Vec<u8>,
    data: Vec<u8>,
    data_start: usize,
    offsets: BTreeMap<&'a [u8], u32>,
}

impl<'a> Output<'a> {
    fn header<T: IntoBytes + Immutable + ?Sized>(&mut self, header_type: u32, body: &T) {
        let body = body.as_bytes();
        let prefix = layout::VariableHeader {
            header_type: header_type.into(),
            length: (body.len() as u32).into(), // Bodies come from structures or from a file of 32-bit lengths.
        };
        self.headers.extend_from_slice(prefix.as_bytes());
        self.headers.extend_from_slice(body);
        self.headers.resize(self.headers.len().next_multiple_of(8), 0);
    }

    /// The offset of the data in the file; 0 for none.
    fn data(&mut self, data: Option<&'a [u8]>) -> Result<zerocopy::little_endian::U32, WriteError> {
        let Some(data) = data else { return Ok(0.into()) };
        if let Some(&offset) = self.offsets.get(data) {
            return Ok(offset.into());
        }
        let offset = u32::try_from(self.data_start + self.data.len()).map_err(|_| WriteError::TooLarge)?;
        self.data.extend_from_slice(data);
        self.offsets.insert(data, offset);
        Ok(offset.into())
    }
}

impl<'a> FileBuilder<'a> {
    /// A file without headers.
    pub const fn new(revision: Revision) -> Self {
        Self { revision, platforms: Vec::new(), initializations: Vec::new(), directives: Vec::new() }
    }

    /// The headers of a parsed file, to be written again or changed first.
    pub fn from_file(file: &IgvmFile<'a>) -> Self {
        Self {
            revision: file.revision(),
            platforms: file.platforms().map(|at| at.header).collect(),
            initializations: file.initializations().map(|at| at.header).collect(),
            directives: file.directives().map(|at| at.header).collect(),
        }
    }

    /// Adds a platform.
    pub fn platform(&mut self, platform: Platform) -> &mut Self {
        self.platforms.push(platform);
        self
    }

    /// Adds an initialization header.
    pub fn initialization(&mut self, header: Initialization<'a>) -> &mut Self {
        self.initializations.push(header);
        self
    }

    /// Adds a directive.
    pub fn directive(&mut self, header: Directive<'a>) -> &mut Self {
        self.directives.push(header);
        self
    }

    /// Adds a measured page of 4 KiB, and does not store it where it is zero.
    pub fn page(&mut self, compatibility_mask: u32, gpa: u64, page: &'a [u8; PAGE_SIZE]) -> &mut Self {
        let data = Some(page.as_slice()).filter(|page| page.iter().any(|&byte| byte != 0));
        self.directive(Directive::PageData(PageData {
            gpa,
            compatibility_mask,
            large: false,
            unmeasured: false,
            shared: false,
            data_type: super::PageDataType::Normal,
            data,
        }))
    }

    fn headers(&self, data_start: usize) -> Result<Output<'a>, WriteError> {
        let mut out = Output { headers: Vec::new(), data: Vec::new(), data_start, offsets: BTreeMap::new() };
        for platform in &self.platforms {
            out.header(header_type::SUPPORTED_PLATFORM, &platform.encode());
        }
        for header in &self.initializations {
            Self::encode_initialization(&mut out, header)?;
        }
        for header in &self.directives {
            Self::encode_directive(&mut out, header)?;
        }
        Ok(out)
    }

    fn encode_initialization(out: &mut Output<'a>, header: &Initialization<'a>) -> Result<(), WriteError> {
        let mut corim = |header_type, mask: u32, bytes: &'a [u8]| {
            let body = layout::CorimData {
                compatibility_mask: mask.into(),
                file_offset: out.data(Some(bytes))?,
                size_bytes: u32::try_from(bytes.len()).map_err(|_| WriteError::TooLarge)?.into(),
                reserved: 0.into(),
            };
            out.header(header_type, &body);
            Ok(())
        };
        match *header {
            Initialization::CorimDocument { compatibility_mask, document } => {
                return corim(header_type::CORIM_DOCUMENT, compatibility_mask, document);
            }
            Initialization::CorimSignature { compatibility_mask, signature } => {
                return corim(header_type::CORIM_SIGNATURE, compatibility_mask, signature);
            }
            Initialization::GuestPolicy { policy, compatibility_mask } => out.header(
                header_type::GUEST_POLICY,
                &layout::GuestPolicy {
                    policy: policy.into(),
                    compatibility_mask: compatibility_mask.into(),
                    reserved: 0.into(),
                },
            ),
            Initialization::RelocatableRegion(region) => out.header(
                header_type::RELOCATABLE_REGION,
                &layout::RelocatableRegion {
                    compatibility_mask: region.compatibility_mask.into(),
                    vp_index: region.vp_index.into(),
                    vtl: region.vtl,
                    flags: region.flags,
                    relocation_alignment: region.alignment.into(),
                    relocation_region_gpa: region.gpa.into(),
                    relocation_region_size: region.size.into(),
                    minimum_relocation_gpa: region.minimum_gpa.into(),
                    maximum_relocation_gpa: region.maximum_gpa.into(),
                },
            ),
            Initialization::PageTableRelocation(region) => out.header(
                header_type::PAGE_TABLE_RELOCATION_REGION,
                &layout::PageTableRelocation {
                    compatibility_mask: region.compatibility_mask.into(),
                    vp_index: region.vp_index.into(),
                    vtl: region.vtl,
                    reserved: 0,
                    gpa: region.gpa.into(),
                    size: region.size.into(),
                    used_size: region.used_size.into(),
                },
            ),
            Initialization::Unknown(unknown) => out.header(unknown.header_type, unknown.body),
        }
        Ok(())
    }

    fn encode_directive(out: &mut Output<'a>, header: &Directive<'a>) -> Result<(), WriteError> {
        match *header {
            Directive::PageData(page) => {
                if let Some(data) = page.data.filter(|data| data.len() != page.size()) {
                    return Err(WriteError::PageDataLength { gpa: page.gpa, length: data.len() });
                }
                let body = layout::PageData {
                    gpa: page.gpa.into(),
                    compatibility_mask: page.compatibility_mask.into(),
                    file_offset: out.data(page.data)?,
                    flags: page.flags().into(),
                    data_type: page.data_type.to_raw().into(),
                    reserved: 0.into(),
                };
                out.header(header_type::PAGE_DATA, &body);
            }
            Directive::ParameterArea(area) => {
                if let Some(data) = area.initial.filter(|data| data.len() as u64 != area.size) {
                    let length = data.len();
                    return Err(WriteError::ParameterAreaLength { index: area.index, length });
                }
                let body = layout::ParameterArea {
                    number_of_bytes: area.size.into(),
                    parameter_area_index: area.index.into(),
                    file_offset: out.data(area.initial)?,
                };
                out.header(header_type::PARAMETER_AREA, &body);
            }
            Directive::ParameterInsert(insert) => out.header(
                header_type::PARAMETER_INSERT,
                &layout::ParameterInsert {
                    gpa: insert.gpa.into(),
                    compatibility_mask: insert.compatibility_mask.into(),
                    parameter_area_index: insert.index.into(),
                },
            ),
            Directive::Parameter(parameter) => out.header(
                parameter.kind.header_type(),
                &layout::Parameter {
                    parameter_area_index: parameter.index.into(),
                    byte_offset: parameter.byte_offset.into(),
                },
            ),
            Directive::VpContext(context) => {
                let body = layout::VpContext {
                    gpa: context.gpa.into(),
                    compatibility_mask: context.compatibility_mask.into(),
                    file_offset: out.data(Some(context.data))?,
                    vp_index: context.vp_index.into(),
                    reserved: 0.into(),
                };
                out.header(header_type::VP_CONTEXT, &body);
            }
            Directive::RequiredMemory(memory) => out.header(
                header_type::REQUIRED_MEMORY,
                &layout::RequiredMemory {
                    gpa: memory.gpa.into(),
                    compatibility_mask: memory.compatibility_mask.into(),
                    number_of_bytes: memory.size.into(),
                    flags: memory.flags().into(),
                    reserved: 0.into(),
                },
            ),
            Directive::SnpIdBlock(block) => out.header(header_type::SNP_ID_BLOCK, block),
            Directive::ErrorRange(range) => out.header(
                header_type::ERROR_RANGE,
                &layout::ErrorRange {
                    gpa: range.gpa.into(),
                    compatibility_mask: range.compatibility_mask.into(),
                    size_bytes: range.size.into(),
                },
            ),
            Directive::Unknown(unknown) => out.header(unknown.header_type, unknown.body),
        }
        Ok(())
    }

    /// The bytes of the file.
    pub fn write(&self) -> Result<Vec<u8>, WriteError> {
        let more = match self.revision {
            Revision::V1 => None,
            Revision::V2(architecture) => Some(layout::FixedHeaderV2 {
                architecture: u32::from(architecture == Architecture::Aarch64).into(),
                page_size: (PAGE_SIZE as u32).into(),
            }),
        };
        let more = more.as_ref().map(IntoBytes::as_bytes).unwrap_or_default();
        let fixed_size = size_of::<layout::FixedHeader>() + more.len();
        // Data follow the headers, so their offsets are known only when the headers have been counted.
        let headers_size = self.headers(fixed_size)?.headers.len();
        let Output { headers, data, .. } = self.headers(fixed_size + headers_size)?;

        let total = fixed_size + headers.len() + data.len();
        let mut fixed = layout::FixedHeader {
            magic: layout::MAGIC,
            format_version: if more.is_empty() { 1 } else { 2 }.into(),
            variable_header_offset: (fixed_size as u32).into(),
            variable_header_size: u32::try_from(headers.len()).map_err(|_| WriteError::TooLarge)?.into(),
            total_file_size: u32::try_from(total).map_err(|_| WriteError::TooLarge)?.into(),
            checksum: 0.into(),
        };
        fixed.checksum = crc32(&[fixed.as_bytes(), more, &headers]).into();
        let file = [fixed.as_bytes(), more, &headers, &data].concat();
        match IgvmFile::parse(&file) {
            Ok(_) => Ok(file),
            Err(error) => Err(WriteError::Invalid(error)),
        }
    }
}
