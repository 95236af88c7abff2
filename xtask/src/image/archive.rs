//! Reads a tar archive into a [`Tree`], without unpacking it: files stay where they are in the archive.
//!
//! A name that leads out of the tree (`..`) is refused. What comes later in an archive replaces what came before, as tar has it.

use super::tree::{Attributes, Bytes, Kind, LINK_MAX, Node, Tree};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tar::EntryType;

/// Reads the archive at `path`; a gzip-compressed one is decompressed into `scratch` first.
pub fn from_tar(path: &Path, scratch: &Path) -> Result<Tree> {
    let metadata = fs::metadata(path).with_context(|| format!("{}", path.display()))?;
    let plain = decompressed(path, scratch)?;
    let mut tree = Tree::new(Attributes { mode: 0o755, ..Attributes::default() });
    let numbers: Vec<u8> = [
        metadata.size(),
        metadata.ino(),
        metadata.mtime() as u64,
        metadata.mtime_nsec() as u64,
        metadata.ctime() as u64,
        metadata.ctime_nsec() as u64,
    ]
    .iter()
    .flat_map(|n| n.to_le_bytes())
    .collect();
    let name = path.canonicalize()?;
    tree.note(&[b"tar", name.as_os_str().as_encoded_bytes(), &numbers]);
    let from = BufReader::new(File::open(&plain)?);
    read(&mut tree, from, &plain)
        .with_context(|| format!("{} is no tar archive that can be read", path.display()))?;
    Ok(tree)
}

/// Adds what an uncompressed archive, whose bytes come from `from` and are also in the file `plain`, holds.
pub fn read(tree: &mut Tree, from: impl Read, plain: &Path) -> Result<()> {
    for entry in tar::Archive::new(from).entries()? {
        add(tree, &entry.map_err(printable)?, plain)?;
    }
    Ok(())
}

/// The library quotes what it cannot read; what may be any file is not for a terminal.
fn printable(error: io::Error) -> io::Error {
    let text: String = error.to_string().chars().take(120).flat_map(char::escape_debug).collect();
    io::Error::new(error.kind(), text)
}

/// The archive itself, or a decompressed copy.
fn decompressed(path: &Path, scratch: &Path) -> Result<PathBuf> {
    let mut head = [0; 6];
    let mut file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let len = file.read(&mut head)?;
    match &head[..len] {
        [0x1f, 0x8b, ..] => {
            let to = scratch.join(format!("tar-{}.tmp", std::process::id()));
            let mut plain = File::create(&to)?;
            let mut decoder = flate2::read::MultiGzDecoder::new(BufReader::new(File::open(path)?));
            io::copy(&mut decoder, &mut plain)
                .with_context(|| format!("cannot decompress {}", path.display()))?;
            Ok(to)
        }
        [0xfd, b'7', b'z', ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [b'B', b'Z', b'h', ..] => {
            bail!(
                "{}: compressed by xz, zstd or bzip2; decompress it first (gzip and plain tar are read)",
                path.display()
            )
        }
        _ => Ok(path.to_path_buf()),
    }
}

/// The parts of a name; `.` and leading slashes are left out.
fn parts(name: &[u8]) -> Result<Vec<&[u8]>> {
    let parts: Vec<&[u8]> =
        name.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        bail!("{:?} leads out of the tree", String::from_utf8_lossy(name));
    }
    Ok(parts)
}

fn add<R: Read>(tree: &mut Tree, entry: &tar::Entry<'_, R>, plain: &Path) -> Result<()> {
    let header = entry.header();
    let path = entry.path_bytes().into_owned();
    let parts = parts(&path)?;
    let attributes = Attributes {
        mode: header.mode()? & 0o7777,
        uid: header.uid()? as u32,
        gid: header.gid()? as u32,
        mtime: (header.mtime()? as i64, 0),
    };
    let target = || entry.link_name_bytes().map(|name| name.into_owned()).context("a link without a target");
    let device = || -> Result<(u32, u32)> {
        Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
    };
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
            if header.entry_type() != EntryType::GNUSparse =>
        {
            Kind::File(Bytes {
                file: plain.to_path_buf(),
                offset: entry.raw_file_position(),
                size: entry.size(),
            })
        }
        EntryType::Directory => Kind::Directory(BTreeMap::new()),
        EntryType::Symlink => {
            let to = target()?;
            if to.is_empty() || to.len() > LINK_MAX || to.contains(&0) {
                bail!("{:?}: a symbolic link to what no path can be", String::from_utf8_lossy(&path));
            }
            Kind::Symlink(to)
        }
        EntryType::Link => {
            let to = target()?;
            let node = self::parts(&to)?.iter().try_fold(0, |at, name| tree.child(at, name));
            let node = node.with_context(|| {
                format!("hard link to {:?}, which is not there", String::from_utf8_lossy(&to))
            })?;
            // Linux has none either: a directory could be in itself, and a walk without end.
            if matches!(tree.nodes[node].kind, Kind::Directory(_)) {
                bail!("hard link to {:?}, which is a directory", String::from_utf8_lossy(&to));
            }
            let Some((name, parents)) = parts.split_last() else { bail!("a hard link without a name") };
            let parent = tree.directory(parents)?;
            return tree.link(parent, name, node);
        }
        EntryType::Char => device().map(|(major, minor)| Kind::Character(major, minor))?,
        EntryType::Block => device().map(|(major, minor)| Kind::Block(major, minor))?,
        EntryType::Fifo => Kind::Fifo,
        EntryType::XGlobalHeader => return Ok(()),
        EntryType::GNUSparse => {
            bail!("{:?}: sparse files in archives are not supported", String::from_utf8_lossy(&path))
        }
        other => bail!("{:?}: an entry of type {other:?}", String::from_utf8_lossy(&path)),
    };
    let Some((name, parents)) = parts.split_last() else {
        // The root itself.
        tree.nodes[0].attributes = attributes;
        return Ok(());
    };
    let parent = tree.directory(parents)?;
    if let (Kind::Directory(_), Some(existing)) = (&kind, tree.child(parent, name))
        && matches!(tree.nodes[existing].kind, Kind::Directory(_))
    {
        tree.nodes[existing].attributes = attributes;
        return Ok(());
    }
    let node = tree.add(Node { kind, attributes });
    tree.link(parent, name, node)
}
