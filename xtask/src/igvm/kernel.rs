//! The kernel's ELF file as what is launched of it.

use anyhow::{Context, Result, bail, ensure};
use goblin::elf::Elf;
use goblin::elf::program_header::PT_LOAD;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// The symbol that an SNP guest starts at.
const ENTRY: &str = "snp_start";

/// The parts of the kernel that a launch needs.
#[derive(Debug)]
pub struct Kernel {
    /// Whole pages by guest-physical address, ascending: everything that the file has.
    pub pages: Vec<(u64, Box<[u8; PAGE]>)>,
    /// Zeroed data behind them, which is not launched: whole pages.
    pub zeroed: std::ops::Range<u64>,
    /// Virtual address of the entry point.
    pub entry: u64,
    /// What is added to a guest-physical address to find it at the entry.
    pub base: u64,
}

impl Kernel {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// It is none, or not one of our kernels.
    pub fn parse(file: &[u8]) -> Result<Kernel> {
        let elf = Elf::parse(file).context("the kernel is no ELF file")?;
        let entry = elf.syms.iter().find(|symbol| elf.strtab.get_at(symbol.st_name) == Some(ENTRY));
        let entry = entry.with_context(|| format!("the kernel has no symbol {ENTRY}"))?.st_value;
        let mut pages: Vec<(u64, Box<[u8; PAGE]>)> = Vec::new();
        let (mut end, mut base) = (0, None);
        for segment in elf.program_headers.iter().filter(|segment| segment.p_type == PT_LOAD) {
            let bytes = file.get(segment.file_range()).context("the kernel's file is cut off")?;
            ensure!(
                segment.p_paddr.is_multiple_of(PAGE as u64),
                "the kernel's segments do not begin on pages"
            );
            let this = segment.p_vaddr.wrapping_sub(segment.p_paddr);
            ensure!(*base.get_or_insert(this) == this, "the kernel's segments have different bases");
            for (i, part) in bytes.chunks(PAGE).enumerate() {
                let mut page = Box::new([0; PAGE]);
                page[..part.len()].copy_from_slice(part);
                pages.push((segment.p_paddr + (i * PAGE) as u64, page));
            }
            end = end.max((segment.p_paddr + segment.p_memsz).next_multiple_of(PAGE as u64));
        }
        let Some((last, _)) = pages.last() else { bail!("the kernel has nothing to load") };
        let zeroed = last + PAGE as u64..end;
        ensure!(zeroed.start <= zeroed.end, "the kernel's segments are not in order");
        Ok(Kernel { pages, zeroed, entry, base: base.unwrap_or(0) })
    }
}
