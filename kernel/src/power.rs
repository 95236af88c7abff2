//! The machine's three ends: workload over, host attack, kernel bug. Each reaches the launcher as a status of its own.
//!
//! Nothing here allocates, takes a lock or goes through GS: it must work from a double fault.

use crate::host::HOST;
use crate::mm::heap;
use crate::mm::layout::c_bit;
use crate::snp;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};
use litebox_core::platform::{Attack, ExitStatus};
use platform_snp::exit::{self, Ending};
use platform_snp::snp::Violation;
use platform_snp::uart::{COM1, Uart};
use x86_64::instructions::{hlt, interrupts, tables};
use x86_64::structures::DescriptorTablePointer;

/// The signal that a process which used up all memory dies of.
const SIGKILL: u8 = 9;

/// The end has begun: a second failure on the way does not start it again.
static ENDING: AtomicBool = AtomicBool::new(false);

fn end(ending: Ending, why: fmt::Arguments<'_>) -> ! {
    interrupts::disable();
    // Before there is a GHCB, and while a request is under way, only the MSR protocol below is left.
    if HOST.ghcb().map_or(c_bit() == 0, |ghcb| !ghcb.is_busy()) {
        if !ENDING.swap(true, Ordering::Relaxed) {
            exit::announce(&Uart::attach(&HOST, COM1), ending, why);
        }
        exit::power_off(&HOST);
    }
    if c_bit() != 0 {
        snp::terminate(match ending {
            Ending::Status(_) => Violation::NotSwitchedOff,
            Ending::Attack(Attack::ImageTampered) => Violation::ImageTampered,
            Ending::Attack(Attack::BadInterrupt) => Violation::BadInterrupt,
            Ending::Attack(_) => Violation::BadDevice,
            Ending::Bug => Violation::Bug,
        });
    }
    // The host has no debug-exit device, or ignores it: a triple fault resets the machine.
    let nothing = DescriptorTablePointer { limit: 0, base: x86_64::VirtAddr::zero() };
    // SAFETY: nothing runs after this.
    unsafe {
        tables::lidt(&nothing);
        core::arch::asm!("ud2", options(nomem, nostack));
    }
    loop {
        hlt();
    }
}

/// The workload has ended, or could not be started.
pub fn off(status: ExitStatus, why: fmt::Arguments<'_>) -> ! {
    end(Ending::Status(status), why)
}

/// What the launcher gave makes no sense.
pub fn bad_launch(why: fmt::Arguments<'_>) -> ! {
    end(Ending::Status(ExitStatus::BadLaunch), why)
}

/// The host does not give what it must. In a plain VM that is a launch that went wrong; in an SNP guest nobody but the host can be at fault, and what it says about it
/// is worth nothing.
pub fn bad_host(why: fmt::Arguments<'_>) -> ! {
    match c_bit() {
        0 => bad_launch(why),
        _ => attack(Attack::BadDevice, why),
    }
}

/// The host attacked.
pub fn attack(attack: Attack, what: fmt::Arguments<'_>) -> ! {
    end(Ending::Attack(attack), what)
}

/// A panic: a bug of ours, or an allocation of the kernel's that failed. The latter is the workload's doing, which has used up all memory down to the
/// kernel's reserve, and since there is no way back from within an allocation, it ends as a page fault would have ended it.
pub fn panic(info: &PanicInfo<'_>) -> ! {
    let mut message = Prefix("memory allocation of ");
    // It stops with an error where the text goes another way.
    let _ = write!(message, "{}", info.message());
    if heap::is_exhausted() && message.0.is_empty() {
        crate::log::line(format_args!("out of memory: the workload is killed; give it more with --memory"));
        end(Ending::Status(ExitStatus::Signaled(SIGKILL)), format_args!(""))
    }
    end(Ending::Bug, format_args!("{info}"))
}

/// What a text must still begin with.
struct Prefix(&'static str);

impl fmt::Write for Prefix {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let len = text.len().min(self.0.len());
        let (expected, rest) = self.0.split_at_checked(len).ok_or(fmt::Error)?;
        if !text.starts_with(expected) {
            return Err(fmt::Error);
        }
        self.0 = rest;
        Ok(())
    }
}
