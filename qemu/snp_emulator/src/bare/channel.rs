//! The channel to the launcher: lines of JSON through a debug console of QEMU's.

use super::port;
use core::fmt;
use snp_emulator::options;

/// Writes bytes.
pub fn write(bytes: &[u8]) {
    for &byte in bytes {
        port::write8(options::CHANNEL, byte);
    }
}

/// The same for formatting what is inside a string of JSON: quotes and line ends are made harmless.
pub struct Writer;

impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            match byte {
                b'"' | b'\\' => write(&[b'\\', byte]),
                0..=31 => write(b" "),
                _ => write(&[byte]),
            }
        }
        Ok(())
    }
}
