//! The kernel proper: runs the workload that the manifest names.
#![no_std]
#![no_main]

use kernel::Kernel;
use litebox_core::manifest::Manifest;

#[unsafe(no_mangle)]
fn litebox_main(kernel: &'static Kernel, manifest: Manifest) -> ! {
    litebox_core::process::launch(kernel, &manifest)
}
