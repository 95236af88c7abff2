//! Finds the program that was asked for and packs what it runs in.
//!
//! With `--rootfs`, the program is looked for inside it, as the program itself would see the tree (symbolic links lead inside it). What is not there is
//! taken from the host, and put beside the rest at `/NAME`.

pub mod arguments;
pub mod manifest;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::app::{self, Refusal};
use crate::host;
use crate::image::{self, Image, Kind, Tree};
use crate::protocol::status;
use arguments::Program;

/// What is to run, and in what.
#[derive(Debug)]
pub struct Workload {
    /// The image.
    pub image: Image,
    /// The program's path inside it.
    pub exec: OsString,
}

fn failed(error: &anyhow::Error) -> Refusal {
    Refusal { status: status::LAUNCH_FAILED, why: format!("{error:#}") }
}

/// Finds the program and packs it.
///
/// # Errors
/// It is not there, is no program, or cannot be packed.
pub fn resolve(args: &Program) -> Result<Workload, Refusal> {
    let directory = host::cache_dir().join("images");
    if let Some(rootfs) = args.rootfs.as_deref().filter(|path| !path.exists()) {
        return Err(failed(&anyhow::anyhow!("--rootfs {}: no such directory or archive", rootfs.display())));
    }
    let mut tree = image::tree(args.rootfs.as_deref(), &directory).map_err(|error| failed(&error))?;
    let inside = if args.rootfs.is_some() {
        find(&tree, args.app().as_bytes(), args.workdir.as_bytes())
    } else {
        None
    };
    let exec = match inside {
        Some(path) => path,
        None => add_from_host(&mut tree, args)?,
    };
    let image = image::pack(tree, &directory).map_err(|error| failed(&error))?;
    Ok(Workload { image, exec: OsString::from_vec(exec) })
}

/// Where a bare name is looked for.
const SEARCH: [&[u8]; 6] =
    [b"/usr/local/sbin", b"/usr/local/bin", b"/usr/sbin", b"/usr/bin", b"/sbin", b"/bin"];

/// The absolute path of `app` inside the tree.
fn find(tree: &Tree, app: &[u8], workdir: &[u8]) -> Option<Vec<u8>> {
    let join = |directory: &[u8]| [directory, b"/", app].concat();
    let candidates: Vec<Vec<u8>> = if app.starts_with(b"/") {
        vec![app.to_vec()]
    } else if app.contains(&b'/') {
        vec![join(workdir)]
    } else {
        SEARCH.iter().map(|directory| join(directory)).collect()
    };
    candidates.into_iter().find(|path| {
        // A directory of the name is found too: the guest says what is wrong with it.
        tree.resolve(path)
            .is_some_and(|node| matches!(tree.nodes[node].kind, Kind::File(_)) || app.contains(&b'/'))
    })
}

/// Puts the host's file at `/NAME`.
fn add_from_host(tree: &mut Tree, args: &Program) -> Result<Vec<u8>, Refusal> {
    let app = Path::new(args.app());
    if args.app().as_bytes().starts_with(b"-") && !app.exists() {
        let why = format!("unknown option {} (a program of that name is given as ./{0})", app.display());
        return Err(Refusal { status: status::LAUNCH_FAILED, why });
    }
    if let (Some(rootfs), false) = (&args.rootfs, app.exists()) {
        let why = format!("{}: neither in {} nor on this host", app.display(), rootfs.display());
        return Err(Refusal { status: status::NOT_FOUND, why });
    }
    app::check(app, args.rootfs.is_some())?;
    let name = app.file_name().unwrap_or_else(|| OsStr::new("app"));
    if tree.child(0, name.as_bytes()).is_some() {
        let why = format!(
            "/{} is in the root file system already, and {} is not it",
            name.display(),
            app.display()
        );
        return Err(Refusal { status: status::LAUNCH_FAILED, why });
    }
    image::add_program(tree, name.as_bytes(), app).map_err(|error| failed(&error))?;
    Ok([b"/", name.as_bytes()].concat())
}

/// A copy of the image with one byte changed, for tests of what the guest makes of it; a negative offset counts from the end.
///
/// # Errors
/// It cannot be made, or has no such byte.
pub fn tamper(path: &Path, offset: i64) -> Result<PathBuf> {
    let copy = path.with_extension(format!("tampered-{}.tmp", std::process::id()));
    fs::copy(path, &copy).with_context(|| format!("cannot copy {}", path.display()))?;
    let mut file = fs::OpenOptions::new().read(true).write(true).open(&copy)?;
    let len = file.metadata()?.len();
    let at = if offset < 0 { len.checked_sub(offset.unsigned_abs()) } else { Some(offset.unsigned_abs()) };
    let Some(at) = at.filter(|&at| at < len) else { bail!("the image has only {len} bytes") };
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&[byte[0] ^ 1])?;
    Ok(copy)
}
