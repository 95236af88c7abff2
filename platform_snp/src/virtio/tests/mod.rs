//! Drivers against a model device that shares their memory, honest and hostile.

mod pci;

use super::{Transport, blk::Blk, console::Console, mmio::Mmio, queue::*};
use crate::{
    DeviceError,
    dma::{DmaPool, DmaRegion, tests::region},
    host::{Environment, HostIo, Width},
};
use litebox_core::platform::{Attack, BlockDevice, BlockError, Console as _, Input, Stream};
use proptest::prelude::*;
use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// What the model does with a disk request or a used entry.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Honest,
    BadId,
    TooLong,
    Twice,
    Silent,
    Short,
    Refuses,
    TakesFeaturesBack,
}

#[derive(Default)]
struct Ring {
    at: [u64; 3],
    size: u16,
    seen: u16,
    used: u16,
}

struct Model {
    mood: Mood,
    kind: u32,
    registers: HashMap<u64, u32>,
    rings: HashMap<u32, Ring>,
    output: HashMap<u32, Vec<u8>>,
    control: Vec<[u8; 8]>,
    accesses: usize,
    notifications: usize,
}

/// Host, pool and kernel in one. Bus addresses are the addresses of the leaked memory.
struct World {
    model: Mutex<Model>,
    regions: Mutex<Vec<(u64, *mut u8)>>,
    clock: AtomicU64,
    attacks: Mutex<Vec<Attack>>,
}

// SAFETY: tests use it from one thread.
unsafe impl Send for World {}
// SAFETY: as above.
unsafe impl Sync for World {}

impl World {
    fn new(kind: u32, mood: Mood) -> &'static Self {
        let model = Model {
            mood,
            kind,
            registers: HashMap::new(),
            rings: HashMap::new(),
            output: HashMap::new(),
            control: Vec::new(),
            accesses: 0,
            notifications: 0,
        };
        Box::leak(Box::new(Self {
            model: Mutex::new(model),
            regions: Mutex::default(),
            clock: AtomicU64::new(0),
            attacks: Mutex::default(),
        }))
    }

    fn pointer(&self, bus: u64) -> *mut u8 {
        let regions = self.regions.lock().unwrap();
        let (base, pointer) = *regions.iter().rev().find(|(base, _)| *base <= bus).unwrap();
        pointer.wrapping_add((bus - base) as usize)
    }
    fn get(&self, bus: u64, len: usize) -> Vec<u8> {
        let at = self.pointer(bus);
        // SAFETY: inside a leaked region.
        (0..len).map(|i| unsafe { at.wrapping_add(i).read_volatile() }).collect()
    }
    fn put(&self, bus: u64, bytes: &[u8]) {
        let at = self.pointer(bus);
        for (i, &byte) in bytes.iter().enumerate() {
            // SAFETY: inside a leaked region.
            unsafe { at.wrapping_add(i).write_volatile(byte) };
        }
    }
    fn u16(&self, bus: u64) -> u16 {
        u16::from_le_bytes(self.get(bus, 2).try_into().unwrap())
    }

    /// The next chain of a queue: head, segments.
    fn pop(&self, model: &mut Model, queue: u32) -> Option<(u16, Vec<(u64, u32)>)> {
        let ring = model.rings.get_mut(&queue)?;
        if self.u16(ring.at[1] + 2) == ring.seen {
            return None;
        }
        let head = self.u16(ring.at[1] + 4 + 2 * u64::from(ring.seen % ring.size));
        ring.seen = ring.seen.wrapping_add(1);
        let (mut segments, mut id) = (Vec::new(), head);
        loop {
            let d = self.get(ring.at[0] + 16 * u64::from(id), 16);
            let bus = u64::from_le_bytes(d[..8].try_into().unwrap());
            segments.push((bus, u32::from_le_bytes(d[8..12].try_into().unwrap())));
            if d[12] & 1 == 0 {
                return Some((head, segments));
            }
            id = u16::from_le_bytes([d[14], d[15]]);
        }
    }
    fn push(&self, model: &mut Model, queue: u32, id: u32, len: u32) {
        let ring = model.rings.get_mut(&queue).unwrap();
        let at = ring.at[2] + 4 + 8 * u64::from(ring.used % ring.size);
        self.put(at, &id.to_le_bytes());
        self.put(at + 4, &len.to_le_bytes());
        ring.used = ring.used.wrapping_add(1);
        self.put(ring.at[2] + 2, &ring.used.to_le_bytes());
    }
    /// The device gives data to the driver.
    fn give(&self, queue: u32, bytes: &[u8]) {
        let model = &mut *self.model.lock().unwrap();
        let (head, segments) = self.pop(model, queue).unwrap();
        self.put(segments[0].0, bytes);
        self.push(model, queue, head.into(), bytes.len() as u32);
    }

    fn notified(&self, model: &mut Model, queue: u32) {
        model.notifications += 1;
        if model.kind == 2 {
            while let Some((head, s)) = self.pop(model, 0) {
                let sector = u64::from_le_bytes(self.get(s[0].0 + 8, 8).try_into().unwrap());
                for i in 0..u64::from(s[1].1) / 4096 {
                    self.put(s[1].0 + 4096 * i, &[(sector / 8 + i) as u8; 4096]);
                }
                self.put(s[2].0, &[u8::from(model.mood == Mood::Refuses)]);
                let (id, len) = (u32::from(head), s[1].1 + 1);
                match model.mood {
                    Mood::BadId => self.push(model, 0, 77, len),
                    Mood::TooLong => self.push(model, 0, id, len + 1),
                    Mood::Short => self.push(model, 0, id, len - 1),
                    Mood::Twice => {
                        self.push(model, 0, id, len);
                        self.push(model, 0, id, len);
                    }
                    Mood::Silent => {}
                    _ => self.push(model, 0, id, len),
                }
            }
        } else if queue % 2 == 1 {
            while let Some((head, s)) = self.pop(model, queue) {
                let bytes = self.get(s[0].0, s[0].1 as usize);
                if queue == 3 {
                    model.control.push(bytes.try_into().unwrap());
                } else {
                    model.output.entry(queue).or_default().extend(bytes);
                }
                self.push(model, queue, head.into(), 0);
            }
        }
    }
}

impl DmaPool for World {
    fn allocate(&self, pages: usize) -> Option<DmaRegion> {
        let mut regions = self.regions.lock().unwrap();
        let bus = 0x10_0000 + 0x10_0000 * regions.len() as u64;
        let region = region(pages * 4096, bus);
        regions.push((bus, region.base_for_tests()));
        Some(region)
    }
}

impl Environment for World {
    fn now(&self) -> u64 {
        self.clock.fetch_add(10_000_000_000, Ordering::Relaxed)
    }
    fn wait(&self) {}
    fn attack(&self, attack: Attack, _: &'static str) {
        self.attacks.lock().unwrap().push(attack);
    }
}

impl HostIo for World {
    fn in8(&self, _: u16) -> u8 {
        0xff
    }
    fn out8(&self, _: u16, _: u8) {}
    fn in16(&self, _: u16) -> u16 {
        0xffff
    }
    fn out16(&self, _: u16, _: u16) {}
    fn in32(&self, _: u16) -> u32 {
        !0
    }
    fn out32(&self, _: u16, _: u32) {}
    fn mmio_read(&self, address: u64, _: Width) -> u32 {
        let mut model = self.model.lock().unwrap();
        model.accesses += 1;
        match address {
            0 => 0x7472_6976,
            4 => 2,
            8 => model.kind,
            0x10 if model.registers.get(&0x14) == Some(&1) => 3,
            0x10 => 0xffff_ffff,
            0x34 => 64,
            0x70 if model.mood == Mood::TakesFeaturesBack => 0,
            0x100 => 8 * 100 + 7,
            0x70 => *model.registers.get(&0x70).unwrap_or(&0),
            _ => 0,
        }
    }
    fn mmio_write(&self, address: u64, _: Width, value: u32) {
        let model = &mut *self.model.lock().unwrap();
        model.accesses += 1;
        model.registers.insert(address, value);
        let queue = *model.registers.get(&0x30).unwrap_or(&0);
        match address {
            0x44 => {
                let at = [0x80, 0x90, 0xa0].map(|r| u64::from(model.registers[&r]));
                let size = model.registers[&0x38] as u16;
                model.rings.insert(queue, Ring { at, size, ..Ring::default() });
            }
            0x50 => self.notified(model, value),
            _ => {}
        }
    }
}

fn disk(mood: Mood) -> (&'static World, Blk<'static, Mmio<'static>>) {
    let world = World::new(2, mood);
    (world, Blk::new(world, world, world, Mmio::probe(world, 0, 2).unwrap()).unwrap())
}

#[test]
fn a_disk_gives_its_blocks() {
    let (world, disk) = disk(Mood::Honest);
    assert!(world.model.lock().unwrap().accesses < 30);
    assert_eq!(disk.block_count(), 100);
    let mut pages = vec![[0xeeu8; 4096]; 40];
    disk.read(60, &mut pages.iter_mut().collect::<Vec<_>>()).unwrap();
    for (i, page) in pages.iter().enumerate() {
        assert_eq!(page, &[60 + i as u8; 4096]);
    }
    assert_eq!(disk.read(99, &mut pages.iter_mut().collect::<Vec<_>>()), Err(BlockError::OutOfRange));
    assert_eq!(disk.read(u64::MAX, &mut [&mut pages[0]]), Err(BlockError::OutOfRange));
}

#[test]
fn a_hostile_disk_is_an_attack_and_stays_dead() {
    for (mood, attack) in [
        (Mood::BadId, Some(Attack::BadRing)),
        (Mood::TooLong, Some(Attack::BadRing)),
        (Mood::Twice, Some(Attack::BadRing)),
        (Mood::Short, Some(Attack::BadDevice)),
        (Mood::Silent, None),
        (Mood::Refuses, None),
    ] {
        let (world, disk) = disk(mood);
        let mut page = [0; 4096];
        assert_eq!(disk.read(0, &mut [&mut page]), Err(BlockError::Io), "{mood:?}");
        assert_eq!(disk.read(0, &mut [&mut page]), Err(BlockError::Io));
        assert_eq!(world.attacks.lock().unwrap().first().copied(), attack, "{mood:?}");
        assert_eq!(page, [0; 4096]);
    }
}

#[test]
fn features_taken_back_are_refused() {
    let world = World::new(2, Mood::TakesFeaturesBack);
    let transport = Mmio::probe(world, 0, 2).unwrap();
    assert!(matches!(transport.negotiate(0), Err(DeviceError::BadDevice(_))));
}

#[test]
fn a_console_carries_all_three_streams() {
    let world = World::new(3, Mood::Honest);
    let console = Console::new(world, world, world, Mmio::probe(world, 0, 3).unwrap()).unwrap();
    assert_eq!(world.model.lock().unwrap().control.len(), 7);
    assert!(world.model.lock().unwrap().accesses < 60);
    world.model.lock().unwrap().notifications = 0;
    let bytes: Vec<u8> = (0..65536u32).map(|i| (i * 7) as u8).collect();
    assert_eq!(console.write(Stream::Stdout, &bytes), bytes.len());
    assert_eq!(console.write(Stream::Stderr, b"oops"), 4);
    console.flush();
    {
        let model = world.model.lock().unwrap();
        assert_eq!(model.notifications, 2);
        assert!(model.output[&7] == bytes);
        assert_eq!(model.output[&9], b"oops");
    }
    let mut buffer = [0; 3];
    assert_eq!(console.read(&mut buffer), Input::Empty);
    world.give(4, b"hello");
    world.give(2, &[1, 0, 0, 0, 6, 0, 0, 0]);
    assert!(console.input_ready());
    assert_eq!(console.read(&mut buffer), Input::Bytes(3));
    assert_eq!(console.read(&mut buffer), Input::Bytes(2));
    assert_eq!(&buffer, b"lol");
    assert_eq!(console.read(&mut buffer), Input::Eof);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]
    #[test]
    fn any_used_ring_is_survived(index: u16, entries in proptest::collection::vec((0u32..6, 0u32..20), 4)) {
        let world = World::new(2, Mood::Honest);
        let mut queue = Queue::new(world.allocate(1).unwrap(), 4).unwrap();
        for _ in 0..3 {
            queue.post(&[Segment { bus: 0, len: 10, writable: true }]).unwrap();
        }
        let used = queue.addresses().used;
        for (i, (id, len)) in entries.iter().enumerate() {
            world.put(used + 4 + 8 * i as u64, &id.to_le_bytes());
            world.put(used + 8 + 8 * i as u64, &len.to_le_bytes());
        }
        world.put(used + 2, &(index % 5).to_le_bytes());
        let mut seen = Vec::new();
        while let Ok(Some(done)) = queue.take_used(world) {
            prop_assert!(done.len <= 10 && !seen.contains(&done.head));
            seen.push(done.head);
        }
        prop_assert!(seen.len() <= 3);
    }
}
