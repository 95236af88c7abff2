//! South: the workload's standard streams.

use alloc::boxed::Box;

/// An output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What reading standard input gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// This many bytes, at least one.
    Bytes(usize),
    /// Nothing now; the notifier is called when that changes.
    Empty,
    /// Nothing now or ever.
    Eof,
}

/// South: the standard streams. Byte for byte, in order.
pub trait Console: Send + Sync {
    /// Queues bytes for the host and returns how many were taken; may wait for room, 0 means the host is gone.
    fn write(&self, stream: Stream, bytes: &[u8]) -> usize;

    /// Takes input that has arrived, without waiting.
    fn read(&self, buffer: &mut [u8]) -> Input;

    /// Whether `read` would give something (or end of file).
    fn input_ready(&self) -> bool;

    /// Sets what to call (from any thread, not from an interrupt) when input may have arrived.
    fn set_notifier(&self, notify: Box<dyn Fn() + Send + Sync>);

    /// Waits until all output has been taken by the host.
    fn flush(&self);
}
