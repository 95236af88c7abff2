//! Everything that `inspect` says about a file, before it is a table, a picture or JSON.
//!
//! A file that parses can always be inspected, whoever made it: what is not of our making is just not explained.

use std::collections::BTreeMap;

use anyhow::Result;
use litebox_core::manifest::Manifest;
use litebox_igvm::format::layout::SnpIdBlock;
use litebox_igvm::format::{Directive, IgvmFile, PlatformImage, PlatformType, Revision};
use litebox_igvm::id_block::{EcdsaPublicKey, Identity};
use litebox_igvm::load::{LoadError, LoadPlan};
use litebox_igvm::policy::GuestPolicy;
use litebox_igvm::profile::HostProfile;
use litebox_igvm::vmsa::{EntryMode, Vmsa};
use platform_snp::snp::launch::LaunchBlock;
use serde::Serialize;
use zerocopy::FromBytes;

use super::memory::Memory;
use super::region::{Owners, Region, Treatment, regions};
use crate::igvm::manifest::ManifestFacts;
use crate::image::hex;

/// What is known of a file.
#[derive(Debug, Serialize)]
pub struct Facts {
    /// Version of the format.
    pub format_version: u32,
    /// Bytes.
    pub size: usize,
    /// Platforms that it supports.
    pub platforms: Vec<String>,
    /// The one that is described here.
    pub platform: String,
    /// Guest policy, of SEV-SNP.
    pub policy: Option<PolicyFacts>,
    /// What lies where.
    pub regions: Vec<Region>,
    /// Pages by treatment.
    pub pages: BTreeMap<&'static str, u64>,
    /// CPUs whose registers the file holds, of SEV-SNP.
    pub cpus: Vec<CpuFacts>,
    /// Position of the C-bit that an image of ours is made for.
    pub c_bit: Option<u64>,
    /// The manifest of an image of ours, or why there is none.
    pub manifest: Result<ManifestFacts, String>,
    /// The ID block.
    pub id_block: Option<IdFacts>,
    /// What each host makes of it.
    pub hosts: Vec<HostFacts>,
}

/// The policy.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct PolicyFacts {
    /// As a number.
    pub value: String,
    /// The host may read and change the guest.
    pub debug: bool,
    /// In words.
    pub clauses: Vec<String>,
}

impl From<GuestPolicy> for PolicyFacts {
    fn from(policy: GuestPolicy) -> Self {
        Self { value: policy.to_string(), debug: policy.is_debug(), clauses: policy.clauses() }
    }
}

/// How a CPU starts.
#[derive(Debug, Serialize)]
pub struct CpuFacts {
    /// Which.
    pub index: u16,
    /// In which mode.
    pub mode: &'static str,
    /// First instruction, virtual.
    pub rip: u64,
    /// First instruction in memory, where the file's page tables say it.
    pub rip_physical: Option<u64>,
    /// SEV_FEATURES.
    pub sev_features: u64,
}

/// The ID block.
#[derive(Debug, Serialize)]
pub struct IdFacts {
    /// The launch digest that it demands.
    pub launch_digest: String,
    /// Family, image, security version number.
    pub family_id: String,
    /// Likewise.
    pub image_id: String,
    /// Likewise.
    pub guest_svn: u32,
    /// SHA-384 of the ID key, as reports have it.
    pub id_key_digest: String,
    /// Of the author key.
    pub author_key_digest: Option<String>,
    /// Whether the PSP would accept it under each host that loads the file: `accepted`, or why not.
    pub verdict: String,
}

/// A host.
#[derive(Debug, Serialize)]
pub struct HostFacts {
    /// Its name.
    pub host: &'static str,
    /// The launch digest, where it loads the file.
    pub launch_digest: Option<String>,
    /// Why it does not, each rule with its source.
    pub refusals: Vec<String>,
}

impl Facts {
    /// Of a file.
    ///
    /// # Errors
    /// It does not parse.
    pub fn of(bytes: &[u8]) -> Result<Self> {
        let file = IgvmFile::parse(bytes).map_err(|error| anyhow::anyhow!("no valid IGVM file: {error}"))?;
        let described = file
            .platforms()
            .map(|at| at.header.platform_type)
            .max_by_key(|kind| *kind == PlatformType::SevSnp)
            .and_then(|kind| file.for_platform(kind));
        // A file that parses declares a platform.
        let Some(image) = described else { anyhow::bail!("no valid IGVM file: it declares no platform") };
        let is_snp = image.platform().platform_type == PlatformType::SevSnp;
        let memory = Memory::of(&image);
        let cpus: Vec<(u16, Vmsa)> = if is_snp { cpus(&image) } else { Vec::new() };
        let first = cpus.first().map(|(_, vmsa)| vmsa);
        let block = first.and_then(|cpu| Some((cpu.rsi, launch_block(&memory, cpu.rsi)?)));
        let owners = Owners::find(&memory, first, block.as_ref().map(|(at, block)| (*at, block)));
        let regions = regions(&image, &owners);
        let mut pages: BTreeMap<&'static str, u64> = Treatment::ALL.map(|kind| (kind.words(), 0)).into();
        for region in &regions {
            let count = pages.entry(region.treatment.words()).or_default();
            *count = count.saturating_add(region.pages);
        }
        let policy = image.guest_policy().filter(|_| is_snp).map(GuestPolicy);
        let plans = HostProfile::ALL.map(|host| (host, LoadPlan::new(&file, host)));
        Ok(Self {
            format_version: match file.revision() {
                Revision::V1 => 1,
                Revision::V2(_) => 2,
            },
            size: bytes.len(),
            platforms: file.platforms().map(|at| platform_name(at.header.platform_type)).collect(),
            platform: platform_name(image.platform().platform_type),
            policy: policy.map(PolicyFacts::from),
            regions,
            pages,
            cpus: cpus.iter().map(|(index, vmsa)| cpu_facts(*index, vmsa, &memory)).collect(),
            c_bit: block.map(|(_, block)| block.c_bit),
            manifest: manifest(&memory, block.as_ref().map(|(_, block)| block)),
            id_block: id_block(&image).map(|block| id_facts(block, policy.unwrap_or(GuestPolicy(0)), &plans)),
            hosts: plans.iter().map(|(host, plan)| host_facts(*host, plan)).collect(),
        })
    }
}

fn platform_name(kind: PlatformType) -> String {
    match kind {
        PlatformType::Native => "none (native)".into(),
        PlatformType::VsmIsolation => "Hyper-V VSM".into(),
        PlatformType::SevSnp => "AMD SEV-SNP".into(),
        PlatformType::Tdx => "Intel TDX".into(),
        PlatformType::Sev => "AMD SEV".into(),
        PlatformType::SevEs => "AMD SEV-ES".into(),
        PlatformType::Cca => "Arm CCA".into(),
        other => format!("unknown ({})", other.to_raw()),
    }
}

fn cpus(image: &PlatformImage<'_, '_>) -> Vec<(u16, Vmsa)> {
    image
        .directives()
        .filter_map(|at| match at.header {
            Directive::VpContext(context) => Some((context.vp_index, Vmsa::from_page(context.vmsa()?))),
            _ => None,
        })
        .collect()
}

fn cpu_facts(index: u16, vmsa: &Vmsa, memory: &Memory<'_>) -> CpuFacts {
    CpuFacts {
        index,
        mode: match vmsa.entry_mode() {
            EntryMode::Real => "16-bit",
            EntryMode::Protected { paging: false } => "32-bit without paging",
            EntryMode::Protected { paging: true } => "32-bit with paging",
            EntryMode::Long => "64-bit",
            EntryMode::Compatibility => "32-bit under long mode",
        },
        rip: vmsa.rip,
        rip_physical: memory.first_instruction(vmsa),
        sev_features: vmsa.sev_features,
    }
}

/// The launch block of an image of ours: where RSI points.
fn launch_block(memory: &Memory<'_>, at: u64) -> Option<LaunchBlock> {
    let page = memory.page(at).filter(|_| at.is_multiple_of(4096))?;
    let (block, _) = LaunchBlock::read_from_prefix(page).ok()?;
    block.check().ok().map(|()| block)
}

fn manifest(memory: &Memory<'_>, block: Option<&LaunchBlock>) -> Result<ManifestFacts, String> {
    let block = block.ok_or("none: the file is not of our making (no launch block where RSI points)")?;
    let encoded = memory.bytes(block.manifest, block.manifest_len);
    let encoded = encoded.ok_or("not readable: its pages are not in the file")?;
    let manifest = Manifest::parse(&encoded).map_err(|error| format!("not readable: {error}"))?;
    Ok(ManifestFacts::new(&manifest, &encoded))
}

fn id_block<'a>(image: &PlatformImage<'_, 'a>) -> Option<&'a SnpIdBlock> {
    image.directives().find_map(|at| match at.header {
        Directive::SnpIdBlock(block) => Some(block),
        _ => None,
    })
}

type Plan<'a> = Result<LoadPlan<'a>, LoadError>;

fn id_facts(header: &SnpIdBlock, policy: GuestPolicy, plans: &[(HostProfile, Plan<'_>)]) -> IdFacts {
    let identity = Identity::from_header(header, policy.0);
    let digest = |key: &EcdsaPublicKey| hex(&key.digest());
    let (block, keys) = (&identity.block, &identity.authentication);
    let mut verdicts: Vec<String> = Vec::new();
    for (host, plan) in plans {
        let Ok(plan) = plan else { continue };
        let verdict = match identity.check(&plan.digest(), policy.0) {
            Ok(_) => "accepted".into(),
            Err(error) => format!("refused by the PSP under {host}: {error}"),
        };
        if !verdicts.contains(&verdict) {
            verdicts.push(verdict);
        }
    }
    if verdicts.is_empty() {
        verdicts.push("not decided: no host loads the file".into());
    }
    IdFacts {
        launch_digest: hex(&block.launch_digest),
        family_id: hex(&block.family_id),
        image_id: hex(&block.image_id),
        guest_svn: block.guest_svn.get(),
        id_key_digest: digest(&keys.id_key),
        author_key_digest: identity.author_key_enabled.then(|| digest(&keys.author_key)),
        verdict: verdicts.join("; "),
    }
}

fn host_facts(host: HostProfile, plan: &Plan<'_>) -> HostFacts {
    let (launch_digest, refusals) = match plan {
        Ok(plan) => (Some(hex(&plan.digest())), Vec::new()),
        Err(LoadError::Refused(violations)) => (None, violations.iter().map(ToString::to_string).collect()),
        Err(other) => (None, vec![other.to_string()]),
    };
    HostFacts { host: host.name(), launch_digest, refusals }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::igvm::image::tests::{image, kernel};
    use litebox_igvm::format::{FileBuilder, Platform, RequiredMemory, seal};
    use proptest::prelude::*;

    fn manifest() -> Vec<u8> {
        let words = ["/hello", "a\u{1b}[31m"].map(|word| word.as_bytes().to_vec());
        Manifest { exec: words[0].clone(), args: words.into(), ..Manifest::default() }.encode().unwrap()
    }

    #[test]
    fn our_image_is_explained_page_by_page() {
        let (kernel, manifest) = (kernel(), manifest());
        let facts = Facts::of(&image(&kernel, &manifest).build().unwrap()).unwrap();
        let found: Vec<_> = facts
            .regions
            .iter()
            .map(|region| (region.pages, region.treatment, region.what.as_str()))
            .collect();
        use Treatment::{Cpuid, Measured, NotLaunched, Secrets, Unmeasured};
        assert_eq!(
            found,
            [
                (1, Measured, "kernel: code"),
                (1, Measured, "kernel: constants"),
                (1, Measured, "kernel: data"),
                (2, NotLaunched, "kernel: zeroed data, validated by the entry code"),
                (1, Measured, "launch block"),
                (1, Measured, "manifest"),
                (3, Measured, "page tables of the entry"),
                (1, Cpuid, "CPUID page"),
                (1, Secrets, "secrets page"),
                (1, Unmeasured, "parameters: memory map"),
                (1, Measured, "save area of CPU 0"),
            ]
        );
        assert_eq!(facts.pages["measured"], 9);
        assert_eq!(facts.cpus[0].rip_physical, Some(0x10_0000));
        assert_eq!(facts.manifest.as_ref().unwrap().exec, "/hello");
        assert!(facts.hosts.iter().all(|host| host.launch_digest.is_some()));
    }

    #[test]
    fn a_manifest_that_does_not_parse_is_said() {
        let kernel = kernel();
        let facts = Facts::of(&image(&kernel, b"litebox\0").build().unwrap()).unwrap();
        assert_eq!(facts.manifest.unwrap_err(), "not readable: cut off");
    }

    #[test]
    fn files_of_others_are_described_without_a_manifest() {
        let page = [7; 4096];
        let mut file = FileBuilder::new(Revision::V1);
        let platform = Platform { platform_type: PlatformType::Tdx, ..Platform::sev_snp(2) };
        file.platform(platform);
        file.page(2, 0x1000, &page).page(2, 0x2000, &page).page(2, 0x3000, &[0; 4096]);
        file.directive(Directive::RequiredMemory(RequiredMemory {
            gpa: 0x10_0000,
            compatibility_mask: 2,
            size: 0x4000,
            vtl2_protectable: false,
        }));
        let facts = Facts::of(&file.write().unwrap()).unwrap();
        let found: Vec<_> =
            facts.regions.iter().map(|region| (region.start, region.pages, region.treatment)).collect();
        let expected = [
            (0x1000, 2, Treatment::Measured),
            (0x3000, 1, Treatment::Zero),
            (0x10_0000, 4, Treatment::NotLaunched),
        ];
        assert_eq!(found, expected);
        assert_eq!((facts.platform.as_str(), facts.policy, facts.cpus.len()), ("Intel TDX", None, 0));
        assert!(facts.manifest.unwrap_err().contains("not of our making"));
        for host in facts.hosts {
            assert!(host.launch_digest.is_none() && host.refusals[0].contains("no SEV-SNP platform"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        /// What is inspected comes from strangers: the table and the picture are made of whatever parses.
        #[test]
        fn damaged_files_are_survived(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(), is_cut in any::<bool>(), sealed in any::<bool>(),
        ) {
            let (kernel, manifest) = (kernel(), manifest());
            let mut file = image(&kernel, &manifest).build().unwrap();
            for (at, with) in changes {
                let at = at.index(file.len());
                file[at] = with;
            }
            if is_cut {
                file.truncate(cut.index(file.len()));
            }
            if sealed {
                seal(&mut file);
            }
            match Facts::of(&file) {
                Ok(facts) => {
                    super::super::table::table("x", &facts);
                    super::super::svg::picture("x", &facts);
                }
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
