//! Devices through a host that skips, repeats, postpones and changes.

use super::SOURCE;
use crate::machine::ghcb::{read_port, read_shared, write_port};
use crate::machine::probe;
use crate::report::Report;
use crate::suite::Guest;
use crate::suite::devices::{SCRATCH_REGISTER, fw_cfg_signature};

const FW_CFG_SELECTOR: u16 = 0x510;
const FW_CFG_DATA: u16 = 0x511;
/// Requests after which a postponed one has come.
const PATIENCE: u32 = 16;

/// Writes a register that only keeps what is written, and reads it.
fn keep(value: u64) -> u64 {
    write_port(SCRATCH_REGISTER, 1, value);
    read_port(SCRATCH_REGISTER, 1)
}

pub fn write_skipped(_: &Guest, report: &mut Report) {
    report.equal("a write, at first", SOURCE, keep(0x11), 0x11);
    report.equal("a write that was never done", SOURCE, keep(0x22), 0x11);
}

pub fn write_postponed(_: &Guest, report: &mut Report) {
    report.equal("a write, at first", SOURCE, keep(0x11), 0x11);
    report.equal("a write that was not done yet", SOURCE, keep(0x22), 0x11);
    let comes = (0..PATIENCE).any(|_| read_port(SCRATCH_REGISTER, 1) == 0x22);
    report.holds("a write that comes when nobody writes", SOURCE, comes, ());
}

pub fn read_repeated(_: &Guest, report: &mut Report) {
    // The signature, a byte at each read.
    let first = || {
        write_port(FW_CFG_SELECTOR, 2, 0);
        read_port(FW_CFG_DATA, 1)
    };
    report.equal("the first byte of QEMU's signature, at first", SOURCE, first(), b'Q'.into());
    report.equal("the first byte of QEMU's signature was lost", SOURCE, first(), b'E'.into());
}

pub fn fw_cfg(_: &Guest, report: &mut Report) {
    let (control, to) = (probe::shared_page(), probe::shared_page());
    let signature = || {
        fw_cfg_signature(control, to);
        (read_shared(to) as u32).to_le_bytes()
    };
    report.equal("what fw_cfg reads, at first", SOURCE, signature(), *b"QEMU");
    report.equal("what fw_cfg reads is the host's", SOURCE, signature(), *b"EVIL");
}
