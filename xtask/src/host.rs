//! What is known about this host, and the small facts remembered about it in `target/litebox/`.
//!
//! Invariant: a remembered fact is only believed in the boot that it was measured in, and losing all of them costs
//! time but never correctness.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or(manifest.clone(), Path::to_path_buf)
}

/// Cargo's output directory.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// Where the launcher keeps packed images and remembered facts.
pub fn cache_dir() -> PathBuf {
    target_dir().join("litebox")
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The fact remembered under this name in this boot of the host, for this `subject`.
pub fn recall(name: &str, subject: &str) -> Option<String> {
    let text = fs::read_to_string(cache_dir().join(name)).ok()?;
    text.strip_prefix(&format!("{} {subject}\n", boot_id())).map(str::to_owned)
}

/// Remembers a fact.
pub fn remember(name: &str, subject: &str, fact: &str) {
    let dir = cache_dir();
    let temporary = dir.join(format!("{name}.{}", std::process::id()));
    // Where nothing can be written nothing is remembered, and the next run measures again.
    let _ = fs::create_dir_all(&dir)
        .and_then(|()| fs::write(&temporary, format!("{} {subject}\n{fact}", boot_id())))
        .and_then(|()| fs::rename(&temporary, dir.join(name)));
}

/// Looks for a program along `PATH`, and where an ordinary user's `PATH` may not lead.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/usr/local/bin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// What a program prints on stdout, if it runs and succeeds.
pub fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Cargo, of the toolchain that built this, in the workspace.
pub fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).args(words).stdin(Stdio::null());
    command
}

/// The same with the nightly toolchain: through rustup's proxy, since `$CARGO` is one toolchain's own.
pub fn nightly(words: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(workspace()).arg("+nightly").args(words).stdin(Stdio::null());
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
}

/// The frequency of the time-stamp counter, which is also the guest's; nothing on a CPU that has none.
pub fn tsc_khz() -> Option<u64> {
    const NAME: &str = "tsc-khz";
    if let Some(khz) = recall(NAME, "").and_then(|text| text.parse().ok()) {
        return Some(khz);
    }
    let khz = measure_tsc_khz()?;
    remember(NAME, "", &khz.to_string());
    Some(khz)
}

#[cfg(target_arch = "x86_64")]
fn measure_tsc_khz() -> Option<u64> {
    // A pair is as good as the time between its two readings is short: take the best of a few.
    let pair = || {
        (0..16)
            .map(|_| {
                // SAFETY: RDTSC has no preconditions; Linux leaves it enabled for user space.
                let before = unsafe { core::arch::x86_64::_rdtsc() };
                let time = Instant::now();
                // SAFETY: as above.
                let after = unsafe { core::arch::x86_64::_rdtsc() };
                (after.wrapping_sub(before), before.wrapping_add(after.wrapping_sub(before) / 2), time)
            })
            .min_by_key(|(width, ..)| *width)
    };
    let (_, tsc0, time0) = pair()?;
    std::thread::sleep(Duration::from_millis(25));
    let (_, tsc1, time1) = pair()?;
    let nanoseconds = time1.duration_since(time0).as_nanos();
    let khz = u128::from(tsc1.wrapping_sub(tsc0)).checked_mul(1_000_000)?.checked_div(nanoseconds)?;
    u64::try_from(khz).ok().filter(|khz| (100_000..20_000_000).contains(khz))
}

#[cfg(not(target_arch = "x86_64"))]
fn measure_tsc_khz() -> Option<u64> {
    None
}
