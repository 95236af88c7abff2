//! Where the guest told its virtio devices that their queues are, and what is in these queues.
//!
//! Followed are split rings of virtio-mmio devices, and of devices on the first PCI bus. A device is known by the address of its first register: on PCI, of its common
//! configuration. Invariant: what is read of a queue is in memory that the guest shares; a queue or buffer that is not is what [`Queues::unshared`] finds.
//! Source: virtio 1.2, sections 2.7, 4.1.4.3 and 4.2.

pub mod pci;

use crate::malice::script::{Ring, RingPart};
use crate::memory::PhysicalMemory;
use crate::rmp::PAGE;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Where virtio-mmio devices may be (QEMU's microvm), and the bytes of one.
const DEVICES: core::ops::Range<u64> = 0xfeb0_0000..0xfeb0_4000;
const DEVICE: u64 = 0x200;
/// The devices of `run-snp`'s machine that scripts have names for, and their types: on PCI they are elsewhere.
const NAMED: [(u64, u32); 2] = [(0xfeb0_0000, 3), (0xfeb0_0200, 2)];

/// Registers of virtio-mmio.
mod mmio {
    pub const QUEUE_SELECT: u64 = 0x30;
    pub const QUEUE_SIZE: u64 = 0x38;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const STATUS: u64 = 0x70;
    pub const DESCRIPTORS: u64 = 0x80;
    pub const AVAILABLE: u64 = 0x90;
    pub const USED: u64 = 0xa0;
}

/// Registers of the common configuration.
mod common {
    pub const STATUS: u64 = 0x14;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const DESCRIPTORS: u64 = 0x20;
    pub const AVAILABLE: u64 = 0x28;
    pub const USED: u64 = 0x30;
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;

/// A queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Queue {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    /// Index of the available ring until which chains were looked at.
    looked_at: u16,
}

/// What a driver tells a device, whatever the registers are.
enum Told {
    Reset,
    Select,
    Size,
    /// Half of an address, or all of it, from this bit on.
    Descriptors(u32),
    Available(u32),
    Used(u32),
}

/// All queues of all devices.
#[derive(Clone, Debug, Default)]
pub struct Queues {
    selected: BTreeMap<u64, u32>,
    queues: BTreeMap<(u64, u16), Queue>,
    functions: Vec<pci::Function>,
    /// The devices on PCI are those that were found last.
    current: bool,
}

/// The virtio-mmio device with a register at this address, and the register.
fn register(gpa: u64) -> Option<(u64, u64)> {
    DEVICES.contains(&gpa).then_some((gpa & !(DEVICE - 1), gpa & (DEVICE - 1)))
}

/// What a write of `size` bytes at this offset says, by the offsets of the three addresses.
fn address(offset: u64, [descriptors, available, used]: [u64; 3]) -> Option<Told> {
    let shift = 8 * (offset & 4) as u32;
    match offset & !7 {
        at if at == descriptors => Some(Told::Descriptors(shift)),
        at if at == available => Some(Told::Available(shift)),
        at if at == used => Some(Told::Used(shift)),
        _ => None,
    }
}

impl Queues {
    /// PCI devices may have moved.
    pub fn forget_functions(&mut self) {
        self.current = false;
    }

    /// Whether [`Queues::set_functions`] is to be called before anything else.
    pub fn needs_functions(&self) -> bool {
        !self.current
    }

    /// The devices on PCI.
    pub fn set_functions(&mut self, functions: Vec<pci::Function>) {
        self.functions = functions;
        self.current = true;
    }

    fn told(&self, gpa: u64, value: u64) -> Option<(u64, Told)> {
        if let Some((device, register)) = register(gpa) {
            let told = match register {
                mmio::STATUS if value == 0 => Told::Reset,
                mmio::QUEUE_SELECT => Told::Select,
                mmio::QUEUE_SIZE => Told::Size,
                _ => address(register, [mmio::DESCRIPTORS, mmio::AVAILABLE, mmio::USED])?,
            };
            return Some((device, told));
        }
        let device = self.functions.iter().find(|function| function.common.contains(&gpa))?.common.start;
        let told = match gpa - device {
            common::STATUS if value == 0 => Told::Reset,
            common::QUEUE_SELECT => Told::Select,
            common::QUEUE_SIZE => Told::Size,
            offset => address(offset, [common::DESCRIPTORS, common::AVAILABLE, common::USED])?,
        };
        Some((device, told))
    }

    /// Takes note of a write to a register.
    pub fn write(&mut self, gpa: u64, size: u8, value: u64) {
        let Some((device, told)) = self.told(gpa, value) else { return };
        let shift = match told {
            Told::Reset => {
                self.queues.retain(|&(of, _), _| of != device);
                return;
            }
            Told::Select => {
                self.selected.insert(device, value as u32);
                return;
            }
            Told::Size => 0,
            Told::Descriptors(shift) | Told::Available(shift) | Told::Used(shift) => shift,
        };
        let Some(queue) = self.selected_queue(device) else { return };
        let place = match told {
            Told::Descriptors(_) => &mut queue.descriptors,
            Told::Available(_) => &mut queue.available,
            Told::Used(_) => &mut queue.used,
            _ => {
                queue.size = value as u16;
                return;
            }
        };
        let mask = if size == 8 { u64::MAX } else { 0xffff_ffff << shift };
        *place = *place & !mask | value << shift & mask;
    }

    fn selected_queue(&mut self, device: u64) -> Option<&mut Queue> {
        let index = u16::try_from(self.selected.get(&device).copied().unwrap_or(0)).ok()?;
        Some(self.queues.entry((device, index)).or_default())
    }

    /// Where a PCI device says how large the queue is that this write enables, if it does: a driver need not write it.
    pub fn enables(&self, gpa: u64, value: u64) -> Option<u64> {
        let device = self.functions.iter().find(|function| function.common.contains(&gpa))?.common.start;
        (gpa - device == common::QUEUE_ENABLE && value & 1 != 0).then_some(device + common::QUEUE_SIZE)
    }

    /// The device and the queue that a write notifies.
    pub fn notified(&self, gpa: u64, value: u64) -> Option<(u64, u16)> {
        if let Some((device, register)) = register(gpa) {
            return (register == mmio::QUEUE_NOTIFY).then_some((device, value as u16));
        }
        let function = self.functions.iter().find(|function| function.notify.contains(&gpa))?;
        Some((function.common.start, value as u16))
    }

    /// The first address that a device which was notified would use, and that is not shared: of the queue itself, or of the buffers that are new in it. `at`
    /// finds memory that is shared.
    pub fn unshared(
        &mut self,
        memory: &impl PhysicalMemory,
        (device, index): (u64, u16),
        at: impl Fn(u64) -> Option<u64>,
    ) -> Option<u64> {
        let queue = self.queues.get_mut(&(device, index)).filter(|queue| queue.size.is_power_of_two())?;
        let hidden = |address: u64, length: u64| {
            let end = address.saturating_add(length);
            (address & !(PAGE - 1)..end)
                .step_by(PAGE as usize)
                .map(|page| page.max(address))
                .find(|&at_| at(at_).is_none())
        };
        let size = u64::from(queue.size);
        let parts = [
            (queue.descriptors, DESCRIPTOR * size),
            (queue.available, 6 + 2 * size),
            (queue.used, 6 + 8 * size),
        ];
        if let Some(gpa) = parts.into_iter().find_map(|(address, length)| hidden(address, length)) {
            return Some(gpa);
        }
        let newest = read_u16(memory, at(queue.available + 2)?);
        let new = newest.wrapping_sub(queue.looked_at).min(queue.size);
        let first = newest.wrapping_sub(new);
        queue.looked_at = newest;
        let table = Table { base: queue.descriptors, length: size };
        (0..new).find_map(|i| {
            let slot = u64::from(first.wrapping_add(i) & (queue.size - 1));
            let head = read_u16(memory, at(queue.available + 4 + 2 * slot)?);
            table.unshared(memory, head, &at, &hidden)
        })
    }

    fn queue(&self, ring: &Ring) -> Option<&Queue> {
        let kind = NAMED.iter().find(|named| named.0 == ring.device).map(|named| named.1);
        let on_pci = || self.functions.iter().find(|function| Some(function.kind) == kind);
        let queue = self
            .queues
            .get(&(ring.device, ring.queue))
            .or_else(|| self.queues.get(&(on_pci()?.common.start, ring.queue)));
        queue.filter(|queue| queue.size.is_power_of_two())
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

/// A table of descriptors: a queue's, or an indirect one.
#[derive(Clone, Copy)]
struct Table {
    base: u64,
    length: u64,
}

impl Table {
    /// The first address in a chain that is not shared.
    fn unshared(
        self,
        memory: &impl PhysicalMemory,
        head: u16,
        at: &impl Fn(u64) -> Option<u64>,
        hidden: &impl Fn(u64, u64) -> Option<u64>,
    ) -> Option<u64> {
        let mut index = head;
        // A chain is no longer than its table.
        for _ in 0..self.length {
            let entry = self.base + DESCRIPTOR * (u64::from(index) % self.length);
            let address = memory.read_u64(at(entry)?);
            let rest = memory.read_u64(at(entry + 8)?);
            let (length, flags) = (rest & 0xffff_ffff, (rest >> 32) as u16);
            if let Some(gpa) = hidden(address, length) {
                return Some(gpa);
            }
            if flags & INDIRECT != 0 {
                // Only one level: there is no indirection in an indirect table (virtio 1.2, section 2.7.5.3).
                let inner = Table { base: address, length: length / DESCRIPTOR };
                return if inner.length == 0 { None } else { inner.direct(memory, at, hidden) };
            }
            if flags & NEXT == 0 {
                return None;
            }
            index = (rest >> 48) as u16;
        }
        None
    }

    /// The same of all entries of an indirect table.
    fn direct(
        self,
        memory: &impl PhysicalMemory,
        at: &impl Fn(u64) -> Option<u64>,
        hidden: &impl Fn(u64, u64) -> Option<u64>,
    ) -> Option<u64> {
        (0..self.length.min(u64::from(u16::MAX))).find_map(|i| {
            let entry = self.base + DESCRIPTOR * i;
            let address = memory.read_u64(at(entry)?);
            hidden(address, memory.read_u64(at(entry + 8)?) & 0xffff_ffff)
        })
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
    use alloc::vec;

    const DEVICE: u64 = 0xfeb0_0200;

    fn ring(part: RingPart) -> Ring {
        Ring { device: DEVICE, queue: 1, part }
    }

    #[test]
    fn a_queue_is_followed_to_its_buffers() {
        let memory = TestMemory::new(0x4000);
        let mut queues = Queues::default();
        for (register, value) in
            [(0x30, 1), (0x38, 4), (0x80, 0x1000), (0x84, 0), (0x90, 0x1040), (0xa0, 0x2000), (0x44, 1)]
        {
            queues.write(DEVICE + register, 4, value);
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
        assert_eq!(queues.indices(&memory, &ring(RingPart::UsedIndex), at), Some((1, 0)));
        memory.write(0x2002, &[1, 0, 2, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(queues.indices(&memory, &ring(RingPart::UsedIndex), at), Some((1, 1)));
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
            assert_eq!(queues.address(&memory, &ring(part), at), Some(address), "{part:?}");
        }
        assert_eq!(queues.address(&memory, &Ring { queue: 0, ..ring(RingPart::Data) }, at), None);
        assert_eq!(queues.address(&memory, &ring(RingPart::Data), |_| None), None, "not shared");
        // A chain that bites its tail ends.
        memory.write_u64(0x1000 + 16 * 2 + 8, 8 | 1 << 32 | 2 << 48);
        assert_eq!(queues.address(&memory, &ring(RingPart::Status), at), None);
    }

    /// A queue of two descriptors, used never, with the first chain at descriptor 0; on an mmio device or on a PCI one.
    fn notified(on_pci: bool, chain: &[(u64, u64)], shared: impl Fn(u64) -> bool) -> Option<u64> {
        let memory = TestMemory::new(0x8000);
        let mut queues = Queues::default();
        let (device, registers, notify) = if on_pci {
            let (common, notify) = (0xfe00_0000..0xfe00_0038, 0xfe00_3000..0xfe00_4000);
            queues.set_functions(vec![pci::Function { kind: 2, common, notify }]);
            (0xfe00_0000, [(0x16, 1), (0x18, 2), (0x20, 0x1000), (0x28, 0x2000), (0x30, 0x3000)], 0xfe00_3004)
        } else {
            (DEVICE, [(0x30, 1), (0x38, 2), (0x80, 0x1000), (0x90, 0x2000), (0xa0, 0x3000)], DEVICE + 0x50)
        };
        for (register, value) in registers {
            queues.write(device + register, 4, value);
        }
        for (i, &(address, rest)) in (0..).zip(chain) {
            memory.write_u64(0x1000 + 16 * i, address);
            memory.write_u64(0x1008 + 16 * i, rest);
        }
        memory.write_u64(0x2000, 1 << 16);
        let queue = queues.notified(notify, 1)?;
        assert_eq!(queue, (device, 1));
        let found = queues.unshared(&memory, queue, |gpa| shared(gpa).then_some(gpa));
        if (1..4).all(|part| shared(part << 12)) {
            let again = queues.unshared(&memory, queue, |gpa| (gpa < 0x4000).then_some(gpa));
            assert_eq!(again, None, "a buffer is looked at once");
        }
        found
    }

    #[test]
    fn what_a_device_is_pointed_at_has_to_be_shared() {
        const NEXT_1: u64 = 1 << 32 | 1 << 48;
        for on_pci in [false, true] {
            let notified = |chain: &[(u64, u64)], shared: fn(u64) -> bool| notified(on_pci, chain, shared);
            assert_eq!(notified(&[(0x4000, 0x1000)], |_| true), None);
            for part in [0x1000, 0x2000, 0x3000] {
                let hidden = (0..3).map(|i| 0x1000 * (i + 1)).find(|&at| at == part);
                let shared: fn(u64) -> bool = match part {
                    0x1000 => |gpa| gpa >> 12 != 1,
                    0x2000 => |gpa| gpa >> 12 != 2,
                    _ => |gpa| gpa >> 12 != 3,
                };
                assert_eq!(notified(&[(0x4000, 8)], shared), hidden);
            }
            let only_4: fn(u64) -> bool = |gpa| gpa < 0x5000;
            assert_eq!(notified(&[(0x4800, 0x800)], only_4), None);
            assert_eq!(notified(&[(0x4800, 0x801)], only_4), Some(0x5000), "the last byte");
            assert_eq!(
                notified(&[(0x4000, 8 | NEXT_1), (0x6010, 1)], only_4),
                Some(0x6010),
                "the second of a chain"
            );
            assert_eq!(
                notified(&[(0x4000, 8 | NEXT_1), (0x4000, 8 | NEXT_1)], only_4),
                None,
                "a chain that ends nowhere"
            );
            assert_eq!(notified(&[(u64::MAX, 8)], only_4), Some(u64::MAX));
            // An indirect table at 0x1000, which is the queue's own: two entries of 16 bytes.
            let indirect = 32 | 4 << 32;
            assert_eq!(notified(&[(0x1000, indirect), (0x7000, 1)], only_4), Some(0x7000));
            assert_eq!(notified(&[(0x5000, indirect)], only_4), Some(0x5000), "the table itself");
        }
    }

    #[test]
    fn other_registers_are_none() {
        let mut queues = Queues::default();
        queues.write(0xfee0_0030, 4, 1);
        queues.write(0x1000, 4, 1);
        assert!(queues.queues.is_empty() && queues.selected.is_empty());
        assert_eq!(register(0xfeb0_0250), Some((0xfeb0_0200, 0x50)));
    }
}
