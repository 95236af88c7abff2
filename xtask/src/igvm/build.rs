//! `build-igvm`: the launch image of a program, its workload image, and reference values.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use litebox_igvm::format::IgvmFile;
use litebox_igvm::id_block::{ID_BLOCK_VERSION, IdBlock, Identity};
use litebox_igvm::load::LoadPlan;
use sha2::{Digest, Sha256};

use super::arguments::BuildIgvm;
use super::built::Files;
use super::image::{Image, MASK};
use super::key;
use super::reference::{ReferenceValues, Sha256Facts, Versions};
use crate::image::hex;
use crate::workload::manifest::{Session, manifest};
use crate::{kernel, workload};

/// Builds and writes; 0, or what `run-snp` gives for a program that cannot run.
pub fn build_igvm(args: &BuildIgvm) -> i32 {
    super::status(attempt(args))
}

fn attempt(args: &BuildIgvm) -> Result<i32> {
    let files = Files::at(&args.output);
    check_name(&files.igvm, args)?;
    // Keys first: nobody waits for a build to be told of a wrong one.
    let read = |path: &Option<PathBuf>| path.as_deref().map(key::read).transpose();
    let (id_key, author_key) = (read(&args.id_key)?, read(&args.author_key)?);
    let workload = match workload::resolve(&args.program) {
        Ok(workload) => workload,
        Err(refusal) => {
            let _ = writeln!(io::stderr(), "xtask: {}", refusal.why);
            return Ok(refusal.status);
        }
    };
    let manifest = manifest(&args.program, &workload, &Session::default(), args.verbose)?;
    let kernel_path = kernel::build(kernel::PACKAGE)?;
    let elf = fs::read(&kernel_path).with_context(|| format!("cannot read {}", kernel_path.display()))?;
    let kernel = super::kernel::Kernel::parse(&elf)?;
    let mut image = Image {
        kernel: &kernel,
        manifest: &manifest,
        c_bit: args.c_bit,
        policy: args.policy,
        entry: args.entry,
        id_block: None,
    };
    let mut igvm = image.build()?;
    if let Some(id_key) = id_key {
        // An ID block is not measured: the digest is that of the file without it.
        let block = id_block(args, &igvm)?;
        let identity = Identity::sign(block, &id_key, author_key.as_ref());
        image.id_block = Some(identity.to_header(MASK));
        igvm = image.build()?;
    }
    let sha256 = Sha256Facts { igvm: hex(&Sha256::digest(&igvm)), kernel: hex(&Sha256::digest(&elf)) };
    let versions = Versions { litebox: env!("CARGO_PKG_VERSION"), rustc: env!("LITEBOX_RUSTC") };
    let reference = ReferenceValues::new(&igvm, args.host, sha256, versions)?;
    files.write(&igvm, &workload.image.path, &reference.to_json()?)?;
    say(args, &files, &igvm, &reference);
    Ok(0)
}

/// A debug policy shows in the file's name, so that nobody launches such a guest, or trusts it, without seeing it.
fn check_name(igvm: &Path, args: &BuildIgvm) -> Result<()> {
    let name = igvm.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let stem = name.strip_suffix(".igvm").unwrap_or(&name);
    ensure!(
        !args.policy.is_debug() || name.contains("debug"),
        "with a debug policy the host may read and change the guest, and the file's name has to say so: -o {stem}.debug.igvm"
    );
    Ok(())
}

fn id_block(args: &BuildIgvm, igvm: &[u8]) -> Result<IdBlock> {
    let file = IgvmFile::parse(igvm).map_err(|error| anyhow::anyhow!("{error}"))?;
    let plan = LoadPlan::new(&file, args.host).map_err(|error| anyhow::anyhow!("{}: {error}", args.host))?;
    Ok(IdBlock {
        launch_digest: plan.digest(),
        family_id: args.family_id,
        image_id: args.image_id,
        version: ID_BLOCK_VERSION.into(),
        guest_svn: args.guest_svn.into(),
        policy: plan.policy.into(),
    })
}

fn say(args: &BuildIgvm, files: &Files, igvm: &[u8], reference: &ReferenceValues) {
    let mut out = format!(
        "{}: {} bytes, {} measured pages, for {}\n{}: the workload image, to be put beside it\n{}: reference values\nlaunch digest {}\n",
        files.igvm.display(),
        igvm.len(),
        reference.measured_pages(),
        args.host,
        files.image.display(),
        files.reference.display(),
        reference.launch_digest(),
    );
    if args.policy.is_debug() {
        out += "DEBUG POLICY: the host may read and change this guest. Verification refuses it.\n";
    }
    // A closed pipe is the reader's choice.
    let _ = io::stdout().write_all(out.as_bytes());
}
