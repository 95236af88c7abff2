//! A benchmark in one static program, the same file for every column: under our kernel, as `/init` of a Linux guest, or on
//! any Linux as an ordinary program.
//!
//! It prints `first line` before anything else, then lines of fields separated by tabs:
//! `clocksource NAME`, `row NAME kernel|user BEST MEDIAN` (nanoseconds per operation) and at the end `elapsed NANOSECONDS`, which lets
//! whoever started it check the guest's clock against its own. With the argument `first-line` it stops after the first
//! line. `main` is C's, so that no runtime of Rust's stands before the first line: what is timed is the system that starts a
//! program. Invariant: nothing is written while a row is being measured. Source of the conditions as `/init`: Linux's
//! `Documentation/filesystems/ramfs-rootfs-initramfs.rst`; nothing is mounted, and its end would be a panic.

#![no_main]

mod init;
mod measure;
mod rows;
mod sys;

use std::ffi::{CStr, c_char, c_int};
use std::io::{self, Write};

/// Where a C library's start-up code goes.
///
/// # Safety
/// `argv` has `argc` pointers to strings that end with a NUL byte, as the kernel and the C library promise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    sys::say("first line\n");
    // SAFETY: the caller's promise.
    let words = (1..argc as usize).map(|index| unsafe { CStr::from_ptr(*argv.add(index)) });
    let first_process = std::process::id() == 1;
    let status = if words.into_iter().any(|word| word == c"first-line") {
        0
    } else {
        if first_process {
            init::mount();
        }
        match run() {
            Ok(()) => 0,
            Err(error) => {
                println!("error\t{error}");
                1
            }
        }
    };
    if first_process {
        init::power_off();
    }
    status
}

fn run() -> io::Result<()> {
    let start = sys::monotonic_ns();
    if let Ok(name) =
        std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    {
        println!("clocksource\t{}", name.trim());
    }
    rows::all(&mut |row| {
        println!("row\t{}\t{}\t{:.2}\t{:.2}", row.name, row.place.word(), row.best_ns, row.median_ns);
    })?;
    println!("elapsed\t{}", sys::monotonic_ns().saturating_sub(start));
    io::stdout().flush()
}
