//! The Linux that we compare with: Debian's cloud kernel, fetched by package name, at its best.
//!
//! "At its best" means: the kernel proper is booted by PVH and does not unpack itself, knows its TSC's frequency, waits for
//! nothing, and spends nothing on mitigations or debugging. Source of the options: Linux's
//! `Documentation/admin-guide/kernel-parameters.txt`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio::Archive;
use crate::debian::{self, DebianKernel, Release};

/// A Linux guest's parts, on disk.
#[derive(Debug)]
pub struct Linux {
    /// The package.
    pub package: String,
    /// The ELF kernel.
    pub kernel: PathBuf,
    /// The same as it comes, which an SNP guest starts with.
    pub image: PathBuf,
    /// The archive with the program as `/init`.
    pub initramfs: PathBuf,
    /// `CONFIG_HZ`: timer interrupts per second.
    hz: u64,
}

/// Fetches the kernel if it is not there yet, and packs `program` as its `/init`.
///
/// # Errors
/// There is no apt here, nothing can be downloaded, or the package is not of the form that is known.
pub fn prepare(program: &Path) -> Result<Linux> {
    let kernel = DebianKernel::fetch(Release::Host).context("--no-linux leaves the Linux column out")?;
    let config = kernel.config()?;
    let place = debian::place()?;
    let initramfs = place.join(format!("initramfs-{}.cpio", std::process::id()));
    let program = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    fs::write(&initramfs, initramfs_of(&program)).context("cannot write the initramfs")?;
    let hz = hz(&config).context("the kernel's configuration does not say CONFIG_HZ")?;
    let image = kernel.dir.join("bzImage");
    Ok(Linux { kernel: kernel.vmlinux()?, image, package: kernel.package, initramfs, hz })
}

impl Drop for Linux {
    fn drop(&mut self) {
        // What stays behind is overwritten or ignored.
        let _ = fs::remove_file(&self.initramfs);
    }
}

impl Linux {
    /// The kernel's command line; what follows `--` is the program's.
    pub fn command_line(&self, tsc_khz: Option<u64>, arguments: &str) -> String {
        self.words(&format!("{TUNED} {NO_BOUNCING}"), tsc_khz, arguments)
    }

    /// The same for an SNP guest, which needs memory that is shared with devices.
    pub fn command_line_snp(&self, tsc_khz: Option<u64>, arguments: &str) -> String {
        self.words(TUNED, tsc_khz, arguments)
    }

    fn words(&self, tuned: &str, tsc_khz: Option<u64>, arguments: &str) -> String {
        let mut words = tuned.to_owned();
        if let Some(khz) = tsc_khz {
            // A loop of the delay calibration is a cycle of the TSC.
            words += &format!(" tsc_early_khz={khz} lpj={}", khz.saturating_mul(1000) / self.hz);
        }
        if !arguments.is_empty() {
            words += &format!(" -- {arguments}");
        }
        words
    }
}

/// All that makes it start sooner or run faster.
const TUNED: &str = "console=ttyS0 quiet panic=-1 reboot=t nokaslr tsc=reliable no_timer_check pci=off mitigations=off nopti \
    no5lvl audit=0 apparmor=0 init_on_alloc=0 nowatchdog nmi_watchdog=0 cgroup_disable=memory loglevel=0 \
    random.trust_cpu=on cryptomgr.notests rcupdate.rcu_expedited=1";

/// No memory for devices that cannot reach all of it.
const NO_BOUNCING: &str = "swiotlb=noforce";

/// The archive that Linux unpacks as its root.
fn initramfs_of(program: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.directory("dev", 0o755);
    // What Linux opens as the program's standard input, output and error.
    archive.character_device("dev/console", 0o600, (5, 1));
    archive.directory("sys", 0o755);
    archive.directory("tmp", 0o1777);
    archive.file("init", 0o755, program);
    archive.finish()
}

/// `CONFIG_HZ` out of a kernel's configuration.
fn hz(config: &str) -> Option<u64> {
    let line = config.lines().find_map(|line| line.strip_prefix("CONFIG_HZ="))?;
    line.trim().parse().ok().filter(|hz| *hz > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hz_is_a_positive_number() {
        assert_eq!(hz("CONFIG_HZ_250=y\nCONFIG_HZ=250\n"), Some(250));
        assert_eq!(hz("CONFIG_HZ=0"), None);
        assert_eq!(hz("# CONFIG_HZ is not set"), None);
    }

    #[test]
    fn loops_per_jiffy_follow_from_the_clock() {
        let linux = Linux {
            package: "p".into(),
            kernel: "/k".into(),
            image: "/b".into(),
            initramfs: "/nowhere/i".into(),
            hz: 250,
        };
        let line = linux.command_line(Some(2_000_000), "first-line");
        assert!(line.ends_with(" tsc_early_khz=2000000 lpj=8000000 -- first-line"), "{line}");
        assert!(!linux.command_line(None, "").contains("--"));
        assert!(linux.command_line(None, "").contains("swiotlb"));
        assert!(!linux.command_line_snp(None, "").contains("swiotlb"));
    }
}
