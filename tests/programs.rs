//! C and Rust programs of our own, each way they are linked: the output and status that they give on Linux.

use std::path::{Path, PathBuf};

use e2e::build::{self, Link};
use e2e::tools::may_mount;
use e2e::{Program, Suite, debian, needs, work_dir};

/// A copy of the C library's root file system with these programs in it, for what is linked dynamically.
fn with_libc(name: &str, programs: &[PathBuf]) -> Result<PathBuf, String> {
    if !may_mount() {
        return Err("comparing inside a root file system needs root (chroot, mount)".into());
    }
    let libc = debian::rootfs("libc-2", &["libc6", "libgcc-s1"])?;
    let root = work_dir("trees").join(name);
    e2e::tools::capture(
        "cp",
        &["-a", "--no-target-directory", &libc.to_string_lossy(), &root.to_string_lossy()],
    )?;
    for program in programs {
        let place = root.join("usr/bin").join(program.file_name().unwrap_or_default());
        // Copying anew would change the time, and with it the image.
        let same = |place: &Path| Some(std::fs::read(place).ok()? == std::fs::read(program).ok()?);
        if same(&place) != Some(true) {
            std::fs::copy(program, &place).map_err(|error| error.to_string())?;
        }
    }
    Ok(root)
}

#[test]
fn static_c() {
    let mut suite = Suite::new("static C");
    for link in [Link::StaticMusl, Link::StaticGlibc, Link::StaticPie] {
        for source in ["hello.c", "battery.c"] {
            let Some(elf) = needs(source, build::c(source, link)) else { continue };
            if source == "hello.c" {
                suite.expect(Program::elf(&elf), 0, "hello, world\n");
                suite.expect(Program::elf(&elf).args(["a", "b c"]), 0, "hello, world\n[a]\n[b c]\n");
            } else {
                // On the host the same program would write into the real /tmp: its own claims are the oracle.
                suite.check(format!("battery, {link:?}"), move || battery(&Program::elf(&elf)));
            }
        }
    }
    suite.run();
}

/// Every check of the battery says yes.
fn battery(program: &Program) -> Result<(), String> {
    let outcome = program.guest();
    outcome.expect_status(&[42])?;
    let failed: Vec<_> =
        outcome.text().lines().filter(|line| line.ends_with(": NO")).map(str::to_owned).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

#[test]
fn dynamic_c() {
    let programs = ["hello.c", "battery.c"].map(|source| build::c(source, Link::Dynamic));
    let programs: Result<Vec<_>, _> = programs.into_iter().collect();
    let Some(root) = needs("dynamic C", programs.and_then(|programs| with_libc("dynamic-c-2", &programs)))
    else {
        return;
    };
    let mut suite = Suite::new("dynamic C");
    suite.compare(Program::within(&root, "/usr/bin/hello").args(["x", ""]));
    suite.compare(Program::within(&root, "/usr/bin/battery"));
    suite.compare(Program::within(&root, "/bin/battery").env("LD_BIND_NOW", "1"));
    suite.run();
}

/// The runs of the Rust program; `make` says where it is.
fn rust_runs(suite: &mut Suite, make: impl Fn() -> Program) {
    suite.compare(make().args(["one", "zwei ünicode"]).stdin("a\nb\nc"));
    suite.compare(make().args(["exit", "17"]));
    suite.compare(make().args(["abort"]));
    suite.compare(make().args(["error"]));
    // The message holds the thread's id: status and place suffice.
    for fate in ["panic", "index"] {
        let program = make().args([fate]);
        suite.check(program.line(), move || {
            let outcome = program.guest();
            outcome.expect(101, "")?;
            let said = String::from_utf8_lossy(&outcome.stderr).contains("panicked at");
            if said { Ok(()) } else { Err(outcome.tail()) }
        });
    }
}

#[test]
fn static_rust() {
    let Some(elf) = needs("static Rust", build::rust("std.rs", Link::StaticMusl)) else { return };
    let mut suite = Suite::new("static Rust");
    rust_runs(&mut suite, || Program::elf(&elf));
    if let Some(hello) = needs("hello.rs", build::rust("hello.rs", Link::StaticMusl)) {
        suite.expect(Program::elf(hello), 0, "hello, world\n");
    }
    suite.run();
}

#[test]
fn dynamic_rust() {
    let program = build::rust("std.rs", Link::Dynamic);
    let Some(root) =
        needs("dynamic Rust", program.and_then(|program| with_libc("dynamic-rust-2", &[program])))
    else {
        return;
    };
    let mut suite = Suite::new("dynamic Rust");
    rust_runs(&mut suite, || Program::within(&root, "/usr/bin/std"));
    suite.run();
}

/// What `signals.c` sees of signals, timers, faults and interrupted calls is what it sees on Linux.
#[test]
fn signals() {
    let mut suite = Suite::new("signals");
    for link in [Link::StaticMusl, Link::StaticGlibc] {
        let Some(elf) = needs("signals.c", build::c("signals.c", link)) else { continue };
        suite.compare(Program::elf(&elf));
        if link == Link::StaticMusl {
            for signal in ["1", "11", "14", "31", "40", "64"] {
                suite.compare(Program::elf(&elf).args([signal]));
            }
        }
    }
    suite.run();
}

/// Threads of C, of Rust and of the bare system calls: the output is the oracle.
#[test]
fn threads() {
    let mut suite = Suite::new("threads");
    for link in [Link::StaticMusl, Link::StaticGlibc] {
        let Some(elf) = needs("threads.c", build::c("threads.c", link)) else { continue };
        suite.compare(Program::elf(&elf));
        if link == Link::StaticGlibc {
            for end in ["exit", "leader", "kill", "fault", "exec", "cancel"] {
                suite.compare(Program::elf(&elf).args([end]));
            }
        }
    }
    if let Some(elf) = needs("threads.rs", build::rust("threads.rs", Link::StaticMusl)) {
        suite.compare(Program::elf(elf));
    }
    suite.run();
}
