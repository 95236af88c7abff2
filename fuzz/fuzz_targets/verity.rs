//! A host that serves a verified image: whatever it changes, and whenever, a block that is read is the one that was packed
//! (`fs::verity`).
#![no_main]

use litebox_core::fs::verity::VerityDevice;
use litebox_core::platform::{BLOCK_SIZE, BlockDevice, BlockError, Memory};
use litebox_fuzz::Input;
use litebox_fuzz::machine::{Unwind, host, until_tampered, with_hash_tree, without_a_leak};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

litebox_fuzz::target!(litebox_fuzz::seeds::verity, run);

/// Data blocks of the images: no tree, one level, a full level, two levels.
const SIZES: [usize; 6] = [1, 2, 127, 128, 129, 400];

/// An image with its tree, and its root hash.
type Image = (Vec<u8>, [u8; 32]);

static IMAGES: LazyLock<Vec<Image>> = LazyLock::new(|| {
    let data = |blocks: usize| (0..blocks * BLOCK_SIZE).map(|i| (i / 256 * 7 + i) as u8).collect();
    SIZES.iter().map(|&blocks| with_hash_tree(data(blocks))).collect()
});

/// What the host does to the image.
#[derive(Default)]
struct Lies {
    image: usize,
    /// A byte of a block, and what it is changed by.
    flipped: HashMap<u64, Vec<(usize, u8)>>,
    /// A block that is served in another's place.
    replaced: HashMap<u64, u64>,
    /// Requests until the device fails.
    fails_in: Option<u32>,
    /// Missing blocks at the end.
    short: u64,
    lied: bool,
}

struct Host(Mutex<Lies>);

static HOST: LazyLock<Host> = LazyLock::new(|| Host(Mutex::default()));

impl Host {
    fn lies(&self) -> MutexGuard<'_, Lies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockDevice for Host {
    fn block_count(&self) -> u64 {
        let lies = self.lies();
        ((IMAGES[lies.image].0.len() / BLOCK_SIZE) as u64).saturating_sub(lies.short)
    }

    fn read(&self, first: u64, into: &mut [&mut [u8; BLOCK_SIZE]]) -> Result<(), BlockError> {
        let lies = &mut *self.lies();
        if let Some(left) = &mut lies.fails_in {
            *left = left.checked_sub(1).ok_or(BlockError::Io)?;
        }
        for (number, block) in (first..).zip(into) {
            let from = lies.replaced.get(&number).copied().unwrap_or(number) as usize * BLOCK_SIZE;
            **block = *IMAGES[lies.image].0[from..].first_chunk().ok_or(BlockError::OutOfRange)?;
            for (at, change) in lies.flipped.get(&number).into_iter().flatten() {
                block[*at] ^= change;
            }
        }
        Ok(())
    }
}

fn run(bytes: &[u8]) {
    without_a_leak(|| {
        let mut input = Input::new(bytes);
        let image = usize::from(input.u8()) % SIZES.len();
        let short = if input.u8() == 1 { u64::from(input.u8()) } else { 0 };
        *HOST.lies() = Lies { image, short, lied: short > 0, ..Lies::default() };
        if until_tampered(|| serve(&mut input, image)).is_none() {
            assert!(HOST.lies().lied, "an honest host is accused");
        }
    });
}

fn serve(input: &mut Input<'_>, image: usize) {
    let (bytes, root) = &IMAGES[image];
    let (blocks, all) = (SIZES[image] as u64, (bytes.len() / BLOCK_SIZE) as u64);
    let device =
        VerityDevice::new(&*HOST, *root, blocks, host().pages(), Box::new(Unwind)).expect("a tree that fits");
    assert_eq!(device.blocks(), blocks);
    for _ in 0..200 {
        if input.is_empty() {
            return;
        }
        match input.u8() % 8 {
            0 => {
                let (block, at, change) = (u64::from(input.u16()) % all, input.u16(), input.u8());
                let mut lies = HOST.lies();
                lies.flipped.entry(block).or_default().push((usize::from(at) % BLOCK_SIZE, change));
                lies.lied |= change != 0;
            }
            1 => {
                let (block, by) = (u64::from(input.u16()) % all, u64::from(input.u16()) % all);
                let mut lies = HOST.lies();
                lies.replaced.insert(block, by);
                lies.lied |= block != by;
            }
            2 => HOST.lies().fails_in = Some(u32::from(input.u8())),
            3 => {
                let mut lies = HOST.lies();
                lies.flipped.clear();
                lies.replaced.clear();
            }
            _ => {
                let number = u64::from(input.u16()) % (blocks + 3);
                let Ok(page) = device.read(number) else {
                    let failed = HOST.lies().fails_in == Some(0);
                    assert!(number >= blocks || failed, "an honest block is refused");
                    continue;
                };
                assert!(number < blocks);
                let mut read = [0; BLOCK_SIZE];
                page.read(0, &mut read);
                assert!(
                    read[..] == bytes[number as usize * BLOCK_SIZE..][..BLOCK_SIZE],
                    "block {number} is another"
                );
            }
        }
    }
}
