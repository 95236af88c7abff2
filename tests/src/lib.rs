//! The harness of the end-to-end tests: run a program in the guest and on Linux, and compare.
//!
//! A [`Program`] describes one run (files, arguments, environment, input); [`Program::guest`] gives it to
//! `xtask run-snp` exactly as a user would type it, [`Program::host`] runs the same thing on this machine in the same tree.
//! Linux is the oracle wherever the two can be compared; what only our launcher defines (see `xtask run-snp --help`)
//! is asserted directly.
//!
//! Everything that is fetched, built or generated lives under `target/e2e/`, is keyed by what it is made
//! from, and is reused by the next run. A tool that is missing is installed when that is allowed, and the test
//! is skipped, with the reason on stderr, when it is not.

pub mod attestation;
pub mod build;
// The launcher's, which is a program and not a library.
#[path = "../../xtask/src/bench/cpio.rs"]
pub mod cpio;
pub mod debian;
pub mod emulated;
pub mod outcome;
pub mod program;
pub mod random;
pub mod suite;
pub mod tools;
pub mod tree;

pub use outcome::Outcome;
pub use program::Program;
pub use suite::Suite;
pub use tools::{needs, note, work_dir};
