//! The real local APIC: kicks, the timer, and starting CPUs. Source: AMD APM volume 2, chapter 16.

use super::interrupts::{KICK, SPURIOUS, TIMER};
use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};

const BASE: usize = 0xfee0_0000;
const ID: usize = 0x20;
const TPR: usize = 0x80;
const EOI: usize = 0xb0;
const LDR: usize = 0xd0;
const DFR: usize = 0xe0;
const SVR: usize = 0xf0;
const ISR: usize = 0x100;
const ICR: usize = 0x300;
const ICR_HIGH: usize = 0x310;
const LVT_TIMER: usize = 0x320;
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const INITIAL: usize = 0x380;
const CURRENT: usize = 0x390;
const DIVIDE: usize = 0x3e0;

fn read(register: usize) -> u32 {
    // SAFETY: the page is the local APIC's and mapped; reading these registers has no effect on memory.
    unsafe { ((BASE + register) as *const u32).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: as above; interrupts that a write causes find the handlers loaded.
    unsafe { ((BASE + register) as *mut u32).write_volatile(value) }
}

/// This CPU's number.
pub fn id() -> u32 {
    read(ID) >> 24
}

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    write(EOI, 0);
}

/// Whether this vector came through the APIC and is in service.
pub fn in_service(vector: u8) -> bool {
    read(ISR + usize::from(vector / 32) * 16) >> (vector % 32) & 1 != 0
}

/// Whether this CPU takes the 8259's interrupts.
pub fn pass_external(pass: bool) {
    // QEMU's APIC looks at an interrupt of the 8259 that already waits only when it considers all of them again, as at a write to the
    // task priority, and only while LINT0 is for external interrupts. One that it overlooks is delivered as vector -1, a #GP with error -14.
    write(LVT_LINT0, if pass { 0x700 } else { 0x1_0700 });
    write(TPR, 0);
}

/// Switches the APIC on. The first CPU passes the 8259's interrupts on.
pub fn enable(first: bool) {
    write(SVR, 0x100 | u32::from(SPURIOUS));
    pass_external(first);
    write(LVT_LINT1, 0x400);
    write(DIVIDE, 0xb);
    write(LVT_TIMER, u32::from(TIMER));
}

/// Sets this CPU's logical id and the format of such ids.
pub fn set_logical_id(ldr: u32, dfr: u32) {
    write(DFR, dfr);
    write(LDR, ldr);
}

fn command(target: u32, low: u32) {
    while read(ICR) >> 12 & 1 != 0 {
        core::hint::spin_loop();
    }
    write(ICR_HIGH, target << 24);
    write(ICR, low);
}

/// Interrupts another CPU.
pub fn kick(target: u32) {
    command(target, 0x4000 | u32::from(KICK));
}

/// Starts another CPU at the page `at`.
pub fn start(target: u32, at: u8) {
    command(target, 0x4500);
    let until = tsc() + 1_000_000;
    while tsc() < until {
        core::hint::spin_loop();
    }
    command(target, 0x4600 | u32::from(at));
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: every CPU of this kind has it.
    unsafe { _rdtsc() }
}

/// Cycles of the TSC per tick of the timer, times 65536.
static RATIO: AtomicU64 = AtomicU64::new(0);

/// Measures the timer against the TSC: a fraction of a millisecond.
pub fn calibrate() {
    write(LVT_TIMER, 0x1_0000 | u32::from(TIMER));
    write(INITIAL, u32::MAX);
    let (start, count) = (tsc(), read(CURRENT));
    while count.wrapping_sub(read(CURRENT)) < 300_000 {
        core::hint::spin_loop();
    }
    let (cycles, ticks) = (tsc() - start, count.wrapping_sub(read(CURRENT)));
    write(INITIAL, 0);
    write(LVT_TIMER, u32::from(TIMER));
    RATIO.store((cycles << 16) / u64::from(ticks.max(1)), Ordering::Relaxed);
}

/// Interrupts this CPU when the TSC reaches `deadline`, or not at all.
pub fn set_timer(deadline: Option<u64>) {
    let ticks = deadline.map_or(0, |deadline| {
        let ratio = RATIO.load(Ordering::Relaxed).max(1);
        let cycles = deadline.saturating_sub(tsc());
        (u128::from(cycles) * 65536 / u128::from(ratio)).clamp(1, u32::MAX.into()) as u32
    });
    write(INITIAL, ticks);
}
