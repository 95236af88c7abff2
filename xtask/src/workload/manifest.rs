//! Writes the manifest of a workload: what is to run, with which words, and on which streams.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use litebox_core::manifest::{LogLevel, Manifest, Root, StreamKind};

use super::Workload;
use super::arguments::Program;

/// What Linux gives a program that has no environment of its own to inherit.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the program's streams lead. The default: nowhere special, for a launch by whomever, whenever.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Which of standard input, output and error are terminals.
    pub terminals: [bool; 3],
    /// Columns and rows of the terminal.
    pub window: Option<(u16, u16)>,
    /// Its type.
    pub term: Option<OsString>,
}

impl Session {
    /// That of this process.
    pub fn current() -> Self {
        Self {
            terminals: [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()],
            window: window_size(),
            term: std::env::var_os("TERM"),
        }
    }
}

/// The encoded manifest; `log` lets the kernel write its log, which the host reads.
///
/// # Errors
/// A word cannot be passed to a program.
pub fn manifest(program: &Program, workload: &Workload, session: &Session, log: bool) -> Result<Vec<u8>> {
    let given = |key: &str| program.env.iter().any(|pair| pair.as_bytes().starts_with(key.as_bytes()));
    let mut env: Vec<Vec<u8>> = Vec::new();
    for default in [DEFAULT_PATH, "HOME=/root"] {
        if !given(default.split_inclusive('=').next().unwrap_or_default()) {
            env.push(default.into());
        }
    }
    if session.terminals.contains(&true)
        && !given("TERM=")
        && let Some(term) = &session.term
    {
        env.push([b"TERM=", term.as_bytes()].concat());
    }
    env.extend(program.env.iter().map(|pair| pair.as_bytes().to_vec()));
    let [stdin, stdout, stderr] =
        session.terminals.map(|is| if is { StreamKind::Tty } else { StreamKind::Pipe });
    let manifest = Manifest {
        root: Some(Root { verity: workload.image.root_hash, blocks: workload.image.data_blocks }),
        exec: workload.exec.as_bytes().to_vec(),
        args: program.command.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env,
        cwd: program.workdir.clone().into_bytes(),
        hostname: Vec::new(),
        stdin,
        stdout,
        stderr,
        winsize: session.window,
        log: if log { LogLevel::Info } else { LogLevel::Off },
    };
    manifest.encode().map_err(|error| anyhow::anyhow!("arguments, environment or --workdir: {error}"))
}

nix::ioctl_read_bad!(get_window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);

/// Columns and rows of the first of our standard streams that is a terminal.
fn window_size() -> Option<(u16, u16)> {
    (0..=2).find_map(|fd| {
        let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the pointer is to a `winsize` of ours, which is what TIOCGWINSZ writes; a descriptor that is no terminal,
        // or not open, gives an error.
        unsafe { get_window_size(fd, &mut size) }.ok()?;
        (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
    })
}
