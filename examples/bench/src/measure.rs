//! Time per operation: batches long enough for any clock, several of them, the best and the median.
//!
//! The best is what the code can do, undisturbed by what else runs on the host; the median says how disturbed it was.

use std::hint::black_box;

use crate::sys::monotonic_ns;

/// A batch lasts at least this long; the clock's resolution is then far below one percent.
const BATCH_NS: u64 = 2_000_000;
/// A row takes about this long.
const ROW_NS: u64 = 200_000_000;
/// Batches at least, and at most.
const ROUNDS: (u64, u64) = (5, 40);

/// Where an operation spends its time.
#[derive(Clone, Copy)]
pub enum Place {
    /// It enters the kernel.
    Kernel,
    /// It does not.
    User,
}

impl Place {
    /// As the output names it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::User => "user",
        }
    }
}

/// A result.
pub struct Row {
    /// What was measured.
    pub name: &'static str,
    /// Where it ran.
    pub place: Place,
    /// Nanoseconds per operation in the best batch.
    pub best_ns: f64,
    /// Nanoseconds per operation in the median batch.
    pub median_ns: f64,
}

/// Measures an operation by itself.
pub fn per_call(name: &'static str, place: Place, mut operation: impl FnMut()) -> Row {
    per_batch(name, place, |times| {
        let start = monotonic_ns();
        for _ in 0..times {
            operation();
            black_box(());
        }
        (monotonic_ns().saturating_sub(start), times)
    })
}

/// Measures batches that time themselves: given a number of repetitions, a batch returns nanoseconds and how many
/// operations they were.
pub fn per_batch(name: &'static str, place: Place, mut batch: impl FnMut(u64) -> (u64, u64)) -> Row {
    let mut times = 1;
    let mut spent = batch(times).0;
    while spent < BATCH_NS {
        times *= 2;
        spent = batch(times).0;
    }
    let rounds = (ROW_NS / spent.max(1)).clamp(ROUNDS.0, ROUNDS.1);
    let mut samples: Vec<f64> = (0..rounds)
        .map(|_| {
            let (spent, operations) = batch(times);
            spent as f64 / operations.max(1) as f64
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    let at = |index: usize| samples.get(index).copied().unwrap_or(f64::NAN);
    Row { name, place, best_ns: at(0), median_ns: at(samples.len() / 2) }
}
