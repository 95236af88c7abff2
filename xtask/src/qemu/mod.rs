//! QEMU: where it is, its process, and the streams of bytes from and to it.

pub mod process;
pub mod streams;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{host, install};

/// The program.
pub const NAME: &str = "qemu-system-x86_64";

/// QEMU's path: `QEMU` in the environment, else along `PATH`, else installed now.
///
/// # Errors
/// It is missing and cannot be installed; the message says what to type.
pub fn find_or_install() -> Result<PathBuf> {
    if let Some(qemu) = find() {
        return Ok(qemu);
    }
    install::apt(&["qemu-system-x86"], &format!("{NAME} is missing"))?;
    find().with_context(|| format!("{NAME} is still missing after its installation"))
}

/// What glibc's malloc is told for QEMU (glibc manual, "Memory Allocation Tunables"). Its heap has six megabytes before the guest starts, and 1,500
/// page faults for them cost as much as the rest of its start: so it grows at once, by huge pages. One arena serves all threads, since each further
/// one would grow page by page again.
const MALLOC: &str = "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1:glibc.malloc.top_pad=33554432:glibc.malloc.mmap_threshold=16777216";
const TUNABLES: &str = "GLIBC_TUNABLES";

/// QEMU, to be given arguments.
pub fn command(qemu: &Path) -> Command {
    let mut command = Command::new(qemu);
    let tunables = match std::env::var(TUNABLES) {
        // The last word on a tunable counts: the user's.
        Ok(theirs) => format!("{MALLOC}:{theirs}"),
        Err(_) => MALLOC.to_owned(),
    };
    command.env(TUNABLES, tunables);
    command
}

/// QEMU's path, if it is there.
pub fn find() -> Option<PathBuf> {
    std::env::var_os("QEMU").map(PathBuf::from).or_else(|| host::find_program(NAME))
}

/// QEMU's version, such as `7.2.22`.
pub fn version(qemu: &Path) -> Option<String> {
    let text = host::output_of(Command::new(qemu).arg("--version"))?;
    text.split_whitespace().skip_while(|word| *word != "version").nth(1).map(str::to_owned)
}
