//! tar archives given as root file systems (`xtask/src/image/archive.rs`): what is read is a tree, without a loop, with names that
//! a file can have and with contents that lie in the archive.
#![no_main]

use litebox_fuzz::image::archive;
use litebox_fuzz::image::tree::{Attributes, Kind, NAME_MAX, Tree};
use std::collections::HashSet;
use std::path::Path;

litebox_fuzz::target!(litebox_fuzz::seeds::archive, run);

fn run(bytes: &[u8]) {
    let mut tree = Tree::new(Attributes { mode: 0o755, ..Attributes::default() });
    // What was read before an error is no tree to be packed, but must hold together all the same.
    let whole = archive::read(&mut tree, bytes, Path::new("/archive")).is_ok();
    let mut open = HashSet::new();
    let mut stack = vec![(0usize, false)];
    let mut directories = HashSet::new();
    while let Some((at, done)) = stack.pop() {
        if done {
            open.remove(&at);
            continue;
        }
        assert!(open.insert(at), "a directory is in itself");
        stack.push((at, true));
        let Kind::Directory(children) = &tree.nodes[at].kind else {
            unreachable!("only directories are pushed")
        };
        for (name, &child) in children {
            assert!((1..=NAME_MAX).contains(&name.len()) && name != b"." && name != b"..");
            assert!(!name.iter().any(|b| b"/\0".contains(b)), "a name with a slash or NUL in it");
            assert!(tree.nodes[child].attributes.mode <= 0o7777);
            match &tree.nodes[child].kind {
                Kind::Directory(_) => {
                    assert!(directories.insert(child), "a directory with two names");
                    stack.push((child, false));
                }
                Kind::File(file) if whole => {
                    let end = file.offset.checked_add(file.size).expect("an end");
                    assert!(end <= bytes.len() as u64, "contents beyond the archive's end");
                }
                Kind::Symlink(target) => assert!(!target.is_empty() && !target.contains(&0)),
                _ => {}
            }
        }
    }
    if whole {
        assert!(tree.reachable().len() <= tree.nodes.len());
    }
    for path in [&b"/bin/sh"[..], b"a/../b", b"/x/y/z"] {
        let _ = tree.resolve(path);
    }
}
