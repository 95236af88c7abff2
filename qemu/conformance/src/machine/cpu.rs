//! Instructions and registers that every ring 0 has.

use core::arch::asm;

/// Reads an MSR.
///
/// # Safety
/// The MSR exists, and reading it without a #VC handler of ours is possible.
pub unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR.
///
/// # Safety
/// As above, and the value does no harm to Rust's code.
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
    };
}

/// Reads CR2.
pub fn cr2() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack)) };
    value
}

/// Forgets the translation of an address.
pub fn invlpg(address: u64) {
    // SAFETY: only a translation is forgotten.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack)) };
}

/// The time-stamp counter.
pub fn rdtsc() -> u64 {
    // SAFETY: reads a register; not intercepted, and if it were, the probe would not use this.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Lets interrupts in for the time of one HLT.
pub fn halt_with_interrupts() {
    // SAFETY: the handlers save what they change.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// Lets interrupts in for a moment.
pub fn interrupt_window() {
    // SAFETY: as above.
    unsafe { asm!("sti", "nop", "nop", "cli") };
}
