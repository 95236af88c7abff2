//! Which functions there are on bus 0: virtual machines have their devices there, and what is behind a bridge is not looked for.

use super::{Address, Config};

const ID: u8 = 0x00;
/// Header type in bits 23:16; its bit 7: more than one function.
const HEADER: u8 = 0x0c;
const MULTIFUNCTION: u32 = 1 << 23;

/// Vendor and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who made it.
    pub vendor: u16,
    /// What it is, in the vendor's own numbers.
    pub device: u16,
}

impl Identity {
    /// Of the function there; `None` if there is none.
    pub fn read(config: &Config<'_>, at: Address) -> Option<Identity> {
        let id = config.read(at, ID);
        let (vendor, device) = (id as u16, (id >> 16) as u16);
        (vendor != 0xffff && vendor != 0).then_some(Identity { vendor, device })
    }
}

/// All functions of bus 0, at most 256.
pub fn functions<'c>(config: &'c Config<'_>) -> impl Iterator<Item = (Address, Identity)> + 'c {
    (0..32).flat_map(move |device| {
        let found = move |function| {
            let at = Address::new(0, device, function)?;
            Some((at, Identity::read(config, at)?))
        };
        let first = found(0);
        let more = first.is_some_and(|(at, _)| config.read(at, HEADER) & MULTIFUNCTION != 0);
        first.into_iter().chain((1..if more { 8 } else { 1 }).filter_map(found))
    })
}
