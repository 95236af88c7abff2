//! The guest's page tables after the entry.
//!
//! The image stays where it was linked. All of the first 4 GiB of guest-physical memory is seen twice: with the C-bit ([`private`]) and without it
//! ([`shared`]); devices are in the latter. Small pages that tests map as they like, for ring 3 too, are at [`fixture`].

use super::entry::BASE;
use super::global::Global;
use super::{cpu, give_up};
use core::sync::atomic::{AtomicU64, Ordering};

/// Present.
pub const PRESENT: u64 = 1;
/// Writable.
pub const WRITABLE: u64 = 2;
/// For ring 3 too.
pub const USER: u64 = 4;
const LARGE: u64 = 0x80;

const PRIVATE_WINDOW: u64 = 1 << 39;
const SHARED_WINDOW: u64 = 2 << 39;
const FIXTURES: u64 = 0x40_0000;
/// How many fixtures there are.
pub const FIXTURE_COUNT: usize = 64;

type Table = [u64; 512];

static ROOT: Global<Table> = Global::new([0; 512]);
/// One for the image, the two windows, and the fixtures.
static DIRECTORY_POINTERS: Global<[Table; 4]> = Global::new([[0; 512]; 4]);
/// 4 GiB each: private, shared; then the image's GiB, then the fixtures'.
static DIRECTORIES: Global<[Table; 10]> = Global::new([[0; 512]; 10]);
static FIXTURE_TABLE: Global<Table> = Global::new([0; 512]);
static C_BIT: AtomicU64 = AtomicU64::new(0);

/// The C-bit, as a bit of an address.
pub fn c_bit() -> u64 {
    C_BIT.load(Ordering::Relaxed)
}

/// Where guest-physical memory is seen with the C-bit.
pub const fn private(gpa: u64) -> u64 {
    PRIVATE_WINDOW + gpa
}

/// Where guest-physical memory is seen without it.
pub const fn shared(gpa: u64) -> u64 {
    SHARED_WINDOW + gpa
}

/// The address of a fixture.
pub fn fixture(index: usize) -> u64 {
    if index >= FIXTURE_COUNT {
        give_up(format_args!("there is no fixture {index}"));
    }
    FIXTURES + index as u64 * 4096
}

/// Maps a fixture with an entry; 0 takes it away.
pub fn map(index: usize, entry: u64) -> u64 {
    let address = fixture(index);
    // SAFETY: the table is only written here and by `switch`; what is mapped is for tests to reach, and nothing of Rust's is in it.
    unsafe { (*FIXTURE_TABLE.get())[index] = entry };
    cpu::invlpg(address);
    address
}

/// Maps a fixture by page tables of a test's own: the directory entry of the last fixture area. Its address.
pub fn map_directory(entry: u64) -> u64 {
    // SAFETY: as above.
    unsafe { (*DIRECTORIES.get())[9][3] = entry };
    let address = 3 << 21;
    cpu::invlpg(address);
    address
}

/// Makes the tables and loads them. `c_bit` is the C-bit's position.
pub fn switch(c_bit: u32) {
    let c = 1u64 << c_bit;
    C_BIT.store(c, Ordering::Relaxed);
    // SAFETY: the tables are only written here, before they are used, and by `map`.
    unsafe {
        let root = &mut *ROOT.get();
        let pointers = &mut *DIRECTORY_POINTERS.get();
        let directories = &mut *DIRECTORIES.get();
        let table = |base: u64, index: usize| (base + index as u64 * 4096) | PRESENT | WRITABLE | USER | c;
        let (pointers_at, directories_at) = (DIRECTORY_POINTERS.physical(), DIRECTORIES.physical());
        root[(BASE >> 39) as usize & 511] = table(pointers_at, 0);
        root[1] = table(pointers_at, 1);
        root[2] = table(pointers_at, 2);
        root[0] = table(pointers_at, 3);
        pointers[0][(BASE >> 30) as usize & 511] = table(directories_at, 8);
        pointers[3][0] = table(directories_at, 9);
        for gib in 0..4 {
            pointers[1][gib] = table(directories_at, gib);
            pointers[2][gib] = table(directories_at, 4 + gib);
            let pages = (gib as u64) << 30..;
            for (i, page) in (0..512).zip(pages.step_by(2 << 20)) {
                directories[gib][i] = page | PRESENT | WRITABLE | LARGE | c;
                directories[4 + gib][i] = page | PRESENT | WRITABLE | LARGE;
            }
        }
        for (entry, page) in directories[8].iter_mut().zip((0..).step_by(2 << 20)) {
            *entry = page | PRESENT | WRITABLE | LARGE | c;
        }
        directories[9][(FIXTURES >> 21) as usize] = table(FIXTURE_TABLE.physical(), 0);
        core::arch::asm!("mov cr3, {}", in(reg) cr3(), options(nostack));
    }
}

/// The value of CR3 for every CPU.
pub fn cr3() -> u64 {
    ROOT.physical() | c_bit()
}
