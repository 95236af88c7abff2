//! `measure`: the launch digest of a file under a host, without launching it.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use litebox_igvm::format::{Directive, IgvmFile, PlatformType};
use litebox_igvm::load::LoadPlan;
use litebox_igvm::profile::HostProfile;
use litebox_igvm::vmsa::Vmsa;
use serde_json::json;

use super::arguments::Measure;
use super::read_file;
use crate::image::hex;

/// Prints the digests.
pub fn measure(args: &Measure) -> i32 {
    super::status(attempt(args))
}

/// What one host makes of the file.
struct Measurement {
    host: HostProfile,
    digest: Result<String, String>,
}

fn attempt(args: &Measure) -> Result<i32> {
    let bytes = read_file(&args.file)?;
    let file = parse(&args.file, &bytes)?;
    let hosts = if args.host.is_empty() { &HostProfile::ALL[..] } else { &args.host };
    let measurements: Vec<Measurement> =
        hosts.iter().map(|&host| Measurement { host, digest: digest(&file, host, args) }).collect();
    let text = if args.json { json(&measurements)? } else { text(&measurements, args.host.len() == 1) };
    // A closed pipe is the reader's choice.
    let _ = io::stdout().write_all(text.as_bytes());
    let refused = measurements.iter().filter(|measurement| measurement.digest.is_err()).count();
    let failed = if args.host.is_empty() { refused == measurements.len() } else { refused > 0 };
    if failed && !args.json {
        let said = measurements.iter().filter_map(|m| Some((m.host, m.digest.as_ref().err()?)));
        for (host, why) in said.filter(|_| !args.host.is_empty()) {
            let _ = writeln!(io::stderr(), "xtask: {host}: {why}");
        }
    }
    Ok(failed.into())
}

/// A file, or what is wrong with it.
///
/// # Errors
/// It is no IGVM file, or a damaged one.
pub fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<IgvmFile<'a>> {
    match IgvmFile::parse(bytes) {
        Ok(file) => Ok(file),
        Err(error) => bail!("{}: no valid IGVM file: {error}", path.display()),
    }
}

fn digest(file: &IgvmFile<'_>, host: HostProfile, args: &Measure) -> Result<String, String> {
    let plan = LoadPlan::new(file, host).map_err(|error| error.to_string())?;
    let further = further_cpus(file, host, args).map_err(|error| format!("{error:#}"))?;
    Ok(hex(&plan.digest_with(&further)))
}

/// The save areas of the CPUs that are not in the file.
fn further_cpus(file: &IgvmFile<'_>, host: HostProfile, args: &Measure) -> Result<Vec<Vmsa>> {
    let image = file.for_platform(PlatformType::SevSnp).context("no SEV-SNP platform")?;
    let in_file: Vec<Vmsa> = image
        .directives()
        .filter_map(|at| match at.header {
            Directive::VpContext(context) => context.vmsa().map(Vmsa::from_page),
            _ => None,
        })
        .collect();
    let missing = usize::from(args.cpus).saturating_sub(in_file.len());
    // By the specification a guest has the CPUs that the file gives, and starts others itself.
    if missing == 0 || host == HostProfile::Specification {
        return Ok(Vec::new());
    }
    if host != HostProfile::Qemu {
        bail!(
            "which registers {host} gives CPUs that are not in the file is not known: measure with --cpus 1, or --host qemu"
        );
    }
    let signature = args
        .cpu_signature
        .context("with more than one CPU the model counts: give CPUID leaf 1 EAX of it by --cpu-signature")?;
    let features = in_file.first().context("the file gives no CPU")?.features();
    Ok(vec![Vmsa::reset(signature, features); missing])
}

fn text(measurements: &[Measurement], alone: bool) -> String {
    let mut out = String::new();
    for Measurement { host, digest } in measurements {
        match digest {
            Ok(digest) if alone => out += &format!("{digest}\n"),
            Ok(digest) => out += &format!("{:<16} {digest}\n", host.name()),
            Err(_) if alone => {}
            Err(why) => out += &format!("{:<16} refused: {}\n", host.name(), why.replace('\n', "\n  ")),
        }
    }
    out
}

fn json(measurements: &[Measurement]) -> Result<String> {
    let object: serde_json::Map<String, serde_json::Value> = measurements
        .iter()
        .map(|measurement| {
            let value = match &measurement.digest {
                Ok(digest) => json!({ "launch_digest": digest }),
                Err(why) => json!({ "refused": why }),
            };
            (measurement.host.name().to_owned(), value)
        })
        .collect();
    Ok(serde_json::to_string_pretty(&object).context("cannot encode the digests")? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::igvm::image::tests::{image, kernel};
    use litebox_igvm::digest::LaunchDigest;
    use litebox_igvm::vmsa::{KVM_VMSA_GPA, SevFeatures};

    fn args(cpus: u16, cpu_signature: Option<u32>) -> Measure {
        Measure { file: "x".into(), host: Vec::new(), cpus, cpu_signature, json: false }
    }

    #[test]
    fn each_further_cpu_is_measured_behind_the_first() {
        let kernel = kernel();
        let bytes = image(&kernel, b"m").build().unwrap();
        let file = IgvmFile::parse(&bytes).unwrap();
        let digest = |host, cpus, signature| digest(&file, host, &args(cpus, signature));
        let one = digest(HostProfile::Qemu, 1, None).unwrap();
        let three = digest(HostProfile::Qemu, 3, Some(0x00a0_0f11)).unwrap();
        let mut expected = LaunchDigest::new();
        for op in &LoadPlan::new(&file, HostProfile::Qemu).unwrap().ops {
            op.measure(&mut expected);
        }
        assert_eq!(hex(expected.value()), one);
        for _ in 1..3 {
            let reset = Vmsa::reset(0x00a0_0f11, SevFeatures::SNP_ACTIVE);
            expected.vmsa(KVM_VMSA_GPA, &reset.to_page());
        }
        assert_eq!(hex(expected.value()), three);
        assert_eq!(digest(HostProfile::Specification, 3, None), Ok(one));
        assert!(digest(HostProfile::Qemu, 2, None).unwrap_err().contains("--cpu-signature"));
        assert!(digest(HostProfile::OpenVmm, 2, Some(1)).unwrap_err().contains("--host qemu"));
    }

    #[test]
    fn a_single_host_has_the_line_for_itself() {
        let found = |digest: Result<&str, &str>| Measurement {
            host: HostProfile::Qemu,
            digest: digest.map(str::to_owned).map_err(str::to_owned),
        };
        assert_eq!(text(&[found(Ok("ab"))], true), "ab\n");
        assert_eq!(text(&[found(Err("why"))], true), "");
        assert_eq!(text(&[found(Err("why\nand why"))], false), "qemu             refused: why\n  and why\n");
    }
}
