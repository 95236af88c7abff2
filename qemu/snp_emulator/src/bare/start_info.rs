//! The PVH start info: memory and the ACPI root pointer. It comes from QEMU's own option ROM, which the emulator trusts.

/// A stretch of the memory map.
#[derive(Clone, Copy, Debug, Default)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// E820 type.
    pub kind: u32,
}

/// What the loader said.
pub struct StartInfo {
    regions: [Region; 32],
    count: usize,
    /// The ACPI root pointer, or 0.
    pub rsdp: u64,
    command_line: [u8; 256],
}

/// Reads it.
///
/// # Safety
/// `at` is the address of a PVH start info, mapped one to one with what it points at.
pub unsafe fn read(at: u64) -> StartInfo {
    // SAFETY: the caller's promise; the structures may be 4-aligned only.
    let word = |at: u64| unsafe { (at as *const u32).read_unaligned() };
    let quad = |at: u64| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    assert!(word(at) == 0x336e_c578, "no PVH start info");
    let (command_line, rsdp, map, entries) = (quad(at + 24), quad(at + 32), quad(at + 40), word(at + 48));
    let mut info = StartInfo { regions: [Region::default(); 32], count: 0, rsdp, command_line: [0; 256] };
    for i in 0..u64::from(entries) {
        let entry = map + 24 * i;
        if let Some(slot) = info.regions.get_mut(info.count) {
            *slot = Region { start: quad(entry), size: quad(entry + 8), kind: word(entry + 16) };
            info.count += 1;
        }
    }
    for (i, byte) in info.command_line.iter_mut().enumerate() {
        if command_line == 0 {
            break;
        }
        // SAFETY: as above; the line ends in a zero.
        *byte = unsafe { ((command_line + i as u64) as *const u8).read() };
        if *byte == 0 {
            break;
        }
    }
    info
}

impl StartInfo {
    /// The memory map.
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.count]
    }

    /// The end of the RAM that begins at or below 1 MiB's end, where the image was loaded.
    pub fn low_memory_end(&self) -> u64 {
        let holds = |r: &&Region| r.kind == 1 && r.start <= 1 << 20 && r.start + r.size > 2 << 20;
        self.regions().iter().find(holds).map_or(0, |r| (r.start + r.size) & !0xfff)
    }

    /// A number on the command line.
    pub fn option(&self, key: &str) -> Option<u64> {
        let end = self.command_line.iter().position(|&b| b == 0).unwrap_or(256);
        let line = core::str::from_utf8(&self.command_line[..end]).ok()?;
        line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    }
}
