//! Parameter areas while a file is loaded: memory of the loader, filled, and then given to the guest.
//!
//! Sizes come from the file, so they are bounded here.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use crate::format::{Parameter, ParameterArea};

/// Bytes of all parameter areas of a file together. Real ones need a few pages.
pub const MAX_PARAMETER_BYTES: u64 = 64 << 20;

/// Why a parameter cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParameterError {
    /// No area of this index waits for parameters.
    NoArea {
        /// The index.
        index: u32,
    },
    /// The value does not fit behind its offset.
    DoesNotFit {
        /// Index of the area.
        index: u32,
        /// Where the value should go.
        byte_offset: u32,
        /// Its length.
        length: usize,
    },
    /// All areas together are larger than [`MAX_PARAMETER_BYTES`].
    TooLarge,
}

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoArea { index } => write!(f, "no parameter area {index}: declare it before it is used"),
            Self::DoesNotFit { index, byte_offset, length } => write!(
                f,
                "{length} bytes do not fit at {byte_offset:#x} of parameter area {index}: make the area larger"
            ),
            Self::TooLarge => {
                write!(f, "parameter areas of more than {MAX_PARAMETER_BYTES} bytes: make them smaller")
            }
        }
    }
}

impl core::error::Error for ParameterError {}

/// The areas that are declared and not yet inserted.
#[derive(Clone, Debug, Default)]
pub struct ParameterAreas {
    areas: BTreeMap<u32, Vec<u8>>,
    /// Bytes of all areas ever declared.
    total: u64,
}

impl ParameterAreas {
    /// None yet.
    pub const fn new() -> Self {
        Self { areas: BTreeMap::new(), total: 0 }
    }

    /// Makes an area, with its initial contents or zeros.
    pub fn declare(&mut self, area: &ParameterArea<'_>) -> Result<(), ParameterError> {
        let total = self.total.checked_add(area.size).filter(|&total| total <= MAX_PARAMETER_BYTES);
        self.total = total.ok_or(ParameterError::TooLarge)?;
        let mut data = Vec::from(area.initial.unwrap_or_default());
        data.resize(area.size as usize, 0);
        self.areas.insert(area.index, data);
        Ok(())
    }

    /// Writes a value where the header says.
    pub fn write(&mut self, parameter: &Parameter, value: &[u8]) -> Result<(), ParameterError> {
        let Parameter { index, byte_offset, .. } = *parameter;
        let length = value.len();
        self.areas
            .get_mut(&index)
            .ok_or(ParameterError::NoArea { index })?
            .get_mut(byte_offset as usize..)
            .and_then(|rest| rest.get_mut(..length))
            .ok_or(ParameterError::DoesNotFit { index, byte_offset, length })?
            .copy_from_slice(value);
        Ok(())
    }

    /// Takes an area out, to become pages of the guest.
    pub fn take(&mut self, index: u32) -> Result<Vec<u8>, ParameterError> {
        self.areas.remove(&index).ok_or(ParameterError::NoArea { index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ParameterKind;

    fn area(index: u32, size: u64, initial: Option<&[u8]>) -> ParameterArea<'_> {
        ParameterArea { index, size, initial }
    }

    #[test]
    fn values_land_where_they_should() {
        let mut areas = ParameterAreas::new();
        areas.declare(&area(3, 4096, None)).unwrap();
        let parameter = Parameter { kind: ParameterKind::VpCount, index: 3, byte_offset: 4092 };
        areas.write(&parameter, &[1, 2, 3, 4]).unwrap();
        assert_eq!(
            areas.write(&parameter, &[0; 5]),
            Err(ParameterError::DoesNotFit { index: 3, byte_offset: 4092, length: 5 })
        );
        let data = areas.take(3).unwrap();
        assert_eq!((data.len(), &data[4092..]), (4096, &[1, 2, 3, 4][..]));
        assert!(data[..4092].iter().all(|&b| b == 0));
        assert_eq!(areas.take(3), Err(ParameterError::NoArea { index: 3 }));
        assert_eq!(areas.write(&parameter, &[]), Err(ParameterError::NoArea { index: 3 }));
    }

    #[test]
    fn initial_contents_are_kept_and_sizes_bounded() {
        let mut areas = ParameterAreas::new();
        areas.declare(&area(0, 8, Some(&[7; 8]))).unwrap();
        assert_eq!(areas.take(0).unwrap(), [7; 8]);
        assert_eq!(areas.declare(&area(1, u64::MAX, None)), Err(ParameterError::TooLarge));
        assert_eq!(areas.declare(&area(1, MAX_PARAMETER_BYTES, None)), Err(ParameterError::TooLarge));
        areas.declare(&area(1, MAX_PARAMETER_BYTES - 8, None)).unwrap();
    }
}
