//! The devices: which there are (the command line says), the drivers of `platform_snp` for them, and what these need from the kernel.

use crate::cpu::percpu::PerCpu;
use crate::cpu::trap::DEVICE_VECTOR;
use crate::cpu::{apic, ioapic};
use crate::host::HOST;
use crate::mm::heap::POOL;
use crate::mm::kernel_map;
use crate::mm::layout::{DIRECT_MAP, direct};
use crate::snp;
use crate::{clock, log, power};
use alloc::boxed::Box;
use alloc::vec::Vec;
use boot::{BootInfo, DeviceLocation, MAX_COMMAND_LINE, MemoryRegion, Options};
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use litebox_core::manifest::Manifest;
use litebox_core::platform::{Attack, BlockDevice, Console, PAGE_SIZE};
use platform_snp::DeviceError;
use platform_snp::clock::{TscClock, calibrate, read_rtc};
use platform_snp::dma::{DmaPool, DmaRegion};
use platform_snp::fw_cfg::FwCfg;
use platform_snp::host::{Environment, HostIo};
use platform_snp::pci::{Message, Window};
use platform_snp::uart::{COM1, Uart};
use platform_snp::virtio::{Transport, blk, console, mmio::Mmio, pci};
use spin::{Mutex, Once};

/// The fw_cfg item with the manifest.
const MANIFEST_ITEM: &str = "opt/org.litebox/manifest";
/// The fw_cfg item with what a plain VM has on its command line.
const OPTIONS_ITEM: &str = "opt/org.litebox/options";
/// Bytes of a virtio-mmio device's registers.
const MMIO_SIZE: u64 = 0x200;
/// Physical addresses where every host that is known has PCI devices, or nothing: QEMU's q35 has memory up to 0xb000_0000 and its chipset from
/// 0xfec0_0000 on, cloud-hypervisor has its window for devices from 0xc000_0000 on.
const PCI_WINDOW: Range<u64> = 0xc000_0000..0xe000_0000;
/// The longest manifest that is read, in bytes.
const MANIFEST_MAX: usize = 1 << 20;

/// What drivers ask of the kernel.
struct KernelEnvironment;
static ENVIRONMENT: KernelEnvironment = KernelEnvironment;

impl Environment for KernelEnvironment {
    fn now(&self) -> u64 {
        clock::monotonic()
    }

    fn wait(&self) {
        core::hint::spin_loop();
    }

    fn attack(&self, attack: Attack, what: &'static str) {
        power::attack(attack, format_args!("{what}"))
    }

    fn lost(&self, what: &'static str) {
        if snp::active() {
            power::attack(Attack::BadDevice, format_args!("{what}"));
        }
    }
}

/// Memory that the host may read and write: in a plain VM any, in an SNP guest what was shared with it. Pages are shared many at a time, since each
/// time costs an exit; what is left of them waits for the next driver.
struct SharedPages;

/// Pages that are shared at once.
const SHARED_AT_ONCE: usize = 64;

/// Shared pages that no driver has yet: where they are, their physical address, and how many.
struct Spare {
    base: NonNull<u8>,
    bus: u64,
    pages: usize,
}

// SAFETY: the pages are nobody else's.
unsafe impl Send for Spare {}

static SPARE: Mutex<Option<Spare>> = Mutex::new(None);

impl Spare {
    fn new(pages: usize) -> Option<Spare> {
        let base = POOL.alloc_contiguous_raw(pages)?;
        let bus = base.as_ptr() as u64 - DIRECT_MAP;
        // SAFETY: fresh pages, never freed; the direct map gives their physical address.
        let base = unsafe { snp::share(base, pages)? };
        Some(Spare { base, bus, pages })
    }

    /// Cuts pages off its front.
    fn take(&mut self, pages: usize) -> Option<DmaRegion> {
        self.pages = self.pages.checked_sub(pages)?;
        let (base, bus, len) = (self.base, self.bus, pages * PAGE_SIZE);
        self.bus += len as u64;
        // SAFETY: the pages are ours for ever and cut off once; the next one is one past them at most.
        unsafe {
            self.base = base.add(len);
            base.as_ptr().write_bytes(0, len);
            Some(DmaRegion::new(base, bus, len))
        }
    }
}

impl DmaPool for SharedPages {
    fn allocate(&self, pages: usize) -> Option<DmaRegion> {
        let mut spare = SPARE.lock();
        if let Some(region) = spare.as_mut().and_then(|spare| spare.take(pages)) {
            return Some(region);
        }
        let at_once = if snp::active() { pages.max(SHARED_AT_ONCE) } else { pages };
        let mut fresh = Spare::new(at_once).or_else(|| Spare::new(pages))?;
        let region = fresh.take(pages);
        if spare.as_ref().is_none_or(|old| old.pages < fresh.pages) {
            *spare = Some(fresh);
        }
        region
    }
}

type AnyTransport = Box<dyn Transport>;
type Stdio = console::Console<'static, AnyTransport>;

/// What the command line names.
struct Devices {
    /// The console, and where it is.
    console: Option<(Stdio, DeviceLocation)>,
    root: Option<blk::Blk<'static, AnyTransport>>,
}

static DEVICES: Once<Devices> = Once::new();
static INTERRUPTS_ON: AtomicBool = AtomicBool::new(false);

fn stdio() -> Option<&'static (Stdio, DeviceLocation)> {
    DEVICES.get()?.console.as_ref()
}

/// The workload's standard streams.
pub fn console() -> &'static dyn Console {
    match stdio() {
        Some((console, _)) => console,
        None => power::bad_host(format_args!("no console device")),
    }
}

/// Whether there is a console yet: the machine may end before.
pub fn has_console() -> bool {
    stdio().is_some()
}

/// The device with the workload image.
pub fn root() -> Option<&'static dyn BlockDevice> {
    DEVICES.get()?.root.as_ref().map(|disk| disk as &dyn BlockDevice)
}

/// Ends the machine for a device that does not do what it must.
fn refuse(name: &str, error: DeviceError) -> ! {
    match error.attack() {
        Some((attack, what)) => power::attack(attack, format_args!("{name}: {what}")),
        None => power::bad_host(format_args!("{name}: {error}")),
    }
}

/// Makes a device's registers reachable.
fn map_registers(name: &str, registers: Range<u64>) {
    if !snp::active() && kernel_map::map_device(registers.start, registers.end - registers.start).is_err() {
        refuse(name, DeviceError::OutOfMemory);
    }
}

/// Finds a device, which is not touched yet.
fn find(name: &str, at: DeviceLocation, device_id: u32, window: &mut Window) -> AnyTransport {
    match at {
        DeviceLocation::Mmio { address, .. } => {
            map_registers(name, address..address + MMIO_SIZE);
            Box::new(Mmio::probe(&HOST, address, device_id).unwrap_or_else(|error| refuse(name, error)))
        }
        DeviceLocation::Pci(place) => {
            let found =
                pci::Found::find(&HOST, window, place, device_id).unwrap_or_else(|error| refuse(name, error));
            found.placed().for_each(|registers| map_registers(name, registers));
            Box::new(found.start(&HOST))
        }
    }
}

/// Where PCI devices get their registers: what is left of [`PCI_WINDOW`] when all memory is taken out of it.
fn pci_window(info: &BootInfo) -> Window {
    let top = |region: &MemoryRegion| if region.start < PCI_WINDOW.end { region.end } else { 0 };
    let start = info.memory().iter().map(top).max().unwrap_or(0).clamp(PCI_WINDOW.start, PCI_WINDOW.end);
    // Both ends of the window are below 4 GiB.
    Window::new(start as u32..PCI_WINDOW.end as u32)
}

/// Sets the serial port up and says that the kernel runs.
pub fn init_serial() {
    platform_snp::exit::booted(&Uart::new(&HOST, COM1));
}

/// What the command line says.
pub fn options(info: &BootInfo) -> Options {
    Options::parse(info.command_line())
        .unwrap_or_else(|error| power::bad_host(format_args!("kernel option {}: not a value of it", error.0)))
}

/// Sets the clock by what the launcher says, else by the PIT and the RTC.
pub fn init_clock(info: &BootInfo, options: &Options) {
    // A rate that cannot be is no rate.
    let told = options.tsc_khz.and_then(|khz| TscClock::new(info.entry_tsc, khz));
    let clock = told.unwrap_or_else(|| {
        let measured = calibrate(&HOST, clock::tsc).unwrap_or_else(|error| {
            power::bad_host(format_args!(
                "no tsc_khz= on the command line, and the PIT does not tell: {error}"
            ))
        });
        TscClock::new(info.entry_tsc, measured)
            .unwrap_or_else(|| power::bad_host(format_args!("a TSC of {measured} kHz cannot be")))
    });
    let realtime = options.realtime_ns.or_else(|| read_rtc(&HOST).ok()).unwrap_or(0);
    clock::init(clock, realtime);
}

/// Reads a fw_cfg item of at most `limit` bytes.
fn fw_cfg_item(name: &str, pages: usize, limit: usize) -> Result<Vec<u8>, DeviceError> {
    let region = SharedPages.allocate(pages).ok_or(DeviceError::OutOfMemory)?;
    let fw_cfg = FwCfg::new(&HOST, &ENVIRONMENT, region)?;
    let item = fw_cfg.find(name)?.ok_or(DeviceError::Absent)?;
    fw_cfg.read(item, limit)
}

/// In an SNP guest nothing that the host says is in the launch image: where its devices are and what time it is are in an item of their own, and
/// believed no more than any answer of a device.
pub fn read_options(info: &mut BootInfo) {
    if info.snp.is_none() {
        return;
    }
    let bytes = fw_cfg_item(OPTIONS_ITEM, 1, MAX_COMMAND_LINE)
        .unwrap_or_else(|error| refuse("options (fw_cfg item opt/org.litebox/options)", error));
    if let Err(error) = info.set_command_line(&bytes) {
        power::bad_host(format_args!("{error}"));
    }
}

/// Finds the manifest: in an SNP guest it was launched and measured, in a plain VM the host hands it
/// over, with the start info or, where it is too long for that, as a fw_cfg item.
pub fn manifest(info: &BootInfo) -> Manifest {
    let range = match &info.snp {
        Some(snp) => Some(snp.block.manifest..snp.block.manifest + snp.block.manifest_len),
        None => info.manifest(),
    };
    let bytes = match range {
        // SAFETY: in an SNP guest inside of what was launched, as `LaunchBlock::check` saw; in a plain VM RAM that the pool never gets, as
        // `BootInfo::set_manifest` saw. Both are in the direct map and nobody writes there.
        Some(range) => unsafe {
            core::slice::from_raw_parts(direct(range.start), (range.end - range.start) as usize).to_vec()
        },
        None => fw_cfg_item(MANIFEST_ITEM, 4, MANIFEST_MAX)
            .unwrap_or_else(|error| refuse("manifest (fw_cfg item opt/org.litebox/manifest)", error)),
    };
    match Manifest::parse(&bytes) {
        Ok(manifest) => manifest,
        Err(error) => power::bad_launch(format_args!("manifest: {error}")),
    }
}

/// Starts the drivers.
pub fn init(info: &BootInfo, options: &Options) {
    let mut devices = Devices { console: None, root: None };
    let mut window = pci_window(info);
    if let Some(at) = options.console {
        let transport = find("console", at, console::DEVICE_ID, &mut window);
        let device = console::Console::new(&HOST, &ENVIRONMENT, &SharedPages, transport)
            .unwrap_or_else(|error| refuse("console", error));
        devices.console = Some((device, at));
    }
    if let Some(at) = options.root {
        let transport = find("root disk", at, blk::DEVICE_ID, &mut window);
        let device = blk::Blk::new(&HOST, &ENVIRONMENT, &SharedPages, transport)
            .unwrap_or_else(|error| refuse("root disk", error));
        devices.root = Some(device);
    }
    DEVICES.call_once(|| devices);
    log::line(format_args!("console {}, root disk {}", has_console(), root().is_some()));
}

/// Looks after the devices: when the CPU is about to idle, and when a thread gives it up.
///
/// The interrupt is acknowledged before the rings are looked at: what the device adds after that raises the line anew. A line that stays up
/// would give no further edge.
pub fn poll() {
    if let Some((console, _)) = stdio() {
        if INTERRUPTS_ON.load(Ordering::Relaxed) {
            PerCpu::get().work_pending.set(false);
            console.ack_interrupt();
        }
        console.poll();
    }
}

/// Lets devices interrupt; called when the CPU is about to idle for the first time. A program that never waits does not pay for it.
pub fn enable_interrupts() {
    if INTERRUPTS_ON.swap(true, Ordering::Relaxed) {
        return;
    }
    // A BIOS may have left the 8259s unmasked, on vectors that are exceptions'.
    HOST.out8(0x21, 0xff);
    HOST.out8(0xa1, 0xff);
    let Some((console, at)) = stdio() else { return };
    let routed = match at {
        DeviceLocation::Mmio { line, .. } => ioapic::enable(*line).is_ok(),
        DeviceLocation::Pci(_) => match u8::try_from(apic::id()) {
            Ok(apic_id) => console
                .route_interrupts(Message { apic_id, vector: DEVICE_VECTOR })
                .unwrap_or_else(|error| refuse("console", error)),
            Err(_) => false,
        },
    };
    if !routed {
        log::line(format_args!("the console cannot interrupt: input is looked for on timer ticks only"));
    }
}
