//! A launch as the PSP carries it out: SNP_LAUNCH_START, SNP_LAUNCH_UPDATE for each page, SNP_LAUNCH_FINISH.
//!
//! Invariant: the measurement that reports speak of is that of the pages that went through here, in that order, with the contents that memory
//! then had. Nothing else can set it, and it does not change after [`Launch::finish`].
//!
//! Source: SEV-SNP firmware ABI (56860), the commands named above.

use crate::ending::Ending;
use crate::hardware::Hardware;
use crate::memory::PhysicalMemory;
use crate::vm::{FIRST_VMSA, Machine, State};
use alloc::boxed::Box;
use alloc::format;
use litebox_igvm::PAGE_SIZE;
use litebox_igvm::digest::{LaunchDigest, PageType, VmplPermissions};
use litebox_igvm::format::layout::SnpIdBlock;
use litebox_igvm::id_block;
use sha2::{Digest, Sha384};
use test_psp::chip::Chip;
use test_psp::guest::{Finish, Guest, Identity, KeyDigest};
use test_psp::report::ReportVersion;

/// The platform of a launch, and what its keys follow from.
#[derive(Clone, Debug)]
pub struct Platform {
    /// The chip.
    pub chip: Chip,
    /// Of the guest's keys. The same seed gives the same ones.
    pub seed: [u8; 32],
}

impl Platform {
    /// A chip that makes reports of this version, with a launch seed that follows from a number.
    pub fn new(version: ReportVersion, seed: u64) -> Self {
        let digest = Sha384::new().chain_update(b"LiteBox emulated launch").chain_update(seed.to_le_bytes());
        let mut seed = [0; 32];
        for (to, from) in seed.iter_mut().zip(digest.finalize()) {
            *to = from;
        }
        Self { chip: Chip::test(version), seed }
    }
}

/// A launch between its start and its finish.
pub struct Launch {
    guest: Guest,
    digest: LaunchDigest,
    policy: u64,
}

fn refused(step: &str, why: impl core::fmt::Display) -> Ending {
    Ending::Launch(format!("{step}: {why}"))
}

impl Launch {
    /// SNP_LAUNCH_START.
    ///
    /// # Errors
    /// The platform is not one that the policy allows.
    pub fn start(platform: &Platform, policy: u64) -> Result<Self, Ending> {
        let guest = Guest::start(platform.chip.clone(), policy, &platform.seed, None)
            .map_err(|status| refused("SNP_LAUNCH_START", status))?;
        Ok(Self { guest, digest: LaunchDigest::new(), policy })
    }

    /// SNP_LAUNCH_UPDATE: puts a page into memory and measures it. Secrets and CPUID pages are the PSP's to fill; without `data` a page is
    /// zeros.
    ///
    /// # Errors
    /// There is no memory at `gpa`.
    pub fn page<H: Hardware, M: PhysicalMemory>(
        &mut self,
        machine: &mut Machine<H, M>,
        kind: PageType,
        gpa: u64,
        data: Option<&[u8; PAGE_SIZE]>,
    ) -> Result<(), Ending> {
        self.measure(machine, kind, gpa, data);
        let filled;
        let contents = match kind {
            PageType::Secrets => {
                filled = self.guest.secrets_page();
                &filled
            }
            PageType::Cpuid => {
                machine.deposit_cpuid()?;
                filled = machine.cpuid.page();
                &filled
            }
            _ => data.unwrap_or(&[0; PAGE_SIZE]),
        };
        if machine.launch_page(gpa, contents) { Ok(()) } else { Err(Self::no_memory(gpa)) }
    }

    /// The same for a normal page whose contents, and owner, are in place already.
    ///
    /// # Errors
    /// There is no memory at `gpa`.
    pub fn page_in_place<H: Hardware, M: PhysicalMemory>(
        &mut self,
        machine: &mut Machine<H, M>,
        gpa: u64,
    ) -> Result<(), Ending> {
        let spa = machine.map.spa(gpa).ok_or_else(|| Self::no_memory(gpa))?;
        let mut page = [0; PAGE_SIZE];
        machine.memory.read(spa, &mut page);
        self.measure(machine, PageType::Normal, gpa, Some(&page));
        Ok(())
    }

    /// The state of the first CPU, which starts when the launch is over.
    pub fn vmsa<H: Hardware, M: PhysicalMemory>(
        &mut self,
        machine: &mut Machine<H, M>,
        gpa: u64,
        page: &[u8; PAGE_SIZE],
    ) {
        self.digest.vmsa(gpa, page);
        machine.counters.measured_pages += 1;
        machine.first_vmsa = *page;
        if let Some(first) = machine.cpus.first_mut() {
            first.state = State::Starting { vmsa: FIRST_VMSA };
        }
    }

    fn measure<H, M>(
        &mut self,
        machine: &mut Machine<H, M>,
        kind: PageType,
        gpa: u64,
        data: Option<&[u8; PAGE_SIZE]>,
    ) {
        self.digest.page(kind, gpa, data, false, VmplPermissions::NONE);
        machine.counters.measured_pages += u64::from(kind.measures_contents());
        machine.counters.launched_pages += 1;
    }

    fn no_memory(gpa: u64) -> Ending {
        Ending::Launch(format!("there is no memory for the page at {gpa:#x}: give more --memory"))
    }

    /// SNP_LAUNCH_FINISH: from here on the machine has a PSP that answers the guest.
    ///
    /// # Errors
    /// The ID block is not for this launch, or not signed as it must be.
    pub fn finish<H: Hardware, M: PhysicalMemory>(
        mut self,
        machine: &mut Machine<H, M>,
        id_block: Option<&SnpIdBlock>,
    ) -> Result<(), Ending> {
        let step = "SNP_LAUNCH_FINISH";
        let measurement = *self.digest.value();
        let identity = match id_block {
            None => None,
            Some(header) => {
                let id = id_block::Identity::from_header(header, self.policy);
                let keys = id.check(&measurement, self.policy).map_err(|why| refused(step, why))?;
                Some(Identity {
                    family_id: id.block.family_id,
                    image_id: id.block.image_id,
                    guest_svn: id.block.guest_svn.get(),
                    id_key_digest: KeyDigest(keys.id_key),
                    author_key_digest: id.author_key_enabled.then_some(KeyDigest(keys.author_key)),
                })
            }
        };
        // No host data: this host has nothing to add.
        let finish = Finish { measurement, host_data: [0; 32], identity };
        self.guest.finish(finish).map_err(|status| refused(step, status))?;
        machine.digest = measurement;
        machine.policy = self.policy;
        machine.psp = Some(Box::new(self.guest));
        Ok(())
    }
}
