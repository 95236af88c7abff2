//! What a host does with a file, step by step, and the launch digest that comes out of it.
//!
//! A [`LoadPlan`] exists only for a file that its host loads: [`HostProfile::check`] found nothing, no two pages overlap, and the
//! amount of work is bounded. The order of the steps is the host's, not always the file's, and the digest depends on it:
//!
//! * KVM builds the save areas itself, and measures them last and at [`KVM_VMSA_GPA`] (Linux `arch/x86/kvm/svm/sev.c`,
//!   `snp_launch_update_vmsa`).
//! * QEMU collects a run of adjacent pages and adds it when a page comes that does not continue the run; a PARAMETER_INSERT is
//!   added at once, and thereby before the run (`backends/igvm.c`, `qigvm_process_mem_page`).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use crate::digest::{LaunchDigest, PageType, Sha384Digest, VmplPermissions};
use crate::format::layout::SnpIdBlock;
use crate::format::{
    At, Directive, IgvmFile, PageData, PageDataType, Parameter, ParameterArea, Platform, PlatformType,
};
use crate::parameter::MAX_PARAMETER_BYTES;
use crate::profile::{HostProfile, Violation};
use crate::vmsa::{KVM_VMSA_GPA, Vmsa};
use crate::{LARGE_PAGE_SIZE, PAGE_SIZE};

/// Pages of 4 KiB that a plan may give to the PSP: 4 GiB. At a millisecond each nobody waits for more.
pub const MAX_LAUNCH_PAGES: u64 = 1 << 20;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadOp<'a> {
    /// SNP_LAUNCH_UPDATE of a page.
    Page {
        /// Where.
        gpa: u64,
        /// What the PSP is told.
        page_type: PageType,
        /// 2 MiB instead of 4 KiB.
        large: bool,
        /// Its contents, as many bytes; `None` for zeros. What the PSP or the host fills in comes from them, not from here.
        data: Option<&'a [u8]>,
    },
    /// A CPU, and SNP_LAUNCH_UPDATE of its save area.
    Vmsa {
        /// Where it is measured.
        gpa: u64,
        /// Which CPU.
        vp_index: u16,
        /// Its registers, see [`Vmsa`].
        vmsa: &'a [u8; PAGE_SIZE],
    },
    /// A page that the host can see; not measured.
    Shared {
        /// Where.
        gpa: u64,
        /// Bytes.
        size: u64,
        /// Its contents; `None` for zeros.
        data: Option<&'a [u8]>,
    },
    /// Make a parameter area.
    ParameterArea(ParameterArea<'a>),
    /// Write a value into one.
    Parameter(Parameter),
    /// Put one into the guest: SNP_LAUNCH_UPDATE of its pages, unmeasured, the lowest first.
    ParameterInsert {
        /// Where.
        gpa: u64,
        /// Which area.
        index: u32,
        /// Bytes.
        size: u64,
    },
    /// See that there is memory.
    RequiredMemory {
        /// Where.
        gpa: u64,
        /// Bytes.
        size: u64,
    },
}

/// Why a file is not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadError {
    /// The host refuses it, for at least one reason.
    Refused(Vec<Violation>),
    /// A page that is there already: the PSP does not take one twice.
    Overlap {
        /// Of the header.
        offset: usize,
        /// Address of the second.
        gpa: u64,
    },
    /// An address beyond 52 bits.
    AddressTooHigh {
        /// Of the header.
        offset: usize,
        /// The address.
        gpa: u64,
    },
    /// More pages than [`MAX_LAUNCH_PAGES`], or larger parameter areas than [`MAX_PARAMETER_BYTES`].
    TooLarge {
        /// Of the header that made it too large.
        offset: usize,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(violations) => {
                f.write_str("the host would not load it")?;
                violations.iter().try_for_each(|violation| write!(f, "\n{violation}"))
            }
            Self::Overlap { offset, gpa } => {
                write!(f, "at {offset:#x}: memory at {gpa:#x} is given twice: leave one out")
            }
            Self::AddressTooHigh { offset, gpa } => {
                write!(f, "at {offset:#x}: {gpa:#x} has more than 52 bits: load it lower")
            }
            Self::TooLarge { offset } => write!(
                f,
                "at {offset:#x}: more than {MAX_LAUNCH_PAGES} pages or {MAX_PARAMETER_BYTES} bytes of parameters: \
                 load the rest at run time"
            ),
        }
    }
}

impl core::error::Error for LoadError {}

/// All steps, in the order of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPlan<'a> {
    /// The platform: highest VTL, shared GPA boundary.
    pub platform: Platform,
    /// The guest policy for SNP_LAUNCH_START.
    pub policy: u64,
    /// The steps. With more than one CPU, KVM adds a save area for each of the others: see [`LoadPlan::digest_with`].
    pub ops: Vec<LoadOp<'a>>,
    /// For SNP_LAUNCH_FINISH.
    pub id_block: Option<&'a SnpIdBlock>,
}

/// The memory that is given so far.
#[derive(Default)]
struct Given {
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
    launch_pages: u64,
    parameter_bytes: u64,
}

impl Given {
    fn add(&mut self, offset: usize, gpa: u64, size: u64) -> Result<(), LoadError> {
        let Some(end) = gpa.checked_add(size).filter(|&end| end <= 1 << 52) else {
            return Err(LoadError::AddressTooHigh { offset, gpa });
        };
        if size == 0 {
            return Ok(());
        }
        if self.ranges.range(..end).next_back().is_some_and(|(_, &other_end)| other_end > gpa) {
            return Err(LoadError::Overlap { offset, gpa });
        }
        self.ranges.insert(gpa, end);
        Ok(())
    }

    fn launch(&mut self, offset: usize, gpa: u64, size: u64) -> Result<(), LoadError> {
        self.add(offset, gpa, size)?;
        self.launch_pages += size / PAGE_SIZE as u64;
        if self.launch_pages > MAX_LAUNCH_PAGES { Err(LoadError::TooLarge { offset }) } else { Ok(()) }
    }

    fn parameters(&mut self, offset: usize, size: u64) -> Result<(), LoadError> {
        self.parameter_bytes = self.parameter_bytes.saturating_add(size);
        if self.parameter_bytes > MAX_PARAMETER_BYTES { Err(LoadError::TooLarge { offset }) } else { Ok(()) }
    }
}

/// Puts steps in the order of the host.
struct Sequencer<'a> {
    profile: HostProfile,
    ops: Vec<LoadOp<'a>>,
    /// QEMU: the run of pages that is not yet added.
    run: Vec<LoadOp<'a>>,
    /// QEMU: the header, counted in the whole file, and the page that ended the run so far.
    run_end: Option<(usize, PageData<'a>)>,
    /// KVM: the save areas.
    vmsas: Vec<LoadOp<'a>>,
}

impl<'a> Sequencer<'a> {
    fn page(&mut self, header: usize, page: PageData<'a>, op: LoadOp<'a>) {
        if self.profile != HostProfile::Qemu {
            return self.ops.push(op);
        }
        let continues = self.run_end.is_some_and(|(last_header, last)| {
            header == last_header + 1
                && page.gpa == last.gpa.wrapping_add(last.size() as u64)
                && page.data.is_none() == last.data.is_none()
                && page.compatibility_mask == last.compatibility_mask
                && (page.large, page.unmeasured, page.shared) == (last.large, last.unmeasured, last.shared)
                && page.data_type == last.data_type
        });
        if !continues {
            self.ops.append(&mut self.run);
        }
        self.run.push(op);
        self.run_end = Some((header, page));
    }

    fn vmsa(&mut self, gpa: u64, vp_index: u16, vmsa: &'a [u8; PAGE_SIZE]) {
        if self.profile.is_kvm() {
            self.vmsas.push(LoadOp::Vmsa { gpa: KVM_VMSA_GPA, vp_index, vmsa });
        } else {
            self.ops.push(LoadOp::Vmsa { gpa, vp_index, vmsa });
        }
    }

    fn finish(mut self) -> Vec<LoadOp<'a>> {
        self.ops.append(&mut self.run);
        self.ops.append(&mut self.vmsas);
        self.ops
    }
}

/// What the PSP is told of a page.
fn page_type(page: &PageData<'_>, profile: HostProfile) -> PageType {
    match page.data_type {
        PageDataType::Secrets => PageType::Secrets,
        PageDataType::CpuidData | PageDataType::CpuidXf => PageType::Cpuid,
        PageDataType::Normal if page.unmeasured => PageType::Unmeasured,
        PageDataType::Normal if page.data.is_none() => profile.zero_page_type(),
        PageDataType::Normal => PageType::Normal,
    }
}

impl<'a> LoadPlan<'a> {
    /// What the host does with the file.
    pub fn new(file: &IgvmFile<'a>, profile: HostProfile) -> Result<Self, LoadError> {
        let violations = profile.check(file);
        let image = match file.for_platform(PlatformType::SevSnp) {
            Some(image) if violations.is_empty() => image,
            _ => return Err(LoadError::Refused(violations)),
        };
        let mask = image.platform().compatibility_mask;
        let mut given = Given::default();
        let mut sequence =
            Sequencer { profile, ops: Vec::new(), run: Vec::new(), run_end: None, vmsas: Vec::new() };
        let mut area_sizes = BTreeMap::new();
        let mut id_block = None;
        for (header, At { offset, header: directive }) in file.directives().enumerate() {
            if directive.compatibility_mask().is_some_and(|other| other & mask == 0) {
                continue;
            }
            match directive {
                Directive::PageData(page) if page.shared => {
                    let (gpa, size) = (page.gpa, page.size() as u64);
                    given.add(offset, gpa, size)?;
                    sequence.ops.push(LoadOp::Shared { gpa, size, data: page.data });
                }
                Directive::PageData(page) => {
                    given.launch(offset, page.gpa, page.size() as u64)?;
                    let op = LoadOp::Page {
                        gpa: page.gpa,
                        page_type: page_type(&page, profile),
                        large: page.large,
                        data: page.data,
                    };
                    sequence.page(header, page, op);
                }
                Directive::ParameterArea(area) => {
                    given.parameters(offset, area.size)?;
                    area_sizes.insert(area.index, area.size);
                    sequence.ops.push(LoadOp::ParameterArea(area));
                }
                Directive::Parameter(parameter) => sequence.ops.push(LoadOp::Parameter(parameter)),
                Directive::ParameterInsert(insert) => {
                    let size = area_sizes.get(&insert.index).copied().unwrap_or_default();
                    given.launch(offset, insert.gpa, size)?;
                    let (gpa, index) = (insert.gpa, insert.index);
                    sequence.ops.push(LoadOp::ParameterInsert { gpa, index, size });
                }
                Directive::VpContext(context) => {
                    // `parse` made sure that contexts of this platform are whole pages.
                    let Some(page) = context.vmsa() else { continue };
                    if !profile.is_kvm() {
                        given.launch(offset, context.gpa, PAGE_SIZE as u64)?;
                    }
                    sequence.vmsa(context.gpa, context.vp_index, page);
                }
                Directive::RequiredMemory(memory) => {
                    let (gpa, size) = (memory.gpa, memory.size.into());
                    sequence.ops.push(LoadOp::RequiredMemory { gpa, size });
                }
                Directive::ErrorRange(range) => {
                    let (gpa, size) = (range.gpa, range.size.into());
                    given.add(offset, gpa, size)?;
                    sequence.ops.push(LoadOp::Shared { gpa, size, data: None });
                }
                Directive::SnpIdBlock(block) => id_block = Some(block),
                Directive::Unknown(_) => {}
            }
        }
        Ok(Self {
            platform: image.platform(),
            policy: image.guest_policy().unwrap_or_default(),
            ops: sequence.finish(),
            id_block,
        })
    }

    /// The launch digest that the PSP will have.
    pub fn digest(&self) -> Sha384Digest {
        self.digest_with(&[])
    }

    /// The same with further CPUs, whose save areas KVM measures behind that of the first.
    pub fn digest_with(&self, further_cpus: &[Vmsa]) -> Sha384Digest {
        let mut digest = LaunchDigest::new();
        for op in &self.ops {
            op.measure(&mut digest);
        }
        for vmsa in further_cpus {
            digest.vmsa(KVM_VMSA_GPA, &vmsa.to_page());
        }
        *digest.value()
    }
}

impl LoadOp<'_> {
    /// Adds the step to a digest.
    pub fn measure(&self, digest: &mut LaunchDigest) {
        let none = VmplPermissions::NONE;
        match self {
            Self::Page { gpa, page_type, large: true, data } => {
                let data: Option<&[u8; LARGE_PAGE_SIZE]> = data.and_then(|data| data.try_into().ok());
                digest.large_page(*page_type, *gpa, data, false, none);
            }
            Self::Page { gpa, page_type, large: false, data } => {
                let data: Option<&[u8; PAGE_SIZE]> = data.and_then(|data| data.try_into().ok());
                digest.page(*page_type, *gpa, data, false, none);
            }
            Self::Vmsa { gpa, vmsa, .. } => digest.vmsa(*gpa, vmsa),
            Self::ParameterInsert { gpa, size, .. } => {
                for page in 0..size / PAGE_SIZE as u64 {
                    let gpa = gpa.wrapping_add(page * PAGE_SIZE as u64);
                    digest.page(PageType::Unmeasured, gpa, None, false, none);
                }
            }
            Self::Shared { .. }
            | Self::ParameterArea(_)
            | Self::Parameter(_)
            | Self::RequiredMemory { .. } => {}
        }
    }
}

/// The launch digest of a file under a host.
pub fn measure(file: &IgvmFile<'_>, profile: HostProfile) -> Result<Sha384Digest, LoadError> {
    Ok(LoadPlan::new(file, profile)?.digest())
}
