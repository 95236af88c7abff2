//! virtio over MMIO, version 2 (section 4.2). Register accesses are VM exits, so none is made twice; the high half of a
//! zero address or feature word is left as reset made it.

use super::{F_ACCESS_PLATFORM, F_VERSION_1, Transport, queue::QueueAddresses};
use crate::{DeviceError, host::HostIo};

const MAGIC: u64 = 0x00;
const VERSION: u64 = 0x04;
const DEVICE_ID: u64 = 0x08;
const DEVICE_FEATURES: u64 = 0x10;
const DEVICE_FEATURES_SEL: u64 = 0x14;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_NUM_MAX: u64 = 0x34;
const QUEUE_NUM: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;
const STATUS: u64 = 0x70;
const QUEUE_DESC: u64 = 0x80;
const QUEUE_DRIVER: u64 = 0x90;
const QUEUE_DEVICE: u64 = 0xa0;
const CONFIG_GENERATION: u64 = 0xfc;
const CONFIG: u64 = 0x100;

const ACKNOWLEDGE_DRIVER: u32 = 1 | 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;

/// A device that said that it is the one expected, at a physical address.
pub struct Mmio<'h> {
    host: &'h dyn HostIo,
    base: u64,
}

impl<'h> Mmio<'h> {
    /// Looks for device type `id` (2 block, 3 console) at `base`.
    pub fn probe(host: &'h dyn HostIo, base: u64, id: u32) -> Result<Self, DeviceError> {
        let this = Self { host, base };
        if this.read(MAGIC) != u32::from_le_bytes(*b"virt") {
            return Err(DeviceError::Absent);
        }
        if this.read(VERSION) != 2 {
            return Err(DeviceError::Unsupported("legacy virtio-mmio"));
        }
        if this.read(DEVICE_ID) != id {
            return Err(DeviceError::Absent);
        }
        Ok(this)
    }

    fn read(&self, register: u64) -> u32 {
        self.host.mmio_read32(self.base + register)
    }

    fn write(&self, register: u64, value: u32) {
        self.host.mmio_write32(self.base + register, value);
    }

    fn write64(&self, register: u64, value: u64) {
        self.write(register, value as u32);
        if value >> 32 != 0 {
            self.write(register + 4, (value >> 32) as u32);
        }
    }
}

impl Transport for Mmio<'_> {
    fn negotiate(&self, wanted: u64) -> Result<u64, DeviceError> {
        self.write(STATUS, 0);
        if !(0..1000).any(|_| self.read(STATUS) == 0) {
            return Err(DeviceError::BadDevice("a virtio device does not reset"));
        }
        self.write(STATUS, ACKNOWLEDGE_DRIVER);
        let wanted = wanted | F_VERSION_1 | F_ACCESS_PLATFORM;
        let mut features = 0;
        for word in [1, 0] {
            let mask = (wanted >> (32 * word)) as u32;
            if mask == 0 {
                continue;
            }
            self.write(DEVICE_FEATURES_SEL, word);
            let offered = self.read(DEVICE_FEATURES) & mask;
            self.write(DRIVER_FEATURES_SEL, word);
            self.write(DRIVER_FEATURES, offered);
            features |= u64::from(offered) << (32 * word);
        }
        if features & F_VERSION_1 == 0 {
            return Err(DeviceError::Unsupported("virtio before 1.0"));
        }
        self.write(STATUS, ACKNOWLEDGE_DRIVER | FEATURES_OK);
        if self.read(STATUS) & FEATURES_OK == 0 {
            return Err(DeviceError::BadDevice("a virtio device takes back its features"));
        }
        Ok(features)
    }

    fn setup_queue(&self, index: u16, size: u16, at: QueueAddresses) -> Result<(), DeviceError> {
        self.write(QUEUE_SEL, index.into());
        if self.read(QUEUE_NUM_MAX) < size.into() {
            return Err(DeviceError::Unsupported("a virtqueue is too short"));
        }
        self.write(QUEUE_NUM, size.into());
        self.write64(QUEUE_DESC, at.descriptors);
        self.write64(QUEUE_DRIVER, at.available);
        self.write64(QUEUE_DEVICE, at.used);
        self.write(QUEUE_READY, 1);
        Ok(())
    }

    fn driver_ok(&self) {
        self.host.wmb();
        self.write(STATUS, ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK);
    }

    fn notify(&self, queue: u16) {
        self.host.mb();
        self.write(QUEUE_NOTIFY, queue.into());
    }

    fn ack_interrupt(&self) {
        let status = self.read(INTERRUPT_STATUS) & 3;
        if status != 0 {
            self.write(INTERRUPT_ACK, status);
        }
    }

    fn config32(&self, offset: u16) -> u32 {
        self.read(CONFIG + u64::from(offset))
    }

    fn config_generation(&self) -> u32 {
        self.read(CONFIG_GENERATION)
    }
}
