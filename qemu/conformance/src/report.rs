//! Counts what holds and what does not, and says what does not.

use crate::machine::console::Console;
use core::fmt::{Debug, Display, Write};

/// The counts.
#[derive(Default)]
pub struct Report {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Report {
    /// `got` must be `want`. `source` is what says so.
    pub fn equal<T: PartialEq + Debug>(&mut self, what: impl Display, source: &str, got: T, want: T) {
        if got == want {
            self.passed += 1;
        } else {
            self.failed += 1;
            let _ = writeln!(Console, "FAILED  {what} ({source}): expected {want:x?}, got {got:x?}");
        }
    }

    /// It must hold; `got` says what was found.
    pub fn holds(&mut self, what: impl Display, source: &str, condition: bool, got: impl Debug) {
        if condition {
            self.passed += 1;
        } else {
            self.failed += 1;
            let _ = writeln!(Console, "FAILED  {what} ({source}): got {got:x?}");
        }
    }

    /// It cannot be checked here, and why.
    pub fn skip(&mut self, what: impl Display, source: &str, why: &str) {
        self.skipped += 1;
        let _ = writeln!(Console, "skipped {what} ({source}): {why}");
    }

    /// Says what is checked next, so that one knows where a guest that goes silent went.
    pub fn chapter(&mut self, name: &str) {
        let _ = writeln!(Console, "{name}");
    }

    /// Says the sums; whether all was well.
    pub fn sum(&self) -> bool {
        let Self { passed, failed, skipped } = self;
        let _ = writeln!(Console, "{passed} passed, {failed} failed, {skipped} skipped");
        *failed == 0
    }
}
