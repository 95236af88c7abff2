//! What each CPU owns, reached through GS while in the kernel.
//!
//! Invariant: in the kernel, GS_BASE points at this CPU's [`PerCpu`], and the user's GS base is in KERNEL_GS_BASE; in user mode it is the
//! other way round. `swapgs` runs exactly once on every way in and out (see [`super::entry`]).

use crate::sched::Thread;
use alloc::sync::Arc;
use core::cell::{Cell, RefCell, UnsafeCell};
use core::mem::offset_of;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{GsBase, KernelGsBase};
use x86_64::structures::gdt::GlobalDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

/// Bytes of the stack that the CPU pushes its frame on when ring 3 is interrupted. Only that frame and two words ever lie there.
const ENTRY_STACK: usize = 256;
/// Bytes of each stack for NMI, double fault, machine check, debug and VMM communication exceptions.
const FAULT_STACK: usize = 8192;

/// Index into the interrupt stack table (0-based), per exception that must not trust RSP.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub enum FaultStack {
    DoubleFault,
    Nmi,
    MachineCheck,
    Debug,
    Communication,
}

#[repr(align(16))]
struct Stack<const N: usize>(UnsafeCell<[u8; N]>);

impl<const N: usize> Stack<N> {
    const fn new() -> Self {
        Stack(UnsafeCell::new([0; N]))
    }
    fn top(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.0.get().addr() as u64 + N as u64)
    }
}

/// One CPU's own data. The first fields are read by assembly, through GS.
#[repr(C)]
pub struct PerCpu {
    this: Cell<*const PerCpu>,
    /// The kernel stack pointer to return to when user mode is left.
    kernel_rsp: Cell<u64>,
    /// One past the `rdi` slot of the [`litebox_core::platform::Registers`] that user mode's registers go to.
    registers_end: Cell<u64>,
    scratch: Cell<u64>,
    /// The error code of the last exception in user mode.
    error_code: Cell<u64>,
    /// This CPU's number, from 0.
    pub index: usize,
    /// The thread that runs here.
    pub current: RefCell<Option<Arc<Thread>>>,
    /// The physical address in CR3.
    pub cr3: Cell<u64>,
    /// Something happened that the scheduler or a driver has to look at.
    pub work_pending: Cell<bool>,
    /// Interrupts are on, in the idle loop only.
    pub idle: Cell<bool>,
    pub(super) tss: UnsafeCell<TaskStateSegment>,
    pub(super) gdt: UnsafeCell<GlobalDescriptorTable>,
}

/// The stacks of a CPU. Apart from the rest, which is not all zeros and would take these into the image with it.
struct CpuStacks {
    entry: Stack<ENTRY_STACK>,
    fault: [Stack<FAULT_STACK>; 5],
}

// SAFETY: only the CPU that owns them uses them, and only the hardware and assembly do.
unsafe impl Sync for CpuStacks {}

static BOOT_STACKS: CpuStacks = CpuStacks { entry: Stack::new(), fault: [const { Stack::new() }; 5] };

/// Offsets for the assembly.
pub const KERNEL_RSP: usize = offset_of!(PerCpu, kernel_rsp);
/// See [`KERNEL_RSP`].
pub const REGISTERS_END: usize = offset_of!(PerCpu, registers_end);
/// See [`KERNEL_RSP`].
pub const SCRATCH: usize = offset_of!(PerCpu, scratch);
/// See [`KERNEL_RSP`].
pub const ERROR_CODE: usize = offset_of!(PerCpu, error_code);

// SAFETY: a `PerCpu` is used by its own CPU only: others get no reference to it (`PerCpu::get` goes through GS).
unsafe impl Sync for PerCpu {}

static BOOT_CPU: PerCpu = PerCpu::new(0);

impl PerCpu {
    const fn new(index: usize) -> PerCpu {
        PerCpu {
            this: Cell::new(core::ptr::null()),
            kernel_rsp: Cell::new(0),
            registers_end: Cell::new(0),
            scratch: Cell::new(0),
            error_code: Cell::new(0),
            index,
            current: RefCell::new(None),
            cr3: Cell::new(0),
            work_pending: Cell::new(false),
            idle: Cell::new(false),
            tss: UnsafeCell::new(TaskStateSegment::new()),
            gdt: UnsafeCell::new(GlobalDescriptorTable::empty()),
        }
    }

    /// Makes the boot CPU's data reachable, and fills its TSS. To be called once, first of all.
    pub fn init_boot_cpu() -> &'static PerCpu {
        let cpu = &BOOT_CPU;
        cpu.this.set(cpu);
        // SAFETY: nothing else refers to the TSS before it is loaded.
        let tss = unsafe { &mut *cpu.tss.get() };
        tss.privilege_stack_table[0] = BOOT_STACKS.entry.top();
        // The TSS is packed: whole arrays are written, never a reference taken.
        let mut stacks = tss.interrupt_stack_table;
        for (slot, stack) in stacks.iter_mut().zip(&BOOT_STACKS.fault) {
            *slot = stack.top();
        }
        tss.interrupt_stack_table = stacks;
        GsBase::write(VirtAddr::from_ptr(cpu));
        KernelGsBase::write(VirtAddr::zero());
        cpu
    }

    /// This CPU's data.
    #[inline]
    pub fn get() -> &'static PerCpu {
        let this: *const PerCpu;
        // SAFETY: the module's invariant: GS_BASE points at this CPU's `PerCpu`, whose first field is its own address.
        unsafe {
            core::arch::asm!("mov {}, gs:[0]", out(reg) this, options(nostack, pure, readonly, preserves_flags));
            &*this
        }
    }

    /// The error code of the exception that [`super::entry::run_user`] returned.
    pub fn error_code(&self) -> u64 {
        self.error_code.get()
    }

    /// The running thread; there is one from the first scheduling on.
    pub fn current_thread(&self) -> Option<Arc<Thread>> {
        self.current.borrow().clone()
    }
}
