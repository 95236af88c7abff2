//! The unikernel: CPU mechanism for the LiteBox core, on the South platform of `platform_snp`.
//!
//! Control flow: [`boot`] calls `kernel_main`, which sets up the CPU, memory, clock, entropy and devices, then starts the scheduler with one
//! thread that runs `litebox_main`: the program that this library is linked into. The kernel proper (`main.rs`) defines it as “run
//! the workload that the manifest names”; `examples/north` as a Rust program on the North, without a system call.
//! The machine ends in `power` only: workload over, host attack, or kernel bug.
#![no_std]

extern crate alloc;

mod clock;
mod cpu;
mod devices;
mod entropy;
mod host;
mod log;
mod memory_functions;
mod mm;
pub mod platform;
mod power;
mod sched;
pub mod selftest;
mod snp;
mod vdso;

pub use platform::Kernel;

use alloc::boxed::Box;
use boot::{BootError, BootInfo};
use core::panic::PanicInfo;
use cpu::percpu::PerCpu;
use cpu::{descriptors, features};
use litebox_core::manifest::{LogLevel, Manifest};

unsafe extern "Rust" {
    /// What this machine is for; defined by the program that links the kernel. Runs on a kernel thread of its own.
    safe fn litebox_main(kernel: &'static Kernel, manifest: Manifest) -> !;
}

/// Called by boot, once, on the boot stack.
#[unsafe(no_mangle)]
fn kernel_main(info: &mut BootInfo) -> ! {
    if let Some(snp) = &info.snp {
        cpu::cpuid::use_table(snp.cpuid.clone());
        mm::layout::set_c_bit(snp.block.c_bit as u32);
    }
    let cpu = PerCpu::init_boot_cpu();
    descriptors::init(cpu);
    features::init();
    memory_functions::set_fast_string(features::get().fast_string);
    if mm::kernel_map::init(info).is_err() {
        power::bad_host(format_args!(
            "not enough memory to start: give the VM at least 16 MiB (--memory 16M)"
        ));
    }
    devices::init_serial();
    devices::read_options(info);
    let options = devices::options(info);
    devices::init_clock(info, &options);
    if let Err(why) = entropy::init() {
        power::bad_host(format_args!("no entropy: {why}"));
    }
    let manifest = devices::manifest(info);
    log::set_enabled(manifest.log != LogLevel::Off);
    log::line(format_args!("{} pages of memory, {} kHz", mm::heap::POOL.total_pages(), clock::khz()));
    devices::init(info, &options);
    let main = Box::new(move || litebox_main(&platform::KERNEL, manifest));
    if sched::spawn(main).is_err() {
        power::bad_launch(format_args!("not enough memory for the first thread"));
    }
    sched::start()
}

/// Called by boot instead of [`kernel_main`] when there is nothing to start from.
#[unsafe(no_mangle)]
fn kernel_boot_failed(error: BootError) -> ! {
    power::bad_launch(format_args!("{error}"))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    power::panic(info)
}
