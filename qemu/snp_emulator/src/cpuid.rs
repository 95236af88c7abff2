//! The CPUID table: what the PSP puts into the CPUID page, and what the host answers.
//!
//! Source: SNP firmware ABI (56860), table 69; AMD APM volume 3, appendix E. The values are those of the CPU underneath without what a
//! guest cannot have here, and with the leaf of SNP, which QEMU's CPU lacks. The page is checked by the PSP on hardware; the answers to
//! CPUID exits are the host's word. Both come from this table unless a script says otherwise.

use alloc::vec::Vec;

/// A leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// EAX on input.
    pub eax_in: u32,
    /// ECX on input.
    pub ecx_in: u32,
    /// XCR0 on input, for leaf 0xD.
    pub xcr0_in: u64,
    /// EAX, EBX, ECX, EDX.
    pub value: [u32; 4],
}

/// Entries that a page holds.
pub const MAX: usize = 64;

/// The table.
#[derive(Clone, Debug, Default)]
pub struct CpuidTable {
    leaves: Vec<Leaf>,
}

/// What QEMU's translator says of itself in leaf 0x4000_0000, EBX to EDX: "TCGTCGTCGTCG".
const TRANSLATOR: [u32; 3] = [0x5447_4354, 0x4354_4743, 0x4743_5447];

/// The leaf of memory encryption.
pub const SEV: u32 = 0x8000_001f;
/// EAX of it: SEV, SEV-ES, SNP, VMPLs, RMPQUERY.
const SEV_FEATURES: u32 = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6;
/// EBX of it beside the C-bit: one bit of physical addresses is lost, there are four VMPLs.
const SEV_ADDRESSES: u32 = 1 << 6 | 4 << 12;

impl CpuidTable {
    /// Made of the CPU underneath. `cpus` are in the guest, numbered like their APIC ids.
    pub fn new(cpuid: impl Fn(u32, u32) -> [u32; 4], c_bit: u32, cpus: u32) -> CpuidTable {
        let mut table = CpuidTable::default();
        // Linux takes leaf 0xD from the page only with XSAVEC or XSAVES in it, which every SNP machine has and QEMU's CPU has not: then there is no
        // XSAVE at all.
        let xsave = cpuid(0, 0)[0] >= 0xd && cpuid(0xd, 1)[0] & 0xa != 0;
        // The translator of QEMU 7.2 mixes up the flags at CMPXCHG16B: an interrupt after it changes DF, NT, AC and others.
        let translated = cpuid(0x4000_0000, 0)[1..] == TRANSLATOR;
        let mut add = |leaf: u32, subleaf: u32| {
            let mut value = cpuid(leaf, subleaf);
            let [eax, ebx, ecx, edx] = &mut value;
            match leaf {
                0 => *eax = (*eax).min(if xsave { 0xd } else { 7 }),
                1 => {
                    // MONITOR, PCID, x2APIC stays, TSC deadline; OSXSAVE follows the guest's CR4.
                    *ecx &= !(1 << 3 | 1 << 17 | 1 << 24 | 1 << 27);
                    *ecx |= 1 << 31 | 1 << 21;
                    if translated {
                        *ecx &= !(1 << 13);
                    }
                    if !xsave {
                        // XSAVE, and what needs it: AVX, F16C, FMA.
                        *ecx &= !(1 << 26 | 1 << 28 | 1 << 29 | 1 << 12);
                    }
                    // Machine checks need registers that are not emulated; so does HTT with one CPU.
                    *edx &= !(1 << 7 | 1 << 14);
                    *ebx &= 0x0000_ffff;
                    *ebx |= cpus << 16;
                    *edx = *edx & !(1 << 28) | u32::from(cpus > 1) << 28;
                }
                7 if subleaf == 0 => {
                    *eax = 0;
                    // LA57 is the emulator's; protection keys, CET and what else needs state of its own are left out.
                    *ecx &= 1 << 22;
                    *edx = 0;
                    // FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB.
                    *ebx &= 1
                        | 1 << 3
                        | 1 << 5
                        | 1 << 7
                        | 1 << 8
                        | 1 << 9
                        | 1 << 18
                        | 1 << 19
                        | 1 << 20
                        | 1 << 23
                        | 1 << 24;
                }
                0xd if subleaf == 0 => {
                    *eax &= 7;
                    *edx = 0;
                }
                // XSAVES needs an MSR that QEMU's CPU keeps for itself.
                0xd if subleaf == 1 => {
                    *eax &= 7;
                    (*ecx, *edx) = (0, 0);
                }
                0x8000_0000 => *eax = SEV,
                0x8000_0001 => *ecx &= !(1 << 2),
                // 48 bits of virtual address; the physical ones stop below the C-bit.
                0x8000_0008 => *eax = 48 << 8 | c_bit.min(48),
                SEV => value = [SEV_FEATURES, c_bit | SEV_ADDRESSES, 16, 1],
                _ => {}
            }
            let xcr0_in = if leaf == 0xd && subleaf < 2 { 1 } else { 0 };
            table.leaves.push(Leaf { eax_in: leaf, ecx_in: subleaf, xcr0_in, value });
        };
        for leaf in [0, 1, 2, 6] {
            add(leaf, 0);
        }
        add(7, 0);
        if xsave {
            let features = cpuid(0xd, 0)[0] & 7;
            add(0xd, 0);
            add(0xd, 1);
            for subleaf in (2..8).filter(|n| features >> n & 1 != 0) {
                add(0xd, subleaf);
            }
        }
        for leaf in (0x8000_0000..=0x8000_0008).chain([0x8000_000a, SEV]) {
            add(leaf, 0);
        }
        if let Some(svm) = table.leaves.iter_mut().find(|leaf| leaf.eax_in == 0x8000_000a) {
            svm.value = [0; 4];
        }
        table
    }

    /// All leaves.
    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// What the host answers; a leaf that is not there is zero.
    pub fn answer(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let indexed = matches!(leaf, 4 | 7 | 0xb | 0xd | 0x8000_001d);
        let wanted = if indexed { subleaf } else { 0 };
        let found = self.leaves.iter().find(|entry| entry.eax_in == leaf && entry.ecx_in == wanted);
        found.map_or([0; 4], |entry| entry.value)
    }

    /// One register (0 EAX to 3 EDX) of a leaf that is there.
    pub fn register(&self, leaf: u32, subleaf: u32, register: u8) -> Option<u32> {
        let found = self.leaves.iter().find(|entry| (entry.eax_in, entry.ecx_in) == (leaf, subleaf))?;
        found.value.get(usize::from(register)).copied()
    }

    /// Makes it another: what a host asks the PSP for.
    pub fn set_register(&mut self, leaf: u32, subleaf: u32, register: u8, value: u32) {
        let found = self.leaves.iter_mut().find(|entry| (entry.eax_in, entry.ecx_in) == (leaf, subleaf));
        if let Some(slot) = found.and_then(|entry| entry.value.get_mut(usize::from(register))) {
            *slot = value;
        }
    }

    /// The CPUID page.
    pub fn page(&self) -> [u8; 4096] {
        let mut page = [0; 4096];
        let leaves = self.leaves.get(..self.leaves.len().min(MAX)).unwrap_or_default();
        page[..4].copy_from_slice(&(leaves.len() as u32).to_le_bytes());
        for (slot, leaf) in page[16..].chunks_exact_mut(48).zip(leaves) {
            slot[0..4].copy_from_slice(&leaf.eax_in.to_le_bytes());
            slot[4..8].copy_from_slice(&leaf.ecx_in.to_le_bytes());
            slot[8..16].copy_from_slice(&leaf.xcr0_in.to_le_bytes());
            for (i, register) in leaf.value.iter().enumerate() {
                slot[24 + 4 * i..28 + 4 * i].copy_from_slice(&register.to_le_bytes());
            }
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leaf_of_snp_is_added() {
        let table = CpuidTable::new(|_, _| [!0; 4], 51, 2);
        assert_eq!(table.answer(SEV, 5), [0x7a, 51 | 1 << 6 | 4 << 12, 16, 1]);
        assert_eq!(table.answer(0x8000_0000, 0)[0], SEV);
        assert_eq!(table.answer(1, 0)[2] & (1 << 3 | 1 << 27), 0);
        assert_eq!(table.answer(0x4000_0000, 0), [0; 4]);
        let page = table.page();
        assert_eq!(u32::from_le_bytes(page[..4].try_into().unwrap()) as usize, table.leaves().len());
        assert!(table.leaves().len() <= MAX);
    }
}
