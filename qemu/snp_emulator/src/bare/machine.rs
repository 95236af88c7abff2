//! The machine underneath, as the library sees it.

use super::start_info::StartInfo;
use super::{apic, channel, pages, port};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use snp_emulator::hardware::Hardware;
use snp_emulator::memory::PhysicalMemory;
use snp_emulator::nested::Nested;
use snp_emulator::options::{CHANNEL, CPUS, DEBUG_EXIT, Options};
use snp_emulator::rmp::Rmp;
use snp_emulator::vm::{Config, Machine};

/// The machine of this run.
pub type TheMachine = Machine<Real, Identity>;

/// Which CPUs run the guest now, or are about to.
pub static IN_GUEST: [AtomicBool; CPUS] = [const { AtomicBool::new(false) }; CPUS];

/// QEMU.
pub struct Real {
    random: u64,
}

impl Hardware for Real {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        match size {
            1 => port::read8(port).into(),
            2 => port::read16(port).into(),
            _ => port::read32(port),
        }
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        match size {
            1 => port::write8(port, value as u8),
            2 => port::write16(port, value as u16),
            _ => port::write32(port, value),
        }
    }

    fn mmio_read(&mut self, address: u64, size: u8) -> u64 {
        // SAFETY: the machine asks for addresses of devices only; everything is mapped one to one.
        unsafe {
            match size {
                1 => (address as *const u8).read_volatile().into(),
                2 => (address as *const u16).read_volatile().into(),
                4 => (address as *const u32).read_volatile().into(),
                _ => (address as *const u64).read_volatile(),
            }
        }
    }

    fn mmio_write(&mut self, address: u64, size: u8, value: u64) {
        // SAFETY: as above.
        unsafe {
            match size {
                1 => (address as *mut u8).write_volatile(value as u8),
                2 => (address as *mut u16).write_volatile(value as u16),
                4 => (address as *mut u32).write_volatile(value as u32),
                _ => (address as *mut u64).write_volatile(value),
            }
        }
    }

    fn tsc(&self) -> u64 {
        apic::tsc()
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        [r.eax, r.ebx, r.ecx, r.edx]
    }

    fn kick(&mut self, cpu: usize) {
        apic::kick(cpu as u32);
    }

    fn logical_id(&mut self, ldr: u32, dfr: u32) {
        apic::set_logical_id(ldr, dfr);
    }

    fn pass_external(&mut self, pass: bool) {
        apic::pass_external(pass);
    }

    fn shoot_down(&mut self, cpu: usize) {
        for (other, flag) in IN_GUEST.iter().enumerate().filter(|&(other, _)| other != cpu) {
            if flag.load(Ordering::SeqCst) {
                apic::kick(other as u32);
                while flag.load(Ordering::SeqCst) {
                    core::hint::spin_loop();
                }
            }
        }
    }

    fn report(&mut self, bytes: &[u8]) {
        channel::write(bytes);
    }

    fn random(&mut self) -> u64 {
        // Test keys, not secrets.
        self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.random ^ self.random >> 29
    }
}

/// Memory, mapped one to one.
pub struct Identity {
    /// Where RAM ends below 4 GiB, and above.
    ends: (u64, u64),
    /// What of it is RAM and nothing else.
    ram: Vec<core::ops::Range<u64>>,
}

impl Identity {
    fn has(&self, spa: u64, len: usize) -> bool {
        let end = spa.saturating_add(len as u64);
        end <= self.ends.0 || (spa >= 1 << 32 && end <= self.ends.1)
    }
}

impl PhysicalMemory for Identity {
    fn holds(&self, spa: u64) -> bool {
        self.ram.iter().any(|ram| ram.contains(&spa))
    }

    fn read(&self, spa: u64, into: &mut [u8]) {
        if !self.has(spa, into.len()) {
            into.fill(0xff);
            return;
        }
        // SAFETY: RAM, mapped one to one; that a guest CPU writes it at the same time gives one value or the other.
        unsafe { core::ptr::copy_nonoverlapping(spa as *const u8, into.as_mut_ptr(), into.len()) };
    }

    fn write(&self, spa: u64, from: &[u8]) {
        if self.has(spa, from.len()) {
            // SAFETY: as above; the machine writes guest memory and its own tables only.
            unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), spa as *mut u8, from.len()) };
        }
    }

    fn read_u64(&self, spa: u64) -> u64 {
        if !self.has(spa, 8) {
            return !0;
        }
        // SAFETY: as above.
        unsafe { (spa as *const u64).read_unaligned() }
    }

    fn write_u64(&self, spa: u64, value: u64) {
        if self.has(spa, 8) {
            // SAFETY: as above.
            unsafe { (spa as *mut u64).write_unaligned(value) };
        }
    }
}

/// All ports are the guest's to ask for, none to touch; of MSRs it has those that belong to its own state.
pub fn permission_maps() -> (u64, u64) {
    let (iopm, msrpm) = (pages(4), pages(2));
    // SAFETY: pages just made.
    unsafe {
        (iopm as *mut u8).write_bytes(0xff, 4 * 4096);
        (msrpm as *mut u8).write_bytes(0xff, 2 * 4096);
    }
    // TSC, SYSENTER, PAT; EFER, STAR and its kin; FS and GS bases, TSC_AUX.
    let own = [0x174, 0x175, 0x176, 0x277]
        .into_iter()
        .chain(0xc000_0080..=0xc000_0084)
        .chain(0xc000_0100..=0xc000_0103);
    let allow = |msr: u32, bits: u8| {
        // Two bits an MSR, in ranges of 0x2000 (APM volume 2, 15.11).
        let bit = match msr {
            0..=0x1fff => msr * 2,
            0xc000_0000..=0xc000_1fff => (msr - 0xc000_0000) * 2 + 0x4000,
            _ => (msr & 0x1fff) * 2 + 0x8000,
        };
        let at = (msrpm + u64::from(bit / 8)) as *mut u8;
        // SAFETY: inside the two pages.
        unsafe { at.write(at.read() & !(bits << (bit % 8))) };
    };
    // EFER's writes are looked at: SVME stays.
    own.for_each(|msr| allow(msr, if msr == 0xc000_0080 { 1 } else { 3 }));
    allow(0x10, 1);
    (iopm, msrpm)
}

/// A machine with nothing in it.
pub fn new(info: &StartInfo, home: u64, options: &Options, cpus: u32) -> TheMachine {
    let _ = home;
    let above = |r: &&super::start_info::Region| r.kind == 1 && r.start >= 1 << 32;
    let high_end = info.regions().iter().filter(above).map(|r| r.start + r.size).max().unwrap_or(0);
    let low_end =
        info.regions().iter().filter(|r| r.start + r.size <= 0xc000_0000).map(|r| r.start + r.size).max();
    let low_end = low_end.unwrap_or(0);
    let ram = info.regions().iter().filter(|r| r.kind == 1).map(|r| r.start..r.start + r.size).collect();
    let memory = Identity { ends: (low_end, high_end), ram };
    let mut hardware = Real { random: options.seed };
    let config = Config {
        c_bit: options.c_bit,
        sev_features: options.sev_features(),
        trace: options.trace,
        implicit_conversion: !options.strict,
        memory_key: hardware.random(),
        tsc_khz: options.tsc_khz,
        debug_exit: DEBUG_EXIT,
        channel: CHANNEL,
    };
    let system = low_end.max(high_end);
    // Tables for 4 KiB pages of both views of all memory, if it comes to that.
    let count = (system >> 21) as usize * 2 + 128;
    let first = pages(count);
    let tables = (0..count as u64).map(|i| first + i * 4096).collect();
    // SAFETY: reads a register.
    let levels = if unsafe { cr4() } >> 12 & 1 != 0 { 5 } else { 4 };
    let nested = Nested::new(&memory, options.c_bit, levels, tables);
    Machine::new(hardware, memory, config, cpus, Rmp::new(system), nested)
}

/// CR4.
///
/// # Safety
/// Ring 0.
unsafe fn cr4() -> u64 {
    let value: u64;
    // SAFETY: the caller's promise.
    unsafe { core::arch::asm!("mov {}, cr4", out(reg) value) };
    value
}
