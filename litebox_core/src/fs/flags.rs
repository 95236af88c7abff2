//! Flag words of the file calls, with x86-64's numbers (`poll(2)`, `access(2)`, `open(2)`); each flag is documented there.
#![allow(missing_docs)]

bitflags::bitflags! {
    /// Readiness, with the numbers of `poll(2)` (`POLLIN`, ...).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PollEvents: u32 {
        const IN = 0x1;
        const PRI = 0x2;
        const OUT = 0x4;
        const ERR = 0x8;
        const HUP = 0x10;
        const NVAL = 0x20;
        const RDNORM = 0x40;
        const RDBAND = 0x80;
        const WRNORM = 0x100;
        const WRBAND = 0x200;
        const RDHUP = 0x2000;
    }
}

bitflags::bitflags! {
    /// What is wanted of a file, as in `access(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Permission: u32 {
        const READ = 4;
        const WRITE = 2;
        const EXEC = 1;
    }
}

bitflags::bitflags! {
    /// Flags of `open(2)` with x86-64's numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OFlags: u32 {
        const WRONLY = 0o1;
        const RDWR = 0o2;
        const CREAT = 0o100;
        const EXCL = 0o200;
        const NOCTTY = 0o400;
        const TRUNC = 0o1000;
        const APPEND = 0o2000;
        const NONBLOCK = 0o4000;
        const DSYNC = 0o10000;
        const ASYNC = 0o20000;
        const DIRECT = 0o40000;
        const LARGEFILE = 0o100000;
        const DIRECTORY = 0o200000;
        const NOFOLLOW = 0o400000;
        const NOATIME = 0o1000000;
        const CLOEXEC = 0o2000000;
        const SYNC_FILE = 0o4000000;
        const PATH = 0o10000000;
        const TMPFILE_BIT = 0o20000000;
        const _ = !0;
    }
}
bitflags::bitflags! {
    /// `resolve` of `openat2(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ResolveFlags: u64 {
        const NO_XDEV = 1;
        const NO_MAGICLINKS = 2;
        const NO_SYMLINKS = 4;
        const BENEATH = 8;
        const IN_ROOT = 16;
        const CACHED = 32;
    }
}
