//! Items from the launcher, read by DMA to where they belong (QEMU: docs/specs/fw_cfg.rst).

use super::port;
use alloc::vec;
use alloc::vec::Vec;

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const DMA: u16 = 0x514;
const DIRECTORY: u16 = 0x19;
const ERROR: u32 = 1;
const READ: u32 = 2;
const SKIP: u32 = 4;
const SELECT: u32 = 8;

/// An item.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    key: u16,
    /// Bytes.
    pub size: u32,
}

#[repr(C, align(16))]
struct Access {
    control: u32,
    length: u32,
    address: u64,
}

fn transfer(control: u32, length: u32, address: u64) {
    let access = Access { control: control.to_be(), length: length.to_be(), address: address.to_be() };
    let at = super::physical((&raw const access) as u64);
    port::write32(DMA, ((at >> 32) as u32).to_be());
    port::write32(DMA + 4, (at as u32).to_be());
    // SAFETY: the structure lives until the transfer is over, which this waits for.
    let control = || unsafe { (&raw const access.control).read_volatile() };
    while control() != 0 {
        assert!(u32::from_be(control()) & ERROR == 0, "fw_cfg refuses a transfer");
        core::hint::spin_loop();
    }
}

/// Looks an item up.
pub fn find(name: &str) -> Option<Item> {
    port::write16(SELECTOR, DIRECTORY);
    let byte = || port::read8(DATA);
    let count = u32::from_be_bytes([byte(), byte(), byte(), byte()]);
    let mut entries = vec![0u8; 64 * count as usize];
    let at = super::physical(entries.as_mut_ptr() as u64);
    transfer(READ, entries.len() as u32, at);
    entries.chunks_exact(64).find_map(|entry| {
        let this = entry[8..].split(|&b| b == 0).next()?;
        (this == name.as_bytes()).then(|| Item {
            key: u16::from_be_bytes([entry[4], entry[5]]),
            size: u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]),
        })
    })
}

/// Reads `size` bytes from `offset` of an item to a physical address.
///
/// # Safety
/// The memory there is nobody else's.
pub unsafe fn read_to(item: Item, offset: u32, size: u32, address: u64) {
    transfer(u32::from(item.key) << 16 | SELECT | SKIP, offset, 0);
    transfer(READ, size, address);
}

/// Reads a whole item, if it is there.
pub fn read(name: &str) -> Option<Vec<u8>> {
    let item = find(name)?;
    let mut bytes = vec![0; item.size as usize];
    // SAFETY: the vector's own memory.
    unsafe { read_to(item, 0, item.size, super::physical(bytes.as_mut_ptr() as u64)) };
    Some(bytes)
}
