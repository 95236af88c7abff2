//! IGVM files, as every host of an SEV-SNP guest sees them: what the bytes mean, what the launch digest will be, and what each
//! VMM refuses.
//!
//! Used by the bare-metal emulator (without `std`) and by the command line. A file is untrusted: nothing in here panics on
//! its contents, and the work is bounded by its size.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

#[cfg(not(target_endian = "little"))]
compile_error!("IGVM files and VMSAs are little-endian, and are read in place");

extern crate alloc;

pub mod digest;
pub mod format;
pub mod id_block;
pub mod load;
pub mod parameter;
pub mod policy;
pub mod profile;
pub mod vmsa;

/// Bytes of a page that the PSP measures and that one PAGE_DATA header loads.
pub const PAGE_SIZE: usize = 4096;

/// Bytes of a large page.
pub const LARGE_PAGE_SIZE: usize = 2 << 20;
