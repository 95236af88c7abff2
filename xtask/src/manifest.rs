//! Writes the manifest: what is to run (`docs/design.md`, "Manifest").
//!
//! Records `key=value`, each ended by a NUL byte. Invariant: no value holds a NUL byte, so that a record cannot smuggle in another.

use std::os::unix::ffi::OsStrExt;

use anyhow::{Result, bail};

/// The kernel accepts no longer one.
const SIZE_MAX: usize = 1 << 20;

/// A manifest under construction.
#[derive(Debug)]
pub struct Manifest {
    bytes: Vec<u8>,
}

impl Manifest {
    /// An empty one.
    pub fn new() -> Self {
        Self { bytes: b"litebox-manifest=1\0".to_vec() }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// The value holds a NUL byte, or the manifest would be too long.
    pub fn add(&mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Result<()> {
        let value = value.as_ref().as_bytes();
        if value.contains(&0) {
            bail!("a NUL byte in `{key}` cannot be passed to a program");
        }
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.push(b'=');
        self.bytes.extend_from_slice(value);
        self.bytes.push(0);
        if self.bytes.len() > SIZE_MAX {
            bail!("arguments and environment are longer than the 1 MiB that a manifest may have");
        }
        Ok(())
    }

    /// The encoded manifest.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_separated_by_nul() {
        let mut manifest = Manifest::new();
        manifest.add("arg", "a=b\nc").unwrap();
        assert_eq!(manifest.into_bytes(), b"litebox-manifest=1\0arg=a=b\nc\0");
    }

    #[test]
    fn a_value_cannot_hold_another_record() {
        assert!(Manifest::new().add("arg", "a\0exec=/bin/sh").is_err());
        assert!(Manifest::new().add("arg", "x".repeat(SIZE_MAX)).is_err());
    }
}
