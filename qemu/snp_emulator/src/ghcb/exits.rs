//! The exits that a GHCB page can ask for, with their input checked (specification, table 6 and section 4.1).

use super::page::{Field, Malformed, Snapshot};
use crate::vmcb::exit;
use alloc::vec::Vec;

/// A port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// Port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// IN, not OUT.
    pub input: bool,
    /// INS or OUTS through the scratch area, this many units.
    pub string: Option<u32>,
}

/// An AP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApRequest {
    /// Create at the next INIT.
    CreateOnInit,
    /// Create and start.
    Create,
    /// Destroy.
    Destroy,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Exit {
    ReadDr7,
    WriteDr7(u64),
    Rdtsc,
    Rdpmc,
    Cpuid { leaf: u32, subleaf: u32, xcr0: u64 },
    Invd,
    Port(PortAccess),
    ReadMsr(u32),
    WriteMsr(u32, u64),
    Vmmcall,
    Rdtscp,
    Wbinvd,
    Monitor,
    Mwait,
    MmioRead { gpa: u64, size: u8 },
    MmioWrite { gpa: u64, size: u8 },
    NmiComplete,
    ResetHold,
    JumpTable,
    PageState,
    GuestRequest { request: u64, response: u64 },
    ExtendedGuestRequest { request: u64, response: u64, certificates: u64, pages: u64 },
    ApCreation { what: ApRequest, apic_id: u32, vmpl: u8, vmsa: u64, features: u64 },
    ApicIds { pages: u64, gpa: u64 },
    RunVmpl(u8),
    Features,
    Terminate { set: u8, code: u8 },
}

/// Exit codes of the specification's own (table 6).
pub mod code {
    #![allow(missing_docs)]
    pub const MMIO_READ: u64 = 0x8000_0001;
    pub const MMIO_WRITE: u64 = 0x8000_0002;
    pub const NMI_COMPLETE: u64 = 0x8000_0003;
    pub const RESET_HOLD: u64 = 0x8000_0004;
    pub const JUMP_TABLE: u64 = 0x8000_0005;
    pub const PAGE_STATE: u64 = 0x8000_0010;
    pub const GUEST_REQUEST: u64 = 0x8000_0011;
    pub const EXTENDED_GUEST_REQUEST: u64 = 0x8000_0012;
    pub const AP_CREATION: u64 = 0x8000_0013;
    pub const APIC_IDS: u64 = 0x8000_0017;
    pub const RUN_VMPL: u64 = 0x8000_0018;
    pub const FEATURES: u64 = 0x8000_fffd;
    pub const TERMINATE: u64 = 0x8000_fffe;
}

impl Exit {
    /// Reads the request out of the page.
    ///
    /// # Errors
    /// What the host answers instead of doing it.
    pub fn decode(page: &Snapshot) -> Result<Exit, Malformed> {
        page.check()?;
        let number = page.need(Field::ExitCode)?;
        let info1 = page.need(Field::ExitInfo1)?;
        let info2 = page.need(Field::ExitInfo2)?;
        let low = |field| page.need(field).map(|value| value as u32);
        let size = |n: u64| match n {
            1 | 2 | 4 | 8 => Ok(n as u8),
            _ => Err(Malformed::Input),
        };
        Ok(match number {
            exit::READ_DR7 => Exit::ReadDr7,
            exit::WRITE_DR7 => Exit::WriteDr7(page.need(Field::Rax)?),
            exit::RDTSC => Exit::Rdtsc,
            exit::RDPMC => {
                page.need(Field::Rcx)?;
                Exit::Rdpmc
            }
            exit::CPUID => {
                let (leaf, subleaf) = (low(Field::Rax)?, low(Field::Rcx)?);
                let xcr0 = if leaf == 0xd { page.need(Field::Xcr0)? } else { 1 };
                Exit::Cpuid { leaf, subleaf, xcr0 }
            }
            exit::INVD => Exit::Invd,
            exit::IOIO => Exit::Port(Self::port(page, info1, info2)?),
            exit::MSR if info1 == 0 => Exit::ReadMsr(low(Field::Rcx)?),
            exit::MSR if info1 == 1 => Exit::WriteMsr(
                low(Field::Rcx)?,
                u64::from(low(Field::Rdx)?) << 32 | u64::from(low(Field::Rax)?),
            ),
            exit::MSR => return Err(Malformed::Input),
            exit::VMMCALL => {
                page.need(Field::Rax)?;
                page.need(Field::Cpl)?;
                Exit::Vmmcall
            }
            exit::RDTSCP => Exit::Rdtscp,
            exit::WBINVD => Exit::Wbinvd,
            exit::MONITOR => Exit::Monitor,
            exit::MWAIT => Exit::Mwait,
            code::MMIO_READ => Exit::MmioRead { gpa: info1, size: size(info2)? },
            code::MMIO_WRITE => Exit::MmioWrite { gpa: info1, size: size(info2)? },
            code::NMI_COMPLETE => Exit::NmiComplete,
            code::RESET_HOLD => Exit::ResetHold,
            code::JUMP_TABLE if info1 <= 1 => Exit::JumpTable,
            code::PAGE_STATE => Exit::PageState,
            code::GUEST_REQUEST | code::EXTENDED_GUEST_REQUEST => {
                if info1 % 4096 != 0 || info2 % 4096 != 0 || info1 == info2 {
                    return Err(Malformed::Input);
                }
                if number == code::GUEST_REQUEST {
                    Exit::GuestRequest { request: info1, response: info2 }
                } else {
                    Exit::ExtendedGuestRequest {
                        request: info1,
                        response: info2,
                        certificates: page.need(Field::Rax)?,
                        pages: page.need(Field::Rbx)?,
                    }
                }
            }
            code::AP_CREATION => {
                let what = match info1 & 0xffff {
                    0 => ApRequest::CreateOnInit,
                    1 => ApRequest::Create,
                    2 => ApRequest::Destroy,
                    _ => return Err(Malformed::Input),
                };
                let features = if what == ApRequest::Destroy { 0 } else { page.need(Field::Rax)? };
                let (vmpl, apic_id) = ((info1 >> 16 & 15) as u8, (info1 >> 32) as u32);
                if what != ApRequest::Destroy && info2 % 4096 != 0 {
                    return Err(Malformed::Input);
                }
                Exit::ApCreation { what, apic_id, vmpl, vmsa: info2, features }
            }
            code::APIC_IDS => Exit::ApicIds { pages: page.need(Field::Rax)?, gpa: info1 },
            code::RUN_VMPL => Exit::RunVmpl(info1 as u8),
            code::FEATURES => Exit::Features,
            code::TERMINATE => Exit::Terminate { set: (info1 & 15) as u8, code: (info1 >> 4) as u8 },
            _ => return Err(Malformed::Event),
        })
    }

    fn port(page: &Snapshot, info1: u64, info2: u64) -> Result<PortAccess, Malformed> {
        let size = match info1 >> 4 & 7 {
            1 => 1,
            2 => 2,
            4 => 4,
            _ => return Err(Malformed::Input),
        };
        let (input, string, repeat) = (info1 & 1 != 0, info1 & 4 != 0, info1 & 8 != 0);
        let string = match (string, repeat) {
            (false, _) => None,
            (true, false) => Some(1),
            (true, true) => Some(u32::try_from(info2).map_err(|_| Malformed::Input)?),
        };
        if string.is_none() && !input {
            page.need(Field::Rax)?;
        }
        Ok(PortAccess { port: (info1 >> 16) as u16, size, input, string })
    }

    /// Its name, for traces and counters.
    pub fn name(&self) -> &'static str {
        match self {
            Exit::ReadDr7 => "read-dr7",
            Exit::WriteDr7(_) => "write-dr7",
            Exit::Rdtsc => "rdtsc",
            Exit::Rdpmc => "rdpmc",
            Exit::Cpuid { .. } => "cpuid",
            Exit::Invd => "invd",
            Exit::Port(PortAccess { input: true, .. }) => "port-in",
            Exit::Port(_) => "port-out",
            Exit::ReadMsr(_) => "rdmsr",
            Exit::WriteMsr(..) => "wrmsr",
            Exit::Vmmcall => "vmmcall",
            Exit::Rdtscp => "rdtscp",
            Exit::Wbinvd => "wbinvd",
            Exit::Monitor => "monitor",
            Exit::Mwait => "mwait",
            Exit::MmioRead { .. } => "mmio-read",
            Exit::MmioWrite { .. } => "mmio-write",
            Exit::NmiComplete => "nmi-complete",
            Exit::ResetHold => "ap-reset-hold",
            Exit::JumpTable => "ap-jump-table",
            Exit::PageState => "page-state-change",
            Exit::GuestRequest { .. } => "guest-request",
            Exit::ExtendedGuestRequest { .. } => "extended-guest-request",
            Exit::ApCreation { .. } => "ap-creation",
            Exit::ApicIds { .. } => "apic-ids",
            Exit::RunVmpl(_) => "run-vmpl",
            Exit::Features => "hypervisor-features",
            Exit::Terminate { .. } => "terminate",
        }
    }
}

/// What a page state change asks for one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOperation {
    /// 1.
    Private,
    /// 2.
    Shared,
    /// 3.
    Psmash,
    /// 4.
    Unsmash,
}

/// An entry of a page state change (specification, table 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageStateEntry {
    /// Pages of a 2 MiB entry that were done before.
    pub current: u16,
    /// Address.
    pub gpa: u64,
    /// What.
    pub operation: PageOperation,
    /// 2 MiB.
    pub large: bool,
}

/// Entries that fit in the GHCB's buffer.
pub const PAGE_STATE_MAX: usize = 253;

/// What is wrong with a page state change as a whole: SW_EXITINFO2 (specification, section 4.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageStateError {
    /// The header's indices are not possible.
    Header,
    /// The entry with this index is not possible.
    Entry(u16),
}

impl PageStateError {
    /// SW_EXITINFO2.
    pub fn code(self) -> u64 {
        match self {
            PageStateError::Header => 1 << 32 | 1,
            PageStateError::Entry(_) => 1 << 32 | 2,
        }
    }
}

/// A page state change, read once: index of the first entry, and the entries still to be done, in their order. Those before one that cannot be are done
/// all the same.
///
/// # Errors
/// A header that cannot be.
#[allow(clippy::type_complexity)]
pub fn page_state(
    buffer: &[u8],
) -> Result<(u16, Vec<Result<PageStateEntry, PageStateError>>), PageStateError> {
    let half = |at: usize| buffer.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let (Some(current), Some(end)) = (half(0), half(2)) else { return Err(PageStateError::Header) };
    if usize::from(end) >= PAGE_STATE_MAX || current > end {
        return Err(PageStateError::Header);
    }
    let entries = (current..=end).map(|index| {
        let at = 8 + usize::from(index) * 8;
        let bytes = buffer.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        let entry = bytes.map(u64::from_le_bytes).ok_or(PageStateError::Header)?;
        page_state_entry(entry).ok_or(PageStateError::Entry(index))
    });
    Ok((current, entries.collect()))
}

/// An entry; `None` for one that cannot be.
fn page_state_entry(entry: u64) -> Option<PageStateEntry> {
    let operation = match entry >> 52 & 15 {
        1 => PageOperation::Private,
        2 => PageOperation::Shared,
        3 => PageOperation::Psmash,
        4 => PageOperation::Unsmash,
        _ => return None,
    };
    let (gpa, large, current) = (entry & 0x000f_ffff_ffff_f000, entry >> 56 & 1 != 0, (entry & 0xfff) as u16);
    let possible = if large { gpa % (2 << 20) == 0 && current <= 512 } else { current <= 1 };
    possible.then_some(PageStateEntry { current, gpa, operation, large })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ghcb::page::Writer;
    use crate::memory::PhysicalMemory;
    use crate::memory::testing::TestMemory;
    use proptest::prelude::*;

    fn page(fields: &[(Field, u64)]) -> Snapshot {
        let memory = TestMemory::new(4096);
        memory.write(0xffa, &[2, 0]);
        for &(field, value) in fields {
            Writer { memory: &memory, spa: 0 }.set(field, value);
        }
        Snapshot::take(&memory, 0)
    }

    const ZERO: [(Field, u64); 2] = [(Field::ExitInfo1, 0), (Field::ExitInfo2, 0)];

    #[test]
    fn input_must_be_valid() {
        let cpuid = [(Field::ExitCode, 0x72), (Field::Rax, 1), (Field::Rcx, 0)];
        assert_eq!(Exit::decode(&page(&cpuid)), Err(Malformed::MissingInput));
        let all: Vec<_> = cpuid.into_iter().chain(ZERO).collect();
        assert_eq!(Exit::decode(&page(&all)), Ok(Exit::Cpuid { leaf: 1, subleaf: 0, xcr0: 1 }));
        let leaf_d: Vec<_> = all.iter().copied().chain([(Field::Rax, 0xd)]).collect();
        assert_eq!(Exit::decode(&page(&leaf_d)), Err(Malformed::MissingInput));
    }

    #[test]
    fn ports() {
        let out = [(Field::ExitCode, 0x7b), (Field::ExitInfo1, 0x3f8_0010), (Field::ExitInfo2, 0)];
        assert_eq!(Exit::decode(&page(&out)), Err(Malformed::MissingInput));
        let with_rax: Vec<_> = out.into_iter().chain([(Field::Rax, 65)]).collect();
        let access = PortAccess { port: 0x3f8, size: 1, input: false, string: None };
        assert_eq!(Exit::decode(&page(&with_rax)), Ok(Exit::Port(access)));
        let no_size = [(Field::ExitCode, 0x7b), (Field::ExitInfo1, 0x3f8_0001), (Field::ExitInfo2, 0)];
        assert_eq!(Exit::decode(&page(&no_size)), Err(Malformed::Input));
    }

    #[test]
    fn guest_requests() {
        let decode = |code, info1, info2, more: &[(Field, u64)]| {
            let fields = [(Field::ExitCode, code), (Field::ExitInfo1, info1), (Field::ExitInfo2, info2)];
            Exit::decode(&page(&[&fields[..], more].concat()))
        };
        let (plain, extended) = (code::GUEST_REQUEST, code::EXTENDED_GUEST_REQUEST);
        let room = [(Field::Rax, 0x3000), (Field::Rbx, 2)];
        assert_eq!(
            decode(plain, 0x1000, 0x2000, &[]),
            Ok(Exit::GuestRequest { request: 0x1000, response: 0x2000 })
        );
        let (request, response, certificates, pages) = (0x1000, 0x2000, 0x3000, 2);
        assert_eq!(
            decode(extended, 0x1000, 0x2000, &room),
            Ok(Exit::ExtendedGuestRequest { request, response, certificates, pages })
        );
        for code in [plain, extended] {
            for (request, response) in [(0x1000, 0x1000), (0x1001, 0x2000), (0x1000, 0x2fff)] {
                assert_eq!(decode(code, request, response, &room), Err(Malformed::Input));
            }
        }
        for missing in [&room[..1], &room[1..], &[]] {
            assert_eq!(decode(extended, 0x1000, 0x2000, missing), Err(Malformed::MissingInput));
        }
    }

    #[test]
    fn unknown_events_are_refused() {
        let fields: Vec<_> = [(Field::ExitCode, 0x8000_0099)].into_iter().chain(ZERO).collect();
        assert_eq!(Exit::decode(&page(&fields)), Err(Malformed::Event));
    }

    #[test]
    fn page_state_entries() {
        let mut buffer = vec![0; 0x7f0];
        buffer[2] = 1;
        buffer[8..16].copy_from_slice(&(0x5000u64 | 1 << 52).to_le_bytes());
        buffer[16..24].copy_from_slice(&(0x20_0000u64 | 2 << 52 | 1 << 56).to_le_bytes());
        let (first, entries) = page_state(&buffer).unwrap();
        assert_eq!((first, entries.len()), (0, 2));
        let second = entries[1].unwrap();
        assert!(second.large && second.operation == PageOperation::Shared);
        buffer[16] = 1;
        buffer[17] = 0x10;
        let (_, entries) = page_state(&buffer).unwrap();
        assert_eq!(entries[1], Err(PageStateError::Entry(1)), "not aligned");
        assert_eq!(entries[0].unwrap().gpa, 0x5000, "the one before is to be done");
        buffer[2] = 253;
        assert_eq!(page_state(&buffer), Err(PageStateError::Header));
    }

    proptest! {
        #[test]
        fn no_page_is_too_odd(seed in proptest::collection::vec(any::<u8>(), 4096), code in any::<u64>()) {
            let mut bytes: [u8; 4096] = seed.try_into().unwrap();
            bytes[0x390..0x398].copy_from_slice(&(code & 0x8000_00ff).to_le_bytes());
            bytes[0xffa..].copy_from_slice(&[2, 0, 0, 0, 0, 0]);
            let _ = Exit::decode(&Snapshot::of(bytes));
            let _ = page_state(&bytes[0x800..0xff0]);
        }
    }
}
