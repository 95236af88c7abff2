//! How a script travels from the launcher to the emulator: eight bytes of magic, a version, and the types of [`super::script`] in `postcard`'s encoding.
//!
//! Invariant: a script has one encoding. What has trailing bytes, a longer way to write a number, or rules that cannot be, is refused.

use super::script::{Flaw, Script};
use alloc::vec::Vec;
use core::fmt;

/// The first bytes.
pub const MAGIC: [u8; 8] = *b"LBMALICE";
/// The version of the types.
pub const VERSION: u16 = 1;
/// Bytes that a script may have.
pub const SIZE_MAX: usize = 256 << 10;

/// Why bytes are no script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// They do not begin as one.
    Magic,
    /// It is for another emulator.
    Version(u16),
    /// Too many.
    Size,
    /// Not what the types are.
    Encoding,
    /// The rules cannot be.
    Flaw(Flaw),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => {
                f.write_str("the script is not one: the launcher translates a TOML file for the emulator")
            }
            Self::Version(version) => {
                write!(
                    f,
                    "the script has version {version}, this emulator takes {VERSION}: build both from one source"
                )
            }
            Self::Size => write!(f, "the script has more than {SIZE_MAX} bytes"),
            Self::Encoding => f.write_str("the script is damaged"),
            Self::Flaw(Flaw { rule: None, why }) => f.write_str(why),
            Self::Flaw(Flaw { rule: Some(rule), why }) => write!(f, "rule {}: {why}", rule + 1),
        }
    }
}

/// A script's bytes.
pub fn encode(script: &Script) -> Vec<u8> {
    let head: Vec<u8> = MAGIC.into_iter().chain(VERSION.to_le_bytes()).collect();
    // Only a full writer fails, and a vector grows.
    postcard::to_extend(script, head).unwrap_or_default()
}

/// The script that these bytes are.
///
/// # Errors
/// They are none.
pub fn decode(bytes: &[u8]) -> Result<Script, Refused> {
    if bytes.len() > SIZE_MAX {
        return Err(Refused::Size);
    }
    let body = bytes.strip_prefix(&MAGIC).ok_or(Refused::Magic)?;
    let (version, body) = body.split_first_chunk().ok_or(Refused::Encoding)?;
    let version = u16::from_le_bytes(*version);
    if version != VERSION {
        return Err(Refused::Version(version));
    }
    let script: Script = postcard::from_bytes(body).map_err(|_| Refused::Encoding)?;
    if encode(&script) != bytes {
        return Err(Refused::Encoding);
    }
    script.check().map_err(Refused::Flaw)?;
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::super::event::Moment;
    use super::super::script::*;
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn script() -> Script {
        let ring = Ring { device: 0xfeb0_0200, queue: 0, part: RingPart::UsedLength };
        let answer = Trigger {
            kind: Some("mmio-write".into()),
            gpa: Some(Span { from: 0xfeb0_0250, to: 0xfeb0_0250 }),
            when: When::nth(3),
            ..Trigger::on(Moment::Answer)
        };
        let change = Change::Add { size: 4, value: 0x1000 };
        let touch = Trigger { page: Some(PageRef::Ring(ring)), ..Trigger::on(Moment::Touch) };
        let rules = vec![
            Rule {
                name: "longer than its buffer".into(),
                trigger: answer,
                action: Action::Change { place: Place::Ring(ring, 0), change },
            },
            Rule { name: "gone".into(), trigger: touch, action: Action::Unmap { page: PageRef::Rip } },
        ];
        Script { secret: b"sixteen bytes !!".into(), seed: 300, tick_us: 500, rules }
    }

    #[test]
    fn there_and_back() {
        assert_eq!(decode(&encode(&script())), Ok(script()));
        assert_eq!(decode(&encode(&Script::default())), Ok(Script::default()));
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = encode(&script());
        for len in 0..good.len() {
            assert!(decode(&good[..len]).is_err(), "{len}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(decode(&longer), Err(Refused::Encoding));
        let mut newer = good.clone();
        newer[8] = 2;
        assert_eq!(decode(&newer), Err(Refused::Version(2)));
        assert_eq!(decode(b"# a script"), Err(Refused::Magic));
        // A secret's length of 0 in two bytes instead of one.
        let padded: Vec<u8> = MAGIC.into_iter().chain([1, 0, 0x80, 0, 0, 0, 0]).collect();
        assert_eq!(decode(&padded), Err(Refused::Encoding));
        assert_eq!(decode(&vec![0; SIZE_MAX + 1]), Err(Refused::Size));
    }

    proptest! {
        /// Whatever bytes: an error, or a script whose bytes they are and whose rules can be.
        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes: Vec<u8> = MAGIC.into_iter().chain(VERSION.to_le_bytes()).chain(body).collect();
            if let Ok(script) = decode(&bytes) {
                prop_assert_eq!(script.check(), Ok(()));
                prop_assert_eq!(encode(&script), bytes);
            }
        }

        /// One changed byte of a script: an error, or another script.
        #[test]
        fn any_change(at in 0usize..1000, mask in 1u8..) {
            let mut bytes = encode(&script());
            let at = at % bytes.len();
            bytes[at] ^= mask;
            prop_assert_ne!(decode(&bytes), Ok(script()));
        }
    }
}
