//! fw_cfg by a hostile host: the directory and every item are its word; an item has the size that was agreed on, and the bytes that
//! were given (`fw_cfg`).
#![no_main]

use litebox_core::platform::Attack;
use litebox_fuzz::Input;
use litebox_fuzz::device::World;
use platform_snp::DeviceError;
use platform_snp::dma::DmaPool;
use platform_snp::fw_cfg::FwCfg;
use platform_snp::host::{Environment, HostIo, Width};
use std::sync::Mutex;

litebox_fuzz::target!(litebox_fuzz::seeds::fw_cfg, run);

const NAME: &str = "opt/org.litebox/manifest";
const LIMIT: usize = 1 << 16;

struct State<'a> {
    input: Input<'a>,
    address: u64,
    /// What was given since the last item was selected.
    given: Vec<u8>,
    now: u64,
}

struct Host<'a> {
    /// Memory only.
    world: World<'static>,
    state: Mutex<State<'a>>,
}

impl Host<'_> {
    /// One DMA request: the control word is answered, and data given, as the input has it.
    fn dma(&self, state: &mut State<'_>) {
        let access = self.world.peek(state.address, 16);
        let control = u32::from_be_bytes(access[..4].try_into().expect("four bytes"));
        let len = u32::from_be_bytes(access[4..8].try_into().expect("four bytes"));
        let at = u64::from_be_bytes(access[8..].try_into().expect("eight bytes"));
        assert!(control & 2 != 0 && len <= 4096 - 64, "a request beyond the region");
        if control & 8 != 0 {
            state.given.clear();
        }
        let data = state.input.bytes(len as usize).to_vec();
        let mut whole = data;
        whole.resize(len as usize, 0);
        self.world.poke(at, &whole);
        state.given.extend_from_slice(&whole);
        let answer = match state.input.u8() {
            0xff => 1,
            0xfe => state.input.u32(),
            _ => 0,
        };
        self.world.poke(state.address, &answer.to_be_bytes());
    }
}

impl HostIo for Host<'_> {
    fn in8(&self, _: u16) -> u8 {
        self.state.lock().expect("no panic yet").input.u8()
    }
    fn out8(&self, _: u16, _: u8) {}
    fn in16(&self, _: u16) -> u16 {
        0
    }
    fn out16(&self, _: u16, _: u16) {}
    fn in32(&self, _: u16) -> u32 {
        0
    }
    fn out32(&self, port: u16, value: u32) {
        let state = &mut *self.state.lock().expect("no panic yet");
        let value = u64::from(u32::from_be(value));
        match port {
            0x514 => state.address = value << 32,
            0x518 => {
                state.address |= value;
                self.dma(state);
            }
            _ => {}
        }
    }
    fn mmio_read(&self, _: u64, _: Width) -> u32 {
        0
    }
    fn mmio_write(&self, _: u64, _: Width, _: u32) {}
}

impl Environment for Host<'_> {
    fn now(&self) -> u64 {
        let state = &mut *self.state.lock().expect("no panic yet");
        state.now += 700_000_000;
        state.now
    }
    fn wait(&self) {
        // The answer comes late, or not.
        let state = &mut *self.state.lock().expect("no panic yet");
        if state.input.u8() & 1 == 1 {
            self.world.poke(state.address, &[0; 4]);
        }
    }
    fn attack(&self, _: Attack, _: &'static str) {}
}

fn run(bytes: &[u8]) {
    let world = World::new(0, Input::new(&[]));
    let region = world.allocate(1).expect("a page");
    let host = Host {
        world,
        state: Mutex::new(State { input: Input::new(bytes), address: 0, given: Vec::new(), now: 0 }),
    };
    let Ok(fw_cfg) = FwCfg::new(&host, &host, region) else { return };
    let Ok(Some(item)) = fw_cfg.find(NAME) else { return };
    match fw_cfg.read(item, LIMIT) {
        Ok(read) => {
            assert!(read.len() == item.size as usize && read.len() <= LIMIT);
            assert!(read.is_empty() || read == host.state.lock().expect("no panic yet").given);
        }
        Err(error) => assert!(item.size as usize > LIMIT || error != DeviceError::OutOfMemory),
    }
}
