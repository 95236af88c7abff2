//! What lies in the memory of the program that the target `syscalls` plays: paths and structures, since a fuzzer takes long to find
//! one. They can be written over.

/// Where the memory is.
pub const MEMORY: u64 = 0x2000_0000;
/// Bytes of a path or structure.
pub const SLOT: u64 = 32;
/// Where the paths begin, from the memory's beginning.
pub const PATHS: u64 = 4096;
/// Where the structures begin, likewise.
pub const STRUCTURES: u64 = 4096 + 64 * SLOT;

/// The paths, by slot.
pub const NAMES: [&str; 46] = [
    "/tmp/a",
    "/tmp/b",
    "/tmp/d",
    "/tmp/d/a",
    "a",
    "d",
    ".",
    "..",
    "/",
    "/tmp",
    "",
    "/tmp/l",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/tty",
    "/dev/stdin",
    "/dev/fd/3",
    "/proc/self/maps",
    "/proc/self/status",
    "/proc/self/stat",
    "/proc/self/fd",
    "/proc/self/fd/3",
    "/proc/self/exe",
    "/proc/self/cwd",
    "/proc/self/mem",
    "/proc/self/limits",
    "/proc/self/mountinfo",
    "/proc/self/oom_score_adj",
    "/proc/self/comm",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/uptime",
    "/proc/mounts",
    "/proc",
    "/dev",
    "/sys/devices/system/cpu",
    "/sys/devices/system/cpu/online",
    "/proc/sys/kernel/random/uuid",
    "/proc/self/smaps",
    "/proc/self/environ",
    "/proc/self/auxv",
    "/proc/self",
    "/proc/self/task",
    "user.name",
];

/// The structures, as words.
const WORDS: [[u64; 4]; 24] = [
    // 0, 1: a timespec of a millisecond, one of five seconds.
    [0, 1_000_000, 0, 0],
    [5, 0, 5, 0],
    // 2, 3: iovecs.
    [MEMORY, 100, MEMORY + 0x100, 0x700],
    [MEMORY, 10, 8, 20],
    // 4, 5: pollfds: 3 and 4, 0 and none.
    [3 | 5 << 32, 4 | 5 << 32, 1 << 32, 0xffff_ffff | 5 << 32],
    [1 << 32, 9 | 1 << 32, 0, 0],
    // 6: a set with SIGUSR1.
    [1 << 9, 0, 0, 0],
    // 7, 8: sigactions: ignore; a handler.
    [1, 0, 0, 0],
    [0x1000, 4, 0x1000, 0],
    // 9: a flock for writing of ten bytes.
    [1, 0, 10, 0],
    // 10, 11: open_hows: confined; creating, in a root.
    [0, 0, 8, 0],
    [0o102, 0o600, 16, 0],
    // 12: limits.
    [4096, 8192, 0, 0],
    // 13: two timevals.
    [0, 1000, 0, 1000],
    // 14: an offset.
    [5, 0, 0, 0],
    // 15: argv or envp.
    [MEMORY + PATHS, MEMORY + PATHS + SLOT, 0, 0],
    // 16: an fd_set.
    [0x3f, 0, 0, 0],
    // 17: a capability header.
    [0x2008_0522, 0, 0, 0],
    // 18: pselect6's set.
    [MEMORY + STRUCTURES + 6 * SLOT, 8, 0, 0],
    // 19: an alternate stack.
    [MEMORY, 0, 4096, 0],
    // 20: times: now, and kept as it is.
    [0, 0x3fff_ffff, 0, 0x3fff_fffe],
    // 21: a window size.
    [80 | 25 << 16, 0, 0, 0],
    // 22, 23: numbers.
    [1, 2, 3, 4],
    [u64::MAX, 0, u64::MAX, 0],
];

/// The memory, of two pages.
pub fn memory() -> Vec<u8> {
    let mut memory = vec![0; 8192];
    for (i, name) in NAMES.iter().enumerate() {
        let at = PATHS as usize + i * SLOT as usize;
        memory[at..at + name.len()].copy_from_slice(name.as_bytes());
    }
    for (i, word) in WORDS.iter().flatten().enumerate() {
        let at = STRUCTURES as usize + 8 * i;
        memory[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    memory
}
