//! virtio-console with several ports (section 5.3): port 1 standard input, 2 standard output, 3 standard error.
//!
//! Output is copied into slots of shared memory and left to the device: one notification for each call, no waiting unless
//! all slots are full. The whole handshake is one batch on the control queue, since which ports there are is agreed on
//! (docs/design.md) and not discovered. Interrupts are asked for only where somebody waits.

use super::{
    Transport,
    queue::{Queue, Segment},
};
use crate::{
    DeviceError,
    dma::{DmaPool, DmaRegion},
    host::{Environment, HostIo},
    pci::Message,
};
use alloc::{boxed::Box, vec, vec::Vec};
use litebox_core::platform::{Console as South, Input, Stream};
use spin::Mutex;

/// virtio's device type.
pub const DEVICE_ID: u32 = 3;

const F_MULTIPORT: u64 = 1 << 1;
const CONTROL_RX: u16 = 2;
const CONTROL_TX: u16 = 3;
const STDIN: u32 = 1;
const STDOUT: u32 = 2;
const STDERR: u32 = 3;

const DEVICE_READY: u16 = 0;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;

const SLOT: usize = 4096;
const OUTPUT_SLOTS: u16 = 32;
const INPUT_SLOTS: u16 = 8;
const CONTROL_SLOTS: u16 = 32;
const CONTROL_SLOT: usize = 128;
const CONTROL_TX_SLOTS: u16 = 8;
const CONTROL_MESSAGE: usize = 8;

/// The queue that carries data to the driver (`+ 1`: from it) for a port other than 0.
const fn port_queue(port: u32) -> u16 {
    2 * (port as u16 + 1)
}

/// A queue whose chains are single slots of one buffer.
struct Channel {
    index: u16,
    queue: Queue,
    buffer: DmaRegion,
    slot_size: usize,
    writable: bool,
    free: Vec<u16>,
    /// Which slot a posted head carries.
    slot_of: Vec<u16>,
    unpublished: bool,
}

impl Channel {
    fn new(
        transport: &impl Transport,
        pool: &dyn DmaPool,
        index: u16,
        slots: u16,
        slot_size: usize,
        writable: bool,
    ) -> Result<Self, DeviceError> {
        let queue = Queue::new(pool.allocate(1).ok_or(DeviceError::OutOfMemory)?, slots)?;
        let pages = (usize::from(slots) * slot_size).div_ceil(4096);
        let buffer = pool.allocate(pages).ok_or(DeviceError::OutOfMemory)?;
        transport.setup_queue(index, slots, queue.addresses())?;
        let free = (0..slots).rev().collect();
        Ok(Self {
            index,
            queue,
            buffer,
            slot_size,
            writable,
            free,
            slot_of: vec![0; slots.into()],
            unpublished: false,
        })
    }

    fn offset(&self, slot: u16) -> usize {
        usize::from(slot) * self.slot_size
    }

    fn post(&mut self, slot: u16, len: usize) {
        let segment =
            Segment { bus: self.buffer.bus(self.offset(slot)), len: len as u32, writable: self.writable };
        match self.queue.post(&[segment]) {
            Some(head) => {
                if let Some(entry) = self.slot_of.get_mut(usize::from(head)) {
                    *entry = slot;
                }
                self.unpublished = true;
            }
            None => self.free.push(slot),
        }
    }

    /// Copies bytes into a free slot and posts it; how many there was room for.
    fn send(&mut self, bytes: &[u8]) -> usize {
        let Some(slot) = self.free.pop() else { return 0 };
        let len = bytes.len().min(self.slot_size);
        self.buffer.write(self.offset(slot), bytes.get(..len).unwrap_or_default());
        self.post(slot, len);
        len
    }

    /// Posts all free slots, for the device to fill.
    fn offer(&mut self) {
        for slot in core::mem::take(&mut self.free) {
            self.post(slot, self.slot_size);
        }
    }

    fn publish(&mut self, host: &dyn HostIo, transport: &impl Transport) {
        if core::mem::take(&mut self.unpublished) && self.queue.publish(host) {
            transport.notify(self.index);
        }
    }

    /// The next slot that the device is done with, and how many bytes it wrote.
    fn take(&mut self, host: &dyn HostIo) -> Result<Option<(u16, usize)>, DeviceError> {
        let used = self.queue.take_used(host)?;
        Ok(used.and_then(|used| Some((*self.slot_of.get(usize::from(used.head))?, used.len as usize))))
    }

    /// Makes the slots that the device is done with free again.
    fn reclaim(&mut self, host: &dyn HostIo) -> Result<(), DeviceError> {
        while let Some((slot, _)) = self.take(host)? {
            self.free.push(slot);
        }
        Ok(())
    }
}

struct State {
    control: Channel,
    control_tx: Channel,
    input: Channel,
    output: [Channel; 2],
    /// Input that is being read: slot, next byte, end.
    current: Option<(u16, usize, usize)>,
    input_started: bool,
    /// The host closed standard input.
    closed: bool,
    /// The notifier was called for what is there now.
    announced: bool,
    dead: bool,
}

/// The workload's standard streams over a virtio console.
pub struct Console<'h, T> {
    host: &'h dyn HostIo,
    environment: &'h dyn Environment,
    transport: T,
    state: Mutex<State>,
    notifier: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
}

impl<'h, T: Transport> Console<'h, T> {
    /// Starts the device and opens the three ports.
    pub fn new(
        host: &'h dyn HostIo,
        environment: &'h dyn Environment,
        pool: &dyn DmaPool,
        transport: T,
    ) -> Result<Self, DeviceError> {
        if transport.negotiate(F_MULTIPORT)? & F_MULTIPORT == 0 {
            return Err(DeviceError::Unsupported("a console without ports"));
        }
        let channel =
            |index, slots, size, writable| Channel::new(&transport, pool, index, slots, size, writable);
        let mut control = channel(CONTROL_RX, CONTROL_SLOTS, CONTROL_SLOT, true)?;
        let mut control_tx = channel(CONTROL_TX, CONTROL_TX_SLOTS, CONTROL_MESSAGE, false)?;
        let input = channel(port_queue(STDIN), INPUT_SLOTS, SLOT, true)?;
        let stdout = channel(port_queue(STDOUT) + 1, OUTPUT_SLOTS, SLOT, false)?;
        let stderr = channel(port_queue(STDERR) + 1, OUTPUT_SLOTS, SLOT, false)?;
        // Posted before DRIVER_OK, and so seen without a notification.
        control.offer();
        control.queue.publish(host);
        control.unpublished = false;
        transport.driver_ok();
        let ports = [STDIN, STDOUT, STDERR];
        control_tx.send(&message(0, DEVICE_READY));
        for event in [PORT_READY, PORT_OPEN] {
            for port in ports {
                control_tx.send(&message(port, event));
            }
        }
        control_tx.publish(host, &transport);
        let state = State {
            control,
            control_tx,
            input,
            output: [stdout, stderr],
            current: None,
            input_started: false,
            closed: false,
            announced: false,
            dead: false,
        };
        Ok(Self { host, environment, transport, state: Mutex::new(state), notifier: Mutex::new(None) })
    }

    /// Has the device send a message when there is input. `Ok(false)`: it has a line instead, or nothing.
    ///
    /// # Errors
    /// The device contradicts itself.
    pub fn route_interrupts(&self, message: Message) -> Result<bool, DeviceError> {
        self.transport.route(&[CONTROL_RX, port_queue(STDIN)], message)
    }

    /// Acknowledges the device's interrupt.
    pub fn ack_interrupt(&self) {
        self.transport.ack_interrupt();
    }

    /// Looks for input; the kernel calls it after an interrupt or a tick, from a thread.
    pub fn poll(&self) {
        // Locked: somebody is looking already.
        let Some(mut state) = self.state.try_lock() else { return };
        if !state.input_started || state.announced || !self.look(&mut state) {
            return;
        }
        state.announced = true;
        drop(state);
        if let Some(notify) = &*self.notifier.lock() {
            notify();
        }
    }

    /// Whether there is input or its end; starts input when it is first asked for.
    fn look(&self, state: &mut State) -> bool {
        match self.try_look(state) {
            Ok(ready) => ready,
            Err(error) => {
                self.fail(state, error);
                true
            }
        }
    }

    fn try_look(&self, state: &mut State) -> Result<bool, DeviceError> {
        if state.dead || state.current.is_some() {
            return Ok(true);
        }
        if !state.input_started {
            state.input_started = true;
            state.control.queue.want_interrupts(true);
            state.input.queue.want_interrupts(true);
            state.input.offer();
            state.input.publish(self.host, &self.transport);
        }
        // Control first: what came before the close is then in the input queue already.
        self.handle_control(state)?;
        while let Some((slot, len)) = state.input.take(self.host)? {
            if len > 0 {
                self.host.rmb();
                state.current = Some((slot, 0, len));
                return Ok(true);
            }
            state.input.free.push(slot);
        }
        state.input.offer();
        state.input.publish(self.host, &self.transport);
        Ok(state.closed)
    }

    fn handle_control(&self, state: &mut State) -> Result<(), DeviceError> {
        state.control_tx.reclaim(self.host)?;
        while let Some((slot, len)) = state.control.take(self.host)? {
            self.host.rmb();
            if len >= CONTROL_MESSAGE {
                let at = state.control.offset(slot);
                let port = state.control.buffer.read_u32(at);
                let event = state.control.buffer.read_u16(at + 4);
                let value = state.control.buffer.read_u16(at + 6);
                // Other ports and other events do not matter to us.
                if port == STDIN && event == PORT_OPEN {
                    state.closed = value == 0;
                }
            }
            state.control.free.push(slot);
        }
        // Late, since it costs a notification.
        if state.control.queue.outstanding() < CONTROL_SLOTS / 2 {
            state.control.offer();
            state.control.publish(self.host, &self.transport);
        }
        Ok(())
    }

    fn fail(&self, state: &mut State, error: DeviceError) {
        state.dead = true;
        if let Some((attack, what)) = error.attack() {
            self.environment.attack(attack, what);
        }
    }

    fn try_write(&self, channel: &mut Channel, bytes: &[u8]) -> Result<usize, DeviceError> {
        loop {
            channel.reclaim(self.host)?;
            let mut taken = 0;
            while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
                match channel.send(rest) {
                    0 => break,
                    len => taken += len,
                }
            }
            channel.publish(self.host, &self.transport);
            if taken > 0 || bytes.is_empty() {
                channel.queue.want_interrupts(false);
                return Ok(taken);
            }
            self.await_slot(channel);
        }
    }

    /// Waits a little for the device to finish something.
    fn await_slot(&self, channel: &mut Channel) {
        channel.queue.want_interrupts(true);
        self.host.mb();
        self.environment.wait();
    }

    fn drain(&self, channel: &mut Channel) -> Result<(), DeviceError> {
        loop {
            channel.reclaim(self.host)?;
            if channel.queue.outstanding() == 0 {
                channel.queue.want_interrupts(false);
                return Ok(());
            }
            self.await_slot(channel);
        }
    }
}

impl<T: Transport> South for Console<'_, T> {
    fn write(&self, stream: Stream, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        if state.dead {
            return 0;
        }
        let [stdout, stderr] = &mut state.output;
        let channel = if stream == Stream::Stdout { stdout } else { stderr };
        match self.try_write(channel, bytes) {
            Ok(taken) => taken,
            Err(error) => {
                self.fail(&mut state, error);
                0
            }
        }
    }

    fn read(&self, buffer: &mut [u8]) -> Input {
        let mut state = self.state.lock();
        state.announced = false;
        if !self.look(&mut state) {
            return Input::Empty;
        }
        let Some((slot, from, end)) = state.current else { return Input::Eof };
        let len = buffer.len().min(end - from);
        let Some(to) = buffer.get_mut(..len).filter(|to| !to.is_empty()) else { return Input::Empty };
        state.input.buffer.read(state.input.offset(slot) + from, to);
        if from + len == end {
            state.current = None;
            state.input.free.push(slot);
        } else {
            state.current = Some((slot, from + len, end));
        }
        Input::Bytes(len)
    }

    fn input_ready(&self) -> bool {
        let mut state = self.state.lock();
        state.announced = false;
        self.look(&mut state)
    }

    fn set_notifier(&self, notify: Box<dyn Fn() + Send + Sync>) {
        *self.notifier.lock() = Some(notify);
    }

    fn flush(&self) {
        let mut state = self.state.lock();
        if state.dead {
            return;
        }
        let [stdout, stderr] = &mut state.output;
        if let Err(error) = self.drain(stdout).and_then(|()| self.drain(stderr)) {
            self.fail(&mut state, error);
        }
    }
}

/// `struct virtio_console_control` with value 1.
fn message(port: u32, event: u16) -> [u8; CONTROL_MESSAGE] {
    let [a, b, c, d] = port.to_le_bytes();
    let [e, f] = event.to_le_bytes();
    [a, b, c, d, e, f, 1, 0]
}
