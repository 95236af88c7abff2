//! Into user mode and out of it.
//!
//! [`run_user`] looks like a function that loads the user's registers, and returns when user mode is left, with the reason. The way in is
//! SYSRET or IRET; the ways out are SYSCALL and the gates of the IDT. On each way out the registers go straight into
//! the caller's [`Registers`], and the kernel stack is the one `run_user` was called on.
//!
//! What past CVEs taught:
//! * SYSRET to a non-canonical RIP faults in ring 0 with the user's stack on Intel (CVE-2012-0217): the caller guarantees RIP below the end of
//!   user space, and SYSRET is only taken when RCX and R11 hold what it loads; all else goes by IRET.
//! * An IRET that faults does so in ring 0 after `swapgs`: it has a fix-up of its own.
//! * NMI, #DB, #DF and #MC can arrive between SYSCALL and `swapgs`: they have their own stacks and touch no GS.
//! * AC, DF, NT and TF set by the user do not survive into the kernel: SFMASK for SYSCALL, `popfq` for the gates.

use super::percpu::{ERROR_CODE, KERNEL_RSP, REGISTERS_END, SCRATCH};
use super::{descriptors, trap};
use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;
use litebox_core::platform::Registers;

/// What [`run_user`] returns for a system call; other values are vectors.
pub const SYSCALL: u64 = 0x100;

/// Bytes between two stubs.
const STUB_SIZE: usize = 16;

const RIP: usize = offset_of!(Registers, rip);
const RFLAGS: usize = offset_of!(Registers, rflags);
const RSP: usize = offset_of!(Registers, rsp);
const RCX: usize = offset_of!(Registers, rcx);
const R11: usize = offset_of!(Registers, r11);
// The assembly pushes and pops the first fifteen in this order.
const _: () = assert!(offset_of!(Registers, r15) == 0 && offset_of!(Registers, rdi) == 112 && RIP == 120);

global_asm!(
    r#"
    .altmacro
    .macro push_user_registers
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    .endm

    .macro pop_user_registers
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    .endm

    .macro return_to_kernel
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret
    .endm

    .macro exception_stub n
    .balign {stub_size}
    .if (\n == 8) || ((\n >= 10) && (\n <= 14)) || (\n == 17) || (\n == 21) || (\n == 29) || (\n == 30)
    .else
    push 0
    .endif
    push \n
    jmp trap_common
    .endm

    .macro external_stub i
    .balign {stub_size}
    push 0
    push \i
    jmp external_common
    .endm

    .pushsection .text
    .balign {stub_size}
exception_stubs:
    .set i, 0
    .rept 32
    exception_stub %i
    .set i, i+1
    .endr
    .balign {stub_size}
external_stubs:
    .set i, 0
    .rept {external_count}
    external_stub %i
    .set i, i+1
    .endr
    .balign {stub_size}

external_common:
    // Index to vector: they come in one run.
    add qword ptr [rsp], {external_base}
trap_common:
    test byte ptr [rsp + 24], 3
    jz 2f
    swapgs
    mov gs:[{scratch}], rsp
    mov rsp, gs:[{registers_end}]
    push_user_registers
    mov rax, gs:[{scratch}]
    mov rcx, [rax + 16]
    mov [rsp + {rip}], rcx
    mov rcx, [rax + 32]
    mov [rsp + {rflags}], rcx
    mov rcx, [rax + 40]
    mov [rsp + {rsp_}], rcx
    mov rcx, [rax + 8]
    mov gs:[{error_code}], rcx
    mov eax, [rax]
    // The gate left SS null, SYSCALL does not. QEMU translates code anew for each, which was a tenth of what it translates
    // up to a program's first line.
    mov ecx, {kernel_ds}
    mov ss, ecx
    mov rsp, gs:[{kernel_rsp}]
    push 2
    popfq
    return_to_kernel

2:  // From ring 0: a fault in an access to user memory, an interrupt in the idle loop, or a bug.
    push_user_registers
    cld
    mov rdi, rsp
    mov rbx, rsp
    and rsp, -16
    call {kernel_trap}
    mov rsp, rbx
    pop_user_registers
    add rsp, 16
    iretq

    .balign 16
syscall_entry:
    swapgs
    mov gs:[{scratch}], rsp
    mov rsp, gs:[{registers_end}]
    push_user_registers
    mov [rsp + {rip}], rcx
    mov [rsp + {rflags}], r11
    mov rax, gs:[{scratch}]
    mov [rsp + {rsp_}], rax
    mov rsp, gs:[{kernel_rsp}]
    mov eax, {syscall}
    return_to_kernel

    .balign 16
enter_user:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov gs:[{kernel_rsp}], rsp
    lea rax, [rdi + 120]
    mov gs:[{registers_end}], rax
    mov rcx, [rdi + {rip}]
    cmp rcx, [rdi + {rcx}]
    jne 3f
    mov rax, [rdi + {rflags}]
    cmp rax, [rdi + {r11}]
    jne 3f
    test eax, 0x10100                   // TF and RF want IRET
    jnz 3f
    mov rsp, rdi
    pop_user_registers
    mov rsp, [rsp + {rsp_} - {rip}]
    swapgs
    sysretq

3:  push {user_ds}
    push [rdi + {rsp_}]
    push [rdi + {rflags}]
    push {user_cs}
    push rcx
    mov gs:[{scratch}], rsp
    mov rsp, rdi
    pop_user_registers
    mov rsp, gs:[{scratch}]
    swapgs
iret_to_user:
    iretq
bad_iret:                               // the trap handler comes here when that IRET faults
    swapgs
    mov rsp, gs:[{kernel_rsp}]
    mov eax, 13
    return_to_kernel
    .popsection
    "#,
    stub_size = const STUB_SIZE,
    external_count = const trap::EXTERNAL_VECTORS.len(),
    external_base = const trap::EXTERNAL_BASE as usize,
    kernel_trap = sym trap::kernel_trap,
    kernel_rsp = const KERNEL_RSP,
    registers_end = const REGISTERS_END,
    scratch = const SCRATCH,
    error_code = const ERROR_CODE,
    rip = const RIP,
    rflags = const RFLAGS,
    rsp_ = const RSP,
    rcx = const RCX,
    r11 = const R11,
    syscall = const SYSCALL,
    kernel_ds = const descriptors::KERNEL_DS,
    user_cs = const descriptors::USER_CS,
    user_ds = const descriptors::USER_DS,
);

unsafe extern "C" {
    static exception_stubs: u8;
    static external_stubs: u8;
    static syscall_entry: u8;
    static iret_to_user: u8;
    static bad_iret: u8;
    fn enter_user(registers: *mut Registers) -> u64;
}

/// Address of the stub of exception `vector`, 0..32.
pub fn exception_stub(vector: usize) -> u64 {
    (&raw const exception_stubs).addr() as u64 + (vector * STUB_SIZE) as u64
}

/// Address of the stub of `EXTERNAL_VECTORS[i]`.
pub fn external_stub(i: usize) -> u64 {
    (&raw const external_stubs).addr() as u64 + (i * STUB_SIZE) as u64
}

/// What LSTAR holds.
pub fn syscall_entry_address() -> u64 {
    (&raw const syscall_entry).addr() as u64
}

/// Where to go on when the instruction at `rip`, in ring 0, is the IRET to user mode and has faulted.
pub fn iret_fixup(rip: u64) -> Option<u64> {
    (rip == (&raw const iret_to_user).addr() as u64).then(|| (&raw const bad_iret).addr() as u64)
}

/// Runs user code until it leaves user mode; returns [`SYSCALL`] or the vector.
///
/// # Safety
/// RIP is below the end of user space, RFLAGS has IF and no privileged flag, the active address space is the workload's, and interrupts
/// are off.
#[inline]
pub unsafe fn run_user(registers: &mut Registers) -> u64 {
    // SAFETY: the caller's promises are what the assembly needs.
    unsafe { enter_user(registers) }
}

/// Switches kernel stacks: saves the callee-saved registers on this one and its pointer in `*save`, then continues on the stack
/// `load`, which was left by this function or made by [`initial_stack`].
///
/// # Safety
/// `load` is such a stack, mapped in the active address space, and nobody else runs on it.
#[unsafe(naked)]
pub unsafe extern "C" fn switch_stack(save: *mut u64, load: u64) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// Prepares a stack whose highest address is `top` (16-aligned) so that [`switch_stack`] to the returned pointer calls `entry()`.
///
/// # Safety
/// The 64 bytes below `top` are writable and unused.
pub unsafe fn initial_stack(top: u64, entry: extern "C" fn() -> !) -> u64 {
    let frame = (top - 64) as *mut u64;
    // SAFETY: the caller's promise; six registers, the return address, and a zero that ends backtraces.
    unsafe {
        for i in 0..6 {
            frame.add(i).write(0);
        }
        frame.add(6).write(entry as usize as u64);
        frame.add(7).write(0);
    }
    top - 64
}
