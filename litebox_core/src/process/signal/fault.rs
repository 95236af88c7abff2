//! What user mode did wrong, as a signal (`arch/x86/kernel/traps.c` and `mm/fault.c` of Linux say which; `sigaction(2)` names the codes).

use super::frame::FaultRegisters;
use super::info::{Info, code};
use super::sig;
use crate::mm::FaultError;
use crate::platform::{Access, Exception, PageFault, Platform, Registers};
use crate::process::Thread;

/// Vectors, for `sigcontext`.
fn vector(exception: Exception) -> u64 {
    match exception {
        Exception::DivideError => 0,
        Exception::Debug => 1,
        Exception::Breakpoint => 3,
        Exception::InvalidOpcode => 6,
        Exception::Stack => 12,
        Exception::Protection => 13,
        Exception::FloatingPoint => 16,
        Exception::Alignment => 17,
        Exception::Simd => 19,
    }
}

/// `si_code` for the exceptions of floating point that happened and are not masked (bits as in the x87 status word and in MXCSR).
fn floating_point(happened: u16) -> i32 {
    match happened {
        // Invalid operation; division by zero; overflow; underflow or denormal operand; precision.
        e if e & 1 != 0 => code::FPE_FLTINV,
        e if e & 4 != 0 => code::FPE_FLTDIV,
        e if e & 8 != 0 => code::FPE_FLTOVF,
        e if e & 0x12 != 0 => code::FPE_FLTUND,
        e if e & 0x20 != 0 => code::FPE_FLTRES,
        _ => 0,
    }
}

impl<P: Platform> Thread<P> {
    /// The control and status words of the vector state: x87's two, and MXCSR.
    fn fpu_status(&self) -> (u16, u16, u32) {
        let mut state = alloc::vec![0; self.platform().fpu_size()];
        self.platform().save_fpu(&mut state);
        let word = |at: usize| {
            u16::from_le_bytes(state.get(at..at + 2).and_then(|b| b.try_into().ok()).unwrap_or_default())
        };
        (word(0), word(2), u32::from(word(24)) | u32::from(word(26)) << 16)
    }

    /// Sends the signal of an exception that the instruction at `registers` raised.
    pub fn exception(&self, exception: Exception, registers: &Registers) {
        let rip = registers.rip;
        let info = match exception {
            Exception::DivideError => Info::fault(sig::FPE, code::FPE_INTDIV, rip),
            Exception::Debug => Info::fault(sig::TRAP, code::TRAP_TRACE, rip),
            Exception::Breakpoint => Info::kernel(sig::TRAP),
            Exception::InvalidOpcode => Info::fault(sig::ILL, code::ILL_ILLOPN, rip),
            Exception::Protection => Info::kernel(sig::SEGV),
            Exception::Stack => Info::kernel(sig::BUS),
            Exception::Alignment => Info::fault(sig::BUS, code::BUS_ADRALN, 0),
            Exception::FloatingPoint => {
                let (control, status, _) = self.fpu_status();
                Info::fault(sig::FPE, floating_point(status & !control), rip)
            }
            Exception::Simd => {
                let (_, _, mxcsr) = self.fpu_status();
                Info::fault(sig::FPE, floating_point((mxcsr & !(mxcsr >> 7)) as u16), rip)
            }
        };
        let cr2 = self.signals.lock().fault.cr2;
        self.force_fault(info, FaultRegisters { trap: vector(exception), error: 0, cr2 });
    }

    /// Sends the signal of a page fault that nothing can mend.
    pub fn bad_access(&self, fault: &PageFault, error: FaultError) {
        let address = fault.address as u64;
        let info = match error {
            FaultError::NoMapping => Info::fault(sig::SEGV, code::SEGV_MAPERR, address),
            FaultError::AccessDenied => Info::fault(sig::SEGV, code::SEGV_ACCERR, address),
            FaultError::BusError => Info::fault(sig::BUS, code::BUS_ADRERR, address),
            FaultError::OutOfMemory => return self.out_of_memory(),
        };
        // P, W, U and I of the error code.
        let bits = [
            (fault.present, 1),
            (fault.access == Access::WRITE, 2),
            (true, 4),
            (fault.access == Access::EXEC, 16),
        ];
        let error = bits.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum();
        self.force_fault(info, FaultRegisters { trap: 14, error, cr2: address });
    }

    fn force_fault(&self, info: Info, registers: FaultRegisters) {
        self.signals.lock().fault = registers;
        self.force_signal(info);
    }
}
