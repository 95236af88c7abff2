//! Starting a program: `execve(2)`, and the first program of all.
//!
//! The new memory is built completely before the old one is given up, so a failure leaves the caller as it was.

use super::elf::{self, HEADER_SIZE, Reason, Segment};
use super::object::{Process, Program};
use super::signal::{ThreadSignals, max_frame_size, sig};
use super::stack::{InitialStack, at};
use super::thread::Thread;
use super::vdso;
use crate::errno::Errno;
use crate::fs::{FileType, FsContext, Location, OFlags, OpenFile, Permission, ResolveFlags, ops};
use crate::mm::{MapFlags, MapName, MapRequest, Mappable, Mm};
use crate::platform::{PAGE_SIZE, Platform, Prot, Registers};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{borrow::Cow, format};
use core::ops::Range;
use core::sync::atomic::Ordering;

/// Why a program does not start: the error number, and words for whoever launched it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecError {
    /// For `execve`.
    pub errno: Errno,
    /// For the launcher.
    pub why: Cow<'static, str>,
}

impl ExecError {
    fn not_executable(why: Reason) -> ExecError {
        ExecError { errno: Errno::ENOEXEC, why: Cow::Borrowed(why) }
    }
}

impl From<Errno> for ExecError {
    fn from(errno: Errno) -> ExecError {
        ExecError { errno, why: Cow::Borrowed(errno.name()) }
    }
}

/// How many `#!` lines are followed, one after the other.
const MAX_SCRIPTS: usize = 4;
/// Bytes of a `#!` line that are looked at.
const SCRIPT_LINE: usize = 256;
/// Where position-independent programs go, before randomisation: two thirds up, as on Linux.
const DYNAMIC_BASE: usize = 0x5555_5555_4000;
/// Room for the stack's initial mapping.
const STACK_START: usize = 33 * PAGE_SIZE;

/// A file that is to be executed.
struct Executable {
    file: Arc<OpenFile>,
    /// Its contents: what is read of them is what will be mapped.
    pages: Arc<dyn Mappable>,
    location: Location,
    path: Vec<u8>,
    size: u64,
}

impl Executable {
    fn open(fs: &FsContext, path: &[u8]) -> Result<Executable, ExecError> {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let error =
            |errno: Errno, why: &str| ExecError { errno, why: Cow::Owned(format!("{}: {why}", shown())) };
        let file = ops::open(fs, &fs.cwd, path, OFlags::RDONLY | OFlags::CLOEXEC, 0, ResolveFlags::empty())
            .map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR => error(errno, "no such file in the workload image"),
            Errno::EACCES => error(errno, "may not be read"),
            other => error(other, other.name()),
        })?;
        let metadata = file.metadata()?;
        if metadata.file_type != FileType::Regular {
            let what = if metadata.file_type == FileType::Directory {
                "is a directory"
            } else {
                "is no regular file"
            };
            return Err(error(Errno::EACCES, what));
        }
        if fs.credentials.check(&metadata, Permission::EXEC).is_err() {
            return Err(error(Errno::EACCES, "is not marked executable"));
        }
        let location = file.location().cloned().ok_or(Errno::EACCES)?;
        let Ok(pages) = file.file()?.mappable() else {
            return Err(error(Errno::EACCES, "cannot be mapped"));
        };
        Ok(Executable { file, pages, location, path: path.to_vec(), size: metadata.size })
    }

    /// Reads up to `len` bytes at `offset`.
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, ExecError> {
        let rest = self.size.saturating_sub(offset);
        let mut bytes = alloc::vec![0; rest.min(len as u64) as usize];
        let mut done = 0;
        while let Some(into @ [_, ..]) = bytes.get_mut(done..) {
            let at = offset + done as u64;
            match self.pages.page(at / PAGE_SIZE as u64, false) {
                Ok(page) => done += page.read((at % PAGE_SIZE as u64) as usize, into),
                // It was cut in the meantime.
                Err(Errno::ENXIO) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }
}

/// What a loaded ELF file is in memory.
struct Loaded {
    /// What was added to its addresses.
    bias: usize,
    entry: u64,
    headers: u64,
    header_count: u64,
    memory: Range<usize>,
    text: Range<u64>,
}

struct Loader<'a, P: Platform> {
    mm: &'a Mm<P>,
}

impl<P: Platform> Loader<'_, P> {
    fn parse(&self, file: &Executable) -> Result<(elf::Header, elf::Program), ExecError> {
        let first = file.read(0, HEADER_SIZE)?;
        let header = elf::header(&first, file.size).map_err(ExecError::not_executable)?;
        let range = &header.program_headers;
        let bytes = file.read(range.start, (range.end - range.start) as usize)?;
        let user = self.mm.platform().user_range();
        let program = elf::program(&header, &bytes, file.size, user.start as u64..user.end as u64)
            .map_err(ExecError::not_executable)?;
        Ok((header, program))
    }

    /// Maps the segments. `base`: where a position-independent file goes; 0 leaves it to `mmap`.
    fn load(
        &self,
        file: &Executable,
        header: &elf::Header,
        program: &elf::Program,
        base: usize,
    ) -> Result<Loaded, ExecError> {
        let page = PAGE_SIZE as u64;
        let first = program.segments.first().map_or(0, |s| s.memory.start / page * page) as usize;
        let last = program.segments.last().map_or(0, |s| s.memory.end.next_multiple_of(page)) as usize;
        let bias = if header.dynamic {
            let align = program.align as usize;
            let span = last - first + align;
            let at = if base == 0 { self.mm.find_place(span)? } else { base };
            at.next_multiple_of(align).wrapping_sub(first)
        } else {
            0
        };
        let object = file.pages.clone();
        let name = MapName::File(file.file.clone());
        for segment in &program.segments {
            self.map_segment(segment, bias, &object, &name)?;
        }
        let text = program.segments.iter().find(|s| s.permissions.exec).map_or(0..0, |s| {
            s.memory.start.wrapping_add(bias as u64)..s.memory.end.wrapping_add(bias as u64)
        });
        let headers = program.header_address.map_or(0, |address| address.wrapping_add(bias as u64));
        Ok(Loaded {
            bias,
            entry: header.entry.wrapping_add(bias as u64),
            headers,
            header_count: (header.program_headers.end - header.program_headers.start) / 56,
            memory: first.wrapping_add(bias)..last.wrapping_add(bias),
            text,
        })
    }

    fn map_segment(
        &self,
        segment: &Segment,
        bias: usize,
        object: &Arc<dyn Mappable>,
        name: &MapName,
    ) -> Result<(), ExecError> {
        let mut prot = Prot::empty();
        prot.set(Prot::READ, segment.permissions.read);
        prot.set(Prot::WRITE, segment.permissions.write);
        prot.set(Prot::EXEC, segment.permissions.exec);
        let skew = (segment.memory.start % PAGE_SIZE as u64) as usize;
        let start = (segment.memory.start as usize).wrapping_add(bias) - skew;
        let in_file = (segment.file.end - segment.file.start) as usize;
        let end = start + skew + (segment.memory.end - segment.memory.start) as usize;
        let file_end = start + skew + in_file;
        let mut anonymous = start;
        if in_file > 0 {
            anonymous = file_end.next_multiple_of(PAGE_SIZE);
            self.mm.mmap(MapRequest {
                at: start,
                len: file_end - start,
                prot,
                flags: MapFlags::FIXED_NOREPLACE,
                object: Some((object.clone(), segment.file.start - skew as u64)),
                name: Some(name.clone()),
            })?;
            // What follows in the last page belongs to the file; a program that may write it expects zeros.
            let tail = anonymous.min(end).saturating_sub(file_end);
            if segment.permissions.write && tail > 0 {
                self.mm.activate();
                // Touched here, the page need not fault in the copy.
                self.mm.populate(anonymous - PAGE_SIZE..anonymous, Prot::WRITE);
                if self.mm.fill_partial(file_end, 0, anonymous - file_end) < tail {
                    return Err(ExecError::not_executable("a segment of it cannot be loaded"));
                }
            }
        }
        if anonymous < end {
            self.mm.mmap(MapRequest {
                at: anonymous,
                len: end - anonymous,
                prot,
                flags: MapFlags::FIXED_NOREPLACE,
                object: None,
                name: None,
            })?;
        }
        Ok(())
    }
}

/// Path and optional argument of a script's interpreter.
type Script = (Vec<u8>, Option<Vec<u8>>);

/// The interpreter and its optional argument that a script's first line names.
fn script(line: &[u8]) -> Result<Option<Script>, ExecError> {
    let Some(rest) = line.strip_prefix(b"#!") else { return Ok(None) };
    let end = rest.iter().position(|&b| b == b'\n' || b == 0).unwrap_or(rest.len());
    let text = rest[..end].trim_ascii();
    if text.is_empty() {
        return Err(ExecError::not_executable("a script whose #! line names no interpreter"));
    }
    let split = text.iter().position(|b| b" \t".contains(b)).unwrap_or(text.len());
    let argument = text[split..].trim_ascii();
    Ok(Some((text[..split].to_vec(), (!argument.is_empty()).then(|| argument.to_vec()))))
}

fn random<P: Platform, const N: usize>(platform: &P) -> [u8; N] {
    let mut bytes = [0; N];
    platform.fill_random(&mut bytes);
    bytes
}

/// A random number of bytes below `limit` pages, in whole pages.
fn random_pages<P: Platform>(platform: &P, limit: u64) -> usize {
    (u64::from_le_bytes(random(platform)) % limit) as usize * PAGE_SIZE
}

/// A program in memory, ready to run.
struct Image<P: Platform> {
    mm: Arc<Mm<P>>,
    registers: Registers,
    program: Program,
}

/// Builds the program at `path` in `mm`, which is empty.
fn build<P: Platform>(
    process: &Process<P>,
    mm: Arc<Mm<P>>,
    path: &[u8],
    args: &[Vec<u8>],
    env: &[Vec<u8>],
) -> Result<Image<P>, ExecError> {
    let platform = process.platform();
    let fs = process.fs.lock().clone();
    let mut file = Executable::open(&fs, path)?;
    let mut args = Cow::Borrowed(args);
    let mut scripts = 0;
    while let Some((interpreter, argument)) = script(&file.read(0, SCRIPT_LINE)?)? {
        scripts += 1;
        if scripts > MAX_SCRIPTS {
            return Err(ExecError {
                errno: Errno::ELOOP,
                why: Cow::Borrowed("scripts that interpret each other"),
            });
        }
        // argv[0] gives way to the interpreter, its argument, and the script's path.
        let rest = args.iter().skip(1).cloned();
        args = core::iter::once(interpreter.clone())
            .chain(argument)
            .chain([file.path.clone()])
            .chain(rest)
            .collect();
        file = Executable::open(&fs, &interpreter)
            .map_err(|e| ExecError { why: Cow::Owned(format!("interpreter of a script: {}", e.why)), ..e })?;
    }
    mm.set_limits(process.memory_limits());
    let loader = Loader { mm: &mm };
    let (header, program) = loader.parse(&file)?;

    let user = platform.user_range();
    let top = user.end - random_pages(platform, 1 << 22);
    let stack = map_stack(&mm, top, program.executable_stack)?;

    let interpreter = match &program.interpreter {
        Some(range) => Some(interpreter(&file, range, &fs)?),
        None => None,
    };
    let base = DYNAMIC_BASE + random_pages(platform, 1 << 28);
    let loaded = loader.load(&file, &header, &program, base)?;
    let (entry, interpreter_base) = match &interpreter {
        Some(file) => {
            let in_interpreter = |e: ExecError| ExecError {
                why: Cow::Owned(format!("the ELF interpreter is {}", e.why)),
                ..e
            };
            let (header, program) = loader.parse(file).map_err(in_interpreter)?;
            let loaded = loader.load(file, &header, &program, 0).map_err(in_interpreter)?;
            (loaded.entry, loaded.bias as u64)
        }
        None => (loaded.entry, 0),
    };
    mm.set_brk_start(loaded.memory.end + random_pages(platform, 1 << 13));
    let vdso = vdso::map(&mm);

    let (hwcap, hwcap2) = platform.hwcap();
    let ids = &fs.credentials;
    let (uid, gid) = (u64::from(ids.uid), u64::from(ids.gid));
    let auxv = [
        (at::HWCAP, hwcap),
        (at::PAGESZ, PAGE_SIZE as u64),
        (at::CLKTCK, 100),
        (at::PHDR, loaded.headers),
        (at::PHENT, 56),
        (at::PHNUM, loaded.header_count),
        (at::BASE, interpreter_base),
        (at::FLAGS, 0),
        (at::ENTRY, loaded.entry),
        (at::UID, uid),
        (at::EUID, uid),
        (at::GID, gid),
        (at::EGID, gid),
        (at::SECURE, 0),
        (at::HWCAP2, hwcap2),
        (at::MINSIGSTKSZ, max_frame_size(platform) as u64),
        (at::SYSINFO_EHDR, vdso.unwrap_or_default() as u64),
    ];
    // Without a vDSO, no entry for it: the last.
    let count = auxv.len() - usize::from(vdso.is_none());
    let auxv = auxv.get(..count).unwrap_or_default();
    let image = InitialStack { args: &args, env, path, random: random(platform), auxv }.build(stack.end)?;
    mm.activate();
    mm.populate(image.rsp / PAGE_SIZE * PAGE_SIZE..stack.end, Prot::WRITE);
    if mm.write_partial(image.rsp, &image.bytes) != image.bytes.len() {
        return Err(Errno::E2BIG.into());
    }
    let registers = Registers { rip: entry, rsp: image.rsp as u64, rflags: 0x202, ..Registers::default() };
    let program = Program {
        exe: file.location.clone(),
        cmdline: image.part(&image.args),
        environ: image.part(&image.env),
        auxv: image.part(&image.auxv),
        start_code: loaded.text.start,
        end_code: loaded.text.end,
        start_stack: image.rsp as u64,
    };
    Ok(Image { mm, registers, program })
}

/// Opens the interpreter that PT_INTERP names.
fn interpreter(file: &Executable, range: &Range<u64>, fs: &FsContext) -> Result<Executable, ExecError> {
    let mut path = file.read(range.start, (range.end - range.start) as usize)?;
    if path.pop() != Some(0) || path.contains(&0) || path.is_empty() {
        return Err(ExecError::not_executable("an ELF file with an impossible interpreter path"));
    }
    Executable::open(fs, &path).map_err(|e| match e.errno {
        Errno::ENOENT | Errno::ENOTDIR => ExecError {
            why: Cow::Owned(format!(
                "it is dynamically linked, and its interpreter {} is not in the workload image: link it statically, or give the \
                 root file system that it needs with --rootfs",
                String::from_utf8_lossy(&path)
            )),
            ..e
        },
        _ => ExecError { why: Cow::Owned(format!("its interpreter {}", e.why)), ..e },
    })
}

/// Maps the stack below `top`; the range that is mapped at first.
fn map_stack<P: Platform>(mm: &Mm<P>, top: usize, executable: bool) -> Result<Range<usize>, ExecError> {
    // Room below for the initial strings at least: they can be 2 MiB.
    let len = STACK_START.max(super::stack::MAX_STRINGS + (256 << 10));
    let mut prot = Prot::READ | Prot::WRITE;
    prot.set(Prot::EXEC, executable);
    let start = top - len;
    mm.mmap(MapRequest {
        at: start,
        len,
        prot,
        // Large pages would take 2 MiB where most programs use a few KiB.
        flags: MapFlags::FIXED_NOREPLACE | MapFlags::GROWS_DOWN | MapFlags::NO_HUGE,
        object: None,
        name: Some(MapName::Special("[stack]")),
    })?;
    Ok(start..top)
}

/// The last component of a path: a thread's name after exec.
fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}

/// Makes a thread of `process` that will run the program at `path`, in the empty memory `mm`, from the returned registers on. `caller`, a thread of the
/// process if it has any, becomes that thread, and all others end. The memory of the calling thread is the new one then; after an error it must be
/// activated again.
pub fn execute<P: Platform>(
    process: &Arc<Process<P>>,
    mm: Arc<Mm<P>>,
    caller: Option<&Thread<P>>,
    path: &[u8],
    args: &[Vec<u8>],
    env: &[Vec<u8>],
    signals: ThreadSignals,
) -> Result<(Arc<Thread<P>>, Registers), ExecError> {
    let image = build(process, mm, path, args, env)?;
    if let Some(caller) = caller {
        process.keep_only(caller)?;
    }
    let closed = process.fds.lock().take_close_on_exec();
    drop(closed);
    process.signals.lock().reset_handlers();
    process.timers.clear_posix();
    *process.mm.write() = image.mm.clone();
    *process.program.lock() = Some(image.program);
    process.executed.store(true, Ordering::Relaxed);
    process.exit_signal.store(sig::CHLD, Ordering::Relaxed);
    process.give_memory_back();
    let platform = process.platform();
    let thread = Thread::new(process, image.mm, process.pid(), base_name(path));
    *thread.signals.lock() = signals.for_exec();
    platform.reset_fpu();
    platform.set_fs_base(0);
    platform.set_gs_base(0);
    Ok((thread, image.registers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_lines() {
        let parse = |line: &[u8]| script(line).unwrap();
        assert_eq!(parse(b"\x7fELF"), None);
        assert_eq!(parse(b"#!/bin/sh\necho"), Some((b"/bin/sh".to_vec(), None)));
        assert_eq!(
            parse(b"#! /usr/bin/env  python3 -u \n"),
            Some((b"/usr/bin/env".to_vec(), Some(b"python3 -u".to_vec())))
        );
        assert!(script(b"#!  \n").is_err());
    }
}
