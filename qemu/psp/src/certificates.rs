//! The certificate table that the host hands a guest with its report (extended guest request).
//!
//! A table is a list of entries, each with the GUID of a certificate, where it begins and how long it is; an entry of zeros ends
//! the list, and the certificates follow. The host makes it and is free to lie: a guest takes it as bytes to be verified.
//!
//! Source: GHCB specification (56421), "SNP Extended Guest Request", table "Certificate Table Entry"; GUIDs: the same, in the order
//! of bytes of RFC 4122.

use alloc::vec::Vec;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::PAGE_SIZE;
use crate::hierarchy::Certificates;

/// The host's half of SW_EXITINFO2: the guest gave too few pages, and RBX says how many it takes (56421, table for exit 0x8000_0012).
pub const INVALID_LEN: u64 = 1 << 32;

/// A GUID.
pub type Guid = [u8; 16];

/// 63da758d-e664-4564-adc5-f4b93be8accd.
pub const VCEK: Guid = 0x63da758d_e664_4564_adc5_f4b93be8accd_u128.to_be_bytes();
/// 4ab7b379-bbac-4fe4-a02f-05aef327c782.
pub const ASK: Guid = 0x4ab7b379_bbac_4fe4_a02f_05aef327c782_u128.to_be_bytes();
/// c0b406a4-a803-4952-9743-3fb6014cd0ae.
pub const ARK: Guid = 0xc0b406a4_a803_4952_9743_3fb6014cd0ae_u128.to_be_bytes();

/// a8074bc2-a25a-483e-aae6-39c045a0b8a1.
pub const VLEK: Guid = 0xa8074bc2_a25a_483e_aae6_39c045a0b8a1_u128.to_be_bytes();
/// 92f81bc3-5811-4d3d-97ff-d19f88dc67ea: a revocation list, which is no certificate.
pub const CRL: Guid = 0x92f81bc3_5811_4d3d_97ff_d19f88dc67ea_u128.to_be_bytes();

/// An entry of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    guid: Guid,
    offset: U32,
    length: U32,
}

const _: () = assert!(size_of::<Entry>() == 24);

/// The table with the certificates of a chip.
pub fn table(certificates: &Certificates) -> Vec<u8> {
    let Certificates { ark, ask, vcek } = certificates;
    let contents = [(VCEK, vcek), (ASK, ask), (ARK, ark)];
    let mut entries = Vec::new();
    let mut offset = (contents.len() + 1) * size_of::<Entry>();
    for (guid, der) in contents {
        // A chain has a few KiB.
        entries.push(Entry { guid, offset: (offset as u32).into(), length: (der.len() as u32).into() });
        offset += der.len();
    }
    entries.push(Entry::new_zeroed());
    let mut bytes = entries.as_slice().as_bytes().to_vec();
    contents.iter().for_each(|(_, der)| bytes.extend_from_slice(der));
    bytes
}

/// The pages that a table takes; never none.
pub fn pages(table: &[u8]) -> u64 {
    (table.len().div_ceil(PAGE_SIZE) as u64).max(1)
}

/// What is written into the pages that the guest gave, or, if they are too few, how many it takes: then the request ends with
/// [`INVALID_LEN`], and no message reaches the PSP.
pub fn supply(table: &[u8], pages_given: u64) -> Result<&[u8], u64> {
    let pages = pages(table);
    if pages_given < pages { Err(pages) } else { Ok(table) }
}

/// The certificate with a GUID in a table that a host made. None too if the table is malformed up to there.
pub fn find<'a>(table: &'a [u8], guid: &Guid) -> Option<&'a [u8]> {
    let mut rest = table;
    loop {
        let entry;
        (entry, rest) = Entry::read_from_prefix(rest).ok()?;
        if entry == Entry::new_zeroed() {
            return None;
        }
        if entry.guid == *guid {
            let start = usize::try_from(entry.offset.get()).ok()?;
            let length = usize::try_from(entry.length.get()).ok()?;
            return table.get(start..start.checked_add(length)?);
        }
    }
}

/// The chain in a table, if it is all there.
pub fn chain(table: &[u8]) -> Option<Certificates> {
    let [ark, ask, vcek] = [ARK, ASK, VCEK].map(|guid| find(table, &guid).map(<[u8]>::to_vec));
    Some(Certificates { ark: ark?, ask: ask?, vcek: vcek? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::Chip;
    use crate::report::ReportVersion;
    use proptest::prelude::*;
    use sev::firmware::host::{CertTableEntry, CertType};

    fn certificates() -> Certificates {
        Certificates::of(&Chip::test(ReportVersion::V3)).unwrap()
    }

    #[test]
    fn the_chain_comes_out_as_it_went_in() {
        assert_eq!(chain(&table(&certificates())), Some(certificates()));
        assert_eq!(find(&table(&certificates()), &[7; 16]), None);
        assert_eq!(find(&table(&certificates()), &[0; 16]), None);
    }

    #[test]
    fn the_sev_crate_reads_the_table() {
        let Certificates { ark, ask, vcek } = certificates();
        let mut bytes = table(&certificates());
        let entries = CertTableEntry::vec_bytes_to_cert_table(&mut bytes).unwrap();
        assert_eq!(entries.len(), 3);
        for (kind, der) in [(CertType::ARK, ark), (CertType::ASK, ask), (CertType::VCEK, vcek)] {
            let entry = entries.iter().find(|entry| entry.cert_type == kind).unwrap();
            assert_eq!(entry.data, der);
        }
    }

    #[test]
    fn too_few_pages_are_answered_with_how_many_it_takes() {
        let table = vec![1; PAGE_SIZE + 1];
        assert_eq!(supply(&table, 0), Err(2));
        assert_eq!(supply(&table, 1), Err(2));
        assert_eq!(supply(&table, 2), Ok(table.as_slice()));
        assert_eq!(supply(&table[..PAGE_SIZE], 1), Ok(&table[..PAGE_SIZE]));
        assert_eq!(supply(&[], 0), Err(1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_searched(bytes in prop::collection::vec(any::<u8>(), 0..200), offset in any::<u32>()) {
            let _ = chain(&bytes);
            let entry = Entry { guid: VCEK, offset: offset.into(), length: u32::MAX.into() };
            let table = [entry.as_bytes(), bytes.as_slice()].concat();
            prop_assert_eq!(find(&table, &VCEK), None);
        }
    }
}
