//! Compiles the test programs of `tests/programs` and `examples`, each way a user would link them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::tools::{command, repository, work_dir};

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// `musl-gcc -static`
    StaticMusl,
    /// `gcc -static`
    StaticGlibc,
    /// `gcc -static-pie`
    StaticPie,
    /// `gcc`, which needs a root file system with its libraries
    Dynamic,
}

impl Link {
    fn compiler(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Self::StaticMusl => ("musl-gcc", "musl-tools", &["-static"]),
            Self::StaticGlibc => ("gcc", "gcc", &["-static"]),
            Self::StaticPie => ("gcc", "gcc", &["-static-pie", "-fPIE"]),
            Self::Dynamic => ("gcc", "gcc", &[]),
        }
    }
}

/// Compiles a C program; the path of the executable, or which compiler is missing.
pub fn c(source: &str, link: Link) -> Result<PathBuf, String> {
    let (compiler, package, flags) = link.compiler();
    command(compiler, package)?;
    made(source, &format!("{link:?}"), |source, output| {
        let mut cc = Command::new(compiler);
        cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11"])
            .args(flags)
            .arg("-o")
            .arg(output)
            .arg(source);
        cc
    })
}

/// Compiles a Rust program with the standard library: static with musl, or dynamic with the host's libc.
pub fn rust(source: &str, link: Link) -> Result<PathBuf, String> {
    let target = match link {
        Link::Dynamic | Link::StaticGlibc => "x86_64-unknown-linux-gnu",
        Link::StaticMusl | Link::StaticPie => "x86_64-unknown-linux-musl",
    };
    // Without rustup the distribution's own standard library has to do.
    let _ = Command::new("rustup").current_dir(repository()).args(["target", "add", target]).output();
    made(source, &format!("{link:?}-rust"), |source, output| {
        let mut rustc = Command::new("rustc");
        rustc.current_dir(repository()).args(["--edition=2024", "-O", "--target", target]);
        if link == Link::StaticGlibc {
            rustc.args(["-C", "target-feature=+crt-static"]);
        }
        rustc.arg("-o").arg(output).arg(source);
        rustc
    })
}

/// Runs the compiler unless its output is newer than the source.
fn made(source: &str, kind: &str, compile: impl Fn(&Path, &Path) -> Command) -> Result<PathBuf, String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let path = ["tests/programs", "examples"].map(|dir| repository().join(dir).join(source));
    let path = path.iter().find(|path| path.exists()).ok_or_else(|| format!("no source {source}"))?;
    let stem = Path::new(source).file_stem().unwrap_or_default();
    let output = work_dir("bin").join(kind).join(stem);
    let newer = |a: &Path, b: &Path| Some(modified(a)? > modified(b)?);
    if newer(&output, path) == Some(true) {
        return Ok(output);
    }
    // Test binaries may run at the same time: compile aside, then rename.
    let aside = work_dir("bin").join(format!("{kind}.{}", std::process::id()));
    std::fs::create_dir_all(work_dir("bin").join(kind)).map_err(|error| error.to_string())?;
    let mut command = compile(path, &aside);
    let result = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    // A missing compiler skips a test; a program that does not compile is a failure.
    assert!(result.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&result.stderr));
    std::fs::rename(&aside, &output).map_err(|error| error.to_string())?;
    Ok(output)
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}
