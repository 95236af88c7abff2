//! Command lines for the other VMMs that launch SNP guests from IGVM files. They are printed, never run: this launcher carries the streams of QEMU's
//! guests only, and neither VMM has a virtio console with several ports.
//!
//! Never tried on SNP silicon. Sources, read in 2026: Cloud Hypervisor `docs/amd_sev_snp.md`, `docs/fw_cfg.md`, pull request 7942; OpenVMM
//! `openvmm/openvmm_entry/src/cli_args.rs`, `vm/loader/manifests/README.md`, pull requests 3970 and 4285.

use std::ffi::OsString;
use std::path::Path;

use litebox_igvm::profile::HostProfile;

/// A guest.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// The launch image.
    pub igvm: &'a Path,
    /// The workload image.
    pub image: &'a Path,
    /// Bytes of memory.
    pub memory: u64,
    /// The kernel's options.
    pub options: &'a str,
}

fn word(parts: &[&dyn AsRef<std::ffi::OsStr>]) -> OsString {
    let mut word = OsString::new();
    parts.iter().for_each(|part| word.push(part.as_ref()));
    word
}

/// Cloud Hypervisor's words. The kernel gets its options as a fw_cfg item, as in QEMU.
pub fn cloud_hypervisor(guest: &Guest<'_>) -> Vec<OsString> {
    vec![
        "cloud-hypervisor".into(),
        "--platform".into(),
        "sev_snp=on".into(),
        "--igvm".into(),
        guest.igvm.into(),
        "--cpus".into(),
        "boot=1,max=1".into(),
        "--memory".into(),
        format!("size={}K", guest.memory / 1024).into(),
        "--disk".into(),
        word(&[&"path=", &guest.image, &",readonly=on,image_type=raw"]),
        "--serial".into(),
        "tty".into(),
        "--console".into(),
        "off".into(),
        "--fw-cfg-config".into(),
        format!("items=[name=opt/org.litebox/options,string={}]", guest.options).into(),
    ]
}

/// OpenVMM's words. It has no fw_cfg, in which our kernel looks for its options: it says so and stops.
pub fn openvmm(guest: &Guest<'_>) -> Vec<OsString> {
    vec![
        "openvmm".into(),
        "--hypervisor".into(),
        "kvm".into(),
        "--isolation".into(),
        "snp".into(),
        "--igvm".into(),
        word(&[&"firmware=", &guest.igvm, &",personality=linux-direct"]),
        "--no-vmbus".into(),
        "--processors".into(),
        "1".into(),
        "--memory".into(),
        format!("{}MB", guest.memory >> 20).into(),
        "--com1".into(),
        "console".into(),
        "--pcie-root-complex".into(),
        "rc0,segment=0,start_bus=0,end_bus=255,low_mmio=4M,high_mmio=1G".into(),
        "--pcie-root-port".into(),
        "rc0:root".into(),
        "--virtio-blk".into(),
        word(&[&"file:", &guest.image, &",ro,pcie_port=root"]),
    ]
}

/// What keeps the guest from running to its end under a VMM, in words.
pub const fn lack(vmm: HostProfile) -> Option<&'static str> {
    match vmm {
        HostProfile::CloudHypervisor => Some(
            "Cloud Hypervisor has no virtio console with several ports: the guest's streams have nowhere to go",
        ),
        HostProfile::OpenVmm => Some(
            "OpenVMM has neither fw_cfg, where the kernel looks for its options, nor a virtio console with several ports: it launches and measures the file, and \
             the kernel then stops and says what is missing",
        ),
        _ => None,
    }
}

/// A command for a shell: words that need it in quotes.
pub fn shell(words: &[OsString]) -> String {
    let quoted = words.iter().map(|word| {
        let text = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
        match !text.is_empty() && text.chars().all(plain) {
            true => text.into_owned(),
            false => format!("'{}'", text.replace('\'', r"'\''")),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest<'static> {
        Guest {
            igvm: Path::new("/x/a.igvm"),
            image: Path::new("/x/a b.img"),
            memory: 256 << 20,
            options: "console=pci:00:02.0 root=pci:00:03.0",
        }
    }

    #[test]
    fn cloud_hypervisors_line() {
        assert_eq!(
            shell(&cloud_hypervisor(&guest())),
            "cloud-hypervisor --platform sev_snp=on --igvm /x/a.igvm --cpus boot=1,max=1 --memory size=262144K \
             --disk 'path=/x/a b.img,readonly=on,image_type=raw' --serial tty --console off \
             --fw-cfg-config 'items=[name=opt/org.litebox/options,string=console=pci:00:02.0 root=pci:00:03.0]'"
        );
    }

    #[test]
    fn openvmms_line() {
        assert_eq!(
            shell(&openvmm(&guest())),
            "openvmm --hypervisor kvm --isolation snp --igvm firmware=/x/a.igvm,personality=linux-direct --no-vmbus \
             --processors 1 --memory 256MB --com1 console \
             --pcie-root-complex rc0,segment=0,start_bus=0,end_bus=255,low_mmio=4M,high_mmio=1G --pcie-root-port rc0:root \
             --virtio-blk 'file:/x/a b.img,ro,pcie_port=root'"
        );
    }

    #[test]
    fn words_survive_a_shell() {
        let words = ["a", "b c", "it's", "", "$x", "a;b"].map(OsString::from);
        assert_eq!(shell(&words), r"a 'b c' 'it'\''s' '' '$x' 'a;b'");
    }
}
