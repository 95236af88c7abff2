//! The manifest: what to run, and what the workload image must be.
//!
//! Records `key=value`, each ended by a NUL byte, as in `/proc/self/environ`; the table of keys is in `docs/design.md`. On a plain VM it comes from the
//! launcher, in an SNP guest it is measured; either way it is parsed as what it is, foreign bytes: everything is checked,
//! and what is not known is an error, since a verifier must know what every byte means.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

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
    pub hostname: String,
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
    /// The first record is not `litebox-manifest=1`.
    NotAManifest,
    /// The last record is not ended by a NUL byte.
    Truncated,
    /// A record without `=`.
    NotARecord(usize),
    /// A key that is not known.
    UnknownKey(String),
    /// A key that may come once came twice.
    Duplicate(&'static str),
    /// A value that the key cannot have.
    BadValue(&'static str),
    /// A key that must be there is not.
    Missing(&'static str),
    /// When encoding: a value holds a NUL byte.
    NulByte(&'static str),
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => {
                write!(f, "longer than {MAX_SIZE} bytes: pass fewer or shorter arguments and variables")
            }
            Self::NotAManifest => f.write_str("does not begin with litebox-manifest=1"),
            Self::Truncated => f.write_str("the last record is cut off"),
            Self::NotARecord(n) => write!(f, "record {n} is not key=value"),
            Self::UnknownKey(key) => {
                write!(f, "unknown key {key:?}: launcher and kernel are of different versions")
            }
            Self::Duplicate(key) => write!(f, "{key} is given twice"),
            Self::BadValue(key) => write!(f, "{key} has a value that it cannot have"),
            Self::Missing(key) => write!(f, "{key} is missing"),
            Self::NulByte(key) => write!(f, "{key} holds a NUL byte"),
        }
    }
}

impl core::error::Error for ManifestError {}

const VERSION: (&str, &str) = ("litebox-manifest", "1");

fn set<T>(slot: &mut Option<T>, key: &'static str, value: Option<T>) -> Result<(), ManifestError> {
    let value = value.ok_or(ManifestError::BadValue(key))?;
    if slot.replace(value).is_some() { Err(ManifestError::Duplicate(key)) } else { Ok(()) }
}

fn text(value: &[u8]) -> Option<&str> {
    core::str::from_utf8(value).ok()
}

fn absolute(value: &[u8]) -> Option<Vec<u8>> {
    (value.first() == Some(&b'/') && value.len() < 4096).then(|| value.to_owned())
}

fn stream(value: &[u8]) -> Option<StreamKind> {
    match value {
        b"pipe" => Some(StreamKind::Pipe),
        b"tty" => Some(StreamKind::Tty),
        _ => None,
    }
}

fn hash(value: &[u8]) -> Option<[u8; 32]> {
    if value.len() != 64 || !value.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(value.chunks_exact(2)) {
        *byte = u8::from_str_radix(text(pair)?, 16).ok()?;
    }
    Some(out)
}

/// Decimal without sign or leading zeros: one number has one spelling.
fn number<T: core::str::FromStr>(value: &[u8]) -> Option<T> {
    let canonical = value.first().is_some_and(|b| (b'1'..=b'9').contains(b)) || value == b"0";
    if canonical { text(value)?.parse().ok() } else { None }
}

fn hostname(value: &[u8]) -> Option<String> {
    let legal = (1..=64).contains(&value.len())
        && value.iter().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(b));
    if legal { text(value).map(ToOwned::to_owned) } else { None }
}

fn winsize(value: &[u8]) -> Option<(u16, u16)> {
    let at = value.iter().position(|&b| b == b'x')?;
    Some((number(&value[..at])?, number(&value[at + 1..])?))
}

fn log_level(value: &[u8]) -> Option<LogLevel> {
    match value {
        b"off" => Some(LogLevel::Off),
        b"info" => Some(LogLevel::Info),
        b"debug" => Some(LogLevel::Debug),
        _ => None,
    }
}

impl Manifest {
    /// Reads a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        if bytes.len() > MAX_SIZE {
            return Err(ManifestError::TooLong);
        }
        let body = bytes.strip_suffix(&[0]).ok_or(ManifestError::Truncated)?;
        let (mut verity, mut blocks, mut exec, mut cwd, mut name) = (None, None, None, None, None);
        let (mut stdin, mut stdout, mut stderr, mut size, mut log) = (None, None, None, None, None);
        let (mut args, mut env) = (Vec::new(), Vec::new());
        for (i, record) in body.split(|&b| b == 0).enumerate() {
            let at = record.iter().position(|&b| b == b'=').ok_or(ManifestError::NotARecord(i))?;
            let (key, value) = (&record[..at], &record[at + 1..]);
            if i == 0 {
                if (key, value) != (VERSION.0.as_bytes(), VERSION.1.as_bytes()) {
                    return Err(ManifestError::NotAManifest);
                }
                continue;
            }
            match key {
                b"root.verity" => set(&mut verity, "root.verity", hash(value))?,
                b"root.blocks" => set(&mut blocks, "root.blocks", number(value))?,
                b"exec" => set(&mut exec, "exec", absolute(value))?,
                b"arg" => args.push(value.to_owned()),
                b"env" => env.push(value.to_owned()),
                b"cwd" => set(&mut cwd, "cwd", absolute(value))?,
                b"hostname" => set(&mut name, "hostname", hostname(value))?,
                b"stdin" => set(&mut stdin, "stdin", stream(value))?,
                b"stdout" => set(&mut stdout, "stdout", stream(value))?,
                b"stderr" => set(&mut stderr, "stderr", stream(value))?,
                b"winsize" => set(&mut size, "winsize", winsize(value))?,
                b"log" => set(&mut log, "log", log_level(value))?,
                _ => return Err(ManifestError::UnknownKey(String::from_utf8_lossy(key).into_owned())),
            }
        }
        let root = match (verity, blocks) {
            (Some(verity), Some(blocks)) => Some(Root { verity, blocks }),
            (None, None) => None,
            (None, _) => return Err(ManifestError::Missing("root.verity")),
            (_, None) => return Err(ManifestError::Missing("root.blocks")),
        };
        Ok(Manifest {
            root,
            exec: exec.ok_or(ManifestError::Missing("exec"))?,
            args,
            env,
            cwd: cwd.unwrap_or_else(|| b"/".to_vec()),
            hostname: name.unwrap_or_else(|| "litebox".to_owned()),
            stdin: stdin.unwrap_or_default(),
            stdout: stdout.unwrap_or_default(),
            stderr: stderr.unwrap_or_default(),
            winsize: size,
            log: log.unwrap_or_default(),
        })
    }

    /// Writes a manifest; the same value gives the same bytes. What [`Manifest::parse`] would refuse is an error here.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        use alloc::format;
        let mut out = Vec::new();
        let mut put = |key: &'static str, value: &[u8]| {
            if value.contains(&0) {
                return Err(ManifestError::NulByte(key));
            }
            out.extend_from_slice(key.as_bytes());
            out.push(b'=');
            out.extend_from_slice(value);
            out.push(0);
            Ok(())
        };
        put(VERSION.0, VERSION.1.as_bytes())?;
        if let Some(root) = &self.root {
            let hex: String = root.verity.iter().map(|b| format!("{b:02x}")).collect();
            put("root.verity", hex.as_bytes())?;
            put("root.blocks", format!("{}", root.blocks).as_bytes())?;
        }
        put("exec", &self.exec)?;
        for arg in &self.args {
            put("arg", arg)?;
        }
        for variable in &self.env {
            put("env", variable)?;
        }
        put("cwd", if self.cwd.is_empty() { b"/" } else { &self.cwd })?;
        put("hostname", if self.hostname.is_empty() { b"litebox" } else { self.hostname.as_bytes() })?;
        for (key, kind) in [("stdin", self.stdin), ("stdout", self.stdout), ("stderr", self.stderr)] {
            put(key, if kind == StreamKind::Tty { b"tty" } else { b"pipe" })?;
        }
        if let Some((columns, rows)) = self.winsize {
            put("winsize", format!("{columns}x{rows}").as_bytes())?;
        }
        put("log", [b"off".as_slice(), b"info", b"debug"][self.log as usize])?;
        Manifest::parse(&out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(bytes: &[u8]) -> ManifestError {
        Manifest::parse(bytes).unwrap_err()
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(refused(b""), ManifestError::Truncated);
        assert_eq!(refused(b"exec=/x\0"), ManifestError::NotAManifest);
        assert_eq!(refused(b"litebox-manifest=2\0exec=/x\0"), ManifestError::NotAManifest);
        assert_eq!(refused(b"litebox-manifest=1\0exec=/x"), ManifestError::Truncated);
        assert_eq!(refused(b"litebox-manifest=1\0exec\0"), ManifestError::NotARecord(1));
        assert_eq!(refused(b"litebox-manifest=1\0"), ManifestError::Missing("exec"));
        assert_eq!(refused(b"litebox-manifest=1\0exec=x\0"), ManifestError::BadValue("exec"));
        assert_eq!(refused(b"litebox-manifest=1\0exec=/x\0exec=/y\0"), ManifestError::Duplicate("exec"));
        assert_eq!(
            refused(b"litebox-manifest=1\0exec=/x\0root.blocks=7\0"),
            ManifestError::Missing("root.verity")
        );
        assert_eq!(
            refused(b"litebox-manifest=1\0exec=/x\0root.blocks=07\0"),
            ManifestError::BadValue("root.blocks")
        );
        assert!(matches!(refused(b"litebox-manifest=1\0color=red\0"), ManifestError::UnknownKey(_)));
        assert_eq!(refused(&alloc::vec![b'x'; MAX_SIZE + 1]), ManifestError::TooLong);
    }

    #[test]
    fn arguments_keep_every_byte_but_nul() {
        let arg: Vec<u8> = (1..=255).collect();
        let manifest = Manifest {
            exec: b"/x".to_vec(),
            args: alloc::vec![arg.clone(), Vec::new()],
            ..Default::default()
        };
        let parsed = Manifest::parse(&manifest.encode().unwrap()).unwrap();
        assert_eq!(parsed.args, [arg, Vec::new()]);
        let bad =
            Manifest { exec: b"/x".to_vec(), args: alloc::vec![b"a\0b".to_vec()], ..Default::default() };
        assert_eq!(bad.encode(), Err(ManifestError::NulByte("arg")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut whole = b"litebox-manifest=1\0".to_vec();
            whole.extend(&bytes);
            whole.push(0);
            let _ = Manifest::parse(&bytes);
            let _ = Manifest::parse(&whole);
        }

        #[test]
        fn what_is_encoded_is_parsed(
            verity: [u8; 32], blocks: u64, has_root: bool, arg in "[^\0]*", variable in "[^\0]*", name in "[a-z0-9.-]{1,64}",
            winsize: Option<(u16, u16)>,
        ) {
            let manifest = Manifest {
                root: has_root.then_some(Root { verity, blocks }),
                exec: b"/bin/x".to_vec(),
                args: alloc::vec![arg.into_bytes()],
                env: alloc::vec![variable.into_bytes()],
                cwd: b"/tmp".to_vec(),
                hostname: name,
                stdin: StreamKind::Tty,
                winsize,
                log: LogLevel::Debug,
                ..Default::default()
            };
            prop_assert_eq!(Manifest::parse(&manifest.encode().unwrap()).unwrap(), manifest);
        }
    }
}
