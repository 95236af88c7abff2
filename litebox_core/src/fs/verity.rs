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
/// Blocks of one request to the device. A request costs as much as copying many blocks, and hashing one costs more than copying
/// several: so more are read than are asked for, and each is hashed only when it is wanted.
const CLUSTER: u64 = 32;
/// Blocks that are kept unverified.
const AHEAD_BLOCKS: usize = 128;

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
    /// Verified blocks of the tree: number and contents, the most recently read last.
    cache: Mutex<Vec<(u64, Page)>>,
    /// Blocks that were read ahead: the host's word, not verified, and private.
    ahead: Mutex<Vec<(u64, Page)>>,
    end: u64,
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
            end,
            cache: Mutex::default(),
            ahead: Mutex::new(Vec::with_capacity(AHEAD_BLOCKS)),
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

    /// A block of the device as the host gives it, in a page that nobody else has.
    fn fetch(&self, number: u64) -> Result<Page> {
        // All of its cluster, since programs read backwards as well as forwards; only itself when the others are there, or were used.
        let first = number / CLUSTER * CLUSTER;
        let mut range = first..self.end.min(first + CLUSTER);
        {
            let mut ahead = self.ahead.lock();
            for i in 0..ahead.len() {
                let Some((there, _)) = ahead.get(i) else { break };
                if *there == number {
                    return Ok(ahead.remove(i).1);
                }
                if range.contains(there) {
                    range = number..number + 1;
                }
            }
        }
        if self.pool.is_low() || !range.contains(&number) {
            range = number..number + 1;
        }
        let mut pages = Vec::with_capacity(CLUSTER as usize);
        while (pages.len() as u64) < range.end - range.start {
            match self.pool.alloc(false) {
                Ok(page) => pages.push(page),
                // Memory has just run out, but for what was got until now.
                Err(_) if !pages.is_empty() => {
                    pages.truncate(1);
                    range = number..number + 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut blocks: Vec<&mut Block> = Vec::with_capacity(pages.len());
        for page in &mut pages {
            blocks.push(page.exclusive_bytes().ok_or(Errno::EIO)?);
        }
        if let Err(BlockError::OutOfRange | BlockError::Io) = self.device.read(range.start, &mut blocks) {
            return Err(Errno::EIO);
        }
        let mut wanted = None;
        let mut ahead = self.ahead.lock();
        let surplus = (ahead.len() + pages.len()).saturating_sub(AHEAD_BLOCKS).min(ahead.len());
        if surplus > 0 {
            ahead.drain(..surplus);
        }
        while let Some(page) = pages.pop() {
            let at = range.start + pages.len() as u64;
            if at == number {
                wanted = Some(page);
            } else {
                ahead.push((at, page));
            }
        }
        wanted.ok_or(Errno::EIO)
    }

    /// The hash that block `index` of the level below must have; `level` 0 holds the hashes of data.
    fn expected(&self, level: usize, index: u64) -> Result<Hash> {
        let Some(&start) = self.starts.get(level) else { return Ok(self.root) };
        let number = start + index / HASHES_PER_BLOCK;
        let slot = (index % HASHES_PER_BLOCK) as usize * size_of::<Hash>();
        let pick = |page: &Page| {
            let mut hash = [0; 32];
            page.read(slot, &mut hash);
            hash
        };
        if let Some((_, page)) = self.cache.lock().iter().find(|(n, _)| *n == number) {
            return Ok(pick(page));
        }
        let mut page = self.fetch(number)?;
        let wanted = self.expected(level + 1, index / HASHES_PER_BLOCK)?;
        let block = page.exclusive_bytes().ok_or(Errno::EIO)?;
        if <Hash>::from(Sha256::digest(&block[..])) != wanted {
            self.tampered.tampered(format_args!(
                "block {number} (of its hash tree) does not have the hash it must have"
            ));
        }
        let hash = pick(&page);
        let mut cache = self.cache.lock();
        if cache.len() >= CACHED_BLOCKS {
            cache.remove(0);
        }
        cache.push((number, page));
        Ok(hash)
    }

    /// Data block `number`, verified, in a page that nobody else has. EIO beyond the end, ENOMEM.
    pub fn read(&self, number: u64) -> Result<Page> {
        if number >= self.data_blocks {
            return Err(Errno::EIO);
        }
        let mut page = self.fetch(number)?;
        let wanted = self.expected(0, number)?;
        let block = page.exclusive_bytes().ok_or(Errno::EIO)?;
        if <Hash>::from(Sha256::digest(&block[..])) != wanted {
            self.tampered.tampered(format_args!("block {number} does not have the hash it must have"));
        }
        Ok(page)
    }
}
