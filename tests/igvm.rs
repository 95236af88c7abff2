//! The launch image of a real program: one digest, whoever computes it; the same bytes, wherever it is built; signed by whoever owns it.

#[path = "../igvm/tests/common/python.rs"]
mod python;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use e2e::build::{self, Link};
use e2e::tools::{command, repository, target_dir};
use e2e::{needs, work_dir};
use serde_json::Value;

const HOSTS: [&str; 3] = ["qemu", "openvmm", "cloud-hypervisor"];

fn xtask(words: &[&str]) -> Output {
    let mut command = Command::new(e2e::tools::xtask());
    command.args(words).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What the launcher prints, of a run that succeeds.
fn said(words: &[&str]) -> String {
    let output = xtask(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What it complains about, of a run that fails.
fn refused(words: &[&str]) -> String {
    let output = xtask(words);
    assert!(!output.status.success(), "{words:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the work directory is UTF-8")
}

/// Builds the launch image of hello.c as `name`; nothing without a compiler.
fn built(name: &str, options: &[&str]) -> Option<PathBuf> {
    let hello = needs("the launch image", build::c("hello.c", Link::StaticMusl))?;
    let igvm = work_dir("igvm").join(format!("{name}.igvm"));
    said(&[&["build-igvm", "-o", text(&igvm)], options, &[text(&hello), "word"]].concat());
    Some(igvm)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("it was written")).expect("it is JSON")
}

fn digest(value: &Value) -> String {
    value["launch_digest"].as_str().unwrap_or_default().to_owned()
}

/// By the `igvm` crate, which is what QEMU, OpenVMM and Cloud Hypervisor parse with.
fn igvm_crate(file: &Path) -> String {
    let bytes = fs::read(file).unwrap();
    let file = igvm::IgvmFile::new_from_binary(&bytes, Some(igvm::IsolationType::Snp)).unwrap();
    let digest = igvm::measurement::generate_snp_measurement(file.initializations(), file.directives(), 1);
    digest.unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The script that `docs/igvm.md` gives to readers, who have only `sev-snp-measure` and the files; it ends by comparing.
fn script() -> String {
    let document = fs::read_to_string(repository().join("docs/igvm.md")).unwrap();
    let script = document.split("```python\n").nth(1).and_then(|rest| rest.split("```").next());
    let script = script.expect("the document has a script").to_owned();
    script.replace("assert gctx", "print(gctx.ld().hex())\nassert gctx")
}

/// Predicted = computed at the launch by the emulator's PSP = the `igvm` crate's = `sev-snp-measure`'s, whoever is the host.
#[test]
fn one_digest_whoever_computes_it() {
    let python = python::find();
    for host in HOSTS {
        let Some(igvm) = built(host, &["--host", host]) else { return };
        let predicted = digest(&json(&igvm.with_extension("json")));
        assert_eq!(predicted.len(), 96);
        assert_eq!(said(&["measure", "--host", host, text(&igvm)]).trim(), predicted, "measure, {host}");
        assert_eq!(igvm_crate(&igvm), predicted, "the igvm crate, {host}");
        let report = igvm.with_extension("report");
        // The guest finds no devices and says so; it was launched by then.
        xtask(&["emulate", "--host", host, "--timeout", "300", "--json", text(&report), text(&igvm)]);
        assert_eq!(digest(&json(&report)), predicted, "the emulator, {host}");
        if let Some(python) = &python {
            let directory = work_dir("igvm").display().to_string();
            let script = format!("import os\nos.chdir({directory:?})\n{}", script());
            let script = script.replace("hello.igvm", &format!("{host}.igvm"));
            let script = script.replace("hello.json", &format!("{host}.json"));
            assert_eq!(python::run(python, &script, "").trim(), predicted, "sev-snp-measure, {host}");
        }
    }
}

/// The reference values and `inspect` say what was asked for, and the file runs.
#[test]
fn what_is_built_is_explained_and_runs() {
    let Some(igvm) = built("explained", &["--env", "A=b", "--policy", "smt=no"]) else { return };
    let reference = json(&igvm.with_extension("json"));
    assert_eq!(reference["format"], "litebox-reference-values");
    assert_eq!(reference["debug"], false);
    assert_eq!(reference["policy"]["value"], "0x20000");
    assert_eq!(reference["manifest"]["args"][1], "word");
    assert!(reference["manifest"]["env"].as_array().unwrap().contains(&"A=b".into()));
    let facts: Value = serde_json::from_str(&said(&["inspect", "--json", text(&igvm)])).unwrap();
    assert_eq!(facts["manifest"]["Ok"], reference["manifest"]);
    let regions = facts["regions"].as_array().unwrap();
    let owners: Vec<&str> = regions.iter().filter_map(|region| region["what"].as_str()).collect();
    assert!(owners.iter().all(|owner| !owner.contains("unknown")), "{owners:?}");
    let picture = igvm.with_extension("svg");
    let table = said(&["inspect", "--svg", text(&picture), text(&igvm)]);
    for want in ["kernel: code", "manifest", "page tables", "secrets page", "SMT must be off"] {
        assert!(table.contains(want), "{want} is not in {table}");
    }
    assert!(fs::read_to_string(picture).unwrap().contains("kernel: constants"));
    let output = said(&["run-snp", "--platform", "snp-emulated", "--timeout", "300", text(&igvm)]);
    assert_eq!(output, "hello, world\n[word]\n");
}

/// Keys as openssl makes them; the PSP looks at every signature, and at whose launch it is.
#[test]
fn the_owner_signs() {
    if needs("the_owner_signs", command("openssl", "openssl")).is_none() {
        return;
    }
    let key = |name: &str, words: &str| {
        let path = work_dir("igvm").join(name);
        let mut openssl = Command::new("openssl");
        let made = openssl.args(words.split(' ')).arg("-out").arg(&path).output().unwrap();
        assert!(made.status.success(), "{openssl:?}: {}", String::from_utf8_lossy(&made.stderr));
        path
    };
    let id_key = key("id.pem", "ecparam -name secp384r1 -genkey -noout");
    let author_key = key("author.pem", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384");
    let options = [
        "--id-key",
        text(&id_key),
        "--author-key",
        text(&author_key),
        "--guest-svn",
        "3",
        "--image-id",
        "0a",
    ];
    let Some(igvm) = built("signed", &options) else { return };
    let reference = json(&igvm.with_extension("json"));
    assert_eq!(reference["id_block"]["verdict"], "accepted");
    assert_eq!(reference["id_block"]["guest_svn"], 3);
    let run = |igvm: &Path| xtask(&["run-snp", "--platform", "snp-emulated", "--timeout", "300", text(igvm)]);
    assert!(run(&igvm).status.success());
    // The ID block stays in the file, and something else than what it names is launched: a byte of the kernel's code is another.
    let mut bytes = fs::read(&igvm).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    let other = work_dir("igvm").join("other.igvm");
    fs::write(&other, bytes).unwrap();
    fs::copy(igvm.with_extension("img"), other.with_extension("img")).unwrap();
    assert!(said(&["inspect", text(&other)]).contains("made for another launch digest"));
    let output = run(&other);
    assert_eq!(output.status.code(), Some(125), "{}", String::from_utf8_lossy(&output.stderr));

    let wrong = key("p256.pem", "ecparam -name prime256v1 -genkey -noout");
    let words = ["build-igvm", "-o", "/nonexistent/x", "--id-key", text(&wrong), "/bin/true"];
    assert!(refused(&words).contains("P-256"));
}

/// A debug policy has to be in the file's name.
#[test]
fn a_debug_policy_shows() {
    let words = ["build-igvm", "-o", "/nonexistent/hello", "--policy", "debug", "/bin/true"];
    assert!(refused(&words).contains("hello.debug.igvm"));
    let Some(igvm) = built("hello.debug", &["--policy", "debug"]) else { return };
    assert_eq!(json(&igvm.with_extension("json"))["debug"], true);
    assert!(said(&["inspect", text(&igvm)]).contains("*** DEBUG POLICY"));
}

/// Folders of this machine that must not be found in what is built: as bytes of paths.
fn folders() -> Vec<Vec<u8>> {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    let cargo = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let rustup = std::env::var_os("RUSTUP_HOME").map_or_else(|| home.join(".rustup"), PathBuf::from);
    [repository().to_owned(), target_dir(), cargo, rustup]
        .map(|folder| folder.into_os_string().into_encoded_bytes())
        .into()
}

fn kernel(target: &Path) -> PathBuf {
    target.join("x86_64-unknown-none/release/kernel")
}

/// The quick half of reproducibility.
#[test]
fn no_folder_of_this_machine_is_in_the_image() {
    let Some(hello) = needs("the launch image", build::c("hello.c", Link::StaticMusl)) else { return };
    let igvm = work_dir("igvm").join("folders.igvm");
    // The words of the command line are measured as they are: they must hold no folder.
    let mut command = Command::new(e2e::tools::xtask());
    command.current_dir(hello.parent().unwrap()).args(["build-igvm", "-o", text(&igvm), "./hello"]);
    assert!(command.output().is_ok_and(|output| output.status.success()), "{command:?}");
    for file in [igvm, kernel(&target_dir())] {
        let bytes = fs::read(&file).unwrap();
        for folder in folders() {
            let found = bytes.windows(folder.len()).any(|window| window == folder);
            assert!(!found, "{} holds {}", file.display(), String::from_utf8_lossy(&folder));
        }
    }
}

/// The whole: the tree copied into another folder, built there with another target folder and another home of cargo's.
#[test]
#[ignore = "builds the kernel anew: cargo test -p e2e --test igvm -- --ignored two_folders"]
fn two_folders_build_the_same_bytes() {
    let Some(here) = built("here", &[]) else { return };
    let hello = build::c("hello.c", Link::StaticMusl).expect("it was compiled for the first image");
    let copy = std::env::temp_dir().join(format!("litebox copy {}", std::process::id()));
    let tree = copy.join("another name");
    fs::create_dir_all(&tree).unwrap();
    let pack = "git ls-files -co --exclude-standard -z | tar -cf - --null --ignore-failed-read -T - | tar -xf - -C \"$0\"";
    let mut sh = Command::new("sh");
    sh.current_dir(repository()).args(["-c", pack]).arg(&tree);
    assert!(sh.status().is_ok_and(|status| status.success()), "{sh:?}");
    // The crates that were fetched, found by another path.
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    fs::create_dir_all(copy.join("cargo")).unwrap();
    std::os::unix::fs::symlink(cargo_home.join("registry"), copy.join("cargo/registry")).unwrap();
    let there = copy.join("there.igvm");
    let output = Command::new(e2e::tools::xtask())
        .env("CARGO_MANIFEST_DIR", tree.join("xtask"))
        .env("CARGO_TARGET_DIR", copy.join("output"))
        .env("CARGO_HOME", copy.join("cargo"))
        .args(["build-igvm", "-o"])
        .args([&there, &hello])
        .arg("word")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(kernel(&copy.join("output")).exists(), "it was built there");
    for (ours, theirs) in [
        (here.clone(), there.clone()),
        (here.with_extension("img"), there.with_extension("img")),
        (here.with_extension("json"), there.with_extension("json")),
        (kernel(&target_dir()), kernel(&copy.join("output"))),
    ] {
        assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "{} is another", theirs.display());
    }
    fs::remove_dir_all(&copy).unwrap();
}
