//! Many small runs under one test: all are tried, two at a time, and every failure is reported.
//!
//! The test harness hides what a passing test prints; the line that says what ran goes to stderr directly.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::{Program, note};

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// A named list of checks.
pub struct Suite {
    name: &'static str,
    checks: Vec<(String, Check)>,
}

impl Suite {
    /// An empty suite.
    pub fn new(name: &'static str) -> Self {
        Self { name, checks: Vec::new() }
    }

    /// Adds a check of its own making.
    pub fn check(
        &mut self,
        what: impl Into<String>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.checks.push((what.into(), Box::new(check)));
    }

    /// Adds: guest and host agree on this program.
    pub fn compare(&mut self, program: Program) {
        self.check(program.line(), move || program.compare());
    }

    /// Adds: the guest ends with this status and this output.
    pub fn expect(&mut self, program: Program, status: i32, stdout: impl Into<Vec<u8>>) {
        let stdout = stdout.into();
        self.check(program.line(), move || program.guest().expect(status, &stdout));
    }

    /// Adds: the guest ends with this status, whatever it prints.
    pub fn expect_status(&mut self, program: Program, allowed: &'static [i32]) {
        self.check(program.line(), move || program.guest().expect_status(allowed));
    }

    /// As [`run`](Self::run), for what Linux is no oracle of.
    pub fn run_in_guest_only(self) {
        if !crate::tools::oracle_only() {
            self.run();
        }
    }

    /// Runs all and panics with every failure, if there is one.
    ///
    /// # Panics
    /// When a check failed. With `E2E_ORACLE=1` in the environment guests are not run (see [`crate::tools::oracle_only`]).
    pub fn run(self) {
        let begin = Instant::now();
        let next = AtomicUsize::new(0);
        let failures = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some((what, check)) = self.checks.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = check();
                        println!("{} {}: {what}", if result.is_ok() { "ok  " } else { "FAIL" }, self.name);
                        if let Err(why) = result {
                            // At once too, as a long sweep may not come to its end.
                            println!("{why}");
                            failures.lock().expect("no check panics").push(format!("-- {what}\n{why}"));
                        }
                    }
                });
            }
        });
        let failures = failures.into_inner().expect("no check panics");
        let total = self.checks.len();
        let passed = total - failures.len();
        note(format!(
            "{}: {passed} of {total} as expected in {:.1} s",
            self.name,
            begin.elapsed().as_secs_f64()
        ));
        assert!(
            failures.is_empty(),
            "{}: {} of {total} failed\n{}",
            self.name,
            failures.len(),
            failures.join("\n")
        );
    }
}
