//! The calls that are measured, with as little around them as possible.
//!
//! Every function here makes exactly one system call (or none, where its name says vDSO), so that a row's time is the call's.
//! A result that Linux would not give is a panic: a row that measures failing calls would be worthless.

use std::ffi::CStr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Writes a line to standard output; one that nobody takes is lost.
pub fn say(line: &str) {
    // SAFETY: the pointer and length are those of a live string.
    unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
}

/// The monotonic clock, in nanoseconds, through the vDSO where there is one.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec of ours.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    assert_eq!(result, 0, "clock_gettime");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The monotonic clock by a system call.
pub fn clock_gettime_raw() {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec of ours.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &mut time) };
    assert_eq!(result, 0, "clock_gettime");
}

/// getpid(2), which no C library caches any more.
pub fn getpid() {
    // SAFETY: getpid(2) takes nothing and cannot fail.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) };
    assert!(pid > 0, "getpid");
}

/// FUTEX_WAKE of one waiter where there is none.
pub fn futex_wake(word: &u32) {
    // SAFETY: the address is that of a live, aligned word, which the call does not write.
    let woken = unsafe {
        libc::syscall(libc::SYS_futex, word as *const u32, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1)
    };
    assert_eq!(woken, 0, "futex");
}

/// read(2) that fills the buffer.
pub fn read(fd: RawFd, buffer: &mut [u8]) {
    // SAFETY: the pointer and length are those of a slice that is ours to write.
    let count = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    assert_eq!(count, buffer.len() as isize, "read");
}

/// write(2) of all of the buffer.
pub fn write(fd: RawFd, buffer: &[u8]) {
    // SAFETY: the pointer and length are those of a live slice.
    let count = unsafe { libc::write(fd, buffer.as_ptr().cast(), buffer.len()) };
    assert_eq!(count, buffer.len() as isize, "write");
}

/// pread(2) at offset 0 that fills the buffer.
pub fn pread(fd: RawFd, buffer: &mut [u8]) {
    // SAFETY: the pointer and length are those of a slice that is ours to write.
    let count = unsafe { libc::pread(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    assert_eq!(count, buffer.len() as isize, "pread");
}

/// pwrite(2) at offset 0 of all of the buffer.
pub fn pwrite(fd: RawFd, buffer: &[u8]) {
    // SAFETY: the pointer and length are those of a live slice.
    let count = unsafe { libc::pwrite(fd, buffer.as_ptr().cast(), buffer.len(), 0) };
    assert_eq!(count, buffer.len() as isize, "pwrite");
}

/// openat(2) for reading.
pub fn open(path: &CStr) -> RawFd {
    // SAFETY: the path ends with a NUL byte.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    assert!(fd >= 0, "open");
    fd
}

/// openat(2) for reading and writing, creating the file or emptying it.
pub fn create(path: &CStr) -> std::io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
    // SAFETY: the path ends with a NUL byte.
    let fd = unsafe { libc::open(path.as_ptr(), flags, 0o600) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// close(2).
pub fn close(fd: RawFd) {
    // SAFETY: the callers pass a descriptor that they opened and do not use again.
    let result = unsafe { libc::close(fd) };
    assert_eq!(result, 0, "close");
}

/// stat(2) of a path.
pub fn stat(path: &CStr) {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the path ends with a NUL byte, and the buffer is a `struct stat` of ours.
    let result = unsafe { libc::stat(path.as_ptr(), stat.as_mut_ptr()) };
    assert_eq!(result, 0, "stat");
}

/// Fresh anonymous memory, private to this process; unmapped when dropped.
pub struct Mapping {
    start: *mut u8,
    len: usize,
}

/// The size of a page.
pub const PAGE: usize = 4096;

impl Mapping {
    /// Maps `len` bytes.
    pub fn new(len: usize) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "mmap");
        Self { start: start.cast(), len }
    }

    /// Asks for 4 KiB pages, so that each has a fault of its own. A kernel without huge pages may not know the advice.
    pub fn small_pages(self) -> Self {
        // SAFETY: the range is this mapping's, and the advice does not change its contents.
        unsafe { libc::madvise(self.start.cast(), self.len, libc::MADV_NOHUGEPAGE) };
        self
    }

    /// Writes a byte of every `stride`th page.
    pub fn touch(&mut self, stride: usize) {
        for offset in (0..self.len).step_by(stride * PAGE) {
            // SAFETY: the offset is inside this mapping, which is writable. Volatile, for nobody reads it.
            unsafe { self.start.add(offset).write_volatile(1) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and nothing refers to it any more.
        let result = unsafe { libc::munmap(self.start.cast(), self.len) };
        assert_eq!(result, 0, "munmap");
    }
}
