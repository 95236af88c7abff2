//! South: read-only block devices.

/// Bytes in a block.
pub const BLOCK_SIZE: usize = 4096;

/// A read that did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// Beyond the end of the device.
    OutOfRange,
    /// The device said so, or does not answer.
    Io,
}

/// South: a device of 4 KiB blocks. What it gives is the host's word: nothing has been checked yet, but it is a private
/// copy, which does not change under the reader.
pub trait BlockDevice: Send + Sync {
    /// How many whole blocks it has.
    fn block_count(&self) -> u64;

    /// Reads consecutive blocks from `first` on, one into each buffer, and waits for them.
    fn read(&self, first: u64, into: &mut [&mut [u8; BLOCK_SIZE]]) -> Result<(), BlockError>;
}
