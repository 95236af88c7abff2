//! What lies where: the pages of a launch, those with one purpose and one treatment together.

use std::collections::{BTreeMap, BTreeSet};

use litebox_igvm::PAGE_SIZE;
use litebox_igvm::format::{Directive, PageDataType, ParameterKind, PlatformImage};
use litebox_igvm::vmsa::Vmsa;
use platform_snp::snp::launch::LaunchBlock;
use serde::Serialize;

use super::memory::Memory;

/// What becomes of a page at the launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Treatment {
    /// Encrypted, its contents measured.
    Measured,
    /// The same, but the file has no contents for it: zeros.
    Zero,
    /// Encrypted, its contents not measured: the host's word.
    Unmeasured,
    /// Filled by the PSP.
    Secrets,
    /// Filled by the host, checked by the PSP.
    Cpuid,
    /// The host sees it.
    Shared,
    /// Not launched: the guest has to validate it.
    NotLaunched,
}

impl Treatment {
    /// All of them, as a legend lists them.
    pub const ALL: [Self; 7] = [
        Self::Measured,
        Self::Zero,
        Self::Unmeasured,
        Self::Secrets,
        Self::Cpuid,
        Self::Shared,
        Self::NotLaunched,
    ];

    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Zero => "measured zeros",
            Self::Unmeasured => "not measured",
            Self::Secrets => "filled by PSP",
            Self::Cpuid => "checked by PSP",
            Self::Shared => "shared",
            Self::NotLaunched => "not launched",
        }
    }
}

/// Pages next to each other with one purpose and one treatment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// Pages of 4 KiB.
    pub pages: u64,
    /// What becomes of them.
    pub treatment: Treatment,
    /// Whose they are.
    pub what: String,
}

impl Region {
    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.pages.saturating_mul(PAGE_SIZE as u64))
    }
}

/// What is known of whose pages are whose.
pub struct Owners<'k> {
    /// Of an image of ours.
    pub block: Option<(u64, &'k LaunchBlock)>,
    /// Page tables of the CPUs.
    pub page_tables: BTreeSet<u64>,
    /// The page with the first instruction.
    pub entry: Option<u64>,
}

impl<'k> Owners<'k> {
    /// Of an image whose first CPU starts so.
    pub fn find(memory: &Memory<'_>, cpu: Option<&Vmsa>, block: Option<(u64, &'k LaunchBlock)>) -> Self {
        let page = |gpa| gpa & !(PAGE_SIZE as u64 - 1);
        Self {
            block,
            page_tables: cpu.map(|cpu| memory.page_tables(cpu)).unwrap_or_default(),
            entry: cpu.and_then(|cpu| memory.first_instruction(cpu)).map(page),
        }
    }

    /// Whose a page with contents is.
    fn page(&self, gpa: u64) -> &'static str {
        if self.page_tables.contains(&gpa) {
            return "page tables of the entry";
        }
        if let Some((at, block)) = self.block {
            let manifest_end = block.manifest.saturating_add(block.manifest_len);
            return match gpa {
                _ if gpa == at => "launch block",
                _ if (block.manifest..manifest_end).contains(&gpa) => "manifest",
                _ if (block.launched_start..block.text_end).contains(&gpa) => "kernel: code",
                _ if (block.text_end..block.rodata_end).contains(&gpa) => "kernel: constants",
                _ if (block.rodata_end..block.zeroed_start).contains(&gpa) => "kernel: data",
                _ => "unknown: no part of our layout",
            };
        }
        if self.entry == Some(gpa) { "first instruction" } else { "" }
    }
}

const fn parameter_name(kind: ParameterKind) -> &'static str {
    match kind {
        ParameterKind::VpCount => "number of CPUs",
        ParameterKind::Srat => "SRAT",
        ParameterKind::Madt => "MADT",
        ParameterKind::Slit => "SLIT",
        ParameterKind::Pptt => "PPTT",
        ParameterKind::MmioRanges => "MMIO ranges",
        ParameterKind::MemoryMap => "memory map",
        ParameterKind::CommandLine => "command line",
        ParameterKind::DeviceTree => "device tree",
        ParameterKind::EnvironmentInfo => "environment",
    }
}

/// All regions, by address.
pub fn regions(image: &PlatformImage<'_, '_>, owners: &Owners<'_>) -> Vec<Region> {
    let mut regions = Vec::new();
    // Size of each parameter area, and what the host is asked for in it.
    let mut areas: BTreeMap<u32, (u64, Vec<&str>)> = BTreeMap::new();
    let mut add = |start: u64, bytes: u64, treatment, what: &str| {
        let pages = bytes / PAGE_SIZE as u64;
        if pages > 0 {
            regions.push(Region { start, pages, treatment, what: what.to_owned() });
        }
    };
    for at in image.directives() {
        match at.header {
            Directive::PageData(page) => {
                let size = page.size() as u64;
                let treatment = match page.data_type {
                    _ if page.shared => Treatment::Shared,
                    PageDataType::Secrets => Treatment::Secrets,
                    PageDataType::CpuidData | PageDataType::CpuidXf => Treatment::Cpuid,
                    PageDataType::Normal if page.unmeasured => Treatment::Unmeasured,
                    PageDataType::Normal if page.data.is_none() => Treatment::Zero,
                    PageDataType::Normal => Treatment::Measured,
                };
                match page.data_type {
                    PageDataType::Secrets => add(page.gpa, size, treatment, "secrets page"),
                    PageDataType::CpuidData => add(page.gpa, size, treatment, "CPUID page"),
                    PageDataType::CpuidXf => add(page.gpa, size, treatment, "CPUID page, extended state"),
                    PageDataType::Normal => {
                        for gpa in (page.gpa..page.gpa + size).step_by(PAGE_SIZE) {
                            add(gpa, PAGE_SIZE as u64, treatment, owners.page(gpa));
                        }
                    }
                }
            }
            Directive::ParameterArea(area) => drop(areas.insert(area.index, (area.size, Vec::new()))),
            Directive::Parameter(parameter) => {
                areas.entry(parameter.index).or_default().1.push(parameter_name(parameter.kind));
            }
            Directive::ParameterInsert(insert) => {
                let (size, names) = areas.remove(&insert.index).unwrap_or_default();
                let what = format!(
                    "parameters: {}",
                    if names.is_empty() { "none".into() } else { names.join(", ") }
                );
                add(insert.gpa, size, Treatment::Unmeasured, &what);
            }
            Directive::VpContext(context) => {
                let what = format!("save area of CPU {}", context.vp_index);
                add(context.gpa, PAGE_SIZE as u64, Treatment::Measured, &what);
            }
            Directive::RequiredMemory(memory) => {
                add(memory.gpa, memory.size.into(), Treatment::NotLaunched, "memory that must be there");
            }
            Directive::ErrorRange(range) => {
                add(range.gpa, range.size.into(), Treatment::Shared, "the guest's error reports");
            }
            _ => {}
        }
    }
    if let Some((_, block)) = owners.block {
        let size = block.zeroed_end - block.zeroed_start;
        add(
            block.zeroed_start,
            size,
            Treatment::NotLaunched,
            "kernel: zeroed data, validated by the entry code",
        );
    }
    merge(regions)
}

/// Puts together what touches and is alike.
fn merge(mut regions: Vec<Region>) -> Vec<Region> {
    regions.sort_by_key(|region| region.start);
    let mut merged: Vec<Region> = Vec::new();
    for region in regions {
        match merged.last_mut() {
            Some(last)
                if last.end() == region.start
                    && last.treatment == region.treatment
                    && last.what == region.what =>
            {
                last.pages = last.pages.saturating_add(region.pages);
            }
            _ => merged.push(region),
        }
    }
    merged
}
