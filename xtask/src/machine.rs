//! The machine of the platforms `vm` and `snp-emulated`, as arguments for QEMU (`docs/design.md`, "The machine on the platform `vm`").
//!
//! Pure: a [`Machine`] becomes a list of words and nothing is started here. Each stream of bytes has a socket of its own,
//! inherited by QEMU, so that the workload's output, its errors and the kernel's log never mix. The machine has
//! nothing that the kernel does not drive: each device costs start-up time, and is something to attack with.
//! Source: QEMU's `docs/system/i386/microvm.rst`; addresses and interrupts from `hw/i386/microvm.c`
//! (without ACPI, slot N is at 0xfeb0_0000 + N * 512 with interrupt 5 + N).

use std::ffi::OsString;
use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::ValueEnum;

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The CPU itself.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// The sockets and files that QEMU inherits.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// The serial port: kernel log and exit protocol.
    pub serial: RawFd,
    /// To the workload's standard input.
    pub stdin: RawFd,
    /// From the workload's standard output.
    pub stdout: RawFd,
    /// From the workload's standard error.
    pub stderr: RawFd,
    /// A file that holds what the guest is made of: the manifest, or the IGVM file for the emulator.
    pub payload: RawFd,
    /// A file that holds the firmware; of a machine with the kernel in it.
    pub rom: RawFd,
    /// A file for what the emulator reports.
    pub report: RawFd,
}

/// What QEMU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The kernel, by PVH.
    Pvh,
    /// The SNP emulator, which loads the IGVM file.
    Emulator,
}

/// How the guest finds its devices, and so what machine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bus {
    /// At fixed addresses, in QEMU's smallest machine (microvm), which starts soonest
    Mmio,
    /// On PCI, in an ordinary PC (q35), as hosts for SNP have them
    Pci,
}

impl Bus {
    /// Where memory below 4 GiB ends at the latest, in a machine with so much (QEMU's `hw/i386/microvm.c`, `pc_q35.c`).
    pub fn low_memory_end(self, memory: u64) -> u64 {
        match self {
            Self::Mmio => 0xc000_0000,
            Self::Pci if memory >= 0xb000_0000 => 0x8000_0000,
            Self::Pci => 0xb000_0000,
        }
    }
}

/// Memory of the emulator's own, in MiB, besides twice the IGVM file.
pub const EMULATOR_RESERVE: u64 = 32;

/// A virtual machine that can run the kernel.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What is started.
    pub boot: Boot,
    /// Where its devices are.
    pub bus: Bus,
    /// Whether the emulator reports each exchange.
    pub trace: bool,
    /// The ELF file of the kernel, or of the emulator.
    pub kernel: PathBuf,
    /// The workload image.
    pub root: Option<PathBuf>,
    /// Bytes of memory.
    pub memory: u64,
    /// What executes it.
    pub accelerator: Accelerator,
    /// QEMU's CPU model.
    pub cpu: String,
    /// The guest's TSC frequency, where it is known.
    pub tsc_khz: Option<u64>,
    /// Wall-clock time at start, in nanoseconds since 1970.
    pub realtime_ns: u64,
}

/// A virtio device's slot; on PCI the first two are the chipset's.
#[derive(Clone, Copy)]
enum Slot {
    Console = 0,
    Root = 1,
}

impl Slot {
    /// Where the kernel finds it.
    fn option(self, bus: Bus) -> String {
        let slot = self as u32;
        match bus {
            Bus::Mmio => format!("mmio:{:#x}:{}", 0xfeb0_0000 + slot * 0x200, 5 + slot),
            Bus::Pci => format!("pci:00:{:02x}.0", slot + 2),
        }
    }

    /// The device of this kind there, as QEMU's words. A guest that shares only what it must demands VIRTIO_F_ACCESS_PLATFORM.
    fn device(self, bus: Bus, kind: &str) -> String {
        let slot = self as u32;
        match bus {
            Bus::Mmio => format!("{kind}-device,bus=virtio-mmio-bus.{slot}"),
            // Like on MMIO, without a thread in between.
            Bus::Pci => {
                format!(
                    "{kind}-pci,addr={:02x}.0,disable-legacy=on,iommu_platform=on,ioeventfd=off",
                    slot + 2
                )
            }
        }
    }
}

/// Words in a QEMU option string are separated by commas; one that belongs to a value is doubled.
pub fn escape_commas(path: &std::path::Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut out = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        out.push(byte);
        if byte == b',' {
            out.push(b',');
        }
    }
    OsString::from_vec(out)
}

impl Machine {
    /// The kernel's command line.
    pub fn command_line(&self) -> String {
        let mut words = vec![format!("console={}", Slot::Console.option(self.bus))];
        if self.root.is_some() {
            words.push(format!("root={}", Slot::Root.option(self.bus)));
        }
        if let Some(khz) = self.tsc_khz {
            words.push(format!("tsc_khz={khz}"));
        }
        words.push(format!("realtime_ns={}", self.realtime_ns));
        words.join(" ")
    }

    /// QEMU's arguments. `fw_cfg`: the manifest is an item of its own, since the firmware has no room for it.
    pub fn arguments(&self, streams: &Streams, fw_cfg: bool) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
        add(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        match self.bus {
            Bus::Mmio => {
                add(&[
                    "-M",
                    "microvm,acpi=off,pit=on,pic=off,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off",
                ]);
                add(&["-global", "virtio-mmio.force-legacy=false"]);
                // Without a thread in between, a device does what it is told before the guest goes on: sooner, and in an order that can be repeated.
                add(&["-global", "virtio-mmio.ioeventfd=off"]);
            }
            Bus::Pci => add(&["-M", "q35,sata=off,smbus=off,i8042=off,vmport=off,smm=off"]),
        }
        add(&["-accel", &self.accelerator.to_string(), "-cpu", &self.cpu, "-smp", "1"]);
        let reserve = if self.boot == Boot::Emulator { EMULATOR_RESERVE << 10 } else { 0 };
        add(&["-m", &format!("{}k", self.memory / 1024 + reserve)]);
        add(&["-chardev", &format!("socket,id=serial,fd={}", streams.serial), "-serial", "chardev:serial"]);
        add(&["-device", &format!("{},max_ports=4", Slot::Console.device(self.bus, "virtio-serial"))]);
        for (number, (name, fd)) in
            [("stdin", streams.stdin), ("stdout", streams.stdout), ("stderr", streams.stderr)]
                .iter()
                .enumerate()
        {
            add(&["-chardev", &format!("socket,id={name},fd={fd}")]);
            add(&["-device", &format!("virtserialport,chardev={name},nr={}", number + 1)]);
        }
        add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        let item = |name: &str, fd: RawFd| format!("name=opt/org.litebox/{name},file=/proc/self/fd/{fd}");
        match self.boot {
            Boot::Pvh => {
                add(&["-bios", &format!("/proc/self/fd/{}", streams.rom)]);
                if fw_cfg {
                    add(&["-fw_cfg", &item("manifest", streams.payload)]);
                }
            }
            Boot::Emulator => {
                add(&["-fw_cfg", &item("igvm", streams.payload)]);
                add(&["-fw_cfg", &format!("name=opt/org.litebox/options,string={}", self.command_line())]);
                add(&["-chardev", &format!("file,id=report,path=/proc/self/fd/{}", streams.report)]);
                add(&["-device", "isa-debugcon,iobase=0x5f0,chardev=report"]);
                if self.trace {
                    add(&["-fw_cfg", "name=opt/org.litebox/emulate,string=trace=1"]);
                }
                add(&["-append", &format!("reserve={EMULATOR_RESERVE}")]);
            }
        }
        args.push("-kernel".into());
        args.push(self.kernel.clone().into());
        if let Some(root) = &self.root {
            let mut drive = OsString::from("if=none,id=root,format=raw,read-only=on,cache=writeback,file=");
            drive.push(escape_commas(root));
            args.push("-drive".into());
            args.push(drive);
            args.push("-device".into());
            args.push(format!("{},drive=root", Slot::Root.device(self.bus, "virtio-blk")).into());
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            boot: Boot::Pvh,
            bus: Bus::Mmio,
            trace: false,
            kernel: "/k".into(),
            root: Some("/a,b".into()),
            memory: 16 << 20,
            accelerator: Accelerator::Tcg,
            cpu: "max".into(),
            tsc_khz: Some(2_000_000),
            realtime_ns: 7,
        }
    }

    #[test]
    fn command_line_names_every_device() {
        assert_eq!(
            machine().command_line(),
            "console=mmio:0xfeb00000:5 root=mmio:0xfeb00200:6 tsc_khz=2000000 realtime_ns=7"
        );
        let bare = Machine { root: None, tsc_khz: None, ..machine() };
        assert_eq!(bare.command_line(), "console=mmio:0xfeb00000:5 realtime_ns=7");
        let pci = Machine { bus: Bus::Pci, ..bare };
        assert_eq!(pci.command_line(), "console=pci:00:02.0 realtime_ns=7");
    }

    #[test]
    fn streams_have_sockets_of_their_own() {
        let streams =
            Streams { serial: 10, stdin: 11, stdout: 12, stderr: 13, payload: 14, report: 15, rom: 16 };
        let words: Vec<_> = machine()
            .arguments(&streams, true)
            .into_iter()
            .map(|w| w.into_string().expect("ASCII"))
            .collect();
        for want in [
            "socket,id=serial,fd=10",
            "socket,id=stdin,fd=11",
            "socket,id=stdout,fd=12",
            "socket,id=stderr,fd=13",
            "virtserialport,chardev=stderr,nr=3",
            "name=opt/org.litebox/manifest,file=/proc/self/fd/14",
            "/proc/self/fd/16",
            "16384k",
        ] {
            assert!(words.iter().any(|w| w == want), "{want} is not in {words:?}");
        }
        assert!(words.iter().any(|w| w.ends_with("file=/a,,b")), "a comma in a path is doubled");
    }
}
