//! The checks, a file for each subject, and the order they are made in.

pub mod devices;
mod entry;
mod interrupts;
pub mod launch;
mod msr_protocol;
mod page_state;
mod processors;
pub mod psp;
mod pvalidate;
mod requests;
mod rmpadjust;
mod vc;

use crate::machine::{arena, entry as entered, ghcb, give_up, paging, probe, start_heap, traps};
use crate::report::Report;
use crate::{endings, measure, naive};
use conformance::attack::Attack;
use conformance::block::{Block, MAGIC};
use conformance::scenario::Scenario;
use zerocopy::FromBytes;

/// CPUs that the guest can use.
pub const CPUS: usize = 8;

/// What the checks know of the launch.
pub struct Guest {
    /// The launch block.
    pub block: Block,
}

impl Guest {
    /// A copy of a launched page, in the image's mapping.
    pub fn page(&self, gpa: u64) -> [u8; 4096] {
        // SAFETY: the first GiB is mapped there, privately, and the page was launched, so it is validated.
        unsafe { ((entered::BASE + gpa) as *const [u8; 4096]).read_volatile() }
    }
}

/// A quadword of a page.
pub fn quad(page: &[u8], at: usize) -> u64 {
    page.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// A doubleword of a page.
pub fn word(page: &[u8], at: usize) -> u32 {
    page.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Called by the entry with the launch block's address.
pub extern "C" fn main(block: u64) -> ! {
    start_heap();
    // SAFETY: the launch block's page, by the image's builder, in the image's mapping.
    let page = unsafe { ((entered::BASE + block) as *const [u8; 4096]).read_volatile() };
    let Ok((block, _)) = Block::read_from_prefix(&page) else { give_up(format_args!("no launch block")) };
    if block.magic != MAGIC {
        give_up(format_args!("no launch block"));
    }
    paging::switch(block.c_bit as u32);
    // SAFETY: this CPU's number, where `traps::this_cpu` looks for it: the first.
    unsafe { crate::machine::cpu::wrmsr(0xc000_0101, 0) };
    traps::start();
    let ghcb_page = arena::page();
    ghcb::share(ghcb_page);
    ghcb::start(0, ghcb_page);
    let guest = Guest { block };
    match Scenario::from_number(block.scenario) {
        Some(Scenario::Checks) => checks(&guest),
        Some(Scenario::Measure) => measure::run(),
        Some(Scenario::Naive) => match Attack::from_number(block.attack) {
            Some(attack) => naive::run(&guest, attack),
            None => give_up(format_args!("no attack {}", block.attack)),
        },
        Some(scenario) => endings::run(scenario),
        None => give_up(format_args!("no scenario {}", block.scenario)),
    }
}

/// A subject: its name, and the function that makes the checks.
type Chapter = (&'static str, fn(&Guest, &mut Report));

fn checks(guest: &Guest) -> ! {
    probe::start();
    let mut report = Report::default();
    let chapters: &[Chapter] = &[
        ("entry state", entry::run),
        ("launch", launch::run),
        ("MSR protocol", msr_protocol::run),
        ("PVALIDATE", pvalidate::run),
        ("RMPADJUST", rmpadjust::run),
        ("#VC", vc::run),
        ("GHCB page", requests::run),
        ("page state changes", page_state::run),
        ("ports and devices", devices::run),
        ("guest messages", psp::run),
        ("interrupts", interrupts::run),
        ("processors", processors::run),
    ];
    for (name, run) in chapters {
        report.chapter(name);
        run(guest, &mut report);
    }
    ghcb::end(u64::from(!report.sum()))
}

/// For a scenario: creates a CPU from a state that hardware refuses to run.
pub fn create_broken_cpu() {
    use crate::machine::processor;
    let state = processor::state(1);
    // EFER without SVME.
    processor::set(state, 0xd0, 0xd00);
    processor::make_vmsa(state);
    processor::request(1, 1, 0, state, processor::FEATURES);
    processor::wait(|| false);
}

/// For a scenario: tells fw_cfg to write into a private page.
pub fn device_to_private() {
    let (control, page) = (probe::shared_page(), probe::validated_page());
    devices::fw_cfg_signature(control, page);
}
