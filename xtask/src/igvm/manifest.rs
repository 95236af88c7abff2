//! A manifest as people and programs read it: in `inspect`, and in reference values.

use litebox_core::manifest::{LogLevel, Manifest, StreamKind};
use serde::Serialize;

use crate::image::hex;

/// The decoded manifest. Strings that are no UTF-8 have U+FFFD in the place of what is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ManifestFacts {
    /// SHA-256 of the encoded manifest.
    pub sha256: String,
    /// The workload image; none in a manifest without one.
    pub root: Option<RootFacts>,
    /// Path of the program inside the image.
    pub exec: String,
    /// Arguments, `argv[0]` included.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<String>,
    /// Working directory.
    pub workdir: String,
    /// Host name.
    pub hostname: String,
    /// Which of standard input, output and error are terminals.
    pub terminals: [bool; 3],
    /// Columns and rows of the terminal.
    pub window: Option<(u16, u16)>,
    /// What the kernel logs, for the host to read: `off`, `info`, `debug`.
    pub log: &'static str,
}

/// The workload image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RootFacts {
    /// dm-verity root hash.
    pub verity: String,
    /// Data blocks of 4096 bytes.
    pub blocks: u64,
}

impl ManifestFacts {
    /// Of the manifest whose encoding is `encoded`.
    pub fn new(manifest: &Manifest, encoded: &[u8]) -> Self {
        use sha2::{Digest, Sha256};
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        Self {
            sha256: hex(&Sha256::digest(encoded)),
            root: manifest.root.map(|root| RootFacts { verity: hex(&root.verity), blocks: root.blocks }),
            exec: text(&manifest.exec),
            args: manifest.args.iter().map(text).collect(),
            env: manifest.env.iter().map(text).collect(),
            workdir: text(&manifest.cwd),
            hostname: text(&manifest.hostname),
            terminals: [manifest.stdin, manifest.stdout, manifest.stderr].map(|kind| kind == StreamKind::Tty),
            window: manifest.winsize,
            log: match manifest.log {
                LogLevel::Off => "off",
                LogLevel::Info => "info",
                LogLevel::Debug => "debug",
            },
        }
    }
}
