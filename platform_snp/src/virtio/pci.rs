//! virtio over PCI, modern devices only (section 4.1).
//!
//! Finding a device touches configuration space alone, and ends with regions of registers that were checked to lie inside of BARs ([`crate::pci`]); only
//! then are registers touched. Each is accessed in its own width, as section 4.1.3.1 demands. Interrupts are MSI-X, asked for when somebody first waits.

use super::Transport;
use super::queue::QueueAddresses;
use super::registers::{self, Register, Registers};
use crate::DeviceError;
use crate::host::{HostIo, Width};
use crate::pci::{Address, Bars, Config, Identity, MSIX, Message, MsiX, Region, Window};
use crate::pci::{capabilities, functions};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

const VENDOR: u16 = 0x1af4;
/// A modern device's id is this plus its type.
const FIRST_ID: u16 = 0x1040;

/// A capability that is the vendor's own; `VIRTIO_PCI_CAP_*` says what it describes.
const VENDOR_SPECIFIC: u8 = 0x09;
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;

/// Bytes of the common configuration.
const COMMON_SIZE: u64 = 0x38;
const QUEUE_MSIX_VECTOR: u64 = 0x1a;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;

/// Queues whose place for notifications is remembered; none of our devices has more.
const QUEUES: usize = 16;
/// BARs of a function.
const BARS: usize = 6;

const MISSING: DeviceError = DeviceError::Unsupported("a virtio device without its registers");

/// A device that was found, with its registers placed, and not touched yet.
#[derive(Debug)]
pub struct Found {
    /// Address of the common configuration, which is whole.
    common: u64,
    notify: Region,
    multiplier: u32,
    device: Region,
    interrupts: Option<MsiX>,
    placed: [Option<Range<u64>>; BARS],
}

impl Found {
    /// Looks for a device of type `id` (2 block, 3 console): at `place`, or else the first one on bus 0.
    ///
    /// # Errors
    /// There is none, or what it says of itself cannot be.
    pub fn find(
        host: &dyn HostIo,
        window: &mut Window,
        place: Option<Address>,
        id: u32,
    ) -> Result<Found, DeviceError> {
        let config = Config::new(host);
        let wanted = |identity: Identity| {
            identity.vendor == VENDOR && u32::from(identity.device) == u32::from(FIRST_ID) + id
        };
        let at = match place {
            Some(at) => Identity::read(&config, at).filter(|&identity| wanted(identity)).map(|_| at),
            None => functions(&config).find(|&(_, identity)| wanted(identity)).map(|(at, _)| at),
        };
        Self::read(&config, window, at.ok_or(DeviceError::Absent)?)
    }

    fn read(config: &Config<'_>, window: &mut Window, at: Address) -> Result<Found, DeviceError> {
        let mut bars = Bars::new(config, at);
        let (mut common, mut notify, mut device, mut interrupts) = (None, None, None, None);
        for capability in capabilities(config, at) {
            let capability = capability?;
            let word = |index: u8| config.read(at, capability.at.saturating_add(4 * index));
            let mut region = || bars.region(window, word(1) as u8, word(2), word(3));
            // The first of a kind counts.
            match (capability.id, (capability.head >> 24) as u8) {
                (VENDOR_SPECIFIC, COMMON) if common.is_none() => common = Some(region()?),
                (VENDOR_SPECIFIC, DEVICE) if device.is_none() => device = Some(region()?),
                (VENDOR_SPECIFIC, NOTIFY) if notify.is_none() => notify = Some((region()?, word(4))),
                (MSIX, _) if interrupts.is_none() => {
                    interrupts = Some(MsiX::find(config, &mut bars, window, at, capability)?);
                }
                _ => {}
            }
        }
        let (notify, multiplier) = notify.ok_or(MISSING)?;
        let common = common.ok_or(MISSING)?.at(0, COMMON_SIZE)?;
        let device = device.ok_or(MISSING)?;
        bars.enable();
        Ok(Found { common, notify, multiplier, device, interrupts, placed: bars.placed() })
    }

    /// Physical addresses that have to be reachable before [`Self::start`].
    pub fn placed(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.placed.iter().flatten().cloned()
    }

    /// The device, reached.
    pub fn start(self, host: &dyn HostIo) -> Pci<'_> {
        Pci { host, found: self, notify_at: [const { AtomicU64::new(0) }; QUEUES] }
    }
}

/// A device behind PCI.
pub struct Pci<'h> {
    host: &'h dyn HostIo,
    found: Found,
    /// Where each queue that was set up is notified; 0 for none.
    notify_at: [AtomicU64; QUEUES],
}

impl Registers for Pci<'_> {
    fn host(&self) -> &dyn HostIo {
        self.host
    }

    fn place(&self, register: Register) -> (u64, Width) {
        let (offset, width) = match register {
            Register::DeviceFeaturesSelect => (0x00, Width::Word),
            Register::DeviceFeatures => (0x04, Width::Word),
            Register::DriverFeaturesSelect => (0x08, Width::Word),
            Register::DriverFeatures => (0x0c, Width::Word),
            Register::Status => (0x14, Width::Byte),
            Register::ConfigGeneration => (0x15, Width::Byte),
            Register::QueueSelect => (0x16, Width::Half),
            Register::QueueSizeMax | Register::QueueSize => (0x18, Width::Half),
            Register::QueueReady => (0x1c, Width::Half),
            Register::QueueDescriptors => (0x20, Width::Word),
            Register::QueueDriver => (0x28, Width::Word),
            Register::QueueDevice => (0x30, Width::Word),
        };
        (self.found.common + offset, width)
    }
}

impl Transport for Pci<'_> {
    fn negotiate(&self, wanted: u64) -> Result<u64, DeviceError> {
        registers::negotiate(self, wanted)
    }

    fn setup_queue(&self, index: u16, size: u16, at: QueueAddresses) -> Result<(), DeviceError> {
        let slot =
            self.notify_at.get(usize::from(index)).ok_or(DeviceError::Unsupported("too many queues"))?;
        registers::setup_queue(self, index, size, at)?;
        let offset = self.host.mmio_read(self.found.common + QUEUE_NOTIFY_OFF, Width::Half);
        let offset = u64::from(offset) * u64::from(self.found.multiplier);
        let place = self.found.notify.at(offset, 2)?;
        if place % 2 != 0 {
            return Err(DeviceError::BadDevice("a virtqueue is notified at an odd address"));
        }
        slot.store(place, Ordering::Relaxed);
        Ok(())
    }

    fn driver_ok(&self) {
        registers::driver_ok(self);
    }

    fn notify(&self, queue: u16) {
        let place = self.notify_at.get(usize::from(queue)).map_or(0, |slot| slot.load(Ordering::Relaxed));
        if place != 0 {
            self.host.mb();
            self.host.mmio_write(place, Width::Half, queue.into());
        }
    }

    /// Nothing: a message is sent once.
    fn ack_interrupt(&self) {}

    fn route(&self, queues: &[u16], message: Message) -> Result<bool, DeviceError> {
        let Some(interrupts) = &self.found.interrupts else { return Ok(false) };
        interrupts.route(self.host, message)?;
        for &queue in queues {
            self.write(Register::QueueSelect, queue.into());
            let vector = self.found.common + QUEUE_MSIX_VECTOR;
            self.host.mmio_write(vector, Width::Half, 0);
            // A device without room for it says so by another value.
            if self.host.mmio_read(vector, Width::Half) != 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn config32(&self, offset: u16) -> Result<u32, DeviceError> {
        Ok(self.host.mmio_read32(self.found.device.at(offset.into(), 4)?))
    }

    fn config_generation(&self) -> u32 {
        self.read(Register::ConfigGeneration)
    }
}
