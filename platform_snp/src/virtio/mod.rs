//! virtio 1.x (OASIS, "Virtual I/O Device Version 1.2") against a hostile device.
//!
//! Our own and not the `virtio-drivers` crate: under SNP a device must be driven with `VIRTIO_F_ACCESS_PLATFORM` where it
//! is offered, `FEATURES_OK` must be read back, and everything a driver needs to know must stay in private memory, with
//! the used ring's answers read once and checked against it.

pub mod blk;
pub mod console;
pub mod mmio;
pub mod pci;
pub mod queue;
mod registers;

use crate::DeviceError;
use crate::pci::Message;
use alloc::boxed::Box;
use queue::QueueAddresses;

/// `VIRTIO_F_VERSION_1`.
pub const F_VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_ACCESS_PLATFORM`: DMA goes by platform rules (shared pages, IOMMU).
pub const F_ACCESS_PLATFORM: u64 = 1 << 33;

/// How a device is reached: MMIO or PCI.
pub trait Transport: Send + Sync {
    /// Resets the device and agrees on features: of `wanted` and of the two above, those offered. `VERSION_1` is required.
    fn negotiate(&self, wanted: u64) -> Result<u64, DeviceError>;
    /// Sets a queue up and enables it.
    fn setup_queue(&self, index: u16, size: u16, at: QueueAddresses) -> Result<(), DeviceError>;
    /// Tells the device that the driver is ready.
    fn driver_ok(&self);
    /// Tells the device that a queue has new buffers.
    fn notify(&self, queue: u16);
    /// Acknowledges whatever interrupt is asserted.
    fn ack_interrupt(&self);
    /// Has the device interrupt for these queues by a message. `Ok(false)`: it cannot, and has a line, or nothing.
    fn route(&self, _queues: &[u16], _message: Message) -> Result<bool, DeviceError> {
        Ok(false)
    }
    /// Reads 32 bits of the device's configuration.
    fn config32(&self, offset: u16) -> Result<u32, DeviceError>;
    /// Changes when the configuration does.
    fn config_generation(&self) -> u32;

    /// Reads 64 bits of the device's configuration, not torn.
    fn config64(&self, offset: u16) -> Result<u64, DeviceError> {
        for _ in 0..16 {
            let before = self.config_generation();
            let low = self.config32(offset)?;
            let high = self.config32(offset + 4)?;
            if self.config_generation() == before {
                return Ok(u64::from(high) << 32 | u64::from(low));
            }
        }
        Err(DeviceError::BadDevice("a virtio configuration never rests"))
    }
}

impl Transport for Box<dyn Transport> {
    fn negotiate(&self, wanted: u64) -> Result<u64, DeviceError> {
        (**self).negotiate(wanted)
    }
    fn setup_queue(&self, index: u16, size: u16, at: QueueAddresses) -> Result<(), DeviceError> {
        (**self).setup_queue(index, size, at)
    }
    fn driver_ok(&self) {
        (**self).driver_ok();
    }
    fn notify(&self, queue: u16) {
        (**self).notify(queue);
    }
    fn ack_interrupt(&self) {
        (**self).ack_interrupt();
    }
    fn route(&self, queues: &[u16], message: Message) -> Result<bool, DeviceError> {
        (**self).route(queues, message)
    }
    fn config32(&self, offset: u16) -> Result<u32, DeviceError> {
        (**self).config32(offset)
    }
    fn config_generation(&self) -> u32 {
        (**self).config_generation()
    }
}

#[cfg(test)]
mod tests;
