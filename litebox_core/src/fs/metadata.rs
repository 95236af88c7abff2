//! What is known of a file besides its contents (`inode(7)`, `stat(2)`).

/// A device number, as `makedev(3)` packs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceId(pub u64);

impl DeviceId {
    /// From major and minor number.
    pub const fn new(major: u32, minor: u32) -> DeviceId {
        let (major, minor) = (major as u64, minor as u64);
        DeviceId((major & 0xfff) << 8 | (major & !0xfff) << 32 | (minor & 0xff) | (minor & !0xff) << 12)
    }

    /// The major number.
    pub const fn major(self) -> u32 {
        ((self.0 >> 8 & 0xfff) | (self.0 >> 32 & 0xffff_f000)) as u32
    }

    /// The minor number.
    pub const fn minor(self) -> u32 {
        ((self.0 & 0xff) | (self.0 >> 12 & 0xffff_ff00)) as u32
    }
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FileType {
    Fifo,
    CharDevice,
    Directory,
    BlockDevice,
    Regular,
    Symlink,
    Socket,
}

impl FileType {
    /// The `S_IFMT` bits of `st_mode`.
    pub const fn mode_bits(self) -> u32 {
        match self {
            FileType::Fifo => 0o010000,
            FileType::CharDevice => 0o020000,
            FileType::Directory => 0o040000,
            FileType::BlockDevice => 0o060000,
            FileType::Regular => 0o100000,
            FileType::Symlink => 0o120000,
            FileType::Socket => 0o140000,
        }
    }

    /// From the `S_IFMT` bits; the others are ignored.
    pub const fn from_mode(mode: u32) -> Option<FileType> {
        Some(match mode & 0o170000 {
            0o010000 => FileType::Fifo,
            0o020000 => FileType::CharDevice,
            0o040000 => FileType::Directory,
            0o060000 => FileType::BlockDevice,
            0o100000 => FileType::Regular,
            0o120000 => FileType::Symlink,
            0o140000 => FileType::Socket,
            _ => return None,
        })
    }

    /// `d_type` of `getdents64(2)`.
    pub const fn dirent_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }
}

/// A point in time since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds, negative before 1970.
    pub sec: i64,
    /// Nanoseconds on top, below 10⁹.
    pub nsec: u32,
}

impl Timestamp {
    /// From nanoseconds since 1970.
    pub const fn from_ns(ns: u64) -> Timestamp {
        Timestamp { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
    }
}

/// What `stat` and `statx` tell.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Metadata {
    pub dev: DeviceId,
    pub ino: u64,
    pub file_type: FileType,
    /// Permission bits with set-user-id, set-group-id and sticky: 0o7777.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// What device this node names.
    pub rdev: DeviceId,
    pub size: u64,
    /// Preferred unit of transfer.
    pub block_size: u32,
    /// Units of 512 bytes.
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
}

impl Metadata {
    /// `st_mode`: kind and permissions.
    pub const fn st_mode(&self) -> u32 {
        self.file_type.mode_bits() | self.mode & 0o7777
    }
}

/// One timestamp's change (`utimensat(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// `UTIME_NOW`.
    Now,
    /// This one.
    To(Timestamp),
}

/// What to change; `None` leaves it.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct SetAttributes {
    /// 0o7777.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// What `statfs(2)` tells.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct StatFs {
    /// `f_type`, e.g. `TMPFS_MAGIC`.
    pub magic: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub files: u64,
    pub files_free: u64,
    /// `f_flags`, `ST_*`.
    pub flags: u64,
}
