//! The unikernel: CPU mechanism for the LiteBox core, on the South platform of `platform_snp`.
//!
//! Control flow: [`boot`] calls [`kernel_main`], which sets up the CPU, memory, clock, entropy and devices, then starts the scheduler with one
//! thread that runs the workload. The machine ends in `power` only: workload over, host attack, or kernel bug.
#![no_std]
#![no_main]

extern crate alloc;

mod clock;
mod cpu;
mod entropy;
mod memory_functions;
mod mm;
mod platform;
mod power;
mod sched;
mod vdso;

use boot::{BootError, BootInfo};
use core::panic::PanicInfo;
use cpu::percpu::PerCpu;
use cpu::{descriptors, features};

/// Called by boot, once, on the boot stack.
#[unsafe(no_mangle)]
fn kernel_main(info: &BootInfo) -> ! {
    let cpu = PerCpu::init_boot_cpu();
    descriptors::init(cpu);
    features::init();
    memory_functions::set_fast_string(features::get().fast_string);
    if mm::kernel_map::init(info).is_err() {
        power::bad_launch(format_args!("not enough memory to start: give the VM at least 16 MiB (--memory 16M)"));
    }
    platform::start(info)
}

/// Called by boot instead of [`kernel_main`] when there is nothing to start from.
#[unsafe(no_mangle)]
fn kernel_boot_failed(error: BootError) -> ! {
    power::bad_launch(format_args!("{error}"))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    power::bug(info)
}
