//! What the kernel is told about the machine it wakes up in.

use core::fmt;
use core::ops::Range;

/// How many memory regions a [`BootInfo`] can hold. More are not lost silently: they are an error.
pub const MAX_REGIONS: usize = 32;
/// How long a command line may be, in bytes.
pub const MAX_COMMAND_LINE: usize = 4096;

/// Memory below belongs to firmware and loaders: the kernel makes no use of it, so that what they left there stays.
pub const LOW_MEMORY_END: u64 = 1 << 20;

/// What the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlatformKind {
    /// An ordinary virtual machine, entered by PVH. Not confidential.
    Vm,
    /// An SNP guest, entered from an IGVM file.
    Snp,
}

/// Usable RAM: physical addresses, half open, multiples of 4096.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryRegion {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// Why there is no [`BootInfo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The structure handed over is not a PVH start info.
    BadStartInfo,
    /// It lies, or points, outside what is mapped at boot.
    OutOfReach,
    /// More than [`MAX_REGIONS`] pieces of RAM.
    TooManyRegions,
    /// Two regions of RAM overlap, or are not in order.
    OverlappingRegions,
    /// The command line is longer than [`MAX_COMMAND_LINE`].
    CommandLineTooLong,
    /// The manifest is not in RAM below [`LOW_MEMORY_END`].
    ManifestOutOfPlace,
    /// No RAM at all.
    NoMemory,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BootError::BadStartInfo => "the PVH start info is not one",
            BootError::OutOfReach => "the PVH start info points outside the first GiB",
            BootError::TooManyRegions => "the memory map has too many regions",
            BootError::OverlappingRegions => "the memory map's regions overlap",
            BootError::CommandLineTooLong => "the kernel command line is longer than 4096 bytes",
            BootError::ManifestOutOfPlace => "the PVH start info's module is not in RAM below 1 MiB",
            BootError::NoMemory => "the memory map has no RAM",
        })
    }
}

/// The machine, as told by whatever started it, checked and copied.
pub struct BootInfo {
    /// What the machine is.
    pub platform: PlatformKind,
    /// The time-stamp counter at the first instruction.
    pub entry_tsc: u64,
    /// What an SNP guest is told besides; there exactly on [`PlatformKind::Snp`].
    #[cfg(target_os = "none")]
    pub snp: Option<crate::SnpBoot>,
    regions: [MemoryRegion; MAX_REGIONS],
    region_count: usize,
    command_line: [u8; MAX_COMMAND_LINE],
    command_line_len: usize,
    manifest: Option<Range<u64>>,
}

impl BootInfo {
    /// An empty one.
    pub fn new(platform: PlatformKind, entry_tsc: u64) -> BootInfo {
        BootInfo {
            platform,
            entry_tsc,
            #[cfg(target_os = "none")]
            snp: None,
            regions: [MemoryRegion::default(); MAX_REGIONS],
            region_count: 0,
            command_line: [0; MAX_COMMAND_LINE],
            command_line_len: 0,
            manifest: None,
        }
    }

    /// Usable RAM in ascending order, without overlaps.
    pub fn memory(&self) -> &[MemoryRegion] {
        &self.regions[..self.region_count]
    }

    /// The command line, as the host gave it.
    pub fn command_line(&self) -> &[u8] {
        &self.command_line[..self.command_line_len]
    }

    /// Where a loader put the manifest: physical addresses in RAM below [`LOW_MEMORY_END`].
    pub fn manifest(&self) -> Option<Range<u64>> {
        self.manifest.clone()
    }

    /// Sets where the manifest is; after the memory, in which it has to lie.
    pub fn set_manifest(&mut self, start: u64, size: u64) -> Result<(), BootError> {
        let end = start.checked_add(size).ok_or(BootError::ManifestOutOfPlace)?;
        let inside = |region: &MemoryRegion| region.start <= start && end <= region.end;
        if end > LOW_MEMORY_END || !self.memory().iter().any(inside) {
            return Err(BootError::ManifestOutOfPlace);
        }
        self.manifest = Some(start..end);
        Ok(())
    }

    /// Adds a region of RAM, cut to whole pages. Empty ones are left out.
    pub fn add_memory(&mut self, start: u64, size: u64) -> Result<(), BootError> {
        let end = start.saturating_add(size) & !0xfff;
        let Some(start) = start.checked_add(0xfff).map(|s| s & !0xfff) else { return Ok(()) };
        if start >= end {
            return Ok(());
        }
        if self.memory().last().is_some_and(|last| start < last.end) {
            return Err(BootError::OverlappingRegions);
        }
        let slot = self.regions.get_mut(self.region_count).ok_or(BootError::TooManyRegions)?;
        *slot = MemoryRegion { start, end };
        self.region_count += 1;
        Ok(())
    }

    /// Sets the command line.
    pub fn set_command_line(&mut self, line: &[u8]) -> Result<(), BootError> {
        self.command_line_len = 0;
        line.iter().try_for_each(|&byte| self.add_to_command_line(byte))
    }

    /// Adds a byte to the command line.
    pub fn add_to_command_line(&mut self, byte: u8) -> Result<(), BootError> {
        *self.command_line.get_mut(self.command_line_len).ok_or(BootError::CommandLineTooLong)? = byte;
        self.command_line_len += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_cut_to_pages_and_must_not_overlap() {
        let mut info = BootInfo::new(PlatformKind::Vm, 0);
        info.add_memory(0x1001, 0x2000).unwrap();
        info.add_memory(0x10, 0x20).unwrap();
        assert_eq!(info.memory(), [MemoryRegion { start: 0x2000, end: 0x3000 }]);
        info.add_memory(u64::MAX - 0x100, 0x2000).unwrap();
        assert_eq!(info.add_memory(0x2000, 0x1000), Err(BootError::OverlappingRegions));
        for i in 1..MAX_REGIONS as u64 {
            info.add_memory(0x10000 * i, 0x1000).unwrap();
        }
        assert_eq!(info.add_memory(1 << 40, 0x1000), Err(BootError::TooManyRegions));
    }

    #[test]
    fn the_manifest_lies_in_low_memory() {
        let mut info = BootInfo::new(PlatformKind::Vm, 0);
        info.add_memory(0x1000, 0x9e000).unwrap();
        info.add_memory(0xf_0000, 1 << 20).unwrap();
        for (start, size) in [(0, 8), (0xfff, 8), (0x9_eff9, 8), (0xf_fff9, 8), (u64::MAX, 8), (8, u64::MAX)]
        {
            assert_eq!(
                info.set_manifest(start, size),
                Err(BootError::ManifestOutOfPlace),
                "{start:#x} {size}"
            );
            assert_eq!(info.manifest(), None);
        }
        info.set_manifest(0x9_eff8, 8).unwrap();
        assert_eq!(info.manifest(), Some(0x9_eff8..0x9_f000));
        info.set_manifest(0xf_fff8, 8).unwrap();
        assert_eq!(info.manifest(), Some(0xf_fff8..0x10_0000));
    }

    #[test]
    fn a_long_command_line_is_refused() {
        let mut info = BootInfo::new(PlatformKind::Vm, 0);
        for _ in 0..MAX_COMMAND_LINE {
            info.add_to_command_line(b'x').unwrap();
        }
        assert_eq!(info.add_to_command_line(b'x'), Err(BootError::CommandLineTooLong));
        assert_eq!(info.command_line(), [b'x'; MAX_COMMAND_LINE]);
    }
}
