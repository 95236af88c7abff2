//! Builds the kernel.
//!
//! Equal sources give equal bytes, in any folder ([`paths`]). Cargo decides whether anything is to do. The kernel is built alone and for its own target: built together with the host crates it would
//! inherit their features.

mod paths;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{host, install};

/// The kernel's target: no operating system, no SSE in the kernel.
pub const TARGET: &str = "x86_64-unknown-none";

/// The package that is the kernel; others may be linked with it as a library.
pub const PACKAGE: &str = "kernel";

/// The package that is the SNP emulator.
pub const EMULATOR: &str = "snp_emulator";

/// A build that takes longer than this announces itself.
const QUIET: Duration = Duration::from_millis(1500);

/// Builds the kernel if that is needed, and returns its path.
///
/// # Errors
/// The target is missing and cannot be added, or the kernel does not compile.
pub fn build(package: &str) -> Result<PathBuf> {
    let kernel = host::target_dir().join(TARGET).join("release").join(package);
    // Asking rustc costs more than asking the file system, and a kernel that was built had its target.
    if !kernel.exists() {
        install::rust_target(TARGET)?;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let child = Command::new(cargo)
        .current_dir(host::workspace())
        .args(["build", "--quiet", "--release", "--package", package, "--target", TARGET])
        .args(["--config", &paths::config()])
        // They would replace the flags of the target, without which the kernel is another.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start cargo to build the kernel")?;
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let output = match wait.recv_timeout(QUIET) {
        Ok(output) => output,
        Err(_) => {
            if io::stderr().is_terminal() {
                eprintln!("xtask: building the kernel");
            }
            wait.recv().context("the build's observer is gone")?
        }
    }
    .context("cannot wait for cargo")?;
    if !output.status.success() {
        bail!("the kernel does not build:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(kernel)
}
