//! What a host needs to run an SNP guest, looked at fact by fact: for `doctor`, for `--platform snp`, and for the choice of `auto`.
//!
//! None of it has ever been seen on SNP silicon. Sources: Linux `Documentation/virt/kvm/x86/amd-memory-encryption.rst` and
//! `arch/x86/kvm/svm/sev.c` (`sev_snp` of `kvm_amd`); QEMU `docs/system/igvm.rst` and `docs/system/i386/amd-memory-encryption.rst`.

pub mod vmm;

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;

use crate::{host, qemu};

/// The first QEMU that loads IGVM files.
const QEMU_NEEDED: (u32, u32) = (10, 1);

/// What was found, before it is judged.
#[derive(Clone, Debug)]
struct Host {
    /// The text of `/proc/cpuinfo`.
    cpuinfo: String,
    /// The parameter `sev_snp` of `kvm_amd`; empty where there is none.
    parameter: String,
    /// Whether the PSP's device and KVM's are there and can be opened, or why not.
    sev: Result<(), String>,
    kvm: Result<(), String>,
    /// QEMU's version, and the objects that it knows.
    qemu: Option<(String, String)>,
}

/// One thing that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What.
    pub name: &'static str,
    /// It is there.
    pub good: bool,
    /// In words.
    pub value: String,
    /// What to do where it is not.
    pub advice: &'static str,
}

/// Looks at this host, and at a QEMU if there is one.
pub fn look(qemu: Option<&Path>) -> Vec<Found> {
    judge(&Host::of_this_machine(qemu))
}

/// Whether an SNP guest can be run here. QEMU is asked only where the machine could: that costs two of its starts.
pub fn is_usable(qemu: &Path) -> bool {
    usable(&judge_machine(&Host::of_this_machine(None))).is_ok() && usable(&look(Some(qemu))).is_ok()
}

/// Whether an SNP guest can be run here; else everything that is missing, in words.
///
/// # Errors
/// Something is missing.
pub fn usable(found: &[Found]) -> Result<(), String> {
    let missing: Vec<String> = found
        .iter()
        .filter(|fact| !fact.good)
        .map(|fact| format!("{}: {} ({})", fact.name, fact.value, fact.advice))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(missing.join("\n  ")) }
}

impl Host {
    fn of_this_machine(qemu: Option<&Path>) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let open = |path: &str| {
            OpenOptions::new().read(true).write(true).open(path).map(drop).map_err(|error| error.to_string())
        };
        let qemu = qemu.and_then(|path| {
            let objects = host::output_of(Command::new(path).args(["-object", "help"]));
            Some((qemu::version(path)?, objects.unwrap_or_default()))
        });
        Self {
            cpuinfo: read("/proc/cpuinfo"),
            parameter: read("/sys/module/kvm_amd/parameters/sev_snp").trim().to_owned(),
            sev: open("/dev/sev"),
            kvm: open("/dev/kvm"),
            qemu,
        }
    }
}

fn judge(host: &Host) -> Vec<Found> {
    judge_machine(host).into_iter().chain(judge_qemu(host.qemu.as_ref())).collect()
}

fn judge_machine(host: &Host) -> [Found; 4] {
    let flags = host.cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let model = host.cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    let snp = flags.split_whitespace().any(|flag| flag == "sev_snp");
    let device = |device: &Result<(), String>, path: &str| match device {
        Ok(()) => (true, format!("{path} can be opened")),
        Err(why) => (false, format!("{path}: {why}")),
    };
    let (sev, sev_value) = device(&host.sev, "/dev/sev");
    let (kvm, kvm_value) = device(&host.kvm, "/dev/kvm");
    [
        Found {
            name: "SNP in the CPU",
            good: snp,
            value: format!("{}: {}", model, if snp { "sev_snp" } else { "no flag sev_snp in /proc/cpuinfo" }),
            advice: "an AMD EPYC 7003 or newer, with SEV-SNP and the RMP table on in the firmware's setup",
        },
        Found {
            name: "SNP in KVM",
            good: matches!(host.parameter.as_str(), "Y" | "1"),
            value: match host.parameter.as_str() {
                "" => "kvm_amd has no parameter sev_snp".into(),
                value => format!("kvm_amd.sev_snp is {value}"),
            },
            advice: "Linux 6.11 or newer, with kvm_amd.sev_snp=1 and the IOMMU on",
        },
        Found {
            name: "PSP",
            good: sev,
            value: sev_value,
            advice: "the module ccp, and the right to open it",
        },
        Found { name: "KVM device", good: kvm, value: kvm_value, advice: "the group kvm" },
    ]
}

fn judge_qemu(qemu: Option<&(String, String)>) -> [Found; 3] {
    let (version, objects) = match qemu {
        Some((version, objects)) => (version.as_str(), objects.as_str()),
        None => ("absent", ""),
    };
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let object = |name| objects.lines().any(|line| line.trim() == name);
    let known = |is| if is { "known to" } else { "not known to" };
    let (igvm, guest) = (object("igvm-cfg"), object("sev-snp-guest"));
    [
        Found {
            name: "QEMU for SNP",
            good: number >= QEMU_NEEDED,
            value: version.to_owned(),
            advice: "QEMU 10.1 or newer; the variable QEMU names one that is not along PATH",
        },
        Found {
            name: "IGVM in QEMU",
            good: igvm,
            value: format!("igvm-cfg is {} this QEMU", known(igvm)),
            advice: "a QEMU built with libigvm (--enable-igvm), which distributions may leave out",
        },
        Found {
            name: "SNP in QEMU",
            good: guest,
            value: format!("sev-snp-guest is {} this QEMU", known(guest)),
            advice: "a QEMU built with SEV",
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Host {
        Host {
            cpuinfo:
                "processor\t: 0\nmodel name\t: AMD EPYC 9354P\nflags\t\t: fpu sev sev_es sev_snp debug_swap\n"
                    .into(),
            parameter: "Y".into(),
            sev: Ok(()),
            kvm: Ok(()),
            qemu: Some((
                "10.1.0".into(),
                "List of user creatable objects:\n  igvm-cfg\n  sev-snp-guest\n".into(),
            )),
        }
    }

    fn missing(host: &Host) -> Vec<&'static str> {
        judge(host).into_iter().filter(|found| !found.good).map(|found| found.name).collect()
    }

    #[test]
    fn a_host_that_has_everything_is_usable() {
        assert_eq!(missing(&good()), [""; 0]);
        assert_eq!(usable(&judge(&good())), Ok(()));
    }

    #[test]
    fn each_thing_that_is_missing_is_named_with_what_to_do() {
        let objects = |text: &str| Some(("11.1.3".to_owned(), text.to_owned()));
        for (host, name) in [
            (Host { cpuinfo: "flags : sev sev_es".into(), ..good() }, "SNP in the CPU"),
            (Host { cpuinfo: "flags : sev_snp_other".into(), ..good() }, "SNP in the CPU"),
            (Host { parameter: "N".into(), ..good() }, "SNP in KVM"),
            (Host { parameter: String::new(), ..good() }, "SNP in KVM"),
            (Host { sev: Err("Permission denied".into()), ..good() }, "PSP"),
            (Host { kvm: Err("No such file".into()), ..good() }, "KVM device"),
            (Host { qemu: objects("  sev-snp-guest\n"), ..good() }, "IGVM in QEMU"),
            (Host { qemu: objects("  igvm-cfg\n  sev-guest\n"), ..good() }, "SNP in QEMU"),
        ] {
            assert_eq!(missing(&host), [name]);
            let words = usable(&judge(&host)).unwrap_err();
            assert!(words.starts_with(name) && words.contains('('), "{words}");
        }
        assert_eq!(missing(&Host { qemu: None, ..good() }), ["QEMU for SNP", "IGVM in QEMU", "SNP in QEMU"]);
    }

    #[test]
    fn versions_are_numbers() {
        let with =
            |version: &str| missing(&Host { qemu: good().qemu.map(|(_, o)| (version.into(), o)), ..good() });
        for old in ["7.2.22", "10.0.9", "9.10.0", "garbage", ""] {
            assert_eq!(with(old), ["QEMU for SNP"], "{old}");
        }
        for new in ["10.1.0", "10.2.2", "11.0", "11.1.3"] {
            assert!(with(new).is_empty(), "{new}");
        }
    }
}
