//! The rows of the table.

use std::hint::black_box;
use std::io;
use std::os::fd::AsRawFd;

use sha2::{Digest, Sha256};

use crate::measure::{Place, Row, per_batch, per_call};
use crate::sys::{self, Mapping};

/// The larger size of reads and writes.
const LARGE: usize = 64 << 10;

/// Measures every row and hands each to `out` when it is done.
///
/// # Errors
/// A file that a row needs is not there.
pub fn all(out: &mut dyn FnMut(Row)) -> io::Result<()> {
    calls(out);
    files(out)?;
    memory(out);
    user(out);
    Ok(())
}

fn calls(out: &mut dyn FnMut(Row)) {
    out(per_call("getpid", Place::Kernel, sys::getpid));
    out(per_call("clock_gettime, system call", Place::Kernel, sys::clock_gettime_raw));
    let word = 0;
    out(per_call("futex wake, no waiter", Place::Kernel, || sys::futex_wake(&word)));
}

fn files(out: &mut dyn FnMut(Row)) -> io::Result<()> {
    let mut large = vec![1; LARGE];
    let mut small = [1];
    let zero = std::fs::File::open("/dev/zero")?;
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    let (zero, null) = (zero.as_raw_fd(), null.as_raw_fd());
    out(per_call("read 1 B of /dev/zero", Place::Kernel, || sys::read(zero, &mut small)));
    out(per_call("read 64 KiB of /dev/zero", Place::Kernel, || sys::read(zero, &mut large)));
    out(per_call("write 1 B to /dev/null", Place::Kernel, || sys::write(null, &small)));
    out(per_call("write 64 KiB to /dev/null", Place::Kernel, || sys::write(null, &large)));

    let path = c"/tmp/bench.data";
    let file = sys::create(path)?;
    sys::pwrite(file.as_raw_fd(), &large);
    out(per_call("read 1 B of a file", Place::Kernel, || sys::pread(file.as_raw_fd(), &mut small)));
    out(per_call("read 64 KiB of a file", Place::Kernel, || sys::pread(file.as_raw_fd(), &mut large)));
    out(per_call("write 1 B to a file", Place::Kernel, || sys::pwrite(file.as_raw_fd(), &small)));
    out(per_call("write 64 KiB to a file", Place::Kernel, || sys::pwrite(file.as_raw_fd(), &large)));
    let mut kilobyte = [0; 1024];
    out(per_call("open, read 1 KiB, close", Place::Kernel, || {
        let fd = sys::open(path);
        sys::read(fd, &mut kilobyte);
        sys::close(fd);
    }));
    out(per_call("stat", Place::Kernel, || sys::stat(path)));
    drop(file);
    std::fs::remove_file("/tmp/bench.data")
}

fn memory(out: &mut dyn FnMut(Row)) {
    for (name, len) in [
        ("mmap, touch, munmap 4 KiB", 4 << 10),
        ("mmap, touch, munmap 64 KiB", 64 << 10),
        ("mmap, touch, munmap 1 MiB", 1 << 20),
        ("mmap, touch, munmap 16 MiB", 16 << 20),
        ("mmap, touch, munmap 64 MiB", 64 << 20),
    ] {
        out(per_call(name, Place::Kernel, || Mapping::new(len).touch(1)));
    }
    // Every page in turn is what programs do; one in sixteen shows a fault's own cost where a kernel maps ahead.
    for (name, stride) in [("page fault, every page", 1), ("page fault, 1 page in 16", 16)] {
        out(per_batch(name, Place::Kernel, |times| {
            let mut spent = 0;
            const PAGES: usize = 256;
            for _ in 0..times {
                let mut mapping = Mapping::new(PAGES * stride * sys::PAGE).small_pages();
                let start = sys::monotonic_ns();
                mapping.touch(stride);
                spent += sys::monotonic_ns().saturating_sub(start);
            }
            (spent, times * PAGES as u64)
        }));
    }
}

fn user(out: &mut dyn FnMut(Row)) {
    out(per_call("clock_gettime, vDSO", Place::User, || {
        black_box(sys::monotonic_ns());
    }));
    let data = vec![0x5a; LARGE];
    out(per_call("SHA-256 of 64 KiB", Place::User, || {
        black_box(Sha256::digest(black_box(&data)));
    }));
}
