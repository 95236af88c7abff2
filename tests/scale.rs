//! A large root file system costs nothing that is not opened: the time to a program's first line, and the reuse of the image.

use std::path::PathBuf;
use std::time::Duration;

use e2e::build::{self, Link};
use e2e::random::Random;
use e2e::tools::oracle_only;
use e2e::tree::Tree;
use e2e::{Program, needs};

/// A tree with /bin/hello and this many MiB of random files beside it.
fn tree(mebibytes: usize) -> Option<PathBuf> {
    let hello = needs("hello.c", build::c("hello.c", Link::StaticMusl))?;
    let tree = match Tree::start(&format!("scale-{mebibytes}")) {
        Err(place) => return Some(place),
        Ok(tree) => tree,
    };
    tree.file("bin/hello", 0o755, std::fs::read(hello).expect("read hello"));
    let mut random = Random::new(1);
    for n in 0..mebibytes * 4 {
        tree.file(&format!("srv/{:02}/{n}", n % 100), 0o644, random.bytes(256 << 10));
    }
    Some(tree.finish())
}

/// One run of /bin/hello: the time to its first line, as the launcher measured it.
fn guest_time(root: &PathBuf) -> Duration {
    let outcome = Program::within(root, "/bin/hello").options(["--json"]).guest();
    assert_eq!(outcome.expect(0, "hello, world\n"), Ok(()));
    let text = String::from_utf8_lossy(&outcome.stderr).into_owned();
    let report: serde_json::Value =
        text.lines().rev().find_map(|line| serde_json::from_str(line).ok()).expect("--json");
    if let Some(milliseconds) = report["first_line_ms"].as_f64() {
        return Duration::from_secs_f64(milliseconds / 1e3);
    }
    panic!("no time in {report}");
}

/// The least of some runs: what the work costs when nothing disturbs it.
fn best(root: &PathBuf, runs: usize) -> Duration {
    (0..runs).map(|_| guest_time(root)).min().unwrap_or_default()
}

fn compare(mebibytes: usize) {
    if oracle_only() {
        return;
    }
    let (Some(small), Some(large)) = (tree(1), tree(mebibytes)) else { return };
    // The first run packs, and is not counted.
    let packing = Program::within(&large, "/bin/hello").timeout(600).guest();
    assert_eq!(packing.expect(0, "hello, world\n"), Ok(()));
    best(&small, 1);
    let again = Program::within(&large, "/bin/hello").guest();
    let (small_time, large_time) = (best(&small, 7), best(&large, 7));
    e2e::note(format!(
        "{mebibytes} MiB: first line of the guest after {large_time:?}, of 1 MiB after {small_time:?}; with packing {:?}, reused {:?}",
        packing.elapsed.0, again.elapsed.0
    ));
    assert!(
        large_time < small_time * 5 / 4 + Duration::from_millis(20),
        "{large_time:?}, small {small_time:?}"
    );
    assert!(
        again.elapsed.0 < Duration::from_secs(5),
        "an unchanged tree was packed again: {:?}",
        again.elapsed.0
    );
}

#[test]
fn a_tree_of_64_mib_costs_no_time() {
    compare(64);
}

#[test]
#[ignore = "takes long: generates and packs 1 GiB"]
fn a_tree_of_1_gib_costs_no_time() {
    compare(1024);
}

/// A change to the tree is seen: the image is keyed by what it holds.
#[test]
fn a_changed_tree_is_packed_again() {
    if oracle_only() {
        return;
    }
    let Some(hello) = needs("hello.c", build::c("hello.c", Link::StaticMusl)) else { return };
    let root = e2e::work_dir("changing");
    std::fs::create_dir_all(root.join("bin")).expect("make a directory");
    std::fs::copy(hello, root.join("bin/program")).expect("copy");
    let program = Program::within(&root, "/bin/program");
    assert_eq!(program.guest().expect(0, "hello, world\n"), Ok(()));
    let Some(fate) = needs("fate.c", build::c("fate.c", Link::StaticMusl)) else { return };
    std::fs::copy(fate, root.join("bin/program")).expect("copy");
    assert_eq!(program.args(["exit", "5"]).guest().expect(5, ""), Ok(()));
}
