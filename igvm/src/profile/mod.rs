//! What each host refuses, or would load otherwise than the file says.
//!
//! A rule is a function here; it names the source that it was read out of, and so does each [`Violation`]. Read in public
//! sources of 2026, not tried on hardware. A file without violations is launched by the host as [`crate::load`] says, so that
//! its digest can be predicted.

mod cloud_hypervisor;
mod igvm_crate;
mod kvm;
mod openvmm;
mod qemu;
mod specification;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::digest::PageType;
use crate::format::{At, Directive, IgvmFile, PlatformImage, PlatformType, VpContext};
use crate::vmsa::Vmsa;

/// Who loads the file. All real ones on Linux KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HostProfile {
    /// Nobody in particular: what the IGVM specification says, in the order of the file.
    Specification,
    /// QEMU 10.1 or later.
    Qemu,
    /// OpenVMM.
    OpenVmm,
    /// Cloud Hypervisor.
    CloudHypervisor,
}

impl HostProfile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Specification, Self::Qemu, Self::OpenVmm, Self::CloudHypervisor];

    /// The name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Specification => "specification",
            Self::Qemu => "qemu",
            Self::OpenVmm => "openvmm",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }

    /// The profile of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// Whether KVM builds and measures the save areas itself, last and at its own address.
    pub const fn is_kvm(self) -> bool {
        !matches!(self, Self::Specification)
    }

    /// What the PSP is told of a measured page without data: the specification wants a normal page of zeros, Cloud Hypervisor
    /// on KVM takes the PSP's zero page (`igvm_loader.rs`, `load_igvm`).
    pub const fn zero_page_type(self) -> PageType {
        match self {
            Self::CloudHypervisor => PageType::Zero,
            Self::Specification | Self::Qemu | Self::OpenVmm => PageType::Normal,
        }
    }

    /// Everything that this host would refuse or load otherwise; empty if it loads the file as an SNP guest.
    pub fn check(self, file: &IgvmFile<'_>) -> Vec<Violation> {
        let Some(image) = file.for_platform(PlatformType::SevSnp) else {
            return Vec::from([Violation {
                offset: 0,
                source: "IGVM specification, SUPPORTED_PLATFORM",
                what: "no SEV-SNP platform: declare one".into(),
            }]);
        };
        let mut check = Check { file, image, violations: Vec::new() };
        match self {
            Self::Specification => specification::check(&mut check),
            Self::Qemu => qemu::check(&mut check),
            Self::OpenVmm => openvmm::check(&mut check),
            Self::CloudHypervisor => cloud_hypervisor::check(&mut check),
        }
        check.violations
    }
}

impl fmt::Display for HostProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A rule that a file breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Of the header, from the start of the file; 0 for the file as a whole.
    pub offset: usize,
    /// Where the rule was read.
    pub source: &'static str,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:#x}: {} ({})", self.offset, self.what, self.source)
    }
}

/// More than anybody reads. A hostile file could break a rule with every eight bytes.
const MAX_VIOLATIONS: usize = 256;

/// A check under way.
struct Check<'f, 'a> {
    file: &'f IgvmFile<'a>,
    image: PlatformImage<'f, 'a>,
    violations: Vec<Violation>,
}

impl<'a> Check<'_, 'a> {
    fn fail(&mut self, offset: usize, source: &'static str, what: impl Into<String>) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation { offset, source, what: what.into() });
        }
    }

    fn fail_unless(&mut self, ok: bool, offset: usize, source: &'static str, what: impl Into<String>) {
        if !ok {
            self.fail(offset, source, what);
        }
    }

    /// The VP contexts of the SNP platform, and their save areas.
    fn contexts(&self) -> impl Iterator<Item = (At<VpContext<'a>>, Vmsa)> + use<'a> {
        self.image.directives().filter_map(|at| match at.header {
            Directive::VpContext(context) => {
                let vmsa = Vmsa::from_page(context.vmsa()?);
                Some((At { offset: at.offset, header: context }, vmsa))
            }
            _ => None,
        })
    }

    /// That every save area is equal to what the host would make of it.
    fn vmsas_survive(&mut self, source: &'static str, rebuilt: impl Fn(&Vmsa) -> Vmsa) {
        for (at, vmsa) in self.contexts() {
            if let Some(field) = vmsa.first_difference(&rebuilt(&vmsa)) {
                let what = alloc::format!(
                    "the save area's `{field}` would not reach the CPU as it is, and would be measured otherwise: \
                     clear it, or set its reset value"
                );
                self.fail(at.offset, source, what);
            }
        }
    }
}

#[cfg(test)]
mod tests;
