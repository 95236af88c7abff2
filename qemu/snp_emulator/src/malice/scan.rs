//! Looks for a planted secret in whatever the host sees: shared memory, and what passes through ports, device memory and the GHCB.
//!
//! Any eight bytes of the secret in a row count: a secret that leaks through a register comes in such pieces.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Bytes that are found together.
const WINDOW: usize = 8;
/// Places that are kept.
const KEPT: usize = 16;

/// Where a piece was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// In a page that is shared, at this guest-physical address.
    Shared(u64),
    /// Written to this port.
    Port(u16),
    /// Written to device memory at this address.
    Mmio(u64),
}

/// The search.
#[derive(Clone, Debug)]
pub struct Scanner {
    /// All windows of the secret, as numbers, in order.
    windows: Vec<u64>,
    /// Which values the first byte of a window has.
    first: [bool; 256],
    /// The last bytes that passed through a port or a register, oldest first.
    passed: Vec<(Seen, u64, usize)>,
    /// Where it was seen.
    found: Vec<Seen>,
    /// How often.
    times: u64,
    /// Pages that were looked at.
    pages: u64,
    /// Bytes that passed.
    bytes: u64,
}

impl Scanner {
    /// For this secret, which has at least eight bytes.
    pub fn new(secret: &[u8]) -> Self {
        let mut windows: Vec<u64> = secret
            .windows(WINDOW)
            .map(|window| window.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)))
            .collect();
        windows.sort_unstable();
        windows.dedup();
        let mut first = [false; 256];
        for window in &windows {
            if let Some(flag) = first.get_mut((window & 0xff) as usize) {
                *flag = true;
            }
        }
        let (passed, found) = (Vec::new(), Vec::new());
        Self { windows, first, passed, found, times: 0, pages: 0, bytes: 0 }
    }

    fn note(&mut self, seen: Seen) {
        self.times += 1;
        if self.found.len() < KEPT && !self.found.contains(&seen) {
            self.found.push(seen);
        }
    }

    /// Looks at a page.
    pub fn page(&mut self, gpa: u64, bytes: &[u8]) {
        self.pages += 1;
        let mut at = 0;
        while let Some(window) = bytes.get(at..at + WINDOW) {
            let begins = window.first().is_some_and(|&byte| self.first.get(usize::from(byte)) == Some(&true));
            if begins {
                let word = window.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
                if self.windows.binary_search(&word).is_ok() {
                    self.note(Seen::Shared(gpa + at as u64));
                    at += WINDOW;
                    continue;
                }
            }
            at += 1;
        }
    }

    /// Looks at bytes on their way out; those of one place belong together.
    pub fn pass(&mut self, through: Seen, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        let slot = match self.passed.iter().position(|passed| passed.0 == through) {
            Some(slot) => slot,
            None => {
                self.passed.push((through, 0, 0));
                self.passed.len() - 1
            }
        };
        for &byte in bytes {
            let Some((_, word, count)) = self.passed.get_mut(slot) else { return };
            *word = *word >> 8 | u64::from(byte) << 56;
            *count += 1;
            let (word, whole) = (*word, *count >= WINDOW);
            if whole && self.windows.binary_search(&word).is_ok() {
                self.note(through);
            }
        }
    }

    /// Whether it was seen.
    pub fn is_found(&self) -> bool {
        self.times > 0
    }

    /// As a member of a JSON object.
    pub fn json(&self, out: &mut String) {
        let _ = write!(
            out,
            ",\"secret\":{{\"seen\":{},\"pages\":{},\"bytes\":{},\"where\":[",
            self.times, self.pages, self.bytes
        );
        for (i, seen) in self.found.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let _ = match seen {
                Seen::Shared(gpa) => write!(out, "{comma}\"shared memory at {gpa:#x}\""),
                Seen::Port(port) => write!(out, "{comma}\"port {port:#x}\""),
                Seen::Mmio(gpa) => write!(out, "{comma}\"device memory at {gpa:#x}\""),
            };
        }
        out.push_str("]}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"the planted secret of this test";

    #[test]
    fn in_a_page_whole_or_in_part() {
        let mut scanner = Scanner::new(SECRET);
        let mut page = [0; 4096];
        scanner.page(0x1000, &page);
        page[4090..].copy_from_slice(&SECRET[..6]);
        scanner.page(0x2000, &page);
        assert!(!scanner.is_found(), "six bytes are no piece");
        page[4088..].copy_from_slice(&SECRET[5..13]);
        scanner.page(0x3000, &page);
        assert_eq!(scanner.found, [Seen::Shared(0x3ff8)]);
        let mut out = String::new();
        scanner.json(&mut out);
        assert_eq!(out, r#","secret":{"seen":1,"pages":3,"bytes":0,"where":["shared memory at 0x3ff8"]}"#);
    }

    #[test]
    fn byte_by_byte_through_a_port() {
        let mut scanner = Scanner::new(SECRET);
        for byte in &SECRET[3..10] {
            scanner.pass(Seen::Port(0x3f8), &[*byte]);
            // Another port's bytes do not come in between.
            scanner.pass(Seen::Port(0x80), &[0]);
        }
        assert!(!scanner.is_found());
        scanner.pass(Seen::Port(0x3f8), &SECRET[10..11]);
        assert_eq!(scanner.found, [Seen::Port(0x3f8)]);
    }

    #[test]
    fn in_a_register() {
        let mut scanner = Scanner::new(SECRET);
        scanner.pass(Seen::Mmio(0xfeb0_0000), &SECRET[8..16]);
        assert!(scanner.is_found());
        let mut other = Scanner::new(SECRET);
        other.pass(Seen::Mmio(0xfeb0_0000), &[0; 8]);
        assert!(!other.is_found(), "zeros at the start are none");
    }
}
