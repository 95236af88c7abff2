//! The Linux that we compare with: Debian's cloud kernel, fetched by package name, at its best.
//!
//! The package is the one that `linux-image-cloud-amd64` depends on; Debian's signatures are checked by apt. It is unpacked once into
//! `target/litebox/linux/PACKAGE/`, never installed. "At its best" means: the kernel proper is booted by PVH and
//! does not unpack itself, knows its TSC's frequency, waits for nothing, and spends nothing on mitigations or debugging. Source of
//! the options: Linux's `Documentation/admin-guide/kernel-parameters.txt`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::vmlinux;
use crate::{host, install};

/// The package that depends on Debian's current cloud kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// A Linux guest's parts, on disk.
#[derive(Debug)]
pub struct Linux {
    /// The package.
    pub package: String,
    /// The ELF kernel.
    pub kernel: PathBuf,
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
    let place = host::cache_dir().join("linux");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let package = current_package()?;
    let dir = place.join(&package);
    if !dir.join("vmlinux").exists() {
        fetch(&package, &place, &dir)?;
    }
    let config = fs::read_to_string(dir.join("config")).context("cannot read the kernel's configuration")?;
    let initramfs = place.join(format!("initramfs-{}.cpio", std::process::id()));
    let program = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    fs::write(&initramfs, initramfs_of(&program)).context("cannot write the initramfs")?;
    let hz = hz(&config).context("the kernel's configuration does not say CONFIG_HZ")?;
    Ok(Linux { package, kernel: dir.join("vmlinux"), initramfs, hz })
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
        let mut words = TUNED.to_owned();
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
    no5lvl audit=0 apparmor=0 init_on_alloc=0 nowatchdog nmi_watchdog=0 swiotlb=noforce cgroup_disable=memory loglevel=0 \
    random.trust_cpu=on cryptomgr.notests rcupdate.rcu_expedited=1";

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

/// The first package in the output of `apt-cache depends`.
fn first_dependency(listing: &str) -> Option<String> {
    let name = listing.lines().find_map(|line| line.trim().strip_prefix("Depends: "))?.trim();
    name.starts_with("linux-image-").then(|| name.to_owned())
}

/// The package that holds Debian's current cloud kernel.
fn current_package() -> Result<String> {
    let depends = || {
        let listing = host::output_of(Command::new("apt-cache").args(["depends", META_PACKAGE]));
        listing.and_then(|listing| first_dependency(&listing))
    };
    if let Some(package) = depends() {
        return Ok(package);
    }
    if host::find_program("apt-cache").is_none() {
        bail!(
            "the Linux column needs Debian's kernel, which comes by apt, and there is no apt here; \
             --no-linux leaves it out"
        );
    }
    install::apt_update(&format!("apt does not know {META_PACKAGE} yet"))?;
    depends().with_context(|| {
        format!("apt knows no {META_PACKAGE} (a package of Debian); --no-linux leaves the column out")
    })
}

fn fetch(package: &str, place: &Path, dir: &Path) -> Result<()> {
    eprintln!("xtask: fetching {package} with apt-get (27 MB, not installed)");
    let aside = place.join(format!(".{}", std::process::id()));
    fs::create_dir_all(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
    let done = fetch_into(package, &aside).and_then(|()| {
        fs::rename(&aside, dir).with_context(|| format!("cannot put {} in its place", dir.display()))
    });
    if done.is_err() {
        let _ = fs::remove_dir_all(&aside);
    }
    done
}

fn fetch_into(package: &str, aside: &Path) -> Result<()> {
    run(Command::new("apt-get").current_dir(aside).args(["download", "--quiet", package]))?;
    let archive = find(aside, &format!("{package}_"))?;
    run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(aside.join("tree")))?;
    let boot = aside.join("tree/boot");
    let image = fs::read(find(&boot, "vmlinuz-")?).context("cannot read the package's kernel")?;
    let kernel = vmlinux::extract(&image).with_context(|| format!("{package} cannot be used"))?;
    fs::copy(find(&boot, "config-")?, aside.join("config")).context("cannot copy its configuration")?;
    fs::write(aside.join("vmlinux"), kernel).context("cannot write the unpacked kernel")?;
    // Modules and the package itself are many times bigger than what is used.
    fs::remove_dir_all(aside.join("tree")).and_then(|()| fs::remove_file(archive)).context("cannot tidy up")
}

/// The file in a directory whose name begins so.
fn find(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let found = entries.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    Ok(found.with_context(|| format!("there is no {prefix}* in the package"))?.path())
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name} failed:\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_the_first_dependency() {
        let listing =
            "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Depends: other\n";
        assert_eq!(first_dependency(listing).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(first_dependency("linux-image-cloud-amd64\n  Depends: <none>\n"), None);
        assert_eq!(first_dependency(""), None);
    }

    #[test]
    fn hz_is_a_positive_number() {
        assert_eq!(hz("CONFIG_HZ_250=y\nCONFIG_HZ=250\n"), Some(250));
        assert_eq!(hz("CONFIG_HZ=0"), None);
        assert_eq!(hz("# CONFIG_HZ is not set"), None);
    }

    #[test]
    fn loops_per_jiffy_follow_from_the_clock() {
        let linux =
            Linux { package: "p".into(), kernel: "/k".into(), initramfs: "/nowhere/i".into(), hz: 250 };
        let line = linux.command_line(Some(2_000_000), "first-line");
        assert!(line.ends_with(" tsc_early_khz=2000000 lpj=8000000 -- first-line"), "{line}");
        assert!(!linux.command_line(None, "").contains("--"));
    }
}
