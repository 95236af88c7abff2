//! Base address registers (section 6.2.5.1): how much a function decodes, and where.

use super::{Address, Config};
use crate::DeviceError;
use core::ops::Range;

const COMMAND: u8 = 0x04;
/// Decode memory, master the bus (DMA), and no interrupt lines.
const ENABLED: u32 = 1 << 1 | 1 << 2 | 1 << 10;
const FIRST: u8 = 0x10;
/// BARs of a function.
const COUNT: usize = 6;
const IS_PORT: u32 = 1;
const TYPE: u32 = 3 << 1;
const TYPE_64: u32 = 2 << 1;
const FLAGS: u32 = 15;
/// A device with more registers is none of ours.
const SIZE_MAX: u64 = 16 << 20;
/// BARs share no page, so that mapping one maps no other.
const PAGE: u64 = 4096;

const BAD_SIZE: DeviceError = DeviceError::BadDevice("a BAR of a size that cannot be");

/// Addresses below 4 GiB where devices may be: no memory, and nothing else of ours.
#[derive(Debug)]
pub struct Window {
    free: Range<u32>,
}

impl Window {
    /// `range` is the driver's to give away.
    pub fn new(range: Range<u32>) -> Window {
        Window { free: range }
    }

    /// `size` bytes, a power of two, aligned to themselves and to pages.
    fn take(&mut self, size: u64) -> Option<u32> {
        let size = size.max(PAGE);
        let start = u64::from(self.free.start).next_multiple_of(size);
        let end = start.checked_add(size).filter(|&end| end <= self.free.end.into())?;
        self.free.start = end as u32;
        Some(start as u32)
    }
}

/// Registers of a device: inside of a BAR that was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    start: u64,
    len: u64,
}

impl Region {
    /// Where the `size` bytes at `offset` are.
    ///
    /// # Errors
    /// They are not all inside: the device told a length that is too short, or an offset that is too big.
    pub fn at(self, offset: u64, size: u64) -> Result<u64, DeviceError> {
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.len);
        inside.then(|| self.start + offset).ok_or(DeviceError::BadDevice("registers outside of their region"))
    }
}

/// The BARs of one function, placed as they are needed.
pub struct Bars<'c, 'h> {
    config: &'c Config<'h>,
    function: Address,
    placed: [Option<Range<u64>>; COUNT],
}

impl<'c, 'h> Bars<'c, 'h> {
    /// None is placed; the function decodes nothing and does no DMA until [`Self::enable`].
    pub fn new(config: &'c Config<'h>, function: Address) -> Bars<'c, 'h> {
        // The upper half is status, where ones clear and zeros do nothing.
        config.write(function, COMMAND, 0);
        Bars { config, function, placed: [const { None }; COUNT] }
    }

    /// `len` bytes at `offset` of BAR `index`, which gets a place in the window if it has none.
    ///
    /// # Errors
    /// There is no such BAR, it is too small, decodes ports, or does not take its address; the window is full.
    pub fn region(
        &mut self,
        window: &mut Window,
        index: u8,
        offset: u32,
        len: u32,
    ) -> Result<Region, DeviceError> {
        let slot = usize::from(index);
        let placed = match self.placed.get(slot) {
            None => return Err(DeviceError::BadDevice("registers in a BAR that cannot be")),
            Some(Some(placed)) => placed.clone(),
            Some(None) => {
                let placed = self.place(window, slot)?;
                self.placed[slot] = Some(placed.clone());
                placed
            }
        };
        let end = u64::from(offset) + u64::from(len);
        if len == 0 || end > placed.end - placed.start {
            return Err(DeviceError::BadDevice("registers outside of their BAR"));
        }
        Ok(Region { start: placed.start + u64::from(offset), len: len.into() })
    }

    fn place(&self, window: &mut Window, slot: usize) -> Result<Range<u64>, DeviceError> {
        let (config, function) = (self.config, self.function);
        let low = FIRST + 4 * slot as u8;
        config.write(function, low, !0);
        let mask = config.read(function, low);
        if mask & IS_PORT != 0 {
            return Err(DeviceError::Unsupported("registers in ports"));
        }
        let wide = mask & TYPE == TYPE_64;
        if wide && slot + 1 == COUNT {
            return Err(DeviceError::BadDevice("a BAR of 64 bits without an upper half"));
        }
        let mut bits = u64::from(mask & !FLAGS) | !0 << 32;
        if wide {
            config.write(function, low + 4, !0);
            bits = u64::from(mask & !FLAGS) | u64::from(config.read(function, low + 4)) << 32;
        }
        // The lowest bit that can be set is the size; above it all can.
        let size = bits & bits.wrapping_neg();
        if !(16..=SIZE_MAX).contains(&size) || bits != size.wrapping_neg() {
            return Err(BAD_SIZE);
        }
        if wide {
            config.write(function, low + 4, 0);
        }
        let at = window.take(size).ok_or(DeviceError::OutOfMemory)?;
        config.write(function, low, at);
        if config.read(function, low) & !FLAGS != at {
            return Err(DeviceError::BadDevice("a BAR that does not take its address"));
        }
        Ok(at.into()..u64::from(at) + size)
    }

    /// What was placed: for whoever makes it reachable.
    pub fn placed(&self) -> [Option<Range<u64>>; COUNT] {
        self.placed.clone()
    }

    /// From now on the function decodes its BARs and does DMA.
    pub fn enable(&self) {
        self.config.write(self.function, COMMAND, ENABLED);
    }
}
