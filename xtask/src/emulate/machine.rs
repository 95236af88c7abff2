//! The machine that the emulator runs on, as arguments for QEMU.
//!
//! It is what the guest sees through the emulator: an ordinary PC (q35) with a serial port, QEMU's debug exit and perhaps a disk. The emulator
//! takes the end of memory for itself, so QEMU gets more than the guest. Invariant: the emulator's channel is a stream of
//! its own, which the guest cannot reach. Source for CPU models: QEMU's nested SVM needs five levels of page tables for a
//! C-bit above bit 47, and exactly one physical address bit above the C-bit's position.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::arguments::Emulate;
use super::input::{Guest, Inputs};
use crate::machine::{Accelerator, escape_commas};

/// The sockets and files that QEMU inherits.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// The guest's serial port.
    pub serial: RawFd,
    /// From the emulator.
    pub channel: RawFd,
    /// A file that holds the options.
    pub options: RawFd,
    /// A file that holds the script.
    pub script: RawFd,
}

/// A machine with the emulator in it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The emulator's ELF file.
    pub emulator: PathBuf,
    /// What the guest is made of.
    pub inputs: Inputs,
    /// What executes it.
    pub accelerator: Accelerator,
    /// Bytes of memory for the guest.
    pub memory: u64,
    /// CPUs.
    pub cpus: u32,
    /// Position of the C-bit.
    pub c_bit: u32,
}

const MIB: u64 = 1 << 20;

impl Machine {
    /// MiB that the emulator takes: for itself, for copies of the input, and for its tables, which grow with memory: 8 bytes a
    /// page in the reverse map table, twice that in nested page tables. QEMU has a hole of up to 2 GiB below 4 GiB.
    pub fn reserve(&self) -> u64 {
        let tables = (self.memory + 2048 * MIB) / 128;
        64 + (2 * self.inputs.size + tables).div_ceil(MIB)
    }

    /// QEMU's CPU model.
    fn cpu(&self) -> String {
        let model = match self.accelerator {
            Accelerator::Tcg => "max",
            Accelerator::Kvm => "host,+svm,host-phys-bits=off",
        };
        match self.c_bit {
            51 => format!("{model},phys-bits=52,+la57"),
            bit => format!("{model},phys-bits={},-la57", bit + 1),
        }
    }

    /// QEMU's arguments.
    pub fn arguments(&self, streams: &Streams) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
        add(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "q35"]);
        let accelerator = match self.accelerator {
            Accelerator::Tcg => "tcg,thread=multi",
            Accelerator::Kvm => "kvm",
        };
        add(&["-accel", accelerator, "-cpu", &self.cpu(), "-smp", &self.cpus.to_string()]);
        let reserve = self.reserve();
        add(&["-m", &format!("{}M", self.memory / MIB + reserve), "-append", &format!("reserve={reserve}")]);
        add(&["-chardev", &format!("socket,id=serial,fd={}", streams.serial), "-serial", "chardev:serial"]);
        add(&["-chardev", &format!("socket,id=channel,fd={}", streams.channel)]);
        add(&["-device", "isa-debugcon,iobase=0x5f0,chardev=channel"]);
        add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        let mut item = |name: &str, file: OsString| {
            args.push("-fw_cfg".into());
            let mut word = OsString::from(format!("name=opt/org.litebox/{name},file="));
            word.push(file);
            args.push(word);
        };
        item("emulate", format!("/proc/self/fd/{}", streams.options).into());
        if self.inputs.script.is_some() {
            item("script", format!("/proc/self/fd/{}", streams.script).into());
        }
        match &self.inputs.guest {
            Guest::Igvm(file) => item("igvm", escape_commas(file)),
            Guest::Linux { kernel, initrd } => {
                item("kernel", escape_commas(kernel));
                if let Some(initrd) = initrd {
                    item("initrd", escape_commas(initrd));
                }
            }
        }
        args.extend([OsString::from("-kernel"), self.emulator.clone().into()]);
        if let Some(disk) = &self.inputs.disk {
            let mut drive = OsString::from("if=none,id=disk,format=raw,file=");
            drive.push(escape_commas(disk));
            args.extend([OsString::from("-drive"), drive, "-device".into()]);
            // An SNP guest only uses devices that respect what it shares: VIRTIO_F_ACCESS_PLATFORM.
            args.push("virtio-blk-pci,drive=disk,disable-legacy=on,iommu_platform=on".into());
        }
        args
    }
}

/// The options for the emulator, a line each; it ignores those that it does not know.
pub fn options(args: &Emulate, tsc_khz: Option<u64>) -> String {
    let mut lines = vec![
        format!("cpus={}", args.cpus),
        format!("c_bit={}", args.c_bit),
        format!("trace={}", u8::from(args.trace)),
        format!("strict={}", u8::from(!args.lenient)),
        format!("seed={}", args.seed),
        format!("host={}", args.host.name()),
        format!("report_version={}", args.report_version),
    ];
    lines.extend(tsc_khz.map(|khz| format!("tsc_khz={khz}")));
    if args.linux.is_some() {
        lines.push(format!("append={}", args.append));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let guest = Guest::Linux { kernel: "/k,1".into(), initrd: Some("/i".into()) };
        Machine {
            emulator: "/e".into(),
            inputs: Inputs { guest, script: None, disk: Some("/d".into()), size: 3 * MIB },
            accelerator: Accelerator::Tcg,
            memory: 512 * MIB,
            cpus: 2,
            c_bit: 51,
        }
    }

    fn words(machine: &Machine) -> Vec<String> {
        let streams = Streams { serial: 10, channel: 11, options: 12, script: 13 };
        machine.arguments(&streams).into_iter().map(|word| word.into_string().expect("ASCII")).collect()
    }

    #[test]
    fn the_emulators_memory_comes_on_top() {
        let machine = machine();
        let reserve = machine.reserve();
        assert!(reserve >= 64 + 6, "{reserve}");
        let words = words(&machine);
        for want in [format!("{}M", 512 + reserve), format!("reserve={reserve}")] {
            assert!(words.contains(&want), "{want} is not in {words:?}");
        }
        assert!(Machine { memory: 64 << 30, ..machine }.reserve() > 512);
    }

    #[test]
    fn files_and_streams_are_named() {
        let words = words(&machine());
        for want in [
            "socket,id=channel,fd=11",
            "name=opt/org.litebox/emulate,file=/proc/self/fd/12",
            "name=opt/org.litebox/kernel,file=/k,,1",
            "name=opt/org.litebox/initrd,file=/i",
            "if=none,id=disk,format=raw,file=/d",
            "max,phys-bits=52,+la57",
        ] {
            assert!(words.iter().any(|word| word == want), "{want} is not in {words:?}");
        }
        assert!(!words.iter().any(|word| word.contains("script") || word.contains("igvm")));
    }

    #[test]
    fn an_igvm_file_and_a_script() {
        let mut machine = machine();
        machine.inputs =
            Inputs { guest: Guest::Igvm("/g".into()), script: Some(vec![1]), disk: None, size: 1 };
        machine.c_bit = 47;
        let words = words(&machine);
        for want in [
            "name=opt/org.litebox/igvm,file=/g",
            "name=opt/org.litebox/script,file=/proc/self/fd/13",
            "max,phys-bits=48,-la57",
        ] {
            assert!(words.iter().any(|word| word == want), "{want} is not in {words:?}");
        }
    }
}
