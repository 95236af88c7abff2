//! The South platform of an SEV-SNP guest, and of a plain VM: everything that talks to the host.
//!
//! The host is the attacker. Its bytes enter through [`host::HostIo`] (registers) and [`dma::DmaRegion`] (shared memory),
//! are read once into private memory, checked, and only then typed. No driver holds a reference into shared memory.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod clock;
pub mod dma;
mod error;
pub mod exit;
pub mod fw_cfg;
pub mod host;
pub mod pci;
pub mod snp;
pub mod uart;
pub mod virtio;

pub use error::DeviceError;
