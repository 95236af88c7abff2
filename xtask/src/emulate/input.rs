//! The files that `emulate` is given, looked at before anything is started, so that a wrong one gets a sentence and not a riddle.
//!
//! Only what tells the right kind of file from a wrong or a cut one is checked here; the emulator checks everything. Sources: IGVM's
//! fixed header (`IGVM_FIXED_HEADER`: magic, version, offset and size of the variable headers, size of the file); Linux's
//! `Documentation/arch/x86/boot.rst`.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::arguments::Emulate;
use super::script;

/// Larger files do not fit where a fw_cfg item's size is written.
const SIZE_MAX: u64 = (1 << 32) - 4096;

/// What the guest is made of.
#[derive(Clone, Debug)]
pub enum Guest {
    /// An IGVM file.
    Igvm(PathBuf),
    /// A Linux kernel and what belongs to it.
    Linux {
        /// The bzImage.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: Option<PathBuf>,
    },
}

/// Checked input files.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The guest.
    pub guest: Guest,
    /// The attack script, as the emulator takes it.
    pub script: Option<Vec<u8>>,
    /// The disk.
    pub disk: Option<PathBuf>,
    /// Bytes in all files that the emulator reads.
    pub size: u64,
}

impl Inputs {
    /// Looks at the files.
    ///
    /// # Errors
    /// One is missing, unreadable, empty, cut off, or of another kind.
    pub fn open(args: &Emulate) -> Result<Self> {
        let mut size = 0;
        let guest = match (&args.igvm, &args.linux) {
            (Some(file), _) => {
                size += checked(file, "the IGVM file", igvm)?;
                Guest::Igvm(absolute(file)?)
            }
            (None, Some(kernel)) => {
                size += checked(kernel, "the kernel", linux)?;
                if let Some(initrd) = &args.initrd {
                    size += checked(initrd, "the initial RAM disk", |_, _| Ok(()))?;
                }
                let initrd = args.initrd.as_deref().map(absolute).transpose()?;
                Guest::Linux { kernel: absolute(kernel)?, initrd }
            }
            (None, None) => bail!("neither an IGVM file nor a kernel"),
        };
        let script = match &args.script {
            None => None,
            Some(file) => Some(script::open(file)?),
        };
        let disk = match &args.disk {
            None => None,
            Some(file) => {
                checked(file, "the disk", |_, size| {
                    ensure!(
                        size % 512 == 0,
                        "a disk is made of blocks of 512 bytes, and this has {size} bytes"
                    );
                    Ok(())
                })?;
                fs::OpenOptions::new()
                    .write(true)
                    .open(file)
                    .with_context(|| format!("{}: the disk cannot be written", file.display()))?;
                Some(absolute(file)?)
            }
        };
        size += script.as_ref().map_or(0, |bytes| bytes.len() as u64);
        ensure!(
            args.memory > size,
            "the guest's files have {size} bytes and do not fit into --memory, which is {} bytes",
            args.memory
        );
        Ok(Self { guest, script, disk, size })
    }
}

fn absolute(file: &Path) -> Result<PathBuf> {
    std::path::absolute(file).with_context(|| format!("{}", file.display()))
}

/// The file's size, if `check` is content with its beginning and its size.
fn checked(file: &Path, what: &str, check: fn(&[u8], u64) -> Result<()>) -> Result<u64> {
    let look = || {
        let opened = File::open(file).context("cannot open it")?;
        let metadata = opened.metadata().context("cannot look at it")?;
        ensure!(metadata.is_file(), "it is not a regular file");
        ensure!(metadata.len() > 0, "it is empty");
        ensure!(what == "the disk" || metadata.len() <= SIZE_MAX, "it is too large");
        let mut head = Vec::new();
        opened.take(0x300).read_to_end(&mut head).context("cannot read it")?;
        check(&head, metadata.len())?;
        Ok(metadata.len())
    };
    look().with_context(|| format!("{what}, {}", file.display()))
}

fn word(head: &[u8], at: usize) -> Result<u32> {
    let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_le_bytes).context("it is cut off inside its header")
}

fn is_linux(head: &[u8]) -> bool {
    head.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) && head.get(0x202..0x206) == Some(b"HdrS")
}

fn igvm(head: &[u8], size: u64) -> Result<()> {
    if !b"IGVM".starts_with(head.get(..4).unwrap_or(head)) {
        let hint = if is_linux(head) { "; for a Linux kernel there is --linux" } else { "" };
        bail!("it is no IGVM file: it does not begin with `IGVM`{hint}");
    }
    let headers = u64::from(word(head, 8)?) + u64::from(word(head, 12)?);
    let whole = u64::from(word(head, 16)?).max(headers);
    ensure!(size >= whole, "it is cut off: its header says {whole} bytes, and {size} are there");
    Ok(())
}

fn linux(head: &[u8], size: u64) -> Result<()> {
    if head.starts_with(b"\x7fELF") {
        bail!("it is an ELF file, and a bzImage is wanted (arch/x86/boot/bzImage, /boot/vmlinuz-*)");
    }
    ensure!(head.len() >= 0x206, "it is too short for a bzImage");
    if !is_linux(head) {
        let hint = if head.starts_with(b"IGVM") { "; an IGVM file goes without --linux" } else { "" };
        bail!("it is no Linux bzImage{hint}");
    }
    let setup = match word(head, 0x1f1)? & 0xff {
        0 => 4,
        sectors => u64::from(sectors),
    };
    // `syssize`: the protected-mode code in units of 16 bytes.
    let whole = (setup + 1) * 512 + u64::from(word(head, 0x1f4)?) * 16;
    ensure!(size >= whole, "it is cut off: its header says {whole} bytes, and {size} are there");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn igvm_header(size: u32) -> Vec<u8> {
        let mut head = b"IGVM".to_vec();
        for word in [1, 0x18, 0x10, size, 0] {
            head.extend(u32::to_le_bytes(word));
        }
        head
    }

    fn bzimage() -> Vec<u8> {
        let mut head = vec![0; 0x300];
        head[0x1f1] = 1;
        head[0x1f4..0x1f8].copy_from_slice(&2u32.to_le_bytes());
        head[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\x6aHdrS");
        head
    }

    #[test]
    fn whole_files_pass() {
        assert!(igvm(&igvm_header(0x40), 0x40).is_ok());
        assert!(linux(&bzimage(), 1024 + 32).is_ok());
    }

    #[test]
    fn cut_files_are_named_so() {
        for (error, want) in [
            (igvm(&igvm_header(0x40), 0x3f), "cut off"),
            (igvm(&igvm_header(0), 0x27), "cut off"),
            (igvm(b"IGVM\x01\0\0\0\0", 9), "cut off"),
            (igvm(b"IG", 2), "cut off"),
            (linux(&bzimage(), 1024 + 31), "cut off"),
            (linux(&bzimage()[..0x200], 0x200), "too short"),
        ] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn wrong_kinds_are_named_with_what_to_do() {
        assert!(igvm(&bzimage(), 1056).unwrap_err().to_string().contains("--linux"));
        assert!(igvm(b"\x7fELF....", 8).is_err());
        assert!(linux(b"\x7fELF", 4).unwrap_err().to_string().contains("ELF"));
        let mut other = igvm_header(0x40);
        other.resize(0x300, 0);
        assert!(linux(&other, 0x300).unwrap_err().to_string().contains("without --linux"));
    }

    #[test]
    fn no_header_is_too_odd() {
        for whole in [igvm_header(u32::MAX), bzimage(), vec![0xff; 0x300]] {
            for len in 0..=whole.len() {
                let _ = igvm(&whole[..len], len as u64);
                let _ = linux(&whole[..len], len as u64);
            }
        }
    }
}
