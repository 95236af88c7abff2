//! The local APIC: end of interrupt, and the one-shot timer.
//!
//! In x2APIC mode where the CPU has it, else through its page. The timer counts the TSC (TSC-deadline) where it can; else its own clock,
//! whose rate is measured against the TSC the first time it is needed. Source: SDM vol. 3, chapter 11; APM vol. 2, chapter 16.

use super::features;
use super::msr::Msr;
use super::trap::{SPURIOUS_VECTOR, TIMER_VECTOR};
use crate::clock;
use crate::mm::kernel_map;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use spin::Once;

const BASE_MSR: u32 = 0x1b;
const ENABLE: u64 = 1 << 11;
const ENABLE_X2APIC: u64 = 1 << 10;
const PHYSICAL: u64 = 0xfee0_0000;
const X2APIC_MSRS: u32 = 0x800;
const TSC_DEADLINE_MSR: u32 = 0x6e0;

/// Registers, as offsets in the page; the x2APIC's MSR is 0x800 + offset / 16.
const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;

const MASKED: u32 = 1 << 16;
const MODE_TSC_DEADLINE: u32 = 2 << 17;
const DIVIDE_BY_1: u32 = 0b1011;

/// The register page, where x2APIC mode is off.
static PAGE: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static READY: Once<bool> = Once::new();
static ARMED: AtomicBool = AtomicBool::new(false);
/// Timer ticks per 2^32 nanoseconds.
static RATE: Once<u64> = Once::new();

fn read(register: u32) -> u32 {
    let page = PAGE.load(Ordering::Relaxed);
    // SAFETY: registers of this CPU's APIC, whose page is mapped or which is in x2APIC mode; reading these has no side effect.
    unsafe {
        if page.is_null() {
            Msr::new(X2APIC_MSRS + register / 16).read() as u32
        } else {
            page.add(register as usize).cast::<u32>().read_volatile()
        }
    }
}

fn write(register: u32, value: u32) {
    let page = PAGE.load(Ordering::Relaxed);
    // SAFETY: as in `read`; what is written only makes interrupts on the allow-list come or not come.
    unsafe {
        if page.is_null() {
            Msr::new(X2APIC_MSRS + register / 16).write(u64::from(value));
        } else {
            page.add(register as usize).cast::<u32>().write_volatile(value);
        }
    }
}

/// Switches the APIC on the first time that an interrupt is wanted: a program that never waits does not pay for it.
fn init() -> bool {
    *READY.call_once(|| {
        let mut base = Msr::new(BASE_MSR);
        // SAFETY: enabling the APIC, with its page where it has always been.
        unsafe {
            let value = base.read() & 0xfff;
            if features::get().x2apic {
                base.write(value | PHYSICAL | ENABLE);
                base.write(value | PHYSICAL | ENABLE | ENABLE_X2APIC);
            } else {
                let Ok(page) = kernel_map::map_device(PHYSICAL, 4096) else { return false };
                PAGE.store(page, Ordering::Relaxed);
                base.write(value | PHYSICAL | ENABLE);
            }
        }
        write(LVT_LINT0, MASKED);
        write(LVT_LINT1, MASKED);
        write(TASK_PRIORITY, 0);
        write(SPURIOUS, 1 << 8 | u32::from(SPURIOUS_VECTOR));
        if features::get().tsc_deadline {
            write(LVT_TIMER, MODE_TSC_DEADLINE | u32::from(TIMER_VECTOR));
            // SAFETY: MFENCE orders the write to the register page before that to the MSR, as the SDM asks (11.5.4.1).
            unsafe { core::arch::x86_64::_mm_mfence() };
        } else {
            write(DIVIDE, DIVIDE_BY_1);
            write(LVT_TIMER, MASKED | u32::from(TIMER_VECTOR));
            RATE.call_once(measure);
            write(LVT_TIMER, u32::from(TIMER_VECTOR));
        }
        true
    })
}

/// Counts the timer's ticks over half a millisecond of the TSC's clock.
fn measure() -> u64 {
    const WINDOW: u64 = 500_000;
    let start = clock::monotonic();
    write(INITIAL_COUNT, u32::MAX);
    while clock::monotonic() - start < WINDOW {
        core::hint::spin_loop();
    }
    let ticks = u64::from(u32::MAX - read(CURRENT_COUNT));
    let elapsed = clock::monotonic() - start;
    write(INITIAL_COUNT, 0);
    (((u128::from(ticks) << 32) / u128::from(elapsed.max(1))) as u64).max(1)
}

/// This CPU's APIC id.
pub fn id() -> u32 {
    init();
    let raw = read(ID);
    if PAGE.load(Ordering::Relaxed).is_null() { raw } else { raw >> 24 }
}

/// Says that the interrupt in service is done with.
pub fn end_of_interrupt() {
    ARMED.store(false, Ordering::Relaxed);
    write(EOI, 0);
}

/// Makes the timer fire when the monotonic clock reaches `at`; `None`: not at all.
pub fn set_timer(at: Option<u64>) {
    let Some(at) = at else {
        if ARMED.swap(false, Ordering::Relaxed) {
            if features::get().tsc_deadline {
                // SAFETY: zero disarms.
                unsafe { Msr::new(TSC_DEADLINE_MSR).write(0) };
            } else {
                write(INITIAL_COUNT, 0);
            }
        }
        return;
    };
    if !init() {
        return;
    }
    if features::get().tsc_deadline {
        // SAFETY: any TSC value is legal; one in the past fires at once, zero is none.
        unsafe { Msr::new(TSC_DEADLINE_MSR).write(clock::tsc_at(at).max(1)) };
    } else {
        let wait = at.saturating_sub(clock::monotonic());
        let ticks = (u128::from(wait) * u128::from(RATE.get().copied().unwrap_or(1 << 32))) >> 32;
        // Fires early where the count does not hold the wait: the scheduler looks at the clock again.
        write(INITIAL_COUNT, u32::try_from(ticks).unwrap_or(u32::MAX).max(1));
    }
    ARMED.store(true, Ordering::Relaxed);
}
