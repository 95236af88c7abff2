//! The packer's files, which belong to a program (`xtask`) and not to a library.
#![allow(missing_docs)]

#[path = "../../xtask/src/image/archive.rs"]
pub mod archive;
#[path = "../../xtask/src/image/tree.rs"]
pub mod tree;
#[path = "../../xtask/src/image/writer.rs"]
pub mod writer;
