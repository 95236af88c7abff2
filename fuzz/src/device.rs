//! The host and a virtio-mmio device of its, played by an input: the device follows the rules as far as the input lets it.
//!
//! A driver asks (`mmio_read32`, `wait`, `notify`); what happens next is read from the input. When the input is at its end nothing
//! happens any more, time passes, and a driver that waits without a limit is stopped by unwinding.

use crate::Input;
use litebox_core::platform::Attack;
use platform_snp::dma::{DmaPool, DmaRegion};
use platform_snp::host::{Environment, HostIo, Width};
use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the device's registers are.
pub const BASE: u64 = 0xfeb0_0000;
/// Bus address of the first region, and the distance between two.
const BUS: u64 = 0x10_0000;
/// Waits after the input's end before a driver is stopped.
const IDLE_MAX: u32 = 16;
/// What time passes with each look at the clock when there is nothing left to happen.
const HOUR_NS: u64 = 3_600_000_000_000;

/// What a driver is unwound with that waits for ever.
pub struct Stalled;

/// Runs `body`; `None` when it was stopped.
pub fn until_stalled<T>(body: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => Some(value),
        Err(payload) if payload.is::<Stalled>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// Memory that is shared: words, so that it is aligned.
struct Shared(Box<[UnsafeCell<u64>]>);

impl Shared {
    fn byte(&self, at: usize) -> *mut u8 {
        assert!(at < self.0.len() * 8);
        self.0.as_ptr().cast::<u8>().cast_mut().wrapping_add(at)
    }
}

/// A buffer of a chain: bus address, length, and whether the device writes it.
type Buffer = (u64, u32, bool);

/// A virtqueue as the device knows it.
#[derive(Clone, Copy, Default)]
struct Ring {
    at: [u64; 3],
    size: u16,
    /// Chains taken.
    seen: u16,
    /// Completions given.
    used: u16,
}

struct State<'a> {
    input: Input<'a>,
    registers: HashMap<u64, u32>,
    rings: HashMap<u32, Ring>,
    shared: Vec<Shared>,
    now: u64,
    idle: u32,
    attacks: Vec<(Attack, &'static str)>,
    /// Something was done that no honest device does.
    lied: bool,
}

/// The host of one input.
pub struct World<'a> {
    kind: u32,
    state: Mutex<State<'a>>,
}

// SAFETY: one thread uses it; the cells are reached by volatile accesses to integers only.
unsafe impl Send for World<'_> {}
// SAFETY: as above.
unsafe impl Sync for World<'_> {}

impl<'a> World<'a> {
    /// A host with a device of type `kind` (2 block, 3 console).
    pub fn new(kind: u32, input: Input<'a>) -> World<'a> {
        World {
            kind,
            state: Mutex::new(State {
                input,
                registers: HashMap::new(),
                rings: HashMap::new(),
                shared: Vec::new(),
                now: 0,
                idle: 0,
                attacks: Vec::new(),
                lied: false,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attacks that were reported.
    pub fn attacks(&self) -> Vec<(Attack, &'static str)> {
        self.state().attacks.clone()
    }

    /// Whether the device broke a rule.
    pub fn lied(&self) -> bool {
        self.state().lied
    }

    /// Reads from the input, for what the driver is to do.
    pub fn script<T>(&self, read: impl FnOnce(&mut Input<'a>) -> T) -> T {
        read(&mut self.state().input)
    }

    /// Whether the input is at its end.
    pub fn is_over(&self) -> bool {
        self.state().input.is_empty()
    }

    /// Reads shared memory as the device does.
    pub fn peek(&self, bus: u64, len: usize) -> Vec<u8> {
        self.state().peek(bus, len)
    }

    /// Writes it.
    pub fn poke(&self, bus: u64, bytes: &[u8]) {
        self.state().poke(bus, bytes);
    }
}

impl State<'_> {
    fn pointer(&self, bus: u64) -> Option<*mut u8> {
        let offset = bus.checked_sub(BUS)?;
        let shared = self.shared.get(usize::try_from(offset / BUS).ok()?)?;
        let at = usize::try_from(offset % BUS).ok()?;
        (at < shared.0.len() * 8).then(|| shared.byte(at))
    }

    /// Bytes at a bus address; zero where nothing is.
    fn peek(&self, bus: u64, len: usize) -> Vec<u8> {
        (0..len as u64)
            // SAFETY: inside a shared region, which lives as long as this.
            .map(|i| self.pointer(bus.wrapping_add(i)).map_or(0, |at| unsafe { at.read_volatile() }))
            .collect()
    }

    fn poke(&self, bus: u64, bytes: &[u8]) {
        for (i, &byte) in (0..).zip(bytes) {
            if let Some(at) = self.pointer(bus.wrapping_add(i)) {
                // SAFETY: as in `peek`.
                unsafe { at.write_volatile(byte) };
            }
        }
    }

    fn peek_u16(&self, bus: u64) -> u16 {
        u16::from_le_bytes(self.peek(bus, 2).try_into().expect("two bytes"))
    }

    /// The next chain of a queue: its head, and its buffers.
    fn take_chain(&mut self, queue: u32) -> Option<(u16, Vec<Buffer>)> {
        let ring = self.rings.get(&queue).copied().filter(|ring| ring.size > 0)?;
        if self.peek_u16(ring.at[1] + 2) == ring.seen {
            return None;
        }
        let head = self.peek_u16(ring.at[1] + 4 + 2 * u64::from(ring.seen % ring.size));
        self.rings.get_mut(&queue)?.seen = ring.seen.wrapping_add(1);
        let (mut chain, mut id) = (Vec::new(), head);
        while chain.len() < usize::from(ring.size) {
            let descriptor = self.peek(ring.at[0] + 16 * u64::from(id), 16);
            let (bus, rest) = descriptor.split_first_chunk::<8>()?;
            let (len, rest) = rest.split_first_chunk::<4>()?;
            chain.push((u64::from_le_bytes(*bus), u32::from_le_bytes(*len), rest[0] & 2 != 0));
            if rest[0] & 1 == 0 {
                break;
            }
            id = u16::from_le_bytes([rest[2], rest[3]]);
        }
        Some((head, chain))
    }

    fn complete(&mut self, queue: u32, id: u32, len: u32) {
        let Some(ring) = self.rings.get(&queue).copied().filter(|ring| ring.size > 0) else { return };
        let at = ring.at[2] + 4 + 8 * u64::from(ring.used % ring.size);
        self.poke(at, &id.to_le_bytes());
        self.poke(at + 4, &len.to_le_bytes());
        let used = ring.used.wrapping_add(1);
        self.poke(ring.at[2] + 2, &used.to_le_bytes());
        if let Some(ring) = self.rings.get_mut(&queue) {
            ring.used = used;
        }
    }

    /// Serves a queue as it should be: fills what is to be filled (the last byte of a chain with 0, a disk's status).
    fn serve(&mut self, queue: u32) {
        let Some((head, chain)) = self.take_chain(queue) else { return };
        let mut written = 0;
        for &(bus, len, writable) in chain.iter().filter(|(.., writable)| *writable) {
            let len = len.min(1 << 18);
            let fill = self.input.u8();
            if writable {
                self.poke(bus, &vec![fill; len as usize]);
                written += len;
            }
        }
        if let (Some(&(bus, len, true)), true) = (chain.last(), chain.len() > 1) {
            self.poke(bus + u64::from(len) - 1, &[0]);
        }
        self.complete(queue, head.into(), written);
    }

    /// Something happens.
    fn act(&mut self) {
        if self.input.is_empty() {
            self.idle += 1;
            return;
        }
        let action = self.input.u8();
        let queue = u32::from(self.input.u8() % 12);
        match action % 16 {
            0..7 => self.serve(queue),
            // A control message, if this is a console: port 1 opened, closed, or anything.
            7 => {
                if let Some((head, chain)) = self.take_chain(queue)
                    && let Some(&(bus, ..)) = chain.first()
                {
                    let message: Vec<u8> = (0..8).map(|_| self.input.u8()).collect();
                    self.poke(bus, &message);
                    let len = u32::from(self.input.u8());
                    self.lied = true;
                    self.complete(queue, head.into(), len);
                }
            }
            8 => {
                let (id, len) = (u32::from(self.input.u16()), self.input.u32());
                self.lied = true;
                self.complete(queue, id, len);
            }
            9 => {
                let (ring, used) = (self.rings.get(&queue).copied(), self.input.u16());
                self.lied = true;
                if let Some(ring) = ring {
                    self.poke(ring.at[2] + 2, &used.to_le_bytes());
                }
            }
            10 | 11 => {
                let region = u64::from(self.input.u8());
                let at = BUS + region % 16 * BUS + u64::from(self.input.u16());
                let len = usize::from(self.input.u8());
                let bytes = self.input.bytes(len).to_vec();
                self.lied = true;
                self.poke(at, &bytes);
            }
            12 => self.now = self.now.saturating_add(self.input.u64()),
            _ => {}
        }
    }
}

impl DmaPool for World<'_> {
    fn allocate(&self, pages: usize) -> Option<DmaRegion> {
        let mut state = self.state();
        let len = pages.checked_mul(4096).filter(|&len| len as u64 <= BUS)?;
        let words: Box<[UnsafeCell<u64>]> = (0..len / 8).map(|_| UnsafeCell::new(0)).collect();
        let bus = BUS + BUS * state.shared.len() as u64;
        let shared = Shared(words);
        let base = NonNull::new(shared.byte(0))?;
        state.shared.push(shared);
        // SAFETY: the memory is the host's and outlives every driver, which borrows the host; all use it by volatile accesses.
        Some(unsafe { DmaRegion::new(base, bus, len) })
    }
}

impl Environment for World<'_> {
    fn now(&self) -> u64 {
        let mut state = self.state();
        if state.input.is_empty() {
            state.now = state.now.saturating_add(HOUR_NS);
        }
        state.now
    }

    fn wait(&self) {
        let mut state = self.state();
        state.act();
        if state.idle > IDLE_MAX {
            drop(state);
            resume_unwind(Box::new(Stalled));
        }
    }

    fn attack(&self, attack: Attack, what: &'static str) {
        self.state().attacks.push((attack, what));
    }
}

impl HostIo for World<'_> {
    fn in8(&self, _: u16) -> u8 {
        self.state().input.u8()
    }
    fn out8(&self, _: u16, _: u8) {}
    fn in16(&self, _: u16) -> u16 {
        self.state().input.u16()
    }
    fn out16(&self, _: u16, _: u16) {}
    fn in32(&self, _: u16) -> u32 {
        self.state().input.u32()
    }
    fn out32(&self, _: u16, _: u32) {}

    fn mmio_read(&self, address: u64, _: Width) -> u32 {
        let mut state = self.state();
        // Now and then, whatever the input says.
        if state.input.u8() == 0xff {
            state.lied = true;
            return state.input.u32();
        }
        match address.wrapping_sub(BASE) {
            0x00 => u32::from_le_bytes(*b"virt"),
            0x04 => 2,
            0x08 => self.kind,
            0x10 if state.registers.get(&0x14) == Some(&1) => 3,
            0x10 => !0,
            0x34 => 1024,
            0x70 => state.registers.get(&0x70).copied().unwrap_or(0),
            // A disk's capacity in sectors.
            0x100 => 8 * 100 + 7,
            _ => 0,
        }
    }

    fn mmio_write(&self, address: u64, _: Width, value: u32) {
        let mut state = self.state();
        let register = address.wrapping_sub(BASE);
        state.registers.insert(register, value);
        let get = |state: &State<'_>, register| state.registers.get(&register).copied().unwrap_or(0);
        let queue = get(&state, 0x30);
        match register {
            0x44 => {
                let at = [0x80, 0x90, 0xa0]
                    .map(|low| u64::from(get(&state, low)) | u64::from(get(&state, low + 4)) << 32);
                let size = get(&state, 0x38) as u16;
                state.rings.insert(queue, Ring { at, size, ..Ring::default() });
            }
            0x50 => state.act(),
            _ => {}
        }
    }
}
