//! The SNP guest in the emulator: the same programs, the same output, and a bound on what boot costs.
//!
//! The other suites run there too: `E2E_PLATFORM=snp-emulated cargo test -p e2e`. Here is what only this platform has: the emulator's counts.

use std::fs;
use std::path::{Path, PathBuf};

use e2e::build::{self, Link};
use e2e::{Program, Suite, needs, work_dir};

const EMULATED: &str = "snp-emulated";

/// Runs on the emulator, and gives the last line of its report.
fn traced(program: Program, report: &Path) -> Result<String, String> {
    let option = report.display().to_string();
    let outcome = program.on(EMULATED).options(["--trace", &option]).guest();
    outcome.expect_status(&[0])?;
    let report = fs::read_to_string(report).map_err(|error| error.to_string())?;
    report.lines().last().map(str::to_owned).ok_or_else(|| "the emulator reported nothing".into())
}

/// A number of the report.
fn number(report: &str, key: &str) -> Result<u64, String> {
    let missing = || format!("no {key} in {report}");
    let at = report.find(&format!("\"{key}\":")).ok_or_else(missing)? + key.len() + 3;
    let digits: String = report[at..].chars().take_while(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| missing())
}

fn report(name: &str) -> PathBuf {
    work_dir("snp").join(format!("{name}.json"))
}

/// ARCHITECTURE's budgets: exits of the whole run of a static program (boot, one line, end), and pages that the PSP measures.
#[test]
fn boot_keeps_its_budget() {
    let Some(hello) = needs("hello.c", build::c("hello.c", Link::StaticMusl)) else { return };
    let report = traced(Program::elf(hello), &report("budget")).unwrap();
    let exits = number(&report, "vmgexits").unwrap();
    let pages = number(&report, "measured_pages").unwrap();
    e2e::note(format!("{exits} exits, {pages} measured pages"));
    assert!(exits <= 200, "{exits} exits");
    assert!(pages <= 128, "{pages} measured pages");
    assert_eq!(number(&report, "implicit_conversions"), Ok(0), "a page was touched the wrong way");
    assert_eq!(number(&report, "walk_alias_pages"), Ok(0), "a page table or code without the C-bit");
}

/// A system call that does no I/O makes no exit; 64 KiB of output make few.
#[test]
fn system_calls_make_no_exits() {
    let Some(elf) = needs("exits.c", build::c("exits.c", Link::StaticMusl)) else { return };
    let exits = |args: &[&str], name: &str| {
        let report = traced(Program::elf(&elf).args(args), &report(name))?;
        number(&report, "vmgexits")
    };
    let few = exits(&["getpid", "1"], "few").unwrap();
    let many = exits(&["getpid", "100000"], "many").unwrap();
    assert_eq!(few, many, "100,000 calls of getpid made exits");
    let nothing = exits(&["write", "0"], "nothing").unwrap();
    let output = exits(&["write", "65536"], "output").unwrap();
    assert!(output <= nothing + 16, "64 KiB to stdout made {} exits", output - nothing);
}

/// Output and status are those of the plain VM.
#[test]
fn programs_run_as_in_a_plain_machine() {
    let mut suite = Suite::new("snp-emulated");
    if let Some(fate) = needs("fate.c", build::c("fate.c", Link::StaticMusl)) {
        for args in
            [&["exit", "3"][..], &["kill", "9"], &["read", "0"], &["privileged"], &["port"], &["overflow"]]
        {
            let program = Program::elf(&fate).args(args);
            suite.check(program.line(), move || {
                program.clone().on(EMULATED).guest().same_as(&program.clone().on("vm").guest())
            });
        }
    }
    for (source, link) in
        [("hello.c", Link::StaticGlibc), ("wild.c", Link::StaticGlibc), ("battery.c", Link::StaticMusl)]
    {
        if let Some(elf) = needs(source, build::c(source, link)) {
            let program = Program::elf(elf);
            suite.check(program.line(), move || {
                program.clone().on(EMULATED).guest().same_as(&program.clone().on("vm").guest())
            });
        }
    }
    suite.run();
}

/// The same on PCI, in a plain VM and as an SNP guest: the image is read, output arrives, input wakes a program that waits for it.
#[test]
fn devices_on_pci() {
    let Some(fate) = needs("fate.c", build::c("fate.c", Link::StaticMusl)) else { return };
    let mut suite = Suite::new("PCI");
    let input = e2e::random::Random::new(5).bytes(200_000);
    for platform in ["vm", EMULATED] {
        let program = |args: &[&str]| Program::elf(&fate).args(args).on(platform).options(["--bus", "pci"]);
        suite.expect(program(&["exit", "3"]), 3, "");
        suite.expect(program(&["cat"]).stdin(input.clone()), 0, input.clone());
        let waits = program(&["cat"]);
        suite.check(format!("{platform}: input that comes late"), move || {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", "(sleep 2; echo late) | \"$@\"", "sh"]);
            let guest = waits.command();
            command.arg(guest.get_program()).args(guest.get_args());
            e2e::program::feed(command, b"").expect(0, "late\n")
        });
    }
    suite.run();
}
