//! One run of one program, described once and executed in the guest, on the host, or in both.
//!
//! The environment is always given in full, so that nothing of the caller's leaks into a comparison. On the host a
//! program of a root file system runs in a mount namespace with that directory as its root (read-only in effect: what
//! the tests write goes to the fresh tmpfs on /tmp), which needs root; a lone ELF simply runs.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::tools::xtask;
use crate::{Outcome, tools};

/// Guests that run at the same time in one test binary.
const PARALLEL: usize = 2;

/// Seconds after which the launcher ends a guest, unless the program says otherwise.
const TIMEOUT: u32 = 60;

/// A program, its files, arguments, environment and input.
#[derive(Clone, Debug)]
pub struct Program {
    rootfs: Option<PathBuf>,
    path: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    workdir: Option<OsString>,
    options: Vec<OsString>,
    stdin: Vec<u8>,
    timeout: u32,
    platform: Option<String>,
}

impl Program {
    /// An ELF file of the host, alone in the guest.
    pub fn elf(path: impl AsRef<Path>) -> Self {
        let env = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/"), ("LC_ALL", "C"), ("TZ", "UTC")];
        Self {
            rootfs: None,
            path: path.as_ref().into(),
            args: Vec::new(),
            env: env.map(|(key, value)| (key.into(), value.into())).into(),
            workdir: None,
            options: Vec::new(),
            stdin: Vec::new(),
            timeout: TIMEOUT,
            platform: None,
        }
    }

    /// A path inside a root file system, which is a directory or a tar file of the host.
    pub fn within(rootfs: impl AsRef<Path>, path: impl AsRef<OsStr>) -> Self {
        Self { rootfs: Some(rootfs.as_ref().into()), ..Self::elf(Path::new(path.as_ref())) }
    }

    /// More arguments, after `argv[0]`.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// One more environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().into(), value.as_ref().into()));
        self
    }

    /// The working directory.
    pub fn workdir(mut self, dir: impl AsRef<OsStr>) -> Self {
        self.workdir = Some(dir.as_ref().into());
        self
    }

    /// Further options of `run-snp`; Linux knows nothing of them.
    pub fn options<S: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.options.extend(options.into_iter().map(|option| option.as_ref().into()));
        self
    }

    /// The bytes on standard input, which ends after them.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Seconds that the guest may take.
    pub fn timeout(mut self, seconds: u32) -> Self {
        self.timeout = seconds;
        self
    }

    /// Runs on this platform, whatever the environment says.
    pub fn on(mut self, platform: &str) -> Self {
        self.platform = Some(platform.into());
        self
    }

    /// The command line that [`guest`](Self::guest) runs, ready for further redirections.
    pub fn command(&self) -> Command {
        let platform = self.platform.clone().unwrap_or_else(tools::platform);
        let mut command = Command::new(xtask());
        command.args(["run-snp", "--platform", &platform, "--timeout", &self.timeout.to_string()]);
        if let Some(rootfs) = &self.rootfs {
            command.arg("--rootfs").arg(rootfs);
        }
        if let Some(dir) = &self.workdir {
            command.arg("--workdir").arg(dir);
        }
        for (key, value) in &self.env {
            command.arg("--env").arg(pair(key, value));
        }
        command.args(&self.options).arg(&self.path).args(&self.args);
        command
    }

    /// Runs in the guest, through the launcher.
    ///
    /// What the launcher itself says on stderr is part of the outcome, but for its first line, which says what platform it is.
    pub fn guest(&self) -> Outcome {
        if tools::oracle_only() {
            return self.host();
        }
        tools::prepare();
        let _slot = Slot::take();
        let mut outcome = feed(self.command(), &self.stdin);
        outcome.forget_platform();
        outcome
    }

    /// Runs on this machine, with a fresh /tmp where this process may mount one.
    pub fn host(&self) -> Outcome {
        let workdir = self.workdir.as_deref().unwrap_or("/".as_ref());
        let root = self.rootfs.as_deref().unwrap_or(Path::new("/"));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "/bin/sh", "-ec", ENTER, "sh"]).arg(root);
        if self.rootfs.is_none() && !tools::may_mount() {
            command = Command::new("env");
            command.arg(joined("--chdir=", workdir)).arg("-i");
            command.args(self.env.iter().map(|(key, value)| pair(key, value)));
        } else {
            command.args(["env", "-i"]).args(self.env.iter().map(|(key, value)| pair(key, value)));
            command.arg("/usr/bin/unshare").arg(joined("--root=", root.as_os_str()));
            command.arg(joined("--wd=", workdir)).arg("--");
            command.env(LONE, if self.rootfs.is_none() { self.path.as_os_str() } else { OsStr::new("") });
        }
        command.arg(&self.path).args(&self.args);
        feed(command, &self.stdin)
    }

    /// `Ok` when guest and host agree in every byte of output and in the status.
    ///
    /// # Errors
    /// The difference, or that the host could not run it at all, which is no oracle.
    pub fn compare(&self) -> Result<(), String> {
        let host = self.host();
        let refusal = b"unshare: failed to execute";
        if host.status == 127 && host.stderr.windows(refusal.len()).any(|window| window == refusal) {
            return Err(format!("the host cannot run it{}", host.tail()));
        }
        self.guest().same_as(&host)
    }

    /// The command as a person would type it, for messages.
    pub fn line(&self) -> String {
        let mut line = self.path.to_string_lossy().into_owned();
        for arg in &self.args {
            line.push(' ');
            let text = arg.to_string_lossy();
            let plain = !text.is_empty()
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,+%@".contains(c));
            line.push_str(&if plain { text.into_owned() } else { format!("{text:?}") });
        }
        line
    }
}

/// In the environment of [`ENTER`]: the program, where it has no root file system of its own.
const LONE: &str = "E2E_LONE_PROGRAM";

/// Mounts what the guest kernel mounts by itself, then becomes the rest of its arguments. A lone program that lies in the host's /tmp, since the
/// clone does, is shown in the fresh one too.
const ENTER: &str = r#"
root=$1; shift
case $E2E_LONE_PROGRAM in /tmp/*) exec 9<"$E2E_LONE_PROGRAM" ;; esac
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
case $E2E_LONE_PROGRAM in /tmp/*)
	mkdir -p "${E2E_LONE_PROGRAM%/*}"
	: >"$E2E_LONE_PROGRAM"
	mount --no-canonicalize --bind /proc/self/fd/9 "$E2E_LONE_PROGRAM"
	exec 9<&- ;;
esac
if [ "$root" != / ]; then
	mount -t proc proc "$root/proc"
	mount --rbind /dev "$root/dev"
fi
exec "$@"
"#;

fn pair(key: &OsStr, value: &OsStr) -> OsString {
    let mut pair = key.to_os_string();
    pair.push("=");
    pair.push(value);
    pair
}

fn joined(prefix: &str, value: &OsStr) -> OsString {
    let mut joined = OsString::from(prefix);
    joined.push(value);
    joined
}

/// Runs a command to its end with these bytes as its input, reading both outputs meanwhile.
pub fn feed(mut command: Command, stdin: &[u8]) -> Outcome {
    let begin = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut pipe = child.stdin.take();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A program may end without having read its input.
            let _ = pipe.as_mut().map(|pipe| pipe.write_all(stdin));
        });
        let output = child.wait_with_output().expect("wait for the child");
        Outcome::new(output, begin.elapsed())
    })
}

static RUNNING: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// Permission to run one guest; given back on drop.
pub struct Slot;

impl Slot {
    /// Waits for it.
    pub fn take() -> Self {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= PARALLEL {
            running = FREED.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        Self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREED.notify_one();
    }
}
