//! Directives: what a loader does, one after the other.

use super::error::ParseError;
use super::layout::{self, header_type};
use super::raw::{FileData, RawHeader, Unknown};
use crate::{LARGE_PAGE_SIZE, PAGE_SIZE};

/// What kind of page PAGE_DATA makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageDataType {
    /// Code or data.
    Normal,
    /// The page that the PSP fills with secrets.
    Secrets,
    /// The page of CPUID leaves that the PSP checks.
    CpuidData,
    /// A second page of CPUID leaves, for extended state.
    CpuidXf,
}

/// PAGE_DATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageData<'a> {
    /// Where; aligned to its size.
    pub gpa: u64,
    /// Platforms.
    pub compatibility_mask: u32,
    /// A page of 2 MiB instead of 4 KiB.
    pub large: bool,
    /// Contents are not measured.
    pub unmeasured: bool,
    /// Visible to the host.
    pub shared: bool,
    /// Kind.
    pub data_type: PageDataType,
    /// The contents, as many bytes as the page has; `None` for zeros.
    pub data: Option<&'a [u8]>,
}

impl PageData<'_> {
    /// Bytes of the page.
    pub const fn size(&self) -> usize {
        if self.large { LARGE_PAGE_SIZE } else { PAGE_SIZE }
    }
}

/// PARAMETER_AREA: memory of the loader in which parameters are collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterArea<'a> {
    /// Its name in other headers.
    pub index: u32,
    /// Bytes, a multiple of 4096.
    pub size: u64,
    /// What it starts with, `size` bytes; `None` for zeros.
    pub initial: Option<&'a [u8]>,
}

/// PARAMETER_INSERT: the area becomes unmeasured pages of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterInsert {
    /// Where.
    pub gpa: u64,
    /// Platforms.
    pub compatibility_mask: u32,
    /// Which area.
    pub index: u32,
}

/// What the loader writes for a [`Parameter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParameterKind {
    /// VP_COUNT_PARAMETER: u32, number of CPUs.
    VpCount,
    /// SRAT: the ACPI table.
    Srat,
    /// MADT: the ACPI table.
    Madt,
    /// SLIT: the ACPI table.
    Slit,
    /// PPTT: the ACPI table.
    Pptt,
    /// MMIO_RANGES: two of [`layout::MemoryRange`].
    MmioRanges,
    /// MEMORY_MAP: [`layout::MemoryMapEntry`], sorted.
    MemoryMap,
    /// COMMAND_LINE: a string ended by zero.
    CommandLine,
    /// DEVICE_TREE: flattened.
    DeviceTree,
    /// ENVIRONMENT_INFO_PARAMETER: u32, bit 0: memory is shared until the guest says otherwise.
    EnvironmentInfo,
}

impl ParameterKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::VpCount,
        Self::Srat,
        Self::Madt,
        Self::Slit,
        Self::Pptt,
        Self::MmioRanges,
        Self::MemoryMap,
        Self::CommandLine,
        Self::DeviceTree,
        Self::EnvironmentInfo,
    ];

    /// The header type.
    pub const fn header_type(self) -> u32 {
        match self {
            Self::VpCount => header_type::VP_COUNT_PARAMETER,
            Self::Srat => header_type::SRAT,
            Self::Madt => header_type::MADT,
            Self::Slit => header_type::SLIT,
            Self::Pptt => header_type::PPTT,
            Self::MmioRanges => header_type::MMIO_RANGES,
            Self::MemoryMap => header_type::MEMORY_MAP,
            Self::CommandLine => header_type::COMMAND_LINE,
            Self::DeviceTree => header_type::DEVICE_TREE,
            Self::EnvironmentInfo => header_type::ENVIRONMENT_INFO_PARAMETER,
        }
    }

    fn from_header_type(header_type: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.header_type() == header_type)
    }
}

/// A header that asks for a value in a parameter area. It has no mask: it counts where its area is inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// What is written.
    pub kind: ParameterKind,
    /// Which area.
    pub index: u32,
    /// Where in it.
    pub byte_offset: u32,
}

/// VP_CONTEXT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VpContext<'a> {
    /// Where the registers are put and measured, for platforms with a save area.
    pub gpa: u64,
    /// Platforms.
    pub compatibility_mask: u32,
    /// Which CPU.
    pub vp_index: u16,
    /// The registers; up to 4096 bytes from their start in the file.
    pub data: &'a [u8],
}

impl<'a> VpContext<'a> {
    /// The save area, for platforms that have one.
    pub fn vmsa(&self) -> Option<&'a [u8; PAGE_SIZE]> {
        self.data.try_into().ok()
    }
}

/// REQUIRED_MEMORY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequiredMemory {
    /// Start.
    pub gpa: u64,
    /// Platforms.
    pub compatibility_mask: u32,
    /// Bytes, a multiple of 4096.
    pub size: u32,
    /// VTL2 can protect it.
    pub vtl2_protectable: bool,
}

/// ERROR_RANGE: shared pages in which the guest reports errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRange {
    /// Start.
    pub gpa: u64,
    /// Platforms.
    pub compatibility_mask: u32,
    /// Bytes, a multiple of 4096.
    pub size: u32,
}

/// A directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Directive<'a> {
    /// PAGE_DATA.
    PageData(PageData<'a>),
    /// PARAMETER_AREA.
    ParameterArea(ParameterArea<'a>),
    /// PARAMETER_INSERT.
    ParameterInsert(ParameterInsert),
    /// Any of the headers that ask for a value.
    Parameter(Parameter),
    /// VP_CONTEXT.
    VpContext(VpContext<'a>),
    /// REQUIRED_MEMORY.
    RequiredMemory(RequiredMemory),
    /// SNP_ID_BLOCK.
    SnpIdBlock(&'a layout::SnpIdBlock),
    /// ERROR_RANGE.
    ErrorRange(ErrorRange),
    /// Any other.
    Unknown(Unknown<'a>),
}

const FLAG_LARGE: u32 = 1 << 0;
const FLAG_UNMEASURED: u32 = 1 << 1;
const FLAG_SHARED: u32 = 1 << 2;
const FLAG_VTL2_PROTECTABLE: u32 = 1 << 0;

impl PageData<'_> {
    pub(super) fn flags(&self) -> u32 {
        u32::from(self.large) * FLAG_LARGE
            + u32::from(self.unmeasured) * FLAG_UNMEASURED
            + u32::from(self.shared) * FLAG_SHARED
    }
}

impl RequiredMemory {
    pub(super) fn flags(&self) -> u32 {
        u32::from(self.vtl2_protectable) * FLAG_VTL2_PROTECTABLE
    }
}

impl PageDataType {
    /// The value in a file.
    pub const fn to_raw(self) -> u16 {
        match self {
            Self::Normal => 0,
            Self::Secrets => 1,
            Self::CpuidData => 2,
            Self::CpuidXf => 3,
        }
    }

    const fn from_raw(raw: u16) -> Option<Self> {
        Some(match raw {
            0 => Self::Normal,
            1 => Self::Secrets,
            2 => Self::CpuidData,
            3 => Self::CpuidXf,
            _ => return None,
        })
    }
}

impl<'a> Directive<'a> {
    /// The platforms that it is for; `None` means all.
    pub fn compatibility_mask(&self) -> Option<u32> {
        match self {
            Self::PageData(page) => Some(page.compatibility_mask),
            Self::ParameterInsert(insert) => Some(insert.compatibility_mask),
            Self::VpContext(context) => Some(context.compatibility_mask),
            Self::RequiredMemory(memory) => Some(memory.compatibility_mask),
            Self::SnpIdBlock(block) => Some(block.compatibility_mask.get()),
            Self::ErrorRange(range) => Some(range.compatibility_mask),
            Self::ParameterArea(_) | Self::Parameter(_) | Self::Unknown(_) => None,
        }
    }

    /// `vmsa_mask` has the bits of the platforms whose CPUs start from a save area.
    pub(super) fn decode(
        raw: &RawHeader<'a>,
        data: FileData<'a>,
        vmsa_mask: u32,
    ) -> Result<Self, ParseError> {
        const PAGE: u64 = PAGE_SIZE as u64;
        let offset = raw.offset;
        Ok(match raw.header_type {
            header_type::PAGE_DATA => Self::PageData(Self::decode_page(raw, data)?),
            header_type::PARAMETER_AREA => {
                let body: &layout::ParameterArea = raw.body()?;
                let size = body.number_of_bytes.get();
                raw.check_aligned(size, PAGE)?;
                let initial = data.get(raw, body.file_offset.get(), size)?;
                Self::ParameterArea(ParameterArea { index: body.parameter_area_index.get(), size, initial })
            }
            header_type::PARAMETER_INSERT => {
                let body: &layout::ParameterInsert = raw.body()?;
                raw.check_aligned(body.gpa.get(), PAGE)?;
                Self::ParameterInsert(ParameterInsert {
                    gpa: body.gpa.get(),
                    compatibility_mask: body.compatibility_mask.get(),
                    index: body.parameter_area_index.get(),
                })
            }
            header_type::VP_CONTEXT => {
                let body: &layout::VpContext = raw.body()?;
                raw.check_reserved(body.reserved == 0)?;
                raw.check_aligned(body.gpa.get(), PAGE)?;
                let compatibility_mask = body.compatibility_mask.get();
                let context = data.up_to(raw, body.file_offset.get(), PAGE_SIZE)?;
                if context.len() < PAGE_SIZE && compatibility_mask & vmsa_mask != 0 {
                    let data_offset = body.file_offset.get();
                    return Err(ParseError::DataOutsideFile { offset, data_offset, size: PAGE });
                }
                Self::VpContext(VpContext {
                    gpa: body.gpa.get(),
                    compatibility_mask,
                    vp_index: body.vp_index.get(),
                    data: context,
                })
            }
            header_type::REQUIRED_MEMORY => {
                let body: &layout::RequiredMemory = raw.body()?;
                let flags = body.flags.get();
                raw.check_reserved(body.reserved == 0 && flags & !FLAG_VTL2_PROTECTABLE == 0)?;
                let (gpa, size) = (body.gpa.get(), body.number_of_bytes.get());
                raw.check_aligned(gpa | u64::from(size), PAGE)?;
                raw.check_range(gpa, size.into())?;
                Self::RequiredMemory(RequiredMemory {
                    gpa,
                    compatibility_mask: body.compatibility_mask.get(),
                    size,
                    vtl2_protectable: flags & FLAG_VTL2_PROTECTABLE != 0,
                })
            }
            header_type::SNP_ID_BLOCK => {
                let body: &layout::SnpIdBlock = raw.body()?;
                raw.check_reserved(
                    body.author_key_enabled <= 1
                        && body.reserved == [0; 3]
                        && body.id_public_key.reserved == 0
                        && body.author_public_key.reserved == 0,
                )?;
                Self::SnpIdBlock(body)
            }
            header_type::ERROR_RANGE => {
                let body: &layout::ErrorRange = raw.body()?;
                let (gpa, size) = (body.gpa.get(), body.size_bytes.get());
                raw.check_aligned(gpa | u64::from(size), PAGE)?;
                raw.check_range(gpa, size.into())?;
                Self::ErrorRange(ErrorRange { gpa, compatibility_mask: body.compatibility_mask.get(), size })
            }
            other => match ParameterKind::from_header_type(other) {
                Some(kind) => {
                    let body: &layout::Parameter = raw.body()?;
                    Self::Parameter(Parameter {
                        kind,
                        index: body.parameter_area_index.get(),
                        byte_offset: body.byte_offset.get(),
                    })
                }
                None => Self::Unknown(raw.unknown()),
            },
        })
    }

    fn decode_page(raw: &RawHeader<'a>, data: FileData<'a>) -> Result<PageData<'a>, ParseError> {
        let body: &layout::PageData = raw.body()?;
        let flags = body.flags.get();
        raw.check_reserved(body.reserved == 0 && flags & !(FLAG_LARGE | FLAG_UNMEASURED | FLAG_SHARED) == 0)?;
        let data_type = PageDataType::from_raw(body.data_type.get())
            .ok_or(ParseError::UnknownPageDataType { offset: raw.offset, data_type: body.data_type.get() })?;
        let mut page = PageData {
            gpa: body.gpa.get(),
            compatibility_mask: body.compatibility_mask.get(),
            large: flags & FLAG_LARGE != 0,
            unmeasured: flags & FLAG_UNMEASURED != 0,
            shared: flags & FLAG_SHARED != 0,
            data_type,
            data: None,
        };
        let size = page.size() as u64;
        raw.check_aligned(page.gpa, size)?;
        raw.check_range(page.gpa, size)?;
        page.data = data.get(raw, body.file_offset.get(), size)?;
        Ok(page)
    }
}
