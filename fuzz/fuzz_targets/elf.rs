//! ELF headers: whatever the file says, a program that is accepted can be mapped as it stands (`process::elf`).
#![no_main]

use litebox_core::process::elf::{self, HEADER_SIZE, PROGRAM_HEADER_SIZE};
use std::ops::Range;

const USER: Range<u64> = 0x1_0000..0x7fff_ffff_f000;
const PAGE: u64 = 4096;

litebox_fuzz::target!(litebox_fuzz::seeds::elf, run);

fn run(file: &[u8]) {
    let size = file.len() as u64;
    let Ok(header) = elf::header(&file[..file.len().min(HEADER_SIZE)], size) else { return };
    let at = &header.program_headers;
    assert!(at.start < at.end && at.end <= size);
    assert_eq!((at.end - at.start) % PROGRAM_HEADER_SIZE as u64, 0);
    let bytes = &file[at.start as usize..at.end as usize];
    let Ok(program) = elf::program(&header, bytes, size, USER) else { return };

    let (first, last) = (program.segments.first().unwrap(), program.segments.last().unwrap());
    assert!(header.dynamic || first.memory.start >= USER.start);
    assert!(last.memory.end - first.memory.start <= (USER.end - USER.start) / 2);
    let mut free_from = 0;
    for segment in &program.segments {
        assert!(segment.memory.start < segment.memory.end && segment.memory.end <= USER.end);
        assert!(segment.memory.start / PAGE * PAGE >= free_from, "two segments on one page");
        free_from = segment.memory.end.next_multiple_of(PAGE);
        assert!(segment.file.start <= segment.file.end && segment.file.end <= size);
        assert!(segment.file.end - segment.file.start <= segment.memory.end - segment.memory.start);
        assert_eq!(segment.file.start % PAGE, segment.memory.start % PAGE);
    }
    if let Some(path) = &program.interpreter {
        assert!(path.end <= size && (2..=4096).contains(&(path.end - path.start)));
    }
    if let Some(address) = program.header_address {
        let holds = |s: &elf::Segment| {
            s.memory.start <= address
                && address - s.memory.start + (at.end - at.start) <= s.file.end - s.file.start
        };
        assert!(program.segments.iter().any(holds), "the headers are not where the program is told");
    }
    assert!(program.align.is_power_of_two() && (PAGE..=1 << 30).contains(&program.align));
}
