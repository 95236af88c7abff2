//! Fault-safe access to user memory.
//!
//! The instructions that touch user memory are all in this file, in a few assembly functions. A fault in one of them
//! goes on at its fix-up, and the function returns how much was left. With SMAP, user memory is open to the kernel
//! between STAC and CLAC here, and nowhere else. Copies are unrolled loops, or `rep movsb` where the CPU does it fast.

use super::layout::USER_END;
use crate::cpu::features;
use core::arch::{asm, global_asm};

global_asm!(
    r#"
    .pushsection .text
    .balign 16
    // rdi = to, rsi = from, rdx = bytes; returns the bytes not copied.
copy_user:
user_bulk_start:
    mov rcx, rdx
    shr rcx, 6
    jz 3f
2:  mov rax, [rsi]
    mov r8, [rsi + 8]
    mov r9, [rsi + 16]
    mov r10, [rsi + 24]
    mov [rdi], rax
    mov [rdi + 8], r8
    mov [rdi + 16], r9
    mov [rdi + 24], r10
    mov rax, [rsi + 32]
    mov r8, [rsi + 40]
    mov r9, [rsi + 48]
    mov r10, [rsi + 56]
    mov [rdi + 32], rax
    mov [rdi + 40], r8
    mov [rdi + 48], r9
    mov [rdi + 56], r10
    add rsi, 64
    add rdi, 64
    sub rdx, 64
    dec rcx
    jnz 2b
3:  cmp rdx, 8
    jb user_bytes_start
    mov rax, [rsi]
    mov [rdi], rax
    add rsi, 8
    add rdi, 8
    sub rdx, 8
    jmp 3b
user_bulk_end:
user_bytes_start:
    test rdx, rdx
    jz user_bytes_end
    mov al, [rsi]
    mov [rdi], al
    inc rsi
    inc rdi
    dec rdx
    jmp user_bytes_start
user_bytes_end:
    mov rax, rdx
    ret

    .balign 16
    // The same for CPUs that do it fast.
copy_user_fast:
    mov rcx, rdx
user_rep_movs:
    rep movsb
user_rep_end:
    mov rax, rcx
    ret

    .balign 16
    // rdi = to, rsi = eight times the byte, rdx = bytes; returns the bytes not set.
fill_user:
user_fill_start:
    mov rcx, rdx
    shr rcx, 7
    jz 3f
2:  mov [rdi], rsi
    mov [rdi + 8], rsi
    mov [rdi + 16], rsi
    mov [rdi + 24], rsi
    mov [rdi + 32], rsi
    mov [rdi + 40], rsi
    mov [rdi + 48], rsi
    mov [rdi + 56], rsi
    mov [rdi + 64], rsi
    mov [rdi + 72], rsi
    mov [rdi + 80], rsi
    mov [rdi + 88], rsi
    mov [rdi + 96], rsi
    mov [rdi + 104], rsi
    mov [rdi + 112], rsi
    mov [rdi + 120], rsi
    add rdi, 128
    add rdx, -128
    dec rcx
    jnz 2b
3:  cmp rdx, 8
    jb user_fill_bytes
    mov [rdi], rsi
    add rdi, 8
    sub rdx, 8
    jmp 3b
user_fill_end:
user_fill_bytes:
    test rdx, rdx
    jz user_fill_bytes_end
    mov [rdi], sil
    inc rdi
    dec rdx
    jmp user_fill_bytes
user_fill_bytes_end:
    mov rax, rdx
    ret

    .balign 16
    // rdi = address; returns the u32, or -1 as a u64.
load_user_u32:
user_load:
    mov eax, [rdi]
    ret
user_load_failed:
    mov rax, -1
    ret

    .balign 16
    // rdi = address, esi = old, edx = new; returns what was there, or -1 as a u64.
compare_exchange_user_u32:
    mov eax, esi
user_exchange:
    lock cmpxchg [rdi], edx
    mov eax, eax
    ret
user_exchange_failed:
    mov rax, -1
    ret
    .popsection
    "#
);

unsafe extern "C" {
    fn copy_user(to: *mut u8, from: *const u8, len: usize) -> usize;
    fn copy_user_fast(to: *mut u8, from: *const u8, len: usize) -> usize;
    fn fill_user(to: *mut u8, pattern: u64, len: usize) -> usize;
    fn load_user_u32(at: *const u32) -> u64;
    fn compare_exchange_user_u32(at: *mut u32, old: u32, new: u32) -> u64;
    static user_bulk_start: u8;
    static user_bulk_end: u8;
    static user_bytes_start: u8;
    static user_bytes_end: u8;
    static user_rep_movs: u8;
    static user_rep_end: u8;
    static user_fill_start: u8;
    static user_fill_end: u8;
    static user_fill_bytes: u8;
    static user_fill_bytes_end: u8;
    static user_load: u8;
    static user_load_failed: u8;
    static user_exchange: u8;
    static user_exchange_failed: u8;
}

/// Where to go on after exception `vector` at `rip`, when it was an access to user memory that faulted.
pub fn fixup(vector: u64, rip: u64) -> Option<u64> {
    const GENERAL_PROTECTION: u64 = 13;
    const PAGE_FAULT: u64 = 14;
    const STACK_FAULT: u64 = 12;
    const ALIGNMENT: u64 = 17;
    if ![GENERAL_PROTECTION, PAGE_FAULT, STACK_FAULT, ALIGNMENT].contains(&vector) {
        return None;
    }
    let address = |label: *const u8| label.addr() as u64;
    // (first instruction, one past the last, where to go on). A fault in a bulk loop goes on byte by byte up to the very byte.
    let table = [
        (&raw const user_bulk_start, &raw const user_bulk_end, &raw const user_bytes_start),
        (&raw const user_bytes_start, &raw const user_bytes_end, &raw const user_bytes_end),
        (&raw const user_rep_movs, &raw const user_rep_end, &raw const user_rep_end),
        (&raw const user_fill_start, &raw const user_fill_end, &raw const user_fill_bytes),
        (&raw const user_fill_bytes, &raw const user_fill_bytes_end, &raw const user_fill_bytes_end),
        (&raw const user_load, &raw const user_load_failed, &raw const user_load_failed),
        (&raw const user_exchange, &raw const user_exchange_failed, &raw const user_exchange_failed),
    ];
    table
        .into_iter()
        .find(|&(start, end, _)| (address(start)..address(end)).contains(&rip))
        .map(|(_, _, fixup)| address(fixup))
}

/// Opens user memory while it lives.
struct Window;

impl Window {
    #[inline]
    fn open() -> Window {
        if features::get().smap {
            // SAFETY: STAC exists with SMAP, and changes nothing but RFLAGS.AC.
            unsafe { asm!("stac", options(nostack)) };
        }
        Window
    }
}

impl Drop for Window {
    #[inline]
    fn drop(&mut self) {
        if features::get().smap {
            // SAFETY: as above.
            unsafe { asm!("clac", options(nostack)) };
        }
    }
}

/// How many of the `len` bytes from user address `at` on lie in user space.
#[inline]
fn within(at: usize, len: usize) -> usize {
    len.min(USER_END.saturating_sub(at))
}

#[inline]
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> usize {
    let _window = Window::open();
    // SAFETY: the caller's; faults on the user's side have a fix-up.
    let left = unsafe {
        if features::get().fast_string && len >= 64 {
            copy_user_fast(to, from, len)
        } else {
            copy_user(to, from, len)
        }
    };
    len - left
}

/// See [`litebox_core::platform::UserAccess::copy_from_user`].
#[inline]
pub fn copy_from_user(from: usize, to: &mut [u8]) -> usize {
    let len = within(from, to.len());
    // SAFETY: `to` is ours and at least `len` long; `from..from + len` lies in user space, where nothing of the kernel's is.
    unsafe { copy(to.as_mut_ptr(), from as *const u8, len) }
}

/// See [`litebox_core::platform::UserAccess::copy_to_user`].
#[inline]
pub fn copy_to_user(to: usize, from: &[u8]) -> usize {
    let len = within(to, from.len());
    // SAFETY: `from` is at least `len` long; `to..to + len` lies in user space, where nothing of the kernel's is.
    unsafe { copy(to as *mut u8, from.as_ptr(), len) }
}

/// See [`litebox_core::platform::UserAccess::fill_user`].
#[inline]
pub fn fill(to: usize, byte: u8, len: usize) -> usize {
    let len = within(to, len);
    let _window = Window::open();
    // SAFETY: the range lies in user space; faults have a fix-up.
    len - unsafe { fill_user(to as *mut u8, u64::from_ne_bytes([byte; 8]), len) }
}

/// See [`litebox_core::platform::UserAccess::load_user_u32`].
#[inline]
pub fn load_u32(at: usize) -> Option<u32> {
    if !at.is_multiple_of(4) || within(at, 4) != 4 {
        return None;
    }
    let _window = Window::open();
    // SAFETY: the word lies in user space; faults have a fix-up.
    u32::try_from(unsafe { load_user_u32(at as *const u32) }).ok()
}

/// See [`litebox_core::platform::UserAccess::compare_exchange_user_u32`].
#[inline]
pub fn compare_exchange_u32(at: usize, old: u32, new: u32) -> Option<u32> {
    if !at.is_multiple_of(4) || within(at, 4) != 4 {
        return None;
    }
    let _window = Window::open();
    // SAFETY: the word lies in user space; faults have a fix-up.
    u32::try_from(unsafe { compare_exchange_user_u32(at as *mut u32, old, new) }).ok()
}
