//! The manifest: what to run, and what the workload image must be.
//!
//! A header of fixed size, then strings, each with its length in front; the table is in `docs/design.md`. On a plain VM it comes from the
//! launcher, in an SNP guest it is measured; either way it is parsed as what it is, foreign bytes: everything is checked,
//! and what is not known is an error, since a verifier must know what every byte means. A value has one encoding.

use alloc::borrow::ToOwned;
use alloc::vec::Vec;
use core::fmt;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The most bytes that a manifest may have.
pub const MAX_SIZE: usize = 1 << 20;

/// Whether the kernel logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing.
    #[default]
    Off,
    /// What a user wants to know.
    Info,
    /// More.
    Debug,
}

/// What a standard stream is on the launcher's side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamKind {
    /// A pipe, a file: no terminal.
    #[default]
    Pipe,
    /// A terminal.
    Tty,
}

/// The workload image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// Root hash of its hash tree.
    pub verity: [u8; 32],
    /// Data blocks of 4096 bytes.
    pub blocks: u64,
}

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Manifest {
    pub root: Option<Root>,
    /// Path of the program inside the image.
    pub exec: Vec<u8>,
    /// Arguments, `argv[0]` included.
    pub args: Vec<Vec<u8>>,
    /// Environment, `K=V` each.
    pub env: Vec<Vec<u8>>,
    pub cwd: Vec<u8>,
    pub hostname: Vec<u8>,
    pub stdin: StreamKind,
    pub stdout: StreamKind,
    pub stderr: StreamKind,
    /// Columns and rows of the terminal.
    pub winsize: Option<(u16, u16)>,
    pub log: LogLevel,
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// Longer than [`MAX_SIZE`].
    TooLong,
    /// It does not begin as one does.
    NotAManifest,
    /// A version that is not known.
    Version(u32),
    /// It ends before the end of what it announces.
    Truncated,
    /// Bytes behind the last string.
    Surplus,
    /// A value that the field cannot have.
    BadValue(&'static str),
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => {
                write!(f, "longer than {MAX_SIZE} bytes: pass fewer or shorter arguments and variables")
            }
            Self::NotAManifest => f.write_str("does not begin as a manifest does"),
            Self::Version(version) => {
                write!(f, "version {version}: launcher and kernel are of different versions")
            }
            Self::Truncated => f.write_str("cut off"),
            Self::Surplus => f.write_str("goes on behind its end"),
            Self::BadValue(field) => write!(f, "{field} has a value that it cannot have"),
        }
    }
}

impl core::error::Error for ManifestError {}

const MAGIC: [u8; 8] = *b"litebox\0";
const VERSION: u32 = 2;

/// Bits of [`Header::flags`]; all others are zero.
mod flag {
    pub const ROOT: u32 = 1 << 0;
    pub const WINDOW: u32 = 1 << 1;
    pub const TTY: [u32; 3] = [1 << 2, 1 << 3, 1 << 4];
    pub const LOG_INFO: u32 = 1 << 5;
    pub const LOG_DEBUG: u32 = 1 << 6;
    pub const ALL: u32 = (1 << 7) - 1;
}

/// What stands in front of the strings.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    flags: U32,
    verity: [u8; 32],
    blocks: U64,
    columns: U16,
    rows: U16,
    args: U32,
    env: U32,
}
const _: () = assert!(size_of::<Header>() == 68);

/// The strings that have not been read yet.
struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    /// The next one; none holds a NUL byte.
    #[inline(never)]
    fn next(&mut self, field: &'static str) -> Result<&'a [u8], ManifestError> {
        let (length, rest) = self.0.split_first_chunk::<4>().ok_or(ManifestError::Truncated)?;
        let (string, rest) =
            rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(ManifestError::Truncated)?;
        if !string.iter().all(|&byte| byte != 0) {
            return Err(ManifestError::BadValue(field));
        }
        self.0 = rest;
        Ok(string)
    }

    fn path(&mut self, field: &'static str) -> Result<Vec<u8>, ManifestError> {
        let path = self.next(field)?;
        let legal = path.first() == Some(&b'/') && path.len() < 4096;
        if legal { Ok(path.to_owned()) } else { Err(ManifestError::BadValue(field)) }
    }

    /// A host name as `hostname(7)` has it.
    fn hostname(&mut self) -> Result<Vec<u8>, ManifestError> {
        let name = self.next("hostname")?;
        let legal = (1..=64).contains(&name.len())
            && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
        if legal { Ok(name.to_owned()) } else { Err(ManifestError::BadValue("hostname")) }
    }

    fn list(&mut self, count: U32, field: &'static str) -> Result<Vec<Vec<u8>>, ManifestError> {
        // Each has a length of four bytes: a count that cannot be asks for no memory.
        let count = count.get() as usize;
        if count > self.0.len() / 4 {
            return Err(ManifestError::Truncated);
        }
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(self.next(field)?.to_owned());
        }
        Ok(list)
    }
}

impl Manifest {
    /// Reads a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        if bytes.len() > MAX_SIZE {
            return Err(ManifestError::TooLong);
        }
        let (header, strings) = Header::ref_from_prefix(bytes).map_err(|_| ManifestError::Truncated)?;
        if header.magic != MAGIC {
            return Err(ManifestError::NotAManifest);
        }
        if header.version.get() != VERSION {
            return Err(ManifestError::Version(header.version.get()));
        }
        let flags = header.flags.get();
        let log = match flags & (flag::LOG_INFO | flag::LOG_DEBUG) {
            0 => LogLevel::Off,
            flag::LOG_INFO => LogLevel::Info,
            flag::LOG_DEBUG => LogLevel::Debug,
            _ => return Err(ManifestError::BadValue("log")),
        };
        let (verity, blocks) = (header.verity, header.blocks.get());
        let root = (flags & flag::ROOT != 0).then_some(Root { verity, blocks });
        let winsize = (flags & flag::WINDOW != 0).then_some((header.columns.get(), header.rows.get()));
        // A field that its flag says is not there is zero.
        let unused = root.is_none() && (blocks != 0 || verity != [0; 32])
            || winsize.is_none() && (header.columns.get() | header.rows.get()) != 0;
        if unused || flags & !flag::ALL != 0 {
            return Err(ManifestError::BadValue("flags"));
        }
        let [stdin, stdout, stderr] =
            flag::TTY.map(|bit| if flags & bit != 0 { StreamKind::Tty } else { StreamKind::Pipe });
        let mut strings = Strings(strings);
        let manifest = Manifest {
            root,
            exec: strings.path("exec")?,
            cwd: strings.path("cwd")?,
            hostname: strings.hostname()?,
            args: strings.list(header.args, "args")?,
            env: strings.list(header.env, "env")?,
            stdin,
            stdout,
            stderr,
            winsize,
            log,
        };
        if strings.0.is_empty() { Ok(manifest) } else { Err(ManifestError::Surplus) }
    }

    /// Writes a manifest; the same value gives the same bytes. An empty working directory is `/`, an empty host name `litebox`. What
    /// [`Manifest::parse`] would refuse is an error here.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let count = |list: &[Vec<u8>]| u32::try_from(list.len()).map_err(|_| ManifestError::TooLong);
        let mut flags = match self.log {
            LogLevel::Off => 0,
            LogLevel::Info => flag::LOG_INFO,
            LogLevel::Debug => flag::LOG_DEBUG,
        };
        let root = self.root.inspect(|_| flags |= flag::ROOT).unwrap_or(Root { verity: [0; 32], blocks: 0 });
        let (columns, rows) = self.winsize.inspect(|_| flags |= flag::WINDOW).unwrap_or_default();
        for (kind, bit) in [self.stdin, self.stdout, self.stderr].into_iter().zip(flag::TTY) {
            flags |= if kind == StreamKind::Tty { bit } else { 0 };
        }
        let header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            flags: flags.into(),
            verity: root.verity,
            blocks: root.blocks.into(),
            columns: columns.into(),
            rows: rows.into(),
            args: count(&self.args)?.into(),
            env: count(&self.env)?.into(),
        };
        let mut out = header.as_bytes().to_vec();
        let cwd = if self.cwd.is_empty() { b"/" } else { self.cwd.as_slice() };
        let name = if self.hostname.is_empty() { b"litebox" } else { self.hostname.as_slice() };
        let lists = self.args.iter().chain(&self.env).map(Vec::as_slice);
        for string in [self.exec.as_slice(), cwd, name].into_iter().chain(lists) {
            let length = u32::try_from(string.len()).map_err(|_| ManifestError::TooLong)?;
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(string);
        }
        Manifest::parse(&out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Manifest {
        Manifest {
            root: Some(Root { verity: [7; 32], blocks: 9 }),
            exec: b"/x".to_vec(),
            args: alloc::vec![b"x".to_vec(), Vec::new()],
            env: alloc::vec![b"A=1".to_vec()],
            cwd: b"/tmp".to_vec(),
            hostname: "box".into(),
            winsize: Some((80, 25)),
            ..Default::default()
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let good = sample().encode().unwrap();
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            Manifest::parse(&bytes).unwrap_err()
        };
        assert_eq!(refused(&|bytes| bytes.clear()), ManifestError::Truncated);
        assert_eq!(refused(&|bytes| bytes[0] = b'L'), ManifestError::NotAManifest);
        assert_eq!(refused(&|bytes| bytes[8] = 1), ManifestError::Version(1));
        assert_eq!(refused(&|bytes| bytes.push(0)), ManifestError::Surplus);
        assert_eq!(refused(&|bytes| bytes[13] = 1), ManifestError::BadValue("flags"));
        assert_eq!(refused(&|bytes| bytes[12] |= 0x60), ManifestError::BadValue("log"));
        // The root's flag off, its fields still there; the window's likewise.
        assert_eq!(refused(&|bytes| bytes[12] &= !1), ManifestError::BadValue("flags"));
        assert_eq!(refused(&|bytes| bytes[12] &= !2), ManifestError::BadValue("flags"));
        // More arguments than there are bytes.
        assert_eq!(refused(&|bytes| bytes[60..64].fill(0xff)), ManifestError::Truncated);
        let exec = size_of::<Header>() + 4;
        assert_eq!(refused(&|bytes| bytes[exec] = b'x'), ManifestError::BadValue("exec"));
        assert_eq!(refused(&|bytes| bytes[exec + 1] = 0), ManifestError::BadValue("exec"));
        assert_eq!(refused(&|bytes| bytes.resize(MAX_SIZE + 1, 0)), ManifestError::TooLong);
        for end in 0..good.len() {
            assert_eq!(refused(&|bytes| bytes.truncate(end)), ManifestError::Truncated);
        }
    }

    #[test]
    fn what_cannot_be_parsed_is_not_encoded() {
        let error = |change: &dyn Fn(&mut Manifest)| {
            let mut manifest = sample();
            change(&mut manifest);
            manifest.encode().unwrap_err()
        };
        assert_eq!(error(&|m| m.exec.clear()), ManifestError::BadValue("exec"));
        assert_eq!(error(&|m| m.cwd = b"tmp".to_vec()), ManifestError::BadValue("cwd"));
        assert_eq!(error(&|m| m.hostname = "a b".into()), ManifestError::BadValue("hostname"));
        assert_eq!(error(&|m| m.args.push(b"a\0b".to_vec())), ManifestError::BadValue("args"));
        assert_eq!(error(&|m| m.env.push(b"\0".to_vec())), ManifestError::BadValue("env"));
        assert_eq!(error(&|m| m.args.push(alloc::vec![b'x'; MAX_SIZE])), ManifestError::TooLong);
    }

    #[test]
    fn defaults_are_written_out() {
        let bare = Manifest { exec: b"/x".to_vec(), ..Default::default() };
        let parsed = Manifest::parse(&bare.encode().unwrap()).unwrap();
        assert_eq!(parsed, Manifest { cwd: b"/".to_vec(), hostname: "litebox".into(), ..bare });
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), flips: [(u8, u8); 4]) {
            let _ = Manifest::parse(&bytes);
            let mut whole = sample().encode().unwrap();
            for (at, with) in flips {
                let at = usize::from(at) % whole.len();
                whole[at] ^= with;
            }
            // What is accepted has one encoding.
            if let Ok(parsed) = Manifest::parse(&whole) {
                prop_assert_eq!(parsed.encode().unwrap(), whole);
            }
        }

        #[test]
        fn what_is_encoded_is_parsed(
            verity: [u8; 32], blocks: u64, has_root: bool, arg in "[^\0]*", variable in "[^\0]*", name in "[a-z0-9.-]{1,64}",
            winsize: Option<(u16, u16)>, every in 1u8..,
        ) {
            let manifest = Manifest {
                root: has_root.then_some(Root { verity, blocks }),
                exec: b"/bin/x".to_vec(),
                args: alloc::vec![arg.into_bytes(), alloc::vec![every]],
                env: alloc::vec![variable.into_bytes()],
                cwd: b"/tmp".to_vec(),
                hostname: name.into_bytes(),
                stdin: StreamKind::Tty,
                winsize,
                log: LogLevel::Debug,
                ..Default::default()
            };
            prop_assert_eq!(Manifest::parse(&manifest.encode().unwrap()).unwrap(), manifest);
        }
    }
}
