//! Root file systems made of nothing but their description: the same bytes, modes and times on every machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use crate::random::Random;
use crate::tools::work_dir;

/// 2024-01-02 03:04:05 UTC, the time of everything in a made tree.
const MTIME: u64 = 1_704_164_645;

/// A directory under construction; [`Tree::finish`] puts it in its place, so that a half-made one is never used.
pub struct Tree {
    aside: PathBuf,
    place: PathBuf,
}

impl Tree {
    /// Starts a tree, unless one of this name (which should name its contents' version) is there already.
    pub fn start(name: &str) -> Result<Self, PathBuf> {
        let place = work_dir("trees").join(name);
        if place.exists() {
            return Err(place);
        }
        // Two tests of one binary may make the same tree at the same time.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let aside = work_dir("trees").join(format!(".{name}.{}.{number}", std::process::id()));
        let tree = Self { aside, place };
        for dir in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(tree.aside.join(dir)).expect("make a directory");
        }
        fs::set_permissions(tree.aside.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod");
        Ok(tree)
    }

    /// The directory that is being filled.
    pub fn root(&self) -> &Path {
        &self.aside
    }

    /// Adds a file, and the directories above it.
    pub fn file(&self, path: &str, mode: u32, contents: impl AsRef<[u8]>) {
        let path = self.aside.join(path);
        fs::create_dir_all(path.parent().expect("a file has a parent")).expect("make a directory");
        fs::write(&path, contents).expect("write a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    /// Adds a symbolic link.
    pub fn link(&self, path: &str, target: &str) {
        symlink(target, self.aside.join(path)).expect("make a symbolic link");
    }

    /// Sets all times and moves the tree into its place.
    pub fn finish(self) -> PathBuf {
        touch(&self.aside);
        // Another test binary may have been quicker; its tree is as good.
        if fs::rename(&self.aside, &self.place).is_err() {
            let _ = fs::remove_dir_all(&self.aside);
        }
        self.place
    }
}

/// Sets the modification time of everything but symbolic links, contents before their directories.
fn touch(path: &Path) {
    let kind = path.symlink_metadata().expect("stat").file_type();
    if kind.is_symlink() {
        return;
    }
    if kind.is_dir() {
        for entry in fs::read_dir(path).expect("read a directory") {
            touch(&entry.expect("read a directory").path());
        }
    }
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(MTIME);
    fs::File::open(path).and_then(|file| file.set_modified(time)).expect("set a time");
}

/// A tree of texts, binaries, links and directories for tools to chew on, with this static program as /bin/busybox.
pub fn data(busybox: &Path) -> PathBuf {
    let tree = match Tree::start("data-3") {
        Ok(tree) => tree,
        Err(place) => return place,
    };
    let mut random = Random::new(2);
    tree.file("bin/busybox", 0o755, fs::read(busybox).expect("read busybox"));
    tree.file(
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    );
    tree.file("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n");
    tree.file("data/empty", 0o644, "");
    tree.file("data/one", 0o600, "1");
    tree.file("data/words", 0o644, words(&mut random, 4000));
    tree.file("data/sorted", 0o644, lines((0..500).map(|n| format!("{n:04}"))));
    tree.file("data/other", 0o644, lines((0..500).filter(|n| n % 3 != 0).map(|n| format!("{n:04}"))));
    tree.file(
        "data/table",
        0o644,
        lines((1..=200).map(|n| format!("{n}\tname{}\t{}:{}", n % 7, n * n, n % 13))),
    );
    tree.file("data/repeats", 0o644, lines((0..300).map(|n| format!("line {}", n / 4))));
    tree.file("data/tabs", 0o644, "a\tb\n\tindented\n  two\tspaces\n");
    tree.file("data/dos", 0o644, "first\r\nsecond\r\n");
    tree.file("data/long", 0o644, "x".repeat(10_000) + "\n");
    tree.file("data/page", 0o644, random.bytes(4096));
    tree.file("data/page+1", 0o644, random.bytes(4097));
    tree.file("data/page-1", 0o644, random.bytes(4095));
    tree.file("data/binary", 0o640, random.bytes(300_001));
    tree.file("data/deep/a/b/c/d/e/f/leaf", 0o444, "deep\n");
    tree.file("data/name with space", 0o644, "space\n");
    tree.file("data/näme", 0o644, "utf-8\n");
    tree.file("data/script", 0o755, "#!/bin/busybox sh\necho script \"$@\"\n");
    for n in 0..150 {
        tree.file(&format!("data/many/file-{n:03}"), 0o644, format!("number {n}\n{}", words(&mut random, n)));
    }
    tree.link("data/link", "words");
    tree.link("data/up", "../data/deep");
    tree.link("data/absolute", "/data/one");
    tree.link("data/dangling", "nowhere");
    tree.link("data/loop", "loop");
    tree.finish()
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.map(|line| line + "\n").collect()
}

/// This many words, some of them often, in lines of different lengths.
fn words(random: &mut Random, count: usize) -> String {
    const WORDS: [&str; 16] = [
        "enclave",
        "page",
        "table",
        "guest",
        "host",
        "measured",
        "digest",
        "frame",
        "Kernel",
        "north",
        "south",
        "the",
        "of",
        "and",
        "x",
        "attestation",
    ];
    let mut text = String::new();
    for _ in 0..count {
        text.push_str(WORDS[random.below(WORDS.len())]);
        text.push(if random.below(9) == 0 { '\n' } else { ' ' });
    }
    text + "\n"
}
