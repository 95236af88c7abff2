//! The IGVM entry of an SNP guest: 64-bit mode, in the high half, on page tables that the image brings.
//!
//! State at the entry, all of it in the VMSA and so in the launch digest: RIP = `snp_start`, RSP = the end of a launched stack, RSI =
//! guest-physical address of the [`LaunchBlock`], CR3 = tables that map the first GiB at [`KERNEL_BASE`], encrypted. Nothing of the kernel's zeroed
//! data exists yet: the first thing is to ask for it page by page, to validate it and to clear it, in assembly, since Rust needs it. From then on only
//! copies of what the launch left are looked at, and every answer of the host's is checked before it counts.

use crate::info::{BootInfo, PlatformKind};
use crate::pvh_entry::KERNEL_BASE;
use core::arch::global_asm;
use platform_snp::snp::cpuid_page::CpuidTable;
use platform_snp::snp::instructions::{Native, PageSize};
use platform_snp::snp::launch::LaunchBlock;
use platform_snp::snp::memory_map::MemoryMap;
use platform_snp::snp::secrets_page::Secrets;
use platform_snp::snp::{Instructions, Violation, msr_protocol};
use zerocopy::FromBytes;

/// What only an SNP guest is told.
pub struct SnpBoot {
    /// CPUID, as the PSP has checked it.
    pub cpuid: CpuidTable,
    /// The keys for messages to the PSP.
    pub secrets: Secrets,
    /// Where everything was launched.
    pub block: LaunchBlock,
}

global_asm!(
    r#"
    .pushsection .boot.text, "ax", @progbits
    .code64
    .globl snp_start
snp_start:
    cld
    mov r12, rsi
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov r13, rax
    movabs r14, {base}
    mov rbx, [r14 + r12 + {zeroed_start}]
    mov rbp, [r14 + r12 + {zeroed_end}]
1:  cmp rbx, rbp
    jae 2f
    mov rax, rbx                            // page state change: private
    bts rax, 52
    or rax, 0x14
    mov rdx, rax
    shr rdx, 32
    mov ecx, {ghcb}
    wrmsr
    rep vmmcall
    rdmsr
    mov esi, {refused}
    test edx, edx
    jnz 3f
    cmp eax, 0x15
    jne 3f
    lea rax, [r14 + rbx]                    // PVALIDATE
    xor ecx, ecx
    mov edx, 1
    .byte 0xf2, 0x0f, 0x01, 0xff
    mov esi, {double}
    jc 3f
    mov esi, {failed}
    test rax, rax
    jnz 3f
    lea rdi, [r14 + rbx]
    mov ecx, 512
    xor eax, eax
    rep stosq
    add rbx, 4096
    jmp 1b
2:  movabs rsp, offset boot_stack_top          // in the data just made
    mov rdi, r12
    mov rsi, r13
    xor ebp, ebp
    call {main}
    ud2
3:  mov eax, esi                            // terminate with a reason of our own
    shl eax, 16
    or eax, {set} << 12 | 0x100
    xor edx, edx
    mov ecx, {ghcb}
    wrmsr
    rep vmmcall
    hlt
    jmp 3b
    .popsection
    "#,
    base = const KERNEL_BASE,
    zeroed_start = const core::mem::offset_of!(LaunchBlock, zeroed_start),
    zeroed_end = const core::mem::offset_of!(LaunchBlock, zeroed_end),
    ghcb = const 0xc001_0130u32,
    refused = const Violation::Refused as u32,
    double = const Violation::DoubleValidation as u32,
    failed = const Violation::Pvalidate as u32,
    set = const platform_snp::snp::violation::REASON_SET as u32,
    main = sym snp_main,
);

unsafe extern "C" {
    /// The entry point; named here so that the linker keeps it.
    fn snp_start();
}

/// The address of the entry point.
#[used]
static ENTRY: unsafe extern "C" fn() = snp_start;

/// The CPU's SNP instructions.
// SAFETY: only used in an SNP guest: by `snp_main`, which nothing else enters, and by a kernel whose boot info says that it is one.
pub static CPU: Native = unsafe { Native::new() };

unsafe extern "Rust" {
    /// The kernel, which defines it with exactly this signature.
    safe fn kernel_main(info: &mut BootInfo) -> !;
}

extern "C" fn snp_main(block: u64, entry_tsc: u64) -> ! {
    match prepare(block, entry_tsc) {
        Ok(mut info) => kernel_main(&mut info),
        Err(violation) => CPU.terminate(violation.request().into()),
    }
}

/// A launched page, where boot maps it.
///
/// # Safety
/// `gpa` is a page that was launched and that nothing else refers to while the result is used.
unsafe fn page(gpa: u64) -> &'static mut [u8; 4096] {
    // SAFETY: the caller's promise; launched pages lie in the first GiB, says `LaunchBlock::check`.
    unsafe { &mut *((KERNEL_BASE + gpa) as *mut [u8; 4096]) }
}

fn prepare(block_address: u64, entry_tsc: u64) -> Result<BootInfo, Violation> {
    // SAFETY: the address is measured: it is where the image's builder put the block.
    let bytes = unsafe { *page(block_address) };
    let (block, _) = LaunchBlock::read_from_prefix(&bytes).map_err(|_| Violation::LaunchBlock)?;
    block.check()?;
    // SAFETY: special pages of the launch, inside of what was launched; each looked at here only.
    let (cpuid_page, secrets_page, map_page) =
        unsafe { (page(block.cpuid), page(block.secrets), page(block.memory_map)) };
    let cpuid = CpuidTable::parse(&*cpuid_page)?;
    cpuid_page.fill(0);
    if u64::from(cpuid.c_bit()?) != block.c_bit {
        return Err(Violation::CBit);
    }
    let secrets = Secrets::take(secrets_page)?;
    msr_protocol::negotiate(&CPU)?;
    // Only VMPL0 may take permissions away from VMPL1; ours has none to lose.
    const VMPL1_NOTHING: u64 = 1;
    if CPU.rmpadjust(KERNEL_BASE + block_address, PageSize::Small, VMPL1_NOTHING) != 0 {
        return Err(if secrets.svsm { Violation::Svsm } else { Violation::Vmpl });
    }
    let map = MemoryMap::parse(&*map_page)?;
    if map.holding(&block.launched()).is_none() {
        return Err(Violation::MemoryMissing);
    }
    let mut info = BootInfo::new(PlatformKind::Snp, entry_tsc);
    for range in map.ranges() {
        info.add_memory(range.start, range.end - range.start).map_err(|_| Violation::MemoryMap)?;
    }
    info.snp = Some(SnpBoot { cpuid, secrets, block });
    Ok(info)
}
