//! Packs a workload image: a read-only file system that the guest verifies as it reads it.
//!
//! Images are kept under `target/litebox/images`, named by a fingerprint of the tree: every path with its kind, mode, owner, size, times, inode and
//! link target. A file cannot change without its ctime changing, so an image whose fingerprint still holds is used again without
//! reading a byte of the tree. The root hash comes from the note beside the image; an image that was changed on disk does not
//! have it any more, and the guest refuses it: the cache needs no trust.

mod archive;
#[cfg(test)]
mod tests;
mod tree;
mod writer;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

pub use tree::{Kind, Tree, hex};

/// Part of the fingerprint: changes when the same tree would give other bytes.
const FORMAT: &[u8] = b"erofs+verity 1";
/// Images that are kept.
const KEEP: usize = 12;

/// A packed image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// Root hash of its hash tree.
    pub root_hash: [u8; 32],
    /// Blocks of 4096 bytes, the hash tree not counted.
    pub data_blocks: u64,
    /// It was there already.
    pub reused: bool,
}

/// The note beside an image.
#[derive(Serialize, Deserialize)]
struct Note {
    root_hash: String,
    data_blocks: u64,
    file_size: u64,
}

/// Reads the tree under `rootfs`: a directory, or a tar archive. Nothing for none.
///
/// # Errors
/// It cannot be read.
pub fn tree(rootfs: Option<&Path>, scratch: &Path) -> Result<Tree> {
    match rootfs {
        None => Ok(Tree::new(tree::Attributes { mode: 0o755, ..tree::Attributes::default() })),
        Some(path) if path.is_dir() => tree::from_directory(path),
        Some(path) => {
            fs::create_dir_all(scratch).with_context(|| format!("{}", scratch.display()))?;
            archive::from_tar(path, scratch)
        }
    }
}

/// Adds a program of the host at `/name`.
///
/// # Errors
/// It cannot be read.
pub fn add_program(tree: &mut Tree, name: &[u8], path: &Path) -> Result<()> {
    tree::add_program(tree, name, path).map(drop)
}

/// Packs `tree` into `directory`, or finds that it is packed there already.
///
/// # Errors
/// A file cannot be read, or the image not written.
pub fn pack(mut tree: Tree, directory: &Path) -> Result<Image> {
    tree.note(&[FORMAT]);
    let name = tree.fingerprint();
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join(format!("{name}.img"));
    let note_path = directory.join(format!("{name}.json"));
    if let Some(image) = find(&path, &note_path) {
        // The newest are kept: this one is in use.
        let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        return Ok(image);
    }
    let temporary = directory.join(format!("{name}.{}.tmp", std::process::id()));
    let result = write(&tree, &temporary);
    let written = match result {
        Ok(written) => written,
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
    };
    let file_size = fs::metadata(&temporary)?.len();
    let note = Note { root_hash: hex(&written.root_hash), data_blocks: written.data_blocks, file_size };
    let note_temporary = directory.join(format!("{name}.{}.json.tmp", std::process::id()));
    fs::write(&note_temporary, serde_json::to_vec(&note)?)?;
    fs::rename(&temporary, &path)?;
    fs::rename(&note_temporary, &note_path)?;
    prune(directory, &path);
    Ok(Image { path, root_hash: written.root_hash, data_blocks: written.data_blocks, reused: false })
}

fn write(tree: &Tree, path: &Path) -> Result<writer::Written> {
    let start = Instant::now();
    let mut shown = false;
    let terminal = std::io::stderr().is_terminal();
    let mut progress = |done: u64, all: u64| {
        if terminal && start.elapsed().as_secs() >= 1 {
            shown = true;
            let mut err = std::io::stderr();
            let _ = write!(err, "\rpacking the workload image: {} of {} MiB", done / 256, all / 256);
        }
    };
    let written = writer::write(tree, path, &mut progress);
    if shown {
        eprintln!();
    }
    written
}

fn find(path: &Path, note: &Path) -> Option<Image> {
    let note: Note = serde_json::from_slice(&fs::read(note).ok()?).ok()?;
    if fs::metadata(path).ok()?.len() != note.file_size || note.root_hash.len() != 64 {
        return None;
    }
    let mut root_hash = [0; 32];
    for (i, byte) in root_hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(note.root_hash.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(Image { path: path.to_path_buf(), root_hash, data_blocks: note.data_blocks, reused: true })
}

/// Removes all but the newest images, and what earlier runs left half written.
fn prune(directory: &Path, keep: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut images = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let modified = entry.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        match path.extension().and_then(|e| e.to_str()) {
            Some("img") if path != keep => images.push((modified, path)),
            Some("tmp") if modified.elapsed().is_ok_and(|age| age.as_secs() > 3600) => {
                drop(fs::remove_file(&path))
            }
            _ => {}
        }
    }
    images.sort();
    let surplus = images.len().saturating_sub(KEEP - 1);
    for (_, path) in images.into_iter().take(surplus) {
        let _ = fs::remove_file(path.with_extension("json"));
        let _ = fs::remove_file(path);
    }
}
