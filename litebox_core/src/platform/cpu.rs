//! South: running the workload's code.

use super::Prot;

/// The general registers of a thread in user mode, in the order of Linux's `struct user_regs_struct`
/// (`arch/x86/include/asm/user_64.h`), without segments. The core reads them as the system-call ABI defines them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rip: u64,
    pub rflags: u64,
    pub rsp: u64,
}

/// What an access to memory wanted to do.
pub type Access = Prot;

/// A page fault in user mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The address accessed. Comes from the CPU: any value.
    pub address: usize,
    /// READ, WRITE or EXEC.
    pub access: Access,
    /// The page was mapped, and the access not permitted.
    pub present: bool,
}

/// An exception in user mode other than a page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// #DE: SIGFPE, FPE_INTDIV.
    DivideError,
    /// #DB: SIGTRAP.
    Debug,
    /// #BP: SIGTRAP.
    Breakpoint,
    /// #UD: SIGILL.
    InvalidOpcode,
    /// #GP, #OF, #BR and whatever else ring 3 must not do: SIGSEGV without an address.
    Protection,
    /// #SS, #NP: SIGBUS without an address.
    Stack,
    /// #MF: SIGFPE; the x87 status word says why.
    FloatingPoint,
    /// #XM: SIGFPE; MXCSR says why.
    Simd,
    /// #AC: SIGBUS, BUS_ADRALN.
    Alignment,
}

/// Why user mode was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserExit {
    /// A system call: number in RAX, arguments in RDI, RSI, RDX, R10, R8, R9; the result goes to RAX.
    Syscall,
    /// A page fault.
    PageFault(PageFault),
    /// Another exception.
    Exception(Exception),
    /// An interrupt, already handled: time to look at signals and at the scheduler.
    Interrupt,
}

/// South: the CPU as the core sees it.
pub trait Cpu {
    /// Runs user code in the active address space from `registers` until it leaves user mode; `registers` then says where.
    /// Whatever `registers` holds, the CPU is entered in user mode with interrupts on, or an exception is returned.
    fn run_user(&self, registers: &mut Registers) -> UserExit;

    /// The current thread's FS base (thread-local storage).
    fn fs_base(&self) -> u64;
    /// Sets it; `false` when the address is not a user address.
    fn set_fs_base(&self, base: u64) -> bool;
    /// The current thread's user GS base.
    fn gs_base(&self) -> u64;
    /// Sets it; `false` when the address is not a user address.
    fn set_gs_base(&self, base: u64) -> bool;
    /// Puts the current thread's vector and floating-point state into its initial state (exec).
    fn reset_fpu(&self);
    /// Bytes of the thread's vector and floating-point state as [`Cpu::save_fpu`] writes it, at least 512 (`FXSAVE`'s layout; `XSAVE`'s standard one where
    /// [`Cpu::fpu_features`] says so).
    fn fpu_size(&self) -> usize;
    /// The state components (XCR0) of an `XSAVE` image; `None`: the image is `FXSAVE`'s.
    fn fpu_features(&self) -> Option<u64>;
    /// Writes the current thread's state to `to`, which is [`Cpu::fpu_size`] bytes long.
    fn save_fpu(&self, to: &mut [u8]);
    /// Loads the current thread's state from an image that anybody may have written; `false`, and nothing is loaded, when the CPU would refuse it.
    fn load_fpu(&self, from: &[u8]) -> bool;
    /// AT_HWCAP (CPUID leaf 1, EDX) and AT_HWCAP2.
    fn hwcap(&self) -> (u64, u64);
    /// The index of the CPU that runs this.
    fn cpu_index(&self) -> usize;
    /// How many CPUs run threads.
    fn cpu_count(&self) -> usize;
    /// Text for /proc/cpuinfo of CPU `index`.
    fn cpuinfo(&self, index: usize) -> alloc::string::String;
}
