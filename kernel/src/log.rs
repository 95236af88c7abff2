//! The kernel log, on the serial port. Off unless the manifest switches it on: the host reads it.

use crate::clock;
use crate::host::HOST;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use platform_snp::uart::{COM1, Uart};

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Switches it on or off.
pub fn set_enabled(enabled: bool) {
    ENABLED.store(enabled, Ordering::Relaxed);
}

/// Whether [`line()`] does anything.
#[inline]
pub fn enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// A line, made on the stack and sent in one go; control characters are replaced, so that no line can look like one of the exit
/// protocol. What is too long is cut.
struct Text {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let room = self.bytes.len() - 1;
            if self.len < room {
                self.bytes[self.len] = if matches!(c, ' '..='~') { c as u8 } else { b'?' };
                self.len += 1;
            }
        }
        Ok(())
    }
}

/// Writes a line with the time in front.
pub fn line(text: fmt::Arguments<'_>) {
    if !enabled() {
        return;
    }
    let micros = clock::monotonic() / 1000;
    let mut out = Text { bytes: [0; 512], len: 0 };
    let _ = write!(out, "[{:5}.{:06}] {text}", micros / 1_000_000, micros % 1_000_000);
    out.bytes[out.len] = b'\n';
    out.len += 1;
    Uart::attach(&HOST, COM1).write(&out.bytes[..out.len]);
}
