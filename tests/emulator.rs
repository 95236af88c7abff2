//! The SNP emulator boots an unmodified Linux: Debian's cloud kernel, which says itself what it runs on.

use std::fs;
use std::path::PathBuf;

use e2e::attestation::{Twin, chain};
use e2e::emulated::{Linux, Run, unique};
use e2e::random::Random;
use e2e::tools::oracle_only;
use e2e::{Suite, needs};
use test_psp::report::ReportVersion;

const MIB: usize = 1 << 20;

/// A disk with random contents, removed at the end.
struct Disk {
    file: PathBuf,
    contents: Vec<u8>,
}

impl Disk {
    fn new(seed: u64) -> Self {
        let (file, contents) = (unique("disk"), Random::new(seed).bytes(4 * MIB));
        fs::write(&file, &contents).expect("write a disk");
        Self { file, contents }
    }

    /// What /init must have read: FNV-1a of the first MiB.
    fn hash(&self) -> String {
        let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        format!("{:016x}", self.contents[..MIB].iter().fold(0xcbf2_9ce4_8422_2325, step))
    }

    /// What must be there after /init wrote the first MiB inverted to the third.
    fn check(&self) -> Result<(), String> {
        let mut want = self.contents.clone();
        let inverted: Vec<u8> = want[..MIB].iter().map(|byte| !byte).collect();
        want[2 * MIB..3 * MIB].copy_from_slice(&inverted);
        let have = fs::read(&self.file).map_err(|error| error.to_string())?;
        match have.iter().zip(&want).position(|(a, b)| a != b) {
            Some(at) => Err(format!("the disk differs from what was written at byte {at:#x}")),
            None if have.len() != want.len() => Err("the disk has another size".into()),
            None => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

fn ensure(condition: bool, what: impl Into<String>) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what.into()) }
}

/// The reports and keys that /init got through the driver's requests must be those of this launch, and of the emulator's chip.
fn check_attestation(run: &Run, version: ReportVersion, seed: u64) -> Result<(), String> {
    let bytes = |name| run.bytes(name).ok_or_else(|| format!("/init got no {name}"));
    let digest = run.launch_digest().ok_or("the emulator's report has no launch digest")?;
    ensure(digest != [0; 48], "the launch was not measured")?;
    let chain = chain(bytes("certificates")?)?;
    let mut twin = Twin::new(version, seed, digest)?;
    // As /init asks for them.
    let mut data = std::array::from_fn(|i| i as u8 + 1);
    twin.check_report(&bytes("report")?, &data, &chain)?;
    data[0] = 0xee;
    twin.check_report(&bytes("extended-report")?, &data, &chain)?;
    ensure(
        run.said("certificates-need") == Some("4096, host 1"),
        "a request without room for certificates was not answered with what they need",
    )?;
    let (mixed, plain) = (bytes("key")?, bytes("plain-key")?);
    ensure(mixed == twin.derived_key(1 << 3)?, "the key that the measurement is mixed into is another one")?;
    ensure(plain == twin.derived_key(0)?, "the derived key is another one")?;
    ensure(mixed != plain, "the measurement does not change the derived key")
}

/// What every such boot must show.
fn check(run: &Run, linux: &Linux, disk: &Disk, kind: Kind) -> Result<(), String> {
    let Kind { cpus, seconds, .. } = kind;
    let console = &run.console;
    let has = |text: &str| ensure(console.contains(text), format!("the console does not say `{text}`"));
    let whole = || {
        run.outcome.expect_status(&[0])?;
        has("Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP")?;
        has("PCI-DMA: Using software bounce buffering for IO (SWIOTLB)")?;
        if let Some(error) = run.said("error:") {
            return Err(error.to_owned());
        }
        run.said("done").ok_or("/init did not come to its end")?;
        ensure(run.said("cpus") == Some(&cpus.to_string()), "not that many CPUs")?;
        // The others are started through SNP AP creation, by the page of their state, and by nothing else.
        let created = run.number(&["vmgexit", "ap-creation"]);
        ensure(created >= u64::from(cpus - 1), format!("{created} CPUs were created"))?;
        for cpu in 0..cpus {
            let timers: u32 = run.said(&format!("timer {cpu}")).and_then(|n| n.parse().ok()).unwrap_or(0);
            // A hundred a second were asked for; a busy host loses most.
            ensure(timers >= 2 * seconds, format!("CPU {cpu} took {timers} timer interrupts"))?;
        }
        let guest_ms = run.report.get("guest_ms").and_then(serde_json::Value::as_f64).unwrap_or(0.0);
        ensure(guest_ms >= f64::from(seconds) * 1e3, format!("the guest ran for {guest_ms} ms only"))?;
        ensure(run.said("disk-read") == Some(&disk.hash()), "the guest read something else from its disk")?;
        run.said("disk-written").ok_or("the guest did not write its disk")?;
        disk.check()?;
        ensure(run.number(&["implicit_conversions"]) == 0, "pages were converted without a request")?;
        ensure(linux.has_sev_guest || !kind.stable, "the stable kernel has no driver for the PSP")?;
        if linux.has_sev_guest {
            run.said("module sev_guest.ko").ok_or("the driver for the PSP did not load")?;
            check_attestation(run, kind.version(), SEED)?;
        }
        Ok(())
    };
    whole().map_err(|why: String| format!("{why}{}", run.outcome.tail()))
}

/// What the keys of these launches follow from.
const SEED: u64 = 7;

/// A boot.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// Debian's stable release, not the host's own.
    stable: bool,
    cpus: u32,
    /// How long to watch the timers.
    seconds: u32,
}

impl Kind {
    /// Each number of CPUs with another version of reports, so that both are tried.
    fn version(self) -> ReportVersion {
        if self.cpus == 1 { ReportVersion::V3 } else { ReportVersion::V5 }
    }
}

/// Boots Linux and checks it.
fn boots(test: &str, kind: Kind) -> Option<Result<(), String>> {
    if oracle_only() {
        return None;
    }
    let linux = needs(test, Linux::fetch(kind.stable))?;
    let disk = Disk::new(u64::from(kind.cpus));
    let (version, seed) = ((kind.version() as u32).to_string(), SEED.to_string());
    let options = ["--report-version", &version, "--seed", &seed];
    let run = linux.boot(kind.cpus, kind.seconds, &disk.file, &options);
    Some(check(&run, &linux, &disk, kind))
}

/// The current stable kernel has a driver for guest requests. Ten seconds, as the emulator promises.
fn stable(test: &str, cpus: u32) {
    if let Some(result) = boots(test, Kind { stable: true, cpus, seconds: 10 }) {
        assert_eq!(result, Ok(()));
    }
}

#[test]
fn linux_boots_with_one_cpu() {
    stable("linux_boots_with_one_cpu", 1);
}

#[test]
fn linux_boots_with_two_cpus() {
    stable("linux_boots_with_two_cpus", 2);
}

/// Ten times ten seconds with each number of CPUs, and the host's own release too.
#[test]
#[ignore = "takes half an hour: cargo test -p e2e --test emulator -- --ignored"]
fn linux_boots_ten_times() {
    let mut suite = Suite::new("ten boots of each kind");
    for round in 0..10 {
        for (stable, cpus) in [(true, 1), (true, 2), (false, 1), (false, 2)] {
            let kind = Kind { stable, cpus, seconds: 10 };
            suite.check(format!("round {round}, {kind:?}"), move || {
                boots("linux_boots_ten_times", kind).unwrap_or(Ok(()))
            });
        }
    }
    suite.run_in_guest_only();
}
