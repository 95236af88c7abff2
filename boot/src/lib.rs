//! First instructions to `kernel_main(&BootInfo)`.
#![no_std]
