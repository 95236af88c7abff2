//! A disk by a hostile host: registers, rings and data are its own, and what it does is read, refused or an attack (`virtio::blk`,
//! `virtio::mmio`).
#![no_main]

use litebox_core::platform::{BLOCK_SIZE, BlockDevice, BlockError};
use litebox_fuzz::Input;
use litebox_fuzz::device::{BASE, World, until_stalled};
use platform_snp::virtio::blk::{Blk, DEVICE_ID};
use platform_snp::virtio::mmio::Mmio;

litebox_fuzz::target!(litebox_fuzz::seeds::blk, run);

fn run(bytes: &[u8]) {
    let world = World::new(DEVICE_ID, Input::new(bytes));
    until_stalled(|| drive(&world));
    assert!(world.attacks().is_empty() || world.lied(), "an honest disk is accused: {:?}", world.attacks());
    assert!(world.attacks().len() <= 1, "a dead disk is asked again: {:?}", world.attacks());
}

fn drive(world: &World<'_>) {
    let Ok(transport) = Mmio::probe(world, BASE, DEVICE_ID) else { return };
    let Ok(disk) = Blk::new(world, world, world, transport) else { return };
    let blocks = disk.block_count();
    assert!(blocks <= u64::MAX / 512 / 8);
    let mut pages = vec![[0u8; BLOCK_SIZE]; 40];
    for _ in 0..64 {
        let (first, count, over) =
            world.script(|input| (u64::from(input.u8()), usize::from(input.u8() % 41), input.is_empty()));
        let first = if first == 0xff { u64::MAX - 3 } else { first };
        let mut into: Vec<&mut [u8; BLOCK_SIZE]> = pages.iter_mut().take(count).collect();
        let dead = !world.attacks().is_empty();
        let result = disk.read(first, &mut into);
        if first.checked_add(count as u64).is_none_or(|end| end > blocks) {
            assert_eq!(result, Err(BlockError::OutOfRange));
        } else if dead && count > 0 {
            assert_eq!(result, Err(BlockError::Io));
        }
        disk.ack_interrupt();
        if over {
            break;
        }
    }
}
