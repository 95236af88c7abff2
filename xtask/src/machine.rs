//! The machine of the platforms `vm`, `snp-emulated` and `snp`, as arguments for QEMU (`docs/design.md`, "The machine on the platform `vm`").
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

use crate::igvm::C_BIT;
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

/// Where a stream of bytes leads.
#[derive(Clone, Copy, Debug)]
pub enum Endpoint {
    /// A socket that QEMU inherits.
    Socket(RawFd),
    /// A file or a device, written to.
    Output(&'static str),
    /// A file or a device, read from.
    Input(&'static str),
}

impl Endpoint {
    /// QEMU's words for a character device of this name.
    fn chardev(self, id: &str) -> String {
        match self {
            Self::Socket(fd) => format!("socket,id={id},fd={fd}"),
            Self::Output(path) => format!("file,id={id},path={path}"),
            Self::Input(path) => format!("file,id={id},path=/dev/null,input-path={path}"),
        }
    }
}

/// The streams and files that QEMU gets.
#[derive(Clone, Debug)]
pub struct Streams {
    /// The serial port: kernel log and exit protocol.
    pub serial: Endpoint,
    /// To the workload's standard input.
    pub stdin: Endpoint,
    /// From the workload's standard output.
    pub stdout: Endpoint,
    /// From the workload's standard error.
    pub stderr: Endpoint,
    /// A file that holds what the guest is made of: the manifest, or the IGVM file.
    pub payload: PathBuf,
    /// A file that holds the firmware; of a machine with the kernel in it.
    pub rom: PathBuf,
    /// A file for what the emulator reports.
    pub report: PathBuf,
    /// A file that holds the emulator's attack script.
    pub script: PathBuf,
}

impl Streams {
    /// For a machine that is started by hand: the terminal's own streams, the kernel's log in a file.
    pub fn by_hand(payload: PathBuf) -> Self {
        Self {
            serial: Endpoint::Output("serial.log"),
            stdin: Endpoint::Input("/dev/stdin"),
            stdout: Endpoint::Output("/dev/stdout"),
            stderr: Endpoint::Output("/dev/stderr"),
            payload,
            rom: PathBuf::new(),
            report: PathBuf::new(),
            script: PathBuf::new(),
        }
    }
}

/// A file that QEMU inherits.
pub fn inherited(fd: RawFd) -> PathBuf {
    format!("/proc/self/fd/{fd}").into()
}

/// What QEMU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The kernel, by PVH.
    Pvh,
    /// The SNP emulator, which loads the IGVM file.
    Emulator,
    /// Nothing: KVM and the PSP launch the IGVM file.
    Snp,
}

/// The model of an SNP guest's CPU: the first that has what the PSP lets through on every EPYC with SNP.
pub const SNP_CPU: &str = "EPYC-v4";

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
    /// Whether it attacks the guest, by a script.
    pub attacked: bool,
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
    /// Wall-clock time at start, in nanoseconds since 1970, where it is known.
    pub realtime_ns: Option<u64>,
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
        words.extend(self.realtime_ns.map(|time| format!("realtime_ns={time}")));
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
            Bus::Pci => {
                let confidential = match self.boot {
                    Boot::Snp => ",confidential-guest-support=sev0,memory-backend=ram0,igvm-cfg=igvm0",
                    Boot::Pvh | Boot::Emulator => "",
                };
                add(&["-M", &format!("q35,sata=off,smbus=off,i8042=off,vmport=off,smm=off{confidential}")]);
            }
        }
        add(&["-accel", &self.accelerator.to_string(), "-cpu", &self.cpu, "-smp", "1"]);
        let reserve = if self.boot == Boot::Emulator { EMULATOR_RESERVE << 10 } else { 0 };
        add(&["-m", &format!("{}k", self.memory / 1024 + reserve)]);
        add(&["-chardev", &streams.serial.chardev("serial"), "-serial", "chardev:serial"]);
        add(&["-device", &format!("{},max_ports=4", Slot::Console.device(self.bus, "virtio-serial"))]);
        for (number, (name, endpoint)) in
            [("stdin", streams.stdin), ("stdout", streams.stdout), ("stderr", streams.stderr)]
                .iter()
                .enumerate()
        {
            add(&["-chardev", &endpoint.chardev(name)]);
            add(&["-device", &format!("virtserialport,chardev={name},nr={}", number + 1)]);
        }
        add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        let option = |words: &str, path: &std::path::Path| {
            let mut option = OsString::from(words);
            option.push(escape_commas(path));
            option
        };
        let item = |name: &str, path| option(&format!("name=opt/org.litebox/{name},file="), path);
        let options = OsString::from(format!("name=opt/org.litebox/options,string={}", self.command_line()));
        let mut add = |words: &[OsString]| args.extend(words.iter().cloned());
        match self.boot {
            Boot::Pvh => {
                add(&["-bios".into(), streams.rom.clone().into()]);
                if fw_cfg {
                    add(&["-fw_cfg".into(), item("manifest", &streams.payload)]);
                }
                add(&["-kernel".into(), self.kernel.clone().into()]);
            }
            Boot::Emulator => {
                add(&["-fw_cfg".into(), item("igvm", &streams.payload), "-fw_cfg".into(), options]);
                add(&["-chardev".into(), option("file,id=report,path=", &streams.report)]);
                add(&["-device".into(), "isa-debugcon,iobase=0x5f0,chardev=report".into()]);
                if self.trace {
                    add(&["-fw_cfg".into(), "name=opt/org.litebox/emulate,string=trace=1".into()]);
                }
                if self.attacked {
                    add(&["-fw_cfg".into(), item("script", &streams.script)]);
                }
                add(&["-append".into(), format!("reserve={EMULATOR_RESERVE}").into()]);
                add(&["-kernel".into(), self.kernel.clone().into()]);
            }
            Boot::Snp => {
                // Private memory is guest_memfd's; this is what the guest shares.
                let memory = format!("memory-backend-memfd,id=ram0,size={}k,share=true", self.memory / 1024);
                add(&["-object".into(), memory.into()]);
                let guest = format!("sev-snp-guest,id=sev0,cbitpos={C_BIT},reduced-phys-bits=1");
                add(&["-object".into(), guest.into()]);
                add(&["-object".into(), option("igvm-cfg,id=igvm0,file=", &streams.payload)]);
                add(&["-fw_cfg".into(), options]);
            }
        }
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
            attacked: false,
            kernel: "/k".into(),
            root: Some("/a,b".into()),
            memory: 16 << 20,
            accelerator: Accelerator::Tcg,
            cpu: "max".into(),
            tsc_khz: Some(2_000_000),
            realtime_ns: Some(7),
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

    fn streams() -> Streams {
        Streams {
            serial: Endpoint::Socket(10),
            stdin: Endpoint::Socket(11),
            stdout: Endpoint::Socket(12),
            stderr: Endpoint::Socket(13),
            payload: inherited(14),
            report: inherited(15),
            rom: inherited(16),
            script: inherited(17),
        }
    }

    /// The whole line, which was never run on SNP silicon.
    #[test]
    fn the_line_of_an_snp_guest() {
        let machine = Machine {
            boot: Boot::Snp,
            bus: Bus::Pci,
            accelerator: Accelerator::Kvm,
            cpu: SNP_CPU.into(),
            ..machine()
        };
        let words: Vec<String> = machine
            .arguments(&Streams::by_hand("/x/a,b.igvm".into()), false)
            .into_iter()
            .map(|word| word.into_string().expect("ASCII"))
            .collect();
        assert_eq!(
            words.join(" "),
            "-nodefaults -no-user-config -no-reboot -display none \
             -M q35,sata=off,smbus=off,i8042=off,vmport=off,smm=off,confidential-guest-support=sev0,memory-backend=ram0,igvm-cfg=igvm0 \
             -accel kvm -cpu EPYC-v4 -smp 1 -m 16384k -chardev file,id=serial,path=serial.log -serial chardev:serial \
             -device virtio-serial-pci,addr=02.0,disable-legacy=on,iommu_platform=on,ioeventfd=off,max_ports=4 \
             -chardev file,id=stdin,path=/dev/null,input-path=/dev/stdin -device virtserialport,chardev=stdin,nr=1 \
             -chardev file,id=stdout,path=/dev/stdout -device virtserialport,chardev=stdout,nr=2 \
             -chardev file,id=stderr,path=/dev/stderr -device virtserialport,chardev=stderr,nr=3 \
             -device isa-debug-exit,iobase=0xf4,iosize=4 \
             -object memory-backend-memfd,id=ram0,size=16384k,share=true \
             -object sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1 \
             -object igvm-cfg,id=igvm0,file=/x/a,,b.igvm \
             -fw_cfg name=opt/org.litebox/options,string=console=pci:00:02.0 root=pci:00:03.0 tsc_khz=2000000 realtime_ns=7 \
             -drive if=none,id=root,format=raw,read-only=on,cache=writeback,file=/a,,b \
             -device virtio-blk-pci,addr=03.0,disable-legacy=on,iommu_platform=on,ioeventfd=off,drive=root"
        );
    }

    #[test]
    fn streams_have_sockets_of_their_own() {
        let streams = streams();
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
