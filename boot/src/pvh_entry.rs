//! The PVH entry: 32-bit protected mode without paging to 64-bit mode in the high half.
//!
//! Source: Xen's `docs/misc/pvh.pandoc` (entry state: EBX = start info, flat 32-bit segments, paging off). The
//! page tables made here map the first GiB twice, at 0 (for the few instructions until the jump) and at
//! [`KERNEL_BASE`]; the kernel replaces them by its own, which have neither the identity map nor writable code.

use crate::info::BootError;
use crate::start_info::{self, PhysicalMemory};
use core::arch::global_asm;

/// Where physical address 0 is mapped while booting; the kernel is linked at this plus its physical address.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// How much is mapped there.
pub const BOOT_MAP_SIZE: u64 = 1 << 30;

global_asm!(
    r#"
    .pushsection .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18                      // name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start - {base}
    .popsection

    .pushsection .boot.text, "ax", @progbits
    .code32
    .globl pvh_start
pvh_start:
    cld
    mov ebp, ebx                        // start info
    rdtsc
    mov esi, eax
    mov edi, edx
    mov esp, offset boot_stack_top - {base}
    mov eax, offset boot_pd - {base}
    xor ecx, ecx
1:  mov ebx, ecx
    shl ebx, 21
    or ebx, 0x83                        // present, writable, 2 MiB
    mov [eax + ecx*8], ebx
    inc ecx
    cmp ecx, 512
    jne 1b
    or eax, 3
    mov ebx, offset boot_pdpt - {base}
    mov [ebx], eax
    mov [ebx + 510*8], eax
    or ebx, 3
    mov eax, offset boot_pml4 - {base}
    mov [eax], ebx
    mov [eax + 511*8], ebx
    mov cr3, eax
    mov eax, 0x20                       // PAE
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x901                       // NXE, LME, SCE
    wrmsr
    mov eax, 0x80010033                 // PG, WP, NE, ET, MP, PE
    mov cr0, eax
    lgdt [boot_gdt_pointer - {base}]
    push 8
    mov eax, offset pvh_long_mode - {base}
    push eax
    retf
    .code64
pvh_long_mode:
    movabs rax, offset pvh_high_half
    jmp rax
pvh_high_half:
    xor eax, eax
    mov ss, eax
    mov ds, eax
    mov es, eax
    movabs rsp, offset boot_stack_top
    mov eax, esi
    shl rdi, 32
    or rax, rdi
    mov rsi, rax                        // second argument: TSC at entry
    mov edi, ebp                        // first: start info
    xor ebp, ebp
    call {main}
    ud2

    .globl pvh_start_physical           // the ELF entry point, for loaders that want one
    .set pvh_start_physical, pvh_start - {base}
    .balign 8
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdt_pointer:
    .word 23
    .long boot_gdt - {base}
    .popsection

    .pushsection .bss.boot, "aw", @nobits
    .balign 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4096
    .skip 32768
boot_stack_top:
    .popsection
    "#,
    base = const KERNEL_BASE,
    main = sym boot_main,
);

unsafe extern "Rust" {
    /// The kernel, which defines it with exactly this signature.
    safe fn kernel_main(info: &mut crate::BootInfo) -> !;
    /// The kernel's way to say that it could not even start.
    safe fn kernel_boot_failed(error: BootError) -> !;
}

struct BootMap;

impl PhysicalMemory for BootMap {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BootError> {
        let end = address.checked_add(into.len() as u64).ok_or(BootError::OutOfReach)?;
        if end > BOOT_MAP_SIZE {
            return Err(BootError::OutOfReach);
        }
        for (i, byte) in into.iter_mut().enumerate() {
            // SAFETY: boot maps the first GiB at KERNEL_BASE and the range was just checked to lie in it. Reading memory that
            // is not RAM gives some value, which is all that is promised.
            *byte = unsafe { ((KERNEL_BASE + address) as *const u8).add(i).read_volatile() };
        }
        Ok(())
    }
}

extern "C" fn boot_main(start_info: u64, entry_tsc: u64) -> ! {
    match start_info::parse(&BootMap, start_info, entry_tsc) {
        Ok(mut info) => kernel_main(&mut info),
        Err(error) => kernel_boot_failed(error),
    }
}
