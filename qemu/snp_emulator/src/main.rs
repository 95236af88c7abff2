//! The emulator's program: bare metal inside QEMU. Everything that is not about this machine is in the library.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(target_os = "none")]
extern crate alloc;
#[cfg(target_os = "none")]
mod bare;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("snp_emulator is a bare-metal program; `cargo xtask emulate` builds and starts it");
    std::process::exit(2);
}
