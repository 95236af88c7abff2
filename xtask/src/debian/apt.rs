//! Downloads Debian packages by name with the host's own apt, which checks Debian's signatures.
//!
//! Nothing is installed. Debian's stable release may be another than the host's: then apt gets lists and directories of its own, with the
//! mirror and the keys that the host has already. Invariant: the host's own lists of packages are not changed, except by an ordinary
//! `apt-get update` where they do not know the package at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::{host, install};

/// The keys of Debian's archive, from the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Lists older than this are fetched again.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// A source of packages.
#[derive(Debug)]
pub struct Apt {
    /// Options for every call.
    options: Vec<String>,
    own_lists: bool,
}

impl Apt {
    /// The host's, as it is set up.
    ///
    /// # Errors
    /// There is no apt here.
    pub fn of_host() -> Result<Self> {
        if host::find_program("apt-cache").is_none() {
            bail!("Debian's kernel comes by apt, and there is no apt here");
        }
        Ok(Self { options: Vec::new(), own_lists: false })
    }

    /// Debian's stable release, with its lists in `place`.
    ///
    /// # Errors
    /// The host's apt knows no mirror of Debian's, or the lists cannot be fetched.
    pub fn of_stable(place: &Path) -> Result<Self> {
        let host = Self::of_host()?;
        let wanted = "$(ORIGIN) $(LABEL) $(SUITE) $(REPO_URI)";
        let targets = Command::new("apt-get")
            .args(["indextargets", "--format", wanted, "Created-By: Packages"])
            .stdin(Stdio::null())
            .output()
            .context("cannot run apt-get")?;
        let listing = String::from_utf8_lossy(&targets.stdout).into_owned();
        let mirrors = mirrors(&listing);
        if mirrors.iter().any(|(suite, _)| *suite == "stable") {
            return Ok(host);
        }
        let Some((_, mirror)) = mirrors.first() else { bail!("this host's apt knows no mirror of Debian's") };
        let place = place.join("apt-stable");
        let (state, cache) = (place.join("state"), place.join("cache"));
        for dir in [state.join("lists/partial"), cache.join("archives/partial")] {
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let sources = place.join("sources.list");
        fs::write(&sources, format!("deb [signed-by={KEYRING}] {mirror} stable main\n"))
            .with_context(|| format!("cannot write {}", sources.display()))?;
        let option = |name: &str, value: &Path| ["-o".into(), format!("{name}={}", value.display())];
        let options = [
            option("Dir::Etc::SourceList", &sources),
            option("Dir::Etc::SourceParts", Path::new("/dev/null")),
            option("Dir::State", &state),
            option("Dir::Cache", &cache),
            option("Dir::State::status", Path::new("/var/lib/dpkg/status")),
            // Lists of packages only.
            ["-o".into(), "Acquire::Languages=none".into()],
        ];
        let apt = Self { options: options.concat(), own_lists: true };
        apt.refresh(&place.join("updated"))?;
        Ok(apt)
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command.args(&self.options).stdin(Stdio::null());
        command
    }

    /// Fetches the lists if those that are there are old. Old ones are better than none.
    fn refresh(&self, stamp: &Path) -> Result<()> {
        let age = fs::metadata(stamp)
            .and_then(|stamp| stamp.modified())
            .ok()
            .and_then(|then| SystemTime::now().duration_since(then).ok());
        if age.is_some_and(|age| age < LISTS_AGE_MAX) {
            return Ok(());
        }
        eprintln!("xtask: fetching the package lists of Debian's stable release");
        // Exit status 0 even where everything failed, unless it is told that errors matter.
        let update = run(self.command("apt-get").args(["-o", "APT::Update::Error-Mode=any", "update"]));
        match (update, age) {
            (Ok(()), _) => fs::write(stamp, "").with_context(|| format!("cannot write {}", stamp.display())),
            (Err(_), Some(_)) => Ok(()),
            (Err(error), None) => Err(error),
        }
    }

    /// The kernel package that this one depends on.
    ///
    /// # Errors
    /// It is not known.
    pub fn kernel_behind(&self, meta: &str) -> Result<String> {
        let depends = || {
            let listing = host::output_of(self.command("apt-cache").args(["depends", meta]));
            listing.and_then(|listing| first_dependency(&listing))
        };
        if let Some(package) = depends() {
            return Ok(package);
        }
        if !self.own_lists {
            install::apt_update(&format!("apt does not know {meta} yet"))?;
        }
        depends().with_context(|| format!("apt knows no {meta} (a package of Debian)"))
    }

    /// Downloads a package into a directory.
    ///
    /// # Errors
    /// It cannot be downloaded.
    pub fn download(&self, package: &str, into: &Path) -> Result<PathBuf> {
        let mut apt = self.command("apt-get");
        run(apt.current_dir(into).args(["download", "--quiet", package]))?;
        find(into, &format!("{package}_"))
    }
}

/// Suites and mirrors of Debian's main archive in the host's list of index targets.
fn mirrors(listing: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for line in listing.lines() {
        if let ["Debian", "Debian", suite, uri] = line.split_whitespace().collect::<Vec<_>>()[..]
            && !suite.contains('-')
        {
            found.push((suite, uri));
        }
    }
    found
}

/// The first package in the output of `apt-cache depends`.
fn first_dependency(listing: &str) -> Option<String> {
    let name = listing.lines().find_map(|line| line.trim().strip_prefix("Depends: "))?.trim();
    name.starts_with("linux-image-").then(|| name.to_owned())
}

/// The file in a directory whose name begins so.
///
/// # Errors
/// There is none.
pub fn find(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let found = entries.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    Ok(found.with_context(|| format!("there is no {prefix}* in {}", dir.display()))?.path())
}

/// Runs a tool of the host's.
///
/// # Errors
/// What it said, if it failed.
pub fn run(command: &mut Command) -> Result<()> {
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
    fn mirrors_are_those_of_the_main_archive() {
        let listing = "Debian Debian oldstable mirror:/debian/\nDebian Debian oldstable-updates mirror:/debian/\n\
                       Debian Debian-Security oldstable-security mirror:/security/\nOther Debian stable x:/\n\n";
        assert_eq!(mirrors(listing), [("oldstable", "mirror:/debian/")]);
        assert_eq!(mirrors(""), []);
    }
}
