//! Chooses what executes the guest.
//!
//! `/dev/kvm` existing proves nothing: there are hosts where it is there and cannot run ring 0 of a normal guest, or runs it
//! thousands of times slower. So KVM is *tried*, with a guest of a few instructions that counts to twenty million and powers off, within
//! a bound; the result is remembered for this boot of the host.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cli::Accel;
use crate::host;
use crate::machine::Accelerator;

/// Silicon needs about 10 ms, and QEMU's start 20.
const BOUND: Duration = Duration::from_secs(2);

/// `mov ecx, 20_000_000; 1: dec ecx; jnz 1b; mov al, 42; out 0xf4, al; 2: hlt; jmp 2b`, in 32-bit mode.
const COUNT: [u8; 15] =
    [0xb9, 0x00, 0x2d, 0x31, 0x01, 0x49, 0x75, 0xfd, 0xb0, 0x2a, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];

/// What isa-debug-exit makes of 42.
const COUNTED: i32 = 42 * 2 + 1;

/// The accelerator to use, and what is to be said about the choice.
///
/// # Errors
/// KVM was demanded and does not work.
pub fn choose(wish: Accel, qemu: &Path) -> Result<Accelerator> {
    match wish {
        Accel::Tcg => Ok(Accelerator::Tcg),
        Accel::Auto => Ok(if try_kvm(qemu).is_ok() { Accelerator::Kvm } else { Accelerator::Tcg }),
        Accel::Kvm => match try_kvm(qemu) {
            Ok(()) => Ok(Accelerator::Kvm),
            Err(why) => bail!("KVM does not work here: {why}; use --accel tcg"),
        },
    }
}

/// Whether KVM runs a guest, or why not.
pub fn try_kvm(qemu: &Path) -> Result<(), String> {
    const NAME: &str = "kvm";
    let subject = qemu.display().to_string();
    let fact = host::recall(NAME, &subject).unwrap_or_else(|| {
        let fact = match probe(qemu) {
            Ok(()) => "works".to_owned(),
            Err(why) => format!("{why:#}"),
        };
        host::remember(NAME, &subject, &fact);
        fact
    });
    if fact == "works" { Ok(()) } else { Err(fact) }
}

fn probe(qemu: &Path) -> Result<()> {
    fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").context("cannot open /dev/kvm")?;
    let image = std::env::temp_dir().join(format!("litebox-kvm-probe-{}.elf", std::process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).open(&image).context("cannot write a probe")?;
    let written = file.write_all(&probe_image()).context("cannot write a probe");
    let result = written.and_then(|()| run_probe(qemu, &image));
    let _ = fs::remove_file(&image);
    result
}

fn run_probe(qemu: &Path, image: &Path) -> Result<()> {
    let mut child = Command::new(qemu)
        .args(["-M", "microvm,acpi=off,x-option-roms=off", "-accel", "kvm", "-cpu", "max", "-m", "16"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel"])
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start QEMU")?;
    let start = Instant::now();
    while start.elapsed() < BOUND {
        if let Some(status) = child.try_wait()? {
            if status.code() == Some(COUNTED) {
                return Ok(());
            }
            let mut said = String::new();
            if let Some(mut errors) = child.stderr.take() {
                std::io::Read::read_to_string(&mut errors, &mut said).unwrap_or_default();
            }
            bail!("{}", said.lines().next().unwrap_or("the probe guest did not come to its end"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().and_then(|()| child.wait()).context("cannot end QEMU")?;
    bail!("a guest that counts to 20 million did not finish within {} s", BOUND.as_secs())
}

/// The smallest ELF file that boots by PVH: one segment of code and the note that names its entry.
fn probe_image() -> Vec<u8> {
    const LOAD: u64 = 0x10_0000;
    const CODE: u64 = 0x1000;
    const NOTE: u64 = 64 + 2 * 56;
    let mut out = Vec::new();
    let mut put = |value: u64, bytes: usize| out.extend(value.to_le_bytes().into_iter().take(bytes));
    put(0x0001_0102_464c_457f, 8); // magic, 64-bit, little-endian, version 1
    put(0, 8);
    for half in [2, 62] {
        put(half, 2); // executable, x86-64
    }
    put(1, 4);
    for word in [LOAD, 64, 0] {
        put(word, 8); // entry, program headers, no sections
    }
    put(0, 4);
    for half in [64, 56, 2, 0, 0, 0] {
        put(half, 2);
    }
    for (kind, flags, offset, size) in [(1, 5, CODE, COUNT.len() as u64), (4, 4, NOTE, 24)] {
        put(kind, 4);
        put(flags, 4);
        for word in [offset, LOAD, LOAD, size, size, 4] {
            put(word, 8);
        }
    }
    for word in [4, 8, 18] {
        put(word, 4); // name size, value size, XEN_ELFNOTE_PHYS32_ENTRY
    }
    put(u64::from(u32::from_le_bytes(*b"Xen\0")), 4);
    put(LOAD, 8);
    out.resize(CODE as usize, 0);
    out.extend(COUNT);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_is_an_elf_file_with_its_code_where_the_headers_say() {
        let image = probe_image();
        assert_eq!(image.get(..4), Some(&b"\x7fELF"[..]));
        assert_eq!(image.get(0x1000..), Some(&COUNT[..]));
        assert_eq!(image.get(64 + 112 + 12..64 + 112 + 16), Some(&b"Xen\0"[..]));
    }
}
