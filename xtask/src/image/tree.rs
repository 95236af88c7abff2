//! A file tree that is to be packed: nodes with their metadata, and where their contents come from.
//!
//! Invariant: node 0 is the root directory; a hard-linked file is one node with several names; children are sorted by name.

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The longest file name.
pub const NAME_MAX: usize = 255;
/// The longest target of a symbolic link.
pub const LINK_MAX: usize = 4095;

/// Where a file's bytes are.
#[derive(Clone, Debug)]
pub struct Bytes {
    /// A file on the host.
    pub file: PathBuf,
    /// The first byte in it.
    pub offset: u64,
    /// How many.
    pub size: u64,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A regular file.
    File(Bytes),
    /// A directory: names to nodes.
    Directory(BTreeMap<Vec<u8>, usize>),
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A character device: major, minor.
    Character(u32, u32),
    /// A block device: major, minor.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A file's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Attributes {
    /// Permission bits, 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
}

/// A node of the tree.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Node {
    pub kind: Kind,
    pub attributes: Attributes,
}

/// A tree, and a fingerprint that changes when the tree does.
#[derive(Clone, Debug)]
pub struct Tree {
    /// All nodes; the first is the root directory.
    pub nodes: Vec<Node>,
    fingerprint: Sha256,
}

const DIRECTORY: Attributes = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0) };

impl Tree {
    /// An empty tree, whose root has these attributes.
    pub fn new(root: Attributes) -> Tree {
        let nodes = vec![Node { kind: Kind::Directory(BTreeMap::new()), attributes: root }];
        Tree { nodes, fingerprint: Sha256::new() }
    }

    /// Adds words to the fingerprint, unambiguously.
    pub fn note(&mut self, words: &[&[u8]]) {
        for word in words {
            self.fingerprint.update((word.len() as u64).to_le_bytes());
            self.fingerprint.update(word);
        }
    }

    /// The fingerprint of all that was noted.
    pub fn fingerprint(&self) -> String {
        hex(&self.fingerprint.clone().finalize())
    }

    /// Adds a node that has no name yet.
    pub fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Names `node` in directory `parent`; what had the name before has it no more.
    pub fn link(&mut self, parent: usize, name: &[u8], node: usize) -> Result<()> {
        let reserved = [&b""[..], b".", b".."].contains(&name) || name.iter().any(|b| b"/\0".contains(b));
        if reserved || name.len() > NAME_MAX {
            bail!("{:?}: a name that no file can have", OsStr::from_bytes(name));
        }
        match &mut self.nodes[parent].kind {
            Kind::Directory(children) => {
                children.insert(name.to_vec(), node);
                Ok(())
            }
            _ => bail!("{:?}: its parent is no directory", OsStr::from_bytes(name)),
        }
    }

    /// The child of this name.
    pub fn child(&self, parent: usize, name: &[u8]) -> Option<usize> {
        match &self.nodes.get(parent)?.kind {
            Kind::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    /// The directory at `path` (names, no `..`), made where it is missing.
    pub fn directory(&mut self, path: &[&[u8]]) -> Result<usize> {
        let mut at = 0;
        for name in path {
            at = match self.child(at, name) {
                Some(child) => child,
                None => {
                    let child =
                        self.add(Node { kind: Kind::Directory(BTreeMap::new()), attributes: DIRECTORY });
                    self.link(at, name, child)?;
                    child
                }
            };
        }
        Ok(at)
    }

    /// Follows `path` inside the tree, symbolic links included; `None`: it leads nowhere.
    pub fn resolve(&self, path: &[u8]) -> Option<usize> {
        let mut links = 40;
        self.walk(&mut vec![0], path, &mut links)
    }

    fn walk(&self, at: &mut Vec<usize>, path: &[u8], links: &mut u32) -> Option<usize> {
        if path.first() == Some(&b'/') {
            at.truncate(1);
        }
        for name in path.split(|&b| b == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    if at.len() > 1 {
                        at.pop();
                    }
                }
                name => {
                    let child = self.child(*at.last()?, name)?;
                    match &self.nodes[child].kind {
                        Kind::Symlink(target) => {
                            *links = links.checked_sub(1)?;
                            self.walk(at, target, links)?;
                        }
                        _ => at.push(child),
                    }
                }
            }
        }
        at.last().copied()
    }

    /// The nodes that have a name, in the order of their first ones, with their link counts.
    pub fn reachable(&self) -> Vec<(usize, u32)> {
        let mut order = Vec::new();
        let mut place: HashMap<usize, usize> = HashMap::new();
        let mut stack = vec![0];
        let mut visit = |node: usize, order: &mut Vec<(usize, u32)>| {
            let known = place.len();
            let at = *place.entry(node).or_insert(known);
            if at == order.len() {
                order.push((node, 0));
            }
            order[at].1 += 1;
        };
        visit(0, &mut order);
        while let Some(directory) = stack.pop() {
            if let Kind::Directory(children) = &self.nodes[directory].kind {
                for &child in children.values() {
                    visit(child, &mut order);
                }
                stack.extend(
                    children.values().rev().filter(|&&c| matches!(self.nodes[c].kind, Kind::Directory(_))),
                );
            }
        }
        // A directory is also its own `.`, and `..` of each directory in it.
        for (node, links) in &mut order {
            if let Kind::Directory(children) = &self.nodes[*node].kind {
                let below =
                    children.values().filter(|&&c| matches!(self.nodes[c].kind, Kind::Directory(_))).count();
                *links = 2 + below as u32;
            }
        }
        order
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads a directory of the host.
pub fn from_directory(root: &Path) -> Result<Tree> {
    let metadata = fs::metadata(root).with_context(|| format!("{}", root.display()))?;
    let mut tree = Tree::new(attributes(&metadata));
    let mut linked = HashMap::new();
    read_directory(&mut tree, 0, root, &mut linked)?;
    Ok(tree)
}

fn attributes(metadata: &fs::Metadata) -> Attributes {
    Attributes {
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: (metadata.mtime(), metadata.mtime_nsec() as u32),
    }
}

fn read_directory(
    tree: &mut Tree,
    parent: usize,
    path: &Path,
    linked: &mut HashMap<(u64, u64), usize>,
) -> Result<()> {
    let unreadable =
        || format!("cannot read {} (give xtask the right to, or leave it out of the tree)", path.display());
    let mut entries: Vec<_> =
        fs::read_dir(path).with_context(unreadable)?.collect::<Result<_, _>>().with_context(unreadable)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let metadata = fs::symlink_metadata(&path).with_context(|| format!("{}", path.display()))?;
        let mut target = Vec::new();
        let kind = metadata.file_type();
        let number =
            (nix::sys::stat::major(metadata.rdev()) as u32, nix::sys::stat::minor(metadata.rdev()) as u32);
        let kind = if kind.is_dir() {
            Kind::Directory(BTreeMap::new())
        } else if kind.is_symlink() {
            target = fs::read_link(&path)?.as_os_str().as_bytes().to_vec();
            Kind::Symlink(target.clone())
        } else if kind.is_file() {
            Kind::File(Bytes { file: path.clone(), offset: 0, size: metadata.size() })
        } else if kind.is_char_device() {
            Kind::Character(number.0, number.1)
        } else if kind.is_block_device() {
            Kind::Block(number.0, number.1)
        } else if kind.is_fifo() {
            Kind::Fifo
        } else {
            Kind::Socket
        };
        // Everything that could differ when the tree does, without reading the files: a change sets ctime, which nobody can set back.
        let numbers: Vec<u8> = [
            u64::from(metadata.mode()),
            u64::from(metadata.uid()),
            u64::from(metadata.gid()),
            metadata.size(),
            metadata.rdev(),
            metadata.mtime() as u64,
            metadata.mtime_nsec() as u64,
            metadata.ctime() as u64,
            metadata.ctime_nsec() as u64,
            metadata.ino(),
            metadata.dev(),
        ]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
        tree.note(&[path.as_os_str().as_bytes(), &numbers, &target]);
        let directory = metadata.is_dir();
        let key = (metadata.dev(), metadata.ino());
        let node = match linked.get(&key) {
            Some(&node) if !directory => node,
            _ => {
                let node = tree.add(Node { kind, attributes: attributes(&metadata) });
                if metadata.nlink() > 1 {
                    linked.insert(key, node);
                }
                node
            }
        };
        tree.link(parent, entry.file_name().as_bytes(), node)?;
        if directory {
            read_directory(tree, node, &path, linked)?;
        }
    }
    Ok(())
}

/// A file of the host, as a node, with its part of the fingerprint; executable for everybody.
pub fn add_program(tree: &mut Tree, name: &[u8], path: &Path) -> Result<usize> {
    let metadata = fs::metadata(path).with_context(|| format!("{}", path.display()))?;
    let attributes = Attributes { mode: 0o755, ..DIRECTORY };
    let file = path.canonicalize().with_context(|| format!("{}", path.display()))?;
    let numbers: Vec<u8> = [
        metadata.size(),
        metadata.ino(),
        metadata.dev(),
        metadata.mtime() as u64,
        metadata.mtime_nsec() as u64,
        metadata.ctime() as u64,
        metadata.ctime_nsec() as u64,
    ]
    .iter()
    .flat_map(|n| n.to_le_bytes())
    .collect();
    tree.note(&[b"program", name, file.as_os_str().as_bytes(), &numbers]);
    let node =
        tree.add(Node { kind: Kind::File(Bytes { file, offset: 0, size: metadata.size() }), attributes });
    tree.link(0, name, node)?;
    Ok(node)
}
