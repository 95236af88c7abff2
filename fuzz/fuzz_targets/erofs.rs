//! Images by a hostile maker: their hash tree is right and what it covers is not (`fs::erofs`), looked at directly and through the
//! writable layer that the workload sees.
#![no_main]

use litebox_core::fs::erofs::Erofs;
use litebox_core::fs::tmpfs::Tmpfs;
use litebox_core::fs::{
    DeviceId, FileType, FsContext, Lower, LowerId, MountTable, NAME_MAX, NewNode, OFlags, OpenFile,
    RenameMode, ResolveFlags, Whence, ops,
};
use litebox_core::mm::Page;
use litebox_fuzz::machine::{host, insert_disk, sparse, without_a_leak};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

litebox_fuzz::target!(litebox_fuzz::seeds::erofs, run);

/// Nodes that are looked at: a directory can be in itself, and an image without end.
const NODES: usize = 48;
const BLOCK: u64 = 4096;

fn run(input: &[u8]) {
    without_a_leak(|| {
        let image = sparse(input);
        let size = image.len() as u64;
        let Ok(erofs) = Erofs::new(insert_disk(image)) else { return };
        assert!(erofs.blocks() <= size / BLOCK);
        walk(&erofs, size);
        through_the_layer(erofs);
    });
}

/// Looks at every node that can be reached.
fn walk(erofs: &Erofs, image: u64) {
    let mut known = HashSet::from([erofs.root()]);
    let mut queue = VecDeque::from([erofs.root()]);
    assert_eq!(erofs.metadata(erofs.root()).map(|m| m.file_type), Ok(FileType::Directory));
    while let Some(id) = queue.pop_front() {
        let Ok(metadata) = erofs.metadata(id) else { continue };
        assert!(metadata.mode <= 0o7777 && metadata.nlink >= 1 && metadata.mtime.nsec < 1_000_000_000);
        assert!(metadata.size < image + BLOCK, "a file that is larger than its image");
        match metadata.file_type {
            FileType::Directory => {
                for child in directory(erofs, id) {
                    if known.len() < NODES && known.insert(child) {
                        queue.push_back(child);
                    }
                }
            }
            FileType::Symlink => {
                if let Ok(target) = erofs.readlink(id) {
                    assert!(target.len() as u64 == metadata.size && target.len() < 4096);
                }
            }
            FileType::Regular => file(erofs, id, metadata.size),
            _ => assert_eq!(metadata.size, 0),
        }
        if metadata.file_type != FileType::Directory {
            assert!(erofs.lookup(id, b"x").is_err() && erofs.readdir(id, &mut |_| {}).is_err());
        }
    }
}

fn directory(erofs: &Erofs, id: LowerId) -> Vec<LowerId> {
    let mut entries: HashMap<Vec<u8>, Vec<LowerId>> = HashMap::new();
    let mut children = Vec::new();
    let listed = erofs.readdir(id, &mut |entry| {
        let name = entry.name;
        assert!((1..=NAME_MAX).contains(&name.len()) && !name.iter().any(|b| b"/\0".contains(b)));
        assert!(name != b"." && name != b"..");
        entries.entry(name.to_vec()).or_default().push(entry.id);
        children.push(entry.id);
    });
    for name in entries.keys().take(NODES) {
        // In an unsorted directory a name may not be found; what is found must be what is listed.
        if let (Ok(()), Ok(Some(found))) = (listed, erofs.lookup(id, name)) {
            assert!(entries[name].contains(&found));
        }
    }
    for name in [&b"a"[..], b"there is none", &[b'z'; NAME_MAX]] {
        if let (Ok(()), Ok(Some(found))) = (listed, erofs.lookup(id, name)) {
            assert!(entries[name].contains(&found));
        }
    }
    children
}

fn file(erofs: &Erofs, id: LowerId, size: u64) {
    let count = size.div_ceil(BLOCK);
    for index in [0, size / BLOCK, count.saturating_sub(1), count, u64::MAX / BLOCK, u64::MAX] {
        let Ok(page) = erofs.page(id, index) else { continue };
        let inside = size.saturating_sub(index.saturating_mul(BLOCK)).min(BLOCK) as usize;
        assert!(bytes(&page)[inside..].iter().all(|&b| b == 0), "bytes beyond the end of a file");
    }
    for wanted in [1, 15, 64] {
        let mut pages = Vec::new();
        if erofs.pages(id, 0, wanted, &mut pages).is_ok() {
            assert!((1..=wanted).contains(&pages.len()));
        }
    }
}

fn bytes(page: &Page) -> [u8; BLOCK as usize] {
    let mut bytes = [0; BLOCK as usize];
    page.read(0, &mut bytes);
    bytes
}

/// What a workload does: lists, follows, reads, changes, removes.
fn through_the_layer(erofs: Erofs) {
    let Ok((fs, root)) = Tmpfs::new(host(), DeviceId::new(0, 20), Some(Arc::new(erofs)), None, 2000) else {
        return;
    };
    let context = FsContext::new(MountTable::new(root, "overlay", "rw", None).root());
    let mut queue = VecDeque::from([b"/".to_vec()]);
    let mut seen = 0;
    while let Some(path) = queue.pop_front() {
        seen += 1;
        let Ok(place) = ops::resolve(&context, &context.cwd, &path, false) else { continue };
        assert_eq!(place.path(&context.root), path, "a place that is not where it was found");
        let Ok(metadata) = place.inode.metadata() else { continue };
        match metadata.file_type {
            FileType::Directory => {
                for name in names(&context, &path) {
                    if seen + queue.len() < NODES && name != b"." && name != b".." {
                        queue.push_back(if path == b"/" {
                            [&b"/"[..], &name].concat()
                        } else {
                            [&path[..], b"/", &name].concat()
                        });
                    }
                }
            }
            FileType::Symlink => {
                let _ = ops::readlink(&place);
                let _ = ops::resolve(&context, &context.cwd, &path, true);
            }
            FileType::Regular => {
                if let Ok(file) = open(&context, &path, OFlags::RDWR) {
                    change(&file, metadata.size);
                }
            }
            _ => {}
        }
        let new = [&path[..], b"/new"].concat();
        let _ = ops::make(&context, &context.cwd, &new, NewNode::Directory, 0o777);
        let _ = ops::rename(&context, (&context.cwd, &new), (&context.cwd, b"/top"), RenameMode::Replace);
        let _ = ops::link(&context, &place, &context.cwd, b"/link");
        if seen % 3 == 0 {
            let directory = metadata.file_type == FileType::Directory;
            let _ = ops::unlink(&context, &context.cwd, &path, directory);
        }
    }
    fs.reclaim(10);
}

fn open(context: &FsContext, path: &[u8], flags: OFlags) -> Result<Arc<OpenFile>, litebox_core::Errno> {
    ops::open(context, &context.cwd, path, flags, 0o644, ResolveFlags::empty())
}

fn names(context: &FsContext, path: &[u8]) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    if let Ok(file) = open(context, path, OFlags::DIRECTORY) {
        let _ = file.readdir(&mut |entry| {
            names.push(entry.name.to_vec());
            names.len() < 4 * NODES
        });
    }
    names
}

fn change(file: &OpenFile, size: u64) {
    let mut buffer = [0xee; 5000];
    for at in [0, size.saturating_sub(100), size] {
        let mut to = &mut buffer[..];
        if let Ok(count) = file.read_at(at, &mut to) {
            assert!(count as u64 <= size.saturating_sub(at));
        }
    }
    if size > 0 && file.write_at(size - 1, &mut &b"xyz"[..]).is_ok() {
        let mut back = [0; 3];
        assert_eq!(file.read_at(size - 1, &mut &mut back[..]), Ok(3));
        assert_eq!(&back, b"xyz");
    }
    let _ = file.seek(0, Whence::Hole);
    let _ = file.file().map(|file| file.truncate(size / 2));
}
