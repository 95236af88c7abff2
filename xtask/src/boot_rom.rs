//! The firmware of the platform `vm`: 64 KiB that take the CPU from reset to the kernel's PVH entry.
//!
//! In the place of QEMU's own firmware, which asks the machine what this launcher, having made the machine, knows: the memory map and the command line
//! stand here as constants. So does the manifest where it fits, as the first PVH module. Under TCG a firmware is translated before it runs, and this one is
//! thirty instructions. QEMU puts the kernel's segments into memory.
//!
//! Source: Intel SDM volume 3, section 10.1.4 (first instruction at 0xffff_fff0); QEMU's `hw/i386/microvm.c` and `x86.c` (the last 64 KiB of firmware are
//! visible below 1 MiB too; RAM continues at 4 GiB); Xen's `docs/misc/pvh.pandoc` and `public/arch-x86/hvm/start_info.h`.

/// Bytes of the image.
pub const SIZE: usize = 0x1_0000;
/// Where it is visible below 1 MiB; the reset vector is at its end, and below 4 GiB too.
const BASE: u32 = 0xf_0000;
/// Where the manifest is put: conventional memory, of which a kernel that boots by PVH has all.
const MODULE: u32 = 0x1_0000;
/// Conventional memory ends here.
const LOW_END: u64 = 0x9_f000;
/// Where RAM continues that has no room below the devices.
const GAP_END: u64 = 1 << 32;

/// Offsets in the image.
const CODE: u16 = 0;
const GDT: u16 = 0x100;
const START_INFO: u16 = 0x140;
const MODULES: u16 = 0x180;
const MEMORY_MAP: u16 = 0x1c0;
const COMMAND_LINE: u16 = 0x400;
const RESET: u16 = 0xfff0;

/// What the image is to start.
#[derive(Clone, Copy, Debug)]
pub struct Rom<'a> {
    /// Physical address of the kernel's PVH entry.
    pub entry: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// RAM below 4 GiB ends here at the latest.
    pub low_memory_end: u64,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// The manifest.
    pub manifest: &'a [u8],
}

impl Rom<'_> {
    /// Where the manifest begins in the image.
    fn manifest_at(&self) -> usize {
        usize::from(COMMAND_LINE) + (self.command_line.len() + 1).next_multiple_of(16)
    }

    /// Whether the manifest has room. One that has not travels as a fw_cfg item.
    pub fn holds_manifest(&self) -> bool {
        self.manifest_at() + self.manifest.len() <= usize::from(RESET)
    }

    /// The image.
    pub fn build(&self) -> Vec<u8> {
        let mut image = vec![0; SIZE];
        let mut put =
            |at: u16, bytes: &[u8]| image[at.into()..usize::from(at) + bytes.len()].copy_from_slice(bytes);
        let low = |at: u16| (BASE + u32::from(at)).to_le_bytes();
        let with_manifest = self.holds_manifest();

        put(RESET, &[0xea]); //                              jmp 0xf000:CODE
        put(RESET + 1, &CODE.to_le_bytes());
        put(RESET + 3, &0xf000u16.to_le_bytes());

        let mut code = vec![0x66, 0x2e, 0x0f, 0x01, 0x16]; // lgdt cs:[GDT]
        code.extend(GDT.to_le_bytes());
        code.extend([0x0f, 0x20, 0xc0]); //                  mov eax, cr0
        code.extend([0x0c, 0x01]); //                        or al, 1 (PE)
        code.extend([0x0f, 0x22, 0xc0]); //                  mov cr0, eax
        let target = code.len() as u16 + 8;
        code.extend([0x66, 0xea]); //                        jmp 8:target, 32-bit from here on
        code.extend(low(CODE + target));
        code.extend(8u16.to_le_bytes());
        code.extend([0x66, 0xb8, 0x10, 0x00]); //            mov ax, 0x10
        code.extend([0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0]); // mov ds, ax; mov es, ax; mov ss, ax
        if with_manifest {
            code.push(0xbe); //                              mov esi, manifest
            code.extend(low(self.manifest_at() as u16));
            code.push(0xbf); //                              mov edi, MODULE
            code.extend(MODULE.to_le_bytes());
            code.push(0xb9); //                              mov ecx, its doublewords
            code.extend((self.manifest.len().div_ceil(4) as u32).to_le_bytes());
            code.extend([0xf3, 0xa5]); //                    rep movsd
        }
        code.push(0xbb); //                                  mov ebx, start info
        code.extend(low(START_INFO));
        code.push(0xb8); //                                  mov eax, entry
        code.extend(self.entry.to_le_bytes());
        code.extend([0xff, 0xe0]); //                        jmp eax
        put(CODE, &code);

        // The pointer, then what it points to: null, flat code, flat data.
        put(GDT, &23u16.to_le_bytes());
        put(GDT + 2, &low(GDT + 8));
        put(GDT + 16, &0x00cf_9b00_0000_ffffu64.to_le_bytes());
        put(GDT + 24, &0x00cf_9300_0000_ffffu64.to_le_bytes());

        let ram = self.ram();
        let word = |at: u16| u64::from(BASE + u32::from(at)).to_le_bytes();
        put(START_INFO, &0x336e_c578u32.to_le_bytes());
        put(START_INFO + 4, &1u32.to_le_bytes()); //         version
        put(START_INFO + 12, &u32::from(with_manifest).to_le_bytes());
        put(START_INFO + 16, &word(MODULES));
        put(START_INFO + 24, &word(COMMAND_LINE));
        put(START_INFO + 40, &word(MEMORY_MAP));
        put(START_INFO + 48, &(ram.len() as u32).to_le_bytes());
        put(MODULES, &u64::from(MODULE).to_le_bytes());
        put(MODULES + 8, &(self.manifest.len() as u64).to_le_bytes());
        for (entry, (start, end)) in (0..).zip(ram) {
            let at = MEMORY_MAP + 24 * entry;
            put(at, &start.to_le_bytes());
            put(at + 8, &(end - start).to_le_bytes());
            put(at + 16, &1u32.to_le_bytes());
        }
        put(COMMAND_LINE, self.command_line.as_bytes());
        if with_manifest {
            put(self.manifest_at() as u16, self.manifest);
        }
        image
    }

    /// RAM as QEMU lays it out, but for the firmware's last 64 KiB below 1 MiB and what is customarily left alone before them.
    fn ram(&self) -> Vec<(u64, u64)> {
        let mut ram = vec![(0, LOW_END), (1 << 20, self.memory.min(self.low_memory_end))];
        if self.memory > self.low_memory_end {
            ram.push((GAP_END, GAP_END + (self.memory - self.low_memory_end)));
        }
        ram
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot::BootError;
    use boot::start_info::{PhysicalMemory, parse};

    /// The image where the machine has it, and a manifest where the code puts it.
    struct Machine(Vec<u8>);

    impl PhysicalMemory for Machine {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BootError> {
            let at = address.checked_sub(BASE.into()).ok_or(BootError::OutOfReach)? as usize;
            into.copy_from_slice(self.0.get(at..at + into.len()).ok_or(BootError::OutOfReach)?);
            Ok(())
        }
    }

    fn rom<'a>(memory: u64, manifest: &'a [u8]) -> Rom<'a> {
        Rom { entry: 0x10_0040, memory, low_memory_end: 3 << 30, command_line: "a=b c=d", manifest }
    }

    #[test]
    fn the_kernel_reads_what_was_meant() {
        let image = rom(5 << 30, b"manifest").build();
        assert_eq!(image.len(), SIZE);
        let info = parse(&Machine(image), u64::from(BASE) + u64::from(START_INFO), 7).ok().unwrap();
        assert_eq!(info.command_line(), b"a=b c=d");
        let ram: Vec<_> = info.memory().iter().map(|r| (r.start, r.end)).collect();
        assert_eq!(ram, [(0, 0x9f000), (1 << 20, 3 << 30), (4 << 30, 6 << 30)]);
        assert_eq!(info.manifest(), Some(u64::from(MODULE)..u64::from(MODULE) + 8));
    }

    #[test]
    fn a_manifest_that_does_not_fit_is_left_out() {
        let most = vec![1; usize::from(RESET) - usize::from(COMMAND_LINE) - 16];
        assert!(rom(16 << 20, &most).holds_manifest());
        assert_eq!(rom(16 << 20, &most).build()[usize::from(RESET) - 1], 1);
        let more = vec![1; most.len() + 1];
        let image = rom(16 << 20, &more).build();
        assert!(image[usize::from(COMMAND_LINE) + 16..usize::from(RESET)].iter().all(|&byte| byte == 0));
        let info = parse(&Machine(image), u64::from(BASE) + u64::from(START_INFO), 7).ok().unwrap();
        assert_eq!(info.manifest(), None);
        assert_eq!(info.memory().last().unwrap().end, 16 << 20);
    }
}
