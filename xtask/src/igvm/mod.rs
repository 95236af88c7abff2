//! Launch images: IGVM files made of the kernel and a manifest.

pub mod image;
pub mod kernel;

use anyhow::{Context, Result};
use std::path::Path;

/// The C-bit of Milan and later, which is the emulator's too.
pub const C_BIT: u32 = 51;

/// The launch image of a kernel file and a manifest, for SNP machines of today.
///
/// # Errors
/// The kernel cannot be read, or is none.
pub fn launch_image(kernel: &Path, manifest: &[u8]) -> Result<Vec<u8>> {
    let file = std::fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let kernel = kernel::Kernel::parse(&file)?;
    image::Image { kernel: &kernel, manifest, c_bit: C_BIT, policy: image::POLICY_DEFAULT }.build()
}
