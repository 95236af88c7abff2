//! VMRUN.
//!
//! Source: AMD APM volume 2, sections 15.5 (VMRUN, VMSAVE, VMLOAD) and 15.17 (global interrupt flag). Between CLGI and STGI no interrupt of ours is
//! taken; one that is pending makes the guest exit at once, and is taken when the caller opens a window.

use core::arch::global_asm;
use snp_emulator::vmcb::{Registers, Vmcb};

global_asm!(
    r#"
    .pushsection .text
    .globl svm_run
svm_run:                                        // RDI guest's control block, RSI registers, RDX our control block
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rdx
    push rdi
    push rsi
    mov rax, rdx
    vmsave rax
    mov rax, [rsp]
    mov rcx, [rax + 8*1]
    mov rdx, [rax + 8*2]
    mov rbx, [rax + 8*3]
    mov rbp, [rax + 8*5]
    mov rsi, [rax + 8*6]
    mov rdi, [rax + 8*7]
    mov r8, [rax + 8*8]
    mov r9, [rax + 8*9]
    mov r10, [rax + 8*10]
    mov r11, [rax + 8*11]
    mov r12, [rax + 8*12]
    mov r13, [rax + 8*13]
    mov r14, [rax + 8*14]
    mov r15, [rax + 8*15]
    mov rax, [rsp + 8]
    clgi
    sti
    vmload rax
    vmrun rax
    vmsave rax
    cli
    mov rax, [rsp]
    mov [rax + 8*1], rcx
    mov [rax + 8*2], rdx
    mov [rax + 8*3], rbx
    mov [rax + 8*5], rbp
    mov [rax + 8*6], rsi
    mov [rax + 8*7], rdi
    mov [rax + 8*8], r8
    mov [rax + 8*9], r9
    mov [rax + 8*10], r10
    mov [rax + 8*11], r11
    mov [rax + 8*12], r12
    mov [rax + 8*13], r13
    mov [rax + 8*14], r14
    mov [rax + 8*15], r15
    mov rax, [rsp + 16]
    vmload rax
    stgi
    add rsp, 24
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .popsection
    "#
);

unsafe extern "C" {
    fn svm_run(vmcb: u64, registers: *mut Registers, host: u64);
}

/// Runs the guest until it exits.
///
/// # Safety
/// `vmcb` and `host` are control blocks at these physical addresses, of this CPU alone; the guest's nested tables reach no memory that the emulator
/// uses for itself.
pub unsafe fn run(vmcb: *mut Vmcb, registers: &mut Registers, host: *mut Vmcb) {
    // Memory is mapped one to one, so that these pointers are physical addresses.
    // SAFETY: the caller's promise; the assembly preserves what its caller relies on.
    unsafe { svm_run(vmcb as u64, registers, host as u64) }
}

/// Prepares this CPU: EFER.SVME is set since boot; the save area is where VMRUN puts our own state.
///
/// # Safety
/// The page at `save_area` is this CPU's alone, for ever.
pub unsafe fn enable(save_area: u64) {
    const VM_HSAVE_PA: u32 = 0xc001_0117;
    // SAFETY: the caller gives the page.
    unsafe {
        core::arch::asm!("wrmsr", in("ecx") VM_HSAVE_PA, in("eax") save_area as u32, in("edx") (save_area >> 32) as u32)
    }
}
