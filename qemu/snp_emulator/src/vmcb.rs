//! The virtual machine control block: what VMRUN takes and gives back.
//!
//! Source: AMD APM volume 2 (24593), appendix B: table B-1 (control area) and table B-2 (state save area). Only the fields used here
//! have names. Registers that the block does not hold are in [`Registers`].

/// A segment register in the save area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes: descriptor bits 55:52 and 47:40, packed into 12 bits.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// The control block, a page.
#[repr(C, align(4096))]
pub struct Vmcb {
    /// Intercepted reads of CR0-15.
    pub intercept_cr_read: u16,
    /// Intercepted writes of CR0-15.
    pub intercept_cr_write: u16,
    /// Intercepted reads of DR0-15.
    pub intercept_dr_read: u16,
    /// Intercepted writes of DR0-15.
    pub intercept_dr_write: u16,
    /// Intercepted exception vectors.
    pub intercept_exceptions: u32,
    /// Interrupts and instructions, [`intercept1`].
    pub intercept1: u32,
    /// More instructions, [`intercept2`].
    pub intercept2: u32,
    _0: [u8; 0x40 - 0x14],
    /// Physical address of the I/O permission map.
    pub iopm: u64,
    /// Physical address of the MSR permission map.
    pub msrpm: u64,
    /// Added to the TSC.
    pub tsc_offset: u64,
    /// Address space number.
    pub asid: u32,
    /// 1: flush the whole TLB.
    pub tlb_control: u8,
    _1: [u8; 3],
    /// V_TPR 7:0, V_IRQ 8, V_INTR_PRIO 19:16, V_IGN_TPR 20, V_INTR_MASKING 24.
    pub interrupt_control: u32,
    /// V_INTR_VECTOR.
    pub interrupt_vector: u32,
    /// Bit 0: interrupt shadow.
    pub interrupt_state: u64,
    /// Why the guest stopped.
    pub exit_code: u64,
    /// Details.
    pub exit_info1: u64,
    /// More details.
    pub exit_info2: u64,
    /// The event whose delivery was interrupted by the exit.
    pub exit_interrupt_info: u64,
    /// Bit 0: nested paging.
    pub nested_control: u64,
    _2: [u8; 0xa8 - 0x98],
    /// The event to inject.
    pub event_injection: u64,
    /// Root of the nested page table.
    pub nested_cr3: u64,
    _3: u64,
    /// State that is unchanged since the last run.
    pub clean: u32,
    _4: u32,
    /// Next instruction, where the CPU saves it.
    pub next_rip: u64,
    _5: [u8; 0x400 - 0xd0],
    /// ES.
    pub es: Segment,
    /// CS.
    pub cs: Segment,
    /// SS.
    pub ss: Segment,
    /// DS.
    pub ds: Segment,
    /// FS.
    pub fs: Segment,
    /// GS.
    pub gs: Segment,
    /// GDTR.
    pub gdtr: Segment,
    /// LDTR.
    pub ldtr: Segment,
    /// IDTR.
    pub idtr: Segment,
    /// TR.
    pub tr: Segment,
    _6: [u8; 0x2b],
    /// Privilege level.
    pub cpl: u8,
    _7: u32,
    /// EFER.
    pub efer: u64,
    _8: [u8; 0x70],
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    _9: [u8; 0x58],
    /// RSP.
    pub rsp: u64,
    _10: [u8; 0x18],
    /// RAX.
    pub rax: u64,
    /// STAR.
    pub star: u64,
    /// LSTAR.
    pub lstar: u64,
    /// CSTAR.
    pub cstar: u64,
    /// SFMASK.
    pub sfmask: u64,
    /// Kernel GS base.
    pub kernel_gs_base: u64,
    /// SYSENTER_CS.
    pub sysenter_cs: u64,
    /// SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// CR2.
    pub cr2: u64,
    _11: [u8; 0x20],
    /// Guest PAT.
    pub pat: u64,
    _12: [u8; 0x1000 - 0x670],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Vmcb>() == 0x1000);
    assert!(offset_of!(Vmcb, iopm) == 0x40);
    assert!(offset_of!(Vmcb, asid) == 0x58);
    assert!(offset_of!(Vmcb, interrupt_control) == 0x60);
    assert!(offset_of!(Vmcb, exit_code) == 0x70);
    assert!(offset_of!(Vmcb, event_injection) == 0xa8);
    assert!(offset_of!(Vmcb, nested_cr3) == 0xb0);
    assert!(offset_of!(Vmcb, es) == 0x400);
    assert!(offset_of!(Vmcb, cpl) == 0x4cb);
    assert!(offset_of!(Vmcb, efer) == 0x4d0);
    assert!(offset_of!(Vmcb, cr4) == 0x548);
    assert!(offset_of!(Vmcb, rsp) == 0x5d8);
    assert!(offset_of!(Vmcb, rax) == 0x5f8);
    assert!(offset_of!(Vmcb, cr2) == 0x640);
    assert!(offset_of!(Vmcb, pat) == 0x668);
};

impl Vmcb {
    /// One that is all zeros.
    pub const ZERO: Vmcb = {
        // SAFETY: every field is an integer, for which zero bytes are a value.
        unsafe { core::mem::zeroed() }
    };

    /// Whether paging is on.
    pub fn paging(&self) -> bool {
        self.cr0 >> 31 & 1 != 0
    }

    /// Whether it runs 64-bit code.
    pub fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0 && self.cs.attributes & 0x200 != 0
    }
}

/// Bits of [`Vmcb::intercept1`].
pub mod intercept1 {
    /// Physical interrupts.
    pub const INTR: u32 = 1 << 0;
    /// Physical NMIs.
    pub const NMI: u32 = 1 << 1;
    /// RDTSC.
    pub const RDTSC: u32 = 1 << 14;
    /// RDPMC.
    pub const RDPMC: u32 = 1 << 15;
    /// CPUID.
    pub const CPUID: u32 = 1 << 18;
    /// INVD.
    pub const INVD: u32 = 1 << 22;
    /// HLT.
    pub const HLT: u32 = 1 << 24;
    /// INVLPGA.
    pub const INVLPGA: u32 = 1 << 26;
    /// Ports, by the permission map.
    pub const IOIO: u32 = 1 << 27;
    /// MSRs, by the permission map.
    pub const MSR: u32 = 1 << 28;
    /// Shutdown.
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// Bits of [`Vmcb::intercept2`].
pub mod intercept2 {
    /// VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT.
    pub const SVM: u32 = 0x7f;
    /// RDTSCP.
    pub const RDTSCP: u32 = 1 << 7;
    /// WBINVD.
    pub const WBINVD: u32 = 1 << 9;
    /// MONITOR.
    pub const MONITOR: u32 = 1 << 10;
    /// MWAIT.
    pub const MWAIT: u32 = 1 << 11;
}

/// Exit codes (APM volume 2, appendix C) and what of them GHCB exits share.
pub mod exit {
    /// DR7 read.
    pub const READ_DR7: u64 = 0x27;
    /// DR7 write.
    pub const WRITE_DR7: u64 = 0x37;
    /// Exception 6.
    pub const UD: u64 = 0x46;
    /// Physical interrupt.
    pub const INTR: u64 = 0x60;
    /// Physical NMI.
    pub const NMI: u64 = 0x61;
    /// RDTSC.
    pub const RDTSC: u64 = 0x6e;
    /// RDPMC.
    pub const RDPMC: u64 = 0x6f;
    /// CPUID.
    pub const CPUID: u64 = 0x72;
    /// INVD.
    pub const INVD: u64 = 0x76;
    /// HLT.
    pub const HLT: u64 = 0x78;
    /// INVLPGA.
    pub const INVLPGA: u64 = 0x7a;
    /// Port access.
    pub const IOIO: u64 = 0x7b;
    /// MSR access.
    pub const MSR: u64 = 0x7c;
    /// Triple fault.
    pub const SHUTDOWN: u64 = 0x7f;
    /// VMRUN.
    pub const VMRUN: u64 = 0x80;
    /// VMMCALL, and here VMGEXIT too.
    pub const VMMCALL: u64 = 0x81;
    /// VMLOAD.
    pub const VMLOAD: u64 = 0x82;
    /// SKINIT.
    pub const SKINIT: u64 = 0x86;
    /// RDTSCP.
    pub const RDTSCP: u64 = 0x87;
    /// WBINVD.
    pub const WBINVD: u64 = 0x89;
    /// MONITOR.
    pub const MONITOR: u64 = 0x8a;
    /// MWAIT.
    pub const MWAIT: u64 = 0x8b;
    /// Nested page fault.
    pub const NPF: u64 = 0x400;
    /// As an error code of #VC only: a page that is assigned and not validated.
    pub const PAGE_NOT_VALIDATED: u64 = 0x404;
    /// The state is not one to run.
    pub const INVALID: u64 = u64::MAX;
    /// [`INVALID`] as QEMU writes it: 32 bits.
    pub const INVALID_QEMU: u64 = u32::MAX as u64;
}

/// Bits of EFER.
pub mod efer {
    /// System calls.
    pub const SCE: u64 = 1 << 0;
    /// Long mode enabled.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute.
    pub const NXE: u64 = 1 << 11;
    /// SVM.
    pub const SVME: u64 = 1 << 12;
    /// Fast FXSAVE and FXRSTOR.
    pub const FFXSR: u64 = 1 << 14;
    /// What a guest may write; LMA follows from LME and paging, whatever is written.
    pub const WRITABLE: u64 = SCE | LME | LMA | NXE | SVME | FFXSR;
}

/// General registers by their number in instruction encodings. RAX and RSP are in the [`Vmcb`]; their places here are unused.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Registers(pub [u64; 16]);

macro_rules! register {
    ($($(#[$doc:meta])* $name:ident, $set:ident = $number:expr;)*) => { $(
        $(#[$doc])*
        pub fn $name(&self) -> u64 {
            self.0[$number]
        }
        /// Sets it.
        pub fn $set(&mut self, value: u64) {
            self.0[$number] = value;
        }
    )* };
}

impl Registers {
    register! {
        /// RCX.
        rcx, set_rcx = 1;
        /// RDX.
        rdx, set_rdx = 2;
        /// RBX.
        rbx, set_rbx = 3;
        /// RBP.
        rbp, set_rbp = 5;
        /// RSI.
        rsi, set_rsi = 6;
        /// RDI.
        rdi, set_rdi = 7;
    }
}
