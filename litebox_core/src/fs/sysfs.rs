//! `/sys`: the few files that C libraries and language runtimes look for.

use super::pseudo::{Pseudo, PseudoDir, root};
use super::{DeviceId, FileType, Host, Inode};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// `SYSFS_MAGIC`.
const MAGIC: u64 = 0x6265_6572;
/// Path and contents; `None`: the range of CPUs.
const FILES: [(&str, Option<&str>); 6] = [
    ("devices/system/cpu/online", None),
    ("devices/system/cpu/possible", None),
    ("devices/system/cpu/present", None),
    ("devices/system/clocksource/clocksource0/current_clocksource", Some("tsc\n")),
    ("kernel/mm/transparent_hugepage/enabled", Some("always [madvise] never\n")),
    ("kernel/mm/transparent_hugepage/hpage_pmd_size", Some("2097152\n")),
];

/// The directory at `prefix`, which ends with a slash unless it is the root.
struct Dir {
    prefix: &'static str,
    cpus: usize,
}

/// The root of /sys.
pub fn sys_tree(host: &'static dyn Host) -> Arc<dyn Inode> {
    root(host, DeviceId::new(0, 23), MAGIC, Arc::new(Dir { prefix: "", cpus: host.cpu_count() }))
}

impl Dir {
    /// What comes below here: the paths, without the prefix.
    fn below(&self) -> impl Iterator<Item = (&'static str, &'static str, Option<&'static str>)> {
        FILES.iter().filter_map(|(path, text)| Some((*path, path.strip_prefix(self.prefix)?, *text)))
    }
}

impl PseudoDir for Dir {
    fn lookup(&self, name: &[u8]) -> Option<Pseudo> {
        for (path, rest, text) in self.below() {
            let (first, more) = rest.split_once('/').map_or((rest, false), |(first, _)| (first, true));
            if first.as_bytes() != name {
                continue;
            }
            if more {
                let prefix = path.get(..self.prefix.len() + first.len() + 1)?;
                return Some(Pseudo::Dir(Arc::new(Dir { prefix, cpus: self.cpus })));
            }
            let last = self.cpus.saturating_sub(1);
            let cpus = if last == 0 { alloc::string::String::from("0\n") } else { format!("0-{last}\n") };
            let text = text.map_or(cpus.into_bytes(), |text| text.as_bytes().to_vec());
            return Some(Pseudo::File(Box::new(move || Ok(text.clone())), None));
        }
        None
    }

    fn list(&self) -> Vec<(Vec<u8>, FileType)> {
        let mut names: Vec<(Vec<u8>, FileType)> = Vec::new();
        for (_, rest, _) in self.below() {
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
