//! What the emulator says: lines of JSON from a debug console of QEMU's.
//!
//! Invariant: any sequence of bytes, cut anywhere, gives messages and never a panic; at most [`LINE_MAX`] bytes are kept.

use serde_json::{Map, Value};

/// A line longer than this is dropped.
const LINE_MAX: usize = 4 << 20;

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The guest's first instruction is next.
    Started,
    /// One exchange.
    Trace(String),
    /// The report of the whole run.
    Summary(Map<String, Value>),
    /// The emulator panicked.
    Bug(String),
    /// A line that is none of these.
    Unknown(String),
}

impl Message {
    fn parse(line: &[u8]) -> Self {
        let text = || String::from_utf8_lossy(line).into_owned();
        let Ok(Value::Object(object)) = serde_json::from_slice(line) else {
            // The emulator may have died in the middle of saying why.
            let bug = line.starts_with(br#"{"emulator_bug":"#);
            return if bug { Self::Bug(text()) } else { Self::Unknown(text()) };
        };
        if let Some(Value::String(why)) = object.get("emulator_bug") {
            return Self::Bug(why.clone());
        }
        if object.contains_key("ending") {
            return Self::Summary(object);
        }
        match (object.get("trace"), object.get("started")) {
            (Some(Value::String(what)), _) => match object.get("cpu").and_then(Value::as_u64) {
                Some(cpu) => Self::Trace(format!("cpu {cpu}: {what}")),
                None => Self::Trace(what.clone()),
            },
            (_, Some(_)) => Self::Started,
            _ => Self::Unknown(text()),
        }
    }
}

/// Cuts the channel's bytes into messages.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    too_long: bool,
}

impl Parser {
    /// Takes bytes as they come.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut impl FnMut(Message)) {
        for &byte in bytes {
            match byte {
                b'\n' => self.finish(sink),
                _ if self.line.len() < LINE_MAX => self.line.push(byte),
                _ => self.too_long = true,
            }
        }
    }

    /// Ends an unfinished line, at the end of the stream.
    pub fn finish(&mut self, sink: &mut impl FnMut(Message)) {
        let line = std::mem::take(&mut self.line);
        if !std::mem::take(&mut self.too_long) && !line.is_empty() {
            sink(Message::parse(&line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(chunks: &[&[u8]]) -> Vec<Message> {
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        for chunk in chunks {
            parser.feed(chunk, &mut |message| out.push(message));
        }
        parser.finish(&mut |message| out.push(message));
        out
    }

    #[test]
    fn messages_are_found_wherever_the_stream_is_cut() {
        let whole =
            b"{\"started\":5}\n{\"trace\":\"PVALIDATE\",\"cpu\":1}\n{\"ending\":\"reset\",\"cycles\":1}\n";
        let want = messages(&[whole]);
        assert!(
            matches!(&want[..], [Message::Started, Message::Trace(trace), Message::Summary(_)] if trace == "cpu 1: PVALIDATE")
        );
        for cut in 0..whole.len() {
            let (a, b) = whole.split_at(cut);
            assert_eq!(messages(&[a, b]), want);
        }
    }

    #[test]
    fn a_panic_is_a_bug_even_if_it_is_cut() {
        let said = messages(&[b"{\"emulator_bug\":\"panicked: \\\"quoted\\\"\"}\n"]);
        assert_eq!(said, [Message::Bug("panicked: \"quoted\"".into())]);
        assert!(matches!(&messages(&[b"{\"emulator_bug\":\"panicked at"])[..], [Message::Bug(_)]));
    }

    #[test]
    fn nonsense_is_unknown() {
        for line in [&b"x"[..], b"[]", b"{}", b"{\"trace\":1}", b"\xff\xfe"] {
            assert!(matches!(&messages(&[line])[..], [Message::Unknown(_)]), "{line:?}");
        }
    }

    #[test]
    fn an_endless_line_is_dropped() {
        let long = vec![b'x'; LINE_MAX + 2];
        assert_eq!(messages(&[&long, b"\n{\"started\":1}"]), [Message::Started]);
    }
}
