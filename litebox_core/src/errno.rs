//! Linux error numbers, as the one error type of the North.

use core::num::NonZeroU16;
use linux_raw_sys::errno as raw;

/// A Linux error number, 1..=4095 (`errno(3)`; numbers from `asm-generic/errno.h`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(NonZeroU16);

/// What the North returns.
pub type Result<T, E = Errno> = core::result::Result<T, E>;

macro_rules! errnos {
    ($($name:ident)*) => {
        #[allow(missing_docs)]
        impl Errno {
            $(pub const $name: Errno = Errno::new(raw::$name);)*

            /// The symbolic name, e.g. `ENOENT`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Errno::$name => stringify!($name),)*
                    _ => "E?",
                }
            }
        }
    };
}

errnos! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST
    EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM
    ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENODATA ETIME EPROTO EOVERFLOW ELIBBAD EILSEQ ENOTSOCK
    EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT
    EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ETIMEDOUT
    ECONNREFUSED EHOSTUNREACH EALREADY EINPROGRESS ESTALE EDQUOT ECANCELED EOWNERDEAD ENOTRECOVERABLE
}

/// Why a call that a signal interrupted gave up, which says whether it is made again (include/linux/errno.h). No program ever sees these: on the way back to user
/// mode they become EINTR, or the call is repeated.
impl Errno {
    /// Again, unless a handler without SA_RESTART runs.
    pub const ERESTARTSYS: Errno = Errno::new(512);
    /// Again, unless a handler runs.
    pub const ERESTARTNOHAND: Errno = Errno::new(514);
    /// Like ERESTARTNOHAND, by `restart_syscall`, which knows what is left of a timeout.
    pub const ERESTART_RESTARTBLOCK: Errno = Errno::new(516);

    /// Whether it is one of these.
    #[inline]
    pub const fn is_restart(self) -> bool {
        self.raw() >= Errno::ERESTARTSYS.raw()
    }
}

impl Errno {
    const fn new(number: u32) -> Errno {
        assert!(number > 0 && number < 4096);
        match NonZeroU16::new(number as u16) {
            Some(number) => Errno(number),
            None => unreachable!(),
        }
    }

    /// The number, positive.
    pub const fn raw(self) -> u16 {
        self.0.get()
    }
}

impl core::fmt::Debug for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}({})", self.name(), self.raw())
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Errno {}

impl From<crate::platform::OutOfMemory> for Errno {
    fn from(_: crate::platform::OutOfMemory) -> Errno {
        Errno::ENOMEM
    }
}
