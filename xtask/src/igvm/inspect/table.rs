//! What `inspect` prints.

use std::fmt::Write;

use super::facts::{Facts, IdFacts};
use super::region::Region;
use crate::igvm::manifest::ManifestFacts;

/// The report for a terminal. Nothing of the file reaches it unescaped.
pub fn table(name: &str, facts: &Facts) -> String {
    let mut out = String::new();
    // Writing into a string does not fail.
    let _ = write(&mut out, name, facts);
    out
}

fn write(out: &mut String, name: &str, facts: &Facts) -> std::fmt::Result {
    writeln!(
        out,
        "{name}: IGVM file of version {}, {} bytes, for {}",
        facts.format_version,
        facts.size,
        facts.platforms.join(", ")
    )?;
    match &facts.policy {
        Some(policy) => {
            if policy.debug {
                writeln!(
                    out,
                    "\n*** DEBUG POLICY: the host may read and change this guest. Verification refuses it. ***\n"
                )?;
            }
            writeln!(out, "policy {}: {}", policy.value, policy.clauses.join("; "))?;
        }
        None => writeln!(out, "policy: none")?,
    }
    for cpu in &facts.cpus {
        let physical =
            cpu.rip_physical.map_or_else(|| "not in the file".into(), |at| format!("{at:#x} in memory"));
        writeln!(
            out,
            "CPU {} starts in {} mode at {:#x} ({physical}), SEV_FEATURES {:#x}",
            cpu.index, cpu.mode, cpu.rip, cpu.sev_features
        )?;
    }
    if let Some(c_bit) = facts.c_bit {
        writeln!(out, "made for C-bit {c_bit}")?;
    }

    writeln!(
        out,
        "\n{:>16} {:>16} {:>7}  {:<15} what ({})",
        "from", "to", "pages", "treatment", facts.platform
    )?;
    for Region { start, pages, treatment, what } in &facts.regions {
        let end = start.saturating_add(pages.saturating_mul(4096));
        writeln!(out, "{start:>#16x} {end:>#16x} {pages:>7}  {:<15} {what}", treatment.words())?;
    }
    let counts: Vec<String> = facts
        .pages
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    writeln!(out, "pages: {}", counts.join(", "))?;

    match &facts.manifest {
        Ok(manifest) => write_manifest(out, manifest)?,
        Err(why) => writeln!(out, "\nmanifest: {why}")?,
    }
    match &facts.id_block {
        Some(block) => write_id_block(out, block)?,
        None => writeln!(out, "\nID block: none")?,
    }
    writeln!(out, "\nlaunch digest, by host:")?;
    for host in &facts.hosts {
        match &host.launch_digest {
            Some(digest) => writeln!(out, "  {:<16} {digest}", host.host)?,
            None => writeln!(out, "  {:<16} REFUSED", host.host)?,
        }
        for refusal in &host.refusals {
            writeln!(out, "    {refusal}")?;
        }
    }
    Ok(())
}

fn write_manifest(out: &mut String, manifest: &ManifestFacts) -> std::fmt::Result {
    writeln!(out, "\nmanifest (SHA-256 {}):", manifest.sha256)?;
    match &manifest.root {
        Some(root) => {
            writeln!(out, "  image     {} blocks, verity root {}", root.blocks, root.verity)?;
        }
        None => writeln!(out, "  image     none")?,
    }
    writeln!(out, "  program   {:?}", manifest.exec)?;
    writeln!(out, "  arguments {:?}", manifest.args)?;
    writeln!(out, "  variables {:?}", manifest.env)?;
    writeln!(out, "  directory {:?}, host name {:?}", manifest.workdir, manifest.hostname)?;
    let streams: Vec<&str> = ["standard input", "standard output", "standard error"]
        .into_iter()
        .zip(manifest.terminals)
        .filter_map(|(stream, is)| is.then_some(stream))
        .collect();
    let streams = if streams.is_empty() { "none".into() } else { streams.join(", ") };
    writeln!(out, "  terminals {streams}; kernel log {}", manifest.log)
}

fn write_id_block(out: &mut String, block: &IdFacts) -> std::fmt::Result {
    writeln!(out, "\nID block: {}", block.verdict)?;
    writeln!(out, "  digest    {}", block.launch_digest)?;
    writeln!(out, "  family    {}, image {}, SVN {}", block.family_id, block.image_id, block.guest_svn)?;
    writeln!(out, "  ID key    {} (SHA-384)", block.id_key_digest)?;
    match &block.author_key_digest {
        Some(digest) => writeln!(out, "  author    {digest} (SHA-384)"),
        None => writeln!(out, "  author    none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::igvm::image::Image;
    use crate::igvm::image::tests::{image, kernel};
    use litebox_core::manifest::Manifest;
    use litebox_igvm::policy::GuestPolicy;

    #[test]
    fn a_debug_policy_is_loud_and_terminals_are_not_written_to() {
        let (kernel, args) = (kernel(), vec![b"\x1b[31m".to_vec()]);
        let manifest = Manifest { exec: b"/x".to_vec(), args, ..Manifest::default() }.encode().unwrap();
        let plain = image(&kernel, &manifest);
        let table = |image: &Image<'_>| table("x", &Facts::of(&image.build().unwrap()).unwrap());
        let said = table(&plain);
        assert!(!said.contains("DEBUG") && said.contains("no debugging"), "{said}");
        assert!(!said.contains('\x1b') && said.contains("u{1b}"), "{said}");
        let debug = Image { policy: GuestPolicy(0xb_0000), ..plain };
        assert!(table(&debug).contains("*** DEBUG POLICY"));
    }
}
