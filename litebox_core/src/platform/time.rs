//! South: clocks.

/// Monotonic time as a linear function of the CPU's time-stamp counter, for the vDSO:
/// `ns = base_ns + ((tsc - base_tsc) * multiplier >> shift)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ClockScale {
    pub base_tsc: u64,
    pub base_ns: u64,
    pub multiplier: u64,
    pub shift: u32,
}

/// South: clocks, in nanoseconds.
pub trait Clock {
    /// Time since the machine started. Never goes back.
    fn monotonic(&self) -> u64;
    /// Time since 1970-01-01T00:00Z as the host said at start, advanced by the monotonic clock. Not trustworthy.
    fn realtime(&self) -> u64;
    /// The resolution to report.
    fn resolution(&self) -> u64 {
        1
    }
}
