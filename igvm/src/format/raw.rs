//! The list of variable headers, before anyone asks what they say: type, length, body, padding to 8 bytes.

use core::fmt;

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::error::ParseError;
use super::layout;

/// The three parts of the variable headers, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Which platforms there are.
    Platform,
    /// What a platform needs before it takes pages.
    Initialization,
    /// What to load.
    Directive,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Platform => "platform",
            Self::Initialization => "initialization",
            Self::Directive => "directive",
        })
    }
}

/// A header of a type that this crate does not know, kept as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown<'a> {
    /// Its type, [`layout::OPTIONAL`] included.
    pub header_type: u32,
    /// Its body, without padding.
    pub body: &'a [u8],
}

impl Unknown<'_> {
    /// Whether a loader may skip it.
    pub const fn is_optional(&self) -> bool {
        self.header_type & layout::OPTIONAL != 0
    }
}

/// One header.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawHeader<'a> {
    pub(super) offset: usize,
    pub(super) header_type: u32,
    pub(super) body: &'a [u8],
}

impl<'a> RawHeader<'a> {
    /// To which section its type belongs; `None` for types outside the three ranges.
    pub(super) fn section(&self) -> Option<Section> {
        match self.header_type & !layout::OPTIONAL {
            0x1..=0x100 => Some(Section::Platform),
            0x101..=0x200 => Some(Section::Initialization),
            0x301..=0x400 => Some(Section::Directive),
            _ => None,
        }
    }

    /// The body as a structure of exactly this size.
    pub(super) fn body<T: FromBytes + KnownLayout + Immutable + Unaligned>(
        &self,
    ) -> Result<&'a T, ParseError> {
        T::ref_from_bytes(self.body).map_err(|_| ParseError::WrongHeaderLength {
            offset: self.offset,
            header_type: self.header_type,
            length: self.body.len() as u32,
        })
    }

    pub(super) fn unknown(&self) -> Unknown<'a> {
        Unknown { header_type: self.header_type, body: self.body }
    }

    pub(super) fn check_reserved(&self, ok: bool) -> Result<(), ParseError> {
        if ok { Ok(()) } else { Err(ParseError::ReservedNotZero { offset: self.offset }) }
    }

    pub(super) fn check_aligned(&self, value: u64, alignment: u64) -> Result<(), ParseError> {
        if value & (alignment - 1) == 0 {
            Ok(())
        } else {
            Err(ParseError::Unaligned { offset: self.offset, value, alignment })
        }
    }

    /// That `size` bytes from `gpa` on are addresses.
    pub(super) fn check_range(&self, gpa: u64, size: u64) -> Result<(), ParseError> {
        match gpa.checked_add(size) {
            Some(_) => Ok(()),
            None => Err(ParseError::AddressOverflow { offset: self.offset, gpa }),
        }
    }
}

/// The headers in `bytes`, whose first byte is at `offset` of the file. Ends after the first error.
#[derive(Clone, Debug)]
pub(super) struct RawHeaders<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> RawHeaders<'a> {
    pub(super) const fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, offset }
    }

    fn split(&self) -> Result<(RawHeader<'a>, usize), ParseError> {
        let offset = self.offset;
        let truncated = |needed| ParseError::Truncated { offset, needed };
        let (prefix, rest) = layout::VariableHeader::ref_from_prefix(self.bytes)
            .map_err(|_| truncated(size_of::<layout::VariableHeader>()))?;
        let length = prefix.length.get() as usize;
        let padded = length.checked_next_multiple_of(8).ok_or(truncated(length))?;
        let (body, padding) =
            rest.get(..padded).and_then(|b| b.split_at_checked(length)).ok_or(truncated(padded))?;
        if padding.iter().any(|&b| b != 0) {
            return Err(ParseError::PaddingNotZero { offset });
        }
        let header = RawHeader { offset, header_type: prefix.header_type.get(), body };
        Ok((header, size_of::<layout::VariableHeader>() + padded))
    }
}

impl<'a> Iterator for RawHeaders<'a> {
    type Item = Result<RawHeader<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        match self.split() {
            Ok((header, size)) => {
                self.bytes = self.bytes.get(size..).unwrap_or_default();
                self.offset += size;
                Some(Ok(header))
            }
            Err(error) => {
                self.bytes = &[];
                Some(Err(error))
            }
        }
    }
}

/// The whole file, for headers that refer to its data.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileData<'a> {
    pub(super) file: &'a [u8],
    /// Where the headers end.
    pub(super) start: usize,
}

impl<'a> FileData<'a> {
    /// `size` bytes at `data_offset` of the file; `None` where the offset is 0.
    pub(super) fn get(
        &self,
        header: &RawHeader<'_>,
        data_offset: u32,
        size: u64,
    ) -> Result<Option<&'a [u8]>, ParseError> {
        if data_offset == 0 {
            return Ok(None);
        }
        let start = data_offset as usize;
        let data = usize::try_from(size)
            .ok()
            .filter(|_| start >= self.start)
            .and_then(|size| self.file.get(start..)?.get(..size));
        match data {
            Some(data) => Ok(Some(data)),
            None => Err(ParseError::DataOutsideFile { offset: header.offset, data_offset, size }),
        }
    }

    /// Up to `size` bytes at `data_offset`, which must not be 0.
    pub(super) fn up_to(
        &self,
        header: &RawHeader<'_>,
        data_offset: u32,
        size: usize,
    ) -> Result<&'a [u8], ParseError> {
        let available = self.file.len().saturating_sub(data_offset as usize).min(size);
        self.get(header, data_offset, available as u64)?
            .ok_or(ParseError::MissingData { offset: header.offset })
    }
}
