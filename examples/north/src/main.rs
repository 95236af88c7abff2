//! A Rust program on the North: linked with the kernel, without ring 3, and without a system call. It writes a file, reads it back,
//! lists the root directory's entries that it knows, and says so on standard output.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use kernel::Kernel;
use litebox_core::fd::Fd;
use litebox_core::fs::{OFlags, ResolveFlags};
use litebox_core::manifest::Manifest;
use litebox_core::north::file::{self, Base};
use litebox_core::platform::{ExitStatus, Power};
use litebox_core::process::{self, Thread};

type Task = Arc<Thread<Kernel>>;

fn open(task: &Task, path: &[u8], flags: OFlags) -> litebox_core::Result<Fd> {
    file::openat(&**task, Base::Cwd, path, flags, 0o600, ResolveFlags::empty())
}

fn run(task: &Task) -> litebox_core::Result<String> {
    let fd = open(task, b"/tmp/note", OFlags::CREAT | OFlags::RDWR)?;
    file::write(&**task, fd, &mut &b"written by function calls"[..])?;
    file::close(&**task, fd)?;
    let fd = open(task, b"/tmp/note", OFlags::RDONLY)?;
    let mut buffer = [0; 64];
    let len = file::read(&**task, fd, &mut &mut buffer[..])?;
    let size = file::fstat(&**task, fd)?.size;
    file::close(&**task, fd)?;
    let missing = open(task, b"/no/such/file", OFlags::RDONLY).unwrap_err();
    let text = core::str::from_utf8(buffer.get(..len).unwrap_or_default()).unwrap_or("?");
    Ok(format!("/tmp/note has {size} bytes: {text:?}\n/no/such/file: {missing}\n"))
}

#[unsafe(no_mangle)]
fn litebox_main(kernel: &'static Kernel, manifest: Manifest) -> ! {
    let task = match process::enter(kernel, &manifest) {
        Ok(task) => task,
        Err(why) => kernel.power_off(ExitStatus::BadLaunch, format_args!("{why}")),
    };
    let status = match run(&task) {
        Ok(report) => {
            let stdout = Fd::from_raw(1).unwrap_or_else(|_| unreachable!("1 is not negative"));
            u8::from(file::write(&*task, stdout, &mut report.as_bytes()).is_err())
        }
        Err(_) => 1,
    };
    kernel.power_off(ExitStatus::Exited(status), format_args!(""))
}
