//! What a run left behind: two byte streams and a status, and how two such outcomes differ.
//!
//! Streams are bytes, never text: a difference in one byte is a difference. The status is the shell's number:
//! the program's own, or 128+N when signal N killed it, so that guest and host can be compared as they are.

use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;
use std::time::Duration;

/// The observable result of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes of the standard output.
    pub stdout: Vec<u8>,
    /// Bytes of the standard error.
    pub stderr: Vec<u8>,
    /// Exit status as a shell reports it: 128+N after death by signal N.
    pub status: i32,
    /// How long the run took, never compared.
    pub elapsed: Elapsed,
}

/// A duration that is equal to every other, so that [`Outcome`] can be compared as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Elapsed(pub Duration);

impl PartialEq for Elapsed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Elapsed {}

impl Outcome {
    /// Takes away the launcher's line about its platform, which Linux has not.
    pub fn forget_platform(&mut self) {
        const LINE: &[u8] = b"xtask: platform: ";
        if self.stderr.starts_with(LINE) {
            let end =
                self.stderr.iter().position(|&byte| byte == b'\n').map_or(self.stderr.len(), |end| end + 1);
            self.stderr.drain(..end);
        }
    }

    /// From a finished child process.
    pub fn new(output: Output, elapsed: Duration) -> Self {
        let status = output.status;
        Self {
            stdout: output.stdout,
            stderr: output.stderr,
            status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(127)),
            elapsed: Elapsed(elapsed),
        }
    }

    /// The standard output as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// `Ok` when status and stdout are these, else what differs.
    pub fn expect(&self, status: i32, stdout: impl AsRef<[u8]>) -> Result<(), String> {
        let want = Self {
            stdout: stdout.as_ref().to_vec(),
            stderr: self.stderr.clone(),
            status,
            elapsed: self.elapsed,
        };
        self.same_as(&want)
    }

    /// `Ok` when the status is one of these, else both streams' ends.
    pub fn expect_status(&self, allowed: &[i32]) -> Result<(), String> {
        if allowed.contains(&self.status) {
            return Ok(());
        }
        Err(format!("status {}, expected {allowed:?}{}", self.status, self.tail()))
    }

    /// `Ok` when everything observable equals `linux`, else a readable difference.
    pub fn same_as(&self, linux: &Self) -> Result<(), String> {
        if self == linux {
            return Ok(());
        }
        let mut report = String::new();
        if self.status != linux.status {
            let _ = writeln!(report, "status: guest {}, expected {}", self.status, linux.status);
        }
        difference("stdout", &self.stdout, &linux.stdout, &mut report);
        difference("stderr", &self.stderr, &linux.stderr, &mut report);
        Err(report)
    }

    /// The ends of both streams, for a message.
    pub fn tail(&self) -> String {
        let end = |bytes: &[u8]| bytes[bytes.len().saturating_sub(2000)..].escape_ascii().to_string();
        format!(
            "\n  stdout: …{}\n  stderr: …{}",
            end(&self.stdout),
            end(&self.stderr).replace("\\n", "\n    ")
        )
    }
}

/// Appends the first line in which the two differ, with the lines around it.
fn difference(stream: &str, guest: &[u8], linux: &[u8], report: &mut String) {
    if guest == linux {
        return;
    }
    let at = guest.iter().zip(linux).take_while(|(a, b)| a == b).count();
    let line = linux[..at.min(linux.len())].iter().filter(|&&byte| byte == b'\n').count() + 1;
    let start = guest[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    let start = start.max(at.saturating_sub(200));
    let _ = writeln!(
        report,
        "{stream}: guest {} bytes, expected {} bytes, first difference at byte {at} (line {line})",
        guest.len(),
        linux.len()
    );
    for (name, bytes) in [("guest", guest), ("expected", linux)] {
        let end = bytes.len().min(start + 400);
        for (index, text) in bytes[start..end].split(|&byte| byte == b'\n').take(4).enumerate() {
            let _ = writeln!(report, "  {name:>8} {:>5}| {}", line + index, text.escape_ascii());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(stdout: &[u8], status: i32) -> Outcome {
        Outcome { stdout: stdout.into(), stderr: Vec::new(), status, elapsed: Elapsed(Duration::ZERO) }
    }

    #[test]
    fn equal_outcomes_have_no_difference() {
        assert_eq!(outcome(b"a\nb\n", 3).same_as(&outcome(b"a\nb\n", 3)), Ok(()));
    }

    #[test]
    fn a_difference_names_its_line() {
        let report = outcome(b"a\nb\nc\n", 0).same_as(&outcome(b"a\nb\nd\n", 1)).unwrap_err();
        assert!(report.contains("status: guest 0, expected 1"), "{report}");
        assert!(report.contains("at byte 4 (line 3)"), "{report}");
        assert!(report.contains("3| c") && report.contains("3| d"), "{report}");
    }

    #[test]
    fn a_prefix_is_a_difference() {
        assert!(outcome(b"", 0).same_as(&outcome(b"x", 0)).is_err());
        assert!(outcome(b"xy", 0).same_as(&outcome(b"x", 0)).is_err());
    }
}
