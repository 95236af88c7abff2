//! Bare metal: boot, this machine's CPUs, and the loop that runs guest CPUs on them.

mod apic;
mod boot;
mod channel;
mod fw_cfg;
mod interrupts;
mod launch;
mod machine;
// The copying functions are the kernel's; which way is fast is not asked here.
#[allow(dead_code)]
#[path = "../../../../kernel/src/memory_functions.rs"]
mod memory_functions;
mod port;
mod start_info;
mod svm;

use alloc::boxed::Box;
use alloc::string::ToString;
use core::sync::atomic::{AtomicU64, Ordering};
use linked_list_allocator::LockedHeap;
use machine::{IN_GUEST, TheMachine};
use snp_emulator::ending::Ending;
use snp_emulator::malice::Malice;
use snp_emulator::malice::wire::{self, Refused};
use snp_emulator::options::{self, Options};
use snp_emulator::vm::Next;
use snp_emulator::vmcb::{Registers, Vmcb};
use spin::{Mutex, Once};

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Where physical address 0 of the image is by now.
static MOVED_TO: AtomicU64 = AtomicU64::new(0);

static MACHINE: Once<Mutex<TheMachine>> = Once::new();
/// Permission maps, one for all CPUs: ports, MSRs.
static MAPS: Once<(u64, u64)> = Once::new();

/// The physical address of something of the emulator's.
fn physical(address: u64) -> u64 {
    if address >= boot::BASE { address - boot::BASE + MOVED_TO.load(Ordering::Relaxed) } else { address }
}

/// Zeroed pages, for ever.
fn pages(count: usize) -> u64 {
    let layout = core::alloc::Layout::from_size_align(count * 4096, 4096).expect("a few pages");
    // SAFETY: the layout is not empty.
    let memory = unsafe { alloc::alloc::alloc_zeroed(layout) };
    assert!(!memory.is_null(), "out of memory: give the emulator more (reserve=)");
    memory as u64
}

extern "C" fn main(start_info: u64) -> ! {
    // An empty line, which says when this program began to whom that interests.
    channel::write(b"\n");
    // SAFETY: the address is what the loader left in EBX at the PVH entry.
    let info = unsafe { start_info::read(start_info) };
    let reserve = info.option("reserve").unwrap_or(64) << 20;
    let home = info.low_memory_end().saturating_sub(reserve) & !0x1f_ffff;
    // The image is loaded below 8 MiB.
    assert!(home >= 8 << 20, "too little memory");
    // SAFETY: the range is the end of a region of RAM, far above where the image was loaded; nothing else runs.
    unsafe { boot::move_to(home) };
    MOVED_TO.store(home, Ordering::Relaxed);
    let heap = (home + boot::image_end() + 0xfff) & !0xfff;
    // SAFETY: the rest of the region that was reserved.
    unsafe { HEAP.lock().init(heap as *mut u8, (info.low_memory_end() - heap) as usize) };
    interrupts::load();
    // The 8259s: masked until the guest programs them.
    port::write8(0x21, 0xff);
    port::write8(0xa1, 0xff);
    apic::enable(true);
    apic::calibrate();

    // Another seed each time. What comes of it are test keys, not secrets: the clock will do.
    let parse = |text: &[u8]| Options::parse(text, apic::tsc() | 1);
    let given = parse(&fw_cfg::read("opt/org.litebox/emulate").unwrap_or_default());
    let options = given.clone().or_else(|_| parse(b"")).expect("no options are some");
    let cpus = options.cpus;
    enable_svm();
    for index in 1..cpus {
        start_cpu(index);
    }
    MAPS.call_once(machine::permission_maps);
    let mut machine = machine::new(&info, home, &options, cpus);
    machine.malice =
        malice().unwrap_or_else(|refused| finish(&mut machine, &Ending::Launch(refused.to_string())));
    let launched =
        given.map_err(Ending::Launch).and_then(|_| launch::load(&mut machine, &info, home, &options));
    if let Err(ending) = launched {
        finish(&mut machine, &ending);
    }
    machine.launched();
    MACHINE.call_once(|| Mutex::new(machine));
    run(0)
}

fn enable_svm() {
    // SAFETY: a page of this CPU's own.
    unsafe { svm::enable(pages(1)) };
}

/// Pages that a script may put in place of others.
const SPARE_PAGES: usize = 64;

/// The attacks of the script, if the launcher gave one.
fn malice() -> Result<Option<Box<Malice>>, Refused> {
    let Some(bytes) = fw_cfg::read("opt/org.litebox/script") else { return Ok(None) };
    let mut malice = Malice::new(wire::decode(&bytes)?);
    let spare = pages(SPARE_PAGES);
    malice.spare = (0..SPARE_PAGES as u64).map(|i| spare + i * 4096).collect();
    Ok(Some(Box::new(malice)))
}

/// CPUs that have arrived.
static ARRIVED: AtomicU64 = AtomicU64::new(1);

fn start_cpu(index: u32) {
    let stack = pages(16) + 16 * 4096;
    // SAFETY: low memory is not the guest's yet; the stack was made for this CPU.
    unsafe { boot::prepare_ap(index.into(), stack, ap_main) };
    apic::start(index, 8);
    let until = apic::tsc() + 10_000_000_000;
    while ARRIVED.load(Ordering::Acquire) <= u64::from(index) {
        assert!(apic::tsc() < until, "CPU {index} does not start");
        core::hint::spin_loop();
    }
}

extern "C" fn ap_main(index: u64) -> ! {
    interrupts::load();
    apic::enable(false);
    enable_svm();
    ARRIVED.fetch_add(1, Ordering::Release);
    while MACHINE.get().is_none() {
        core::hint::spin_loop();
    }
    run(index as usize)
}

/// Runs a guest CPU for ever.
fn run(cpu: usize) -> ! {
    let machine = MACHINE.get().expect("made before any CPU runs");
    let vmcb: &mut Vmcb = Box::leak(Box::new(Vmcb::ZERO));
    let host: &mut Vmcb = Box::leak(Box::new(Vmcb::ZERO));
    let &(iopm, msrpm) = MAPS.get().expect("made before any CPU runs");
    (vmcb.iopm, vmcb.msrpm) = (iopm, msrpm);
    let mut registers = Registers::default();
    let mut timer = None;
    loop {
        let next = {
            let mut machine = machine.lock();
            let this = &mut *machine;
            let cell = core::cell::RefCell::new(this);
            interrupts::drain(
                cpu,
                |vector| cell.borrow_mut().device_interrupt(cpu, vector),
                |vector| cell.borrow_mut().external_interrupt(vector),
            );
            let next = machine.enter(cpu, vmcb, &mut registers);
            if next == Next::Run {
                let deadline = machine.deadline(cpu);
                if deadline != timer {
                    timer = deadline;
                    apic::set_timer(timer);
                }
                IN_GUEST[cpu].store(true, Ordering::SeqCst);
            }
            if let Next::End(ending) = &next {
                finish(&mut machine, ending);
            }
            next
        };
        match next {
            Next::Run => {
                // SAFETY: both blocks are this CPU's alone; nested tables map guest memory only.
                unsafe { svm::run(vmcb, &mut registers, host) };
                IN_GUEST[cpu].store(false, Ordering::SeqCst);
                interrupts::open_window();
                let mut machine = machine.lock();
                if let Next::End(ending) = machine.exit(cpu, vmcb, &mut registers) {
                    finish(&mut machine, &ending);
                }
            }
            Next::Sleep(deadline) => {
                apic::set_timer(deadline);
                timer = None;
                interrupts::sleep();
            }
            _ => {
                apic::set_timer(None);
                timer = None;
                interrupts::sleep();
            }
        }
    }
}

/// Tells the launcher how it ended, and ends QEMU.
fn finish(machine: &mut TheMachine, ending: &Ending) -> ! {
    machine.scan_shared();
    channel::write(machine.summary(ending).as_bytes());
    power_off(0)
}

fn power_off(status: u32) -> ! {
    loop {
        port::write32(options::DEBUG_EXIT, status);
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    use core::fmt::Write;
    channel::write(b"{\"emulator_bug\":\"");
    let _ = write!(channel::Writer, "{info}");
    channel::write(b"\"}\n");
    power_off(1)
}
