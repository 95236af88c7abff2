//! Where the guest told its virtio-mmio devices that their queues are, and what is in these queues.
//!
//! Only watched where there is a script. Everything read here is in memory that the guest shares, as a device would read it. Source: virtio 1.2, sections 2.7 and 4.2.

use super::script::{Ring, RingPart};
use crate::memory::PhysicalMemory;
use alloc::collections::BTreeMap;

/// Where virtio-mmio devices may be (QEMU's microvm), and the bytes of one.
const DEVICES: core::ops::Range<u64> = 0xfeb0_0000..0xfeb0_4000;
const DEVICE: u64 = 0x200;

const QUEUE_SELECT: u64 = 0x30;
const QUEUE_SIZE: u64 = 0x38;
/// The register that tells a device of new buffers.
pub const QUEUE_NOTIFY: u64 = 0x50;
const DESCRIPTORS: u64 = 0x80;
const AVAILABLE: u64 = 0x90;
const USED: u64 = 0xa0;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Queue {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
}

/// All queues of all devices.
#[derive(Clone, Debug, Default)]
pub struct Rings {
    selected: BTreeMap<u64, u32>,
    queues: BTreeMap<(u64, u16), Queue>,
}

/// The device with a register at this address, and the register.
pub fn register(gpa: u64) -> Option<(u64, u64)> {
    DEVICES.contains(&gpa).then_some((gpa & !(DEVICE - 1), gpa & (DEVICE - 1)))
}

impl Rings {
    /// Takes note of a write to a register.
    pub fn write(&mut self, gpa: u64, value: u32) {
        let Some((device, register)) = register(gpa) else { return };
        if register == QUEUE_SELECT {
            self.selected.insert(device, value);
            return;
        }
        let Some(Ok(index)) = self.selected.get(&device).map(|&index| u16::try_from(index)) else { return };
        let half = |old: u64| match register & 4 {
            0 => old & !0xffff_ffff | u64::from(value),
            _ => old & 0xffff_ffff | u64::from(value) << 32,
        };
        let place = match register & !7 {
            QUEUE_SIZE if register == QUEUE_SIZE => {
                self.queues.entry((device, index)).or_default().size = value as u16;
                return;
            }
            DESCRIPTORS => &mut self.queues.entry((device, index)).or_default().descriptors,
            AVAILABLE => &mut self.queues.entry((device, index)).or_default().available,
            USED => &mut self.queues.entry((device, index)).or_default().used,
            _ => return,
        };
        *place = half(*place);
    }

    fn queue(&self, ring: &Ring) -> Option<&Queue> {
        self.queues.get(&(ring.device, ring.queue)).filter(|queue| queue.size.is_power_of_two())
    }

    /// Indices of the available and the used ring: equal when the device has used all that it was given.
    pub fn indices(
        &self,
        memory: &impl PhysicalMemory,
        ring: &Ring,
        at: impl Fn(u64) -> Option<u64>,
    ) -> Option<(u16, u16)> {
        let queue = self.queue(ring)?;
        let index = |ring: u64| Some(read_u16(memory, at(ring + 2)?));
        Some((index(queue.available)?, index(queue.used)?))
    }

    /// The guest-physical address of a part; `at` finds memory that is shared with the host.
    pub fn address(
        &self,
        memory: &impl PhysicalMemory,
        ring: &Ring,
        at: impl Fn(u64) -> Option<u64>,
    ) -> Option<u64> {
        let queue = self.queue(ring)?;
        let last = || {
            let index = read_u16(memory, at(queue.used + 2)?).wrapping_sub(1);
            Some(queue.used + 4 + 8 * u64::from(index & (queue.size - 1)))
        };
        match ring.part {
            RingPart::Descriptors => Some(queue.descriptors),
            RingPart::Available => Some(queue.available),
            RingPart::UsedFlags => Some(queue.used),
            RingPart::UsedIndex => Some(queue.used + 2),
            RingPart::UsedId => last(),
            RingPart::UsedLength => last().map(|entry| entry + 4),
            RingPart::Data | RingPart::Status => {
                let mut index = read_u16(memory, at(last()?)?);
                // A chain is no longer than its table.
                for _ in 0..queue.size {
                    let entry = queue.descriptors + 16 * u64::from(index & (queue.size - 1));
                    let address = memory.read_u64(at(entry)?);
                    let flags = read_u16(memory, at(entry + 12)?);
                    if flags & NEXT == 0 || (ring.part == RingPart::Data && flags & WRITE != 0) {
                        return Some(address);
                    }
                    index = read_u16(memory, at(entry + 14)?);
                }
                None
            }
        }
    }
}

fn read_u16(memory: &impl PhysicalMemory, spa: u64) -> u16 {
    let mut bytes = [0; 2];
    memory.read(spa, &mut bytes);
    u16::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::TestMemory;

    const DEVICE: u64 = 0xfeb0_0200;

    fn ring(part: RingPart) -> Ring {
        Ring { device: DEVICE, queue: 1, part }
    }

    #[test]
    fn a_queue_is_followed_to_its_buffers() {
        let memory = TestMemory::new(0x4000);
        let mut rings = Rings::default();
        for (register, value) in
            [(0x30, 1), (0x38, 4), (0x80, 0x1000), (0x84, 0), (0x90, 0x1040), (0xa0, 0x2000), (0x44, 1)]
        {
            rings.write(DEVICE + register, value);
        }
        // Header, data, status: descriptors 2, 3, 0. Used once.
        for (index, address, flags, next) in
            [(2u64, 0x3000u64, 1u64, 3u64), (3, 0x3100, 3, 0), (0, 0x3800, 2, 0)]
        {
            memory.write_u64(0x1000 + 16 * index, address);
            memory.write_u64(0x1008 + 16 * index, 8 | flags << 32 | next << 48);
        }
        memory.write(0x1042, &[1, 0]);
        let at = |gpa: u64| Some(gpa);
        assert_eq!(rings.indices(&memory, &ring(RingPart::UsedIndex), at), Some((1, 0)));
        memory.write(0x2002, &[1, 0, 2, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(rings.indices(&memory, &ring(RingPart::UsedIndex), at), Some((1, 1)));
        for (part, address) in [
            (RingPart::Descriptors, 0x1000),
            (RingPart::Available, 0x1040),
            (RingPart::UsedFlags, 0x2000),
            (RingPart::UsedIndex, 0x2002),
            (RingPart::UsedId, 0x2004),
            (RingPart::UsedLength, 0x2008),
            (RingPart::Data, 0x3100),
            (RingPart::Status, 0x3800),
        ] {
            assert_eq!(rings.address(&memory, &ring(part), at), Some(address), "{part:?}");
        }
        assert_eq!(rings.address(&memory, &Ring { queue: 0, ..ring(RingPart::Data) }, at), None);
        assert_eq!(rings.address(&memory, &ring(RingPart::Data), |_| None), None, "not shared");
        // A chain that bites its tail ends.
        memory.write_u64(0x1000 + 16 * 2 + 8, 8 | 1 << 32 | 2 << 48);
        assert_eq!(rings.address(&memory, &ring(RingPart::Status), at), None);
    }

    #[test]
    fn other_registers_are_none() {
        let mut rings = Rings::default();
        rings.write(0xfee0_0030, 1);
        rings.write(DEVICE + 0x80, 1);
        assert!(rings.queues.is_empty() && rings.selected.is_empty());
        assert_eq!(register(0xfeb0_0250), Some((0xfeb0_0200, 0x50)));
    }
}
