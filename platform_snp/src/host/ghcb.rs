//! The host of an SNP guest: every register access is a request in the GHCB page.
//!
//! The same drivers run on it as on [`super::direct`]. An answer that cannot be ends the guest on the spot, with a reason code: there is nobody to
//! report it to but the host.

use super::{HostIo, Width};
use crate::snp::ghcb::{Answer, Ghcb};
use crate::snp::{Instructions, Violation};
use spin::Mutex;

/// A GHCB behind a lock, as registers.
pub struct GhcbHost<I> {
    ghcb: Mutex<Ghcb<I>>,
}

impl<I: Instructions> GhcbHost<I> {
    /// Takes the GHCB over.
    pub fn new(ghcb: Ghcb<I>) -> GhcbHost<I> {
        GhcbHost { ghcb: Mutex::new(ghcb) }
    }

    /// Does something with the GHCB; a violation ends the guest.
    pub fn with<T>(&self, request: impl FnOnce(&Ghcb<I>) -> Result<T, Violation>) -> T {
        let ghcb = self.ghcb.lock();
        match request(&ghcb) {
            Ok(value) => value,
            Err(violation) => ghcb.cpu().terminate(violation.request().into()),
        }
    }

    /// The same; what the host denies is `denied`, as a bus without a device reads.
    fn ask<T>(&self, denied: T, request: impl FnOnce(&Ghcb<I>) -> Answer<T>) -> T {
        self.with(request).unwrap_or(denied)
    }

    /// Whether a request is under way: then nothing may be asked, and only the MSR protocol is left.
    pub fn is_busy(&self) -> bool {
        self.ghcb.is_locked()
    }

    /// RDMSR by the host; `None` is #GP.
    pub fn read_msr(&self, msr: u32) -> Option<u64> {
        self.with(|ghcb| ghcb.read_msr(msr)).ok()
    }

    /// WRMSR by the host; false is #GP.
    pub fn write_msr(&self, msr: u32, value: u64) -> bool {
        self.with(|ghcb| ghcb.write_msr(msr, value)).is_ok()
    }
}

impl<I: Instructions> HostIo for GhcbHost<I> {
    fn in8(&self, port: u16) -> u8 {
        self.ask(!0, |ghcb| ghcb.port_in(port, 1)) as u8
    }
    fn out8(&self, port: u16, value: u8) {
        self.ask((), |ghcb| ghcb.port_out(port, 1, value.into()));
    }
    fn in16(&self, port: u16) -> u16 {
        self.ask(!0, |ghcb| ghcb.port_in(port, 2)) as u16
    }
    fn out16(&self, port: u16, value: u16) {
        self.ask((), |ghcb| ghcb.port_out(port, 2, value.into()));
    }
    fn in32(&self, port: u16) -> u32 {
        self.ask(!0, |ghcb| ghcb.port_in(port, 4))
    }
    fn out32(&self, port: u16, value: u32) {
        self.ask((), |ghcb| ghcb.port_out(port, 4, value));
    }
    fn out8_each(&self, port: u16, bytes: &[u8]) {
        self.ask((), |ghcb| ghcb.port_out_bytes(port, bytes));
    }
    fn mmio_read(&self, address: u64, width: Width) -> u32 {
        let nothing = !0 >> (32 - 8 * u32::from(width.bytes()));
        self.ask(nothing, |ghcb| ghcb.mmio_read(address, width))
    }
    fn mmio_write(&self, address: u64, width: Width, value: u32) {
        self.ask((), |ghcb| ghcb.mmio_write(address, width, value));
    }
}
