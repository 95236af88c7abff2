//! Looks at a program on the host before it is packed, for errors that are kinder than the guest's.
//!
//! A courtesy, not a check: whatever passes here the guest judges again, and its word counts.

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use crate::protocol::status;

/// Why a program cannot run, with the exit status that says so.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 126 or 127.
    pub status: i32,
    /// For humans.
    pub why: String,
}

fn refuse<T>(status: i32, why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { status, why: why.into() })
}

/// Looks at the file; `with_rootfs` says whether an interpreter can come from a root file system.
pub fn check(path: &Path, with_rootfs: bool) -> Result<(), Refusal> {
    let name = path.display();
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            Refusal { status: status::NOT_FOUND, why: format!("{name}: no such file") }
        }
        _ => Refusal { status: status::NOT_EXECUTABLE, why: format!("{name}: {error}") },
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return refuse(status::NOT_EXECUTABLE, format!("{name}: not a regular file"));
    }
    let mut file = fs::File::open(path).map_err(unreadable)?;
    let mut head = Vec::new();
    file.by_ref().take(4096).read_to_end(&mut head).map_err(unreadable)?;
    let interpreter = interpreter(&head, metadata.len(), &mut |offset, size| {
        file.seek(SeekFrom::Start(offset)).ok()?;
        let mut bytes = Vec::new();
        file.by_ref().take(size).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    });
    match interpreter {
        Err(why) => refuse(status::NOT_EXECUTABLE, format!("{name}: {why}")),
        Ok(Some(interpreter)) if !with_rootfs => refuse(
            status::NOT_EXECUTABLE,
            format!(
                "{name} is dynamically linked: it needs {interpreter} and its libraries. Give it a root file system that has them \
                 (--rootfs DIR|TAR), or link it statically (-static; Rust: --target x86_64-unknown-linux-musl)"
            ),
        ),
        Ok(_) => Ok(()),
    }
}

fn number(bytes: &[u8], offset: usize, size: usize) -> Option<u64> {
    let field = bytes.get(offset..offset.checked_add(size)?)?;
    Some(field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// The interpreter that an ELF file asks for, or why Linux on x86-64 would not execute it.
/// `read` gives bytes of the file by offset and size.
fn interpreter(
    head: &[u8],
    file_size: u64,
    read: &mut impl FnMut(u64, u64) -> Option<Vec<u8>>,
) -> Result<Option<String>, String> {
    const TRUNCATED: &str = "truncated ELF file";
    const PT_LOAD: u64 = 1;
    const PT_INTERP: u64 = 3;
    if head.starts_with(b"#!") {
        return Err("a script; give its interpreter as the program and the script as an argument".into());
    }
    if !head.starts_with(b"\x7fELF") {
        return Err("not an ELF file".into());
    }
    let field = |offset, size| number(head, offset, size).ok_or(TRUNCATED);
    if field(4, 1)? != 2 || field(5, 1)? != 1 || field(18, 2)? != 62 {
        return Err(format!(
            "an ELF file for another machine ({}); needed is x86-64",
            machine_name(field(18, 2)?)
        ));
    }
    if !matches!(field(16, 2)?, 2 | 3) {
        return Err("an ELF file, but not a program (an object file or a core dump)".into());
    }
    let (table, entry_size, count) = (field(32, 8)?, field(54, 2)?, field(56, 2)?);
    if entry_size != 56 {
        return Err("an ELF file with malformed program headers".into());
    }
    let headers = read(table, entry_size * count).ok_or(TRUNCATED)?;
    if headers.len() as u64 != entry_size * count {
        return Err(TRUNCATED.into());
    }
    let (mut interpreter, mut loadable) = (None, false);
    for header in headers.chunks_exact(56) {
        let field = |offset, size| number(header, offset, size).ok_or(TRUNCATED);
        let (kind, offset, size) = (field(0, 4)?, field(8, 8)?, field(32, 8)?);
        if !matches!(kind, PT_LOAD | PT_INTERP) {
            continue;
        }
        if offset.checked_add(size).is_none_or(|end| end > file_size) {
            return Err(TRUNCATED.into());
        }
        loadable |= kind == PT_LOAD;
        if kind == PT_INTERP {
            let bytes = read(offset, size.min(4096)).ok_or(TRUNCATED)?;
            let path = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
            interpreter = Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    if !loadable {
        return Err("an ELF file without a loadable segment".into());
    }
    Ok(interpreter)
}

fn machine_name(machine: u64) -> String {
    match machine {
        3 => "32-bit x86".into(),
        40 => "32-bit Arm".into(),
        62 => "x32".into(),
        183 => "AArch64".into(),
        243 => "RISC-V".into(),
        other => format!("ELF machine {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(bytes: &[u8]) -> Result<Option<String>, String> {
        interpreter(bytes, bytes.len() as u64, &mut |offset, size| {
            let start = usize::try_from(offset).ok()?.min(bytes.len());
            let end = start.saturating_add(usize::try_from(size).ok()?).min(bytes.len());
            bytes.get(start..end).map(<[u8]>::to_vec)
        })
    }

    fn this_program() -> Vec<u8> {
        fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn a_dynamic_program_names_its_interpreter() {
        assert_eq!(judge(&this_program()).unwrap().as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let program = this_program();
        for bytes in [&b""[..], b"MZ", b"#!/bin/sh\n", b"\x7fELF", &program[..100], &program[..4096]] {
            assert!(judge(bytes).is_err());
        }
        let mut foreign = program.clone();
        foreign[18] = 183;
        assert!(judge(&foreign).unwrap_err().contains("AArch64"));
    }

    #[test]
    fn corrupted_headers_never_panic() {
        let mut program = this_program();
        for at in 0..512 {
            let old = std::mem::replace(&mut program[at], 0xff);
            let _ = judge(&program);
            program[at] = old;
        }
    }

    #[test]
    fn missing_files_are_127_and_others_126() {
        assert_eq!(check(Path::new("/nonexistent/x"), false).unwrap_err().status, 127);
        assert_eq!(check(Path::new("/"), false).unwrap_err().status, 126);
    }
}
