//! The launch image: what is measured, and where.
//!
//! From low to high: the kernel's pages; its zeroed data, which is not launched but validated by the entry code; the launch block; the
//! manifest; the page tables of the entry; then three pages that are not measured: CPUID, secrets, memory map. The workload is not in it. Deterministic: equal
//! inputs give equal bytes.

use super::kernel::{Kernel, PAGE};
use anyhow::{Context, Result, ensure};
use litebox_igvm::format::{
    Directive, FileBuilder, Initialization, PageData, PageDataType, Parameter, ParameterArea,
    ParameterInsert, ParameterKind, Platform, Revision, VpContext,
};
use litebox_igvm::vmsa::{KVM_VMSA_GPA, Vmsa};
use platform_snp::snp::launch::{LaunchBlock, MAGIC};
use zerocopy::IntoBytes;

/// Every header is for the only platform.
const MASK: u32 = 1;
/// The parameter area of the memory map.
const MEMORY_MAP_AREA: u32 = 0;
/// Bit of the guest policy that is always one, and SMT.
const POLICY_RESERVED: u64 = 1 << 17;
const POLICY_SMT: u64 = 1 << 16;
/// SMT allowed, no migration agent, no debugging.
pub const POLICY_DEFAULT: u64 = POLICY_RESERVED | POLICY_SMT;

/// What an image is made of.
#[derive(Debug)]
pub struct Image<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The encoded manifest.
    pub manifest: &'a [u8],
    /// Position of the C-bit.
    pub c_bit: u32,
    /// Guest policy.
    pub policy: u64,
}

fn page_data(gpa: u64, data_type: PageDataType, unmeasured: bool) -> Directive<'static> {
    Directive::PageData(PageData {
        gpa,
        compatibility_mask: MASK,
        large: false,
        unmeasured,
        shared: false,
        data_type,
        data: None,
    })
}

impl Image<'_> {
    /// Writes the file.
    ///
    /// # Errors
    /// The kernel or the manifest is too large.
    pub fn build(&self) -> Result<Vec<u8>> {
        let kernel = self.kernel;
        let first = kernel.pages.first().context("the kernel has no pages")?.0;
        let block_at = kernel.zeroed.end;
        let manifest_at = block_at + PAGE as u64;
        let manifest: Vec<[u8; PAGE]> = pages_of(self.manifest);
        let tables_at = manifest_at + (manifest.len() * PAGE) as u64;
        let special = tables_at + 3 * PAGE as u64;
        let (cpuid, secrets, memory_map) = (special, special + PAGE as u64, special + 2 * PAGE as u64);
        let block = LaunchBlock {
            magic: MAGIC,
            launched_start: first,
            launched_end: memory_map + PAGE as u64,
            zeroed_start: kernel.zeroed.start,
            zeroed_end: kernel.zeroed.end,
            cpuid,
            secrets,
            memory_map,
            manifest: manifest_at,
            manifest_len: self.manifest.len() as u64,
            c_bit: self.c_bit.into(),
        };
        ensure!(block.check().is_ok(), "the image does not fit below 1 GiB, or its C-bit is none");

        let block_page = pages_of(block.as_bytes());
        let tables = self.page_tables(tables_at);
        let mut vmsa = Vmsa::long_mode(kernel.entry, tables_at | 1 << self.c_bit);
        vmsa.rsi = block_at;
        let vmsa = vmsa.to_page();

        let mut file = FileBuilder::new(Revision::V1);
        file.platform(Platform::sev_snp(MASK));
        file.initialization(Initialization::GuestPolicy { policy: self.policy, compatibility_mask: MASK });
        for (gpa, page) in &kernel.pages {
            file.page(MASK, *gpa, page);
        }
        for (i, page) in block_page.iter().chain(&manifest).chain(&tables).enumerate() {
            file.page(MASK, block_at + (i * PAGE) as u64, page);
        }
        file.directive(page_data(cpuid, PageDataType::CpuidData, true));
        file.directive(page_data(secrets, PageDataType::Secrets, true));
        file.directive(Directive::ParameterArea(ParameterArea {
            index: MEMORY_MAP_AREA,
            size: PAGE as u64,
            initial: None,
        }));
        let kind = ParameterKind::MemoryMap;
        file.directive(Directive::Parameter(Parameter { kind, index: MEMORY_MAP_AREA, byte_offset: 0 }));
        file.directive(Directive::ParameterInsert(ParameterInsert {
            gpa: memory_map,
            compatibility_mask: MASK,
            index: MEMORY_MAP_AREA,
        }));
        file.directive(Directive::VpContext(VpContext {
            gpa: KVM_VMSA_GPA,
            compatibility_mask: MASK,
            vp_index: 0,
            data: &vmsa,
        }));
        file.write().map_err(|error| anyhow::anyhow!("{error}")).context("the launch image cannot be written")
    }

    /// Tables that map the first GiB at the kernel's base, encrypted.
    fn page_tables(&self, at: u64) -> [[u8; PAGE]; 3] {
        let c = 1u64 << self.c_bit;
        let mut tables = [[0; PAGE]; 3];
        let mut put = |table: usize, index: u64, entry: u64| {
            let at = 8 * (index & 511) as usize;
            tables[table][at..at + 8].copy_from_slice(&entry.to_le_bytes());
        };
        let base = self.kernel.base;
        put(0, base >> 39, (at + PAGE as u64) | 3 | c);
        put(1, base >> 30, (at + 2 * PAGE as u64) | 3 | c);
        for i in 0..512 {
            put(2, i, i << 21 | 0x83 | c);
        }
        tables
    }
}

/// Cuts bytes into pages, the last one filled with zeros.
fn pages_of(bytes: &[u8]) -> Vec<[u8; PAGE]> {
    bytes
        .chunks(PAGE)
        .map(|part| {
            let mut page = [0; PAGE];
            page[..part.len()].copy_from_slice(part);
            page
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use litebox_igvm::format::IgvmFile;
    use litebox_igvm::load::LoadPlan;
    use litebox_igvm::profile::HostProfile;

    fn kernel() -> Kernel {
        let pages = (0..3u8).map(|i| (0x10_0000 + 0x1000 * u64::from(i), Box::new([i + 1; PAGE]))).collect();
        Kernel {
            pages,
            zeroed: 0x10_3000..0x10_5000,
            entry: 0xffff_ffff_8010_0000,
            base: 0xffff_ffff_8000_0000,
        }
    }

    #[test]
    fn every_host_loads_it_and_the_manifest_counts() {
        let kernel = kernel();
        let image = |manifest| {
            Image { kernel: &kernel, manifest, c_bit: 51, policy: POLICY_DEFAULT }.build().unwrap()
        };
        let (one, again, other) = (image(b"manifest"), image(b"manifest"), image(b"Manifest"));
        assert_eq!(one, again);
        let digest = |file: &[u8], profile| {
            LoadPlan::new(&IgvmFile::parse(file).unwrap(), profile)
                .map(|plan| plan.digest())
                .map_err(|e| e.to_string())
        };
        for profile in [HostProfile::Specification, HostProfile::Qemu, HostProfile::CloudHypervisor] {
            assert_ne!(digest(&one, profile).unwrap(), digest(&other, profile).unwrap());
        }
    }

    #[test]
    fn a_kernel_that_is_none_is_refused() {
        assert!(Kernel::parse(b"\x7fELF").is_err());
    }
}
