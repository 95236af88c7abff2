//! The exit protocol (docs/design.md): lines on the serial port that start with 0x1e, then power-off by isa-debug-exit.

use crate::{host::HostIo, uart::Uart};
use core::fmt::{self, Write};
use litebox_core::platform::{Attack, ExitStatus};

/// isa-debug-exit's port.
pub const DEBUG_EXIT: u16 = 0xf4;
/// Bytes of an explanation that are passed on.
const WHY_MAX: usize = 400;

/// How the machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The workload's end.
    Status(ExitStatus),
    /// The host attacked.
    Attack(Attack),
    /// A bug of ours.
    Bug,
}

/// Says that the kernel runs.
pub fn booted(uart: &Uart<'_>) {
    uart.write(b"\x1ebooted\n");
}

/// Says how the machine ends. The line starts on a line of its own, whatever the log wrote before.
pub fn announce(uart: &Uart<'_>, ending: Ending, why: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; WHY_MAX + 64], len: 0, limit: WHY_MAX + 62 };
    line.push(b'\n');
    line.push(0x1e);
    let head = match ending {
        Ending::Status(ExitStatus::Exited(n)) => write!(line, "exited {n}"),
        Ending::Status(ExitStatus::Signaled(n)) => write!(line, "signaled {n}"),
        Ending::Status(ExitStatus::NotExecutable) => write!(line, "not-executable {why}"),
        Ending::Status(ExitStatus::NotFound) => write!(line, "not-found {why}"),
        Ending::Status(ExitStatus::BadLaunch) => write!(line, "bad-launch {why}"),
        Ending::Attack(attack) => write!(line, "host-attack {} {why}", reason(attack)),
        Ending::Bug => write!(line, "kernel-bug {why}"),
    };
    // A failing Display cuts the text short; the word in front is what counts.
    let _ = head;
    line.limit += 1;
    line.push(b'\n');
    uart.write(line.bytes.get(..line.len).unwrap_or_default());
}

/// Switches the machine off; returns only when the host ignores it.
pub fn power_off(host: &dyn HostIo) {
    host.out32(DEBUG_EXIT, 0);
}

fn reason(attack: Attack) -> &'static str {
    match attack {
        Attack::ImageTampered => "image-tampered",
        Attack::BadRing => "bad-ring",
        Attack::BadDevice => "bad-device",
        Attack::BadInterrupt => "bad-interrupt",
        _ => "other",
    }
}

/// A bounded line of printable ASCII.
struct Line {
    bytes: [u8; WHY_MAX + 64],
    len: usize,
    limit: usize,
}

impl Line {
    fn push(&mut self, byte: u8) {
        if self.len < self.limit
            && let Some(slot) = self.bytes.get_mut(self.len)
        {
            *slot = byte;
            self.len += 1;
        }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            self.push(if matches!(c, ' '..='~') { c as u8 } else { b'?' });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Width;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Serial(Mutex<Vec<u8>>);

    impl HostIo for Serial {
        fn in8(&self, _: u16) -> u8 {
            0x20
        }
        fn out8(&self, _: u16, value: u8) {
            self.0.lock().unwrap().push(value);
        }
        fn in16(&self, _: u16) -> u16 {
            0
        }
        fn out16(&self, _: u16, _: u16) {}
        fn in32(&self, _: u16) -> u32 {
            0
        }
        fn out32(&self, _: u16, _: u32) {}
        fn mmio_read(&self, _: u64, _: Width) -> u32 {
            0
        }
        fn mmio_write(&self, _: u64, _: Width, _: u32) {}
    }

    fn line(ending: Ending, why: fmt::Arguments<'_>) -> Vec<u8> {
        let serial = Serial::default();
        announce(&Uart::attach(&serial, crate::uart::COM1), ending, why);
        serial.0.into_inner().unwrap()
    }

    #[test]
    fn lines_are_whole_printable_and_bounded() {
        assert_eq!(line(Ending::Status(ExitStatus::Exited(3)), format_args!("")), b"\n\x1eexited 3\n");
        let forged = line(Ending::Attack(Attack::BadRing), format_args!("a\n\x1eexited 0\u{e9}"));
        assert_eq!(forged, b"\n\x1ehost-attack bad-ring a??exited 0?\n");
        let long = line(Ending::Bug, format_args!("{:x>9999}", ""));
        assert!(long.len() < 500 && long.ends_with(b"x\n"));
    }
}
