//! The 16550 serial port (National Semiconductor PC16550D): early log and exit protocol. Output only, polled. With its FIFO
//! on, one read of the line status pays for 16 bytes; a host that never drains it costs a bounded wait, then bytes are lost.

use crate::host::HostIo;
use core::fmt;

/// COM1.
pub const COM1: u16 = 0x3f8;

const FIFO: usize = 16;
/// Reads of the line status before giving up on room in the FIFO.
const PATIENCE: u32 = 10_000;

/// A 16550.
pub struct Uart<'h> {
    host: &'h dyn HostIo,
    port: u16,
}

impl<'h> Uart<'h> {
    /// Sets up the port: 115200 8N1, FIFO on, no interrupts.
    pub fn new(host: &'h dyn HostIo, port: u16) -> Self {
        for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 0x03), (2, 0x07), (4, 0x03)] {
            host.out8(port + register, value);
        }
        Self { host, port }
    }

    /// A port that is already set up.
    pub const fn attach(host: &'h dyn HostIo, port: u16) -> Self {
        Self { host, port }
    }

    /// Writes bytes; newlines are not translated.
    pub fn write(&self, bytes: &[u8]) {
        for burst in bytes.chunks(FIFO) {
            // THRE: the FIFO is empty and takes 16.
            if !(0..PATIENCE).any(|_| self.host.in8(self.port + 5) & 0x20 != 0) {
                return;
            }
            self.host.out8_each(self.port, burst);
        }
    }
}

impl fmt::Write for Uart<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}
