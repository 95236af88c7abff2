//! Programs that mean harm: wild pointers, random system calls, forged executables, and a host that alters the image.
//!
//! Whatever they do, the run ends with a status that belongs to them (126, their own, or 128+N), never with 122 and never not at all.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use e2e::build::{self, Link};
use e2e::random::Random;
use e2e::tools::oracle_only;
use e2e::{Outcome, Program, Suite, needs, tree, work_dir};

/// Statuses that say that the kernel, the launcher or the clock ended the run, and not the program.
const NOT_ITS_OWN: [i32; 4] = [121, 122, 124, 125];

fn its_own(outcome: &Outcome) -> Result<(), String> {
    if NOT_ITS_OWN.contains(&outcome.status) {
        return Err(format!("status {}{}", outcome.status, outcome.tail()));
    }
    Ok(())
}

#[test]
fn wild_pointers_are_efault() {
    let Some(elf) = needs("wild.c", build::c("wild.c", Link::StaticGlibc)) else { return };
    let outcome = Program::elf(elf).guest();
    e2e::note(outcome.text().lines().last().unwrap_or("wild.c said nothing"));
    assert_eq!(outcome.expect_status(&[0]), Ok(()), "{}", outcome.text());
}

/// What Linux 6.18 says is in `arguments.txt`: the answers of older ones differ here and there, so the host is not asked.
#[test]
fn odd_arguments_get_the_answers_that_linux_gives() {
    let Some(elf) = needs("arguments.c", build::c("arguments.c", Link::StaticGlibc)) else { return };
    let expected = std::fs::read(e2e::tools::repository().join("tests/programs/arguments.txt"));
    assert_eq!(Program::elf(elf).guest().expect(0, expected.expect("read the answers")), Ok(()));
}

/// What user mode does with instructions, flags and registers ends the program as on Linux, and nothing else.
#[test]
fn the_processor_is_no_way_in() {
    let Some(elf) = needs("processor.c", build::c("processor.c", Link::StaticGlibc)) else { return };
    const TRAP: i32 = 128 + 5;
    const BUS: i32 = 128 + 7;
    const FPE: i32 = 128 + 8;
    const SEGV: i32 = 128 + 11;
    const XFSZ: i32 = 128 + 25;
    let mut suite = Suite::new("processor");
    for (what, number, status, stdout) in [
        ("trap-flag", "", TRAP, ""),
        ("trap-syscall", "", TRAP, ""),
        ("mov-ss", "", TRAP, ""),
        ("mov-ss-int3", "", TRAP, ""),
        ("flags", "", 0, "1 244602\n"),
        ("nested-iret", "", SEGV, ""),
        ("stack", "", 0, ""),
        ("kernel-stack", "", SEGV, ""),
        ("end", "", SEGV, ""),
        ("segments", "", 0, "alive\n"),
        ("swapgs", "", SEGV, ""),
        ("sysret", "", SEGV, ""),
        ("msr", "", SEGV, ""),
        ("int", "2", SEGV, ""),
        ("int", "14", SEGV, ""),
        ("int", "32", SEGV, ""),
        ("far", "8", SEGV, ""),
        ("align", "", 0, "33\n"),
        ("fpu", "", FPE, ""),
        ("vectors", "", 0, "kept\n"),
        ("truncated", "0", BUS, ""),
        ("truncated", "1", BUS, ""),
        ("file-size", "", XFSZ, "3\n"),
    ] {
        let program = Program::elf(&elf).args([what, number]);
        suite.check(program.line(), move || program.guest().expect(status, stdout));
    }
    suite.run();
}

/// A signal frame is the program's to change: what the CPU would refuse ends in SIGSEGV, as on Linux.
#[test]
fn forged_signal_frames() {
    let Some(elf) = needs("sigframe.c", build::c("sigframe.c", Link::StaticGlibc)) else { return };
    let mut suite = Suite::new("signal frames");
    let cases = "mxcsr unused misaligned unmapped kernel-state no-state huge kernel-cs kernel-ss kernel-rip end-rip noncanonical-rip flags";
    // The emulator's CPU has no XSAVE, and a frame there no header that could be forged; the host's has.
    let of_xsave =
        if e2e::tools::platform() == "snp-emulated" { "" } else { "components compacted reserved" };
    for case in cases.split_whitespace().chain(of_xsave.split_whitespace()) {
        suite.compare(Program::elf(&elf).args([case]));
    }
    for seed in ["1", "2", "3"] {
        suite.expect(Program::elf(&elf).args(["random", seed]), 0, "1\n");
    }
    suite.run();
}

/// Whatever is used up, the program gets an error or is killed (137), and the kernel lives.
#[test]
fn what_is_used_up_ends_the_program_at_most() {
    let Some(elf) = needs("exhaust.c", build::c("exhaust.c", Link::StaticGlibc)) else { return };
    if oracle_only() {
        return;
    }
    let mut suite = Suite::new("exhaustion");
    // `crumbs` makes sixteen thousand areas, which takes a minute on a busy host.
    let run = |args: &[&str]| Program::elf(&elf).args(args).options(["--memory", "64M"]).timeout(300);
    for (what, status, stdout) in [
        ("pipes", 137, ""),
        ("areas", 0, "many areas, maps shows them\n"),
        ("directories", 0, "mkdir: No space left on device\n"),
        ("deep", 0, "mkdir: No space left on device\n"),
        ("memory-files", 137, ""),
        ("shared", 137, ""),
        ("tables", 137, ""),
        ("crumbs", 0, "polled\n"),
    ] {
        let program = run(&[what]);
        suite.check(program.line(), move || program.guest().expect(status, stdout));
    }
    for what in ["pipes", "directories", "links", "files"] {
        let program = run(&[what, "full"]);
        suite.check(program.line(), move || program.guest().expect(137, ""));
    }
    suite.run_in_guest_only();
}

/// A tree with a fuzzer and files that it must not change.
fn fuzzer(elf: &Path) -> PathBuf {
    let contents = std::fs::read(elf).expect("read the fuzzer");
    let sum = contents.iter().fold(0u64, |sum, &byte| sum.rotate_left(5) ^ u64::from(byte));
    match tree::Tree::start(&format!("fuzz-{sum:016x}")) {
        Err(place) => place,
        Ok(tree) => {
            tree.file("bin/sysfuzz", 0o755, contents);
            tree.file("keep/canary", 0o644, Random::new(3).bytes(50_000));
            tree.finish()
        }
    }
}

fn fuzz(seeds: impl Iterator<Item = u64>, calls: u32) {
    let Some(elf) = needs("sysfuzz.c", build::c("sysfuzz.c", Link::StaticGlibc)) else { return };
    let root = fuzzer(&elf);
    let canary = std::fs::read(root.join("keep/canary")).expect("read the canary");
    let mut suite = Suite::new("random system calls");
    for seed in seeds {
        let args = [seed.to_string(), calls.to_string(), "/keep/canary".into()];
        let program =
            Program::within(&root, "/bin/sysfuzz").args(args).options(["--memory", "1G"]).timeout(300);
        suite.check(program.line(), move || {
            let outcome = program.guest();
            // Random calls can take all memory, and then the process is killed, as on Linux: no failure of the kernel's.
            const OUT_OF_MEMORY: i32 = 128 + 9;
            if outcome.expect_status(&[OUT_OF_MEMORY]).is_ok() {
                return Ok(());
            }
            outcome.expect(0, format!("{calls} calls, canary unchanged\n"))
        });
    }
    suite.run_in_guest_only();
    assert!(
        std::fs::read(root.join("keep/canary")).is_ok_and(|now| now == canary),
        "the host's file changed"
    );
}

#[test]
fn random_system_calls() {
    fuzz(1..=10, 100_000);
}

#[test]
#[ignore = "takes long: a million calls for each of forty seeds"]
fn random_system_calls_for_long() {
    fuzz(100..140, 1_000_000);
}

/// Offsets of the fields that forgers like, in the file header and in the first four program headers.
fn fields() -> Vec<(usize, usize)> {
    let mut fields =
        vec![(4, 1), (5, 1), (6, 1), (16, 2), (18, 2), (20, 4), (24, 8), (32, 8), (52, 2), (54, 2), (56, 2)];
    for header in 0..4 {
        let at = 64 + header * 56;
        fields.extend([
            (at, 4),
            (at + 4, 4),
            (at + 8, 8),
            (at + 16, 8),
            (at + 32, 8),
            (at + 40, 8),
            (at + 48, 8),
        ]);
    }
    fields
}

/// Values that forgers like.
const VALUES: [u64; 12] = [
    0,
    1,
    2,
    3,
    0xfff,
    0x7fff_ffff_f000,
    0x8000_0000_0000,
    0xffff_8000_0000_0000,
    0xffff_ffff_8000_0000,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_f000,
    u64::MAX,
];

/// Runs mutations of a program, chosen by the seed.
fn forge(seed: u64, count: usize) {
    let Some(elf) = needs("hello.c", build::c("hello.c", Link::StaticMusl)) else { return };
    let whole = std::fs::read(elf).expect("read the program");
    let dir = work_dir("forged");
    let mut random = Random::new(seed);
    let fields = fields();
    let mut suite = Suite::new("forged executables");
    for index in 0..count {
        let mut bytes = whole.clone();
        let what = match index % 4 {
            // Anything in the headers.
            0 => {
                let at = 4 + random.below(64 + 5 * 56 - 4);
                bytes[at] = random.next_u64() as u8;
                format!("byte {at} = {:#x}", bytes[at])
            }
            // A field with a value that somebody forgot to check.
            1 | 2 => {
                let (at, size) = fields[random.below(fields.len())];
                let value = VALUES[random.below(VALUES.len())];
                bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
                format!("{size} bytes at {at} = {value:#x}")
            }
            _ => {
                bytes.truncate(random.below(whole.len()));
                format!("{} of {} bytes", bytes.len(), whole.len())
            }
        };
        let path = dir.join(format!("{seed}-{index}"));
        std::fs::write(&path, bytes).expect("write a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        suite.check(what, move || its_own(&Program::elf(&path).timeout(20).guest()));
    }
    suite.run_in_guest_only();
}

#[test]
fn forged_executables() {
    forge(1, 60);
}

#[test]
#[ignore = "takes long: two thousand virtual machines"]
fn many_forged_executables() {
    forge(2, 2000);
}

/// The image that `run-snp` says it ran, damaged at several places, ends the VM with 121.
#[test]
fn a_tampered_image_is_an_attack() {
    let Some(hello) = needs("hello.c", build::c("hello.c", Link::StaticMusl)) else { return };
    if oracle_only() {
        return;
    }
    let root = match tree::Tree::start("tampered-1") {
        Err(place) => place,
        Ok(tree) => {
            tree.file("bin/hello", 0o755, std::fs::read(hello).expect("read hello"));
            tree.finish()
        }
    };
    let program = Program::within(&root, "/bin/hello");
    assert_eq!(program.guest().expect(0, "hello, world\n"), Ok(()));
    let mut suite = Suite::new("tampered image");
    // The superblock, the program's first page, and a block of the hash tree (offsets from the end are negative).
    for offset in ["1024", "4096", "8192", "-4096", "-1"] {
        let program = program.clone().options(["--test-tamper", offset]);
        suite.check(format!("byte {offset}"), move || {
            let outcome = program.guest();
            outcome.expect(121, "")?;
            if outcome.stderr.is_empty() { Err("121 without a reason".into()) } else { Ok(()) }
        });
    }
    suite.run();
}
