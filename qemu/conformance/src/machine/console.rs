//! Text to the serial port, through string output of the GHCB. Before the GHCB is there, text is lost.

use super::ghcb;
use core::fmt;

/// The serial port.
const PORT: u16 = 0x3f8;

/// The console of the first CPU.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.as_bytes().chunks(ghcb::BUFFER_SIZE) {
            ghcb::write_port_string(PORT, part);
        }
        Ok(())
    }
}
