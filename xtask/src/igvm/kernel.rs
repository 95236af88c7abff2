//! The kernel's ELF file as what is launched of it.

use anyhow::{Context, Result, bail, ensure};
use goblin::elf::Elf;
use goblin::elf::program_header::{PF_W, PF_X, PT_LOAD};

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// The symbol that an SNP guest starts at in 64-bit mode, by its virtual address.
const ENTRY: &str = "snp_start";
/// The symbol that it starts at in 32-bit mode, by its physical address; a kernel may have none.
const ENTRY_32: &str = "snp_start_32";

/// The parts of the kernel that a launch needs.
#[derive(Debug)]
pub struct Kernel {
    /// Whole pages by guest-physical address, ascending: everything that the file has.
    pub pages: Vec<(u64, Box<[u8; PAGE]>)>,
    /// Zeroed data behind them, which is not launched: whole pages.
    pub zeroed: std::ops::Range<u64>,
    /// Where its code ends and its constants begin.
    pub text_end: u64,
    /// Where its constants end and its initialised data begin.
    pub rodata_end: u64,
    /// Virtual address of the entry point.
    pub entry: u64,
    /// Physical address of the entry point in 32-bit mode.
    pub entry_32: Option<u64>,
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
        let symbol = |name| {
            let found = elf.syms.iter().find(|symbol| elf.strtab.get_at(symbol.st_name) == Some(name));
            found.map(|symbol| symbol.st_value)
        };
        let entry = symbol(ENTRY).with_context(|| format!("the kernel has no symbol {ENTRY}"))?;
        let mut pages: Vec<(u64, Box<[u8; PAGE]>)> = Vec::new();
        let (mut end, mut base) = (0, None);
        let (mut text_end, mut rodata_end) = (0, 0);
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
            // In the order of the linker script: code, constants, data.
            if segment.p_flags & PF_W == 0 {
                rodata_end = end;
            }
            if segment.p_flags & PF_X != 0 {
                text_end = end;
            }
        }
        let Some((last, _)) = pages.last() else { bail!("the kernel has nothing to load") };
        let zeroed = last + PAGE as u64..end;
        ensure!(zeroed.start <= zeroed.end, "the kernel's segments are not in order");
        let base = base.unwrap_or(0);
        let entry_32 = symbol(ENTRY_32).map(|at| at.wrapping_sub(base));
        Ok(Kernel { pages, zeroed, text_end, rodata_end, entry, entry_32, base })
    }
}
