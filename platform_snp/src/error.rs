//! What can go wrong with a device.

use core::fmt;
use litebox_core::platform::Attack;

/// Why a device is not usable, or broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// Nothing is there, or something else.
    Absent,
    /// It is there, but does not offer what we need.
    Unsupported(&'static str),
    /// An answer that cannot be.
    BadDevice(&'static str),
    /// The rules of a virtqueue were broken.
    BadRing(&'static str),
    /// No answer in time.
    Timeout,
    /// No shared memory is left.
    OutOfMemory,
}

impl DeviceError {
    /// The attack that this is, with its explanation; `None` for what an honest host may also do.
    pub fn attack(self) -> Option<(Attack, &'static str)> {
        match self {
            Self::BadDevice(what) => Some((Attack::BadDevice, what)),
            Self::BadRing(what) => Some((Attack::BadRing, what)),
            Self::Absent | Self::Unsupported(_) | Self::Timeout | Self::OutOfMemory => None,
        }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no such device"),
            Self::Unsupported(what) => write!(f, "unsupported device: {what}"),
            Self::BadDevice(what) => write!(f, "bad device: {what}"),
            Self::BadRing(what) => write!(f, "bad ring: {what}"),
            Self::Timeout => f.write_str("the device does not answer"),
            Self::OutOfMemory => f.write_str("no shared memory is left"),
        }
    }
}
