//! A root file system out of Debian packages, by name: `apt-get download` and `dpkg-deb`, no install scripts.
//!
//! The distribution and its signatures are this host's (so the host needs apt); the packages a program needs are found
//! by `apt-cache depends`. What only install scripts use is left out.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::tools::{capture, work_dir};

/// Dependencies that are there for install scripts or documentation.
const NOT_NEEDED: [&str; 10] = [
    "debconf",
    "dpkg",
    "install-info",
    "mailcap",
    "media-types",
    "mime-support",
    "perl",
    "readline-common",
    "tar",
    "libperl5",
];

/// Architecture-independent relations that `apt-cache depends` is told to leave out.
const HARD_ONLY: [&str; 7] = [
    "--recurse",
    "--no-recommends",
    "--no-suggests",
    "--no-conflicts",
    "--no-breaks",
    "--no-replaces",
    "--no-enhances",
];

/// A directory with these packages and what they depend on, made once.
pub fn rootfs(name: &str, packages: &[&str]) -> Result<PathBuf, String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let place = work_dir("trees").join(name);
    if place.exists() {
        return Ok(place);
    }
    let wanted =
        closure(packages).or_else(|_| capture("apt-get", &["update"]).and_then(|_| closure(packages)))?;
    let cache = work_dir("packages");
    let mut apt = Command::new("apt-get");
    apt.current_dir(&cache).args(["download", "--quiet"]).args(&wanted);
    let output = apt.output().map_err(|error| format!("apt-get: {error}"))?;
    if !output.status.success() {
        return Err(format!("apt-get download: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let aside = work_dir("trees").join(format!(".{name}.{}", std::process::id()));
    layout(&aside).map_err(|error| error.to_string())?;
    for package in &wanted {
        let file = newest(&cache, package).ok_or_else(|| format!("{package} was not downloaded"))?;
        // Not `dpkg-deb --extract`, which puts directories in the place of the merged-/usr links.
        let unpack = "dpkg-deb --fsys-tarfile \"$1\" | tar -x --keep-directory-symlink -C \"$2\"";
        capture("sh", &["-c", unpack, "sh", &file.to_string_lossy(), &aside.to_string_lossy()])?;
    }
    for (file, contents) in [("passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("group", "root:x:0:\n")] {
        fs::write(aside.join("etc").join(file), contents).map_err(|error| error.to_string())?;
    }
    fs::rename(&aside, &place).map_err(|error| error.to_string())?;
    Ok(place)
}

/// The packages and all that they cannot do without.
fn closure(packages: &[&str]) -> Result<BTreeSet<String>, String> {
    let mut args = vec!["depends"];
    args.extend(HARD_ONLY);
    args.extend(packages);
    let listing = capture("apt-cache", &args)?;
    let needed = |package: &str| {
        !NOT_NEEDED.iter().any(|not| {
            package == *not
                || package.starts_with(&format!("{not}-"))
                || package.starts_with(&format!("{not}."))
        })
    };
    let found: BTreeSet<String> = listing
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()))
        .map(|line| line.split(':').next().unwrap_or(line).trim().to_owned())
        .filter(|package| needed(package))
        .collect();
    match packages.iter().find(|package| !found.contains(**package)) {
        Some(missing) => Err(format!("apt knows no package {missing}")),
        None => Ok(found),
    }
}

/// The directories of a merged-/usr system, before packages are unpacked through its links.
fn layout(root: &Path) -> std::io::Result<()> {
    for dir in
        ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "dev", "etc", "proc", "sys", "tmp", "root", "var/tmp"]
    {
        fs::create_dir_all(root.join(dir))?;
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{link}"), root.join(link))?;
    }
    Ok(())
}

/// The downloaded file of a package.
fn newest(cache: &Path, package: &str) -> Option<PathBuf> {
    let files = fs::read_dir(cache).ok()?.flatten().map(|entry| entry.path());
    let named = files.filter(|path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(&format!("{package}_")))
    });
    named.max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())
}
