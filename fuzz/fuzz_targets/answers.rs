//! A guest's questions to a hostile host: whatever is answered through the GHCB, its MSR, PVALIDATE or a page that the host fills, the guest goes on with
//! what it may believe or ends (`platform_snp::snp`). What it tells the host is what it was to tell.
#![no_main]

use litebox_fuzz::Input;
use litebox_fuzz::device::World;
use platform_snp::dma::DmaPool;
use platform_snp::host::Width;
use platform_snp::snp::cpuid_page::CpuidTable;
use platform_snp::snp::ghcb::{BUFFER_SIZE, Denied, Ghcb};
use platform_snp::snp::instructions::{PageSize, Validation, validation};
use platform_snp::snp::launch::LaunchBlock;
use platform_snp::snp::memory_map::MemoryMap;
use platform_snp::snp::msr_protocol::{SevInformation, change_page, negotiate, register_ghcb};
use platform_snp::snp::page_state::{Private, Unaccepted, accept, share, unshare};
use platform_snp::snp::secrets_page::Secrets;
use platform_snp::snp::{Instructions, Violation};
use std::sync::Mutex;
use zerocopy::FromBytes;

litebox_fuzz::target!(litebox_fuzz::seeds::answers, run);

const BUFFER: u64 = 0x800;
const STEPS: usize = 32;

struct State<'a> {
    input: Input<'a>,
    /// Pages that the guest has validated, once each; 4 KiB.
    validated: Vec<u64>,
    /// The last answer of the MSR.
    answered: u64,
}

/// A host of which the input says what it answers.
struct Host<'a> {
    world: &'a World<'static>,
    page: u64,
    state: Mutex<State<'a>>,
}

impl Instructions for &Host<'_> {
    fn pvalidate(&self, at: u64, size: PageSize, validate: bool) -> Result<Validation, Violation> {
        let state = &mut *self.state.lock().expect("no panic yet");
        // Now and then the carry flag, a size mismatch or another error.
        let (rax, carry) = match state.input.u8() {
            0xf0..=0xf3 => (0, true),
            0xf4..=0xf7 => (6, false),
            0xf8 => (1, false),
            0xf9 => (state.input.u64(), false),
            _ => (0, false),
        };
        let result = validation(rax, carry);
        if result == Ok(Validation::Changed) {
            for page in (at..at + size.bytes()).step_by(4096) {
                let there = state.validated.iter().position(|&other| other == page);
                match (validate, there) {
                    (true, Some(_)) => panic!("{page:#x} is validated twice"),
                    (true, None) => state.validated.push(page),
                    (false, Some(index)) => drop(state.validated.swap_remove(index)),
                    (false, None) => panic!("{page:#x} is rescinded twice"),
                }
            }
        }
        result
    }

    fn rmpadjust(&self, _: u64, _: PageSize, _: u64) -> u64 {
        self.state.lock().expect("no panic yet").input.u64()
    }

    fn msr_exchange(&self, value: u64) -> u64 {
        let state = &mut *self.state.lock().expect("no panic yet");
        state.answered = match state.input.u8() {
            // As it should be, a bit of it changed, or anything.
            0xf0.. => state.input.u64(),
            how => {
                let good = match value & 0xfff {
                    0x002 => 0x0002_0001_3300_0001,
                    0x012 => value + 1,
                    0x014 => 0x015,
                    0x080 => 0x1081,
                    other => panic!("a request that is none: {other:#x}"),
                };
                if how < 0xc0 { good } else { good ^ 1 << (how & 0x3f) }
            }
        };
        state.answered
    }

    fn vmgexit(&self, ghcb: u64) {
        assert_eq!(ghcb, self.page, "another page than was registered");
        let state = &mut *self.state.lock().expect("no panic yet");
        let word =
            |at: u64| u64::from_le_bytes(self.world.peek(self.page + at, 8).try_into().expect("eight bytes"));
        let put = |at: u64, value: u64| self.world.poke(self.page + at, &value.to_le_bytes());
        assert_eq!(self.world.peek(self.page + 0xffa, 6), [2, 0, 0, 0, 0, 0], "version and usage");
        let valid = |field: u64| word(0x3f0 + field / 512 * 8) >> (field / 8 % 64) & 1 != 0;
        assert!(valid(0x390) && valid(0x398) && valid(0x3a0), "a request without its code");
        let how = state.input.u8();
        // An honest host first.
        put(0x398, 0);
        put(0x3a0, 0);
        for field in [0x1f8, 0x310] {
            put(field, state.input.u32().into());
        }
        put(0x3f0, !0);
        put(0x3f8, !0);
        if word(0x390) == 0x8000_0010 {
            let header = word(BUFFER);
            let (current, end) = (header & 0xffff, header >> 16 & 0xffff);
            assert!(current <= end && end < 253 && header >> 32 == 0);
            let done = if how & 1 == 0 {
                end + 1
            } else {
                current + u64::from(state.input.u8()).min(end + 1 - current)
            };
            put(BUFFER, header & !0xffff | done);
        }
        // Then its lies.
        match how >> 4 {
            0xc => put(0x3f0 + u64::from(how & 8), state.input.u64()),
            0xd => put(0x398, state.input.u64()),
            0xe => {
                put(0x398, u64::from(how & 3));
                put(0x3a0, state.input.u64());
            }
            0xf => {
                let (at, len) = (state.input.u16() % 0x1000, state.input.u8() % 32);
                let bytes = state.input.bytes(len.into());
                self.world.poke(self.page + u64::from(at.min(0xfdf)), bytes);
            }
            _ => {}
        }
    }

    fn terminate(&self, _: u64) -> ! {
        unreachable!("nothing here ends the guest by itself")
    }
}

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.u8() % 4 {
        0 => pages(input),
        _ => dialogue(input),
    }
}

fn dialogue(input: Input<'_>) {
    let world = World::new(0, Input::new(&[]));
    let region = world.allocate(1).expect("a page");
    let page = region.bus(0);
    let state = Mutex::new(State { input, validated: Vec::new(), answered: 0 });
    let host = Host { world: &world, page, state };
    let ghcb = Ghcb::new(&host, region);
    // What the guest may use so far, in pages of 4 KiB.
    let mut owned: Vec<Private> = Vec::new();
    let mut next = 1 << 30;
    for _ in 0..STEPS {
        let (what, size) = {
            let state = &mut *host.state.lock().expect("no panic yet");
            if state.input.is_empty() {
                break;
            }
            (state.input.u8(), u64::from(state.input.u16()))
        };
        let answered = || host.state.lock().expect("no panic yet").answered;
        match what % 12 {
            0 => {
                if negotiate(&&host).is_ok() {
                    assert!(answered() & 0xfff == 0x081 && answered() >> 12 & 1 != 0);
                }
            }
            1 => assert_eq!(register_ghcb(&&host, size << 12).is_ok(), answered() == size << 12 | 0x013),
            2 => assert_eq!(change_page(&&host, size << 12, true).is_ok(), answered() == 0x015),
            3 => {
                let len = [1, 2, 4][usize::from(what >> 4) % 3];
                if let Ok(Ok(value)) = ghcb.port_in(0x3f8, len) {
                    assert!(u64::from(value) < 1 << (8 * len), "more than was asked for");
                }
            }
            4 => drop(ghcb.port_out_bytes(0x3f8, &vec![0x41; usize::from(what >> 4) * BUFFER_SIZE / 8])),
            5 => {
                let width = [Width::Byte, Width::Half, Width::Word][usize::from(what >> 4) % 3];
                if let Ok(Ok(value)) = ghcb.mmio_read(size << 12, width) {
                    assert!(u64::from(value) < 1 << (8 * width.bytes()), "more than was asked for");
                }
                let _ = ghcb.mmio_write(size << 12, width, 1);
            }
            6 => {
                if let Ok(Err(denied)) = ghcb.read_msr(0x1b) {
                    assert!(matches!(denied, Denied::Exception | Denied::Malformed));
                }
                let _ = ghcb.write_msr(0x1b, size);
            }
            7 => drop(ghcb.guest_request(size << 12, (size + 1) << 12)),
            8 | 9 => {
                // Never asked for before.
                let range = next..next + (size % 1030 + 1) * 4096;
                next = range.end;
                // SAFETY: addresses that nothing is at, each given once.
                let accepted = accept(&ghcb, unsafe { Unaccepted::new(range.clone()) }, &|at| at);
                let Ok(accepted) = accepted else { return };
                assert_eq!(accepted.range(), range);
                all(&host, &range, true);
                owned.push(accepted);
            }
            _ => {
                let Some(private) = owned.pop() else { continue };
                let range = private.range();
                let Ok(shared) = share(&ghcb, private, &|at| at) else { return };
                all(&host, &range, false);
                if what & 0x80 != 0 {
                    let Ok(private) = unshare(&ghcb, shared, &|at| at) else { return };
                    all(&host, &range, true);
                    owned.push(private);
                }
            }
        }
    }
    for private in &owned {
        all(&host, &private.range(), true);
    }
}

/// All pages of a range are validated, or none.
fn all(host: &Host<'_>, range: &std::ops::Range<u64>, validated: bool) {
    let state = host.state.lock().expect("no panic yet");
    let inside = state.validated.iter().filter(|page| range.contains(page)).count() as u64;
    assert_eq!(inside, if validated { (range.end - range.start) / 4096 } else { 0 }, "{range:x?}");
}

/// Pages that the host or the PSP fills.
fn pages(mut input: Input<'_>) {
    let (leaf, subleaf, xcr0) = (input.u32(), input.u32(), input.u64());
    let answer = input.u64();
    if let Ok(information) = SevInformation::try_from(answer) {
        assert!(information.minimum <= information.maximum && answer & 0xfff == 1);
    }
    let rest = input.rest();
    let mut page = [0; 4096];
    let len = rest.len().min(4096);
    page[..len].copy_from_slice(&rest[..len]);
    if let Ok(table) = CpuidTable::parse(&page) {
        table.get(leaf, subleaf, xcr0);
        let size = table.get(0xd, 0, xcr0)[1];
        assert!(size == 0 || size >= 576);
        if let Ok(position) = table.c_bit() {
            assert!((32..=51).contains(&position));
        }
    }
    if let Ok(map) = MemoryMap::parse(&page) {
        assert!(!map.ranges().is_empty());
        assert!(map.ranges().iter().all(|r| r.start < r.end && r.start % 4096 == 0 && r.end <= 1 << 51));
        assert!(map.ranges().windows(2).all(|two| two[0].end <= two[1].start));
    }
    let block = LaunchBlock::read_from_prefix(&page).expect("a page is large enough").0;
    if block.check().is_ok() {
        let launched = block.launched();
        for at in [block.cpuid, block.secrets, block.memory_map] {
            assert!(launched.start <= at && at + 4096 <= launched.end);
        }
        assert!(block.manifest + block.manifest_len <= launched.end);
    }
    let key: [u8; 32] = page[0x20..0x40].try_into().expect("32 bytes");
    if let Ok(secrets) = Secrets::take(&mut page) {
        assert!(secrets.vmpck0 == key && key != [0; 32]);
    }
    assert!(page == [0; 4096], "what stays of the secrets page");
}
