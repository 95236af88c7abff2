//! The model device behind PCI: a configuration space with BARs that are sized and placed, in front of the same registers; and hosts that lie in it.

use super::{Mood, World};
use crate::DeviceError;
use crate::host::{HostIo, Width};
use crate::pci::{Address, Message, Window};
use crate::virtio::{Transport, blk::Blk, console::Console, pci::Found};
use litebox_core::platform::{BlockDevice, Console as _, Stream};
use proptest::prelude::*;
use std::sync::Mutex;

const WINDOW: std::ops::Range<u32> = 0xc000_0000..0xc010_0000;
const PLACE: u32 = 3;
/// Capabilities: MSI-X, then virtio's notification, device, common.
const MSIX: usize = 0x40;
const NOTIFY: usize = 0x50;
const DEVICE: usize = 0x70;
const COMMON: usize = 0x80;
/// Offsets in BAR 4.
const DEVICE_AT: u64 = 0x1000;
const NOTIFY_AT: u64 = 0x2000;

/// One device on bus 0, the bus itself, and what was seen of it.
struct Bus {
    world: &'static World,
    state: Mutex<State>,
}

struct State {
    config: [u8; 256],
    /// Size of each BAR, 0 for none; BAR 4 has 64 bits.
    sizes: [u32; 6],
    selected: u32,
    accesses: usize,
    table: [u32; 4],
    notified: Vec<u64>,
}

impl State {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.config[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.config[at..at + 4].try_into().unwrap())
    }
    fn virtio(&mut self, at: usize, next: usize, kind: u8, offset: u32, len: u32) {
        self.put(at, &[9, next as u8, 20, kind, 4, 0, 0, 0]);
        self.put(at + 8, &offset.to_le_bytes());
        self.put(at + 12, &len.to_le_bytes());
        self.put(at + 16, &4u32.to_le_bytes());
    }
}

impl Bus {
    fn new(kind: u32, mood: Mood) -> &'static Bus {
        let mut state = State {
            config: [0; 256],
            sizes: [0, 0x1000, 0, 0, 0x4000, 0],
            selected: 0,
            accesses: 0,
            table: [0; 4],
            notified: Vec::new(),
        };
        state.put(0, &[0xf4, 0x1a, 0x40 + kind as u8, 0x10]);
        state.put(6, &[0x10]);
        state.put(0x34, &[MSIX as u8]);
        // Two entries at the start of BAR 1.
        state.put(MSIX, &[0x11, NOTIFY as u8, 1, 0, 1, 0, 0, 0]);
        state.virtio(NOTIFY, DEVICE, 2, NOTIFY_AT as u32, 0x1000);
        state.virtio(DEVICE, COMMON, 4, DEVICE_AT as u32, 0x1000);
        state.virtio(COMMON, 0, 1, 0, 0x1000);
        Box::leak(Box::new(Bus { world: World::new(kind, mood), state: Mutex::new(state) }))
    }

    /// The same, changed before it is looked at.
    fn with(change: impl FnOnce(&mut State)) -> &'static Bus {
        let bus = Bus::new(2, Mood::Honest);
        change(&mut bus.state.lock().unwrap());
        bus
    }

    fn find(&self, kind: u32) -> Result<Found, DeviceError> {
        Found::find(self, &mut Window::new(WINDOW), Address::new(0, PLACE as u8, 0), kind)
    }

    /// BAR and offset of an address, if the device decodes it.
    fn decode(&self, address: u64) -> Option<(usize, u64)> {
        let state = self.state.lock().unwrap();
        assert_ne!(state.word(4) & 6, 0, "registers are touched before the device is enabled");
        [1, 4].into_iter().find_map(|bar| {
            let base = u64::from(state.word(0x10 + 4 * bar) & !15);
            let offset = address.checked_sub(base).filter(|&o| o < state.sizes[bar].into())?;
            Some((bar, offset))
        })
    }
}

/// Where the model has a register of the common configuration, by the offsets of virtio-mmio.
fn as_mmio(offset: u64) -> u64 {
    match offset {
        0x00 => 0x14,
        0x04 => 0x10,
        0x08 => 0x24,
        0x0c => 0x20,
        0x14 => 0x70,
        0x15 => 0xfc,
        0x16 => 0x30,
        0x18 => 0x38,
        0x1c => 0x44,
        0x20..0x28 => 0x80 + offset - 0x20,
        0x28..0x30 => 0x90 + offset - 0x28,
        0x30..0x38 => 0xa0 + offset - 0x30,
        other => panic!("no register at {other:#x}"),
    }
}

impl HostIo for Bus {
    fn in8(&self, _: u16) -> u8 {
        panic!("no such port")
    }
    fn out8(&self, _: u16, _: u8) {
        panic!("no such port")
    }
    fn in16(&self, _: u16) -> u16 {
        panic!("no such port")
    }
    fn out16(&self, _: u16, _: u16) {
        panic!("no such port")
    }
    fn in32(&self, port: u16) -> u32 {
        assert_eq!(port, 0xcfc);
        let mut state = self.state.lock().unwrap();
        state.accesses += 1;
        let (place, register) = (state.selected >> 11 & 0x1fff, state.selected as usize & 0xfc);
        if place == PLACE { state.word(register) } else { !0 }
    }
    fn out32(&self, port: u16, value: u32) {
        let mut state = self.state.lock().unwrap();
        state.accesses += 1;
        if port == 0xcf8 {
            state.selected = value;
            return;
        }
        let register = state.selected as usize & 0xfc;
        let value = match register {
            // The upper half is read-only status here.
            0x04 => state.word(4) & 0xffff_0000 | value & 0xffff,
            0x10..0x28 => {
                let bar = (register - 0x10) / 4;
                if bar == 5 {
                    value
                } else {
                    value & state.sizes[bar].wrapping_neg() | if bar == 4 { 4 } else { 0 }
                }
            }
            0x40 => state.word(MSIX) & 0x7ff_ffff | value & 0xc000_0000,
            _ => state.word(register),
        };
        state.put(register, &value.to_le_bytes());
    }
    fn mmio_read(&self, address: u64, width: Width) -> u32 {
        match self.decode(address) {
            Some((4, NOTIFY_AT..)) | None => panic!("a read at {address:#x}"),
            Some((4, 0x1a)) => u32::from(self.world.model.lock().unwrap().mood == Mood::Refuses) * 0xffff,
            Some((4, 0x1e)) => self.world.model.lock().unwrap().registers.get(&0x30).copied().unwrap_or(0),
            Some((4, 0x18)) => self.world.mmio_read(0x34, width),
            Some((4, offset @ DEVICE_AT..)) => self.world.mmio_read(0x100 + offset - DEVICE_AT, width),
            Some((4, offset)) => self.world.mmio_read(as_mmio(offset), width),
            Some((_, offset)) => self.state.lock().unwrap().table[offset as usize / 4],
        }
    }
    fn mmio_write(&self, address: u64, width: Width, value: u32) {
        match self.decode(address) {
            Some((4, offset @ NOTIFY_AT..)) => {
                assert_eq!((offset, width), (NOTIFY_AT + 4 * u64::from(value), Width::Half));
                self.state.lock().unwrap().notified.push(offset);
                self.world.mmio_write(0x50, width, value);
            }
            Some((4, 0x1a)) => {}
            Some((4, offset)) => {
                // Each register in its own width.
                let expected = match offset {
                    0x14 | 0x15 => Width::Byte,
                    0x16..0x20 => Width::Half,
                    _ => Width::Word,
                };
                assert_eq!(width, expected, "{offset:#x}");
                self.world.mmio_write(as_mmio(offset), width, value);
            }
            Some((_, offset)) => self.state.lock().unwrap().table[offset as usize / 4] = value,
            None => panic!("a write at {address:#x}"),
        }
    }
}

#[test]
fn a_disk_is_found_and_gives_its_blocks() {
    let bus = Bus::new(2, Mood::Honest);
    let found = bus.find(2).unwrap();
    let placed: Vec<_> = found.placed().collect();
    assert_eq!(placed, [0xc000_0000..0xc000_1000, 0xc000_4000..0xc000_8000]);
    assert!(bus.state.lock().unwrap().accesses < 60);
    let disk = Blk::new(bus, bus.world, bus.world, found.start(bus)).unwrap();
    assert_eq!(disk.block_count(), 100);
    let mut page = [0; 4096];
    disk.read(60, &mut [&mut page]).unwrap();
    assert_eq!(page, [60; 4096]);
}

#[test]
fn a_console_on_pci_interrupts_by_a_message() {
    for mood in [Mood::Honest, Mood::Refuses] {
        let bus = Bus::new(3, mood);
        let console = Console::new(bus, bus.world, bus.world, bus.find(3).unwrap().start(bus)).unwrap();
        assert_eq!(console.write(Stream::Stderr, b"oops"), 4);
        console.flush();
        assert_eq!(bus.world.model.lock().unwrap().output[&9], b"oops");
        assert_eq!(bus.state.lock().unwrap().notified.last(), Some(&(NOTIFY_AT + 4 * 9)));
        let routed = console.route_interrupts(Message { apic_id: 5, vector: 0x21 });
        assert_eq!(routed, Ok(mood == Mood::Honest));
        let state = bus.state.lock().unwrap();
        assert_eq!(state.table, [0xfee0_5000, 0, 0x21, 0]);
        assert_eq!(state.word(MSIX) >> 30, 2, "on, and not masked");
    }
}

#[test]
fn the_first_device_of_its_kind_is_discovered() {
    let bus = Bus::new(2, Mood::Honest);
    let find = |kind| Found::find(bus, &mut Window::new(WINDOW), None, kind);
    assert!(find(2).is_ok());
    assert!(matches!(find(3), Err(DeviceError::Absent)));
    assert!(matches!(bus.find(3), Err(DeviceError::Absent)));
    let elsewhere = Found::find(bus, &mut Window::new(WINDOW), Address::new(0, 4, 0), 2);
    assert!(matches!(elsewhere, Err(DeviceError::Absent)));
}

#[test]
fn a_full_window_is_no_place() {
    let bus = Bus::new(2, Mood::Honest);
    let found = Found::find(bus, &mut Window::new(0xc000_1000..0xc000_5000), None, 2);
    assert_eq!(found.err(), Some(DeviceError::OutOfMemory));
}

#[test]
fn lies_in_configuration_space_are_refused() {
    type Lie = fn(&mut State);
    let bad: [(&str, Lie); 12] = [
        ("a loop", |s| s.put(COMMON + 1, &[MSIX as u8])),
        ("itself", |s| s.put(MSIX + 1, &[MSIX as u8 + 3])),
        ("the header", |s| s.put(0x34, &[0x10])),
        ("no such BAR", |s| s.put(COMMON + 4, &[7])),
        ("an empty BAR", |s| s.put(COMMON + 4, &[2])),
        ("beyond the BAR", |s| s.put(NOTIFY + 9, &[0x40])),
        ("a length that overflows", |s| s.put(DEVICE + 12, &[0xff; 4])),
        ("an empty region", |s| s.put(DEVICE + 12, &[0; 4])),
        ("a common configuration that is too short", |s| s.put(COMMON + 12, &[0x37, 0])),
        ("a table beyond its BAR", |s| s.put(MSIX + 4, &[0xf9, 0x0f])),
        ("more interrupts than there is room for", |s| s.put(MSIX + 2, &[0xff, 7])),
        ("a BAR of every size", |s| s.sizes[4] = 0x4010),
    ];
    for (what, lie) in bad {
        let found = Bus::with(lie).find(2).err();
        assert!(matches!(found, Some(DeviceError::BadDevice(_))), "{what}: {found:?}");
    }
    let missing: [Lie; 3] = [|s| s.put(6, &[0]), |s| s.put(NOTIFY, &[5]), |s| s.put(COMMON + 3, &[3])];
    for lie in missing {
        assert!(matches!(Bus::with(lie).find(2), Err(DeviceError::Unsupported(_))));
    }
}

#[test]
fn a_queue_is_notified_inside_of_its_region() {
    let bus = Bus::with(|s| s.put(NOTIFY + 16, &[0, 0, 0, 0x40]));
    let disk = Blk::new(bus, bus.world, bus.world, bus.find(2).unwrap().start(bus));
    assert!(disk.is_ok(), "queue 0 is at the start, whatever the multiplier");
    let bus = Bus::new(3, Mood::Honest);
    bus.state.lock().unwrap().put(NOTIFY + 16, &[0xff; 4]);
    let console = Console::new(bus, bus.world, bus.world, bus.find(3).unwrap().start(bus));
    assert!(matches!(console.err(), Some(DeviceError::BadDevice(_))));
    let transport = Bus::new(2, Mood::Honest).find(2).unwrap().start(bus);
    assert!(transport.config32(0xffe).is_err(), "half of it is outside");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    /// Whatever configuration space says, the walk ends soon, and what is placed lies in the window, apart.
    #[test]
    fn any_configuration_space_is_survived(noise in proptest::collection::vec((0x10usize..256, any::<u8>()), 0..60), sizes in any::<[u8; 6]>()) {
        let bus = Bus::with(|state| {
            for (bar, size) in sizes.iter().enumerate() {
                state.sizes[bar] = 1u32.checked_shl((size % 36).into()).unwrap_or(0) | u32::from(size >> 7) << 12;
            }
            for (at, byte) in noise {
                state.put(at, &[byte]);
            }
        });
        if let Ok(found) = bus.find(2) {
            let mut placed: Vec<_> = found.placed().collect();
            placed.sort_by_key(|range| range.start);
            prop_assert!(placed.iter().all(|r| r.start >= u64::from(WINDOW.start) && r.end <= u64::from(WINDOW.end)));
            prop_assert!(placed.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
        prop_assert!(bus.state.lock().unwrap().accesses < 700);
    }
}
