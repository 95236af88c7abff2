//! What the first process of a Linux guest has to do itself: mount, and end the machine.
//!
//! Every step may fail: under a kernel that has set up its files already, or that ends when its only program does, there is
//! nothing to do.

/// Mounts what the rows use.
pub fn mount() {
    for (kind, target) in [(c"sysfs", c"/sys"), (c"devtmpfs", c"/dev"), (c"tmpfs", c"/tmp")] {
        // SAFETY: all pointers are to literals that end with a NUL byte; mount(2) takes no data here.
        unsafe {
            libc::mkdir(target.as_ptr(), 0o755);
            libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null());
        }
    }
}

/// Ends the machine; returns where that is not possible.
pub fn power_off() {
    // A restart and not a power-off: a machine without ACPI cannot do the latter, and QEMU's `-no-reboot` makes the former an end.
    // SAFETY: reboot(2) takes a number.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
}
