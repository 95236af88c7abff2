//! The capability list (section 6.7): entries of four bytes and more, linked by offsets that the host chooses.

use super::{Address, Config};
use crate::DeviceError;

const STATUS: u8 = 0x04;
const HAS_LIST: u32 = 1 << 20;
const POINTER: u8 = 0x34;
/// Where the standard header ends.
const FIRST: u8 = 0x40;

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What it is.
    pub id: u8,
    /// Where it is in configuration space: a multiple of 4, from 0x40 on.
    pub at: u8,
    /// Its first 32 bits, id and next pointer included.
    pub head: u32,
}

/// Walks the list, and gives each entry once.
///
/// # Errors
/// The list leads into the header, or in a circle; it ends there.
pub fn capabilities<'c>(
    config: &'c Config<'_>,
    function: Address,
) -> impl Iterator<Item = Result<Capability, DeviceError>> + 'c {
    let mut next = 0;
    if config.read(function, STATUS) & HAS_LIST != 0 {
        next = config.read(function, POINTER) as u8;
    }
    // A bit for each place that an entry can begin at.
    let mut seen = 0u64;
    core::iter::from_fn(move || {
        // The two low bits are reserved, and to be masked.
        let at = core::mem::take(&mut next) & !3;
        if at == 0 {
            return None;
        }
        if at < FIRST {
            return Some(Err(DeviceError::BadDevice("a PCI capability inside of the header")));
        }
        if seen >> (at / 4) & 1 != 0 {
            return Some(Err(DeviceError::BadDevice("a PCI capability list that loops")));
        }
        seen |= 1 << (at / 4);
        let head = config.read(function, at);
        next = (head >> 8) as u8;
        Some(Ok(Capability { id: head as u8, at, head }))
    })
}
