//! Installs what is missing where that is possible without asking: as root or with a passwordless sudo, through apt or rustup.
//!
//! Invariant: nothing is installed without one line on stderr that says what; where it cannot be done, the error holds the
//! exact command to type.

use std::fs;
use std::io;
use std::process::{Command, Output, Stdio};

use anyhow::{Result, bail};

use crate::host::find_program;

/// Whether apt's package lists are there.
fn apt_lists_present() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|e| e.file_name().to_string_lossy().contains("_Packages")))
    })
}

/// How to become root, if that is possible without a password.
fn root_prefix() -> Option<&'static [&'static str]> {
    if nix::unistd::geteuid().is_root() {
        return Some(&[]);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    run_quietly(&mut sudo).then_some(&["sudo", "-n"])
}

fn run_quietly(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

/// Installs Debian packages.
///
/// # Errors
/// It cannot be done here; the message says what to type.
pub fn apt(packages: &[&str], why: &str) -> Result<()> {
    let manual =
        format!("apt-get update && apt-get install -y --no-install-recommends {}", packages.join(" "));
    if find_program("apt-get").is_none() {
        bail!("{why}; install it with this system's package manager (on Debian: {manual})");
    }
    let Some(prefix) = root_prefix() else {
        bail!("{why}; install it with: sudo sh -c '{manual}'");
    };
    eprintln!("xtask: {why}; installing {} with apt-get", packages.join(" "));
    let apt = |words: &[&str]| apt_get(prefix, words);
    let install = ["install", "--no-install-recommends"].iter().chain(packages).copied().collect::<Vec<_>>();
    if apt_lists_present() && apt(&install)?.status.success() {
        return Ok(());
    }
    // Lists that are missing or too old to find what they name.
    let update = apt(&["update"])?;
    let done = apt(&install)?;
    if !done.status.success() {
        let said = if update.status.success() { done.stderr } else { update.stderr };
        bail!(
            "{why}, and apt-get failed:\n{}\ninstall it by hand: {manual}",
            String::from_utf8_lossy(&said).trim()
        );
    }
    Ok(())
}

fn apt_get(prefix: &[&str], words: &[&str]) -> io::Result<Output> {
    let mut line: Vec<&str> = prefix.to_vec();
    line.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]);
    line.extend(words);
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).stdin(Stdio::null());
    command.output()
}

/// Brings apt's package lists up to date.
///
/// # Errors
/// It cannot be done here; the message says what to type.
pub fn apt_update(why: &str) -> Result<()> {
    let Some(prefix) = root_prefix() else {
        bail!("{why}; update its lists with: sudo apt-get update");
    };
    eprintln!("xtask: {why}; updating its package lists");
    let output = apt_get(prefix, &["update"])?;
    if !output.status.success() {
        bail!("{why}, and apt-get update failed:\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Makes sure that rustup's toolchain can build for a target.
///
/// # Errors
/// It cannot be added here; the message says what to type.
pub fn rust_target(target: &str) -> Result<()> {
    if has_rust_target(target) {
        return Ok(());
    }
    let manual = format!("rustup target add {target}");
    if find_program("rustup").is_none() {
        bail!(
            "this Rust cannot build for {target} and there is no rustup to add it; install https://rustup.rs, then: {manual}"
        );
    }
    eprintln!("xtask: the Rust target {target} is missing; adding it with rustup");
    let output = Command::new("rustup").args(["target", "add", target]).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("`{manual}` failed:\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Installs rustup's nightly toolchain, with as little in it as there can be.
///
/// # Errors
/// It cannot be had here; the message says what to type.
pub fn rust_nightly() -> Result<()> {
    const WORDS: [&str; 5] = ["toolchain", "install", "nightly", "--profile", "minimal"];
    let manual = format!("rustup {}", WORDS.join(" "));
    if find_program("rustup").is_none() {
        bail!(
            "a nightly Rust is needed and there is no rustup to add it; install https://rustup.rs, then: {manual}"
        );
    }
    eprintln!("xtask: a nightly Rust is missing; adding it with rustup");
    let output = Command::new("rustup").args(WORDS).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("`{manual}` failed:\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Builds and installs a command of cargo's.
///
/// # Errors
/// It cannot be built here; the message says what to type.
pub fn cargo_command(package: &str) -> Result<()> {
    let manual = format!("cargo install {package} --locked");
    eprintln!("xtask: {package} is missing; installing it with `{manual}`");
    let output = crate::host::cargo(&["install", "-q", package, "--locked"]).output()?;
    if !output.status.success() {
        bail!("`{manual}` failed:\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Whether the toolchain in use has this target's core library.
pub fn has_rust_target(target: &str) -> bool {
    let cargo = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    crate::host::output_of(Command::new(cargo).args(["--print", "target-libdir", "--target", target]))
        .is_some_and(|dir| {
            fs::read_dir(dir.trim()).is_ok_and(|mut entries| {
                entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("libcore-")))
            })
        })
}
