//! GDT, TSS, IDT, and the MSRs of SYSCALL/SYSRET.
//!
//! The IDT has gates for the CPU's exceptions and for the vectors in [`super::trap::EXTERNAL_VECTORS`], and for nothing else: there is no
//! `int 0x80`, and a vector that a host injects without having been asked meets a gate that is not present.

use super::percpu::{FaultStack, PerCpu};
use super::trap::EXTERNAL_VECTORS;
use super::{entry, forged};
use core::cell::UnsafeCell;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::model_specific::{LStar, SFMask, Star};
use x86_64::registers::rflags::RFlags;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, SegmentSelector};

/// Kernel code segment. The order of the GDT is what SYSRET wants: kernel code, kernel data, user data, user code.
pub const KERNEL_CS: u16 = 0x08;
/// Kernel data, which SYSCALL loads into SS.
pub const KERNEL_DS: u16 = 0x10;
/// User data segment, RPL 3.
pub const USER_DS: u16 = 0x18 | 3;
/// User code segment, RPL 3.
pub const USER_CS: u16 = 0x20 | 3;

/// A gate of the IDT (APM vol. 2, figure 4-24).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    /// An interrupt gate for ring 0 that is not present. Its type and DPL are what tells an INT of ring 3, which is #GP, from a vector of the host's, which is #NP:
    /// a gate without a type would be #GP for both.
    const ABSENT: Gate = Gate { low: 0xe << 40, high: 0 };

    fn interrupt(handler: u64, stack: Option<FaultStack>, user_callable: bool) -> Gate {
        let ist = stack.map_or(0, |s| s as u64 + 1);
        let dpl = if user_callable { 3 } else { 0 };
        Gate {
            low: handler & 0xffff
                | u64::from(KERNEL_CS) << 16
                | ist << 32
                | 0xe << 40
                | dpl << 45
                | 1 << 47
                | (handler >> 16 & 0xffff) << 48,
            high: handler >> 32,
        }
    }
}

#[repr(C, align(16))]
struct Idt(UnsafeCell<[Gate; 256]>);
// SAFETY: written once, by the boot CPU, before any other CPU exists and before it is loaded.
unsafe impl Sync for Idt {}
static IDT: Idt = Idt(UnsafeCell::new([Gate::ABSENT; 256]));

/// Vectors that #DB, NMI, #BP, #DF, #MC and #VC arrive on.
const DEBUG: usize = 1;
const NMI: usize = 2;
const BREAKPOINT: usize = 3;
const DOUBLE_FAULT: usize = 8;
const MACHINE_CHECK: usize = 18;
const VMM_COMMUNICATION: usize = 29;

/// Loads everything on this CPU. Interrupts stay off.
pub fn init(cpu: &'static PerCpu) {
    // SAFETY: `init` runs once per CPU, before anything else uses its GDT or TSS, which live as long as the machine.
    unsafe {
        let gdt = &mut *cpu.gdt.get();
        gdt.append(Descriptor::kernel_code_segment());
        gdt.append(Descriptor::kernel_data_segment());
        gdt.append(Descriptor::user_data_segment());
        gdt.append(Descriptor::user_code_segment());
        let tss = gdt.append(Descriptor::tss_segment_unchecked(cpu.tss.get()));
        (*cpu.gdt.get()).load_unsafe();
        CS::set_reg(SegmentSelector(KERNEL_CS));
        SS::set_reg(SegmentSelector(0x10));
        DS::set_reg(SegmentSelector(0));
        ES::set_reg(SegmentSelector(0));
        FS::set_reg(SegmentSelector(0));
        // Loading GS clears its base: put it back.
        let base = VirtAddr::from_ptr(cpu);
        GS::set_reg(SegmentSelector(0));
        x86_64::registers::model_specific::GsBase::write(base);
        load_tss(tss);
    }
    // SAFETY: only the boot CPU writes, and it does so before loading the table.
    let gates = unsafe { &mut *IDT.0.get() };
    for (vector, gate) in gates.iter_mut().enumerate().take(32) {
        *gate = Gate::interrupt(entry::exception_stub(vector), None, vector == BREAKPOINT);
    }
    for (vector, stack) in [
        (DEBUG, FaultStack::Debug),
        (NMI, FaultStack::Nmi),
        (DOUBLE_FAULT, FaultStack::DoubleFault),
        (MACHINE_CHECK, FaultStack::MachineCheck),
        // A host can inject it where RSP is the user's, or the stack itself is what was taken away.
        (VMM_COMMUNICATION, FaultStack::Communication),
    ] {
        gates[vector] = Gate::interrupt(entry::exception_stub(vector), Some(stack), false);
    }
    for (i, &vector) in EXTERNAL_VECTORS.iter().enumerate() {
        gates[usize::from(vector)] = Gate::interrupt(entry::external_stub(i), None, false);
    }
    let pointer = DescriptorTablePointer {
        limit: (size_of::<Idt>() - 1) as u16,
        base: VirtAddr::from_ptr(IDT.0.get()),
    };
    // SAFETY: the table is complete and lives for ever.
    unsafe { x86_64::instructions::tables::lidt(&pointer) };
    forged::init();

    // SYSRET loads CS from STAR[63:48] + 16 and SS from + 8, SYSCALL from STAR[47:32] and + 8.
    // SAFETY: the selectors are those of the GDT above.
    unsafe { Star::write_raw(0x10, KERNEL_CS) };
    LStar::write(VirtAddr::new_truncate(entry::syscall_entry_address()));
    // Every flag that changes how the kernel would run is cleared at entry: TF, IF, DF, NT, AC, and IOPL.
    SFMask::write(
        RFlags::TRAP_FLAG
            | RFlags::INTERRUPT_FLAG
            | RFlags::DIRECTION_FLAG
            | RFlags::NESTED_TASK
            | RFlags::ALIGNMENT_CHECK
            | RFlags::IOPL_LOW
            | RFlags::IOPL_HIGH
            | RFlags::RESUME_FLAG,
    );
}
