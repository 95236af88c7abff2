//! Debian's Linux as a guest of the SNP emulator: fetched, packed with an /init of ours, booted by `xtask emulate` as a user would, and
//! what it said.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::build::{self, Link};
use crate::cpio::Archive;
use crate::program::{Slot, feed};
use crate::tools::{capture, command, work_dir, xtask};

/// A kernel of Debian's and the archive with which it boots.
#[derive(Clone, Debug)]
pub struct Linux {
    kernel: PathBuf,
    initramfs: PathBuf,
    /// Whether it has a driver for the guest's messages to the PSP.
    pub has_sev_guest: bool,
}

impl Linux {
    /// The host's own release, or the stable one.
    ///
    /// # Errors
    /// It cannot be fetched here, or there is no compiler.
    pub fn fetch(stable: bool) -> Result<Self, String> {
        // Debian's stable release compresses its modules.
        command("xz", "xz-utils")?;
        // Tests run at the same time, and it need not be fetched twice.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let words: &[&str] = if stable { &["fetch-linux", "--stable"] } else { &["fetch-linux"] };
        let dir = PathBuf::from(capture(&xtask().to_string_lossy(), words)?.trim_end());
        let init = build::c("snp_init.c", Link::StaticMusl)?;
        let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let mut archive = Archive::default();
        archive.directory("dev", 0o755);
        archive.character_device("dev/console", 0o600, (5, 1));
        archive.directory("modules", 0o755);
        let order = read(&dir.join("modules/order"))?;
        archive.file("modules/order", 0o644, &order);
        let order = String::from_utf8_lossy(&order);
        for name in order.lines() {
            archive.file(&format!("modules/{name}"), 0o644, &read(&dir.join("modules").join(name))?);
        }
        archive.file("init", 0o755, &read(&init)?);
        let initramfs = unique("initramfs");
        fs::write(&initramfs, archive.finish()).map_err(|error| error.to_string())?;
        let has_sev_guest = order.lines().any(|name| name == "sev_guest.ko");
        Ok(Self { kernel: dir.join("bzImage"), initramfs, has_sev_guest })
    }

    /// Boots it with these CPUs and this disk, to watch its timers for so long.
    pub fn boot(&self, cpus: u32, seconds: u32, disk: &Path, options: &[&str]) -> Run {
        let json = unique("json");
        let mut command = Command::new(xtask());
        command.args(["emulate", "--cpus", &cpus.to_string(), "--timeout", "400", "--append"]);
        // As a guest of KVM sets for itself: whether ten ticks come in time is the load of this host, and Linux panics where they do not.
        command.arg(format!("console=ttyS0 panic=-1 no_timer_check SNP_SECONDS={seconds}")).args(options);
        for (option, file) in [
            ("--linux", &self.kernel),
            ("--initrd", &self.initramfs),
            ("--disk", &disk.to_owned()),
            ("--json", &json),
        ] {
            command.args([OsString::from(option), file.into()]);
        }
        let _slot = Slot::take();
        let outcome = feed(command, b"");
        let report = fs::read(&json).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let _ = fs::remove_file(&json);
        Run { console: outcome.text(), outcome, report: report.unwrap_or(Value::Null) }
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.initramfs);
    }
}

/// A path that nobody else uses.
pub fn unique(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    work_dir("emulated").join(format!("{name}.{}.{number}", std::process::id()))
}

/// A guest that came to its end.
pub struct Run {
    /// Status and streams of the launcher.
    pub outcome: crate::Outcome,
    /// The guest's console.
    pub console: String,
    /// The emulator's report.
    pub report: Value,
}

impl Run {
    /// What /init said under this name: the first time.
    pub fn said(&self, name: &str) -> Option<&str> {
        self.console.lines().find_map(|line| {
            let rest = line.trim_end().strip_prefix("snp: ")?.strip_prefix(name)?;
            rest.strip_prefix(' ').or((rest.is_empty()).then_some(""))
        })
    }

    /// The bytes that /init said in hexadecimal under this name.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        hexadecimal(self.said(name)?)
    }

    /// The launch digest, as the emulator reports it.
    pub fn launch_digest(&self) -> Option<[u8; 48]> {
        hexadecimal(self.report.get("launch_digest")?.as_str()?)?.try_into().ok()
    }

    /// A number of the report's, by the names that lead to it.
    pub fn number(&self, path: &[&str]) -> u64 {
        let value = path.iter().try_fold(&self.report, |value, name| value.get(name));
        value.and_then(Value::as_u64).unwrap_or(0)
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).map(|value| value as u8);
    text.as_bytes().chunks(2).map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}
