//! The host: reached directly in a plain VM, by the GHCB in an SNP guest. Which one is decided at boot.

use crate::mm::layout::DEVICE_MAP;
use boot::CPU;
use platform_snp::host::direct::Direct;
use platform_snp::host::ghcb::GhcbHost;
use platform_snp::host::{HostIo, Width};
use platform_snp::snp::Instructions;
use platform_snp::snp::Violation;
use platform_snp::snp::instructions::{PageSize, Validation};
use spin::Once;

fn device_address(physical: u64) -> *mut u8 {
    (DEVICE_MAP + physical) as *mut u8
}

/// The CPU's instructions by reference: there is one CPU, and values of its own are not needed.
pub struct Cpu;

impl Instructions for Cpu {
    fn pvalidate(&self, at: u64, size: PageSize, validate: bool) -> Result<Validation, Violation> {
        CPU.pvalidate(at, size, validate)
    }
    fn rmpadjust(&self, at: u64, size: PageSize, attributes: u64) -> u64 {
        CPU.rmpadjust(at, size, attributes)
    }
    fn msr_exchange(&self, value: u64) -> u64 {
        CPU.msr_exchange(value)
    }
    fn vmgexit(&self, ghcb: u64) {
        CPU.vmgexit(ghcb);
    }
    fn terminate(&self, value: u64) -> ! {
        CPU.terminate(value)
    }
}

/// The host, whichever way it is reached.
pub struct Host {
    direct: Direct,
    ghcb: Once<GhcbHost<Cpu>>,
}

/// The one value.
pub static HOST: Host = Host {
    // SAFETY: the kernel runs in ring 0; devices are mapped by `devices::mapped` before a driver is given their address, and stay so.
    direct: unsafe { Direct::new(device_address) },
    ghcb: Once::new(),
};

impl Host {
    /// From now on, by the GHCB.
    pub fn use_ghcb(&self, ghcb: GhcbHost<Cpu>) {
        self.ghcb.call_once(|| ghcb);
    }

    /// The GHCB, in an SNP guest.
    #[inline]
    pub fn ghcb(&self) -> Option<&GhcbHost<Cpu>> {
        self.ghcb.get()
    }

    #[inline]
    fn io(&self) -> &dyn HostIo {
        match self.ghcb.get() {
            Some(ghcb) => ghcb,
            None => &self.direct,
        }
    }
}

impl HostIo for Host {
    fn in8(&self, port: u16) -> u8 {
        self.io().in8(port)
    }
    fn out8(&self, port: u16, value: u8) {
        self.io().out8(port, value);
    }
    fn in16(&self, port: u16) -> u16 {
        self.io().in16(port)
    }
    fn out16(&self, port: u16, value: u16) {
        self.io().out16(port, value);
    }
    fn in32(&self, port: u16) -> u32 {
        self.io().in32(port)
    }
    fn out32(&self, port: u16, value: u32) {
        self.io().out32(port, value);
    }
    fn out8_each(&self, port: u16, bytes: &[u8]) {
        self.io().out8_each(port, bytes);
    }
    fn mmio_read(&self, address: u64, width: Width) -> u32 {
        self.io().mmio_read(address, width)
    }
    fn mmio_write(&self, address: u64, width: Width, value: u32) {
        self.io().mmio_write(address, width, value);
    }
}
