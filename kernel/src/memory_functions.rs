//! `memcpy` and its relatives, which the compiler calls. Unrolled loops of words, since QEMU's TCG interprets `rep` slowly; `rep movsb` where
//! CPUID says that it is fast and the hypervisor is not TCG. See `docs/design.md`, “Copying”.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// `rep movsb` and `rep stosb` are fast here.
#[unsafe(no_mangle)]
static FAST_STRING: AtomicBool = AtomicBool::new(false);

/// To be called once CPUID has been read.
pub fn set_fast_string(fast: bool) {
    FAST_STRING.store(fast, Ordering::Relaxed);
}

/// C's `memcpy`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 64",
        "jb 3f",
        "cmp byte ptr [rip + FAST_STRING], 0",
        "jne 9f",
        "2: mov rcx, [rsi]",
        "mov r8, [rsi + 8]",
        "mov r9, [rsi + 16]",
        "mov r10, [rsi + 24]",
        "mov [rdi], rcx",
        "mov [rdi + 8], r8",
        "mov [rdi + 16], r9",
        "mov [rdi + 24], r10",
        "mov rcx, [rsi + 32]",
        "mov r8, [rsi + 40]",
        "mov r9, [rsi + 48]",
        "mov r10, [rsi + 56]",
        "mov [rdi + 32], rcx",
        "mov [rdi + 40], r8",
        "mov [rdi + 48], r9",
        "mov [rdi + 56], r10",
        "add rsi, 64",
        "add rdi, 64",
        "sub rdx, 64",
        "cmp rdx, 64",
        "jae 2b",
        "3: cmp rdx, 8",
        "jb 4f",
        "mov rcx, [rsi]",
        "mov [rdi], rcx",
        "add rsi, 8",
        "add rdi, 8",
        "sub rdx, 8",
        "jmp 3b",
        "4: test rdx, rdx",
        "jz 5f",
        "mov cl, [rsi]",
        "mov [rdi], cl",
        "inc rsi",
        "inc rdi",
        "dec rdx",
        "jmp 4b",
        "5: ret",
        "9: mov rcx, rdx",
        "rep movsb",
        "ret",
    )
}

/// C's `memmove`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "sub rax, rsi",
        "cmp rax, rdx",
        "jae {memcpy}",
        // The destination begins inside the source: from the end downwards.
        "mov rax, rdi",
        "2: cmp rdx, 8",
        "jb 3f",
        "sub rdx, 8",
        "mov rcx, [rsi + rdx]",
        "mov [rdi + rdx], rcx",
        "jmp 2b",
        "3: test rdx, rdx",
        "jz 4f",
        "dec rdx",
        "mov cl, [rsi + rdx]",
        "mov [rdi + rdx], cl",
        "jmp 3b",
        "4: ret",
        memcpy = sym memcpy,
    )
}

/// C's `memset`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    naked_asm!(
        "mov r9, rdi",
        "movzx esi, sil",
        "movabs rax, 0x0101010101010101",
        "imul rsi, rax",
        "cmp rdx, 64",
        "jb 3f",
        "cmp byte ptr [rip + FAST_STRING], 0",
        "jne 9f",
        "2: mov [rdi], rsi",
        "mov [rdi + 8], rsi",
        "mov [rdi + 16], rsi",
        "mov [rdi + 24], rsi",
        "mov [rdi + 32], rsi",
        "mov [rdi + 40], rsi",
        "mov [rdi + 48], rsi",
        "mov [rdi + 56], rsi",
        "add rdi, 64",
        "sub rdx, 64",
        "cmp rdx, 64",
        "jae 2b",
        "3: cmp rdx, 8",
        "jb 4f",
        "mov [rdi], rsi",
        "add rdi, 8",
        "sub rdx, 8",
        "jmp 3b",
        "4: test rdx, rdx",
        "jz 5f",
        "mov [rdi], sil",
        "inc rdi",
        "dec rdx",
        "jmp 4b",
        "5: mov rax, r9",
        "ret",
        "9: mov eax, esi",
        "mov rcx, rdx",
        "rep stosb",
        "mov rax, r9",
        "ret",
    )
}
