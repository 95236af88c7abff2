//! What the host deposits at the launch.

use super::{SOURCE, read, write};
use crate::machine::probe::validated_page;
use crate::report::Report;
use crate::suite::launch::cpuid_entries;
use crate::suite::{Guest, quad, word};

/// RDRAND, CPUID leaf 1, ECX.
const RDRAND: u32 = 1 << 30;

pub fn memory_hidden(guest: &Guest, report: &mut Report) {
    let map = guest.page(guest.block.memory_map);
    let end = (0..4096 / 24)
        .map(|i| (quad(&map, i * 24), quad(&map, i * 24 + 8)))
        .take_while(|entry| entry.1 != 0)
        .map(|entry| (entry.0 + entry.1) << 12)
        .max();
    let page = validated_page();
    write(page, 1);
    report.equal("there is memory", SOURCE, read(page), 1);
    report.holds("it is in no entry of the map", SOURCE, end.is_some_and(|end| end <= page), end);
}

pub fn cpus_invented(guest: &Guest, report: &mut Report) {
    let count = word(&guest.page(guest.block.parameters), 0);
    report.equal("the number of CPUs", SOURCE, count, 1_000_000);
}

pub fn features_hidden(guest: &Guest, report: &mut Report) {
    let said = cpuid_entries(guest).iter().find(|entry| entry.0 == 1).map_or(0, |entry| entry.4[2]);
    let (mut number, mut good) = (0u64, 0u8);
    // The first can fail on a busy machine; ten cannot.
    for _ in 0..10 {
        // SAFETY: changes two registers; a CPU without it raises #UD, which ends the guest.
        unsafe { core::arch::asm!("rdrand {0}", "setc {1}", inout(reg) number, inout(reg_byte) good) };
        if good != 0 {
            break;
        }
    }
    report.holds("the CPU has random numbers", SOURCE, good != 0, number);
    report.equal("the CPUID page says that it has none", SOURCE, said & RDRAND, 0);
}

/// The PSP stops it: there is no guest that could find the lie.
pub fn features_invented(_: &Guest, report: &mut Report) {
    report.equal(
        "the PSP refuses a CPUID page with more than the CPU has",
        SOURCE,
        "launched",
        "not launched",
    );
}
