//! Programs that are linked with the kernel: its self-test, and the example on the North.

use e2e::build::{self, Link};
use e2e::tools::oracle_only;
use e2e::{Program, needs};

fn boot(package: &str) -> Option<e2e::Outcome> {
    if oracle_only() {
        return None;
    }
    // The launcher wants a program to pack, though nothing runs it here.
    let hello = needs("hello.c", build::c("hello.c", Link::StaticMusl))?;
    Some(Program::elf(hello).options(["--kernel", package]).guest())
}

/// Page tables, user access, guard pages, heap, entropy, threads: the kernel's own checks.
#[test]
fn the_kernel_checks_itself() {
    let Some(outcome) = boot("selftest") else { return };
    assert_eq!(outcome.expect_status(&[0]), Ok(()));
    let text = outcome.text();
    assert!(text.contains("7 passed, 0 failed"), "{text}");
}

/// Files by function calls, without ring 3.
#[test]
fn a_linked_in_program_uses_the_north() {
    let Some(outcome) = boot("north") else { return };
    let expected = "/tmp/note has 25 bytes: \"written by function calls\"\n/no/such/file: ENOENT\n";
    assert_eq!(outcome.expect(0, expected), Ok(()));
}
