//! The PVH entry, and the move to the top of memory.
//!
//! Loaded at 1 MiB like any kernel, the emulator moves itself to the end of RAM, so that the guest's memory is where a guest expects it, and
//! every guest-physical address is the system-physical one: QEMU's devices know no other. Virtual addresses stay as they were linked; the whole
//! physical address space is mapped one to one besides. Five levels of page tables where the CPU has them, since nested
//! tables have as many levels as these, and a C-bit above bit 47 needs the fifth.

use core::arch::global_asm;

/// Where physical address 0 is mapped at first.
pub const BASE: u64 = 0xffff_ffff_8000_0000;

global_asm!(
    r#"
    .pushsection .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long emulator_start - {base}
    .popsection

    .pushsection .boot.text, "ax", @progbits
    .code32
emulator_start:
    cld
    mov ebp, ebx
    mov esp, offset emulator_stack_top - {base}
    mov ebx, offset table_identity - {base}     // 512 GiB, one to one
    xor ecx, ecx
1:  mov eax, ecx
    shl eax, 30
    or eax, 0x83
    cmp ecx, 3                                  // the gigabyte of devices is not cached
    jne 2f
    or eax, 0x10
2:  mov [ebx + ecx*8], eax
    mov eax, ecx
    shr eax, 2
    mov [ebx + ecx*8 + 4], eax
    inc ecx
    cmp ecx, 512
    jne 1b
    mov ebx, offset table_image - {base}        // 1 GiB at BASE
    xor ecx, ecx
3:  mov eax, ecx
    shl eax, 21
    or eax, 0x83
    mov [ebx + ecx*8], eax
    inc ecx
    cmp ecx, 512
    jne 3b
    mov dword ptr [table_high - {base} + 510*8], offset table_image - {base} + 3
    mov dword ptr [table_4 - {base}], offset table_identity - {base} + 3
    mov dword ptr [table_4 - {base} + 511*8], offset table_high - {base} + 3
    mov dword ptr [table_5 - {base}], offset table_4 - {base} + 3
    mov dword ptr [table_5 - {base} + 511*8], offset table_4 - {base} + 3
    mov eax, 7
    xor ecx, ecx
    cpuid
    mov edi, 0x620                              // PAE, OSFXSR, OSXMMEXCPT
    mov esi, offset table_4 - {base}
    test ecx, 1 << 16
    jz 4f
    or edi, 0x1000                              // LA57
    mov esi, offset table_5 - {base}
4:  mov [emulator_cr4 - {base}], edi
    mov [emulator_cr3 - {base}], esi
    call emulator_enable_long_mode
    lgdt [emulator_gdt_pointer32 - {base}]
    push 8
    mov eax, offset emulator_long - {base}
    push eax
    retf

emulator_enable_long_mode:                      // CR4 in EDI, CR3 in ESI
    mov cr4, edi
    mov cr3, esi
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x1901                              // SVME, NXE, LME, SCE
    and eax, 0xfffffffe
    wrmsr
    mov eax, 0x80010033
    mov cr0, eax
    ret
    .code64
emulator_long:
    movabs rax, offset emulator_high
    jmp rax
emulator_high:
    mov eax, 16
    mov ss, eax
    xor eax, eax
    mov ds, eax
    mov es, eax
    movabs rsp, offset emulator_stack_top
    lgdt [rip + emulator_gdt_pointer64]
    mov edi, ebp
    xor ebp, ebp
    call {main}
    ud2

    // emulator_move(RDI = where physical address BASE is to be, a multiple of 2 MiB)
    // No stack between the copy and the switch: what is pushed in between would be lost.
    .globl emulator_move
emulator_move:
    mov rdx, rdi
    lea rsi, [rip + kernel_start]
    lea rcx, [rip + kernel_end]
    sub rcx, rsi
    movabs rax, {base}
    sub rsi, rax
    lea rdi, [rsi + rdx]
    shr rcx, 3
    rep movsq
    lea r8, [rip + table_5]                     // the copies, by the one-to-one map
    sub r8, rax
    add r8, rdx
    lea r9, [rip + table_4]
    sub r9, rax
    add r9, rdx
    lea r10, [rip + table_high]
    sub r10, rax
    add r10, rdx
    lea r11, [rip + table_image]
    sub r11, rax
    add r11, rdx
    add [r8], rdx
    add [r8 + 511*8], rdx
    add [r9], rdx
    add [r9 + 511*8], rdx
    add [r10 + 510*8], rdx
    xor ecx, ecx
5:  add [r11 + rcx*8], rdx
    inc ecx
    cmp ecx, 512
    jne 5b
    mov rax, cr3
    add rax, rdx
    lea rcx, [rip + emulator_cr3]
    mov cr3, rax
    mov [rcx], rax
    ret

    .balign 8
    .globl emulator_gdt
emulator_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
emulator_gdt_pointer32:
    .word 31
    .long emulator_gdt - {base}
    .long 0
emulator_gdt_pointer64:
    .word 31
    .quad emulator_gdt

    // What the other CPUs start with, copied to 0x8000; its parameters are `ApParameters` at 0x8e00.
    .globl ap_trampoline, ap_trampoline_end
    .code16
ap_trampoline:
    cli
    xor ax, ax
    mov ds, ax
    lgdt ds:[0x8e60]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea                            // ljmp 0x18:ap_32
    .long ap_32 - ap_trampoline + 0x8000
    .word 0x18
    .code32
ap_32:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov edi, ds:[0x8e08]
    mov esi, ds:[0x8e00]
    mov cr4, edi
    mov cr3, esi
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x1900
    wrmsr
    mov eax, 0x80010033
    mov cr0, eax
    .byte 0xea                                  // ljmp 8:ap_64
    .long ap_64 - ap_trampoline + 0x8000
    .word 8
    .code64
ap_64:
    mov rsp, ds:[0x8e10]
    mov rdi, ds:[0x8e18]
    mov rax, ds:[0x8e20]
    xor ebp, ebp
    call rax
    ud2
ap_trampoline_end:
    .popsection

    .pushsection .data, "aw", @progbits
    .balign 8
    .globl emulator_cr3, emulator_cr4
emulator_cr3: .quad 0
emulator_cr4: .quad 0
    .popsection

    .pushsection .bss.boot, "aw", @nobits
    .balign 4096
table_5: .skip 4096
table_4: .skip 4096
table_identity: .skip 4096
table_high: .skip 4096
table_image: .skip 4096
    .skip 65536
emulator_stack_top:
    .popsection

    .globl pvh_start_physical
    .set pvh_start_physical, emulator_start - {base}
    "#,
    base = const BASE,
    main = sym super::main,
);

unsafe extern "C" {
    static kernel_start: u8;
    static kernel_end: u8;
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
    static emulator_cr3: u64;
    static emulator_cr4: u64;
    fn emulator_move(to: u64);
}

/// The image's size in memory, with what lies below its link address in its 2 MiB.
pub fn image_end() -> u64 {
    (&raw const kernel_end) as u64 - BASE
}

/// Moves the image so that what was at physical address 0 is at `to`.
///
/// # Safety
/// `to` is a multiple of 2 MiB; from `to` to `to + image_end()` there is RAM that nobody uses, apart from the image as it is.
pub unsafe fn move_to(to: u64) {
    let _ = &raw const kernel_start;
    // SAFETY: the caller's promise; nothing but this CPU runs yet.
    unsafe { emulator_move(to) }
}

/// What the trampoline for other CPUs needs.
#[repr(C)]
struct ApParameters {
    cr3: u64,
    cr4: u64,
    stack: u64,
    index: u64,
    entry: u64,
    _pad: [u64; 3],
    gdt: [u64; 4],
    gdt_limit: u16,
    gdt_base: [u16; 2],
}

/// Where they are, in the trampoline's page.
const AP_PARAMETERS: usize = 0x8e00;
const _: () = assert!(core::mem::offset_of!(ApParameters, gdt) == 0x40);
const _: () = assert!(core::mem::offset_of!(ApParameters, gdt_limit) == 0x60);

/// Puts the trampoline at 0x8000, for the CPU `index`, which is to call `entry(index)` on `stack`.
///
/// # Safety
/// Nobody uses the page at 0x8000; `stack` is the end of a stack of its own for that CPU.
pub unsafe fn prepare_ap(index: u64, stack: u64, entry: extern "C" fn(u64) -> !) {
    let start = &raw const ap_trampoline;
    let len = (&raw const ap_trampoline_end) as usize - start as usize;
    // SAFETY: the statics are set before any Rust runs, and by `move_to`; the trampoline is shorter than a page, which the caller gives.
    unsafe {
        core::ptr::copy_nonoverlapping(start, 0x8000 as *mut u8, len);
        (AP_PARAMETERS as *mut ApParameters).write_unaligned(ApParameters {
            cr3: emulator_cr3,
            cr4: emulator_cr4,
            stack,
            index,
            entry: entry as usize as u64,
            _pad: [0; 3],
            gdt: [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_9b00_0000_ffff],
            gdt_limit: 31,
            gdt_base: [AP_PARAMETERS as u16 + 0x40, 0],
        });
    }
}
