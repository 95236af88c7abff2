//! The probe: executes one instruction, given by its bytes, in a ring and a mode, and says what came of it.
//!
//! The bytes are put into a page that both rings can execute, and `INT 0x81` behind them: when they run to their end, that is the
//! outcome. Any exception or interrupt before ends the probe too. Nothing of the instruction is emulated, and the exception's frame is what is looked at.

use super::traps::{self, Frame};
use super::{arena, cpu, ghcb, give_up, instructions, paging};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// The vector that means: nothing happened.
pub const DONE: u64 = 0x81;
/// Where the instruction is.
const CODE: usize = 0;
/// The stack it has.
const STACK: usize = 1;
/// The first fixture that tests may use.
pub const FIRST_FREE: usize = 2;

/// Ring and mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Ring 0, 64 bits.
    Kernel,
    /// Ring 3, 64 bits.
    User,
    /// Ring 0, compatibility mode.
    Kernel32,
    /// Ring 3, compatibility mode.
    User32,
}

/// What an instruction finds in its registers.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Input {
    /// RAX.
    pub rax: u64,
    /// RBX.
    pub rbx: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RSI.
    pub rsi: u64,
    /// RDI.
    pub rdi: u64,
    /// RFLAGS.
    pub rflags: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The frame and registers.
    pub frame: Frame,
    /// CR2.
    pub cr2: u64,
    /// Where the frame was pushed: the address of its end.
    pub stack: u64,
    /// RFLAGS in the handler.
    pub handler_flags: u64,
    /// RIP less the address of the first byte.
    pub offset: u64,
}

impl Outcome {
    /// Vector and error code; [`DONE`] and 0 if the instruction was executed.
    pub fn event(&self) -> (u64, u64) {
        (self.frame.vector, self.frame.error)
    }

    /// Vector, error code, and how far RIP is behind the first byte.
    pub fn event_at(&self) -> (u64, u64, u64) {
        (self.frame.vector, self.frame.error, self.offset)
    }
}

/// Where `IRETQ` goes.
#[repr(C)]
struct Start {
    input: Input,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

global_asm!(
    r#"
    .pushsection .text
conformance_probe:                              // RDI: a `Start`
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + {recovery}], rsp
    push [rdi + 56 + 32]
    push [rdi + 56 + 24]
    push [rdi + 56 + 16]
    push [rdi + 56 + 8]
    push [rdi + 56]
    mov rax, [rdi]
    mov rbx, [rdi + 8]
    mov rcx, [rdi + 16]
    mov rdx, [rdi + 24]
    mov rsi, [rdi + 32]
    mov rdi, [rdi + 40]
    iretq
conformance_probe_over:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .popsection
    "#,
    recovery = sym RECOVERY,
);

unsafe extern "C" {
    fn conformance_probe(start: *const Start);
    static conformance_probe_over: u8;
}

/// RSP to go on with; 0 when no probe is under way.
static RECOVERY: AtomicU64 = AtomicU64::new(0);
static OUTCOME: Mutex<Option<Outcome>> = Mutex::new(None);

/// Makes the pages, once.
pub fn start() {
    for index in [CODE, STACK] {
        let page = arena::page();
        instructions::pvalidate(paging::private(page), 0, true);
        paging::map(index, page | paging::c_bit() | paging::PRESENT | paging::WRITABLE | paging::USER);
    }
}

/// Where the instruction is executed.
pub fn address() -> u64 {
    paging::fixture(CODE)
}

/// Executes an instruction in ring 0.
pub fn kernel(bytes: &[u8], input: Input) -> Outcome {
    execute(Mode::Kernel, bytes, input)
}

/// Executes an instruction.
pub fn execute(mode: Mode, bytes: &[u8], input: Input) -> Outcome {
    let code = address() as *mut u8;
    for (i, byte) in bytes.iter().copied().chain([0xcd, DONE as u8, 0x0f, 0x0b]).enumerate() {
        // SAFETY: the page is the probe's own; instructions are shorter than it.
        unsafe { code.add(i).write_volatile(byte) };
    }
    at(mode, address(), input)
}

/// Executes what is at an address.
pub fn at(mode: Mode, rip: u64, input: Input) -> Outcome {
    let (cs, ss) = match mode {
        Mode::Kernel => (traps::KERNEL_CODE, traps::KERNEL_DATA),
        Mode::User => (traps::USER_CODE, traps::USER_DATA),
        Mode::Kernel32 => (traps::KERNEL_CODE_32, traps::KERNEL_DATA),
        Mode::User32 => (traps::USER_CODE_32, traps::USER_DATA),
    };
    let rsp = paging::fixture(STACK) + 4096 - 64;
    let start = Start { input, rip, cs, rflags: input.rflags | 2, rsp, ss };
    *OUTCOME.lock() = None;
    // SAFETY: the instruction runs on pages of its own, and the trap handler comes back to the end of the function, with the stack and the
    // registers that it must preserve; tests execute nothing that changes control registers or memory of Rust's.
    unsafe { conformance_probe(&start) };
    let Some(mut outcome) = OUTCOME.lock().take() else { give_up(format_args!("a probe has no outcome")) };
    outcome.offset = outcome.frame.rip.wrapping_sub(rip);
    outcome
}

/// Takes an exception as the outcome of the probe that is under way, if there is one: its frame is made to lead to the probe's end.
pub fn outcome(frame: &mut Frame) -> bool {
    let rsp = RECOVERY.swap(0, Ordering::Relaxed);
    if rsp == 0 {
        return false;
    }
    let handler_flags;
    // SAFETY: reads the flags.
    unsafe { core::arch::asm!("pushfq", "pop {}", out(reg) handler_flags) };
    let stack = core::ptr::from_ref(frame) as u64 + size_of::<Frame>() as u64;
    *OUTCOME.lock() = Some(Outcome { frame: *frame, cr2: cpu::cr2(), stack, handler_flags, offset: 0 });
    frame.rip = (&raw const conformance_probe_over) as u64;
    frame.cs = traps::KERNEL_CODE;
    frame.rflags = 2;
    frame.rsp = rsp;
    frame.ss = traps::KERNEL_DATA;
    true
}

/// Reads a quadword at an address, which may fault.
pub fn read(address: u64) -> Outcome {
    // mov rax, [rbx]
    kernel(&[0x48, 0x8b, 0x03], Input { rbx: address, ..Input::default() })
}

/// Writes a quadword at an address, which may fault.
pub fn write(address: u64, value: u64) -> Outcome {
    // mov [rbx], rax
    kernel(&[0x48, 0x89, 0x03], Input { rbx: address, rax: value, ..Input::default() })
}

/// A page of the arena that is private and validated.
pub fn validated_page() -> u64 {
    let page = arena::page();
    let answer = instructions::pvalidate(paging::private(page), 0, true);
    if answer != instructions::DONE {
        give_up(format_args!("the page {page:#x} cannot be validated: {answer:?}"));
    }
    page
}

/// A page of the arena that is shared, and zero.
pub fn shared_page() -> u64 {
    let page = arena::page();
    ghcb::share(page);
    page
}
