//! Devices that reach memory by themselves: a transfer of fw_cfg's and a notified virtqueue are looked at before QEMU sees them.
//!
//! QEMU's devices know no reverse map table and would read and write private memory in the clear. Invariant: a transfer that is passed on names shared memory
//! only, its control structure or its rings included. What the guest makes private after it has given it to a device is not looked at again. Source: QEMU,
//! docs/specs/fw_cfg.rst, "Guest-side DMA Interface"; virtio, by [`crate::queues`].

use super::Machine;
use crate::ending::Ending;
use crate::hardware::Hardware;
use crate::memory::PhysicalMemory;
use crate::queues::pci;
use crate::rmp::PAGE;

/// The register that takes the upper half of a control structure's address.
pub(super) const HIGH: u16 = 0x514;
/// The lower half, which starts the transfer.
pub(super) const LOW: u16 = 0x518;
const READ: u32 = 2;
const WRITE: u32 = 16;

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// A write of one of the two registers, big-endian. The end, if the transfer touches what is not shared.
    pub(super) fn fw_cfg_transfer(&mut self, port: u16, value: u32) -> Option<Ending> {
        if port == HIGH {
            self.fw_cfg_high = value;
            return None;
        }
        let high = u64::from(core::mem::take(&mut self.fw_cfg_high).swap_bytes());
        let structure = high << 32 | u64::from(value.swap_bytes());
        let private = |gpa| Some(Ending::PrivateDma { gpa, device: "fw_cfg" });
        let Some(spa) = self.shared(structure, 16) else { return private(structure) };
        let mut bytes = [0; 16];
        self.memory.read(spa, &mut bytes);
        let [control, length] =
            [0, 4].map(|at| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
        let [.., a, b, c, d, e, f, g, h] = bytes;
        let address = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        if control & (READ | WRITE) == 0 || length == 0 {
            return None;
        }
        let Some(end) = address.checked_add(length.into()) else { return private(address) };
        let mut pages = (address & !(PAGE - 1)..end).step_by(PAGE as usize);
        pages.find(|&page| self.shared(page, PAGE).is_none()).and_then(private)
    }
}

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// A write to device memory that is about to be done. The end, if it tells a virtio device to use what is not shared.
    pub(super) fn queue_notified(&mut self, gpa: u64, value: u64) -> Option<Ending> {
        self.find_functions();
        let queue = self.queues.notified(gpa, value)?;
        // Taken out so that it can look at memory.
        let mut queues = core::mem::take(&mut self.queues);
        let unshared = queues.unshared(&self.memory, queue, |gpa| self.shared(gpa, 1));
        self.queues = queues;
        unshared.map(|gpa| Ending::PrivateDma { gpa, device: "a virtio device" })
    }

    /// A write to device memory: what it says of a queue.
    pub(super) fn queue_written(&mut self, gpa: u64, size: u8, value: u64) {
        if pci::WINDOW.contains(&gpa) {
            self.queues.forget_functions();
            return;
        }
        self.find_functions();
        self.queues.write(gpa, size, value);
        if let Some(register) = self.queues.enables(gpa, value) {
            let size = self.hardware.mmio_read(register, 2);
            self.queues.write(register, 2, size);
        }
    }

    fn find_functions(&mut self) {
        if self.queues.needs_functions() {
            self.queues.set_functions(pci::find(&mut self.hardware));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{machine, share};
    use super::*;

    const STRUCTURE: u64 = 0x2000;

    /// What becomes of a transfer.
    fn transfer(control: u32, length: u32, address: u64) -> Option<Ending> {
        let mut machine = machine(0x1_0000);
        for page in [STRUCTURE, 0x4000, 0x5000] {
            share(&mut machine, page);
        }
        machine.launch_page(0x6000, &[0; 4096]);
        let head = [control.to_be_bytes(), length.to_be_bytes()].concat();
        machine.memory.write(STRUCTURE, &[head, address.to_be_bytes().to_vec()].concat());
        assert_eq!(machine.fw_cfg_transfer(HIGH, 0), None);
        machine.fw_cfg_transfer(LOW, (STRUCTURE as u32).swap_bytes())
    }

    #[test]
    fn only_shared_memory_is_for_devices() {
        let ends_at = |gpa| Some(Ending::PrivateDma { gpa, device: "fw_cfg" });
        assert_eq!(transfer(READ, 0x2000, 0x4000), None);
        assert_eq!(transfer(READ, 0x2001, 0x4000), ends_at(0x6000));
        assert_eq!(transfer(WRITE, 4, 0x6ffc), ends_at(0x6000));
        assert_eq!(transfer(WRITE, 4, 0x7000), ends_at(0x7000), "not assigned, and meant to be private");
        assert_eq!(transfer(READ, 4, u64::MAX - 1), ends_at(u64::MAX - 1));
        assert_eq!(transfer(READ, 4, 1 << 40), ends_at(1 << 40));
        assert_eq!(transfer(4, 0x1000, 0x6000), None, "skipping touches nothing");
    }

    #[test]
    fn the_structure_is_shared_too() {
        let mut machine = machine(0x1_0000);
        for (high, low) in [(0, STRUCTURE as u32), (1, 0)] {
            assert_eq!(machine.fw_cfg_transfer(HIGH, u32::swap_bytes(high)), None);
            let end = machine.fw_cfg_transfer(LOW, low.swap_bytes());
            assert!(matches!(end, Some(Ending::PrivateDma { .. })), "{end:?}");
        }
    }
}
