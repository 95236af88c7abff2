//! What exits cost, in ticks of the TSC: a line for each, `NAME<TAB>TICKS`, the best of several rounds. `cargo xtask conformance --measure` makes a table of them.

use crate::machine::console::Console;
use crate::machine::ghcb::{self, BUFFER, Field, IN, Request, code, msr_protocol, port_info, write_shared};
use crate::machine::instructions::pvalidate;
use crate::machine::traps::Frame;
use crate::machine::{arena, cpu, paging, traps};
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering};

/// Rounds, and how often a thing is done in one.
const ROUNDS: u32 = 10;
const TIMES: u64 = 200;
/// A port that nobody has.
const NO_PORT: u16 = 0x2f0;
/// Page state changes.
const PRIVATE: u64 = 1 << 52;
const SHARED: u64 = 2 << 52;
const LARGE: u64 = 1 << 56;

/// Whether VMMCALL is answered by the handler below.
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// #VC at VMMCALL goes on behind it. False: nothing is measured now.
pub fn trap(frame: &mut Frame) -> bool {
    let mine = ACTIVE.load(Ordering::Relaxed) && (frame.vector, frame.error) == (traps::VC, code::VMMCALL);
    if mine {
        frame.rip += 3;
    }
    mine
}

/// Measures, and ends the guest.
pub fn run() -> ! {
    ACTIVE.store(true, Ordering::Relaxed);
    measure("VMMCALL without VMGEXIT: #VC and back", TIMES, |_| {
        // SAFETY: the handler goes on behind it.
        unsafe { core::arch::asm!("vmmcall") };
    });
    measure("WRMSR of the GHCB MSR", TIMES, |_| {
        // SAFETY: the MSR is the guest's own.
        unsafe { cpu::wrmsr(ghcb::MSR, 0x002) };
    });
    measure("MSR protocol: SEV information", TIMES, |_| {
        let _ = msr_protocol(0x002);
    });
    measure("GHCB page: RDTSC", TIMES, |_| {
        Request::new(code::RDTSC, 0, 0).send();
    });
    measure("GHCB page: CPUID", TIMES, |_| {
        Request::new(code::CPUID, 0, 0).with(Field::Rax, 0).with(Field::Rcx, 0).send();
    });
    measure("GHCB page: IN of a port", TIMES, |_| {
        Request::new(code::IOIO, port_info(NO_PORT, 1, IN), 0).with(Field::Rax, 0).send();
    });
    pages();
    ghcb::end(0)
}

/// Page state changes with the validation that goes with them.
fn pages() {
    let first = arena::pages(TIMES);
    let page = |i: u64| first + i * 4096;
    measure("PVALIDATE of 4 KiB, both ways", TIMES, |i| {
        pvalidate(paging::private(page(i)), 0, true);
        pvalidate(paging::private(page(i)), 0, false);
    });
    measure("page state change of 4 KiB, to shared and back", TIMES, |i| {
        change(SHARED | page(i));
        change(PRIVATE | page(i));
    });
    let large = [arena::large(), arena::large()];
    let at = |i: u64| large.get(i as usize % large.len()).copied().unwrap_or_default();
    measure("PVALIDATE of 2 MiB, both ways", 2, |i| {
        pvalidate(paging::private(at(i)), 1, true);
        pvalidate(paging::private(at(i)), 1, false);
    });
    measure("page state change of 2 MiB, to shared and back", 2, |i| {
        change(SHARED | LARGE | at(i));
        change(PRIVATE | LARGE | at(i));
    });
    let fresh = arena::pages(TIMES * u64::from(ROUNDS));
    let mut next = fresh;
    measure("first touch of 4 KiB: validated, mapped by the host, written", TIMES, |_| {
        pvalidate(paging::private(next), 0, true);
        touch(next);
        next += 4096;
    });
}

fn touch(page: u64) {
    // SAFETY: a page of the arena's that has just been validated.
    unsafe { (paging::private(page) as *mut u64).write_volatile(1) };
}

fn change(entry: u64) {
    let buffer = ghcb::page() + BUFFER;
    write_shared(buffer, 0);
    write_shared(buffer + 8, entry);
    Request::new(code::PAGE_STATE, 0, 0).with_buffer().send();
}

/// Does it so often in each round, and says what one time took in the best.
fn measure(what: &str, times: u64, mut act: impl FnMut(u64)) {
    let mut best = u64::MAX;
    for _ in 0..ROUNDS {
        let begin = cpu::rdtsc();
        for i in 0..times {
            act(i);
        }
        best = best.min((cpu::rdtsc() - begin) / times);
    }
    let _ = writeln!(Console, "{what}\t{best}");
}
