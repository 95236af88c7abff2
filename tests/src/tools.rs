//! What the tests need from this machine: the launcher, compilers, root, and a place to keep what they make.

use std::fmt::Display;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Says one line past the test harness, which hides the output of tests that pass.
pub fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "e2e: {line}");
}

/// The top of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the repository")
}

/// Cargo's target directory.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), |dir| repository().join(dir))
}

/// A directory for what the tests fetch and make, kept between runs.
pub fn work_dir(name: &str) -> PathBuf {
    let dir = target_dir().join("e2e").join(name);
    std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    dir
}

/// Whether `E2E_ORACLE=1` asks for Linux in the guest's place, which checks the tests' own expectations.
pub fn oracle_only() -> bool {
    std::env::var_os("E2E_ORACLE").is_some_and(|value| value == "1")
}

/// The launcher's binary, built once per test run; `E2E_XTASK` names another.
///
/// # Panics
/// When it does not build.
pub fn xtask() -> &'static Path {
    static XTASK: OnceLock<PathBuf> = OnceLock::new();
    XTASK.get_or_init(|| {
        if let Some(path) = std::env::var_os("E2E_XTASK") {
            return path.into();
        }
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(repository()).args(["build", "--quiet", "--release", "--package", "xtask"]);
        assert!(cargo.status().is_ok_and(|status| status.success()), "{cargo:?} failed");
        target_dir().join("release/xtask")
    })
}

/// Lets the launcher do what it does only once (build the kernel, install QEMU) before anything is timed or compared.
pub fn prepare() {
    static READY: OnceLock<()> = OnceLock::new();
    READY.get_or_init(|| {
        if let Ok(hello) = crate::build::c("hello.c", crate::build::Link::StaticMusl) {
            let mut command = Command::new(xtask());
            command.args(["run-snp", "--platform", &platform(), "--timeout", "600"]).arg(hello);
            let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        }
    });
}

/// Whether this process may do what root may.
pub fn is_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| capture("id", &["-u"]).is_ok_and(|uid| uid.trim() == "0"))
}

/// Whether this process may mount something that only it sees: root, and not in a container or chroot that forbids it.
pub fn may_mount() -> bool {
    static MOUNT: OnceLock<bool> = OnceLock::new();
    *MOUNT.get_or_init(|| capture("unshare", &["--mount", "--propagation", "private", "true"]).is_ok())
}

/// The platform that programs run on: `E2E_PLATFORM`, else the plain VM.
pub fn platform() -> String {
    std::env::var("E2E_PLATFORM").unwrap_or_else(|_| "vm".into())
}

/// Runs a tool of the host; its output, or why it failed.
pub fn capture(tool: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(tool).args(args).output().map_err(|error| format!("{tool}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{tool} {args:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// Makes sure that a command is there, installing its Debian package when that is allowed.
pub fn command(tool: &str, package: &str) -> Result<(), String> {
    static APT: Mutex<()> = Mutex::new(());
    let _one_at_a_time = APT.lock().unwrap_or_else(PoisonError::into_inner);
    let found = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
    };
    if found() {
        return Ok(());
    }
    if !is_root() {
        return Err(format!("{tool} is missing: sudo apt-get install {package}"));
    }
    note(format!("installing {package} for {tool}"));
    let install = |args: &[&str]| capture("apt-get", args).map(drop);
    let wanted = ["install", "--yes", "--no-install-recommends", package];
    install(&wanted).or_else(|_| install(&["update"]).and_then(|()| install(&wanted)))?;
    if found() { Ok(()) } else { Err(format!("{package} has no {tool}")) }
}

/// Unwraps what a test needs, or says why the test is skipped.
pub fn needs<T>(test: &str, what: Result<T, String>) -> Option<T> {
    what.map_err(|why| note(format!("{test} skipped: {why}"))).ok()
}
