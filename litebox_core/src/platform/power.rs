//! South: how the machine ends.

use core::fmt;

/// How the workload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// `exit_group(status & 0xff)`.
    Exited(u8),
    /// Killed by this signal.
    Signaled(u8),
    /// The program could not be started: not executable (launcher status 126).
    NotExecutable,
    /// The program, or its interpreter, was not found (launcher status 127).
    NotFound,
    /// What the launcher handed over does not make sense (launcher status 125).
    BadLaunch,
}

/// What the host did that it must not do. Each ends the machine with a reason of its own (launcher status 121).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attack {
    /// The workload image does not have the digest that the manifest promises.
    ImageTampered,
    /// A device broke the rules of its ring.
    BadRing,
    /// A device or fw_cfg gave an answer that cannot be.
    BadDevice,
    /// An interrupt or exception came that nothing of ours asked for.
    BadInterrupt,
}

/// South: the end of the machine.
pub trait Power {
    /// Flushes the console, tells the launcher how the workload ended (with a line of explanation when it did not run),
    /// and switches off.
    fn power_off(&self, status: ExitStatus, why: fmt::Arguments<'_>) -> !;

    /// Ends the machine because the host attacked it.
    fn host_attack(&self, attack: Attack, what: fmt::Arguments<'_>) -> !;
}
