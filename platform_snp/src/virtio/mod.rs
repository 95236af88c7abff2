//! virtio 1.x (OASIS, "Virtual I/O Device Version 1.2") against a hostile device.
//!
//! Our own and not the `virtio-drivers` crate: under SNP a device must be driven with `VIRTIO_F_ACCESS_PLATFORM` where it
//! is offered, `FEATURES_OK` must be read back, and everything a driver needs to know must stay in private memory, with
//! the used ring's answers read once and checked against it.

pub mod blk;
pub mod console;
pub mod mmio;
pub mod queue;

use crate::DeviceError;
use queue::QueueAddresses;

/// `VIRTIO_F_VERSION_1`.
pub const F_VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_ACCESS_PLATFORM`: DMA goes by platform rules (shared pages, IOMMU).
pub const F_ACCESS_PLATFORM: u64 = 1 << 33;

/// How a device is reached: MMIO now, PCI on other hosts.
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
    /// Reads 32 bits of the device's configuration.
    fn config32(&self, offset: u16) -> u32;
    /// Changes when the configuration does.
    fn config_generation(&self) -> u32;

    /// Reads 64 bits of the device's configuration, not torn.
    fn config64(&self, offset: u16) -> Result<u64, DeviceError> {
        for _ in 0..16 {
            let before = self.config_generation();
            let low = self.config32(offset);
            let high = self.config32(offset + 4);
            if self.config_generation() == before {
                return Ok(u64::from(high) << 32 | u64::from(low));
            }
        }
        Err(DeviceError::BadDevice("a virtio configuration never rests"))
    }
}

#[cfg(test)]
mod tests;
