//! The security processor (PSP) of the SNP emulator: bytes in, bytes out.
//!
//! [`guest::Guest`] is what a launch leaves behind in the PSP. It fills the secrets page and answers guest messages: attestation
//! reports, derived keys, TSC information. It knows no hardware: the bare-metal emulator links it without `std`, and the command
//! line links it to check what came out ([`verify`]). A request page is the guest's and passes through the host's hands: nothing
//! in here panics on its contents, and no message is accepted that differs by a bit from what the guest sealed.
//!
//! **What it signs proves nothing.** The keys of [`hierarchy`] come from a seed in this source, and the certificates say so in
//! their names.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

#[cfg(not(target_endian = "little"))]
compile_error!("messages and reports are little-endian, and are written in place");

extern crate alloc;

pub mod certificates;
pub mod chip;
pub mod derived_key;
pub mod guest;
pub mod hierarchy;
pub mod message;
pub mod policy;
pub mod report;
pub mod report_request;
pub mod status;
pub mod tsc_info;
pub mod verify;

/// Bytes of a page: of requests, responses and secrets.
pub const PAGE_SIZE: usize = 4096;
