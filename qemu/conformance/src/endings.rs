//! What ends a guest: a boot for each. The test that starts them knows how each must be reported.

use crate::machine::ghcb::{self, code, msr_protocol};
use crate::machine::instructions::pvalidate;
use crate::machine::traps::{self, Gate};
use crate::machine::{arena, cpu, paging, probe};
use conformance::scenario::Scenario;

/// Does it. What comes back has not ended the guest: the debug-exit port says so with status 3.
pub fn run(scenario: Scenario) -> ! {
    match scenario {
        Scenario::Checks | Scenario::Measure | Scenario::Naive => {}
        Scenario::TerminateGeneral => drop(msr_protocol(0x0100)),
        Scenario::TerminateProtocol => drop(msr_protocol(1 << 16 | 0x100)),
        Scenario::TerminateNoSnp => drop(msr_protocol(2 << 16 | 0x100)),
        Scenario::TerminateUnknown => drop(msr_protocol(0x42 << 16 | 0x7 << 12 | 0x100)),
        Scenario::TerminatePage => drop(ghcb::Request::new(code::TERMINATE, 0x42 << 4 | 0x7, 0).send()),
        Scenario::UnknownMsrRequest => drop(msr_protocol(0x7ff)),
        Scenario::PrivateGhcb => use_ghcb(arena::page()),
        Scenario::MissingGhcb => use_ghcb(1 << 45),
        Scenario::PrivateAccessToShared => {
            let page = probe::shared_page();
            touch(paging::private(page));
        }
        Scenario::SharedWriteToPrivate => {
            let page = probe::validated_page();
            touch(paging::shared(page));
        }
        Scenario::PrivateAccessToNothing => touch(paging::private(0xd000_0000)),
        Scenario::NoHandler => {
            traps::set_gate(traps::VC, Gate { absent: true, ..Gate::default() });
            // SAFETY: what it does is the point: #VC.
            unsafe { core::arch::asm!("wbinvd") };
        }
        Scenario::Halt => {
            // SAFETY: interrupts are off: nothing comes after it.
            unsafe { core::arch::asm!("cli", "hlt") };
        }
        Scenario::TripleFault => {
            let nothing = traps::Pointer { limit: 0, base: 0 };
            // SAFETY: without handlers nothing of Rust's is executed any more.
            unsafe { core::arch::asm!("lidt [{}]", "ud2", in(reg) &nothing) };
        }
        Scenario::Reset => drop(ghcb::write_port(0xcf9, 1, 6)),
        Scenario::BadVmsa => crate::suite::create_broken_cpu(),
        Scenario::DeviceToPrivate => crate::suite::device_to_private(),
    }
    ghcb::end(3)
}

fn touch(address: u64) {
    // SAFETY: the address is mapped, and nothing of Rust's is there; the write is what ends the guest.
    unsafe { (address as *mut u64).write_volatile(1) };
}

/// Uses a page as GHCB that is none.
fn use_ghcb(page: u64) {
    if page < arena::END {
        pvalidate(paging::private(page), 0, true);
    }
    // SAFETY: the MSR is the guest's own.
    unsafe { cpu::wrmsr(ghcb::MSR, page) };
    ghcb::vmgexit();
}
