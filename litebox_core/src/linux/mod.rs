//! The Linux system calls: registers in, a typed call, an error number out.

pub mod file;
