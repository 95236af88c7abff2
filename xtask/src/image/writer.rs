//! Writes a [`Tree`] as an EROFS image with a dm-verity hash tree behind it (`docs/design.md`, "Workload image").
//!
//! The same tree gives the same bytes: nodes are numbered in the order of their names, and nothing in the image says when or where it
//! was made. Files are streamed and hashed as they are written.

use super::tree::{Bytes, Kind, Node, Tree};
use anyhow::{Context, Result, bail};
use litebox_core::fs::erofs_layout::{
    BLOCK, BLOCK_BITS, DirectoryEntry, ExtendedInode, HASHES_PER_BLOCK, MAGIC, SLOT, SUPERBLOCK_OFFSET,
    Superblock, VeritySuperblock, data_layout, file_type,
};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use zerocopy::IntoBytes;

type Hash = [u8; 32];

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// Blocks of the file system.
    pub data_blocks: u64,
    /// Root of the hash tree.
    pub root_hash: Hash,
}

/// Where a node goes.
struct Place {
    node: usize,
    links: u32,
    /// Byte in the image where its inode begins.
    at: u64,
    size: u64,
    /// First data block; 0 when it has none.
    data: u64,
    inline: bool,
}

/// Counts what was written, in blocks with their hashes.
struct BlockWriter<W> {
    to: W,
    block: Vec<u8>,
    hashes: Vec<Hash>,
}

impl<W: Write> BlockWriter<W> {
    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let len = bytes.len().min(BLOCK - self.block.len());
            self.block.extend_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            if self.block.len() == BLOCK {
                self.hashes.push(Sha256::digest(&self.block).into());
                self.to.write_all(&self.block)?;
                self.block.clear();
            }
        }
        Ok(())
    }

    /// Zeros up to the next block.
    fn pad(&mut self) -> Result<()> {
        if !self.block.is_empty() {
            let zeros = vec![0; BLOCK - self.block.len()];
            self.put(&zeros)?;
        }
        Ok(())
    }

    fn blocks(&self) -> u64 {
        self.hashes.len() as u64
    }
}

fn nid(at: u64) -> u64 {
    at / SLOT
}

fn type_of(kind: &Kind) -> (u8, u32) {
    match kind {
        Kind::File(_) => (file_type::REGULAR, 0o100_000),
        Kind::Directory(_) => (file_type::DIRECTORY, 0o040_000),
        Kind::Symlink(_) => (file_type::SYMLINK, 0o120_000),
        Kind::Character(..) => (file_type::CHARACTER, 0o020_000),
        Kind::Block(..) => (file_type::BLOCK, 0o060_000),
        Kind::Fifo => (file_type::FIFO, 0o010_000),
        Kind::Socket => (file_type::SOCKET, 0o140_000),
    }
}

/// The entries of each block of a directory: name lengths decide how many fit.
fn directory_blocks(names: &[&[u8]]) -> Vec<std::ops::Range<usize>> {
    let mut blocks = Vec::new();
    let (mut first, mut used) = (0, 0);
    for (i, name) in names.iter().enumerate() {
        let size = size_of::<DirectoryEntry>() + name.len();
        if used + size > BLOCK {
            blocks.push(first..i);
            (first, used) = (i, 0);
        }
        used += size;
    }
    blocks.push(first..names.len());
    blocks
}

fn block_size(names: &[&[u8]]) -> usize {
    names.iter().map(|name| size_of::<DirectoryEntry>() + name.len()).sum()
}

fn directory_size(names: &[&[u8]]) -> u64 {
    let blocks = directory_blocks(names);
    let last = blocks.last().map_or(0, |range| block_size(&names[range.clone()]));
    ((blocks.len() - 1) * BLOCK + last) as u64
}

/// A directory's names with their nodes, `.` and `..` included, sorted.
fn entries(tree: &Tree, node: usize, parent: usize) -> Vec<(&[u8], usize)> {
    let Kind::Directory(children) = &tree.nodes[node].kind else { return Vec::new() };
    let mut all: Vec<(&[u8], usize)> =
        children.iter().map(|(name, &child)| (name.as_slice(), child)).collect();
    all.push((b".", node));
    all.push((b"..", parent));
    all.sort();
    all
}

/// Lays everything out: inodes first, then directories, then files.
fn plan(tree: &Tree) -> Result<(Vec<Place>, u64)> {
    let mut places = Vec::new();
    let mut at = (SUPERBLOCK_OFFSET + size_of::<Superblock>()) as u64;
    for (node, links) in tree.reachable() {
        let kind = &tree.nodes[node].kind;
        let (size, inline) = match kind {
            Kind::File(bytes) => (bytes.size, false),
            Kind::Directory(children) => {
                let mut names: Vec<&[u8]> =
                    children.keys().map(Vec::as_slice).chain([&b"."[..], b".."]).collect();
                names.sort();
                (directory_size(&names), false)
            }
            Kind::Symlink(target) => {
                (target.len() as u64, target.len() + size_of::<ExtendedInode>() <= BLOCK)
            }
            _ => (0, false),
        };
        let len = size_of::<ExtendedInode>() as u64 + if inline { size } else { 0 };
        // Neither an inode nor what is stored behind it crosses a block.
        if at % BLOCK as u64 + len > BLOCK as u64 {
            at = at.next_multiple_of(BLOCK as u64);
        }
        places.push(Place { node, links, at, size, data: 0, inline });
        at = (at + len).next_multiple_of(SLOT);
    }
    let mut block = at.div_ceil(BLOCK as u64);
    for directories in [true, false] {
        for place in &mut places {
            let kind = &tree.nodes[place.node].kind;
            let stored = matches!(kind, Kind::File(_) | Kind::Directory(_) | Kind::Symlink(_));
            if stored && !place.inline && place.size > 0 && matches!(kind, Kind::Directory(_)) == directories
            {
                place.data = block;
                block += place.size.div_ceil(BLOCK as u64);
            }
        }
    }
    if block > u64::from(u32::MAX) {
        bail!("the tree is larger than 16 TiB");
    }
    Ok((places, block))
}

fn inode(node: &Node, place: &Place, number: usize) -> ExtendedInode {
    let (_, mode) = type_of(&node.kind);
    let layout = if place.inline { data_layout::FLAT_INLINE } else { data_layout::FLAT_PLAIN };
    let data = match node.kind {
        // `new_encode_dev`.
        Kind::Character(major, minor) | Kind::Block(major, minor) => {
            minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12
        }
        _ => place.data as u32,
    };
    let attributes = &node.attributes;
    ExtendedInode {
        format: (1 | layout << 1).into(),
        mode: ((mode | attributes.mode) as u16).into(),
        size: place.size.into(),
        data: data.into(),
        ino: (number as u32 + 1).into(),
        uid: attributes.uid.into(),
        gid: attributes.gid.into(),
        mtime: (attributes.mtime.0 as u64).into(),
        mtime_ns: attributes.mtime.1.into(),
        nlink: place.links.into(),
        ..ExtendedInode::default()
    }
}

/// Called with bytes done and bytes in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Writes the tree to `path`.
pub fn write(tree: &Tree, path: &Path, progress: Progress<'_>) -> Result<Written> {
    let (places, blocks) = plan(tree)?;
    let by_node: HashMap<usize, &Place> = places.iter().map(|place| (place.node, place)).collect();
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut out =
        BlockWriter { to: BufWriter::with_capacity(1 << 20, file), block: Vec::new(), hashes: Vec::new() };

    let root = places.first().context("a tree without a root")?;
    let superblock = Superblock {
        magic: MAGIC.into(),
        block_bits: BLOCK_BITS,
        root_nid: (nid(root.at) as u16).into(),
        inodes: (places.len() as u64).into(),
        blocks: (blocks as u32).into(),
        ..Superblock::default()
    };
    let mut metadata = vec![0u8; SUPERBLOCK_OFFSET];
    metadata.extend_from_slice(superblock.as_bytes());
    for (number, place) in places.iter().enumerate() {
        let node = &tree.nodes[place.node];
        metadata.resize(place.at as usize, 0);
        metadata.extend_from_slice(inode(node, place, number).as_bytes());
        if let (true, Kind::Symlink(target)) = (place.inline, &node.kind) {
            metadata.extend_from_slice(target);
        }
    }
    out.put(&metadata)?;
    out.pad()?;
    drop(metadata);

    let mut parents = HashMap::from([(0usize, 0usize)]);
    for place in &places {
        if let Kind::Directory(children) = &tree.nodes[place.node].kind {
            parents.extend(children.values().map(|&child| (child, place.node)));
        }
    }
    for place in places.iter().filter(|p| matches!(tree.nodes[p.node].kind, Kind::Directory(_))) {
        let entries = entries(tree, place.node, parents[&place.node]);
        let names: Vec<&[u8]> = entries.iter().map(|(name, _)| *name).collect();
        for range in directory_blocks(&names) {
            let mut offset = range.len() * size_of::<DirectoryEntry>();
            for (name, child) in &entries[range.clone()] {
                let entry = DirectoryEntry {
                    nid: nid(by_node[child].at).into(),
                    name_offset: (offset as u16).into(),
                    file_type: type_of(&tree.nodes[*child].kind).0,
                    reserved: 0,
                };
                out.put(entry.as_bytes())?;
                offset += name.len();
            }
            for name in &names[range] {
                out.put(name)?;
            }
            out.pad()?;
        }
    }
    for place in &places {
        match &tree.nodes[place.node].kind {
            Kind::File(bytes) if bytes.size > 0 => {
                copy(bytes, &mut out)?;
                progress(out.blocks(), blocks);
            }
            Kind::Symlink(target) if !place.inline && !target.is_empty() => out.put(target)?,
            _ => continue,
        }
        out.pad()?;
    }
    if out.blocks() != blocks {
        bail!("a file changed while the tree was packed: run again");
    }
    let root_hash = write_tree(&mut out.to, std::mem::take(&mut out.hashes))?;
    out.to.flush()?;
    Ok(Written { data_blocks: blocks, root_hash })
}

fn copy(bytes: &Bytes, out: &mut BlockWriter<impl Write>) -> Result<()> {
    let name = bytes.file.display();
    let mut file = File::open(&bytes.file).with_context(|| {
        format!("cannot read {name} (give xtask the right to, or leave it out of the tree)")
    })?;
    if bytes.offset > 0 {
        file.seek(SeekFrom::Start(bytes.offset))?;
    }
    let mut left = bytes.size;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        let want = left.min(buffer.len() as u64) as usize;
        let len = file.read(&mut buffer[..want]).with_context(|| format!("cannot read {name}"))?;
        if len == 0 {
            bail!("{name} became shorter while the tree was packed: run again");
        }
        out.put(&buffer[..len])?;
        left -= len as u64;
    }
    Ok(())
}

/// Writes dm-verity's superblock and hash tree, the root's level first; returns the root hash.
pub fn write_tree(out: &mut impl Write, hashes: Vec<Hash>) -> Result<Hash> {
    let data_blocks = hashes.len() as u64;
    let mut algorithm = [0; 32];
    algorithm[..6].copy_from_slice(b"sha256");
    let superblock = VeritySuperblock {
        signature: *b"verity\0\0",
        version: 1.into(),
        hash_type: 1.into(),
        uuid: [0; 16],
        algorithm,
        data_block_size: (BLOCK as u32).into(),
        hash_block_size: (BLOCK as u32).into(),
        data_blocks: data_blocks.into(),
        salt_size: 0.into(),
        padding: [0; 6],
        salt: [0; 256],
        padding2: [0; 168],
    };
    let mut first = superblock.as_bytes().to_vec();
    first.resize(BLOCK, 0);
    out.write_all(&first)?;
    let mut level = hashes;
    let mut levels: Vec<Vec<u8>> = Vec::new();
    while level.len() > 1 {
        let mut bytes = Vec::new();
        let mut above = Vec::new();
        for group in level.chunks(HASHES_PER_BLOCK as usize) {
            let mut block: Vec<u8> = group.concat();
            block.resize(BLOCK, 0);
            above.push(Sha256::digest(&block).into());
            bytes.extend_from_slice(&block);
        }
        levels.push(bytes);
        level = above;
    }
    for bytes in levels.iter().rev() {
        out.write_all(bytes)?;
    }
    level.first().copied().context("an image without a block")
}
