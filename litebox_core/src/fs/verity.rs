//! The workload image, verified block by block (dm-verity's format; Linux `Documentation/admin-guide/device-mapper/verity.rst`).
//!
//! Invariant: no byte of a data block leaves this module before the block's SHA-256 was found equal to its entry in the hash tree, whose own
//! blocks were verified up to the root hash in the manifest. The check is on a private copy, so that what was checked is what is used. Blocks
//! are read and hashed when they are first wanted: an image costs what is used of it.

use super::erofs_layout::{BLOCK, HASHES_PER_BLOCK, tree_starts};
use crate::errno::{Errno, Result};
use crate::mm::{Page, PagePool};
use crate::platform::{BLOCK_SIZE, BlockDevice, BlockError};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use sha2::{Digest, Sha256};
use spin::Mutex;

/// What happens when a block is not what the manifest promised.
pub trait OnTamper: Send + Sync {
    /// Ends the machine.
    fn tampered(&self, what: fmt::Arguments<'_>) -> !;
}

/// Verified blocks of the hash tree that are kept: 32 of them cover 16 MiB of data, in 128 KiB.
const CACHED_BLOCKS: usize = 32;

type Hash = [u8; 32];
type Block = [u8; BLOCK];
const _: () = assert!(BLOCK == BLOCK_SIZE);

/// The image's data blocks.
pub struct VerityDevice {
    device: &'static dyn BlockDevice,
    pool: &'static PagePool,
    root: Hash,
    data_blocks: u64,
    starts: Vec<u64>,
    /// Block number and contents, the most recently read last.
    cache: Mutex<VecDeque<(u64, Box<Block>)>>,
    tampered: Box<dyn OnTamper>,
}

impl VerityDevice {
    /// The image on `device` that has `data_blocks` blocks and this root hash.
    pub fn new(
        device: &'static dyn BlockDevice,
        root: Hash,
        data_blocks: u64,
        pool: &'static PagePool,
        tampered: Box<dyn OnTamper>,
    ) -> Result<VerityDevice, &'static str> {
        if data_blocks == 0 || data_blocks > u64::from(u32::MAX) {
            return Err("an impossible number of blocks in the manifest");
        }
        let starts = tree_starts(data_blocks);
        let end =
            starts.first().map_or(data_blocks, |&lowest| lowest + data_blocks.div_ceil(HASHES_PER_BLOCK));
        if device.block_count() < end {
            tampered.tampered(format_args!(
                "it is too short: {} blocks, and the manifest promises {end}",
                device.block_count()
            ));
        }
        Ok(VerityDevice {
            device,
            pool,
            root,
            data_blocks,
            starts,
            cache: Mutex::new(VecDeque::new()),
            tampered,
        })
    }

    /// Data blocks.
    pub fn blocks(&self) -> u64 {
        self.data_blocks
    }

    /// Where its pages come from.
    pub fn pool(&self) -> &'static PagePool {
        self.pool
    }

    fn read_raw(&self, first: u64, into: &mut [&mut Block]) -> Result<()> {
        self.device.read(first, into).map_err(|error| match error {
            BlockError::OutOfRange | BlockError::Io => Errno::EIO,
        })
    }

    /// The hash that block `index` of the level below must have; `level` 0 holds the hashes of data.
    fn expected(&self, level: usize, index: u64) -> Result<Hash> {
        let Some(&start) = self.starts.get(level) else { return Ok(self.root) };
        let number = start + index / HASHES_PER_BLOCK;
        let slot = (index % HASHES_PER_BLOCK) as usize * size_of::<Hash>();
        let pick = |block: &Block| {
            block.get(slot..).and_then(|rest| rest.first_chunk::<32>()).copied().ok_or(Errno::EIO)
        };
        if let Some((_, block)) = self.cache.lock().iter().find(|(n, _)| *n == number) {
            return pick(block);
        }
        let mut block = Box::new([0; BLOCK]);
        self.read_raw(number, &mut [&mut block])?;
        let wanted = self.expected(level + 1, index / HASHES_PER_BLOCK)?;
        if <Hash>::from(Sha256::digest(&block[..])) != wanted {
            self.tampered.tampered(format_args!(
                "block {number} (of its hash tree) does not have the hash it must have"
            ));
        }
        let hash = pick(&block)?;
        let mut cache = self.cache.lock();
        if cache.len() >= CACHED_BLOCKS {
            cache.pop_front();
        }
        cache.push_back((number, block));
        Ok(hash)
    }

    fn verify(&self, number: u64, block: &Block) -> Result<()> {
        if <Hash>::from(Sha256::digest(block)) != self.expected(0, number)? {
            self.tampered.tampered(format_args!("block {number} does not have the hash it must have"));
        }
        Ok(())
    }

    /// Reads a data block into kernel memory. EIO beyond the end.
    pub fn read(&self, number: u64) -> Result<Box<Block>> {
        if number >= self.data_blocks {
            return Err(Errno::EIO);
        }
        let mut block = Box::new([0; BLOCK]);
        self.read_raw(number, &mut [&mut block])?;
        self.verify(number, &block)?;
        Ok(block)
    }

    /// Reads `count` data blocks from `first` on into fresh pages, appended to `into`. EIO beyond the end, ENOMEM.
    pub fn read_pages(&self, first: u64, count: usize, into: &mut Vec<Page>) -> Result<()> {
        let end = first.checked_add(count as u64).filter(|&end| end <= self.data_blocks);
        end.ok_or(Errno::EIO)?;
        let mut pages = Vec::with_capacity(count);
        for _ in 0..count {
            pages.push(self.pool.alloc(false)?);
        }
        {
            let mut blocks: Vec<&mut Block> =
                pages.iter_mut().map(Page::exclusive_bytes).collect::<Option<_>>().ok_or(Errno::EIO)?;
            self.read_raw(first, &mut blocks)?;
            for (number, block) in (first..).zip(&blocks) {
                self.verify(number, block)?;
            }
        }
        into.append(&mut pages);
        Ok(())
    }
}
