//! What is packed is what the guest reads; what is changed on the way, it refuses.

use super::tree::{self, Attributes, Bytes, Kind, Node, Tree};
use super::*;
use litebox_core::fs::erofs::Erofs;
use litebox_core::fs::verity::{OnTamper, VerityDevice};
use litebox_core::fs::{FileType, Lower, LowerId};
use litebox_core::platform::hosted::Hosted;
use litebox_core::platform::{Memory, Platform};
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Unwinds when the image is not what it should be.
struct Unwind;

impl OnTamper for Unwind {
    fn tampered(&self, what: fmt::Arguments<'_>) -> ! {
        panic!("tampered: {what}")
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("litebox-image-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Numbers that look random and are the same in every run.
fn random(seed: &mut u64) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize
}

/// A tree with directories of many sizes, files around the block size, links and devices.
fn sample(scratch: &Path, seed: u64) -> Tree {
    let mut seed = seed;
    let mut tree = Tree::new(Attributes { mode: 0o755, uid: 1, gid: 2, mtime: (77, 5) });
    let mut directories = vec![0];
    for i in 0..150 {
        let parent = directories[random(&mut seed) % directories.len()];
        let name = format!("{}{i}", "n".repeat(random(&mut seed) % 200));
        let attributes = Attributes {
            mode: (random(&mut seed) & 0o7777) as u32,
            uid: random(&mut seed) as u32,
            gid: random(&mut seed) as u32,
            mtime: (random(&mut seed) as i64, (random(&mut seed) % 1_000_000_000) as u32),
        };
        let kind = match random(&mut seed) % 8 {
            0 | 1 => Kind::Directory(BTreeMap::new()),
            2 => Kind::Symlink(vec![b'l'; 1 + random(&mut seed) % 4000]),
            3 => Kind::Character(random(&mut seed) as u32 % 4096, random(&mut seed) as u32 % (1 << 20)),
            4 => Kind::Fifo,
            _ => {
                let size = [0, 1, 4095, 4096, 4097, 100_000][random(&mut seed) % 6];
                let file = scratch.join(format!("f{i}"));
                let bytes: Vec<u8> = (0..size).map(|n| (n * 7 + i) as u8).collect();
                fs::write(&file, bytes).unwrap();
                Kind::File(Bytes { file, offset: 0, size: size as u64 })
            }
        };
        let is_directory = matches!(kind, Kind::Directory(_));
        let node = tree.add(Node { kind, attributes });
        tree.link(parent, name.as_bytes(), node).unwrap();
        if is_directory {
            directories.push(node);
        } else if random(&mut seed).is_multiple_of(4) {
            tree.link(0, format!("hard{i}").as_bytes(), node).unwrap();
        }
    }
    tree.note(&[&seed.to_le_bytes()]);
    tree
}

fn mount(bytes: Vec<u8>, image: &Image) -> Result<Erofs, &'static str> {
    let host = Hosted::leak_with_disk(4096, Some(bytes));
    let device = host.root_device().unwrap();
    Erofs::new(VerityDevice::new(device, image.root_hash, image.data_blocks, host.pages(), Box::new(Unwind))?)
}

/// Reads everything there is; the number of nodes.
fn compare(erofs: &Erofs, tree: &Tree, at: LowerId, node: usize) -> usize {
    let found = erofs.metadata(at).unwrap();
    let wanted = &tree.nodes[node];
    let mtime = (found.mtime.sec, found.mtime.nsec);
    let attributes = Attributes { mode: found.mode, uid: found.uid, gid: found.gid, mtime };
    assert_eq!(attributes, wanted.attributes);
    match &wanted.kind {
        Kind::Directory(children) => {
            let mut names = Vec::new();
            erofs.readdir(at, &mut |entry| names.push((entry.name.to_vec(), entry.id))).unwrap();
            assert_eq!(names.len(), children.len());
            assert_eq!(erofs.lookup(at, b"there is no such name"), Ok(None));
            1 + names
                .iter()
                .map(|(name, id)| {
                    assert_eq!(erofs.lookup(at, name), Ok(Some(*id)));
                    compare(erofs, tree, *id, children[name])
                })
                .sum::<usize>()
        }
        Kind::File(bytes) => {
            assert_eq!((found.file_type, found.size), (FileType::Regular, bytes.size));
            let wanted = fs::read(&bytes.file).unwrap();
            let mut read = Vec::new();
            for index in 0..bytes.size.div_ceil(4096) {
                let mut page = vec![0; 4096];
                erofs.page(at, index).unwrap().read(0, &mut page);
                read.extend_from_slice(&page);
            }
            assert!(read[wanted.len()..].iter().all(|&b| b == 0), "the rest of the last page is zero");
            assert_eq!(&read[..wanted.len()], wanted);
            1
        }
        Kind::Symlink(target) => {
            assert_eq!(erofs.readlink(at).as_deref(), Ok(target.as_slice()));
            1
        }
        Kind::Character(major, minor) => {
            assert_eq!(found.rdev, litebox_core::fs::DeviceId::new(*major, *minor));
            1
        }
        _ => 1,
    }
}

#[test]
fn the_guest_reads_what_was_packed() {
    for seed in 1..6 {
        let scratch = Scratch::new(&format!("roundtrip-{seed}"));
        let tree = sample(&scratch.0, seed);
        let image = pack(tree.clone(), &scratch.0.join("images")).unwrap();
        let erofs = mount(fs::read(&image.path).unwrap(), &image).unwrap();
        assert!(compare(&erofs, &tree, erofs.root(), 0) > 150);
    }
}

#[test]
fn a_packed_tree_is_used_again_and_its_bytes_depend_on_nothing_else() {
    let scratch = Scratch::new("again");
    let (a, b) = (scratch.0.join("a"), scratch.0.join("b"));
    let first = pack(sample(&scratch.0, 9), &a).unwrap();
    assert!(!first.reused);
    let second = pack(sample(&scratch.0, 9), &a).unwrap();
    assert!(second.reused);
    assert_eq!(first.root_hash, second.root_hash);
    let elsewhere = pack(sample(&scratch.0, 9), &b).unwrap();
    assert_eq!(fs::read(&first.path).unwrap(), fs::read(&elsewhere.path).unwrap());
    assert!(!pack(sample(&scratch.0, 10), &a).unwrap().reused);
}

/// Whatever byte is changed: either it is found out, or it was never used and everything reads as it should.
#[test]
fn a_changed_byte_is_found_or_does_not_matter() {
    let scratch = Scratch::new("tamper");
    let tree = sample(&scratch.0, 3);
    let image = pack(tree.clone(), &scratch.0.join("images")).unwrap();
    let bytes = fs::read(&image.path).unwrap();
    let (mut seed, mut found) = (5, 0);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut wrong = Vec::new();
    for _ in 0..40 {
        let mut changed = bytes.clone();
        let at = random(&mut seed) % changed.len();
        changed[at] ^= 1 << (random(&mut seed) % 8);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let erofs = mount(changed, &image).map_err(str::to_owned)?;
            compare(&erofs, &tree, erofs.root(), 0);
            Ok::<(), String>(())
        }));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(why)) => wrong.push(format!("byte {at}: {why}")),
            Err(payload) => match payload.downcast_ref::<String>() {
                Some(text) if text.starts_with("tampered") => found += 1,
                _ => wrong.push(format!("byte {at}: read something else")),
            },
        }
    }
    std::panic::set_hook(hook);
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(found > 30, "only {found} of 40 were found");
}

#[test]
fn archives_and_directories_give_the_same_tree() {
    let scratch = Scratch::new("tar");
    let root = scratch.0.join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/program"), b"contents").unwrap();
    fs::hard_link(root.join("bin/program"), root.join("bin/other")).unwrap();
    std::os::unix::fs::symlink("bin/program", root.join("link")).unwrap();
    let archive = scratch.0.join("root.tar");
    let made =
        std::process::Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status();
    if !made.is_ok_and(|status| status.success()) {
        println!("archives skipped: no tar");
        return;
    }
    let from_directory = tree::from_directory(&root).unwrap();
    let from_archive = super::tree(Some(&archive), &scratch.0).unwrap();
    for path in [&b"/bin/program"[..], b"/bin/other", b"/link", b"/bin/../link"] {
        let size = |tree: &Tree| match &tree.nodes[tree.resolve(path).unwrap()].kind {
            Kind::File(bytes) => bytes.size,
            _ => 0,
        };
        assert_eq!((size(&from_directory), size(&from_archive)), (8, 8));
    }
    assert_eq!(from_archive.resolve(b"/bin/program"), from_archive.resolve(b"/bin/other"));
    assert_eq!(from_archive.resolve(b"/no"), None);
}

/// An archive in memory: kind, name, and contents or target.
fn tar_of(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        if matches!(kind, tar::EntryType::Link | tar::EntryType::Symlink) {
            builder.append_link(&mut header, name, text).unwrap();
        } else {
            header.set_size(text.len() as u64);
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

fn from_archive(bytes: &[u8]) -> Result<Tree> {
    let mut tree = Tree::new(Attributes::default());
    super::archive::read(&mut tree, bytes, Path::new("archive")).map(|()| tree)
}

#[test]
fn an_archive_cannot_put_a_directory_into_itself() {
    use tar::EntryType as E;
    for target in ["a", "a/c", "."] {
        let archive = tar_of(&[(E::Directory, "a/c", ""), (E::Link, "a/b", target)]);
        let error = from_archive(&archive).expect_err(target);
        assert!(format!("{error:#}").contains("is a directory"), "{target}: {error:#}");
    }
    let archive = tar_of(&[(E::Regular, "a", "x"), (E::Link, "b", "a")]);
    assert_eq!(from_archive(&archive).unwrap().reachable(), [(0, 2), (1, 2)]);
}

/// An extended header (`pax(1)`) for the entry that follows it.
fn pax(key: &str, value: &str) -> String {
    let record = format!(" {key}={value}\n");
    let len = (1..).find(|len| format!("{len}{record}").len() == *len).unwrap();
    format!("{len}{record}")
}

#[test]
fn names_and_targets_that_no_file_has_are_refused() {
    use tar::EntryType as E;
    let named = |name: &str| tar_of(&[(E::XHeader, "x", &pax("path", name)), (E::Regular, "n", "x")]);
    let linked = |to: &str| tar_of(&[(E::XHeader, "x", &pax("linkpath", to)), (E::Symlink, "n", "t")]);
    assert!(from_archive(&named("plain")).unwrap().resolve(b"/plain").is_some());
    assert!(from_archive(&linked(&"t".repeat(4095))).is_ok());
    for name in ["a\0b", "d/\0", "../a", &"n".repeat(256)] {
        from_archive(&named(name)).expect_err(name);
    }
    for target in ["a\0b", "", &"t".repeat(4096)] {
        from_archive(&linked(target)).expect_err(target);
    }
}

#[test]
fn what_is_no_archive_is_not_quoted_as_it_is() {
    let error = from_archive(&b"\x1b[31mno\ntar\n".repeat(100)).unwrap_err().root_cause().to_string();
    assert!(!error.contains(char::is_control) && error.len() < 400, "{error}");
}
