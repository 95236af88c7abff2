//! The shape of a script's text, before it means anything.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use snp_emulator::malice::script::Span;
use toml::Spanned;

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawScript {
    pub version: Spanned<Number>,
    /// What the attack is, for people.
    #[serde(rename = "about")]
    pub _about: Option<String>,
    /// What kind of attack it is, for suites of scripts.
    #[serde(rename = "attack")]
    pub _attack: Option<String>,
    /// How the guest ends, for suites of scripts.
    pub expect: Option<RawExpect>,
    pub secret: Option<Spanned<Bytes>>,
    pub seed: Option<Number>,
    pub tick: Option<Spanned<Number>>,
    #[serde(default)]
    pub rule: Vec<Spanned<RawRule>>,
}

/// What a suite expects.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawExpect {
    /// The exit status.
    pub status: i32,
    /// The name of the guest's reason code.
    #[serde(rename = "reason")]
    pub _reason: Option<String>,
    /// The emulator's name for the ending.
    pub ending: Option<String>,
}

macro_rules! rule {
    ($($(#[$more:meta])* $when:ident: $when_type:ty,)* ; $($(#[$rename:meta])* $key:ident $name:literal: $type:ty,)*) => {
        /// A rule.
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct RawRule {
            pub name: Spanned<String>,
            pub on: Spanned<String>,
            pub r#do: Spanned<String>,
            $($(#[$more])* pub $when: Option<Spanned<$when_type>>,)*
            $($(#[$rename])* pub $key: Option<Spanned<$type>>,)*
        }

        impl RawRule {
            /// The keys of the action that are there, and where.
            pub fn action_keys(&self) -> Vec<(&'static str, std::ops::Range<usize>)> {
                let mut keys = Vec::new();
                $(keys.extend(self.$key.as_ref().map(|value| ($name, value.span())));)*
                keys
            }
        }
    };
}

rule! {
    kind: String,
    code: Range,
    port: Range,
    msr: Range,
    gpa: Range,
    device: String,
    at: Range,
    cpl: Number,
    cpu: Number,
    page: String,
    n: Number,
    from: Number,
    until: Number,
    chance: f64,
    ;
    target "target": String,
    to "to": String,
    slot "slot": Number,
    assigned "assigned": bool,
    validated "validated": bool,
    place "place": String,
    field "field": String,
    offset "offset": Number,
    entry "entry": Number,
    leaf "leaf": Number,
    subleaf "subleaf": Number,
    register "register": String,
    size "size": Number,
    set "set": Number,
    bytes "bytes": Bytes,
    xor "xor": Number,
    add "add": Number,
    find "find": Bytes,
    with "with": Bytes,
    info1 "info1": Number,
    info2 "info2": Number,
    value "value": Number,
    times "times": Number,
    requests "requests": Number,
    ms "ms": Number,
    vector "vector": Number,
    #[serde(rename = "as")]
    r#as "as": String,
    error "error": Number,
}

/// A number of 64 bits: an integer, or a string where it is too large for TOML's. A negative one is its two's complement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(pub u64);

/// A range: a number, or a list of the first and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range(pub Span);

/// Bytes: text, or a list of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer, or a string like \"0x8000000000000000\"")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        Ok(value.cast_unsigned())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        parsed.map_err(|_| E::custom(format!("`{text}` is no number of 64 bits")))
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(NumberVisitor).map(Number)
    }
}

struct RangeVisitor;

impl<'de> Visitor<'de> for RangeVisitor {
    type Value = Range;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or [first, last]")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Range, E> {
        let value = value.cast_unsigned();
        Ok(Range(Span { from: value, to: value }))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Range, E> {
        let value = NumberVisitor.visit_str(text)?;
        Ok(Range(Span { from: value, to: value }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Range, A::Error> {
        let mut next = || list.next_element::<Number>();
        match (next()?, next()?, next()?) {
            (Some(from), Some(to), None) if from.0 <= to.0 => Ok(Range(Span { from: from.0, to: to.0 })),
            _ => Err(de::Error::custom("a range is [first, last], and the first is not the larger one")),
        }
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(RangeVisitor)
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, or a list of bytes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
        Ok(Bytes(text.as_bytes().to_vec()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Bytes, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = list.next_element()? {
            bytes.push(byte);
        }
        Ok(Bytes(bytes))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(BytesVisitor)
    }
}
