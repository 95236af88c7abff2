//! Resource limits (`getrlimit(2)`).

use crate::errno::{Errno, Result};

/// What a limit is on, as Linux numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs)]
pub enum Resource {
    Cpu,
    FileSize,
    Data,
    Stack,
    Core,
    Resident,
    Processes,
    Files,
    LockedMemory,
    AddressSpace,
    Locks,
    PendingSignals,
    MessageQueues,
    Nice,
    RealtimePriority,
    RealtimeTime,
}

/// A soft and a hard limit; `u64::MAX` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// No limit.
pub const INFINITY: u64 = u64::MAX;
const COUNT: usize = 16;

/// All limits of a process.
#[derive(Clone, Debug)]
pub struct Limits {
    all: [Limit; COUNT],
}

impl Default for Limits {
    /// What a login on Linux starts with.
    fn default() -> Limits {
        let mut all = [Limit { soft: INFINITY, hard: INFINITY }; COUNT];
        let mut set = |resource: Resource, soft, hard| all[resource as usize] = Limit { soft, hard };
        set(Resource::Stack, 8 << 20, INFINITY);
        set(Resource::Core, 0, INFINITY);
        set(Resource::Processes, 4096, 4096);
        set(Resource::Files, 1024, 1 << 20);
        set(Resource::LockedMemory, 8 << 20, 8 << 20);
        set(Resource::PendingSignals, 4096, 4096);
        set(Resource::MessageQueues, 819_200, 819_200);
        set(Resource::Nice, 0, 0);
        set(Resource::RealtimePriority, 0, 0);
        Limits { all }
    }
}

impl Limits {
    /// A limit.
    pub fn get(&self, resource: Resource) -> Limit {
        self.all[resource as usize]
    }

    /// The limit of this number. EINVAL.
    pub fn by_number(&self, number: u64) -> Result<Limit> {
        usize::try_from(number).ok().and_then(|n| self.all.get(n)).copied().ok_or(Errno::EINVAL)
    }

    /// Sets a limit; `privileged` may raise a hard one. EINVAL, EPERM.
    pub fn set_by_number(&mut self, number: u64, limit: Limit, privileged: bool) -> Result<()> {
        let slot = usize::try_from(number).ok().and_then(|n| self.all.get_mut(n)).ok_or(Errno::EINVAL)?;
        if limit.soft > limit.hard {
            return Err(Errno::EINVAL);
        }
        let beyond_table = number == Resource::Files as u64 && limit.hard > u64::from(crate::fd::NR_OPEN);
        if limit.hard > slot.hard && !privileged || beyond_table {
            return Err(Errno::EPERM);
        }
        *slot = limit;
        Ok(())
    }

    /// All of them: (soft, hard) by number.
    pub fn all(&self) -> [(u64, u64); COUNT] {
        self.all.map(|limit| (limit.soft, limit.hard))
    }
}
