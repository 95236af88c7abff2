//! Files of /proc about the machine.

use super::super::FileType;
use super::super::pseudo::{Pseudo, PseudoDir};
use super::{Proc, file};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

const FILES: [&str; 11] = [
    "cgroups",
    "cmdline",
    "cpuinfo",
    "filesystems",
    "loadavg",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "version",
    "vmstat",
];
/// What lies below /proc/sys.
const SYSCTLS: [&str; 14] = [
    "fs/file-max",
    "fs/nr_open",
    "fs/pipe-max-size",
    "kernel/hostname",
    "kernel/osrelease",
    "kernel/ostype",
    "kernel/pid_max",
    "kernel/random/boot_id",
    "kernel/random/uuid",
    "kernel/threads-max",
    "kernel/ngroups_max",
    "net/core/somaxconn",
    "vm/max_map_count",
    "vm/overcommit_memory",
];
/// Clock ticks of 1/100 s (`sysconf(_SC_CLK_TCK)`).
pub(super) const TICK_NS: u64 = 10_000_000;

pub(super) fn names() -> Vec<(Vec<u8>, FileType)> {
    let files = FILES.iter().map(|name| (name.as_bytes().to_vec(), FileType::Regular));
    files.chain([(b"sys".to_vec(), FileType::Directory)]).collect()
}

pub(super) fn lookup(proc: &Proc, name: &[u8]) -> Option<Pseudo> {
    if name == b"sys" {
        return Some(Pseudo::Dir(Arc::new(Sysctl { proc: proc.clone(), prefix: "" })));
    }
    let name = FILES.iter().find(|file| file.as_bytes() == name)?;
    let proc = proc.clone();
    Some(file(move || text(&proc, name)))
}

fn text(proc: &Proc, name: &str) -> String {
    let host = proc.host;
    let uptime = host.monotonic();
    let seconds = |ns: u64| format!("{}.{:02}", ns / 1_000_000_000, ns / TICK_NS % 100);
    match name {
        "cgroups" => "#subsys_name\thierarchy\tnum_cgroups\tenabled\n".into(),
        "cmdline" => "\n".into(),
        "cpuinfo" => (0..host.cpu_count()).map(|index| host.cpuinfo(index)).collect(),
        "filesystems" => "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\n".into(),
        "loadavg" => format!("0.00 0.00 0.00 1/{} {}\n", proc.source.pids().len(), proc.source.current().0),
        "meminfo" => meminfo(proc),
        "stat" => {
            let ticks = uptime / TICK_NS;
            let boot = host.realtime().saturating_sub(uptime) / 1_000_000_000;
            let mut text = format!("cpu  {ticks} 0 0 0 0 0 0 0 0 0\n");
            for index in 0..host.cpu_count() {
                text += &format!("cpu{index} {ticks} 0 0 0 0 0 0 0 0 0\n");
            }
            let running = proc.source.pids().len();
            text + &format!(
                "intr 0\nctxt 0\nbtime {boot}\nprocesses {running}\nprocs_running 1\nprocs_blocked 0\n"
            )
        }
        "swaps" => "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".into(),
        "uptime" => format!("{} 0.00\n", seconds(uptime)),
        "version" => format!("Linux version {} (litebox) #1 SMP\n", proc.source.release()),
        "vmstat" => format!("nr_free_pages {}\n", host.pages().free_pages()),
        _ => String::new(),
    }
}

fn meminfo(proc: &Proc) -> String {
    let kib = |pages: usize| pages as u64 * 4;
    let pages = proc.host.pages();
    let (total, free) = (kib(pages.total_pages()), kib(pages.free_pages()));
    let mut text = String::new();
    let lines = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Shmem", 0),
        ("Slab", 0),
        ("CommitLimit", total),
        ("Committed_AS", total - free.min(total)),
        ("AnonHugePages", 0),
        ("Hugepagesize", 2048),
    ];
    for (name, value) in lines {
        text += &format!("{:<15} {value:>8} kB\n", format!("{name}:"));
    }
    text
}

/// A directory of /proc/sys.
struct Sysctl {
    proc: Proc,
    prefix: &'static str,
}

impl PseudoDir for Sysctl {
    fn lookup(&self, name: &[u8]) -> Option<Pseudo> {
        for path in SYSCTLS {
            let Some(rest) = path.strip_prefix(self.prefix) else { continue };
            let (first, more) = rest.split_once('/').map_or((rest, false), |(first, _)| (first, true));
            if first.as_bytes() != name {
                continue;
            }
            let proc = self.proc.clone();
            if more {
                let prefix = path.get(..self.prefix.len() + first.len() + 1)?;
                return Some(Pseudo::Dir(Arc::new(Sysctl { proc, prefix })));
            }
            return Some(file(move || sysctl(&proc, path)));
        }
        None
    }

    fn list(&self) -> Vec<(Vec<u8>, FileType)> {
        let mut names: Vec<(Vec<u8>, FileType)> = Vec::new();
        for rest in SYSCTLS.iter().filter_map(|path| path.strip_prefix(self.prefix)) {
            let (name, file_type) = match rest.split_once('/') {
                Some((name, _)) => (name, FileType::Directory),
                None => (rest, FileType::Regular),
            };
            if !names.iter().any(|(known, _)| known == name.as_bytes()) {
                names.push((name.as_bytes().to_vec(), file_type));
            }
        }
        names
    }
}

fn sysctl(proc: &Proc, path: &str) -> String {
    match path {
        "fs/file-max" => "9223372036854775807\n".into(),
        "fs/nr_open" => format!("{}\n", crate::fd::NR_OPEN),
        "fs/pipe-max-size" => "1048576\n".into(),
        "kernel/hostname" => format!("{}\n", String::from_utf8_lossy(&proc.source.hostname())),
        "kernel/osrelease" => format!("{}\n", proc.source.release()),
        "kernel/ostype" => "Linux\n".into(),
        "kernel/pid_max" => "4194304\n".into(),
        "kernel/random/boot_id" => {
            static BOOT_ID: spin::Once<String> = spin::Once::new();
            BOOT_ID.call_once(|| uuid(proc)).clone()
        }
        "kernel/random/uuid" => uuid(proc),
        "kernel/threads-max" => "65536\n".into(),
        "kernel/ngroups_max" => "65536\n".into(),
        "net/core/somaxconn" => "4096\n".into(),
        "vm/max_map_count" => "65530\n".into(),
        "vm/overcommit_memory" => "0\n".into(),
        _ => String::new(),
    }
}

/// A random UUID (RFC 9562, version 4).
fn uuid(proc: &Proc) -> String {
    let mut bytes = [0; 16];
    proc.host.fill_random(&mut bytes);
    let raw = u128::from_be_bytes(bytes) & !(0xf << 76 | 0x3 << 62) | 4 << 76 | 2 << 62;
    let hex = format!("{raw:032x}");
    let part = |range| hex.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}\n", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}
