//! Debian's cloud kernel, fetched by package name: what we compare with, and what the SNP emulator must boot unmodified.
//!
//! The package is the one that `linux-image-cloud-amd64` depends on. It is unpacked once into `target/litebox/linux/PACKAGE/`, never
//! installed: the kernel as it is (`bzImage`), its configuration (`config`), and the drivers for a virtio disk and for SNP guests
//! (`modules/`). Invariant: a directory of that name is complete; it is made aside and renamed.

mod apt;
mod modules;
mod vmlinux;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cli::FetchLinux;
use crate::host;
use crate::protocol::status;
use apt::{Apt, find, run};

/// The package that depends on Debian's current cloud kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Drivers that are kept; what they need comes with them. `sev-guest` of Linux 6.12 asks for `gcm(aes)` by name when it starts, which no
/// dependency says.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_blk", "gcm", "ghash-generic", "sev-guest"];

/// The file that says what was kept; the last one that is written.
const WANTED: &str = "modules/wanted";

/// Which of Debian's releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The host's own.
    Host,
    /// The current stable one.
    Stable,
}

/// A kernel, on disk.
#[derive(Clone, Debug)]
pub struct DebianKernel {
    /// The package.
    pub package: String,
    /// The directory that holds its parts.
    pub dir: PathBuf,
}

impl DebianKernel {
    /// The kernel of a release; fetched if it is not there yet.
    ///
    /// # Errors
    /// There is no apt here, nothing can be downloaded, or the package is not of the form that is known.
    pub fn fetch(release: Release) -> Result<Self> {
        let place = place()?;
        let apt = match release {
            Release::Host => Apt::of_host()?,
            Release::Stable => Apt::of_stable(&place)?,
        };
        let package = apt.kernel_behind(META_PACKAGE)?;
        let dir = place.join(&package);
        if !complete(&dir) {
            fetch(&apt, &package, &place, &dir)?;
        }
        Ok(Self { package, dir })
    }

    /// The ELF kernel inside the bzImage, which boots by PVH; unpacked once.
    ///
    /// # Errors
    /// It is compressed in a way that is not understood.
    pub fn vmlinux(&self) -> Result<PathBuf> {
        let file = self.dir.join("vmlinux");
        if !file.exists() {
            let image = fs::read(self.dir.join("bzImage")).context("cannot read the package's kernel")?;
            let kernel =
                vmlinux::extract(&image).with_context(|| format!("{} cannot be used", self.package))?;
            let aside = self.dir.join(format!(".vmlinux.{}", std::process::id()));
            fs::write(&aside, kernel)
                .and_then(|()| fs::rename(&aside, &file))
                .context("cannot write the unpacked kernel")?;
        }
        Ok(file)
    }

    /// Its configuration.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn config(&self) -> Result<String> {
        fs::read_to_string(self.dir.join("config")).context("cannot read the kernel's configuration")
    }
}

/// Whether a directory holds a kernel with all that belongs to it, by what this version of the program keeps.
fn complete(dir: &Path) -> bool {
    fs::read_to_string(dir.join(WANTED)).is_ok_and(|wanted| wanted == MODULES.join("\n"))
}

/// Where kernels are kept.
///
/// # Errors
/// The directory cannot be made.
pub fn place() -> Result<PathBuf> {
    let place = host::cache_dir().join("linux");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    Ok(place)
}

/// `fetch-linux`: says where the kernel is.
pub fn fetch_linux(args: &FetchLinux) -> i32 {
    let release = if args.stable { Release::Stable } else { Release::Host };
    let said = DebianKernel::fetch(release).and_then(|kernel| {
        writeln!(io::stdout(), "{}", kernel.dir.display()).context("cannot write to stdout")
    });
    match said {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "xtask: {error:#}");
            status::LAUNCH_FAILED
        }
    }
}

fn fetch(apt: &Apt, package: &str, place: &Path, dir: &Path) -> Result<()> {
    eprintln!("xtask: fetching {package} with apt-get (about 30 MB, not installed)");
    let aside = place.join(format!(".{}", std::process::id()));
    fs::create_dir_all(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
    let done = fetch_into(apt, package, &aside).and_then(|()| {
        // What an older version of this program left there. What another process has just put there may be in use already.
        if !complete(dir) {
            let _ = fs::remove_dir_all(dir);
        }
        fs::rename(&aside, dir).with_context(|| format!("cannot put {} in its place", dir.display()))
    });
    if done.is_err() {
        let _ = fs::remove_dir_all(&aside);
    }
    // Another process may have done the same at the same time.
    if complete(dir) { Ok(()) } else { done }
}

fn fetch_into(apt: &Apt, package: &str, aside: &Path) -> Result<()> {
    let archive = apt.download(package, aside)?;
    let tree = aside.join("tree");
    run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&tree))?;
    let boot = tree.join("boot");
    fs::copy(find(&boot, "vmlinuz-")?, aside.join("bzImage")).context("cannot copy its kernel")?;
    fs::copy(find(&boot, "config-")?, aside.join("config")).context("cannot copy its configuration")?;
    // Debian 13 has merged /lib into /usr/lib.
    let places = ["lib/modules", "usr/lib/modules"].map(|place| tree.join(place));
    let place = places.iter().find(|place| place.is_dir()).context("there are no modules in the package")?;
    modules::copy(place, &MODULES, &aside.join("modules"))?;
    fs::write(aside.join(WANTED), MODULES.join("\n")).context("cannot write what was kept")?;
    // The rest is many times bigger than what is used.
    fs::remove_dir_all(tree).and_then(|()| fs::remove_file(archive)).context("cannot tidy up")
}
