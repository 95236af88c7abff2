//! A kernel that checks itself instead of running a workload: prints a line for each check on standard output, and
//! ends with the number of those that failed.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use kernel::{Kernel, selftest};
use litebox_core::manifest::Manifest;
use litebox_core::platform::{Entropy, ExitStatus, Platform, Power, Stream};

fn mappings() -> Result<(), String> {
    let found = selftest::mappings();
    if found.bad == 0 && found.writable > 0 && found.executable > 0 {
        Ok(())
    } else {
        Err(format!("{found:?}"))
    }
}

fn wild_accesses() -> Result<(), String> {
    match selftest::wild_accesses() {
        0 => Ok(()),
        n => Err(format!("{n} bytes or words were let through")),
    }
}

fn entropy(kernel: &Kernel) -> Result<(), String> {
    let (mut a, mut b) = ([0; 64], [0; 64]);
    kernel.fill_random(&mut a);
    kernel.fill_random(&mut b);
    if a != b && a != [0; 64] { Ok(()) } else { Err(String::from("two requests gave the same bytes")) }
}

#[unsafe(no_mangle)]
fn litebox_main(kernel: &'static Kernel, _manifest: Manifest) -> ! {
    let checks: [(&str, Result<(), String>); 7] = [
        ("no page is writable and executable, none is the user's, none is in the lower half", mappings()),
        ("wild user pointers are refused", wild_accesses()),
        ("kernel stacks have guard pages", selftest::guard_page().map_err(String::from)),
        ("heap blocks do not overlap", selftest::heap().map_err(String::from)),
        ("random bytes differ", entropy(kernel)),
        ("threads wake in the order of their deadlines", selftest::sleeping_threads().map_err(String::from)),
        ("threads that yield all get on", selftest::ping_pong().map_err(String::from)),
    ];
    let mut failed = 0;
    for (name, result) in &checks {
        let line = match result {
            Ok(()) => format!("ok      {name}\n"),
            Err(why) => {
                failed += 1;
                format!("FAILED  {name}: {why}\n")
            }
        };
        kernel.console().write(Stream::Stdout, line.as_bytes());
    }
    let summary = format!("{} passed, {failed} failed\n", checks.len() - usize::from(failed));
    kernel.console().write(Stream::Stdout, summary.as_bytes());
    kernel.power_off(ExitStatus::Exited(failed), format_args!(""))
}
