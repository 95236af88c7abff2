//! The one way to the host's registers: ports and MMIO, behind a trait, so that drivers run against scripted hosts.
//!
//! Under SNP every access is a VM exit; drivers count them.

#[cfg(target_arch = "x86_64")]
pub mod direct;
pub mod ghcb;

use core::sync::atomic::{Ordering, fence};
use litebox_core::platform::Attack;

/// How many bits of device memory an access takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8.
    Byte,
    /// 16.
    Half,
    /// 32.
    Word,
}

impl Width {
    /// In bytes.
    pub const fn bytes(self) -> u8 {
        match self {
            Width::Byte => 1,
            Width::Half => 2,
            Width::Word => 4,
        }
    }
}

/// Register accesses. Whatever a read returns is the host's word.
pub trait HostIo: Send + Sync {
    /// Reads a byte from a port.
    fn in8(&self, port: u16) -> u8;
    /// Writes a byte to a port.
    fn out8(&self, port: u16, value: u8);
    /// Writes bytes to a port, one after the other.
    fn out8_each(&self, port: u16, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.out8(port, byte));
    }
    /// Reads 16 bits from a port.
    fn in16(&self, port: u16) -> u16;
    /// Writes 16 bits to a port.
    fn out16(&self, port: u16, value: u16);
    /// Reads 32 bits from a port.
    fn in32(&self, port: u16) -> u32;
    /// Writes 32 bits to a port.
    fn out32(&self, port: u16, value: u32);
    /// Reads device memory at a physical address.
    fn mmio_read(&self, address: u64, width: Width) -> u32;
    /// Writes device memory at a physical address.
    fn mmio_write(&self, address: u64, width: Width, value: u32);

    /// Reads 32 bits of device memory.
    fn mmio_read32(&self, address: u64) -> u32 {
        self.mmio_read(address, Width::Word)
    }
    /// Writes 32 bits of device memory.
    fn mmio_write32(&self, address: u64, value: u32) {
        self.mmio_write(address, Width::Word, value);
    }

    /// Orders reads of shared memory.
    fn rmb(&self) {
        fence(Ordering::Acquire);
    }
    /// Orders writes to shared memory.
    fn wmb(&self) {
        fence(Ordering::Release);
    }
    /// Orders writes to shared memory before reads of it.
    fn mb(&self) {
        fence(Ordering::SeqCst);
    }
}

/// What drivers need from the kernel.
pub trait Environment: Send + Sync {
    /// Monotonic nanoseconds.
    fn now(&self) -> u64;
    /// Called in loops that wait for the host: pauses, or halts until an interrupt. Must not call into the driver.
    fn wait(&self);
    /// The host attacked: the kernel ends the machine here. If it returns all the same, the driver stays unusable.
    fn attack(&self, attack: Attack, what: &'static str);
    /// A device that the machine cannot do without does not do its work any more. A kernel that has nobody else to blame ends the machine here.
    fn lost(&self, what: &'static str) {
        let _ = what;
    }
}
