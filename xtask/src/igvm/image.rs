//! The launch image: what is measured, and where.
//!
//! From low to high: the kernel's pages; its zeroed data, which is not launched but validated by the entry code; the launch block; the
//! manifest; the page tables of the entry; then three pages that are not measured: CPUID, secrets, memory map. The workload is not in it.
//!
//! Deterministic: equal inputs give equal bytes. And one digest for every host: where hosts measure differently (`docs/igvm.md`), the file
//! is written so that they do not. Its one parameter area goes first, every measured page has data, the save area goes last.

use super::kernel::{Kernel, PAGE};
use anyhow::{Context, Result, ensure};
use litebox_igvm::format::layout::SnpIdBlock;
use litebox_igvm::format::{
    Directive, FileBuilder, Initialization, PageData, PageDataType, Parameter, ParameterArea,
    ParameterInsert, ParameterKind, Platform, Revision, VpContext,
};
use litebox_igvm::policy::GuestPolicy;
use litebox_igvm::vmsa::{KVM_VMSA_GPA, Vmsa};
use platform_snp::snp::launch::{LaunchBlock, MAGIC};
use zerocopy::IntoBytes;

/// Every header is for the only platform.
pub const MASK: u32 = 1;
/// The parameter area of the memory map.
const MEMORY_MAP_AREA: u32 = 0;

/// In which mode the first instruction runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Entry {
    /// 64-bit, on the page tables of the image: every host takes it, and OpenVMM nothing else
    #[default]
    #[value(name = "64")]
    Long,
    /// 32-bit, without paging: what COCONUT-SVSM's measuring tool expects of a file for KVM
    #[value(name = "32")]
    Protected,
}

/// What an image is made of.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The encoded manifest.
    pub manifest: &'a [u8],
    /// Position of the C-bit.
    pub c_bit: u32,
    /// Guest policy.
    pub policy: GuestPolicy,
    /// Mode of the first instruction.
    pub entry: Entry,
    /// By which the owner says what may be launched in his name. It is not measured.
    pub id_block: Option<SnpIdBlock>,
}

fn page_data(gpa: u64, data_type: PageDataType, data: Option<&[u8; PAGE]>) -> Directive<'_> {
    Directive::PageData(PageData {
        gpa,
        compatibility_mask: MASK,
        large: false,
        unmeasured: data.is_none(),
        shared: false,
        data_type,
        data: data.map(<[u8; PAGE]>::as_slice),
    })
}

impl Image<'_> {
    /// Writes the file.
    ///
    /// # Errors
    /// The kernel or the manifest is too large, or the kernel cannot be entered so.
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
            text_end: kernel.text_end,
            rodata_end: kernel.rodata_end,
        };
        ensure!(block.check().is_ok(), "the image does not fit below 1 GiB, or its C-bit is none");

        let block_page = pages_of(block.as_bytes());
        let tables = self.page_tables(tables_at);
        let vmsa = self.first_cpu(block_at, tables_at)?.to_page();

        let mut file = FileBuilder::new(Revision::V1);
        file.platform(Platform::sev_snp(MASK));
        file.initialization(Initialization::GuestPolicy { policy: self.policy.0, compatibility_mask: MASK });
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
        for (gpa, page) in &kernel.pages {
            file.directive(page_data(*gpa, PageDataType::Normal, Some(page)));
        }
        for (i, page) in block_page.iter().chain(&manifest).chain(&tables).enumerate() {
            file.directive(page_data(block_at + (i * PAGE) as u64, PageDataType::Normal, Some(page)));
        }
        file.directive(page_data(cpuid, PageDataType::CpuidData, None));
        file.directive(page_data(secrets, PageDataType::Secrets, None));
        if let Some(block) = &self.id_block {
            file.directive(Directive::SnpIdBlock(block));
        }
        file.directive(Directive::VpContext(VpContext {
            gpa: KVM_VMSA_GPA,
            compatibility_mask: MASK,
            vp_index: 0,
            data: &vmsa,
        }));
        file.write().map_err(|error| anyhow::anyhow!("{error}")).context("the launch image cannot be written")
    }

    /// The registers at the first instruction: RSI has the address of the launch block.
    fn first_cpu(&self, block_at: u64, tables_at: u64) -> Result<Vmsa> {
        let mut vmsa = match self.entry {
            Entry::Long => Vmsa::long_mode(self.kernel.entry, tables_at | 1 << self.c_bit),
            Entry::Protected => {
                let entry = self.kernel.entry_32.context("this kernel has no entry in 32-bit mode")?;
                Vmsa::protected_mode(entry)
            }
        };
        vmsa.rsi = block_at;
        Ok(vmsa)
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
pub fn pages_of(bytes: &[u8]) -> Vec<[u8; PAGE]> {
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
pub mod tests {
    use super::*;
    use litebox_igvm::digest::Sha384Digest;
    use litebox_igvm::format::IgvmFile;
    use litebox_igvm::load;
    use litebox_igvm::profile::HostProfile;

    /// Three pages, of which the last is zeros, and two zeroed ones behind them.
    pub fn kernel() -> Kernel {
        let pages =
            [1, 2, 0].into_iter().zip(0x100..).map(|(i, page)| (page << 12, Box::new([i; PAGE]))).collect();
        Kernel {
            pages,
            zeroed: 0x10_3000..0x10_5000,
            text_end: 0x10_1000,
            rodata_end: 0x10_2000,
            entry: 0xffff_ffff_8010_0000,
            entry_32: Some(0x10_0040),
            base: 0xffff_ffff_8000_0000,
        }
    }

    /// An image of that kernel.
    pub fn image<'a>(kernel: &'a Kernel, manifest: &'a [u8]) -> Image<'a> {
        Image {
            kernel,
            manifest,
            c_bit: 51,
            policy: GuestPolicy::DEFAULT,
            entry: Entry::Long,
            id_block: None,
        }
    }

    fn digest(file: &[u8], profile: HostProfile) -> Sha384Digest {
        load::measure(&IgvmFile::parse(file).unwrap(), profile).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_host_loads_it_with_the_same_digest_and_the_manifest_counts() {
        let kernel = kernel();
        let build = |manifest| image(&kernel, manifest).build().unwrap();
        let (one, again, other) = (build(b"manifest"), build(b"manifest"), build(b"Manifest"));
        assert_eq!(one, again);
        for profile in HostProfile::ALL {
            assert_eq!(digest(&one, profile), digest(&one, HostProfile::Specification), "{profile}");
            assert_ne!(digest(&one, profile), digest(&other, profile));
        }
    }

    #[test]
    fn policy_and_id_block_are_not_measured() {
        let kernel = kernel();
        let plain = image(&kernel, b"m");
        let other = Image { policy: GuestPolicy(0x2_0000), ..plain.clone() };
        let (plain, other) = (plain.build().unwrap(), other.build().unwrap());
        assert_ne!(plain, other);
        assert_eq!(digest(&plain, HostProfile::Qemu), digest(&other, HostProfile::Qemu));
    }

    #[test]
    fn an_entry_in_32_bit_mode_is_refused_by_openvmm_alone() {
        let kernel = kernel();
        let file = Image { entry: Entry::Protected, ..image(&kernel, b"m") }.build().unwrap();
        let parsed = IgvmFile::parse(&file).unwrap();
        for profile in HostProfile::ALL {
            assert_eq!(profile.check(&parsed).is_empty(), profile != HostProfile::OpenVmm, "{profile}");
        }
        let without = Kernel { entry_32: None, ..kernel };
        assert!(Image { entry: Entry::Protected, ..image(&without, b"m") }.build().is_err());
    }

    #[test]
    fn a_kernel_that_is_none_is_refused() {
        assert!(Kernel::parse(b"\x7fELF").is_err());
    }
}
