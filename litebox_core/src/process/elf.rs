//! ELF headers, read with distrust (`elf(5)`, System V gABI, x86-64 psABI).
//!
//! What comes out is a [`Program`] whose numbers have been checked against each other, the file's size and the address space. A file that lies about itself is
//! refused here, with words that say what is wrong.

use crate::platform::PAGE_SIZE;
use alloc::vec::Vec;
use core::ops::Range;
use zerocopy::{FromBytes, Immutable, KnownLayout};

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;

/// Bytes in the file header.
pub const HEADER_SIZE: usize = 64;
/// Bytes in a program header.
pub const PROGRAM_HEADER_SIZE: usize = 56;
/// The most program headers that are read (Linux: 64 KiB of them).
const MAX_PROGRAM_HEADERS: usize = 65536 / PROGRAM_HEADER_SIZE;
/// The longest interpreter path.
const MAX_INTERPRETER: u64 = 4096;

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawHeader {
    ident: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    program_headers: u64,
    section_headers: u64,
    flags: u32,
    header_size: u16,
    program_header_size: u16,
    program_header_count: u16,
    section_header_size: u16,
    section_header_count: u16,
    section_names: u16,
}
const _: () = assert!(size_of::<RawHeader>() == HEADER_SIZE);

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    physical: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}
const _: () = assert!(size_of::<RawProgramHeader>() == PROGRAM_HEADER_SIZE);

/// The file header, checked; says where the program headers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Position independent.
    pub dynamic: bool,
    /// Entry point.
    pub entry: u64,
    /// Where the program headers are in the file.
    pub program_headers: Range<u64>,
}

/// What a segment permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Permissions {
    pub read: bool,
    pub write: bool,
    pub exec: bool,
}

/// A PT_LOAD segment. `file.end - file.start <= memory.end - memory.start`; both starts are equal modulo the page size.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Segment {
    pub memory: Range<u64>,
    pub file: Range<u64>,
    pub permissions: Permissions,
}

/// A program, checked: segments in ascending order without overlap, in user space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The segments, at least one.
    pub segments: Vec<Segment>,
    /// Where the interpreter's path is in the file.
    pub interpreter: Option<Range<u64>>,
    /// Address of the program headers in memory, when a segment holds them.
    pub header_address: Option<u64>,
    /// PT_GNU_STACK asks for an executable stack.
    pub executable_stack: bool,
    /// The largest alignment that a segment asks for; a power of two, at least a page.
    pub align: u64,
}

/// Why a file is no program: words for the person who launched it.
pub type Reason = &'static str;

/// Reads the file header out of the file's first bytes.
pub fn header(bytes: &[u8], file_size: u64) -> Result<Header, Reason> {
    if !bytes.starts_with(b"\x7fELF") {
        return Err("not an ELF file");
    }
    let raw = RawHeader::read_from_prefix(bytes).map_err(|_| "a truncated ELF file")?.0;
    match (raw.ident[4], raw.ident[5]) {
        (2, 1) => {}
        (1, 1) => return Err("a 32-bit program; only x86-64 is supported"),
        _ => return Err("an ELF file of a foreign class or byte order"),
    }
    match raw.machine {
        EM_X86_64 => {}
        EM_386 => return Err("an i386 program; only x86-64 is supported"),
        EM_AARCH64 => return Err("an AArch64 program; only x86-64 is supported"),
        _ => return Err("a program for another architecture; only x86-64 is supported"),
    }
    let dynamic = match raw.kind {
        ET_EXEC => false,
        ET_DYN => true,
        _ => return Err("an ELF file that is no program (an object file or a core dump)"),
    };
    let count = usize::from(raw.program_header_count);
    if usize::from(raw.program_header_size) != PROGRAM_HEADER_SIZE
        || count == 0
        || count > MAX_PROGRAM_HEADERS
    {
        return Err("an ELF file with impossible program headers");
    }
    let end = raw.program_headers.checked_add((count * PROGRAM_HEADER_SIZE) as u64);
    match end {
        Some(end) if end <= file_size => {
            Ok(Header { dynamic, entry: raw.entry, program_headers: raw.program_headers..end })
        }
        _ => Err("a truncated ELF file: its program headers lie beyond its end"),
    }
}

/// Reads the program headers. `user` is the range of user addresses.
pub fn program(header: &Header, bytes: &[u8], file_size: u64, user: Range<u64>) -> Result<Program, Reason> {
    let page = PAGE_SIZE as u64;
    let mut segments: Vec<Segment> = Vec::new();
    let (mut interpreter, mut header_address, mut executable_stack, mut align) = (None, None, false, page);
    for chunk in bytes.chunks_exact(PROGRAM_HEADER_SIZE) {
        let raw = RawProgramHeader::read_from_bytes(chunk).map_err(|_| "a truncated ELF file")?;
        match raw.kind {
            PT_LOAD => {
                if raw.memory_size == 0 {
                    continue;
                }
                let file_end = raw.offset.checked_add(raw.file_size).filter(|&end| end <= file_size);
                let file_end = file_end.ok_or("a truncated ELF file: a segment lies beyond its end")?;
                if raw.file_size > raw.memory_size {
                    return Err("an ELF file with a segment that is larger in the file than in memory");
                }
                if raw.address % page != raw.offset % page {
                    return Err("an ELF file with a segment that is not aligned as in memory");
                }
                if raw.align > 1 && !raw.align.is_power_of_two() {
                    return Err("an ELF file with an alignment that is no power of two");
                }
                align = align.max(raw.align).min(1 << 30);
                let end = raw.address.checked_add(raw.memory_size).filter(|&end| end <= user.end);
                let end = end.ok_or("an ELF file with a segment outside of user space")?;
                // Pages, not bytes, must not be shared: the later one would hide the earlier.
                if segments.last().is_some_and(|last| raw.address / page < last.memory.end.div_ceil(page)) {
                    return Err("an ELF file with segments that overlap or are not in ascending order");
                }
                let covers =
                    raw.offset <= header.program_headers.start && header.program_headers.end <= file_end;
                if covers && header_address.is_none() {
                    header_address = Some(raw.address + (header.program_headers.start - raw.offset));
                }
                segments.push(Segment {
                    memory: raw.address..end,
                    file: raw.offset..file_end,
                    permissions: Permissions {
                        read: raw.flags & PF_R != 0,
                        write: raw.flags & PF_W != 0,
                        exec: raw.flags & PF_X != 0,
                    },
                });
            }
            PT_INTERP => {
                let end = raw.offset.checked_add(raw.file_size).filter(|&end| end <= file_size);
                match end {
                    Some(end) if raw.file_size >= 2 && raw.file_size <= MAX_INTERPRETER => {
                        interpreter = Some(raw.offset..end);
                    }
                    _ => return Err("an ELF file with an impossible interpreter path"),
                }
            }
            PT_PHDR => {}
            PT_GNU_STACK => executable_stack = raw.flags & PF_X != 0,
            _ => {}
        }
    }
    let first = segments.first().ok_or("an ELF file with nothing to load")?.memory.start;
    let last = segments.last().map_or(first, |s| s.memory.end);
    if !header.dynamic && first < user.start {
        return Err("an ELF file with a segment below the lowest address that can be mapped");
    }
    if last - first > (user.end - user.start) / 2 {
        return Err("an ELF file that spans more than half of the address space");
    }
    Ok(Program { segments, interpreter, header_address, executable_stack, align })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USER: Range<u64> = 0x1_0000..0x7fff_ffff_f000;

    fn own_program() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    fn read(file: &[u8]) -> Result<Program, Reason> {
        let header = header(file, file.len() as u64)?;
        let range = header.program_headers.start as usize..header.program_headers.end as usize;
        program(&header, &file[range], file.len() as u64, USER)
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn reads_this_test_itself() {
        let program = read(&own_program()).unwrap();
        assert!(program.interpreter.is_some());
        assert!(program.header_address.is_some());
        assert!(program.segments.iter().any(|s| s.permissions.exec && !s.permissions.write));
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(header(b"#!/bin/sh", 9), Err("not an ELF file"));
        assert_eq!(header(b"\x7fELF", 4), Err("a truncated ELF file"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 2000 }))]
        #[test]
        fn what_is_accepted_keeps_the_promises(
            changes in proptest::collection::vec((0usize..64 + 56 * 4, any::<u8>()), 0..12),
            words in proptest::collection::vec((0usize..28, prop_oneof![
                Just(0u64), Just(u64::MAX), Just(1 << 63), Just(4096), Just(0x7fff_ffff_f000), any::<u64>()
            ]), 0..4),
        ) {
            let mut file = sample();
            for (at, value) in changes {
                file[at] = value;
            }
            for (slot, value) in words {
                file[64 + 8 * slot..72 + 8 * slot].copy_from_slice(&value.to_le_bytes());
            }
            if let Ok(program) = read(&file) {
                let mut last = 0;
                for segment in &program.segments {
                    prop_assert!(segment.memory.start / 4096 * 4096 >= last);
                    prop_assert!(segment.memory.end <= USER.end && segment.file.end <= file.len() as u64);
                    prop_assert!(segment.file.end - segment.file.start <= segment.memory.end - segment.memory.start);
                    prop_assert_eq!(segment.memory.start % 4096, segment.file.start % 4096);
                    last = segment.memory.end;
                }
                prop_assert!(!program.segments.is_empty());
            }
        }
    }

    /// A small program: two segments, an interpreter, a stack header.
    fn sample() -> Vec<u8> {
        let mut file = alloc::vec![0u8; 0x3000];
        file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file[16..20].copy_from_slice(&[3, 0, 62, 0]);
        file[24..32].copy_from_slice(&0x1000u64.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..58].copy_from_slice(&[56, 0, 4, 0]);
        let headers: [[u64; 7]; 4] = [
            [1 | 5 << 32, 0, 0, 0, 0x1800, 0x1800, 0x1000],
            [1 | 6 << 32, 0x2000, 0x2000, 0x2000, 0x100, 0x2000, 0x1000],
            [3 | 4 << 32, 0x200, 0x200, 0x200, 28, 28, 1],
            [0x6474_e551 | 6 << 32, 0, 0, 0, 0, 0, 16],
        ];
        for (i, words) in headers.iter().enumerate() {
            for (j, word) in words.iter().enumerate() {
                file[64 + 56 * i + 8 * j..72 + 56 * i + 8 * j].copy_from_slice(&word.to_le_bytes());
            }
        }
        file
    }

    #[test]
    fn the_sample_is_a_program() {
        let program = read(&sample()).unwrap();
        assert_eq!(program.segments.len(), 2);
        assert_eq!(program.header_address, Some(64));
        assert!(!program.executable_stack);
    }
}
