//! The owner's side of attestation: what a guest's report is worth, and what may be released to that guest.
//!
//! [`verify`] judges a report; [`broker`] releases secrets to guests whose reports pass, and [`http`] carries it. Nothing in here runs
//! inside a guest, and everything that comes in is from somebody who may be an attacker: bytes become types in one place each, and no
//! input makes anything panic.
#![forbid(unsafe_code)]

pub mod broker;
pub mod certificates;
pub mod chain;
pub mod check;
pub mod expect;
pub mod http;
pub mod jose;
pub mod keys;
pub mod report;
pub mod runtime_data;
pub mod tcb;
#[cfg(test)]
mod testing;
pub mod verify;

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Exactly `N` bytes out of hexadecimal.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    unhex_any(text)?.try_into().ok()
}

/// Any number of bytes out of hexadecimal.
pub fn unhex_any(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: &u8| char::from(*digit).to_digit(16);
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| Some((digit(pair.first()?)? << 4 | digit(pair.get(1)?)?) as u8))
        .collect()
}
