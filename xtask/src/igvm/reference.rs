//! Reference values: what a verifier needs to know of a launch image, without the image.
//!
//! The schema is in `docs/igvm.md`, under a version: what is added keeps it, what changes its meaning or goes away makes a new one. Deterministic
//! as the image is: neither time nor place.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use litebox_igvm::profile::HostProfile;
use serde::Serialize;

use super::inspect::{Facts, IdFacts, PolicyFacts};
use super::manifest::ManifestFacts;

/// The value of `format`.
const FORMAT: &str = "litebox-reference-values";
/// The value of `version`.
const VERSION: u32 = 1;

/// What a verifier compares with.
#[derive(Debug, Serialize)]
pub struct ReferenceValues {
    format: &'static str,
    version: u32,
    /// The host may read and change the guest: a verifier has to refuse it.
    debug: bool,
    /// The host that it was built for.
    host: &'static str,
    /// The MEASUREMENT of reports, of a guest with one CPU.
    launch_digest: String,
    /// The same for every host that loads the file.
    launch_digests: BTreeMap<&'static str, String>,
    /// The POLICY of reports.
    policy: PolicyFacts,
    /// With the ID_KEY_DIGEST and AUTHOR_KEY_DIGEST of reports.
    id_block: Option<IdFacts>,
    /// What runs.
    manifest: ManifestFacts,
    /// Pages by treatment.
    pages: BTreeMap<&'static str, u64>,
    /// SHA-256 of the launch image and of the kernel's file in it.
    sha256: Sha256Facts,
    versions: Versions,
}

/// Digests of files.
#[derive(Debug, Serialize)]
pub struct Sha256Facts {
    /// FILE.igvm.
    pub igvm: String,
    /// The kernel's ELF file.
    pub kernel: String,
}

/// By what it was built.
#[derive(Debug, Serialize)]
pub struct Versions {
    /// Of this program and of the kernel.
    pub litebox: &'static str,
    /// What `rustc --version` says.
    pub rustc: &'static str,
}

impl ReferenceValues {
    /// Of a launch image for a host.
    ///
    /// # Errors
    /// The host would refuse it, or it is none of ours.
    pub fn new(igvm: &[u8], host: HostProfile, sha256: Sha256Facts, versions: Versions) -> Result<Self> {
        let facts = Facts::of(igvm)?;
        let refused =
            facts.hosts.iter().find(|facts| facts.host == host.name() && facts.launch_digest.is_none());
        if let Some(facts) = refused {
            anyhow::bail!("{host} would refuse the launch image:\n{}", facts.refusals.join("\n"));
        }
        let launch_digests: BTreeMap<_, _> =
            facts.hosts.into_iter().filter_map(|host| Some((host.host, host.launch_digest?))).collect();
        let policy = facts.policy.context("the launch image has no policy")?;
        Ok(Self {
            format: FORMAT,
            version: VERSION,
            debug: policy.debug,
            host: host.name(),
            launch_digest: launch_digests
                .get(host.name())
                .cloned()
                .context("the host is none that is known")?,
            launch_digests,
            policy,
            id_block: facts.id_block,
            manifest: facts.manifest.map_err(|why| anyhow::anyhow!("the manifest: {why}"))?,
            pages: facts.pages,
            sha256,
            versions,
        })
    }

    /// The launch digest under the host that it was built for.
    pub fn launch_digest(&self) -> &str {
        &self.launch_digest
    }

    /// Pages of this treatment.
    pub fn measured_pages(&self) -> u64 {
        self.pages.get("measured").copied().unwrap_or_default()
    }

    /// The file's text.
    ///
    /// # Errors
    /// None that can happen.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).context("cannot encode the reference values")? + "\n")
    }
}
