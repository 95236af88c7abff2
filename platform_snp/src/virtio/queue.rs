//! Split virtqueues (section 2.7). Which descriptors are free, what was posted and how much may be written to it is kept in
//! private memory; shared memory is only written, but for the used ring, whose entries are read once and checked.

use crate::{DeviceError, dma::DmaRegion, host::HostIo};
use alloc::{vec, vec::Vec};

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;

/// Where a device finds a queue.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct QueueAddresses {
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Bus address.
    pub bus: u64,
    /// Bytes.
    pub len: u32,
    /// The device writes it.
    pub writable: bool,
}

/// A completed chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What [`Queue::post`] returned.
    pub head: u16,
    /// Bytes written, at most what was posted as writable.
    pub len: u32,
}

/// The driver's side of a virtqueue.
pub struct Queue {
    region: DmaRegion,
    size: u16,
    available: usize,
    used: usize,
    free: Vec<u16>,
    /// By head: the chain's descriptors and its writable bytes.
    posted: Vec<Option<(Vec<u16>, u32)>>,
    outstanding: u16,
    next_available: u16,
    next_used: u16,
    broken: bool,
}

impl Queue {
    /// Bytes of shared memory that a queue of `size` entries takes.
    pub const fn bytes(size: u16) -> usize {
        let size = size as usize;
        (16 * size + 6 + 2 * size).next_multiple_of(4) + 6 + 8 * size
    }

    /// A queue of `size` entries (a power of two) in zeroed memory.
    pub fn new(region: DmaRegion, size: u16) -> Result<Self, DeviceError> {
        if !size.is_power_of_two() || region.len() < Self::bytes(size) {
            return Err(DeviceError::OutOfMemory);
        }
        let available = 16 * usize::from(size);
        let used = (available + 6 + 2 * usize::from(size)).next_multiple_of(4);
        let queue = Self {
            region,
            size,
            available,
            used,
            free: (0..size).rev().collect(),
            posted: vec![None; size.into()],
            outstanding: 0,
            next_available: 0,
            next_used: 0,
            broken: false,
        };
        queue.want_interrupts(false);
        Ok(queue)
    }

    /// Where it is.
    pub fn addresses(&self) -> QueueAddresses {
        QueueAddresses {
            descriptors: self.region.bus(0),
            available: self.region.bus(self.available),
            used: self.region.bus(self.used),
        }
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Chains that the device has.
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// Asks for interrupts, or for none (a hint that the device may ignore).
    pub fn want_interrupts(&self, wanted: bool) {
        self.region.write_u16(self.available, u16::from(!wanted));
    }

    /// Posts a chain; `None` when there are too few descriptors (or no segments). The device sees it after [`Self::publish`].
    pub fn post(&mut self, segments: &[Segment]) -> Option<u16> {
        if segments.is_empty() || segments.len() > self.free.len() {
            return None;
        }
        let chain = self.free.split_off(self.free.len() - segments.len());
        let mut writable = 0u32;
        for (i, (segment, &id)) in segments.iter().zip(&chain).enumerate() {
            let next = chain.get(i + 1);
            let flags =
                if segment.writable { DESC_WRITE } else { 0 } | if next.is_some() { DESC_NEXT } else { 0 };
            if segment.writable {
                writable = writable.saturating_add(segment.len);
            }
            let at = 16 * usize::from(id);
            self.region.write_u64(at, segment.bus);
            self.region.write_u32(at + 8, segment.len);
            self.region.write_u16(at + 12, flags);
            self.region.write_u16(at + 14, next.copied().unwrap_or(0));
        }
        let head = *chain.first()?;
        *self.posted.get_mut(usize::from(head))? = Some((chain, writable));
        let slot = usize::from(self.next_available & (self.size - 1));
        self.region.write_u16(self.available + 4 + 2 * slot, head);
        self.next_available = self.next_available.wrapping_add(1);
        self.outstanding += 1;
        Some(head)
    }

    /// Shows the device what was posted; whether it wants to be notified.
    pub fn publish(&self, host: &dyn HostIo) -> bool {
        host.wmb();
        self.region.write_u16(self.available + 2, self.next_available);
        host.mb();
        self.region.read_u16(self.used) & 1 == 0
    }

    /// Takes the next completed chain. After a violation, that error again.
    pub fn take_used(&mut self, host: &dyn HostIo) -> Result<Option<Used>, DeviceError> {
        if self.broken {
            return Err(DeviceError::BadRing("the ring was broken before"));
        }
        let result = self.next_completion(host);
        self.broken = result.is_err();
        result
    }

    fn next_completion(&mut self, host: &dyn HostIo) -> Result<Option<Used>, DeviceError> {
        let ahead = self.region.read_u16(self.used + 2).wrapping_sub(self.next_used);
        if ahead == 0 {
            return Ok(None);
        }
        if ahead > self.outstanding {
            return Err(DeviceError::BadRing("more completions than requests"));
        }
        host.rmb();
        let at = self.used + 4 + 8 * usize::from(self.next_used & (self.size - 1));
        let id = self.region.read_u32(at);
        let len = self.region.read_u32(at + 4);
        let slot = usize::try_from(id).ok().and_then(|id| self.posted.get_mut(id));
        let slot = slot.ok_or(DeviceError::BadRing("a completion's id is out of range"))?;
        let (chain, writable) =
            slot.take().ok_or(DeviceError::BadRing("a completion of what was not posted"))?;
        if len > writable {
            return Err(DeviceError::BadRing("a completion is longer than its buffer"));
        }
        self.free.extend(chain.into_iter().rev());
        self.outstanding -= 1;
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(Used { head: id as u16, len }))
    }
}
