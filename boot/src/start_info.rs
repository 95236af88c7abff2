//! The PVH start info (`struct hvm_start_info`, Xen's `public/arch-x86/hvm/start_info.h`), read out of guest-physical memory.
//!
//! The structures may be 4-byte aligned only, and what they hold is the VMM's word: everything is copied before it is looked at,
//! and a pointer is followed only within the first GiB, which is what boot maps.

use crate::info::{BootError, BootInfo, PlatformKind};
use zerocopy::{FromBytes, Immutable, KnownLayout};

const MAGIC: u32 = 0x336e_c578;
/// E820 type of usable RAM.
const TYPE_RAM: u32 = 1;
/// A memory map with more entries than this is nonsense.
const MAX_ENTRIES: u32 = 1024;

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<StartInfo>() == 56);

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MapEntry {
    start: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<MapEntry>() == 24);

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Module {
    start: u64,
    size: u64,
    command_line: u64,
    reserved: u64,
}
const _: () = assert!(size_of::<Module>() == 32);

/// Reads physical memory: fills the buffer from the address, or says that it is out of reach.
pub trait PhysicalMemory {
    /// Copies `into.len()` bytes from `address`.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BootError>;
}

fn read<T: FromBytes, const N: usize>(memory: &impl PhysicalMemory, address: u64) -> Result<T, BootError> {
    let mut bytes = [0; N];
    memory.read(address, &mut bytes)?;
    T::read_from_bytes(&bytes).map_err(|_| BootError::BadStartInfo)
}

/// Makes a [`BootInfo`] from the start info at `address`. The first module, if there is one, is the manifest.
pub fn parse(memory: &impl PhysicalMemory, address: u64, entry_tsc: u64) -> Result<BootInfo, BootError> {
    let start: StartInfo = read::<_, 56>(memory, address)?;
    if start.magic != MAGIC || start.version < 1 || start.memory_map_entries > MAX_ENTRIES {
        return Err(BootError::BadStartInfo);
    }
    let mut info = BootInfo::new(PlatformKind::Vm, entry_tsc);
    for i in 0..u64::from(start.memory_map_entries) {
        let at = start.memory_map.checked_add(24 * i).ok_or(BootError::OutOfReach)?;
        let entry: MapEntry = read::<_, 24>(memory, at)?;
        if entry.kind == TYPE_RAM {
            info.add_memory(entry.start, entry.size)?;
        }
    }
    if info.memory().is_empty() {
        return Err(BootError::NoMemory);
    }
    if start.module_count != 0 {
        let module: Module = read::<_, 32>(memory, start.modules)?;
        info.set_manifest(module.start, module.size)?;
    }
    if start.command_line != 0 {
        let mut at = start.command_line;
        loop {
            let mut byte = [0];
            memory.read(at, &mut byte)?;
            if byte[0] == 0 {
                break;
            }
            info.add_to_command_line(byte[0])?;
            at = at.checked_add(1).ok_or(BootError::OutOfReach)?;
        }
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);
    impl PhysicalMemory for Bytes {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BootError> {
            let start = usize::try_from(address).map_err(|_| BootError::OutOfReach)?;
            let end = start.checked_add(into.len()).ok_or(BootError::OutOfReach)?;
            into.copy_from_slice(self.0.get(start..end).ok_or(BootError::OutOfReach)?);
            Ok(())
        }
    }

    fn sample(command_line: &[u8], map: &[(u64, u64, u32)]) -> Bytes {
        let mut bytes = vec![0; 0x4000];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(4, &MAGIC.to_le_bytes());
        put(8, &1u32.to_le_bytes());
        put(4 + 24, &0x1000u64.to_le_bytes());
        put(4 + 40, &0x104u64.to_le_bytes());
        put(4 + 48, &(map.len() as u32).to_le_bytes());
        put(0x1000, command_line);
        for (i, (start, size, kind)) in map.iter().enumerate() {
            put(0x104 + 24 * i, &start.to_le_bytes());
            put(0x104 + 24 * i + 8, &size.to_le_bytes());
            put(0x104 + 24 * i + 16, &kind.to_le_bytes());
        }
        Bytes(bytes)
    }

    #[test]
    fn reads_map_and_command_line() {
        let info = parse(
            &sample(b"a=b c=d\0", &[(0, 0x9fc00, 1), (0xf0000, 0x10000, 2), (1 << 20, 15 << 20, 1)]),
            4,
            7,
        )
        .ok()
        .unwrap();
        assert_eq!(info.command_line(), b"a=b c=d");
        assert_eq!(info.entry_tsc, 7);
        let ends: Vec<_> = info.memory().iter().map(|r| (r.start, r.end)).collect();
        assert_eq!(ends, [(0, 0x9f000), (1 << 20, 16 << 20)]);
    }

    #[test]
    fn the_first_module_is_the_manifest() {
        let mut bytes = sample(b"\0", &[(0, 0x9f000, 1)]);
        bytes.0[4 + 12] = 2;
        bytes.0[4 + 16..4 + 18].copy_from_slice(&0x200u16.to_le_bytes());
        bytes.0[0x201] = 0x12;
        bytes.0[0x208] = 0x34;
        assert_eq!(parse(&bytes, 4, 0).ok().unwrap().manifest(), Some(0x1200..0x1234));
        bytes.0[0x202] = 0x09;
        assert_eq!(parse(&bytes, 4, 0).ok().unwrap().manifest(), Some(0x9_1200..0x9_1234));
        bytes.0[0x202] = 0x0a;
        assert_eq!(parse(&bytes, 4, 0).err(), Some(BootError::ManifestOutOfPlace));
        bytes.0[4 + 22] = 1;
        assert_eq!(parse(&bytes, 4, 0).err(), Some(BootError::OutOfReach));
    }

    #[test]
    fn refuses_what_cannot_be() {
        let error = |bytes: &Bytes, at| parse(bytes, at, 0).err();
        assert_eq!(error(&sample(b"\0", &[]), 4), Some(BootError::NoMemory));
        assert_eq!(error(&sample(b"\0", &[(0, 4096, 1)]), 0), Some(BootError::BadStartInfo));
        assert_eq!(error(&sample(b"\0", &[(0, 4096, 1)]), 1 << 40), Some(BootError::OutOfReach));
        assert_eq!(error(&sample(&[b'x'; 5000], &[(0, 4096, 1)]), 4), Some(BootError::CommandLineTooLong));
        let mut endless = sample(b"\0", &[(0, 4096, 1)]);
        endless.0[4 + 48..4 + 52].copy_from_slice(&900u32.to_le_bytes());
        assert_eq!(error(&endless, 4), Some(BootError::OutOfReach));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), at in 0u64..64) {
            let mut bytes = sample(b"x=y\0", &[(0, 1 << 20, 1)]);
            bytes.0[8..8 + noise.len()].copy_from_slice(&noise);
            let _ = parse(&bytes, at, 0);
        }
    }
}
