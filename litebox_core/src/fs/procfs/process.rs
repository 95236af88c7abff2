//! Files of /proc about one process or thread.

use super::super::pseudo::{Pseudo, PseudoDir};
use super::super::{File, FileType, Location, OpenFile};
use super::system::TICK_NS;
use super::{Proc, ProcInfo, ProcProcess, number};
use crate::errno::{Errno, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

const FILES: [&str; 17] = [
    "auxv",
    "cgroup",
    "cmdline",
    "comm",
    "environ",
    "limits",
    "maps",
    "mountinfo",
    "mounts",
    "oom_score",
    "oom_score_adj",
    "smaps",
    "stat",
    "statm",
    "status",
    "loginuid",
    "wchan",
];
const LINKS: [&str; 3] = ["cwd", "exe", "root"];
const DIRS: [&str; 2] = ["fd", "fdinfo"];

/// `/proc/PID`, or `/proc/PID/task/TID`.
pub(super) fn directory(proc: Proc, pid: u32, tid: Option<u32>) -> Pseudo {
    Pseudo::Dir(Arc::new(Dir { proc, pid, tid }))
}

#[derive(Clone)]
struct Dir {
    proc: Proc,
    pid: u32,
    /// A thread's directory, which has no `task`.
    tid: Option<u32>,
}

impl Dir {
    fn process(&self) -> Option<Arc<dyn ProcProcess>> {
        self.proc.source.process(self.pid)
    }
}

impl PseudoDir for Dir {
    fn lookup(&self, name: &[u8]) -> Option<Pseudo> {
        let dir = self.clone();
        match name {
            b"task" if self.tid.is_none() => return Some(Pseudo::Dir(Arc::new(Tasks(dir)))),
            b"fd" => return Some(Pseudo::Dir(Arc::new(Descriptors { dir, info: false }))),
            b"fdinfo" => return Some(Pseudo::Dir(Arc::new(Descriptors { dir, info: true }))),
            b"cwd" | b"exe" | b"root" => return link(self, name),
            _ => {}
        }
        let name = FILES.iter().find(|file| file.as_bytes() == name)?;
        let store: Option<super::super::pseudo::Store> = match *name {
            "comm" => {
                let dir = self.clone();
                Some(Box::new(move |text| {
                    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
                    let process = dir.process().ok_or(Errno::ESRCH)?;
                    process.set_comm(
                        dir.tid.unwrap_or(dir.pid),
                        line.get(..line.len().min(15)).unwrap_or_default(),
                    );
                    Ok(())
                }))
            }
            // Nothing is killed for memory here, so any adjustment is as good.
            "oom_score_adj" => Some(Box::new(|_| Ok(()))),
            _ => None,
        };
        Some(Pseudo::File(Box::new(move || text(&dir, name)), store))
    }

    fn list(&self) -> Vec<(Vec<u8>, FileType)> {
        let kind = |file_type| move |name: &&str| (name.as_bytes().to_vec(), file_type);
        let mut names: Vec<_> = FILES.iter().map(kind(FileType::Regular)).collect();
        names.extend(LINKS.iter().map(kind(FileType::Symlink)));
        names.extend(DIRS.iter().map(kind(FileType::Directory)));
        if self.tid.is_none() {
            names.push((b"task".to_vec(), FileType::Directory));
        }
        names
    }
}

fn link(dir: &Dir, name: &[u8]) -> Option<Pseudo> {
    let process = dir.process()?;
    let context = process.fs();
    let place = match name {
        b"exe" => process.exe()?,
        b"cwd" => context.cwd.clone(),
        _ => context.root.clone(),
    };
    let text = place.path(&context.root);
    Some(Pseudo::Magic(Box::new(move || Some(place.clone())), text))
}

struct Tasks(Dir);

impl PseudoDir for Tasks {
    fn lookup(&self, name: &[u8]) -> Option<Pseudo> {
        let tid = number(name)?;
        self.0.process()?.info(tid)?;
        Some(directory(self.0.proc.clone(), self.0.pid, Some(tid)))
    }

    fn list(&self) -> Vec<(Vec<u8>, FileType)> {
        let tids = self.0.process().map(|process| process.tids()).unwrap_or_default();
        tids.iter().map(|tid| (format!("{tid}").into_bytes(), FileType::Directory)).collect()
    }
}

/// `fd` or `fdinfo`.
struct Descriptors {
    dir: Dir,
    info: bool,
}

impl PseudoDir for Descriptors {
    fn lookup(&self, name: &[u8]) -> Option<Pseudo> {
        let wanted = number(name)?;
        let process = self.dir.process()?;
        let (_, open, close_on_exec) = process.descriptors().into_iter().find(|(fd, ..)| *fd == wanted)?;
        if self.info {
            let flags = open.flags().bits() | if close_on_exec { 0o2000000 } else { 0 };
            let mount = open.location().map_or(0, |place| place.mount.id);
            let ino = open.metadata().map_or(0, |metadata| metadata.ino);
            let text =
                format!("pos:\t{}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{ino}\n", open.offset());
            return Some(super::file(move || text.clone()));
        }
        let context = process.fs();
        match open.location().cloned() {
            Some(place) => {
                let text = place.path(&context.root);
                Some(Pseudo::Magic(Box::new(move || Some(place.clone())), text))
            }
            None => {
                let file: Arc<dyn File> = open.file().ok()?.clone();
                Some(Pseudo::Open(file, anonymous_name(&open)))
            }
        }
    }

    fn list(&self) -> Vec<(Vec<u8>, FileType)> {
        let file_type = if self.info { FileType::Regular } else { FileType::Symlink };
        let open = self.dir.process().map(|process| process.descriptors()).unwrap_or_default();
        open.iter().map(|(fd, ..)| (format!("{fd}").into_bytes(), file_type)).collect()
    }
}

/// `pipe:[7]` and the like.
fn anonymous_name(open: &OpenFile) -> Vec<u8> {
    let Ok(metadata) = open.metadata() else { return b"anon_inode:[unknown]".to_vec() };
    match metadata.file_type {
        FileType::Fifo => format!("pipe:[{}]", metadata.ino),
        FileType::Socket => format!("socket:[{}]", metadata.ino),
        FileType::CharDevice => "/dev/console".into(),
        FileType::Regular => "/memfd: (deleted)".into(),
        _ => "anon_inode:[unknown]".into(),
    }
    .into_bytes()
}

fn text(dir: &Dir, name: &str) -> Result<Vec<u8>> {
    let process = dir.process().ok_or(Errno::ESRCH)?;
    let info = process.info(dir.tid.unwrap_or(dir.pid)).ok_or(Errno::ESRCH)?;
    let text = match name {
        "auxv" => return Ok(process.auxv()),
        "cmdline" => return Ok(process.cmdline()),
        "environ" => return Ok(process.environ()),
        "maps" => return Ok(maps(&*process, false)),
        "smaps" => return Ok(maps(&*process, true)),
        "comm" => return Ok([&info.comm[..], b"\n"].concat()),
        "mounts" => return Ok(mounts(&*process, false)),
        "mountinfo" => return Ok(mounts(&*process, true)),
        "cgroup" => "0::/\n".into(),
        "oom_score" | "oom_score_adj" | "wchan" => "0\n".into(),
        "loginuid" => "4294967295".into(),
        "limits" => limits(&*process),
        "stat" => stat(dir, &info),
        "statm" => {
            let (size, resident) = (info.virtual_bytes / 4096, info.resident_bytes / 4096);
            format!("{size} {resident} 0 0 0 {size} 0\n")
        }
        "status" => status(dir, &info, process.fs().umask, process.descriptors().len()),
        _ => return Err(Errno::ENOENT),
    };
    Ok(text.into_bytes())
}

/// `proc_pid_stat(5)`: 52 fields.
fn stat(dir: &Dir, info: &ProcInfo) -> String {
    let id = dir.tid.unwrap_or(dir.pid);
    let comm = String::from_utf8_lossy(&info.comm);
    let (user, system, start) = (info.user_ns / TICK_NS, info.system_ns / TICK_NS, info.start_ns / TICK_NS);
    let head =
        format!("{id} ({comm}) {} {} {} {} 0 -1 4194304 0 0 0 0", info.state, info.ppid, info.pgid, info.sid);
    let times = format!("{user} {system} 0 0 20 0 {} 0 {start}", info.threads);
    let (size, resident) = (info.virtual_bytes, info.resident_bytes / 4096);
    let memory = format!(
        "{size} {resident} {} {} {} {} 0 0",
        u64::MAX,
        info.start_code,
        info.end_code,
        info.start_stack
    );
    let mask = i64::MAX as u64;
    let (pending, blocked) = (info.signals_pending & mask, info.signals_blocked & mask);
    let signals =
        format!("{pending} {blocked} {} {}", info.signals_ignored & mask, info.signals_caught & mask);
    format!("{head} {times} {memory} {signals} 0 0 0 17 0 0 0 0 0 0 0 0 {} 0 0 0 0 0\n", info.start_brk)
}

fn status(dir: &Dir, info: &ProcInfo, umask: u32, descriptors: usize) -> String {
    let state = match info.state {
        'R' => "R (running)",
        'T' => "T (stopped)",
        'Z' => "Z (zombie)",
        _ => "S (sleeping)",
    };
    let (uid, gid) = (info.uid, info.gid);
    let (size, resident) = (info.virtual_bytes / 1024, info.resident_bytes / 1024);
    let capabilities: u64 = if uid == 0 { 0x1ff_ffff_ffff } else { 0 };
    let table = (descriptors.max(64)).next_power_of_two();
    format!(
        "Name:\t{}\nUmask:\t{umask:04o}\nState:\t{state}\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t0\n\
         Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\nFDSize:\t{table}\nGroups:\t \n\
         VmPeak:\t{size:>8} kB\nVmSize:\t{size:>8} kB\nVmLck:\t       0 kB\nVmHWM:\t{resident:>8} kB\n\
         VmRSS:\t{resident:>8} kB\nVmSwap:\t       0 kB\nThreads:\t{}\nSigQ:\t0/0\nSigPnd:\t{:016x}\n\
         ShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\nCapInh:\t{:016x}\n\
         CapPrm:\t{capabilities:016x}\nCapEff:\t{capabilities:016x}\nCapBnd:\t{capabilities:016x}\nCapAmb:\t{:016x}\n\
         NoNewPrivs:\t0\nSeccomp:\t0\nCpus_allowed:\t1\nCpus_allowed_list:\t0\nMems_allowed:\t1\n\
         Mems_allowed_list:\t0\nvoluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n",
        String::from_utf8_lossy(&info.comm),
        dir.pid,
        dir.tid.unwrap_or(dir.pid),
        info.ppid,
        info.threads,
        info.signals_pending,
        0,
        info.signals_blocked,
        info.signals_ignored,
        info.signals_caught,
        0,
        0,
    )
}

/// `proc_pid_maps(5)`, `proc_pid_smaps(5)`.
fn maps(process: &dyn ProcProcess, details: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for mapping in process.mappings() {
        let flag = |on, letter| if on { letter } else { '-' };
        let line = format!(
            "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
            mapping.range.start,
            mapping.range.end,
            flag(mapping.read, 'r'),
            flag(mapping.write, 'w'),
            flag(mapping.exec, 'x'),
            if mapping.shared { 's' } else { 'p' },
            mapping.offset,
            mapping.dev.major(),
            mapping.dev.minor(),
            mapping.ino,
        );
        out.extend_from_slice(line.as_bytes());
        if !mapping.name.is_empty() {
            // The name begins in column 74.
            out.resize(out.len() + 73usize.saturating_sub(line.len()), b' ');
            out.extend_from_slice(&mapping.name);
        }
        out.push(b'\n');
        if details {
            let (size, resident) = (mapping.range.len() as u64 / 1024, mapping.resident / 1024);
            let (clean, dirty) = if mapping.write { (0, resident) } else { (resident, 0) };
            let lines = [
                ("Size", size),
                ("KernelPageSize", 4),
                ("MMUPageSize", 4),
                ("Rss", resident),
                ("Pss", resident),
                ("Shared_Clean", 0),
                ("Shared_Dirty", 0),
                ("Private_Clean", clean),
                ("Private_Dirty", dirty),
                ("Referenced", resident),
                ("Anonymous", dirty),
                ("AnonHugePages", 0),
                ("Swap", 0),
                ("Locked", 0),
            ];
            for (name, value) in lines {
                out.extend_from_slice(format!("{:<16}{value:>8} kB\n", format!("{name}:")).as_bytes());
            }
        }
    }
    out
}

/// `proc_pid_mounts(5)`, `proc_pid_mountinfo(5)`.
fn mounts(process: &dyn ProcProcess, info: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let root = process.fs().root.clone();
    for mount in process.mounts().all() {
        let place = Location { mount: mount.clone(), inode: mount.root.clone() };
        let at = String::from_utf8_lossy(&place.path(&root)).into_owned();
        let (kind, options) = (mount.kind, mount.options);
        let line = if info {
            let dev = mount.root.metadata().map(|metadata| metadata.dev).unwrap_or_default();
            let parent = mount.over().map_or(0, |over| over.mount.id);
            let (id, major, minor) = (mount.id, dev.major(), dev.minor());
            format!("{id} {parent} {major}:{minor} / {at} {options},relatime - {kind} {kind} {options}\n")
        } else {
            format!("{kind} {at} {kind} {options},relatime 0 0\n")
        };
        out.extend_from_slice(line.as_bytes());
    }
    out
}

/// `getrlimit(2)` in the order of `RLIMIT_*`, as fs/proc/base.c names them.
const LIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

fn limits(process: &dyn ProcProcess) -> String {
    let value = |limit: u64| if limit == u64::MAX { "unlimited".into() } else { format!("{limit}") };
    let mut out = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for ((name, unit), (soft, hard)) in LIMITS.iter().zip(process.limits()) {
        out += &format!("{name:<25} {:<20} {:<20} {unit:<10}\n", value(soft), value(hard));
    }
    out
}
