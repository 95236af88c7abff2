//! What is expected to have been launched: from an IGVM file, or from the reference values that `build-igvm` wrote beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use litebox_igvm::format::IgvmFile;
use litebox_igvm::id_block::Identity;
use litebox_igvm::load::LoadPlan;
use litebox_igvm::profile::HostProfile;
use serde::Deserialize;

use crate::unhex;

/// A launch image, as reports know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What it is called here: its file.
    pub name: String,
    /// MEASUREMENT by host.
    pub digests: BTreeMap<String, [u8; 48]>,
    /// POLICY.
    pub policy: u64,
    /// ID_KEY_DIGEST, if there is an ID block.
    pub id_key: Option<[u8; 48]>,
    /// AUTHOR_KEY_DIGEST, if there is an author key.
    pub author_key: Option<[u8; 48]>,
    /// SHA-256 of the manifest in it, where that is known.
    pub manifest: Option<[u8; 32]>,
    /// dm-verity root hash of the workload image that the manifest names.
    pub workload: Option<[u8; 32]>,
}

/// The part of the reference values that is needed here.
#[derive(Deserialize)]
struct Reference {
    format: String,
    version: u32,
    launch_digests: BTreeMap<String, String>,
    policy: PolicyPart,
    id_block: Option<IdPart>,
    manifest: ManifestPart,
}

#[derive(Deserialize)]
struct PolicyPart {
    value: String,
}

#[derive(Deserialize)]
struct IdPart {
    id_key_digest: String,
    author_key_digest: Option<String>,
}

#[derive(Deserialize)]
struct ManifestPart {
    sha256: String,
    root: Option<RootPart>,
}

#[derive(Deserialize)]
struct RootPart {
    verity: String,
}

impl Image {
    /// Reads FILE.igvm or its reference values.
    ///
    /// # Errors
    /// It is neither, or no host that is known here launches it.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path
            .file_name()
            .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let image = if bytes.starts_with(b"IGVM") {
            Self::of_igvm(&bytes, name)
        } else {
            Self::of_reference(&bytes, name)
        };
        image.with_context(|| path.display().to_string())
    }

    /// Of the bytes of an IGVM file. It does not say what its manifest is: reference values do.
    ///
    /// # Errors
    /// It is malformed, or no known host launches it.
    pub fn of_igvm(bytes: &[u8], name: String) -> Result<Self> {
        let file = IgvmFile::parse(bytes).map_err(|error| anyhow::anyhow!("{error}"))?;
        let (mut digests, mut policy, mut keys) = (BTreeMap::new(), 0, None);
        for host in HostProfile::ALL {
            if let Ok(plan) = LoadPlan::new(&file, host) {
                let digest = plan.digest();
                if let Some(header) = plan.id_block {
                    let identity = Identity::from_header(header, plan.policy);
                    keys = keys.or(identity.check(&digest, plan.policy).ok());
                }
                policy = plan.policy;
                digests.insert(host.name().to_owned(), digest);
            }
        }
        ensure!(!digests.is_empty(), "no host that is known would launch it; `cargo xtask measure` says why");
        let (id_key, author_key) =
            keys.map_or((None, None), |keys| (Some(keys.id_key), Some(keys.author_key)));
        let author_key = author_key.filter(|digest| *digest != [0; 48]);
        Ok(Self { name, digests, policy, id_key, author_key, manifest: None, workload: None })
    }

    /// Of reference values.
    ///
    /// # Errors
    /// They are none, or of another version.
    pub fn of_reference(json: &[u8], name: String) -> Result<Self> {
        let neither = "neither an IGVM file nor reference values that build-igvm wrote";
        let reference: Reference = serde_json::from_slice(json).context(neither)?;
        ensure!(reference.format == "litebox-reference-values", neither);
        ensure!(reference.version == 1, "reference values of version {}; known is 1", reference.version);
        let mut digests = BTreeMap::new();
        for (host, digest) in reference.launch_digests {
            digests.insert(host, unhex(&digest).context("a launch digest is not 48 bytes in hexadecimal")?);
        }
        let Some(policy) =
            reference.policy.value.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok())
        else {
            bail!("the policy is no number in hexadecimal");
        };
        let digest = |text: &str| unhex(text).context("a key's digest is not 48 bytes in hexadecimal");
        let id_key = reference.id_block.as_ref().map(|block| digest(&block.id_key_digest)).transpose()?;
        let author_key = reference.id_block.and_then(|block| block.author_key_digest);
        let author_key = author_key.map(|text| digest(&text)).transpose()?;
        let manifest = unhex(&reference.manifest.sha256).context("the manifest's SHA-256 is none")?;
        let workload =
            reference.manifest.root.map(|root| unhex(&root.verity).context("the root hash is none"));
        Ok(Self {
            name,
            digests,
            policy,
            id_key,
            author_key,
            manifest: Some(manifest),
            workload: workload.transpose()?,
        })
    }

    /// The hosts under which the image has this measurement.
    pub fn hosts_with(&self, measurement: &[u8; 48]) -> Vec<&str> {
        self.digests
            .iter()
            .filter(|(_, digest)| *digest == measurement)
            .map(|(host, _)| host.as_str())
            .collect()
    }
}
