//! What the transports have in common: the same registers at different places, and what is done with them (sections 3.1.1, 4.1.4.3, 4.2.2).
//!
//! Register accesses are VM exits, so none is made twice; the high half of a zero address or feature word is left as reset made it.

use super::{F_ACCESS_PLATFORM, F_VERSION_1, queue::QueueAddresses};
use crate::DeviceError;
use crate::host::{HostIo, Width};

const ACKNOWLEDGE_DRIVER: u32 = 1 | 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
/// Reads of the status before a device that does not reset is given up.
const PATIENCE: u32 = 1000;

/// A register of a virtio device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Register {
    DeviceFeaturesSelect,
    DeviceFeatures,
    DriverFeaturesSelect,
    DriverFeatures,
    Status,
    ConfigGeneration,
    QueueSelect,
    QueueSizeMax,
    QueueSize,
    QueueReady,
    /// Addresses: 64 bits, in two halves.
    QueueDescriptors,
    QueueDriver,
    QueueDevice,
}

/// A device's registers.
pub trait Registers {
    /// How they are reached.
    fn host(&self) -> &dyn HostIo;
    /// Where one is, and its width.
    fn place(&self, register: Register) -> (u64, Width);

    /// Reads one.
    fn read(&self, register: Register) -> u32 {
        let (address, width) = self.place(register);
        self.host().mmio_read(address, width)
    }

    /// Writes one.
    fn write(&self, register: Register, value: u32) {
        let (address, width) = self.place(register);
        self.host().mmio_write(address, width, value);
    }

    /// Writes one of 64 bits.
    fn write64(&self, register: Register, value: u64) {
        let (address, _) = self.place(register);
        self.host().mmio_write32(address, value as u32);
        if value >> 32 != 0 {
            self.host().mmio_write32(address + 4, (value >> 32) as u32);
        }
    }
}

/// See [`super::Transport::negotiate`].
pub fn negotiate(device: &impl Registers, wanted: u64) -> Result<u64, DeviceError> {
    device.write(Register::Status, 0);
    if !(0..PATIENCE).any(|_| device.read(Register::Status) == 0) {
        return Err(DeviceError::BadDevice("a virtio device does not reset"));
    }
    device.write(Register::Status, ACKNOWLEDGE_DRIVER);
    let wanted = wanted | F_VERSION_1 | F_ACCESS_PLATFORM;
    let mut features = 0;
    for word in [1, 0] {
        let mask = (wanted >> (32 * word)) as u32;
        if mask == 0 {
            continue;
        }
        device.write(Register::DeviceFeaturesSelect, word);
        let offered = device.read(Register::DeviceFeatures) & mask;
        device.write(Register::DriverFeaturesSelect, word);
        device.write(Register::DriverFeatures, offered);
        features |= u64::from(offered) << (32 * word);
    }
    if features & F_VERSION_1 == 0 {
        return Err(DeviceError::Unsupported("virtio before 1.0"));
    }
    device.write(Register::Status, ACKNOWLEDGE_DRIVER | FEATURES_OK);
    if device.read(Register::Status) & FEATURES_OK == 0 {
        return Err(DeviceError::BadDevice("a virtio device takes back its features"));
    }
    Ok(features)
}

/// See [`super::Transport::setup_queue`].
pub fn setup_queue(
    device: &impl Registers,
    index: u16,
    size: u16,
    at: QueueAddresses,
) -> Result<(), DeviceError> {
    device.write(Register::QueueSelect, index.into());
    if device.read(Register::QueueSizeMax) < size.into() {
        return Err(DeviceError::Unsupported("a virtqueue is too short"));
    }
    device.write(Register::QueueSize, size.into());
    device.write64(Register::QueueDescriptors, at.descriptors);
    device.write64(Register::QueueDriver, at.available);
    device.write64(Register::QueueDevice, at.used);
    device.write(Register::QueueReady, 1);
    Ok(())
}

/// See [`super::Transport::driver_ok`].
pub fn driver_ok(device: &impl Registers) {
    device.host().wmb();
    device.write(Register::Status, ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK);
}
