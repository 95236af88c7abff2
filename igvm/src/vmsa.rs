//! The save area (VMSA): the registers of a virtual CPU of an SEV-ES or SEV-SNP guest, one page.
//!
//! Here for the launch: a page that says how the first instruction finds the CPU. All fields are public; which values are
//! acceptable is for the host and the processor to say.
//!
//! Source: AMD APM vol. 2 (24593), appendix B, table B-4 "VMSA layout, state save area for SEV-ES".

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::PAGE_SIZE;

/// Where KVM measures the save area of a CPU, whatever a file says.
pub const KVM_VMSA_GPA: u64 = 0xffff_ffff_f000;

/// A segment or descriptor-table register as VMCB and VMSA hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Bits 7:0 type, S, DPL, P; bits 11:8 AVL, L, D/B, G: the descriptor's bits without the hole that holds the limit.
    pub attributes: u16,
    /// Limit in bytes, whatever G says.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

impl Segment {
    /// A flat segment from a descriptor's attribute bits as most others write them, with G, D, L, AVL in bits 15:12.
    pub const fn flat(selector: u16, descriptor_attributes: u16) -> Self {
        let attributes = (descriptor_attributes & 0xff) | ((descriptor_attributes >> 4) & 0xf00);
        Self { selector, attributes, limit: u32::MAX, base: 0 }
    }

    /// L: a 64-bit code segment.
    pub const fn is_long(&self) -> bool {
        self.attributes & (1 << 9) != 0
    }

    /// D/B: 32-bit code or stack.
    pub const fn is_32_bit(&self) -> bool {
        self.attributes & (1 << 10) != 0
    }
}

bitflags::bitflags! {
    /// SEV_FEATURES (VMSA 0x3B0): what the guest demands of the hardware; measured with the rest of the page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SevFeatures: u64 {
        /// SNP is active.
        const SNP_ACTIVE = 1 << 0;
        /// Memory below `virtual_tom` is private, that above is shared, and the C-bit does not count.
        const VTOM = 1 << 1;
        /// #VC becomes an exit, for a paravisor to handle.
        const REFLECT_VC = 1 << 2;
        /// The host can inject #HV and nothing else.
        const RESTRICTED_INJECTION = 1 << 3;
        /// Interrupts come through the VMSA.
        const ALTERNATE_INJECTION = 1 << 4;
        /// Debug registers are swapped by hardware.
        const DEBUG_SWAP = 1 << 5;
        /// The host's instruction sampling stops in the guest.
        const PREVENT_HOST_IBS = 1 << 6;
        /// Branch predictions of others are not used.
        const BTB_ISOLATION = 1 << 7;
        /// Supervisor shadow stacks are checked per VMPL.
        const VMPL_SSS = 1 << 8;
        /// The TSC is the PSP's, not the host's.
        const SECURE_TSC = 1 << 9;
        /// Registers in the VMSA are XORed with a nonce.
        const VMSA_REG_PROT = 1 << 14;
        /// The sibling hyperthread must be idle.
        const SMT_PROTECTION = 1 << 15;
        const _ = !0;
    }
}

macro_rules! save_area {
    ($($offset:literal $(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// The save area.
        #[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct Vmsa {
            $($(#[$doc])* #[doc = concat!("\n\nOffset ", stringify!($offset), ".")] pub $field: $type,)*
        }

        /// Where each field starts, and its name.
        const FIELDS: &[(usize, &str)] = &[$(($offset, stringify!($field))),*];

        const _: () = {
            $(assert!(core::mem::offset_of!(Vmsa, $field) == $offset);)*
            assert!(size_of::<Vmsa>() == PAGE_SIZE);
        };
    };
}

save_area! {
    0x000 /// ES.
    es: Segment,
    0x010 /// CS.
    cs: Segment,
    0x020 /// SS.
    ss: Segment,
    0x030 /// DS.
    ds: Segment,
    0x040 /// FS.
    fs: Segment,
    0x050 /// GS.
    gs: Segment,
    0x060 /// GDTR: limit and base.
    gdtr: Segment,
    0x070 /// LDTR.
    ldtr: Segment,
    0x080 /// IDTR: limit and base.
    idtr: Segment,
    0x090 /// TR.
    tr: Segment,
    0x0a0 /// PL0_SSP to PL3_SSP.
    pl_ssp: [u64; 4],
    0x0c0 /// U_CET.
    u_cet: u64,
    0x0c8 /// Reserved, zero.
    reserved_0c8: [u8; 2],
    0x0ca /// Privilege level among VMPLs.
    vmpl: u8,
    0x0cb /// Current privilege level.
    cpl: u8,
    0x0cc /// Reserved, zero.
    reserved_0cc: [u8; 4],
    0x0d0 /// EFER; SVME must be set.
    efer: u64,
    0x0d8 /// Reserved, zero.
    reserved_0d8: [u8; 104],
    0x140 /// XSS.
    xss: u64,
    0x148 /// CR4.
    cr4: u64,
    0x150 /// CR3.
    cr3: u64,
    0x158 /// CR0.
    cr0: u64,
    0x160 /// DR7.
    dr7: u64,
    0x168 /// DR6.
    dr6: u64,
    0x170 /// RFLAGS.
    rflags: u64,
    0x178 /// RIP.
    rip: u64,
    0x180 /// DR0 to DR3.
    dr: [u64; 4],
    0x1a0 /// Address masks of DR0 to DR3.
    dr_addr_mask: [u64; 4],
    0x1c0 /// Reserved, zero.
    reserved_1c0: [u8; 24],
    0x1d8 /// RSP.
    rsp: u64,
    0x1e0 /// S_CET.
    s_cet: u64,
    0x1e8 /// SSP.
    ssp: u64,
    0x1f0 /// ISST_ADDR.
    isst_addr: u64,
    0x1f8 /// RAX.
    rax: u64,
    0x200 /// STAR.
    star: u64,
    0x208 /// LSTAR.
    lstar: u64,
    0x210 /// CSTAR.
    cstar: u64,
    0x218 /// SFMASK.
    sfmask: u64,
    0x220 /// KernelGSbase.
    kernel_gs_base: u64,
    0x228 /// SYSENTER_CS.
    sysenter_cs: u64,
    0x230 /// SYSENTER_ESP.
    sysenter_esp: u64,
    0x238 /// SYSENTER_EIP.
    sysenter_eip: u64,
    0x240 /// CR2.
    cr2: u64,
    0x248 /// Reserved, zero.
    reserved_248: [u8; 32],
    0x268 /// G_PAT.
    pat: u64,
    0x270 /// DBGCTL.
    dbgctl: u64,
    0x278 /// BR_FROM.
    br_from: u64,
    0x280 /// BR_TO.
    br_to: u64,
    0x288 /// LASTEXCPFROM.
    last_excp_from: u64,
    0x290 /// LASTEXCPTO.
    last_excp_to: u64,
    0x298 /// Reserved, zero.
    reserved_298: [u8; 72],
    0x2e0 /// SPEC_CTRL.
    spec_ctrl: u64,
    0x2e8 /// PKRU.
    pkru: u32,
    0x2ec /// TSC_AUX.
    tsc_aux: u32,
    0x2f0 /// GUEST_TSC_SCALE (Secure TSC).
    tsc_scale: u64,
    0x2f8 /// GUEST_TSC_OFFSET (Secure TSC).
    tsc_offset: u64,
    0x300 /// REG_PROT_NONCE.
    reg_prot_nonce: u64,
    0x308 /// RCX.
    rcx: u64,
    0x310 /// RDX.
    rdx: u64,
    0x318 /// RBX.
    rbx: u64,
    0x320 /// Reserved: RSP and RAX have places of their own.
    reserved_320: u64,
    0x328 /// RBP.
    rbp: u64,
    0x330 /// RSI.
    rsi: u64,
    0x338 /// RDI.
    rdi: u64,
    0x340 /// R8 to R15.
    r8_r15: [u64; 8],
    0x380 /// Reserved, zero.
    reserved_380: [u8; 16],
    0x390 /// GUEST_EXITINFO1.
    guest_exitinfo1: u64,
    0x398 /// GUEST_EXITINFO2.
    guest_exitinfo2: u64,
    0x3a0 /// GUEST_EXITINTINFO.
    guest_exitintinfo: u64,
    0x3a8 /// GUEST_NRIP.
    guest_nrip: u64,
    0x3b0 /// SEV_FEATURES, see [`SevFeatures`].
    sev_features: u64,
    0x3b8 /// VINTR_CTRL.
    vintr_ctrl: u64,
    0x3c0 /// GUEST_EXITCODE.
    guest_exitcode: u64,
    0x3c8 /// VIRTUAL_TOM.
    virtual_tom: u64,
    0x3d0 /// TLB_ID.
    tlb_id: u64,
    0x3d8 /// PCPU_ID.
    pcpu_id: u64,
    0x3e0 /// EVENTINJ.
    event_inj: u64,
    0x3e8 /// XCR0.
    xcr0: u64,
    0x3f0 /// Reserved, zero.
    reserved_3f0: [u8; 16],
    0x400 /// X87_DP.
    x87_dp: u64,
    0x408 /// MXCSR.
    mxcsr: u32,
    0x40c /// X87_FTW.
    x87_ftw: u16,
    0x40e /// X87_FSW.
    x87_fsw: u16,
    0x410 /// X87_FCW.
    x87_fcw: u16,
    0x412 /// X87_FOP.
    x87_fop: u16,
    0x414 /// X87_DS.
    x87_ds: u16,
    0x416 /// X87_CS.
    x87_cs: u16,
    0x418 /// X87_RIP.
    x87_rip: u64,
    0x420 /// FPREG_X87: ST0 to ST7, 80 bits each.
    fpreg_x87: [u8; 80],
    0x470 /// FPREG_XMM: XMM0 to XMM15.
    fpreg_xmm: [u8; 256],
    0x570 /// FPREG_YMM: upper halves of YMM0 to YMM15.
    fpreg_ymm: [u8; 256],
    0x670 /// Branch records and sampling state, and what is left of the page.
    rest: [u8; 0x990],
}

/// MXCSR after reset.
pub const MXCSR_RESET: u32 = 0x1f80;
/// The x87 control word after FINIT: what a CPU that KVM resets has.
pub const FCW_RESET: u16 = 0x37f;
/// DR6 after reset.
pub const DR6_RESET: u64 = 0xffff_0ff0;
/// DR7 after reset.
pub const DR7_RESET: u64 = 0x400;
/// PAT as the processor resets it, with write-combining in entry 1 (WB, WT, UC-, UC, twice): what COCONUT-SVSM and Linux start with.
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// EFER.LME.
pub const EFER_LME: u64 = 1 << 8;
/// EFER.LMA.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER.NXE.
pub const EFER_NXE: u64 = 1 << 11;
/// EFER.SVME.
pub const EFER_SVME: u64 = 1 << 12;
/// CR0.PE.
pub const CR0_PE: u64 = 1 << 0;
/// CR0.ET, always set.
pub const CR0_ET: u64 = 1 << 4;
/// CR0.NE.
pub const CR0_NE: u64 = 1 << 5;
/// CR0.PG.
pub const CR0_PG: u64 = 1 << 31;
/// CR4.PAE.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4.MCE.
pub const CR4_MCE: u64 = 1 << 6;

/// In what mode the first instruction runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryMode {
    /// 16-bit: CR0.PE clear.
    Real,
    /// Protected mode, not long; paging on or off.
    Protected {
        /// CR0.PG.
        paging: bool,
    },
    /// Long mode active, CS.L set.
    Long,
    /// Long mode active, but code of 32 bits.
    Compatibility,
}

impl Vmsa {
    /// All registers zero: no CPU starts from it.
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }

    /// A copy of a page.
    pub fn from_page(page: &[u8; PAGE_SIZE]) -> Self {
        zerocopy::transmute!(*page)
    }

    /// The page.
    pub fn to_page(&self) -> [u8; PAGE_SIZE] {
        zerocopy::transmute!(self.clone())
    }

    /// Flat 32-bit protected mode without paging, at `rip`: everything that it touches is private.
    pub fn protected_mode(rip: u64) -> Self {
        let mut vmsa = Self::common(rip);
        vmsa.cs = Segment::flat(0x08, 0xc09b);
        vmsa.cr0 = CR0_PE | CR0_ET | CR0_NE;
        vmsa.efer = EFER_NXE | EFER_SVME;
        vmsa
    }

    /// 64-bit mode at `rip`, on the page tables at `cr3` (with the C-bit where the guest wants them encrypted).
    pub fn long_mode(rip: u64, cr3: u64) -> Self {
        let mut vmsa = Self::common(rip);
        vmsa.cs = Segment::flat(0x08, 0xa09b);
        vmsa.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
        vmsa.cr3 = cr3;
        vmsa.efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME;
        vmsa
    }

    /// A CPU after reset as QEMU hands it to KVM, and KVM to the PSP: for CPUs whose registers a file does not give. `signature` is CPUID leaf 1 EAX
    /// of the CPU's model.
    ///
    /// Source: QEMU `target/i386/cpu.c`, `x86_cpu_reset_hold`; Linux `arch/x86/kvm/svm/sev.c`, `sev_es_sync_vmsa`; COCONUT-SVSM and
    /// `sev-snp-measure` (`vmsa.py`), which know them by the measurements that they must reproduce.
    pub fn reset(signature: u32, features: SevFeatures) -> Self {
        let segment = |attributes| Segment { selector: 0, attributes, limit: 0xffff, base: 0 };
        let mut vmsa = Self::zeroed();
        (vmsa.es, vmsa.ss, vmsa.ds, vmsa.fs, vmsa.gs) =
            (segment(0x93), segment(0x93), segment(0x93), segment(0x93), segment(0x93));
        vmsa.cs = Segment { selector: 0xf000, base: 0xffff_0000, ..segment(0x9b) };
        (vmsa.gdtr, vmsa.idtr) = (segment(0), segment(0));
        (vmsa.ldtr, vmsa.tr) = (segment(0x82), segment(0x8b));
        (vmsa.efer, vmsa.cr4, vmsa.cr0) = (EFER_SVME, CR4_MCE, CR0_ET);
        (vmsa.dr6, vmsa.dr7, vmsa.rflags, vmsa.rip) = (DR6_RESET, DR7_RESET, 2, 0xfff0);
        (vmsa.pat, vmsa.xcr0, vmsa.mxcsr, vmsa.x87_fcw) = (PAT_RESET, 1, MXCSR_RESET, FCW_RESET);
        vmsa.rdx = signature.into();
        vmsa.sev_features = features.bits();
        vmsa
    }

    fn common(rip: u64) -> Self {
        let mut vmsa = Self::zeroed();
        let data = Segment::flat(0x10, 0xa093);
        for segment in [&mut vmsa.ds, &mut vmsa.es, &mut vmsa.ss, &mut vmsa.fs, &mut vmsa.gs] {
            *segment = data;
        }
        vmsa.cr4 = CR4_PAE | CR4_MCE;
        vmsa.rflags = 2;
        vmsa.rip = rip;
        vmsa.xcr0 = 1;
        vmsa.pat = PAT_RESET;
        vmsa.dr6 = DR6_RESET;
        vmsa.dr7 = DR7_RESET;
        vmsa.mxcsr = MXCSR_RESET;
        vmsa.x87_fcw = FCW_RESET;
        vmsa.sev_features = SevFeatures::SNP_ACTIVE.bits();
        vmsa
    }

    /// The first field in which the two differ.
    pub fn first_difference(&self, other: &Self) -> Option<&'static str> {
        let offset = self.as_bytes().iter().zip(other.as_bytes()).position(|(a, b)| a != b)?;
        FIELDS.iter().rev().find(|(start, _)| *start <= offset).map(|(_, name)| *name)
    }

    /// SEV_FEATURES.
    pub const fn features(&self) -> SevFeatures {
        SevFeatures::from_bits_retain(self.sev_features)
    }

    /// The mode that CR0, EFER and CS give.
    pub const fn entry_mode(&self) -> EntryMode {
        let paging = self.cr0 & CR0_PG != 0;
        if self.cr0 & CR0_PE == 0 {
            EntryMode::Real
        } else if !paging || self.efer & EFER_LMA == 0 {
            EntryMode::Protected { paging }
        } else if self.cs.is_long() {
            EntryMode::Long
        } else {
            EntryMode::Compatibility
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_lose_the_hole() {
        assert_eq!(Segment::flat(8, 0xc09b).attributes, 0xc9b);
        assert_eq!(Segment::flat(8, 0xa09b).attributes, 0xa9b);
        assert!(Segment::flat(8, 0xa09b).is_long() && !Segment::flat(8, 0xa09b).is_32_bit());
        assert!(Segment::flat(8, 0xc09b).is_32_bit() && !Segment::flat(8, 0xc09b).is_long());
    }

    #[test]
    fn entry_states_have_the_documented_values() {
        let long = Vmsa::long_mode(0x10_0000, 0x20_0000);
        assert_eq!((long.cr0, long.efer, long.cr4), (0x8000_0031, 0x1d00, 0x60));
        assert_eq!((long.rip, long.cr3, long.entry_mode()), (0x10_0000, 0x20_0000, EntryMode::Long));
        let protected = Vmsa::protected_mode(0xffff_fff0);
        assert_eq!((protected.cr0, protected.efer), (0x31, 0x1800));
        assert_eq!(protected.entry_mode(), EntryMode::Protected { paging: false });
        assert_eq!(protected.features(), SevFeatures::SNP_ACTIVE);
    }

    #[test]
    fn a_cpu_after_reset_is_in_real_mode_below_4_gib() {
        let vmsa = Vmsa::reset(0x00a0_0f11, SevFeatures::SNP_ACTIVE);
        assert_eq!(vmsa.entry_mode(), EntryMode::Real);
        assert_eq!((vmsa.cs.base + vmsa.rip, vmsa.rdx), (0xffff_fff0, 0x00a0_0f11));
    }

    #[test]
    fn modes_are_told_apart() {
        let mut vmsa = Vmsa::long_mode(0, 0);
        vmsa.cs = Segment::flat(8, 0xc09b);
        assert_eq!(vmsa.entry_mode(), EntryMode::Compatibility);
        vmsa.efer = EFER_SVME;
        assert_eq!(vmsa.entry_mode(), EntryMode::Protected { paging: true });
        vmsa.cr0 = CR0_ET;
        assert_eq!(vmsa.entry_mode(), EntryMode::Real);
    }

    #[test]
    fn differences_have_names() {
        let a = Vmsa::long_mode(0x1000, 0x2000);
        let mut b = a.clone();
        assert_eq!(a.first_difference(&b), None);
        b.r8_r15[7] = 1;
        assert_eq!(a.first_difference(&b), Some("r8_r15"));
        b.gdtr.limit = 1;
        assert_eq!(a.first_difference(&b), Some("gdtr"));
        b.rest[0x98f] = 1;
        b.gdtr.limit = 0;
        b.r8_r15[7] = 0;
        assert_eq!(a.first_difference(&b), Some("rest"));
    }

    #[test]
    fn a_page_survives() {
        let mut page = [0u8; PAGE_SIZE];
        for (i, byte) in page.iter_mut().enumerate() {
            *byte = (i * 31 / 7) as u8;
        }
        assert_eq!(Vmsa::from_page(&page).to_page(), page);
        page[0x178..0x180].copy_from_slice(&0xdead_beef_u64.to_le_bytes());
        assert_eq!(Vmsa::from_page(&page).rip, 0xdead_beef);
    }
}
