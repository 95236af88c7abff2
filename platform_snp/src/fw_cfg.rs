//! QEMU's fw_cfg (qemu: docs/specs/fw_cfg.rst): small named items from the host, by DMA. Big-endian. The directory and all
//! sizes are the host's word: both are bounded.

use crate::{
    DeviceError,
    dma::DmaRegion,
    host::{Environment, HostIo},
};
use alloc::vec::Vec;

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const DMA: u16 = 0x514;
const KEY_SIGNATURE: u16 = 0;
const KEY_ID: u16 = 1;
const KEY_DIRECTORY: u16 = 0x19;

const CONTROL_ERROR: u32 = 1;
const CONTROL_READ: u32 = 2;
const CONTROL_SELECT: u32 = 8;

/// Bytes in front of the data in the shared region: the access structure, padded.
const ACCESS: usize = 64;
const ENTRY: usize = 64;
const FILES_MAX: u32 = 1024;
const PATIENCE_NS: u64 = 2_000_000_000;

/// The fw_cfg device, found and able to do DMA.
pub struct FwCfg<'h> {
    host: &'h dyn HostIo,
    environment: &'h dyn Environment,
    region: DmaRegion,
}

/// An item of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    key: u16,
    /// Its size in bytes, as the host says.
    pub size: u32,
}

impl<'h> FwCfg<'h> {
    /// Finds the device. `region` holds at least 4096 bytes, through which items are read.
    pub fn new(
        host: &'h dyn HostIo,
        environment: &'h dyn Environment,
        region: DmaRegion,
    ) -> Result<Self, DeviceError> {
        if region.len() < 4096 {
            return Err(DeviceError::OutOfMemory);
        }
        host.out16(SELECTOR, KEY_SIGNATURE);
        if b"QEMU".iter().any(|&c| host.in8(DATA) != c) {
            return Err(DeviceError::Absent);
        }
        host.out16(SELECTOR, KEY_ID);
        if host.in8(DATA) & 2 == 0 {
            return Err(DeviceError::Unsupported("fw_cfg without DMA"));
        }
        Ok(Self { host, environment, region })
    }

    /// Looks an item up by its name.
    pub fn find(&self, name: &str) -> Result<Option<Item>, DeviceError> {
        let mut count = [0; 4];
        self.read_part(Some(KEY_DIRECTORY), &mut count)?;
        let count = u32::from_be_bytes(count);
        if count > FILES_MAX {
            return Err(DeviceError::BadDevice("the fw_cfg directory is too long"));
        }
        let mut chunk = [0; 32 * ENTRY];
        let mut left = count as usize;
        while left > 0 {
            let now = left.min(32);
            let Some(part) = chunk.get_mut(..now * ENTRY) else { break };
            self.read_part(None, part)?;
            if let Some(item) = part.chunks_exact(ENTRY).find_map(|entry| parse_entry(entry, name)) {
                return Ok(Some(item));
            }
            left -= now;
        }
        Ok(None)
    }

    /// Reads an item whole; one of more than `limit` bytes is refused.
    pub fn read(&self, item: Item, limit: usize) -> Result<Vec<u8>, DeviceError> {
        let size = item.size as usize;
        if size > limit {
            return Err(DeviceError::BadDevice("a fw_cfg item is too big"));
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| DeviceError::OutOfMemory)?;
        bytes.resize(size, 0);
        let mut key = Some(item.key);
        for part in bytes.chunks_mut(self.region.len() - ACCESS) {
            self.read_part(key.take(), part)?;
        }
        Ok(bytes)
    }

    /// Reads the next bytes of the item `key`, or of the one selected last.
    fn read_part(&self, key: Option<u16>, to: &mut [u8]) -> Result<(), DeviceError> {
        let control = CONTROL_READ | key.map_or(0, |key| CONTROL_SELECT | u32::from(key) << 16);
        self.region.write_u32(0, control.to_be());
        self.region.write_u32(4, (to.len() as u32).to_be());
        self.region.write_u64(8, self.region.bus(ACCESS).to_be());
        self.host.wmb();
        let address = self.region.bus(0);
        self.host.out32(DMA, ((address >> 32) as u32).to_be());
        self.host.out32(DMA + 4, (address as u32).to_be());
        let deadline = self.environment.now().saturating_add(PATIENCE_NS);
        loop {
            match u32::from_be(self.region.read_u32(0)) {
                0 => break,
                control if control & CONTROL_ERROR != 0 => {
                    return Err(DeviceError::BadDevice("fw_cfg refuses to read"));
                }
                _ if self.environment.now() > deadline => return Err(DeviceError::Timeout),
                _ => self.environment.wait(),
            }
        }
        self.host.rmb();
        self.region.read(ACCESS, to);
        Ok(())
    }
}

/// `struct FWCfgFile`: size u32, select u16, reserved u16, name `[u8; 56]` ended by NUL.
fn parse_entry(entry: &[u8], name: &str) -> Option<Item> {
    let (size, rest) = entry.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_first_chunk::<2>()?;
    let field = rest.get(2..58)?;
    let end = field.iter().position(|&byte| byte == 0)?;
    (field.get(..end)? == name.as_bytes())
        .then_some(Item { key: u16::from_be_bytes(*key), size: u32::from_be_bytes(*size) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_entry_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse_entry(&bytes, "opt/x");
        }
    }

    #[test]
    fn an_entry_is_found_by_its_whole_name() {
        let mut entry = [0; ENTRY];
        entry[..8].copy_from_slice(&[0, 0, 1, 2, 0, 0x21, 0, 0]);
        entry[8..13].copy_from_slice(b"opt/x");
        assert_eq!(parse_entry(&entry, "opt/x"), Some(Item { key: 0x21, size: 0x102 }));
        assert_eq!(parse_entry(&entry, "opt/"), None);
        entry[8..].fill(b'x');
        assert_eq!(parse_entry(&entry, "x"), None);
    }
}
