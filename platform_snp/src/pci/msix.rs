//! MSI-X (section 6.8.2): an interrupt is a write of the device's to the local APIC, so that no routing of lines has to be known.

use super::{Address, Bars, Capability, Config, Region, Window};
use crate::DeviceError;
use crate::host::HostIo;

/// The capability's id.
pub const ID: u8 = 0x11;
const TABLE: u8 = 4;
/// In the first 32 bits of the capability.
const ENABLE: u32 = 1 << 31;
const LAST_ENTRY: u32 = 0x7ff << 16;
const ENTRY: u32 = 16;

/// Where an interrupt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The CPU's APIC id: below 256.
    pub apic_id: u8,
    /// The vector there.
    pub vector: u8,
}

/// A function's MSI-X table, of which the first entry is used.
#[derive(Debug)]
pub struct MsiX {
    function: Address,
    at: u8,
    entry: Region,
}

impl MsiX {
    /// Reads the capability; its table's BAR gets a place.
    ///
    /// # Errors
    /// The table is not inside of its BAR.
    pub fn find(
        config: &Config<'_>,
        bars: &mut Bars<'_, '_>,
        window: &mut Window,
        function: Address,
        capability: Capability,
    ) -> Result<MsiX, DeviceError> {
        let table = config.read(function, capability.at.saturating_add(TABLE));
        let entries = ((capability.head & LAST_ENTRY) >> 16) + 1;
        let entry = bars.region(window, (table & 7) as u8, table & !7, entries * ENTRY)?;
        Ok(MsiX { function, at: capability.at, entry })
    }

    /// Points entry 0 at a CPU, and lets it through.
    ///
    /// # Errors
    /// None for a table that [`Self::find`] gave.
    pub fn route(&self, host: &dyn HostIo, message: Message) -> Result<(), DeviceError> {
        // Intel SDM volume 3, 10.11: address 0xfee in the top bits, destination, physical; data: vector, fixed, edge.
        let words = [0xfee0_0000 | u32::from(message.apic_id) << 12, 0, message.vector.into(), 0];
        for (at, word) in (0..).step_by(4).zip(words) {
            host.mmio_write32(self.entry.at(at, 4)?, word);
        }
        // All other bits of this word are read-only, or the mask of the whole function, which goes.
        Config::new(host).write(self.function, self.at, ENABLE);
        Ok(())
    }
}
