//! How a run ended.

use crate::ghcb::msr::Termination;
use crate::inject::Undeliverable;
use crate::rmp::Access;
use alloc::string::String;
use core::fmt;

/// Why the guest runs no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It asked for its end through the GHCB.
    Terminated(Termination),
    /// It wrote this value to QEMU's debug-exit port.
    DebugExit(u32),
    /// It switched the machine off.
    PowerOff,
    /// It reset the machine.
    Reset,
    /// A triple fault.
    Shutdown {
        /// Instruction pointer.
        rip: u64,
        /// CR2.
        cr2: u64,
    },
    /// The CPU refused the VMSA.
    BadState,
    /// HLT with interrupts off and nothing that could wake it.
    Halted {
        /// Instruction pointer.
        rip: u64,
    },
    /// An access that the reverse map table forbids and that the host cannot mend.
    RmpFault {
        /// Address.
        gpa: u64,
        /// Whether it was a private access.
        private: bool,
        /// What it met.
        why: Access,
        /// Instruction pointer.
        rip: u64,
    },
    /// A private access where there is no memory.
    NoMemory {
        /// Address.
        gpa: u64,
        /// Instruction pointer.
        rip: u64,
    },
    /// #VC could not be delivered.
    Undeliverable {
        /// Its error code.
        error: u64,
        /// Why not.
        why: Undeliverable,
        /// Instruction pointer.
        rip: u64,
    },
    /// The guest gave a GHCB or other page to share that is its own.
    NotShared {
        /// Address.
        gpa: u64,
        /// What the page was for.
        what: &'static str,
    },
    /// The guest told a device to use memory that is the guest's own.
    PrivateDma {
        /// Address.
        gpa: u64,
        /// Which device.
        device: &'static str,
    },
    /// An exit that no guest should cause.
    Unexpected {
        /// Exit code.
        code: u64,
        /// Instruction pointer.
        rip: u64,
    },
    /// The launch itself failed: what, in words.
    Launch(String),
    /// The emulator has a limit that this guest exceeds.
    Limit(&'static str),
}

impl Ending {
    /// A name for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Terminated(_) => "terminated",
            Self::DebugExit(_) => "debug-exit",
            Self::PowerOff => "power-off",
            Self::Reset => "reset",
            Self::Shutdown { .. } => "shutdown",
            Self::BadState => "bad-state",
            Self::Halted { .. } => "halted",
            Self::RmpFault { .. } => "rmp-fault",
            Self::NoMemory { .. } => "no-memory",
            Self::Undeliverable { .. } => "undeliverable-vc",
            Self::NotShared { .. } => "not-shared",
            Self::PrivateDma { .. } => "private-dma",
            Self::Unexpected { .. } => "unexpected-exit",
            Self::Launch(_) => "launch-failed",
            Self::Limit(_) => "limit",
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Terminated(t) => {
                write!(f, "the guest terminated itself: set {}, code {}: {}", t.set, t.code, t.words())
            }
            Self::DebugExit(value) => write!(f, "the guest wrote {value} to the debug-exit port"),
            Self::PowerOff => f.write_str("the guest switched the machine off"),
            Self::Reset => f.write_str("the guest reset the machine"),
            Self::Shutdown { rip, cr2 } => write!(f, "triple fault (RIP {rip:#x}, CR2 {cr2:#x})"),
            Self::BadState => f.write_str("the CPU refused the VMSA's state (VMEXIT_INVALID)"),
            Self::Halted { rip } => {
                write!(f, "HLT with interrupts off at {rip:#x}: nothing can wake the guest")
            }
            Self::RmpFault { gpa, private, why, rip } => {
                let kind = if *private { "private" } else { "shared" };
                let why = match why {
                    Access::WrongOwner if *private => "the page is not the guest's",
                    Access::WrongOwner => "the page is the guest's own",
                    Access::WrongAddress => "its memory belongs to another guest-physical address",
                    Access::NotValidated => "the guest has not validated it",
                    Access::Vmpl => "its VMPL may not",
                    Access::Granted => "it is granted",
                };
                write!(f, "RMP fault: {kind} access to {gpa:#x} from {rip:#x}: {why}")
            }
            Self::NoMemory { gpa, rip } => {
                write!(f, "private access to {gpa:#x} from {rip:#x}, where there is no memory")
            }
            Self::Undeliverable { error, why, rip } => {
                write!(f, "#VC({error:#x}) at {rip:#x} cannot be delivered: {}", why.words())
            }
            Self::NotShared { gpa, what } => {
                write!(f, "the guest named {gpa:#x} as {what}, but that is no page that it shares")
            }
            Self::PrivateDma { gpa, device } => {
                write!(f, "the guest told {device} to use {gpa:#x}, which is no memory that it shares")
            }
            Self::Unexpected { code, rip } => write!(f, "unexpected exit {code:#x} at {rip:#x}"),
            Self::Launch(why) => write!(f, "launch failed: {why}"),
            Self::Limit(what) => write!(f, "the emulator's limit: {what}"),
        }
    }
}
