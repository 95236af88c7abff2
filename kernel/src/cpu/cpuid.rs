//! CPUID: the instruction in a plain VM; in an SNP guest the table that the PSP has checked, since the instruction would ask the host.

use core::arch::x86_64::{__cpuid_count, CpuidResult};
use platform_snp::snp::cpuid_page::CpuidTable;
use spin::Once;

static TABLE: Once<CpuidTable> = Once::new();

/// Makes the table the only source; before anything is asked.
pub fn use_table(table: CpuidTable) {
    TABLE.call_once(|| table);
}

/// A leaf and subleaf, as it is in ring 0 with `xcr0` on.
fn get(leaf: u32, subleaf: u32, xcr0: u64) -> CpuidResult {
    match TABLE.get() {
        Some(table) => {
            let [eax, ebx, ecx, edx] = table.get(leaf, subleaf, xcr0);
            CpuidResult { eax, ebx, ecx, edx }
        }
        None => __cpuid_count(leaf, subleaf),
    }
}

/// A leaf with a subleaf.
pub fn cpuid_count(leaf: u32, subleaf: u32) -> CpuidResult {
    get(leaf, subleaf, 1)
}

/// A leaf.
pub fn cpuid(leaf: u32) -> CpuidResult {
    get(leaf, 0, 1)
}

/// Bytes of an XSAVE area for what is on.
pub fn xsave_area(xcr0: u64) -> u32 {
    get(0xd, 0, xcr0).ebx
}

/// What ring 3 sees when its CPUID raised #VC: the table, and OSXSAVE as CR4 has it.
pub fn for_user(leaf: u32, subleaf: u32, xcr0: u64, osxsave: bool) -> CpuidResult {
    let mut result = get(leaf, subleaf, xcr0);
    if leaf == 1 {
        result.ecx = result.ecx & !(1 << 27) | u32::from(osxsave) << 27;
    }
    result
}
