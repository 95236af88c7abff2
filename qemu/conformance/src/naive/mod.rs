//! A guest that defends itself against nothing, to see that each attack of the emulator's host bites.
//!
//! It believes what the host says, reads what it has checked again, looks at no flag of PVALIDATE, validates what is not validated whenever it meets it, and takes every
//! exception for what it says it is. Here *passed* means that the attack worked: the guest believes, has or does something that is wrong. What it has with an honest
//! host is looked at first, or is what the check fails with where there is no script. Where SNP shows an attack even to such a guest, or stops it, that is what the check
//! says; how a guest that was stopped ended is in the script (`malice/NAME.toml`).
//!
//! A script waits for a cue: a write to a port that no device has.

mod answers;
mod devices;
mod events;
mod launch;
mod pages;
mod psp;

use crate::machine::ghcb::{self, Field, Request, code};
use crate::machine::traps::{self, Frame};
use crate::machine::{instructions, paging, processor};
use crate::report::Report;
use crate::suite::Guest;
use conformance::attack::Attack;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What every check here goes by.
const SOURCE: &str = "a guest without defences";
/// The port of the cue.
const CUE: u16 = 0x2f0;
/// #VC: the page is not validated.
const NOT_VALIDATED: u64 = 0x404;
/// #VC: nothing is mapped by the host, as for device memory.
const NOT_MAPPED: u64 = 0x400;

/// Waits for the attack and says what it did; then ends the guest.
pub fn run(guest: &Guest, attack: Attack) -> ! {
    ACTIVE.store(true, Ordering::Relaxed);
    let mut report = Report::default();
    let check: fn(&Guest, &mut Report) = match attack {
        Attack::PageUnmapped => pages::unmapped,
        Attack::SharedPageRemapped => pages::shared_remapped,
        Attack::PrivatePageRemapped => pages::private_remapped,
        Attack::PageReplaced => pages::replaced,
        Attack::PagesSwapped => pages::swapped,
        Attack::PrivatePageReplayed => pages::private_replayed,
        Attack::SharedPageReplayed => pages::shared_replayed,
        Attack::ValidatedBehind => pages::validated_behind,
        Attack::CiphertextChanged => pages::ciphertext_changed,
        Attack::CheckAndUse => pages::check_and_use,
        Attack::GhcbCheckAndUse => answers::check_and_use,
        Attack::EveryFieldLies => answers::every_field,
        Attack::MsrAnswerLies => answers::msr,
        Attack::MsrRefused => answers::msr_refused,
        Attack::ForgedException => answers::forged_exception,
        Attack::WriteSkipped => devices::write_skipped,
        Attack::ReadRepeated => devices::read_repeated,
        Attack::WritePostponed => devices::write_postponed,
        Attack::AnsweredLate => answers::late,
        Attack::Int80 => events::int_80,
        Attack::Nmi => events::nmi,
        Attack::PageFault => events::page_fault,
        Attack::SoftwareInterrupt => events::software_interrupt,
        Attack::ForgedVc => events::forged_vc,
        Attack::Hv => events::hv,
        Attack::TimeGoesBack => events::time_goes_back,
        Attack::FwCfgData => devices::fw_cfg,
        Attack::MemoryHidden => launch::memory_hidden,
        Attack::CpusInvented => launch::cpus_invented,
        Attack::FeaturesHidden => launch::features_hidden,
        Attack::FeaturesInvented => launch::features_invented,
        Attack::ReplyCorrupted => psp::reply_corrupted,
        Attack::ReplyReplayed => psp::reply_replayed,
        Attack::QuestionCorrupted => psp::question_corrupted,
        Attack::WrongSequence => psp::wrong_sequence,
        Attack::MessageRefused => psp::message_refused,
    };
    check(guest, &mut report);
    ghcb::end(u64::from(!report.sum()))
}

/// Tells the script that it is time.
fn cue() {
    ghcb::write_port(CUE, 1, 0);
}

/// Reads private memory; what #VC says about it is believed.
fn read(gpa: u64) -> u64 {
    // SAFETY: the window maps all memory, and nothing of Rust's is in the pages of the arena.
    unsafe { processor::read(paging::private(gpa)) }
}

/// Writes private memory.
fn write(gpa: u64, value: u64) {
    processor::set(gpa, 0, value);
}

/// Whether the naive guest runs.
static ACTIVE: AtomicBool = AtomicBool::new(false);
/// How often a #VC said that a page is not validated.
static VALIDATIONS: AtomicU64 = AtomicU64::new(0);
/// Vector, error code and number of the events that it had.
static EVENT: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// How often the guest validated a page because it was not.
fn validations() -> u64 {
    VALIDATIONS.load(Ordering::Relaxed)
}

/// The last event's vector and error code, and how many there were.
fn event() -> (u64, u64, u64) {
    let [vector, error, count] = &EVENT;
    (vector.load(Ordering::Relaxed), error.load(Ordering::Relaxed), count.load(Ordering::Relaxed))
}

/// Takes an exception or interrupt as what it says it is. False: the naive guest does not run.
pub fn trap(frame: &mut Frame) -> bool {
    if !ACTIVE.load(Ordering::Relaxed) {
        return false;
    }
    match (frame.vector, frame.error) {
        (traps::VC, NOT_VALIDATED) if processor::is_reading(frame) => {
            VALIDATIONS.fetch_add(1, Ordering::Relaxed);
            instructions::pvalidate(frame.rdi() & !0xfff, 0, true);
        }
        // Device memory, it seems: the host has the value.
        (traps::VC, NOT_MAPPED) if processor::is_reading(frame) => {
            let gpa = frame.rdi() - paging::private(0);
            processor::finish_read(frame, ghcb::read_mmio(gpa, 8));
        }
        // VMMCALL, it seems: the host gets RAX, and gives it.
        (traps::VC, code::VMMCALL) => {
            let request = Request::new(code::VMMCALL, 0, 0).with(Field::Cpl, 0);
            frame.set_rax(request.with(Field::Rax, frame.rax()).send().rax);
            frame.rip += 3;
            note(frame);
        }
        _ => note(frame),
    }
    true
}

fn note(frame: &Frame) {
    let [vector, error, count] = &EVENT;
    vector.store(frame.vector, Ordering::Relaxed);
    error.store(frame.error, Ordering::Relaxed);
    count.fetch_add(1, Ordering::Relaxed);
}
