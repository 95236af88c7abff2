//! The alternate signal stack (`sigaltstack(2)`).

use crate::errno::{Errno, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The thread runs on it (an answer).
const ONSTACK: u32 = 1;
/// There is none.
const DISABLE: u32 = 2;
/// It is forgotten while a handler runs on it.
const AUTODISARM: u32 = 1 << 31;
/// `MINSIGSTKSZ`.
const MINIMUM: u64 = 2048;

/// `stack_t`: what the calls and the frames hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
#[allow(missing_docs)]
pub struct AltStack {
    pub address: u64,
    pub flags: u32,
    pub pad: u32,
    pub size: u64,
}

impl AltStack {
    /// Whether `sp` lies in it.
    pub fn holds(&self, sp: u64) -> bool {
        sp > self.address && sp - self.address <= self.size
    }

    /// Whether a thread whose stack pointer is `sp` counts as running on it.
    pub fn in_use(&self, sp: u64) -> bool {
        self.flags & AUTODISARM == 0 && self.holds(sp)
    }

    /// Where a handler that wants it starts, unless it runs there already or there is none.
    pub fn top(&self, sp: u64) -> Option<u64> {
        (self.size != 0 && !self.in_use(sp)).then(|| self.address.wrapping_add(self.size))
    }

    /// What `sigaltstack` reports of it.
    pub fn report(&self, sp: u64) -> AltStack {
        let state = match self.size {
            0 => DISABLE,
            _ if self.in_use(sp) => ONSTACK,
            _ => 0,
        };
        AltStack { flags: state | self.flags & AUTODISARM, ..*self }
    }

    /// Takes another one. EPERM while this one is in use, EINVAL, ENOMEM.
    pub fn replace(&mut self, new: AltStack, sp: u64) -> Result<()> {
        if self.in_use(sp) {
            return Err(Errno::EPERM);
        }
        *self = match new.flags & !AUTODISARM {
            DISABLE => AltStack { address: 0, size: 0, flags: new.flags, pad: 0 },
            0 | ONSTACK if new.size < MINIMUM => return Err(Errno::ENOMEM),
            0 | ONSTACK => AltStack { pad: 0, ..new },
            _ => return Err(Errno::EINVAL),
        };
        Ok(())
    }

    /// A handler was entered: a stack that is to be forgotten then is.
    pub fn disarm(&mut self) {
        if self.flags & AUTODISARM != 0 {
            *self = AltStack { flags: DISABLE, ..AltStack::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_changed_while_in_use() {
        let mut stack = AltStack::default();
        assert_eq!(stack.report(0x1000).flags, DISABLE);
        let new = AltStack { address: 0x1000, size: 0x1000, ..AltStack::default() };
        assert_eq!(stack.replace(AltStack { size: 2047, ..new }, 0), Err(Errno::ENOMEM));
        assert_eq!(stack.replace(AltStack { flags: 8, ..new }, 0), Err(Errno::EINVAL));
        stack.replace(new, 0).unwrap();
        assert_eq!((stack.top(0x3000), stack.top(0x1800)), (Some(0x2000), None));
        assert_eq!((stack.report(0x2000).flags, stack.report(0x1000).flags), (ONSTACK, 0));
        assert_eq!(stack.replace(AltStack::default(), 0x1001), Err(Errno::EPERM));
    }

    #[test]
    fn one_that_disarms_itself_is_never_in_use() {
        let mut stack = AltStack::default();
        let new = AltStack { address: 0x1000, size: 0x1000, flags: AUTODISARM, pad: 0 };
        stack.replace(new, 0).unwrap();
        assert_eq!((stack.in_use(0x1800), stack.report(0x1800).flags), (false, AUTODISARM));
        stack.disarm();
        assert_eq!(stack.report(0x1800), AltStack { flags: DISABLE, ..AltStack::default() });
    }
}
