//! A Linux kernel, started directly as an SNP guest: what firmware would have left in memory for it.
//!
//! Source: Linux's `Documentation/x86/boot.rst` (setup header, 64-bit entry) and `zero-page.rst`; the setup data that tells an SNP guest
//! where its secrets and CPUID pages are (`SETUP_CC_BLOB`) is `struct cc_blob_sev_info` in `arch/x86/include/asm/sev.h`. The kernel's own
//! file and the initial RAM disk are put in place by the caller, being large; here is what describes them.
//!
//! The launch digest covers all pages that were put in place, in the order of their addresses, and the state of the first CPU at the address that
//! KVM gives it. It does not cover the firmware's ACPI tables, which are the host's here as on every PC, nor memory that is free.

use crate::ending::Ending;
use crate::hardware::Hardware;
use crate::load::launch::Launch;
use crate::memory::PhysicalMemory;
use crate::vm::Machine;
use alloc::vec;
use alloc::vec::Vec;
use litebox_igvm::digest::PageType;
use litebox_igvm::vmsa::KVM_VMSA_GPA;

/// Where the pages made here are. All below 640 KiB.
pub mod place {
    #![allow(missing_docs)]
    pub const BOOT_PARAMETERS: u64 = 0x1_0000;
    pub const COMMAND_LINE: u64 = 0x1_1000;
    pub const SETUP_DATA: u64 = 0x1_2000;
    /// A copy of the ACPI root pointer.
    pub const ROOT_POINTER: u64 = SETUP_DATA + 0x800;
    pub const SECRETS: u64 = 0x1_4000;
    pub const CPUID: u64 = 0x1_5000;
    pub const PAGE_TABLES: u64 = 0x1_6000;
    pub const GDT: u64 = 0x1_b000;
    pub const END: u64 = 0x1_c000;
    pub const STACK: u64 = 0x1_bff0;
    /// The protected-mode kernel.
    pub const KERNEL: u64 = 0x100_0000;
    /// The 64-bit entry point.
    pub const ENTRY: u64 = KERNEL + 0x200;
}

const PAGE: usize = 4096;
const E820_MAX: usize = 128;
/// The end of the setup header's fields.
const HEADER_END: usize = 0x268;

/// E820 types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum E820 {
    /// 1.
    Usable,
    /// 3: tables of the firmware's, in memory that the guest owns.
    Acpi,
}

/// Why a kernel cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unbootable {
    /// Not a bzImage.
    NotLinux,
    /// Too old: no 64-bit entry point.
    NoLongModeEntry,
    /// The command line is longer than the kernel takes.
    CommandLine,
    /// Too many stretches of memory.
    Memory,
    /// Where the kernel belongs there is no memory.
    NoMemory,
    /// Memory is too small.
    TooLarge,
}

impl Unbootable {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::NotLinux => "the file is not a Linux bzImage",
            Self::NoLongModeEntry => "the kernel has no 64-bit entry point (boot protocol 2.12)",
            Self::CommandLine => "the command line is longer than the kernel takes",
            Self::Memory => "the memory map has too many stretches",
            Self::NoMemory => "there is no memory at 16 MiB for the kernel",
            Self::TooLarge => "the kernel and its initial RAM disk do not fit: give more --memory",
        }
    }
}

/// Bytes of the real-mode part in front of the kernel proper.
pub fn setup_size(file: &[u8]) -> Result<usize, Unbootable> {
    let magic = file.get(0x202..0x206) == Some(b"HdrS");
    let boot_flag = file.get(0x1fe..0x200) == Some(&[0x55, 0xaa]);
    if !magic || !boot_flag {
        return Err(Unbootable::NotLinux);
    }
    // Everything that is read here and below lies in front of this.
    let Some(header) = file.get(..HEADER_END) else { return Err(Unbootable::NotLinux) };
    let version = u16::from_le_bytes([header[0x206], header[0x207]]);
    if version < 0x20c || header[0x236] & 1 == 0 {
        return Err(Unbootable::NoLongModeEntry);
    }
    let sectors = match header[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    Ok((sectors + 1) * 512)
}

/// Bytes at the beginning of a kernel's file that [`setup_size`] can come to: 64 sectors, says the boot protocol, and one.
pub const SETUP_MAX: usize = 65 * 512;

/// Where the parts of a kernel go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Bytes in front of the kernel proper.
    pub setup_size: usize,
    /// Bytes of the kernel proper, which goes to [`place::KERNEL`].
    pub kernel_size: u64,
    /// Address and size of the initial RAM disk, both 0 if there is none: as high as it can be below the end of the memory that holds the kernel.
    pub initrd: (u64, u64),
}

impl Placement {
    /// Of a kernel's file of `file_size` bytes, whose beginning is `setup`, in this memory.
    ///
    /// # Errors
    /// It is no kernel, or does not fit.
    pub fn of(
        setup: &[u8],
        file_size: u32,
        initrd_size: u32,
        memory: &[(u64, u64, E820)],
    ) -> Result<Placement, Unbootable> {
        let size = setup_size(setup)?;
        // The kernel proper begins with 512 bytes in front of its 64-bit entry point.
        let kernel_size = u64::from(file_size).checked_sub(size as u64).filter(|&size| size > 512);
        let kernel_size = kernel_size.filter(|_| size <= SETUP_MAX).ok_or(Unbootable::NotLinux)?;
        // While it runs it needs this much from its address on.
        let init_size =
            u64::from(u32::from_le_bytes([setup[0x260], setup[0x261], setup[0x262], setup[0x263]]));
        let holds = |&&(start, len, kind): &&(u64, u64, E820)| {
            kind == E820::Usable && start <= place::KERNEL && start + len > place::KERNEL
        };
        let end = memory.iter().find(holds).map(|r| r.0 + r.1).ok_or(Unbootable::NoMemory)?;
        let initrd_at = end.saturating_sub(initrd_size.into()) & !(PAGE as u64 - 1);
        if initrd_at < place::KERNEL + init_size.max(kernel_size) {
            return Err(Unbootable::TooLarge);
        }
        let initrd = if initrd_size == 0 { (0, 0) } else { (initrd_at, initrd_size.into()) };
        Ok(Placement { setup_size: size, kernel_size, initrd })
    }
}

/// What is to be started.
pub struct Linux<'a> {
    /// The beginning of the file, at least [`setup_size`] bytes.
    pub setup: &'a [u8],
    /// Its command line.
    pub command_line: &'a str,
    /// Bytes of the protected-mode kernel, which is at [`place::KERNEL`].
    pub kernel_size: u64,
    /// Address and size of the initial RAM disk.
    pub initrd: (u64, u64),
    /// Memory.
    pub memory: &'a [(u64, u64, E820)],
    /// The ACPI root pointer.
    pub root: Option<[u8; 36]>,
    /// Position of the C-bit.
    pub c_bit: u32,
}

/// A page of the launch.
pub type LaunchPage = (u64, [u8; PAGE]);

fn put(page: &mut [u8; PAGE], at: usize, bytes: &[u8]) {
    if let Some(slot) = page.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

impl Linux<'_> {
    /// Launches it: kernel and initial RAM disk are in memory that is the guest's already, everything else is put there.
    ///
    /// # Errors
    /// The kernel cannot be started so.
    pub fn load<H: Hardware, M: PhysicalMemory>(
        &self,
        machine: &mut Machine<H, M>,
        mut launch: Launch,
    ) -> Result<(), Ending> {
        let mut pages: Vec<_> = self.pages().map_err(|why| Ending::Launch(why.words().into()))?;
        pages.sort_unstable_by_key(|page| page.0);
        let (before, after): (Vec<_>, Vec<_>) = pages.into_iter().partition(|page| page.0 < place::SECRETS);
        for (gpa, page) in &before {
            launch.page(machine, PageType::Normal, *gpa, Some(page))?;
        }
        launch.page(machine, PageType::Secrets, place::SECRETS, None)?;
        launch.page(machine, PageType::Cpuid, place::CPUID, None)?;
        for (gpa, page) in &after {
            launch.page(machine, PageType::Normal, *gpa, Some(page))?;
        }
        for (start, size) in [(place::KERNEL, self.kernel_size), self.initrd] {
            let end = start + size;
            // What is left of the last page must not depend on what was there before.
            if let Some(spa) = machine.map.spa(end).filter(|_| !end.is_multiple_of(PAGE as u64)) {
                machine.memory.write(spa, &vec![0; PAGE - end as usize % PAGE]);
            }
            for gpa in (start..end).step_by(PAGE) {
                launch.page_in_place(machine, gpa)?;
            }
        }
        launch.vmsa(machine, KVM_VMSA_GPA, &self.vmsa());
        launch.finish(machine, None)
    }

    /// The pages that describe the kernel to itself.
    ///
    /// # Errors
    /// The kernel cannot be started so.
    pub fn pages(&self) -> Result<Vec<LaunchPage>, Unbootable> {
        setup_size(self.setup)?;
        let mut pages = Vec::new();
        pages.push((place::BOOT_PARAMETERS, self.boot_parameters()?));

        let limit =
            u32::from_le_bytes([self.setup[0x238], self.setup[0x239], self.setup[0x23a], self.setup[0x23b]]);
        if self.command_line.len() > (limit as usize).min(PAGE - 1) {
            return Err(Unbootable::CommandLine);
        }
        let mut line = [0; PAGE];
        put(&mut line, 0, self.command_line.as_bytes());
        pages.push((place::COMMAND_LINE, line));

        // struct setup_data, then the blob that it points at.
        let mut data = [0; PAGE];
        const SETUP_CC_BLOB: u32 = 7;
        put(&mut data, 8, &SETUP_CC_BLOB.to_le_bytes());
        put(&mut data, 12, &4u32.to_le_bytes());
        put(&mut data, 16, &(place::SETUP_DATA as u32 + 0x100).to_le_bytes());
        put(&mut data, 0x100, b"AMDE");
        put(&mut data, 0x104, &1u16.to_le_bytes());
        put(&mut data, 0x108, &place::SECRETS.to_le_bytes());
        put(&mut data, 0x110, &(PAGE as u32).to_le_bytes());
        put(&mut data, 0x118, &place::CPUID.to_le_bytes());
        put(&mut data, 0x120, &(PAGE as u32).to_le_bytes());
        put(&mut data, (place::ROOT_POINTER - place::SETUP_DATA) as usize, &self.root.unwrap_or([0; 36]));
        pages.push((place::SETUP_DATA, data));

        pages.extend(self.page_tables());
        let mut gdt = [0; PAGE];
        put(&mut gdt, 0x10, &0x00af_9b00_0000_ffff_u64.to_le_bytes());
        put(&mut gdt, 0x18, &0x00cf_9300_0000_ffff_u64.to_le_bytes());
        pages.push((place::GDT, gdt));
        Ok(pages)
    }

    fn boot_parameters(&self) -> Result<[u8; PAGE], Unbootable> {
        let mut page = [0; PAGE];
        let header_end = 0x202 + usize::from(self.setup[0x201]);
        let header = self.setup.get(0x1f1..header_end.min(0x290)).unwrap_or_default();
        put(&mut page, 0x1f1, header);
        // A loader without a number, which says so; the kernel is loaded high; no heap.
        put(&mut page, 0x210, &[0xff]);
        page[0x211] = (page[0x211] | 1) & !0x80;
        put(&mut page, 0x214, &(place::KERNEL as u32).to_le_bytes());
        put(&mut page, 0x218, &(self.initrd.0 as u32).to_le_bytes());
        put(&mut page, 0x21c, &(self.initrd.1 as u32).to_le_bytes());
        put(&mut page, 0x0c0, &((self.initrd.0 >> 32) as u32).to_le_bytes());
        put(&mut page, 0x0c4, &((self.initrd.1 >> 32) as u32).to_le_bytes());
        put(&mut page, 0x228, &(place::COMMAND_LINE as u32).to_le_bytes());
        put(&mut page, 0x250, &place::SETUP_DATA.to_le_bytes());
        put(&mut page, 0x070, &self.root.map_or(0, |_| place::ROOT_POINTER).to_le_bytes());
        if self.memory.len() > E820_MAX {
            return Err(Unbootable::Memory);
        }
        page[0x1e8] = self.memory.len() as u8;
        for (i, (start, size, kind)) in self.memory.iter().enumerate() {
            let at = 0x2d0 + 20 * i;
            put(&mut page, at, &start.to_le_bytes());
            put(&mut page, at + 8, &size.to_le_bytes());
            let kind: u32 = match kind {
                E820::Usable => 1,
                E820::Acpi => 3,
            };
            put(&mut page, at + 16, &kind.to_le_bytes());
        }
        Ok(page)
    }

    /// Identity map of the first 4 GiB, encrypted.
    fn page_tables(&self) -> Vec<LaunchPage> {
        let c = 1u64 << self.c_bit;
        let mut tables: Vec<LaunchPage> =
            (0..3).map(|i| (place::PAGE_TABLES + 0x1000 * i, [0; PAGE])).collect();
        let link = |table: u64| ((place::PAGE_TABLES + 0x1000 * table) | 3 | c).to_le_bytes();
        put(&mut tables[0].1, 0, &link(1));
        put(&mut tables[1].1, 0, &link(2));
        for i in 0..512u64 {
            put(&mut tables[2].1, 8 * i as usize, &(i << 21 | 0x83 | c).to_le_bytes());
        }
        tables
    }

    /// The state of the first CPU: the 64-bit entry point.
    pub fn vmsa(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        let mut segment = |at: usize, selector: u16, attributes: u16, limit: u32, base: u64| {
            put(&mut page, at, &selector.to_le_bytes());
            put(&mut page, at + 2, &attributes.to_le_bytes());
            put(&mut page, at + 4, &limit.to_le_bytes());
            put(&mut page, at + 8, &base.to_le_bytes());
        };
        for at in [0x00, 0x20, 0x30, 0x40, 0x50] {
            segment(at, 0x18, 0xc93, !0, 0);
        }
        segment(0x10, 0x10, 0xa9b, !0, 0);
        segment(0x60, 0, 0, 0x1f, place::GDT);
        segment(0x90, 0, 0x8b, 0x67, 0);
        segment(0x70, 0, 0x82, 0, 0);
        for (at, value) in [
            (0xd0, 0x1d00),
            (0x148, 0x20),
            (0x150, place::PAGE_TABLES | 1 << self.c_bit),
            (0x158, 0x8000_0031),
            (0x160, 0x400),
            (0x168, 0xffff_0ff0),
            (0x170, 2),
            (0x178, place::ENTRY),
            (0x1d8, place::STACK),
            (0x268, 0x0007_0406_0007_0406),
            (0x330, place::BOOT_PARAMETERS),
            (0x3b0, 1),
            (0x3e8, 1),
        ] {
            put(&mut page, at, &u64::to_le_bytes(value));
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        let mut file = vec![0; 0x600];
        file[0x1f1] = 2;
        file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        file[0x201] = 0x6a;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
        file[0x236] = 1;
        file[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
        file
    }

    fn linux<'a>(setup: &'a [u8], command_line: &'a str) -> Linux<'a> {
        let memory = &[(0, 0x1000, E820::Usable)];
        Linux { setup, command_line, kernel_size: 1, initrd: (0x200_0000, 5), memory, root: None, c_bit: 51 }
    }

    #[test]
    fn the_header_is_checked() {
        assert_eq!(setup_size(&image()), Ok(1536));
        assert_eq!(setup_size(b"\x7fELF"), Err(Unbootable::NotLinux));
        let mut old = image();
        old[0x236] = 0;
        assert_eq!(setup_size(&old), Err(Unbootable::NoLongModeEntry));
        let long = "x".repeat(2048);
        assert_eq!(linux(&image(), &long).pages().map(|_| ()), Err(Unbootable::CommandLine));
    }

    #[test]
    fn everything_has_its_place_or_does_not_fit() {
        const MIB: u64 = 1 << 20;
        let memory = |end| [(0, 0x9f000, E820::Usable), (MIB, end - MIB, E820::Usable)];
        let mut file = image();
        let of = |file: &[u8], size, initrd, end| Placement::of(file, size, initrd, &memory(end));
        let placed = of(&file, 1536 + 0x1801, 0x1001, 32 * MIB).unwrap();
        assert_eq!((placed.setup_size, placed.kernel_size), (1536, 0x1801));
        assert_eq!(placed.initrd, (32 * MIB - 0x2000, 0x1001));
        assert_eq!(of(&file, 1536 + 0x1801, 0, 32 * MIB).unwrap().initrd, (0, 0));
        assert_eq!(of(&file, 1536 + 0x1801, 15 << 20, 32 * MIB).map(|p| p.initrd.0), Ok(17 * MIB));
        assert_eq!(of(&file, 1536 + 0x1801, 16 << 20, 32 * MIB), Err(Unbootable::TooLarge));
        assert_eq!(of(&file, 1536 + 0x1801, u32::MAX, 32 * MIB), Err(Unbootable::TooLarge));
        assert_eq!(of(&file, u32::MAX, 0, 32 * MIB), Err(Unbootable::TooLarge));
        assert_eq!(of(&file, 1536 + 0x1801, 0, 16 * MIB), Err(Unbootable::NoMemory));
        for cut in [0, 1535, 1536, 1536 + 512] {
            assert_eq!(of(&file, cut, 0, 32 * MIB), Err(Unbootable::NotLinux), "{cut}");
        }
        file[0x260..0x264].copy_from_slice(&(20_u32 << 20).to_le_bytes());
        assert_eq!(of(&file, 1536 + 0x1801, 0, 32 * MIB), Err(Unbootable::TooLarge), "while it runs");
        file[0x1f1] = 65;
        assert_eq!(of(&file, 1 << 20, 0, 64 * MIB), Err(Unbootable::NotLinux));
    }

    #[test]
    fn pages_say_where_everything_is() {
        let file = image();
        let pages = linux(&file, "quiet").pages().unwrap();
        let page = |gpa| &pages.iter().find(|page| page.0 == gpa).unwrap().1;
        let parameters = page(place::BOOT_PARAMETERS);
        assert_eq!(&parameters[0x202..0x206], b"HdrS");
        assert_eq!((parameters[0x1e8], parameters[0x21c]), (1, 5));
        assert!(page(place::COMMAND_LINE).starts_with(b"quiet\0"));
        assert_eq!(&page(place::SETUP_DATA)[0x100..0x104], b"AMDE");
        assert!(pages.iter().all(|page| page.0 < place::END));
    }

    #[test]
    fn no_start_of_a_file_is_too_odd() {
        let file = image();
        for len in 0..file.len() {
            let _ = setup_size(&file[..len]);
        }
    }
}
