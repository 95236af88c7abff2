//! `siginfo_t` and the signals that wait with it (`sigaction(2)`, `signal(7)`: queueing of real-time signals).

use super::{SignalSet, bit, sig};
use crate::errno::{Errno, Result};
use crate::platform::ExitStatus;
use alloc::collections::VecDeque;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Values of `si_code` (include/uapi/asm-generic/siginfo.h).
#[allow(missing_docs)]
pub mod code {
    pub const USER: i32 = 0;
    pub const KERNEL: i32 = 0x80;
    pub const TIMER: i32 = -2;
    pub const TKILL: i32 = -6;
    pub const ILL_ILLOPN: i32 = 2;
    pub const FPE_INTDIV: i32 = 1;
    pub const FPE_FLTDIV: i32 = 3;
    pub const FPE_FLTOVF: i32 = 4;
    pub const FPE_FLTUND: i32 = 5;
    pub const FPE_FLTRES: i32 = 6;
    pub const FPE_FLTINV: i32 = 7;
    pub const SEGV_MAPERR: i32 = 1;
    pub const SEGV_ACCERR: i32 = 2;
    pub const BUS_ADRALN: i32 = 1;
    pub const BUS_ADRERR: i32 = 2;
    pub const TRAP_TRACE: i32 = 2;
    pub const CLD_EXITED: i32 = 1;
    pub const CLD_KILLED: i32 = 2;
}

/// `siginfo_t`, x86-64: 128 bytes, whose meaning behind the first three words depends on the code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Info {
    pub signal: i32,
    pub errno: i32,
    pub code: i32,
    pub pad: u32,
    pub fields: [u64; 14],
}
const _: () = assert!(size_of::<Info>() == 128);

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl Info {
    fn new(signal: u32, code: i32, first: [u64; 2]) -> Info {
        let mut fields = [0; 14];
        if let Some(to) = fields.first_chunk_mut() {
            *to = first;
        }
        Info { signal: signal as i32, errno: 0, code, pad: 0, fields }
    }

    /// From a process (`si_pid`, `si_uid`): SI_USER, SI_TKILL.
    pub fn from_process(signal: u32, code: i32, pid: u32, uid: u32) -> Info {
        Info::new(signal, code, [pair(pid, uid), 0])
    }

    /// A child's end (`si_pid`, `si_uid`, `si_status`): CLD_EXITED or CLD_KILLED.
    pub fn child(signal: u32, pid: u32, uid: u32, status: ExitStatus) -> Info {
        let (code, status) = match status {
            ExitStatus::Signaled(signal) => (code::CLD_KILLED, signal),
            ExitStatus::Exited(status) => (code::CLD_EXITED, status),
            _ => (code::CLD_EXITED, 0),
        };
        Info::new(signal, code, [pair(pid, uid), status.into()])
    }

    /// From the kernel, without a sender.
    pub fn kernel(signal: u32) -> Info {
        Info::new(signal, code::KERNEL, [0; 2])
    }

    /// A fault at `si_addr`.
    pub fn fault(signal: u32, code: i32, address: u64) -> Info {
        Info::new(signal, code, [address, 0])
    }

    /// A POSIX timer's: `si_tid` is its id, `si_overrun` comes when it is taken.
    pub fn timer(signal: u32, id: u32, value: u64) -> Info {
        Info::new(signal, code::TIMER, [pair(id, 0), value])
    }

    /// The signal's number.
    pub fn number(&self) -> u32 {
        self.signal as u32
    }

    /// `si_tid` of a POSIX timer's.
    pub fn timer_id(&self) -> Option<u32> {
        (self.code == code::TIMER).then_some(self.fields.first().copied().unwrap_or_default() as u32)
    }

    /// Sets `si_overrun`.
    pub fn set_overrun(&mut self, count: u32) {
        if let Some(field) = self.fields.first_mut() {
            *field = pair(*field as u32, count);
        }
    }
}

/// The first real-time signal of the kernel's interface; those below are not queued.
const FIRST_REALTIME: u32 = 32;
/// Faults: taken before anything else, so that their handlers see the registers that they are about.
const SYNCHRONOUS: SignalSet = 1 << (sig::SEGV - 1)
    | 1 << (sig::BUS - 1)
    | 1 << (sig::ILL - 1)
    | 1 << (sig::TRAP - 1)
    | 1 << (sig::FPE - 1)
    | 1 << (sig::SYS - 1);

/// Signals that were sent and not taken yet. Invariant: `set` has the bits of the signals in `queue`.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    set: SignalSet,
    queue: VecDeque<Info>,
}

impl Pending {
    /// Which signals wait.
    pub fn set(&self) -> SignalSet {
        self.set
    }

    /// Adds one. A standard signal that waits already is not added again; a real-time one is refused (EAGAIN) beyond `limit` (RLIMIT_SIGPENDING).
    pub fn add(&mut self, info: Info, limit: u64) -> Result<()> {
        let bit = bit(info.number());
        let standard = info.number() < FIRST_REALTIME;
        // A timer's signal waits at most once for each timer: that is its bound.
        if info.timer_id().is_none() {
            if standard && self.set & bit != 0 {
                return Ok(());
            }
            if !standard && self.queue.len() as u64 >= limit {
                return Err(Errno::EAGAIN);
            }
        }
        self.queue.push_back(info);
        self.set |= bit;
        Ok(())
    }

    /// Takes the next signal out of `allowed`: faults first, then the lowest number, then the oldest.
    pub fn take(&mut self, allowed: SignalSet) -> Option<Info> {
        let candidates = self.set & allowed;
        if candidates == 0 {
            return None;
        }
        let first = if candidates & SYNCHRONOUS != 0 { candidates & SYNCHRONOUS } else { candidates };
        let signal = first.trailing_zeros() + 1;
        let at = self.queue.iter().position(|info| info.number() == signal)?;
        let info = self.queue.remove(at)?;
        if !self.queue.iter().any(|info| info.number() == signal) {
            self.set &= !bit(signal);
        }
        Some(info)
    }

    /// Forgets the signals in `set`.
    pub fn discard(&mut self, set: SignalSet) {
        if self.set & set != 0 {
            self.queue.retain(|info| bit(info.number()) & set == 0);
            self.set &= !set;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn realtime_signals_queue_and_standard_ones_do_not() {
        let mut pending = Pending::default();
        let info = |signal, pid| Info::from_process(signal, code::USER, pid, 0);
        for pid in [1, 2] {
            pending.add(info(sig::USR1, pid), 3).unwrap();
            pending.add(info(40, pid), 3).unwrap();
        }
        assert_eq!(pending.add(info(41, 3), 3), Err(Errno::EAGAIN));
        pending.add(info(sig::SEGV, 4), 3).unwrap();
        let taken: Vec<_> = core::iter::from_fn(|| pending.take(u64::MAX)).collect();
        assert_eq!(taken, [info(sig::SEGV, 4), info(sig::USR1, 1), info(40, 1), info(40, 2)]);
        assert_eq!(pending.set(), 0);
    }

    #[test]
    fn what_is_not_allowed_stays() {
        let mut pending = Pending::default();
        pending.add(Info::kernel(sig::ALRM), 9).unwrap();
        assert_eq!(pending.take(!bit(sig::ALRM)), None);
        assert_eq!(pending.set(), bit(sig::ALRM));
        pending.discard(bit(sig::ALRM));
        assert_eq!(pending.take(u64::MAX), None);
    }
}
