//! What this CPU can do, asked once at boot, and switched on.

use super::cpuid::{cpuid, cpuid_count};
use spin::Once;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};

/// The features that the kernel looks at.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Features {
    pub smep: bool,
    pub smap: bool,
    pub umip: bool,
    pub pge: bool,
    pub xsave: bool,
    /// XCR0 bits that the CPU offers and the kernel saves.
    pub xcr0: u64,
    pub rdrand: bool,
    pub rdseed: bool,
    pub gigabyte_pages: bool,
    pub tsc_deadline: bool,
    pub x2apic: bool,
    /// `rep movsb` is fast: the CPU says so, and the hypervisor is not one that interprets it.
    pub fast_string: bool,
    /// Leaf 1 EDX, for AT_HWCAP.
    pub leaf1_edx: u32,
}

static FEATURES: Once<Features> = Once::new();

impl Features {
    /// Before anybody has asked the CPU.
    const NONE: Features = Features {
        smep: false,
        smap: false,
        umip: false,
        pge: false,
        xsave: false,
        xcr0: 0,
        rdrand: false,
        rdseed: false,
        gigabyte_pages: false,
        tsc_deadline: false,
        x2apic: false,
        fast_string: false,
        leaf1_edx: 0,
    };
}

/// The features; none before [`init`].
#[inline]
pub fn get() -> &'static Features {
    static NONE: Features = Features::NONE;
    FEATURES.get().unwrap_or(&NONE)
}

/// x87, SSE, AVX, AVX-512 (opmask, upper halves, upper registers): the state components that the kernel switches.
const XCR0_KNOWN: u64 = 0b1110_0111;
const XCR0_AVX512: u64 = 0b1110_0000;

fn detect() -> Features {
    let max = cpuid(0).eax;
    let leaf1 = cpuid(1);
    let leaf7 = if max >= 7 { cpuid_count(7, 0) } else { cpuid_count(0, 0) };
    let (leaf7_ebx, leaf7_ecx, leaf7_edx) =
        if max >= 7 { (leaf7.ebx, leaf7.ecx, leaf7.edx) } else { (0, 0, 0) };
    let extended_max = cpuid(0x8000_0000).eax;
    let extended_edx = if extended_max >= 0x8000_0001 { cpuid(0x8000_0001).edx } else { 0 };
    let xsave = leaf1.ecx & 1 << 26 != 0;
    let mut xcr0 = 3;
    if xsave && max >= 0xd {
        let leaf = cpuid_count(0xd, 0);
        xcr0 = (u64::from(leaf.edx) << 32 | u64::from(leaf.eax)) & XCR0_KNOWN;
        if xcr0 & XCR0_AVX512 != XCR0_AVX512 || xcr0 & 4 == 0 {
            xcr0 &= !XCR0_AVX512;
        }
    }
    let hypervisor = leaf1.ecx & 1 << 31 != 0;
    let interpreted = hypervisor && {
        let leaf = cpuid(0x4000_0000);
        [leaf.ebx, leaf.ecx, leaf.edx]
            == [u32::from_le_bytes(*b"TCGT"), u32::from_le_bytes(*b"CGTC"), u32::from_le_bytes(*b"GTCG")]
    };
    Features {
        smep: leaf7_ebx & 1 << 7 != 0,
        smap: leaf7_ebx & 1 << 20 != 0,
        umip: leaf7_ecx & 1 << 2 != 0,
        pge: leaf1.edx & 1 << 13 != 0,
        xsave,
        xcr0,
        rdrand: leaf1.ecx & 1 << 30 != 0,
        rdseed: leaf7_ebx & 1 << 18 != 0,
        gigabyte_pages: extended_edx & 1 << 26 != 0,
        tsc_deadline: leaf1.ecx & 1 << 24 != 0,
        x2apic: leaf1.ecx & 1 << 21 != 0,
        fast_string: (leaf7_ebx & 1 << 9 != 0 || leaf7_edx & 1 << 4 != 0) && !interpreted,
        leaf1_edx: leaf1.edx,
    }
}

/// Switches on what there is: write protection, NX, SMEP, SMAP, UMIP, global pages, and the user's SSE and AVX.
pub fn init() {
    let features = FEATURES.call_once(detect);
    // SAFETY: none of these changes how the kernel's own mappings behave: its user accesses use STAC/CLAC, it runs no user page, and NX is set in
    // no entry before this (boot switched it on already).
    unsafe {
        Cr0::update(|cr0| {
            cr0.insert(Cr0Flags::WRITE_PROTECT | Cr0Flags::MONITOR_COPROCESSOR | Cr0Flags::NUMERIC_ERROR);
            cr0.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
        });
        Cr4::update(|cr4| {
            cr4.insert(Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE);
            cr4.set(Cr4Flags::PAGE_GLOBAL, features.pge);
            cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, features.smep);
            cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, features.smap);
            cr4.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, features.umip);
            cr4.set(Cr4Flags::OSXSAVE, features.xsave);
        });
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE | EferFlags::SYSTEM_CALL_EXTENSIONS));
    }
    super::fpu::init();
}
