//! The exit protocol: what the kernel says on the serial port (`docs/design.md`, "Exit protocol").
//!
//! A line that starts with byte 0x1e is for the launcher, every other line is the kernel's log. The serial port
//! never carries a byte of the workload's, so nothing that a program prints can be taken for its exit status.
//! Invariant: any sequence of bytes, cut anywhere, gives at most one [`Verdict`] and never a panic.

/// Statuses that `run-snp` adds to the program's own.
pub mod status {
    /// The host attacked the guest, and the guest noticed.
    pub const HOST_ATTACK: i32 = 121;
    /// The kernel has a bug.
    pub const KERNEL_BUG: i32 = 122;
    /// `--timeout` passed.
    pub const TIMED_OUT: i32 = 124;
    /// The launcher failed; the program did not start.
    pub const LAUNCH_FAILED: i32 = 125;
    /// The program is there and cannot be executed.
    pub const NOT_EXECUTABLE: i32 = 126;
    /// The program is not there.
    pub const NOT_FOUND: i32 = 127;
    /// Added to the number of the signal that ended the program, or the launcher.
    pub const SIGNALED: i32 = 128;
}

/// How the guest says it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The program called `exit_group` with this status.
    Exited(u8),
    /// This signal ended the program.
    Signaled(u8),
    /// The program cannot be executed, and why.
    NotExecutable(String),
    /// The program is not in the image, and what was looked for.
    NotFound(String),
    /// The machine or the manifest is not one that the kernel can work with.
    BadLaunch(String),
    /// An attack by the host was detected: reason and explanation.
    HostAttack(String),
    /// The kernel panicked.
    KernelBug(String),
}

impl Verdict {
    /// The exit status of `run-snp`.
    pub fn status(&self) -> i32 {
        match self {
            Self::Exited(n) => i32::from(*n),
            Self::Signaled(n) => status::SIGNALED + i32::from(*n),
            Self::NotExecutable(_) => status::NOT_EXECUTABLE,
            Self::NotFound(_) => status::NOT_FOUND,
            Self::BadLaunch(_) => status::LAUNCH_FAILED,
            Self::HostAttack(_) => status::HOST_ATTACK,
            Self::KernelBug(_) => status::KERNEL_BUG,
        }
    }

    /// What to tell a human; nothing where the program ended by itself.
    pub fn explanation(&self) -> Option<String> {
        match self {
            Self::Exited(_) | Self::Signaled(_) => None,
            Self::NotExecutable(why) => Some(format!("cannot execute: {why}")),
            Self::NotFound(why) => Some(format!("not found: {why}")),
            Self::BadLaunch(why) => Some(format!("the kernel refused the launch: {why}")),
            Self::HostAttack(why) => {
                Some(format!("the guest detected an attack by the host and stopped: {why}"))
            }
            Self::KernelBug(why) => Some(format!("kernel bug: {why}")),
        }
    }

    /// Parses what follows 0x1e on a line.
    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let why = || rest.to_owned();
        Some(match word {
            // Linux keeps eight bits of a status.
            "exited" => Self::Exited((rest.trim().parse::<i64>().ok()? & 0xff) as u8),
            "signaled" => Self::Signaled(rest.trim().parse().ok().filter(|n| (1..=64).contains(n))?),
            "not-executable" => Self::NotExecutable(why()),
            "not-found" => Self::NotFound(why()),
            "bad-launch" => Self::BadLaunch(why()),
            "host-attack" => Self::HostAttack(why()),
            "kernel-bug" => Self::KernelBug(why()),
            _ => return None,
        })
    }
}

/// One line from the serial port.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line of the kernel's log.
    Log(String),
    /// The kernel runs and has its console.
    Booted,
    /// The kernel said how it ends.
    Verdict(Verdict),
}

/// A line longer than this is cut: the launcher's memory is not the guest's to fill.
const LINE_MAX: usize = 16 * 1024;

/// Cuts the bytes of the serial port into lines.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
}

impl Parser {
    /// Takes bytes as they come and gives each complete line to `sink`.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut impl FnMut(Line)) {
        for &byte in bytes {
            match byte {
                b'\n' => self.finish(sink),
                b'\r' => {}
                _ if self.line.len() < LINE_MAX => self.line.push(byte),
                _ => {}
            }
        }
    }

    /// Ends an unfinished line, at the end of the stream.
    pub fn finish(&mut self, sink: &mut impl FnMut(Line)) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&line);
        sink(match text.strip_prefix('\u{1e}') {
            Some("booted") => Line::Booted,
            Some(message) => match Verdict::parse(message) {
                Some(verdict) => Line::Verdict(verdict),
                None => Line::Log(format!("unknown message to the launcher: {}", message.escape_debug())),
            },
            None => Line::Log(text.into_owned()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<Line> {
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        for chunk in chunks {
            parser.feed(chunk, &mut |line| out.push(line));
        }
        parser.finish(&mut |line| out.push(line));
        out
    }

    #[test]
    fn lines_are_found_wherever_the_stream_is_cut() {
        let whole = b"hello\r\n\x1ebooted\n\x1eexited 3\n";
        let want = vec![Line::Log("hello".into()), Line::Booted, Line::Verdict(Verdict::Exited(3))];
        for cut in 0..whole.len() {
            let (a, b) = whole.split_at(cut);
            assert_eq!(lines(&[a, b]), want);
        }
    }

    #[test]
    fn every_verdict_has_the_documented_status() {
        for (text, status) in [
            ("exited 0", 0),
            ("exited 255", 255),
            ("exited 256", 0),
            ("signaled 11", 139),
            ("not-executable truncated", 126),
            ("not-found /bin/x", 127),
            ("bad-launch no manifest", 125),
            ("host-attack verity block 7", 121),
            ("kernel-bug panicked", 122),
        ] {
            assert_eq!(Verdict::parse(text).map(|v| v.status()), Some(status), "{text}");
        }
    }

    #[test]
    fn nonsense_is_log_and_not_a_verdict() {
        for text in
            ["\u{1e}exited", "\u{1e}exited x", "\u{1e}signaled 0", "\u{1e}signaled 65", "\u{1e}", "exited 3"]
        {
            assert!(matches!(lines(&[text.as_bytes()])[..], [Line::Log(_)]), "{text:?}");
        }
        assert!(matches!(lines(&[b"\xff\xfe\n"])[..], [Line::Log(_)]));
    }

    #[test]
    fn an_endless_line_is_cut() {
        let Line::Log(line) = &lines(&[&vec![b'x'; LINE_MAX * 3]])[0] else { panic!("a log line") };
        assert_eq!(line.len(), LINE_MAX);
    }
}
