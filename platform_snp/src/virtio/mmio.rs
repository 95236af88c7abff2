//! virtio over MMIO, version 2 (section 4.2).

use super::Transport;
use super::queue::QueueAddresses;
use super::registers::{self, Register, Registers};
use crate::DeviceError;
use crate::host::{HostIo, Width};

const MAGIC: u64 = 0x00;
const VERSION: u64 = 0x04;
const DEVICE_ID: u64 = 0x08;
const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;
const CONFIG: u64 = 0x100;

/// A device that said that it is the one expected, at a physical address.
pub struct Mmio<'h> {
    host: &'h dyn HostIo,
    base: u64,
}

impl<'h> Mmio<'h> {
    /// Looks for device type `id` (2 block, 3 console) at `base`.
    pub fn probe(host: &'h dyn HostIo, base: u64, id: u32) -> Result<Self, DeviceError> {
        let this = Self { host, base };
        if this.word(MAGIC) != u32::from_le_bytes(*b"virt") {
            return Err(DeviceError::Absent);
        }
        if this.word(VERSION) != 2 {
            return Err(DeviceError::Unsupported("legacy virtio-mmio"));
        }
        if this.word(DEVICE_ID) != id {
            return Err(DeviceError::Absent);
        }
        Ok(this)
    }

    fn word(&self, offset: u64) -> u32 {
        self.host.mmio_read32(self.base + offset)
    }
}

impl Registers for Mmio<'_> {
    fn host(&self) -> &dyn HostIo {
        self.host
    }

    fn place(&self, register: Register) -> (u64, Width) {
        let offset = match register {
            Register::DeviceFeatures => 0x10,
            Register::DeviceFeaturesSelect => 0x14,
            Register::DriverFeatures => 0x20,
            Register::DriverFeaturesSelect => 0x24,
            Register::QueueSelect => 0x30,
            Register::QueueSizeMax => 0x34,
            Register::QueueSize => 0x38,
            Register::QueueReady => 0x44,
            Register::Status => 0x70,
            Register::QueueDescriptors => 0x80,
            Register::QueueDriver => 0x90,
            Register::QueueDevice => 0xa0,
            Register::ConfigGeneration => 0xfc,
        };
        (self.base + offset, Width::Word)
    }
}

impl Transport for Mmio<'_> {
    fn negotiate(&self, wanted: u64) -> Result<u64, DeviceError> {
        registers::negotiate(self, wanted)
    }

    fn setup_queue(&self, index: u16, size: u16, at: QueueAddresses) -> Result<(), DeviceError> {
        registers::setup_queue(self, index, size, at)
    }

    fn driver_ok(&self) {
        registers::driver_ok(self);
    }

    fn notify(&self, queue: u16) {
        self.host.mb();
        self.host.mmio_write32(self.base + QUEUE_NOTIFY, queue.into());
    }

    fn ack_interrupt(&self) {
        let status = self.word(INTERRUPT_STATUS) & 3;
        if status != 0 {
            self.host.mmio_write32(self.base + INTERRUPT_ACK, status);
        }
    }

    fn config32(&self, offset: u16) -> Result<u32, DeviceError> {
        Ok(self.word(CONFIG + u64::from(offset)))
    }

    fn config_generation(&self) -> u32 {
        self.read(Register::ConfigGeneration)
    }
}
