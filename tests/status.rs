//! What the launcher promises: statuses, streams, arguments, limits. See `xtask run-snp --help` for the list of statuses.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use e2e::build::{self, Link};
use e2e::program::feed;
use e2e::random::Random;
use e2e::tools::oracle_only;
use e2e::{Program, Suite, needs, work_dir};

/// The program that ends as it is told.
fn fate() -> Option<PathBuf> {
    needs("fate.c", build::c("fate.c", Link::StaticMusl))
}

#[test]
fn exit_statuses_and_signals() {
    let Some(elf) = fate() else { return };
    let mut suite = Suite::new("statuses");
    let runs: &[(&[&str], i32)] = &[
        (&["exit", "0"], 0),
        (&["exit", "1"], 1),
        (&["exit", "255"], 255),
        (&["exit", "256"], 0),
        (&["exit", "-1"], 255),
        (&["exit", "122"], 122),
        (&["abort"], 134),
        (&["kill", "9"], 137),
        (&["kill", "15"], 143),
        (&["kill", "10"], 138),
        // An ignored signal, and none: the program goes on.
        (&["kill", "17"], 77),
        (&["kill", "0"], 77),
        (&["kill", "65"], 22),
        (&["read", "0"], 139),
        (&["write", "0"], 139),
        (&["write", "0x7ffffffff000"], 139),
        (&["read", "0xffffffff80000000"], 139),
        (&["read", "0xffff800000000000"], 139),
        (&["jump", "0"], 139),
        (&["jump", "0xffffffff80100000"], 139),
        (&["jump", "0x800000000000"], 139),
        (&["write-text"], 139),
        (&["execute-data"], 139),
        (&["overflow"], 139),
        (&["noncanonical"], 139),
        (&["privileged"], 139),
        (&["port"], 139),
        (&["interrupt"], 139),
        (&["illegal"], 132),
        (&["breakpoint"], 133),
        (&["divide"], 136),
        (&["unknown"], 0),
    ];
    for (args, status) in runs {
        let program = Program::elf(&elf).args(*args);
        let status = *status;
        suite.check(program.line(), move || {
            let outcome = program.guest();
            outcome.expect(status, "")?;
            outcome.same_as(&program.host())
        });
    }
    suite.run();
}

#[test]
fn what_cannot_run() {
    let Some(elf) = fate() else { return };
    let mut suite = Suite::new("not runnable");
    let dir = work_dir("not-runnable");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).expect("write a file");
        let _ = std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755));
        path
    };
    let whole = std::fs::read(&elf).expect("read the program");
    suite.expect_status(Program::elf(dir.join("none")), &[127]);
    suite.expect_status(Program::elf(&dir), &[126]);
    suite.expect_status(Program::elf(file("empty", b"")), &[126]);
    suite.expect_status(Program::elf(file("text", b"not a program\n")), &[126]);
    suite.expect_status(Program::elf(file("magic", b"\x7fELF")), &[126]);
    suite.expect_status(Program::elf(file("header", &whole[..64])), &[126]);
    suite.expect_status(Program::elf(file("headers", &whole[..200])), &[126]);
    for (name, offset, value) in
        [("class32", 4, 1), ("big-endian", 5, 2), ("aarch64", 18, 183), ("relocatable", 16, 1)]
    {
        let mut bytes = whole.clone();
        bytes[offset] = value;
        suite.expect_status(Program::elf(file(name, &bytes)), &[126]);
    }
    suite.check("an unknown option", || {
        let elf = Program::elf("/nowhere").options(["--no-such-option"]);
        elf.guest().expect_status(&[125])
    });
    suite.run_in_guest_only();
}

#[test]
fn a_timeout_ends_what_does_not_end() {
    let Some(elf) = fate() else { return };
    let mut suite = Suite::new("timeouts");
    for fate in ["loop", "sleep"] {
        let program = Program::elf(&elf).args([fate]).timeout(2);
        suite.check(program.line(), move || {
            // Neither ends of itself, so that an end shows the limit.
            program.guest().expect(124, "")
        });
    }
    suite.run_in_guest_only();
}

#[test]
fn arguments_environment_and_directory() {
    let Some(elf) = fate() else { return };
    let mut suite = Suite::new("arguments");
    let odd: [&[u8]; 9] = [
        b"args",
        b"",
        b" ",
        b"two words",
        b"new\nline",
        b"\xff\xfe not utf-8",
        b"--help",
        b"'\"$HOME\"'\\",
        "ünï".as_bytes(),
    ];
    suite.compare(Program::elf(&elf).args(odd.map(OsStr::from_bytes)));
    suite.compare(Program::elf(&elf).args(["args"]));
    let many: Vec<OsString> =
        std::iter::once("args".into()).chain((0..200).map(|n| format!("{n}").into())).collect();
    suite.compare(Program::elf(&elf).args(many));
    suite.compare(Program::elf(&elf).args(["args", &"x".repeat(100_000)]));
    suite.compare(Program::elf(&elf).args(["env"]));
    suite.compare(
        Program::elf(&elf).args(["env"]).env("EMPTY", "").env("EQUALS", "a=b=c").env("LINES", "a\nb"),
    );
    suite.compare(Program::elf(&elf).args(["env"]).env("BYTES", OsStr::from_bytes(b"\x80\xff")));
    suite.compare(Program::elf(&elf).args(["cwd"]));
    suite.compare(Program::elf(&elf).args(["cwd"]).workdir("/tmp"));
    suite.run();
}

#[test]
fn streams() {
    let Some(elf) = fate() else { return };
    let mut suite = Suite::new("streams");
    let random = Random::new(7).bytes(10 << 20);
    suite.expect(Program::elf(&elf).args(["cat"]), 0, "");
    suite.expect(Program::elf(&elf).args(["cat"]).stdin("no newline"), 0, "no newline");
    suite.expect(Program::elf(&elf).args(["cat"]).stdin(random.clone()).timeout(120), 0, random.clone());
    suite.expect(Program::elf(&elf).args(["exit", "3"]).stdin(random), 3, "");
    suite.compare(Program::elf(&elf).args(["both"]));
    let flood = Program::elf(&elf).args(["flood", "64"]).timeout(120);
    suite.check(flood.line(), move || {
        let outcome = flood.guest();
        let pattern = (0u32..64 << 18).flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
        outcome.expect(0, pattern)
    });
    let elf_closed = elf.clone();
    suite.check("stdout that nobody reads any more", move || {
        let mut command = Program::elf(&elf_closed).args(["flood", "8"]).command();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if oracle_only() {
            return Ok(());
        }
        let mut child = child.spawn().map_err(|error| error.to_string())?;
        drop(child.stdout.take());
        let status = child.wait().map_err(|error| error.to_string())?;
        if matches!(status.code(), Some(122 | 124)) { Err(status.to_string()) } else { Ok(()) }
    });
    suite.run();
}

#[test]
fn sixteen_mebibytes_run_a_static_hello() {
    let Some(hello) = needs("hello.c", build::c("hello.c", Link::StaticMusl)) else { return };
    let Some(elf) = fate() else { return };
    let mut suite = Suite::new("memory");
    suite.expect(Program::elf(&hello).options(["--memory", "16M"]), 0, "hello, world\n");
    suite.expect(Program::elf(&hello).options(["--memory", "1G"]), 0, "hello, world\n");
    suite.expect(Program::elf(&elf).args(["hog", "150"]), 0, "");
    // More than there is: the program is refused or killed, the kernel is not.
    suite
        .expect_status(Program::elf(&elf).args(["hog", "400"]).options(["--memory", "64M"]), &[12, 137, 139]);
    suite.run_in_guest_only();
}

#[test]
fn verbose_and_json() {
    let Some(elf) = fate() else { return };
    let mut suite = Suite::new("reports");
    let verbose = Program::elf(&elf).args(["unknown"]).options(["-v"]);
    suite.check("-v names an unknown system call once", move || {
        let outcome = verbose.guest();
        outcome.expect(0, "")?;
        let log = String::from_utf8_lossy(&outcome.stderr).into_owned();
        if log.matches("9999").count() == 1 { Ok(()) } else { Err(outcome.tail()) }
    });
    let json = Program::elf(&elf).args(["exit", "9"]).options(["--json"]);
    suite.check("--json is JSON that knows the status", move || {
        let outcome = json.guest();
        outcome.expect_status(&[9])?;
        let text = String::from_utf8_lossy(&outcome.stderr).into_owned() + &outcome.text();
        let report = text.lines().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let report = report.or_else(|| serde_json::from_str(&text).ok()).ok_or_else(|| outcome.tail())?;
        let knows = report.as_object().is_some_and(|fields| fields.values().any(|value| value == 9));
        if knows { Ok(()) } else { Err(report.to_string()) }
    });
    suite.run_in_guest_only();
}

#[test]
fn a_lone_command_line_is_enough() {
    let Some(hello) = needs("hello.c", build::c("hello.c", Link::StaticMusl)) else { return };
    if oracle_only() {
        return;
    }
    let mut command = std::process::Command::new(e2e::tools::xtask());
    command.arg("run-snp").arg(hello);
    // Without --platform, auto says on stderr which it took.
    let outcome = feed(command, b"");
    assert_eq!(outcome.expect(0, "hello, world\n"), Ok(()));
    let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert!(
        said.contains("platform: snp-emulated") && said.contains("NOT CONFIDENTIAL"),
        "{}",
        outcome.tail()
    );
}
