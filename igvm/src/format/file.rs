//! A whole file: checked once by [`IgvmFile::parse`], then walked by iterators that borrow it.
//!
//! Having an `IgvmFile` proves that every header decodes, that parameter areas are declared before and inserted once, and that all
//! data lie in the file. A mask may have bits of platforms that the file does not declare, which concern nobody: COCONUT-SVSM's
//! builder sets those of all platforms that it knows. It does not prove that any host would load it: that is
//! [`crate::profile`]'s matter. The work and the memory of parsing are linear in the size of the headers.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

use zerocopy::FromBytes;

use super::crc32::crc32;
use super::directive::Directive;
use super::error::ParseError;
use super::initialization::Initialization;
use super::layout::{self, header_type};
use super::platform::{Platform, PlatformType};
use super::raw::{FileData, RawHeader, RawHeaders, Section, Unknown};
use crate::PAGE_SIZE;

/// Format version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revision {
    /// Version 1: x86-64.
    V1,
    /// Version 2, with the architecture.
    V2(Architecture),
}

/// For which processors (version 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    X64,
    /// AArch64.
    Aarch64,
}

/// A header, and where it is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// Offset in bytes.
    pub offset: usize,
    /// The header.
    pub header: T,
}

/// A parsed file.
#[derive(Clone, Debug)]
pub struct IgvmFile<'a> {
    data: FileData<'a>,
    revision: Revision,
    platforms: Vec<At<Platform>>,
    /// Variable headers after those of platforms, and their offset.
    initialization: (&'a [u8], usize),
    directives: (&'a [u8], usize),
    unknown_platforms: Vec<At<Unknown<'a>>>,
}

struct Fixed {
    revision: Revision,
    headers_start: usize,
    headers_end: usize,
}

fn parse_fixed(file: &[u8]) -> Result<Fixed, ParseError> {
    let truncated = |offset, needed| ParseError::Truncated { offset, needed };
    let (fixed, rest) = layout::FixedHeader::ref_from_prefix(file)
        .map_err(|_| truncated(file.len(), size_of::<layout::FixedHeader>().saturating_sub(file.len())))?;
    if fixed.magic != layout::MAGIC {
        return Err(ParseError::BadMagic { offset: 0 });
    }
    let mut fixed_size = size_of::<layout::FixedHeader>();
    let revision = match fixed.format_version.get() {
        1 => Revision::V1,
        2 => {
            let (more, _) = layout::FixedHeaderV2::ref_from_prefix(rest)
                .map_err(|_| truncated(fixed_size, size_of::<layout::FixedHeaderV2>()))?;
            fixed_size += size_of::<layout::FixedHeaderV2>();
            let page_size = more.page_size.get();
            if page_size as usize != PAGE_SIZE {
                return Err(ParseError::UnsupportedPageSize { offset: 28, page_size });
            }
            Revision::V2(match more.architecture.get() {
                0 => Architecture::X64,
                1 => Architecture::Aarch64,
                architecture => return Err(ParseError::UnsupportedArchitecture { offset: 24, architecture }),
            })
        }
        version => return Err(ParseError::UnsupportedVersion { offset: 4, version }),
    };
    if fixed.total_file_size.get() as usize != file.len() {
        let stated = fixed.total_file_size.get();
        return Err(ParseError::WrongFileSize { offset: 16, stated, actual: file.len() });
    }
    let headers_start = fixed.variable_header_offset.get() as usize;
    let headers_end = headers_start
        .checked_add(fixed.variable_header_size.get() as usize)
        .filter(|_| headers_start.is_multiple_of(8) && headers_start >= fixed_size)
        .ok_or(ParseError::BadVariableHeaderRange { offset: 8 })?;
    let actual = checksum(file, fixed_size, headers_start..headers_end)
        .ok_or(ParseError::BadVariableHeaderRange { offset: 8 })?;
    let stated = fixed.checksum.get();
    if actual != stated {
        return Err(ParseError::BadChecksum { offset: 20, stated, actual });
    }
    Ok(Fixed { revision, headers_start, headers_end })
}

/// The CRC over both kinds of headers, with zero in its own place.
fn checksum(file: &[u8], fixed_size: usize, variable: Range<usize>) -> Option<u32> {
    let (before, after) = file.get(..fixed_size)?.split_at_checked(20)?;
    Some(crc32(&[before, &[0; 4], after.get(4..)?, file.get(variable)?]))
}

/// Makes size and checksum right in a file that was changed in place, where it has a place for them: for those who change files
/// on purpose, to see what becomes of them.
pub fn seal(file: &mut [u8]) {
    let Ok(size) = u32::try_from(file.len()) else { return };
    let Ok((fixed, _)) = layout::FixedHeader::mut_from_prefix(file) else { return };
    fixed.total_file_size = size.into();
    let fixed_size = match fixed.format_version.get() {
        1 => size_of::<layout::FixedHeader>(),
        _ => size_of::<layout::FixedHeader>() + size_of::<layout::FixedHeaderV2>(),
    };
    let start = fixed.variable_header_offset.get() as usize;
    let end = start.saturating_add(fixed.variable_header_size.get() as usize);
    let Some(value) = checksum(file, fixed_size, start..end) else { return };
    if let Ok((fixed, _)) = layout::FixedHeader::mut_from_prefix(file) {
        fixed.checksum = value.into();
    }
}

/// What is known of parameter areas on the way through the directives: `None` once inserted.
#[derive(Default)]
struct Areas(BTreeMap<u32, Option<u64>>);

impl Areas {
    fn check(&mut self, raw: &RawHeader<'_>, directive: &Directive<'_>) -> Result<(), ParseError> {
        let offset = raw.offset;
        match *directive {
            Directive::ParameterArea(area) => match self.0.insert(area.index, Some(area.size)) {
                None => {}
                Some(_) => return Err(ParseError::DuplicateParameterArea { offset, index: area.index }),
            },
            Directive::Parameter(parameter) => match self.0.get(&parameter.index) {
                Some(&Some(area_size)) => {
                    if u64::from(parameter.byte_offset) >= area_size {
                        let byte_offset = parameter.byte_offset;
                        return Err(ParseError::ParameterOutsideArea { offset, byte_offset, area_size });
                    }
                }
                _ => return Err(ParseError::NoParameterArea { offset, index: parameter.index }),
            },
            Directive::ParameterInsert(insert) => match self.0.get_mut(&insert.index) {
                Some(state @ &mut Some(size)) => {
                    raw.check_range(insert.gpa, size)?;
                    *state = None;
                }
                _ => return Err(ParseError::NoParameterArea { offset, index: insert.index }),
            },
            _ => {}
        }
        Ok(())
    }
}

impl<'a> IgvmFile<'a> {
    /// Checks and reads a file.
    pub fn parse(file: &'a [u8]) -> Result<Self, ParseError> {
        let Fixed { revision, headers_start, headers_end } = parse_fixed(file)?;
        let data = FileData { file, start: headers_end };
        let rest_from =
            |start: usize| (file.get(start..headers_end).unwrap_or_default(), start.min(headers_end));
        let mut parsed = Self {
            data,
            revision,
            platforms: Vec::new(),
            initialization: rest_from(headers_end),
            directives: rest_from(headers_end),
            unknown_platforms: Vec::new(),
        };
        let mut current = Section::Platform;
        let mut areas = Areas::default();
        for raw in RawHeaders::new(rest_from(headers_start).0, headers_start) {
            let raw = raw?;
            let section = raw.section().unwrap_or(current);
            if section < current {
                return Err(ParseError::SectionOrder { offset: raw.offset, section });
            }
            if current < Section::Initialization && section >= Section::Initialization {
                parsed.initialization = rest_from(raw.offset);
            }
            if current < Section::Directive && section == Section::Directive {
                parsed.directives = rest_from(raw.offset);
                let (bytes, start) = parsed.initialization;
                parsed.initialization = (bytes.get(..raw.offset - start).unwrap_or_default(), start);
            }
            current = section;
            match section {
                Section::Platform => parsed.add_platform(&raw)?,
                Section::Initialization => drop(Initialization::decode(&raw, data)?),
                Section::Directive => {
                    let directive = Directive::decode(&raw, data, parsed.vmsa_mask())?;
                    areas.check(&raw, &directive)?;
                }
            }
        }
        if parsed.platforms.is_empty() {
            return Err(ParseError::NoPlatform { offset: headers_start });
        }
        Ok(parsed)
    }

    fn add_platform(&mut self, raw: &RawHeader<'a>) -> Result<(), ParseError> {
        let offset = raw.offset;
        if raw.header_type != header_type::SUPPORTED_PLATFORM {
            self.unknown_platforms.push(At { offset, header: raw.unknown() });
            return Ok(());
        }
        let platform = Platform::decode(offset, raw.body()?)?;
        // One bit each and no two alike: there are at most 32.
        if self.platforms().any(|other| {
            other.header.platform_type == platform.platform_type
                || other.header.compatibility_mask == platform.compatibility_mask
        }) {
            return Err(ParseError::DuplicatePlatform { offset });
        }
        self.platforms.push(At { offset, header: platform });
        Ok(())
    }

    fn vmsa_mask(&self) -> u32 {
        self.platforms()
            .filter(|platform| platform.header.platform_type.has_vmsa())
            .fold(0, |masks, platform| masks | platform.header.compatibility_mask)
    }

    /// Format version.
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The bytes of the file.
    pub const fn bytes(&self) -> &'a [u8] {
        self.data.file
    }

    /// Whether anything follows the headers.
    pub const fn has_data(&self) -> bool {
        self.data.start < self.data.file.len()
    }

    /// The platforms.
    pub fn platforms(&self) -> impl Iterator<Item = At<Platform>> + '_ {
        self.platforms.iter().copied()
    }

    /// Headers of the platform section that are not known.
    pub fn unknown_platforms(&self) -> impl Iterator<Item = At<Unknown<'a>>> + '_ {
        self.unknown_platforms.iter().copied()
    }

    /// All initialization headers.
    pub fn initializations(&self) -> impl Iterator<Item = At<Initialization<'a>>> + Clone + use<'a> {
        let data = self.data;
        let (bytes, offset) = self.initialization;
        // `parse` saw each of them decode.
        RawHeaders::new(bytes, offset).map_while(Result::ok).filter_map(move |raw| {
            Some(At { offset: raw.offset, header: Initialization::decode(&raw, data).ok()? })
        })
    }

    /// All directives, in the order of the file.
    pub fn directives(&self) -> impl Iterator<Item = At<Directive<'a>>> + Clone + use<'a> {
        let data = self.data;
        let vmsa_mask = self.vmsa_mask();
        let (bytes, offset) = self.directives;
        RawHeaders::new(bytes, offset).map_while(Result::ok).filter_map(move |raw| {
            Some(At { offset: raw.offset, header: Directive::decode(&raw, data, vmsa_mask).ok()? })
        })
    }

    /// What of the file is for one platform; `None` if it does not support that.
    pub fn for_platform(&self, platform_type: PlatformType) -> Option<PlatformImage<'_, 'a>> {
        let platform = self.platforms().find(|p| p.header.platform_type == platform_type)?.header;
        Some(PlatformImage { file: self, platform })
    }
}

/// The part of a file that one platform loads.
#[derive(Clone, Copy, Debug)]
pub struct PlatformImage<'f, 'a> {
    file: &'f IgvmFile<'a>,
    platform: Platform,
}

impl<'f, 'a> PlatformImage<'f, 'a> {
    /// The platform: mask, highest VTL, shared GPA boundary.
    pub const fn platform(&self) -> Platform {
        self.platform
    }

    /// The file.
    pub const fn file(&self) -> &'f IgvmFile<'a> {
        self.file
    }

    /// The initialization headers for this platform, and those without a mask.
    pub fn initializations(&self) -> impl Iterator<Item = At<Initialization<'a>>> + Clone + use<'a> {
        let mask = self.platform.compatibility_mask;
        self.file
            .initializations()
            .filter(move |at| at.header.compatibility_mask().is_none_or(|other| other & mask != 0))
    }

    /// The directives for this platform, and those without a mask.
    pub fn directives(&self) -> impl Iterator<Item = At<Directive<'a>>> + Clone + use<'a> {
        let mask = self.platform.compatibility_mask;
        self.file
            .directives()
            .filter(move |at| at.header.compatibility_mask().is_none_or(|other| other & mask != 0))
    }

    /// The guest policy: the last one counts, as in a loader that overwrites.
    pub fn guest_policy(&self) -> Option<u64> {
        self.initializations()
            .filter_map(|at| match at.header {
                Initialization::GuestPolicy { policy, .. } => Some(policy),
                _ => None,
            })
            .last()
    }
}
