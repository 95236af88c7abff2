//! A machine for targets that need pages or a disk: one for the whole run, so that an input leaves nothing behind.

use crate::Input;
use crate::image::writer;
use litebox_core::fs::verity::{OnTamper, VerityDevice};
use litebox_core::mm::{Mm, PagePool};
use litebox_core::platform::hosted::Hosted;
use litebox_core::platform::{BLOCK_SIZE, BlockDevice, BlockError, Memory, PAGE_SIZE};
use sha2::{Digest, Sha256};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// The machine's memory: 32 MiB.
const PAGES: usize = 8192;

/// The machine.
pub fn host() -> &'static Hosted {
    static HOST: LazyLock<&'static Hosted> = LazyLock::new(|| Hosted::leak(PAGES));
    *HOST
}

/// Runs `body`, and checks that it gave all pages back.
pub fn without_a_leak<T>(body: impl FnOnce() -> T) -> T {
    let pool: &PagePool = host().pages();
    let before = pool.free_pages();
    let result = body();
    assert_eq!(pool.free_pages(), before, "pages were lost, or given back twice");
    result
}

/// A process's memory: areas in order, apart, in user space, and nothing mapped beside them.
pub fn check_memory(mm: &Mm<Hosted>) {
    let (user, mut free_from, mut mapped, mut size) = (host().user_range(), 0, 0, 0);
    for area in mm.areas() {
        let range = area.range;
        assert!(range.start >= free_from && range.start < range.end && range.end <= user.end);
        assert!(range.start % PAGE_SIZE == 0 && range.end % PAGE_SIZE == 0);
        free_from = range.end;
        size += range.len();
        mapped += mm.resident_in(range);
    }
    let usage = mm.usage();
    assert_eq!(usage.resident, mapped, "pages are mapped where there is no area");
    assert_eq!(usage.size, size, "the size that is kept is not that of the areas");
}

/// What is unwound with when an image is found to be tampered with.
pub struct Tampered;

/// Unwinds with [`Tampered`].
pub struct Unwind;

impl OnTamper for Unwind {
    fn tampered(&self, _: fmt::Arguments<'_>) -> ! {
        resume_unwind(Box::new(Tampered))
    }
}

/// Runs `body`; `None` when it found that the image was tampered with.
pub fn until_tampered<T>(body: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => Some(value),
        Err(payload) if payload.is::<Tampered>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// A disk whose contents are an input's. It has no address but this one, since devices live as long as the machine.
pub struct Disk(Mutex<Vec<u8>>);

/// The only one.
pub static DISK: Disk = Disk(Mutex::new(Vec::new()));

impl Disk {
    /// Its bytes.
    pub fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        // A finding unwinds, and is reported elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockDevice for Disk {
    fn block_count(&self) -> u64 {
        (self.bytes().len() / BLOCK_SIZE) as u64
    }

    fn read(&self, first: u64, into: &mut [&mut [u8; BLOCK_SIZE]]) -> Result<(), BlockError> {
        let bytes = self.bytes();
        for (number, block) in (first..).zip(into) {
            let at = usize::try_from(number).ok().and_then(|n| n.checked_mul(BLOCK_SIZE));
            let from = at.and_then(|at| bytes.get(at..)?.first_chunk()).ok_or(BlockError::OutOfRange)?;
            **block = *from;
        }
        Ok(())
    }
}

/// A file system image with its hash tree behind it, and the tree's root. `data` is filled up to a whole block.
pub fn with_hash_tree(mut data: Vec<u8>) -> (Vec<u8>, [u8; 32]) {
    data.resize(data.len().max(1).next_multiple_of(BLOCK_SIZE), 0);
    let hashes = data.chunks_exact(BLOCK_SIZE).map(|block| Sha256::digest(block).into()).collect();
    let root = writer::write_tree(&mut data, hashes).expect("memory can be written, and there is a block");
    (data, root)
}

/// Puts an image on the disk with a hash tree of its own: what its maker wrote, whoever that was.
pub fn insert_disk(data: Vec<u8>) -> VerityDevice {
    let blocks = data.len().div_ceil(BLOCK_SIZE).max(1) as u64;
    let (whole, root) = with_hash_tree(data);
    *DISK.bytes() = whole;
    VerityDevice::new(&DISK, root, blocks, host().pages(), Box::new(Unwind)).expect("a tree that fits")
}

/// The most blocks that [`sparse`] gives.
const SPARSE_BLOCKS: usize = 24;

/// Reads an image out of an input: the number of blocks, then pieces (place in words of four bytes, length, bytes) over zeros. An
/// image is mostly zeros, and a fuzzer should not spend its time on them.
pub fn sparse(input: &[u8]) -> Vec<u8> {
    let mut input = Input::new(input);
    let blocks = usize::from(input.u8()) % SPARSE_BLOCKS + 1;
    let mut image = vec![0; blocks * BLOCK_SIZE];
    while !input.is_empty() {
        let at = usize::from(input.u16()) * 4;
        let len = usize::from(input.u8());
        let bytes = input.bytes(len);
        if let Some(to) = image.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
            to.copy_from_slice(bytes);
        }
    }
    image
}

/// The input that [`sparse`] makes `image` of.
pub fn to_sparse(image: &[u8]) -> Vec<u8> {
    let mut out = vec![(image.len().div_ceil(BLOCK_SIZE) - 1) as u8];
    let is_zero = |at: usize| image[at..(at + 4).min(image.len())].iter().all(|&b| b == 0);
    let mut at = 0;
    while at < image.len() {
        let mut end = at;
        while end < image.len() && !is_zero(end) && end - at < 252 {
            end += 4;
        }
        if end > at {
            let piece = &image[at..end.min(image.len())];
            out.extend_from_slice(&((at / 4) as u16).to_le_bytes());
            out.push(piece.len() as u8);
            out.extend_from_slice(piece);
        }
        at = end.max(at + 4);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_images_come_back() {
        let image: Vec<u8> = (0..3 * BLOCK_SIZE).map(|i| if i % 700 < 300 { i as u8 } else { 0 }).collect();
        assert!(sparse(&to_sparse(&image)) == image);
    }
}
