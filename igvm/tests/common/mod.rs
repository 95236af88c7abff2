//! Generated guests, and the files that two builders make of them.
#![allow(dead_code, reason = "each test program uses its part")]

use igvm_defs::{
    IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags,
    IgvmPageDataType, IgvmPlatformType,
};
use litebox_igvm::PAGE_SIZE;
use litebox_igvm::format::{
    Directive, FileBuilder, Initialization, PageData, PageDataType, Parameter, ParameterArea,
    ParameterInsert, ParameterKind, Platform, RequiredMemory, Revision, VpContext,
};
use litebox_igvm::vmsa::{KVM_VMSA_GPA, Vmsa};
use proptest::prelude::*;
use zerocopy::FromBytes;

pub const MASK: u32 = 1;
pub const POLICY: u64 = 0x3_0000;
pub const PAGE: u64 = PAGE_SIZE as u64;

/// One thing in a guest's image. Where it goes follows from its place in the list.
#[derive(Clone)]
pub enum Item {
    Page { data_type: PageDataType, unmeasured: bool, data: Option<Box<[u8; PAGE_SIZE]>> },
    Parameters { pages: u64, kinds: Vec<(ParameterKind, u32)> },
    RequiredMemory,
    Vmsa(Box<Vmsa>),
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Page { data_type, unmeasured, data } => {
                let start = data.as_ref().map(|data| &data[..4]);
                write!(f, "Page({data_type:?}, unmeasured: {unmeasured}, {start:02x?}...)")
            }
            Self::Parameters { pages, kinds } => write!(f, "Parameters({pages}, {kinds:?})"),
            Self::RequiredMemory => f.write_str("RequiredMemory"),
            Self::Vmsa(vmsa) => write!(f, "Vmsa(rip: {:#x})", vmsa.rip),
        }
    }
}

/// A list of items, and a number that scatters their addresses.
#[derive(Clone, Debug)]
pub struct Guest {
    pub items: Vec<Item>,
    pub scatter: u64,
}

pub fn page_of(seed: u64) -> Box<[u8; PAGE_SIZE]> {
    let mut page = Box::new([0; PAGE_SIZE]);
    let mut state = seed | 1;
    for byte in page.iter_mut() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    page
}

fn data() -> impl Strategy<Value = Option<Box<[u8; PAGE_SIZE]>>> {
    prop_oneof![Just(None), any::<u64>().prop_map(|seed| Some(page_of(seed)))]
}

/// A save area that every host accepts.
pub fn vmsa() -> impl Strategy<Value = Box<Vmsa>> {
    any::<[u64; 5]>().prop_map(|[rip, cr3, rsp, rax, r15]| {
        let mut vmsa = Vmsa::long_mode(rip | 1, (cr3 | 1) << 12);
        (vmsa.rsp, vmsa.rax, vmsa.r8_r15[7]) = (rsp, rax, r15);
        Box::new(vmsa)
    })
}

fn parameter() -> impl Strategy<Value = (ParameterKind, u32)> {
    (prop::sample::select(ParameterKind::ALL.as_slice()), 0..512u32).prop_map(|(kind, at)| (kind, at * 8))
}

fn page(types: &'static [PageDataType]) -> impl Strategy<Value = Item> {
    (prop::sample::select(types), any::<bool>(), data())
        .prop_map(|(data_type, unmeasured, data)| Item::Page { data_type, unmeasured, data })
}

/// Guests that use everything, with save areas anywhere.
pub fn any_guest() -> impl Strategy<Value = Guest> {
    const TYPES: &[PageDataType] =
        &[PageDataType::Normal, PageDataType::Secrets, PageDataType::CpuidData, PageDataType::CpuidXf];
    let item = prop_oneof![
        5 => page(TYPES),
        1 => (1..4u64, prop::collection::vec(parameter(), 0..4))
            .prop_map(|(pages, kinds)| Item::Parameters { pages, kinds }),
        1 => Just(Item::RequiredMemory),
        1 => vmsa().prop_map(Item::Vmsa),
    ];
    (prop::collection::vec(item, 0..12), 0..16u64).prop_map(|(items, scatter)| Guest { items, scatter })
}

/// Guests that every host loads: one save area at the end.
pub fn portable_guest() -> impl Strategy<Value = Guest> {
    const TYPES: &[PageDataType] = &[PageDataType::Normal, PageDataType::Secrets, PageDataType::CpuidData];
    let kinds =
        prop::sample::subsequence(vec![(ParameterKind::VpCount, 64), (ParameterKind::MemoryMap, 0)], 0..=2);
    let item = prop_oneof![
        5 => page(TYPES),
        1 => (1..4u64, kinds).prop_map(|(pages, kinds)| Item::Parameters { pages, kinds }),
        1 => Just(Item::RequiredMemory),
    ];
    (prop::collection::vec(item, 1..12), 0..16u64, vmsa()).prop_map(|(mut items, scatter, vmsa)| {
        items.insert(
            0,
            Item::Page { data_type: PageDataType::Normal, unmeasured: false, data: Some(page_of(scatter)) },
        );
        items.push(Item::Vmsa(vmsa));
        Guest { items, scatter }
    })
}

impl Guest {
    /// Nothing overlaps; two neighbours of a pair touch or do not, as the guest has it.
    pub fn gpa(&self, index: usize) -> u64 {
        let pages = match self.items[index] {
            Item::Parameters { pages, .. } => pages,
            _ => 1,
        };
        let slot = index as u64 ^ self.scatter;
        let hole = if self.scatter & 2 == 0 { 0 } else { 1 };
        let in_pair = if slot.is_multiple_of(2) { 8 - pages - hole } else { 8 };
        0x10_0000 + (slot / 2 * 16 + in_pair) * PAGE
    }

    /// Where the save area goes: where KVM measures it, or as a page among others.
    pub fn vmsa_gpa(&self, index: usize) -> u64 {
        if index + 1 == self.items.len() { KVM_VMSA_GPA } else { self.gpa(index) }
    }

    /// Built by this crate.
    pub fn build(&self) -> Vec<u8> {
        self.build_in(Revision::V1)
    }

    pub fn build_in(&self, revision: Revision) -> Vec<u8> {
        let vmsas: Vec<_> = self
            .items
            .iter()
            .map(|item| match item {
                Item::Vmsa(vmsa) => vmsa.to_page(),
                _ => [0; PAGE_SIZE],
            })
            .collect();
        let mut builder = FileBuilder::new(revision);
        builder.platform(Platform::sev_snp(MASK));
        builder.initialization(Initialization::GuestPolicy { policy: POLICY, compatibility_mask: MASK });
        for (index, item) in self.items.iter().enumerate() {
            let gpa = self.gpa(index);
            match item {
                Item::Page { data_type, unmeasured, data } => {
                    builder.directive(Directive::PageData(PageData {
                        gpa,
                        compatibility_mask: MASK,
                        large: false,
                        unmeasured: *unmeasured,
                        shared: false,
                        data_type: *data_type,
                        data: data.as_ref().map(|data| data.as_slice()),
                    }));
                }
                Item::Parameters { pages, kinds } => {
                    let area = index as u32;
                    let size = pages * PAGE;
                    builder.directive(Directive::ParameterArea(ParameterArea {
                        index: area,
                        size,
                        initial: None,
                    }));
                    for &(kind, byte_offset) in kinds {
                        builder.directive(Directive::Parameter(Parameter { kind, index: area, byte_offset }));
                    }
                    builder.directive(Directive::ParameterInsert(ParameterInsert {
                        gpa,
                        compatibility_mask: MASK,
                        index: area,
                    }));
                }
                Item::RequiredMemory => {
                    builder.directive(Directive::RequiredMemory(RequiredMemory {
                        gpa,
                        compatibility_mask: MASK,
                        size: 4096,
                        vtl2_protectable: false,
                    }));
                }
                Item::Vmsa(_) => {
                    builder.directive(Directive::VpContext(VpContext {
                        gpa: self.vmsa_gpa(index),
                        compatibility_mask: MASK,
                        vp_index: 0,
                        data: &vmsas[index],
                    }));
                }
            }
        }
        builder.write().unwrap()
    }

    /// Built by the `igvm` crate.
    pub fn build_with_igvm_crate(&self) -> Vec<u8> {
        let platform = igvm::IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
            compatibility_mask: MASK,
            highest_vtl: 0,
            platform_type: IgvmPlatformType::SEV_SNP,
            platform_version: 1,
            shared_gpa_boundary: 0,
        });
        let policy = igvm::IgvmInitializationHeader::GuestPolicy { policy: POLICY, compatibility_mask: MASK };
        let mut directives = Vec::new();
        for (index, item) in self.items.iter().enumerate() {
            let gpa = self.gpa(index);
            match item {
                Item::Page { data_type, unmeasured, data } => {
                    directives.push(igvm::IgvmDirectiveHeader::PageData {
                        gpa,
                        compatibility_mask: MASK,
                        flags: IgvmPageDataFlags::new().with_unmeasured(*unmeasured),
                        data_type: IgvmPageDataType(data_type.to_raw()),
                        data: data.as_ref().map(|data| data.to_vec()).unwrap_or_default(),
                    });
                }
                Item::Parameters { pages, kinds } => {
                    let area = index as u32;
                    directives.push(igvm::IgvmDirectiveHeader::ParameterArea {
                        number_of_bytes: pages * PAGE,
                        parameter_area_index: area,
                        initial_data: Vec::new(),
                    });
                    for &(kind, byte_offset) in kinds {
                        directives.push(igvm_parameter(
                            kind,
                            IGVM_VHS_PARAMETER { parameter_area_index: area, byte_offset },
                        ));
                    }
                    directives.push(igvm::IgvmDirectiveHeader::ParameterInsert(IGVM_VHS_PARAMETER_INSERT {
                        gpa,
                        compatibility_mask: MASK,
                        parameter_area_index: area,
                    }));
                }
                Item::RequiredMemory => directives.push(igvm::IgvmDirectiveHeader::RequiredMemory {
                    gpa,
                    compatibility_mask: MASK,
                    number_of_bytes: 4096,
                    vtl2_protectable: false,
                }),
                Item::Vmsa(vmsa) => {
                    let page = vmsa.to_page();
                    directives.push(igvm::IgvmDirectiveHeader::SnpVpContext {
                        gpa: self.vmsa_gpa(index),
                        compatibility_mask: MASK,
                        vp_index: 0,
                        vmsa: Box::new(igvm::snp_defs::SevVmsa::read_from_bytes(&page).unwrap()),
                    });
                }
            }
        }
        let file =
            igvm::IgvmFile::new(igvm::IgvmRevision::V1, vec![platform], vec![policy], directives).unwrap();
        let mut bytes = Vec::new();
        file.serialize(&mut bytes).unwrap();
        bytes
    }
}

fn igvm_parameter(kind: ParameterKind, parameter: IGVM_VHS_PARAMETER) -> igvm::IgvmDirectiveHeader {
    use igvm::IgvmDirectiveHeader as Header;
    match kind {
        ParameterKind::VpCount => Header::VpCount(parameter),
        ParameterKind::Srat => Header::Srat(parameter),
        ParameterKind::Madt => Header::Madt(parameter),
        ParameterKind::Slit => Header::Slit(parameter),
        ParameterKind::Pptt => Header::Pptt(parameter),
        ParameterKind::MmioRanges => Header::MmioRanges(parameter),
        ParameterKind::MemoryMap => Header::MemoryMap(parameter),
        ParameterKind::CommandLine => Header::CommandLine(parameter),
        ParameterKind::DeviceTree => Header::DeviceTree(parameter),
        ParameterKind::EnvironmentInfo => Header::EnvironmentInfo(parameter),
    }
}

/// The digest that the `igvm` crate computes.
pub fn igvm_crate_digest(bytes: &[u8]) -> [u8; 48] {
    let file = igvm::IgvmFile::new_from_binary(bytes, Some(igvm::IsolationType::Snp)).unwrap();
    igvm::measurement::generate_snp_measurement(file.initializations(), file.directives(), MASK).unwrap()
}
