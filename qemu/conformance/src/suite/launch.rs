//! What the launch put into memory: contents as in the file, special pages as the PSP fills them, parameters as the host does; all of it validated.

use super::{Guest, quad, word};
use crate::machine::instructions::{UNCHANGED, pvalidate};
use crate::machine::{arena, entry, paging};
use crate::report::Report;
use alloc::vec::Vec;
use conformance::block::{MEASURED, UNMEASURED};

const UPDATE: &str = "ABI, SNP_LAUNCH_UPDATE";
const CPUID: &str = "ABI, CPUID page";
const SECRETS: &str = "ABI, secrets page";
const PARAMETERS: &str = "IGVM, parameters";

pub fn run(guest: &Guest, report: &mut Report) {
    contents(guest, report);
    validated(guest, report);
    cpuid_page(guest, report);
    secrets_page(guest, report);
    parameters(guest, report);
}

fn contents(guest: &Guest, report: &mut Report) {
    let block = &guest.block;
    for (name, at, first) in
        [("a measured page", block.measured, MEASURED), ("an unmeasured page", block.unmeasured, UNMEASURED)]
    {
        let page = guest.page(at);
        let wrong = (0..512).find(|&i| quad(&page, i * 8) != first + i as u64);
        report.equal(format_args!("{name} has the contents of the file"), UPDATE, wrong, None);
    }
    let zero = guest.page(block.zero);
    report.equal("a page without data is zero", UPDATE, zero.iter().position(|&byte| byte != 0), None);
}

fn validated(guest: &Guest, report: &mut Report) {
    let block = &guest.block;
    for (name, at) in [
        ("a measured page", block.measured),
        ("an unmeasured page", block.unmeasured),
        ("a page without data", block.zero),
        ("the CPUID page", block.cpuid),
        ("the secrets page", block.secrets),
        ("the page of the memory map", block.memory_map),
        ("the page of other parameters", block.parameters),
    ] {
        let answer = pvalidate(paging::private(at), 0, true);
        report.equal(format_args!("{name} is validated by the launch"), UPDATE, answer, UNCHANGED);
    }
}

/// EAX_IN, ECX_IN, XCR0_IN, XSS_IN, EAX, EBX, ECX, EDX and the reserved quadword of each entry.
pub type Entry = (u32, u32, u64, u64, [u32; 4], u64);

/// The entries of the CPUID page.
pub fn cpuid_entries(guest: &Guest) -> Vec<Entry> {
    let page = guest.page(guest.block.cpuid);
    let count = (word(&page, 0) as usize).min(64);
    (0..count)
        .map(|i| {
            let at = 16 + 48 * i;
            let value = [24, 28, 32, 36].map(|offset| word(&page, at + offset));
            (
                word(&page, at),
                word(&page, at + 4),
                quad(&page, at + 8),
                quad(&page, at + 16),
                value,
                quad(&page, at + 40),
            )
        })
        .collect()
}

fn cpuid_page(guest: &Guest, report: &mut Report) {
    let page = guest.page(guest.block.cpuid);
    let count = word(&page, 0);
    report.holds("CPUID page: 1 to 64 entries", CPUID, (1..=64).contains(&count), count);
    report.equal("CPUID page: reserved words are zero", CPUID, (word(&page, 4), quad(&page, 8)), (0, 0));
    let entries = cpuid_entries(guest);
    let rest = page.get(16 + 48 * entries.len()..16 + 48 * 64).unwrap_or_default();
    report.equal(
        "CPUID page: nothing behind the entries",
        CPUID,
        rest.iter().position(|&byte| byte != 0),
        None,
    );
    report.equal("CPUID page: reserved in entries", CPUID, entries.iter().find(|entry| entry.5 != 0), None);
    let twice = entries
        .iter()
        .enumerate()
        .find(|&(i, a)| entries.iter().take(i).any(|b| (a.0, a.1, a.2, a.3) == (b.0, b.1, b.2, b.3)));
    report.equal("CPUID page: no entry twice", CPUID, twice, None);
    let find =
        |leaf: u32| entries.iter().find(|entry| entry.0 == leaf).map(|entry| entry.4).unwrap_or_default();
    let sev = find(0x8000_001f);
    report.equal("CPUID 8000_001F EAX: SEV, SEV-ES, SNP", "APM 3, E.4.17", sev[0] & 0x1a, 0x1a);
    report.equal("CPUID 8000_001F EAX: RMPADJUST has VMPLs", "APM 3, E.4.17", sev[0] >> 5 & 1, 1);
    report.holds("CPUID 8000_001F EBX: VMPLs", "APM 3, E.4.17", sev[1] >> 12 & 15 >= 1, sev[1]);
    report.equal(
        "CPUID 8000_001F EBX: the C-bit",
        "APM 3, E.4.17",
        u64::from(sev[1] & 0x3f),
        guest.block.c_bit,
    );
    report.holds(
        "CPUID 8000_0000: the leaf of SEV is covered",
        "APM 3, E.4.1",
        find(0x8000_0000)[0] >= 0x8000_001f,
        find(0x8000_0000),
    );
    report.holds("CPUID 0: a vendor", "APM 3, E.3.1", find(0)[1] != 0, find(0));
    report.equal("CPUID 1 ECX: a hypervisor", "APM 3, E.3.2", find(1)[2] >> 31, 1);
    report.holds(
        "CPUID 8000_0008: physical addresses end at or below the C-bit",
        "APM 2, 15.34.6",
        u64::from(find(0x8000_0008)[0] & 0xff) <= guest.block.c_bit,
        find(0x8000_0008),
    );
}

fn secrets_page(guest: &Guest, report: &mut Report) {
    let page = guest.page(guest.block.secrets);
    let version = word(&page, 0);
    report.holds("secrets page: version 2 or later", SECRETS, version >= 2, version);
    report.equal("secrets page: no migration agent's image", SECRETS, word(&page, 4) & 1, 0);
    let keys: [&[u8]; 4] = [0x20, 0x40, 0x60, 0x80].map(|at| page.get(at..at + 32).unwrap_or_default());
    for (i, key) in keys.iter().enumerate() {
        report.holds(
            format_args!("secrets page: VMPCK{i} is there"),
            SECRETS,
            key.iter().any(|&b| b != 0),
            (),
        );
        let same = keys.iter().skip(i + 1).any(|other| other == key);
        report.holds(format_args!("secrets page: VMPCK{i} is its own"), SECRETS, !same, ());
    }
    let used =
        |range: core::ops::Range<usize>| page.get(range).unwrap_or_default().iter().position(|&b| b != 0);
    report.equal("secrets page: the guest's area is empty", SECRETS, used(0xa0..0x100), None);
    report.equal("secrets page: no SVSM", "SVSM specification", used(0x140..0x15d), None);
    report.equal("secrets page: nothing behind the TSC factor", SECRETS, used(0x164..0x1000), None);
}

fn parameters(guest: &Guest, report: &mut Report) {
    let page = guest.page(guest.block.memory_map);
    let entries: Vec<(u64, u64, u16)> = (0..4096 / 24)
        .map(|i| (quad(&page, i * 24), quad(&page, i * 24 + 8), word(&page, i * 24 + 16) as u16))
        .take_while(|entry| entry.1 != 0)
        .collect();
    report.holds("memory map: it has entries", PARAMETERS, !entries.is_empty(), entries.len());
    let sorted = entries.windows(2).find(|pair| matches!(pair, [a, b] if a.0 + a.1 > b.0));
    report.equal("memory map: sorted, without overlap", PARAMETERS, sorted, None);
    let covers = |start: u64, end: u64| {
        entries.iter().any(|e| e.0 << 12 <= start && (e.0 + e.1) << 12 >= end && e.2 == 0)
    };
    report.holds(
        "memory map: the image is in memory",
        PARAMETERS,
        covers(0x10_0000, guest.block.end),
        &entries,
    );
    report.holds(
        "memory map: the memory for these checks is there",
        PARAMETERS,
        covers(0x10_0000, arena::END),
        &entries,
    );
    let page = guest.page(guest.block.parameters);
    let cpus = word(&page, 0);
    report.holds("VP_COUNT: at least one CPU", PARAMETERS, cpus >= 1, cpus);
    report.equal("ENVIRONMENT_INFO: memory is private at first", PARAMETERS, word(&page, 8) & 1, 0);
    let bss = &entry::STATE;
    report.holds(
        "the image's zeroed data is the guest's",
        UPDATE,
        bss.physical() < guest.block.end,
        bss.physical(),
    );
}
