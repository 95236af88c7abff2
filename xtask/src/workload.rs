//! Finds the program that was asked for and packs what it runs in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::app::{self, Refusal};
use crate::cli::Run;

/// A packed workload image.
#[derive(Debug)]
pub struct Image {
    /// Its file.
    pub path: PathBuf,
    /// dm-verity root hash, in hexadecimal.
    pub root_hash: String,
    /// Data blocks of 4096 bytes.
    pub blocks: u64,
}

/// What is to run, and in what.
#[derive(Debug)]
pub struct Workload {
    /// The image, where there is one.
    pub image: Option<Image>,
    /// The program's path inside it.
    pub exec: OsString,
}

/// Finds the program and packs it.
///
/// # Errors
/// It is not there, is no program, or cannot be packed.
pub fn resolve(args: &Run) -> Result<Workload, Refusal> {
    let app = Path::new(args.app());
    app::check(app, args.rootfs.is_some())?;
    let mut exec = OsString::from("/");
    exec.push(app.file_name().unwrap_or(args.app()));
    Ok(Workload { image: None, exec })
}
