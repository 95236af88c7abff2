//! The IGVM file of the conformance guest: the program, its zeroed data as pages without data, and one page of every kind that a launch has.

use anyhow::{Context, Result};
use conformance::attack::Attack;
use conformance::block::{Block, MAGIC, MEASURED, UNMEASURED};
use conformance::scenario::Scenario;
use litebox_igvm::format::{
    Directive, FileBuilder, Initialization, PageData, PageDataType, Parameter, ParameterArea,
    ParameterInsert, ParameterKind, Platform, Revision, VpContext,
};
use litebox_igvm::policy::GuestPolicy;
use litebox_igvm::vmsa::{KVM_VMSA_GPA, Vmsa};
use zerocopy::IntoBytes;

use crate::igvm::image::{Entry, pages_of};
use crate::igvm::kernel::{Kernel, PAGE};

const MASK: u32 = 1;
const MEMORY_MAP_AREA: u32 = 0;
const PARAMETER_AREA: u32 = 1;

/// What the file is made of.
pub struct Image<'a> {
    /// The program.
    pub kernel: &'a Kernel,
    /// Position of the C-bit.
    pub c_bit: u32,
    /// What it is to do.
    pub scenario: Scenario,
    /// What the host is going to do to it, with [`Scenario::Naive`].
    pub attack: Option<Attack>,
    /// How it starts.
    pub entry: Entry,
}

impl Image<'_> {
    /// Writes the file.
    ///
    /// # Errors
    /// The program lacks the entry, or the file cannot be.
    pub fn build(&self) -> Result<Vec<u8>> {
        let kernel = self.kernel;
        let mut next = kernel.zeroed.end;
        let mut take = |pages: u64| {
            let at = next;
            next += pages * PAGE as u64;
            at
        };
        let mut block = Block {
            magic: MAGIC,
            c_bit: self.c_bit.into(),
            scenario: self.scenario as u64,
            // A number that is no attack's where there is none.
            attack: self.attack.map_or(u64::MAX, |attack| attack as u64),
            entry: if self.entry == Entry::Long { 64 } else { 32 },
            itself: take(1),
            tables: take(3),
            cpuid: take(1),
            secrets: take(1),
            memory_map: take(1),
            parameters: take(1),
            measured: take(1),
            unmeasured: take(1),
            zero: take(1),
            end: 0,
        };
        block.end = next;
        let block_page = pages_of(block.as_bytes());
        let tables = self.page_tables(block.tables);
        let (measured, unmeasured) = (filled(MEASURED), filled(UNMEASURED));
        let vmsa = self.vmsa(&block)?.to_page();

        let mut file = FileBuilder::new(Revision::V1);
        file.platform(Platform::sev_snp(MASK));
        file.initialization(Initialization::GuestPolicy {
            policy: GuestPolicy::DEFAULT.0,
            compatibility_mask: MASK,
        });
        for (gpa, page) in &kernel.pages {
            file.page(MASK, *gpa, page);
        }
        for gpa in kernel.zeroed.clone().step_by(PAGE) {
            file.directive(page(gpa, PageDataType::Normal, false, None));
        }
        for (i, page) in block_page.iter().chain(&tables).enumerate() {
            file.page(MASK, block.itself + (i * PAGE) as u64, page);
        }
        file.directive(page(block.cpuid, PageDataType::CpuidData, true, None));
        file.directive(page(block.secrets, PageDataType::Secrets, true, None));
        parameters(&mut file, MEMORY_MAP_AREA, block.memory_map, &[(ParameterKind::MemoryMap, 0)]);
        let others = [(ParameterKind::VpCount, 0), (ParameterKind::EnvironmentInfo, 8)];
        parameters(&mut file, PARAMETER_AREA, block.parameters, &others);
        file.page(MASK, block.measured, &measured);
        file.directive(page(block.unmeasured, PageDataType::Normal, true, Some(&unmeasured)));
        file.directive(page(block.zero, PageDataType::Normal, false, None));
        let (gpa, compatibility_mask) = (KVM_VMSA_GPA, MASK);
        file.directive(Directive::VpContext(VpContext { gpa, compatibility_mask, vp_index: 0, data: &vmsa }));
        file.write().map_err(|error| anyhow::anyhow!("{error}")).context("the image cannot be written")
    }

    fn vmsa(&self, block: &Block) -> Result<Vmsa> {
        let mut vmsa = match self.entry {
            Entry::Long => Vmsa::long_mode(self.kernel.entry, block.tables | 1 << self.c_bit),
            Entry::Protected => {
                let entry = self.kernel.entry_32.context("the guest has no entry in 32-bit mode")?;
                Vmsa::protected_mode(entry)
            }
        };
        vmsa.rsi = block.itself;
        Ok(vmsa)
    }

    /// Tables that map the first GiB at 0 and at the image's base, with the C-bit.
    fn page_tables(&self, at: u64) -> [[u8; PAGE]; 3] {
        let c = 1u64 << self.c_bit;
        let mut tables = [[0; PAGE]; 3];
        let mut put = |table: usize, index: u64, entry: u64| {
            let at = 8 * (index & 511) as usize;
            tables[table][at..at + 8].copy_from_slice(&entry.to_le_bytes());
        };
        for base in [0, self.kernel.base] {
            put(0, base >> 39, (at + PAGE as u64) | 3 | c);
            put(1, base >> 30, (at + 2 * PAGE as u64) | 3 | c);
        }
        for i in 0..512 {
            put(2, i, i << 21 | 0x83 | c);
        }
        tables
    }
}

/// A page of 4 KiB; without data, zeros or what the PSP puts there.
fn page(gpa: u64, data_type: PageDataType, unmeasured: bool, data: Option<&[u8]>) -> Directive<'_> {
    let (compatibility_mask, large, shared) = (MASK, false, false);
    Directive::PageData(PageData { gpa, compatibility_mask, large, unmeasured, shared, data_type, data })
}

/// A page whose quadwords count up from `first`.
fn filled(first: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    for (word, at) in page.chunks_exact_mut(8).zip(first..) {
        word.copy_from_slice(&at.to_le_bytes());
    }
    page
}

fn parameters(file: &mut FileBuilder<'_>, index: u32, gpa: u64, kinds: &[(ParameterKind, u32)]) {
    file.directive(Directive::ParameterArea(ParameterArea { index, size: PAGE as u64, initial: None }));
    for &(kind, byte_offset) in kinds {
        file.directive(Directive::Parameter(Parameter { kind, index, byte_offset }));
    }
    file.directive(Directive::ParameterInsert(ParameterInsert { gpa, compatibility_mask: MASK, index }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use litebox_igvm::format::IgvmFile;
    use litebox_igvm::load::LoadPlan;
    use litebox_igvm::profile::HostProfile;

    #[test]
    fn hosts_load_the_entries_that_they_know() {
        let kernel = Kernel {
            pages: vec![(0x10_0000, Box::new([1; PAGE]))],
            zeroed: 0x10_1000..0x10_3000,
            entry: 0xffff_ffff_8010_0000,
            base: 0xffff_ffff_8000_0000,
            entry_32: Some(0x10_0100),
            text_end: 0x10_1000,
            rodata_end: 0x10_1000,
        };
        for c_bit in [51, 47] {
            for entry in [Entry::Long, Entry::Protected] {
                let (scenario, attack) = (Scenario::Checks, None);
                let file = Image { kernel: &kernel, c_bit, scenario, attack, entry }.build().unwrap();
                for profile in [HostProfile::Specification, HostProfile::Qemu] {
                    assert!(
                        LoadPlan::new(&IgvmFile::parse(&file).unwrap(), profile).is_ok(),
                        "{entry:?} {profile:?}"
                    );
                }
            }
        }
    }
}
