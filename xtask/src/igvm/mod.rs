//! Launch images: IGVM files made of the kernel and a manifest; and what can be said about any IGVM file.

pub mod arguments;
mod build;
mod built;
pub mod image;
mod inspect;
pub mod kernel;
mod key;
mod manifest;
mod measure;
mod reference;

pub use build::build_igvm;
pub use built::Built;
pub use inspect::inspect;
pub use measure::measure;

use anyhow::{Context, Result, ensure};
use litebox_igvm::policy::GuestPolicy;
use std::io::Write;
use std::path::Path;

use crate::protocol::status;

/// The C-bit of Milan and later, which is the emulator's too.
pub const C_BIT: u32 = 51;

/// The launch image of a kernel file and a manifest, for SNP machines of today.
///
/// # Errors
/// The kernel cannot be read, or is none.
pub fn launch_image(kernel: &Path, manifest: &[u8]) -> Result<Vec<u8>> {
    let file = std::fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let kernel = kernel::Kernel::parse(&file)?;
    let (policy, entry) = (GuestPolicy::DEFAULT, image::Entry::default());
    image::Image { kernel: &kernel, manifest, c_bit: C_BIT, policy, entry, id_block: None }.build()
}

/// Larger files are no IGVM files: the format's offsets have 32 bits.
const FILE_MAX: u64 = 1 << 32;

/// The bytes of a file that should be one.
///
/// # Errors
/// It cannot be read, or is too large to be one.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(metadata.is_file(), "{} is no file", path.display());
    ensure!(metadata.len() < FILE_MAX, "{}: no IGVM file: 4 GiB or more", path.display());
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The exit status of a command, its error said on stderr.
fn status(result: Result<i32>) -> i32 {
    result.unwrap_or_else(|error| {
        // A closed stderr must not turn into a panic.
        let _ = writeln!(std::io::stderr(), "xtask: {error:#}");
        status::LAUNCH_FAILED
    })
}
