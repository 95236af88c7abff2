//! virtio-blk (section 5.2), read-only: 4 KiB blocks over 512-byte sectors. Data is copied out of shared memory once, into
//! private pages, before anyone looks at it.

use super::{
    Transport,
    queue::{Queue, Segment},
};
use crate::{
    DeviceError,
    dma::{DmaPool, DmaRegion},
    host::{Environment, HostIo},
};
use litebox_core::platform::{BLOCK_SIZE, BlockDevice, BlockError};
use spin::Mutex;

/// virtio's device type.
pub const DEVICE_ID: u32 = 2;

const QUEUE_SIZE: u16 = 4;
const SECTORS_PER_BLOCK: u64 = 8;
/// Blocks per request.
const BATCH: usize = 32;
const PATIENCE_NS: u64 = 30_000_000_000;

/// A block device.
pub struct Blk<'h, T> {
    host: &'h dyn HostIo,
    environment: &'h dyn Environment,
    transport: T,
    blocks: u64,
    state: Mutex<State>,
}

struct State {
    queue: Queue,
    /// BATCH blocks, then the request header (16 bytes), then the status byte.
    buffer: DmaRegion,
    /// Set for good when the device was late or broke the rules: it may still write to the buffer.
    dead: bool,
}

impl<'h, T: Transport> Blk<'h, T> {
    /// Starts the device.
    pub fn new(
        host: &'h dyn HostIo,
        environment: &'h dyn Environment,
        pool: &dyn DmaPool,
        transport: T,
    ) -> Result<Self, DeviceError> {
        transport.negotiate(0)?;
        let queue = Queue::new(pool.allocate(1).ok_or(DeviceError::OutOfMemory)?, QUEUE_SIZE)?;
        let buffer = pool.allocate(BATCH + 1).ok_or(DeviceError::OutOfMemory)?;
        transport.setup_queue(0, QUEUE_SIZE, queue.addresses())?;
        let sectors = transport.config64(0)?;
        if sectors > u64::MAX / 512 {
            return Err(DeviceError::BadDevice("a disk's capacity is beyond all bounds"));
        }
        transport.driver_ok();
        let state = Mutex::new(State { queue, buffer, dead: false });
        Ok(Self { host, environment, transport, blocks: sectors / SECTORS_PER_BLOCK, state })
    }

    /// Acknowledges the device's interrupt (none is asked for; a device may raise it all the same).
    pub fn ack_interrupt(&self) {
        self.transport.ack_interrupt();
    }

    fn request(
        &self,
        state: &mut State,
        first: u64,
        into: &mut [&mut [u8; BLOCK_SIZE]],
    ) -> Result<(), DeviceError> {
        let (header, status) = (BATCH * BLOCK_SIZE, BATCH * BLOCK_SIZE + 16);
        let bytes = (into.len() * BLOCK_SIZE) as u32;
        state.buffer.write_u32(header, 0); // VIRTIO_BLK_T_IN
        state.buffer.write_u32(header + 4, 0);
        state.buffer.write_u64(header + 8, first * SECTORS_PER_BLOCK);
        state.buffer.write_u8(status, 0xff);
        let segments = [(header, 16, false), (0, bytes, true), (status, 1, true)];
        let segments =
            segments.map(|(at, len, writable)| Segment { bus: state.buffer.bus(at), len, writable });
        state.queue.post(&segments).ok_or(DeviceError::BadRing("no descriptor is free"))?;
        if state.queue.publish(self.host) {
            self.transport.notify(0);
        }
        let mut deadline = None;
        let used = loop {
            if let Some(used) = state.queue.take_used(self.host)? {
                break used;
            }
            let now = self.environment.now();
            if now > *deadline.get_or_insert(now.saturating_add(PATIENCE_NS)) {
                return Err(DeviceError::Timeout);
            }
            self.environment.wait();
        };
        self.host.rmb();
        if state.buffer.read_u8(status) != 0 {
            return Err(DeviceError::Unsupported("the disk reports an error"));
        }
        if used.len != bytes + 1 {
            return Err(DeviceError::BadDevice("the disk wrote less than a request"));
        }
        for (i, block) in into.iter_mut().enumerate() {
            state.buffer.read(i * BLOCK_SIZE, &mut block[..]);
        }
        Ok(())
    }
}

impl<T: Transport> BlockDevice for Blk<'_, T> {
    fn block_count(&self) -> u64 {
        self.blocks
    }

    fn read(&self, first: u64, into: &mut [&mut [u8; BLOCK_SIZE]]) -> Result<(), BlockError> {
        if first.checked_add(into.len() as u64).is_none_or(|end| end > self.blocks) {
            return Err(BlockError::OutOfRange);
        }
        let mut state = self.state.lock();
        let mut at = first;
        for batch in into.chunks_mut(BATCH) {
            if state.dead {
                return Err(BlockError::Io);
            }
            if let Err(error) = self.request(&mut state, at, batch) {
                state.dead = !matches!(error, DeviceError::Unsupported(_));
                match error.attack() {
                    Some((attack, what)) => self.environment.attack(attack, what),
                    None => self.environment.lost("the disk does not give what it is asked for"),
                }
                return Err(BlockError::Io);
            }
            at += batch.len() as u64;
        }
        Ok(())
    }
}
