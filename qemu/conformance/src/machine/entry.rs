//! The two entries, and what they note before anything changes it.
//!
//! 64-bit: RIP = `snp_start` on the page tables of the image. 32-bit: RIP = `snp_start_32`, protected mode without paging; a few checks are made right
//! there, in assembly, since nothing but assembly can be in this mode; then it goes on as the 64-bit entry does. RSI is the launch block's address.

use super::global::Global;
use core::arch::global_asm;

/// What is added to a guest-physical address to find it in the image's mapping.
pub const BASE: u64 = 0xffff_ffff_8000_0000;

/// Registers as the first instruction found them. The 32-bit entry leaves what it cannot know zero.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct EntryState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub registers: [u64; 16],
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// CS, DS, ES, SS, FS, GS.
    pub selectors: [u64; 6],
    /// EFER.
    pub efer: u64,
    /// PAT.
    pub pat: u64,
    /// The GHCB MSR.
    pub ghcb: u64,
    /// SEV_STATUS.
    pub sev_status: u64,
    /// The x87 control word.
    pub fcw: u64,
    /// GDTR, IDTR: limits.
    pub limits: [u64; 2],
}

/// What the checks in 32-bit mode found.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Found32 {
    /// EAX and flags of PVALIDATE of a page that was not validated.
    pub first: [u32; 2],
    /// The same of a second one.
    pub second: [u32; 2],
    /// The same after rescinding.
    pub rescinded: [u32; 2],
    /// The same of a size that does not exist.
    pub bad_size: [u32; 2],
    /// EAX of RMPADJUST for VMPL1.
    pub rmpadjust: u32,
    /// A word written and read without paging.
    pub word: u32,
    /// Vector, error code and EIP (less that of the instruction) of #VC at CPUID.
    pub vc: [u32; 3],
    /// GHCB MSR's answer to a request for SEV information, low and high.
    pub information: [u32; 2],
    /// Whether the checks were made.
    pub made: u32,
}

/// A page that the 32-bit entry plays with: memory that was not launched, below everything else.
pub const PAGE_32: u64 = 0x40_0000;
/// What it writes there.
pub const WORD_32: u32 = 0x5ca1_ab1e;

/// See [`EntryState`].
pub static STATE: Global<EntryState> = Global::new(EntryState {
    registers: [0; 16],
    cr0: 0,
    cr3: 0,
    cr4: 0,
    rflags: 0,
    selectors: [0; 6],
    efer: 0,
    pat: 0,
    ghcb: 0,
    sev_status: 0,
    fcw: 0,
    limits: [0; 2],
});
/// See [`Found32`].
pub static FOUND_32: Global<Found32> = Global::new(Found32 {
    first: [0; 2],
    second: [0; 2],
    rescinded: [0; 2],
    bad_size: [0; 2],
    rmpadjust: 0,
    word: 0,
    vc: [0; 3],
    information: [0; 2],
    made: 0,
});

global_asm!(
    r#"
    .pushsection .boot.text, "ax", @progbits
    .code64
    .globl snp_start
snp_start:
    mov [rip + {state}], rax
    mov [rip + {state} + 8], rcx
    mov [rip + {state} + 16], rdx
    mov [rip + {state} + 24], rbx
    mov [rip + {state} + 32], rsp
    mov [rip + {state} + 40], rbp
    mov [rip + {state} + 48], rsi
    mov [rip + {state} + 56], rdi
    mov [rip + {state} + 64], r8
    mov [rip + {state} + 72], r9
    mov [rip + {state} + 80], r10
    mov [rip + {state} + 88], r11
    mov [rip + {state} + 96], r12
    mov [rip + {state} + 104], r13
    mov [rip + {state} + 112], r14
    mov [rip + {state} + 120], r15
    lea rbx, [rip + {state}]
    movabs rsp, offset conformance_stack_top
    pushfq
    pop rax
    mov [rbx + {rflags}], rax
    mov rax, cr0
    mov [rbx + {cr0}], rax
    mov rax, cr3
    mov [rbx + {cr3}], rax
    mov rax, cr4
    mov [rbx + {cr4}], rax
    mov [rbx + {selectors}], cs
    mov [rbx + {selectors} + 8], ds
    mov [rbx + {selectors} + 16], es
    mov [rbx + {selectors} + 24], ss
    mov [rbx + {selectors} + 32], fs
    mov [rbx + {selectors} + 40], gs
    fnstcw [rbx + {fcw}]
    sub rsp, 16
    sgdt [rsp]
    movzx eax, word ptr [rsp]
    mov [rbx + {limits}], rax
    sidt [rsp]
    movzx eax, word ptr [rsp]
    mov [rbx + {limits} + 8], rax
    add rsp, 16
    mov ecx, 0xc0000080
    lea rdi, [rbx + {efer}]
    call 4f
    mov ecx, 0x277
    lea rdi, [rbx + {pat}]
    call 4f
    mov ecx, 0xc0010130
    lea rdi, [rbx + {ghcb}]
    call 4f
    mov ecx, 0xc0010131
    lea rdi, [rbx + {sev_status}]
    call 4f
    mov rdi, [rbx + 48]
    jmp conformance_go
4:  rdmsr
    mov [rdi], eax
    mov [rdi + 4], edx
    ret

conformance_go:                                 // RDI: the launch block
    cld
    xor ebp, ebp
    call {main}
    ud2

    // 32-bit: no paging, everything is private. Addresses are link addresses less BASE.
    .code32
    .globl snp_start_32
snp_start_32:
    mov ebx, offset {state} - {base}
    mov [ebx], eax
    mov [ebx + 8], ecx
    mov [ebx + 16], edx
    mov [ebx + 32], esp
    mov [ebx + 40], ebp
    mov [ebx + 48], esi
    mov [ebx + 56], edi
    mov [ebx + {selectors}], cs
    mov [ebx + {selectors} + 8], ds
    mov [ebx + {selectors} + 16], es
    mov [ebx + {selectors} + 24], ss
    mov [ebx + {selectors} + 32], fs
    mov [ebx + {selectors} + 40], gs
    // The stack segment that hosts give has B clear: a stack of 16 bits.
    lgdt ds:[conformance_gdt_pointer - {base}]
    mov eax, 16
    mov ss, eax
    mov esp, offset conformance_stack_top - {base}
    pushfd
    pop eax
    mov [ebx + {rflags}], eax
    mov eax, cr0
    mov [ebx + {cr0}], eax
    mov eax, cr3
    mov [ebx + {cr3}], eax
    mov eax, cr4
    mov [ebx + {cr4}], eax
    fnstcw [ebx + {fcw}]
    mov ecx, 0xc0000080
    lea edi, [ebx + {efer}]
    call 2f
    mov ecx, 0x277
    lea edi, [ebx + {pat}]
    call 2f
    mov ecx, 0xc0010130
    lea edi, [ebx + {ghcb}]
    call 2f
    mov ecx, 0xc0010131
    lea edi, [ebx + {sev_status}]
    call 2f
    jmp 3f
2:  rdmsr
    mov [edi], eax
    mov [edi + 4], edx
    ret
3:  mov ebp, esi
    mov edi, offset {found} - {base}
    // SEV information over the MSR protocol.
    mov ecx, 0xc0010130
    mov eax, 2
    xor edx, edx
    wrmsr
    rep vmmcall
    rdmsr
    mov [edi + {information}], eax
    mov [edi + {information} + 4], edx
    // The page is to be private: 0x014, operation 1.
    mov eax, {page} | 0x14
    mov edx, 1 << 20
    wrmsr
    rep vmmcall
    rdmsr
    // PVALIDATE four times: validate, again, rescind, a size that is none; and once more, so that the page can be used.
    lea esi, [edi + {first}]
    mov ecx, 0
    mov edx, 1
    call 5f
    lea esi, [edi + {second}]
    mov edx, 1
    call 5f
    lea esi, [edi + {rescinded}]
    mov edx, 0
    call 5f
    lea esi, [edi + {bad_size}]
    mov ecx, 2
    mov edx, 1
    call 5f
    lea esi, [edi + {bad_size} - 8]         // (the place of `rescinded` is kept)
    push dword ptr [esi]
    push dword ptr [esi + 4]
    mov ecx, 0
    mov edx, 1
    call 5f
    pop dword ptr [esi + 4]
    pop dword ptr [esi]
    jmp 6f
5:  mov eax, {page}
    .byte 0xf2, 0x0f, 0x01, 0xff
    mov [esi], eax
    pushfd
    pop dword ptr [esi + 4]
    ret
6:  mov dword ptr ds:[{page}], {word}
    mov eax, ds:[{page}]
    mov [edi + {found_word}], eax
    mov eax, {page}                             // RMPADJUST: all permissions for VMPL1
    mov ecx, 0
    mov edx, 0xf01
    .byte 0xf3, 0x0f, 0x01, 0xfe
    mov [edi + {rmpadjust}], eax
    // #VC in 32-bit mode: a gate of 8 bytes for vector 29.
    mov eax, offset conformance_vc_32 - {base}
    mov edx, eax
    and eax, 0xffff
    or eax, 8 << 16
    and edx, 0xffff0000
    or edx, 0x8e00
    mov ds:[conformance_idt_32 - {base} + 29*8], eax
    mov ds:[conformance_idt_32 - {base} + 29*8 + 4], edx
    lidt ds:[conformance_idt_pointer - {base}]
    .byte 0xea                                  // ljmp 8:7f
    .long 7f - {base}
    .word 8
7:  mov eax, 16
    mov ds, eax
    mov ss, eax
    mov es, eax
    mov esp, offset conformance_stack_top - {base}
    xor eax, eax
    xor ecx, ecx
conformance_cpuid_32:
    cpuid
    jmp 30f                                     // no #VC: nothing is noted
conformance_vc_32:
    mov dword ptr [edi + {vc}], 29
    mov eax, [esp]
    mov [edi + {vc} + 4], eax
    mov eax, [esp + 4]
    sub eax, offset conformance_cpuid_32 - {base}
    mov [edi + {vc} + 8], eax
30: mov dword ptr [edi + {made}], 1
    // Long mode on the image's tables.
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, [ebp + {tables}]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    // The tables map the image high, and this code runs low: the switch is made by a page that both map.
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    .byte 0xea                                  // ljmp 0x18:11f
    .long 31f - {base}
    .word 0x18
    .code64
31: movabs rax, offset conformance_high
    jmp rax
conformance_high:
    movabs rsp, offset conformance_stack_top
    mov edi, ebp
    jmp conformance_go

    // The kernel's linker script wants a PVH entry: this program has none.
    .globl pvh_start_physical
    .set pvh_start_physical, snp_start_32 - {base}

    .balign 8
conformance_gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
conformance_gdt_pointer:
    .word 31
    .long conformance_gdt - {base}
conformance_idt_pointer:
    .word 255
    .long conformance_idt_32 - {base}
    .popsection

    .pushsection .bss.entry, "aw", @nobits
    .balign 4096
    .skip 65536
conformance_stack_top:
conformance_idt_32:
    .skip 256
    .popsection
    "#,
    base = const BASE,
    main = sym super::super::suite::main,
    state = sym STATE,
    found = sym FOUND_32,
    rflags = const core::mem::offset_of!(EntryState, rflags),
    cr0 = const core::mem::offset_of!(EntryState, cr0),
    cr3 = const core::mem::offset_of!(EntryState, cr3),
    cr4 = const core::mem::offset_of!(EntryState, cr4),
    selectors = const core::mem::offset_of!(EntryState, selectors),
    efer = const core::mem::offset_of!(EntryState, efer),
    pat = const core::mem::offset_of!(EntryState, pat),
    ghcb = const core::mem::offset_of!(EntryState, ghcb),
    sev_status = const core::mem::offset_of!(EntryState, sev_status),
    fcw = const core::mem::offset_of!(EntryState, fcw),
    limits = const core::mem::offset_of!(EntryState, limits),
    first = const core::mem::offset_of!(Found32, first),
    second = const core::mem::offset_of!(Found32, second),
    rescinded = const core::mem::offset_of!(Found32, rescinded),
    bad_size = const core::mem::offset_of!(Found32, bad_size),
    found_word = const core::mem::offset_of!(Found32, word),
    rmpadjust = const core::mem::offset_of!(Found32, rmpadjust),
    vc = const core::mem::offset_of!(Found32, vc),
    information = const core::mem::offset_of!(Found32, information),
    made = const core::mem::offset_of!(Found32, made),
    page = const PAGE_32,
    word = const WORD_32,
    tables = const core::mem::offset_of!(conformance::block::Block, tables),
);

unsafe extern "C" {
    /// The entry point; named here so that the linker keeps it.
    fn snp_start();
}

/// The address of the entry point.
#[used]
static ENTRY: unsafe extern "C" fn() = snp_start;
