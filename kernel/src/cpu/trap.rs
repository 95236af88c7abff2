//! Traps: what an exit from user mode means, and what to do about a trap in ring 0.

use super::percpu::PerCpu;
use super::{apic, entry, forged};
use crate::mm::user_access;
use crate::snp::VC;
use litebox_core::platform::{Attack, Exception, PageFault, Prot, UserExit};

/// The first vector that is not an exception's.
pub const EXTERNAL_BASE: u8 = 0x20;
/// The timer.
pub const TIMER_VECTOR: u8 = 0x20;
/// Any device of ours: the drivers look at their own state.
pub const DEVICE_VECTOR: u8 = 0x21;
/// What the APIC sends when an interrupt went away. Its low four bits are ones on old APICs; here, any number will do.
pub const SPURIOUS_VECTOR: u8 = 0x22;
/// The allow-list: every vector that has a gate beside the exceptions.
pub const EXTERNAL_VECTORS: [u8; 3] = [TIMER_VECTOR, DEVICE_VECTOR, SPURIOUS_VECTOR];

/// What the entry code leaves on the stack for a trap in ring 0.
#[repr(C)]
pub struct TrapFrame {
    registers: [u64; 15],
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

const DEBUG: u64 = 1;
const NMI: u64 = 2;
const NOT_PRESENT: u64 = 11;
/// The vector of #PF.
pub const PAGE_FAULT: u64 = 14;
const INTERRUPT_FLAG: u64 = 1 << 9;

/// Translates the reason that [`entry::run_user`] gave. Interrupts are handled on the way.
pub fn user_exit(reason: u64) -> UserExit {
    let cpu = PerCpu::get();
    let address = if reason == PAGE_FAULT { forged::fault_address() } else { 0 };
    #[allow(clippy::match_overlapping_arm)] // The range is what is left of the exceptions.
    match reason {
        entry::SYSCALL => UserExit::Syscall,
        // Not an access of user mode's, and so nothing that a mapping could mend: QEMU before 9.1 makes far returns with the kernel's rights, which
        // SMAP forbids. Taken for a page fault it would come back for ever.
        PAGE_FAULT if cpu.error_code() & 1 << 2 == 0 => UserExit::Exception(Exception::Protection),
        PAGE_FAULT => {
            let error = cpu.error_code();
            let access = match error {
                e if e & 1 << 4 != 0 => Prot::EXEC,
                e if e & 1 << 1 != 0 => Prot::WRITE,
                _ => Prot::READ,
            };
            UserExit::PageFault(PageFault { address: address as usize, access, present: error & 1 != 0 })
        }
        0 => UserExit::Exception(Exception::DivideError),
        DEBUG => UserExit::Exception(Exception::Debug),
        3 => UserExit::Exception(Exception::Breakpoint),
        6 | 7 => UserExit::Exception(Exception::InvalidOpcode),
        16 => UserExit::Exception(Exception::FloatingPoint),
        19 => UserExit::Exception(Exception::Simd),
        17 => UserExit::Exception(Exception::Alignment),
        NMI => UserExit::Interrupt,
        // No instruction of the workload does this: all descriptors that it can load are present, and INT to an absent gate is #GP. The host sent a vector.
        NOT_PRESENT => {
            let vector = cpu.error_code() >> 3;
            crate::power::attack(
                Attack::BadInterrupt,
                format_args!("vector {vector:#x} was injected in user mode"),
            )
        }
        12 => UserExit::Exception(Exception::Stack),
        0..32 => UserExit::Exception(Exception::Protection),
        vector => {
            interrupt(vector as u8);
            UserExit::Interrupt
        }
    }
}

/// Takes note of an interrupt on the allow-list. The work is done outside, with interrupts off.
fn interrupt(vector: u8) {
    PerCpu::get().work_pending.set(true);
    if vector != SPURIOUS_VECTOR {
        apic::end_of_interrupt();
    }
}

/// A trap in ring 0.
pub extern "C" fn kernel_trap(frame: &mut TrapFrame) {
    let mut address = 0;
    match frame.vector {
        // An NMI asks for nothing that we have. It may have come before `swapgs`: nothing here goes through GS.
        NMI => {
            crate::snp::kernel_exception(NMI);
            return;
        }
        vector if vector >= u64::from(EXTERNAL_BASE) => {
            // IF is on in the idle loop only, where GS is the kernel's.
            if frame.rflags & INTERRUPT_FLAG != 0 && PerCpu::get().idle.get() {
                return interrupt(vector as u8);
            }
        }
        VC => crate::snp::kernel_vc(frame.error_code),
        vector => {
            if vector == PAGE_FAULT {
                address = forged::fault_address();
            }
            let fixup = user_access::fixup(vector, frame.rip).or_else(|| entry::iret_fixup(frame.rip));
            if let Some(rip) = fixup {
                frame.rip = rip;
                return;
            }
            if vector == NOT_PRESENT {
                let injected = frame.error_code >> 3;
                crate::power::attack(
                    Attack::BadInterrupt,
                    format_args!("vector {injected:#x} was injected while idle"),
                )
            }
        }
    }
    crate::snp::kernel_exception(frame.vector);
    if frame.vector >= u64::from(EXTERNAL_BASE) {
        let vector = frame.vector;
        crate::power::attack(
            Attack::BadInterrupt,
            format_args!("vector {vector:#x} came while interrupts were off"),
        )
    }
    panic!(
        "trap {} in the kernel: error {:#x}, rip {:#x}, rsp {:#x}, cr2 {:#x}",
        frame.vector, frame.error_code, frame.rip, frame.rsp, address
    );
}
