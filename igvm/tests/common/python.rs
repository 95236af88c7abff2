//! A Python with the package `sev-snp-measure`, in an environment of its own under `target/`.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PACKAGE: &str = "sev-snp-measure==0.0.13";

/// A Python that has the package, or why there is none. Tests run at once, in one process or several: one of them installs it.
fn install() -> Result<PathBuf, String> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sev-snp-measure");
    let lock = File::create(directory.with_extension("lock"));
    let _held = lock.and_then(|file| file.lock().map(|()| file)).map_err(|error| error.to_string())?;
    let python = directory.join("bin/python3");
    let run = |command: &mut Command| -> Result<(), String> {
        let output =
            command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    };
    let mut import = Command::new(&python);
    import.args(["-c", "import sevsnpmeasure.gctx"]);
    if run(&mut import).is_err() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
        run(Command::new(&python)
            .args("-m pip -q install --timeout 10 --retries 1".split(' '))
            .arg(PACKAGE))?;
        run(&mut import)?;
    }
    Ok(python)
}

/// The same, and says why a test skips. None skips in CI, which installs what it takes.
pub fn find() -> Option<PathBuf> {
    let skip = |reason| {
        assert!(std::env::var_os("CI").is_none(), "{PACKAGE} is not to be had: {reason}");
        println!("SKIPPED, since {PACKAGE} is not to be had: {reason}");
    };
    install().map_err(skip).ok()
}

/// What a script prints that is given this input.
pub fn run(python: &Path, script: &str, input: &str) -> String {
    let mut child = Command::new(python)
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the Python that imported the package");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}
