//! The South platform of an SEV-SNP guest, and of a plain VM.
#![cfg_attr(not(test), no_std)]
