//! Paths of all kinds through a tree that changes (`fs::path`, `fs::ops` on tmpfs): a place that was found has the path that leads
//! to it, a confined walk stays inside, and the tree remains one.
#![no_main]

use litebox_core::Errno;
use litebox_core::fs::tmpfs::Tmpfs;
use litebox_core::fs::{
    Automount, Credentials, DeviceId, FileType, FsContext, Inode, Location, Mount, MountTable, NewNode,
    OFlags, OpenFile, RenameMode, ResolveFlags, ops,
};
use litebox_fuzz::Input;
use litebox_fuzz::machine::{host, without_a_leak};
use std::collections::HashSet;
use std::sync::Arc;

litebox_fuzz::target!(litebox_fuzz::seeds::paths, run);

/// Operations of one input.
const STEPS: usize = 64;

fn run(bytes: &[u8]) {
    without_a_leak(|| {
        let mut input = Input::new(bytes);
        let file_system =
            |minor| Tmpfs::new(host(), DeviceId::new(0, minor), None, None, 64).expect("a file system");
        let ((_keep, root), (_also, other)) = (file_system(20), file_system(21));
        let table = MountTable::new(root, "tmpfs", "rw", Some(Box::new(OverM(other))));
        let mut context = FsContext::new(table.root());
        let mut kept: Vec<Arc<OpenFile>> = Vec::new();
        for _ in 0..STEPS {
            if input.is_empty() {
                break;
            }
            step(&mut context, &mut input, &mut kept);
        }
        check_tree(&context);
    });
}

/// One file system over the directory `m`.
struct OverM(Arc<dyn Inode>);

impl Automount for OverM {
    fn concerns(&self, name: &[u8]) -> bool {
        name == b"m"
    }

    fn mounts(&self, root: &Location) -> Result<Vec<Arc<Mount>>, Errno> {
        let inode = root.inode.create(b"m", NewNode::Directory, 0o777, &Credentials::default())?;
        let over = Location { mount: root.mount.clone(), inode };
        Ok(vec![Mount::new(2, over, self.0.clone(), "tmpfs", "rw")?])
    }
}

/// A path of a few parts, each chosen by a byte.
fn path(input: &mut Input<'_>) -> Vec<u8> {
    const PARTS: [&[u8]; 15] = [
        b"a", b"b", b"c", b"l", b"k", b".", b"..", b"/", b"//", b"a/", b"m/", b"/m", b"../..", b"/a/b",
        b"\xff\n",
    ];
    let mut path = Vec::new();
    for _ in 0..input.u8() % 6 {
        let choice = input.u8();
        if path.last().is_some_and(|&b| b != b'/') && choice & 0x80 == 0 {
            path.push(b'/');
        }
        match choice & 0x7f {
            0x7f => path.extend_from_slice(&[b'n'; 255]),
            0x7e => path.extend_from_slice(&[b'n'; 256]),
            choice => path.extend_from_slice(PARTS[usize::from(choice) % PARTS.len()]),
        }
    }
    path
}

fn step(context: &mut FsContext, input: &mut Input<'_>, kept: &mut Vec<Arc<OpenFile>>) {
    let action = input.u8();
    let first = path(input);
    let cwd = &context.cwd.clone();
    match action % 14 {
        0 => {
            let _ = ops::make(context, cwd, &first, NewNode::Directory, 0o777);
        }
        1 => {
            let _ = ops::make(context, cwd, &first, NewNode::Symlink(&path(input)), 0o777);
        }
        2 => {
            let _ = ops::make(context, cwd, &first, NewNode::Regular, 0o666);
        }
        3 => {
            let _ = ops::unlink(context, cwd, &first, input.u8() & 1 == 1);
        }
        4 | 5 => {
            let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange]
                [usize::from(input.u8()) % 3];
            let _ = ops::rename(context, (cwd, &first), (cwd, &path(input)), mode);
        }
        6 => {
            if let Ok(old) = ops::resolve(context, cwd, &first, input.u8() & 1 == 1) {
                let _ = ops::link(context, &old, cwd, &path(input));
            }
        }
        7 => {
            if let Ok(place) = ops::resolve(context, cwd, &first, true)
                && place.inode.file_type() == FileType::Directory
            {
                context.cwd = place;
            }
        }
        8 => {
            let flags = OFlags::from_bits_retain(input.u32());
            if let Ok(file) = ops::open(context, cwd, &first, flags, 0o644, ResolveFlags::empty()) {
                kept.push(file);
            }
        }
        9 | 10 => confined(context, cwd, &first, input.u8()),
        11 => drop(kept.pop()),
        _ => found(context, cwd, &first),
    }
}

/// What is found has a path that leads to it, and a plain one.
fn found(context: &FsContext, cwd: &Location, name: &[u8]) {
    for follow in [true, false] {
        let Ok(place) = ops::resolve(context, cwd, name, follow) else { continue };
        if follow {
            assert!(place.inode.file_type() != FileType::Symlink, "a link was not followed");
        }
        // Without a path when it was reached through a directory that was removed.
        let Ok(path) = place.path_or_deleted(&context.root) else { continue };
        assert!(path.starts_with(b"/") && (path == b"/" || !path.ends_with(b"/")));
        let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && part.len() <= 255;
        assert!(path == b"/" || path[1..].split(|&b| b == b'/').all(plain));
        if path.len() < 4096 {
            let again = ops::resolve(context, &context.root, &path, false).expect("its own path leads to it");
            assert!(again.is(&place));
        }
    }
}

/// With `RESOLVE_BENEATH` and `RESOLVE_IN_ROOT` nothing outside the base is reached, `openat2(2)`.
fn confined(context: &FsContext, base: &Location, name: &[u8], choice: u8) {
    let confine = if choice & 1 == 1 { ResolveFlags::BENEATH } else { ResolveFlags::IN_ROOT };
    let flags = confine | ResolveFlags::from_bits_truncate(u64::from(choice >> 1) & 7);
    let Ok(file) = ops::open(context, base, name, OFlags::PATH, 0, flags) else { return };
    let place = file.location().expect("a place");
    if flags.contains(ResolveFlags::NO_XDEV) {
        assert!(Arc::ptr_eq(&place.mount, &base.mount), "another file system");
    }
    let mut at = place.clone();
    for _ in 0..10_000 {
        if at.is(base) {
            return;
        }
        if Arc::ptr_eq(&at.inode, &at.mount.root) {
            at = at.mount.over().expect("a confined walk left its base");
        } else {
            // Removed meanwhile: by nobody, there is one thread; but the base itself may be.
            let Some((parent, _)) = at.inode.parent() else { return };
            at.inode = parent;
        }
    }
    panic!("a path without an end");
}

/// The whole tree: each directory has one name, and knows where it is.
fn check_tree(context: &FsContext) {
    let mut seen = HashSet::new();
    let mut stack = vec![context.root.inode.clone()];
    while let Some(directory) = stack.pop() {
        assert!(
            seen.insert(Arc::as_ptr(&directory).cast::<()>()),
            "a directory with two names, or in itself"
        );
        let metadata = directory.metadata().expect("in memory");
        let mut below = 0;
        let mut names = Vec::new();
        let file = directory.clone().open(OFlags::DIRECTORY).expect("a directory");
        file.readdir(0, &mut |entry| {
            if entry.name != b"." && entry.name != b".." {
                names.push((entry.name.to_vec(), entry.file_type));
            }
            true
        })
        .expect("a directory");
        for (name, file_type) in names {
            let child = directory.lookup(&name).expect("what is listed is there");
            assert_eq!(child.file_type(), file_type);
            if file_type == FileType::Directory {
                below += 1;
                let (parent, its_name) = child.parent().expect("a directory with a name");
                assert!(Arc::ptr_eq(&parent, &directory) && its_name == name);
                stack.push(child);
            } else {
                assert!(child.metadata().expect("in memory").nlink >= 1);
            }
        }
        assert_eq!(metadata.nlink, 2 + below, "links of a directory");
        assert_eq!(directory.lookup(b"nothing of that name").err(), Some(Errno::ENOENT));
    }
}
