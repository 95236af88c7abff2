//! The launch digest of an SNP guest.
//!
//! The PSP starts from 48 zero bytes and, for each page of SNP_LAUNCH_UPDATE, replaces the digest by the SHA-384 of a PAGE_INFO
//! structure that holds the digest so far. So order counts, and a page cannot be taken back.
//!
//! Source: SEV-SNP firmware ABI (56860), SNP_LAUNCH_UPDATE, table "PAGE_INFO structure".

use sha2::{Digest, Sha384};
use zerocopy::{Immutable, IntoBytes};

use crate::{LARGE_PAGE_SIZE, PAGE_SIZE};

/// A SHA-384 digest.
pub type Sha384Digest = [u8; 48];

/// SHA-384 of a page of zeros: launches have many.
const ZERO_PAGE_DIGEST: Sha384Digest = [
    0xc0, 0xe5, 0x9a, 0x3e, 0x3f, 0xfb, 0xd3, 0xb5, 0xc7, 0x54, 0x28, 0xfb, 0x36, 0x43, 0x2f, 0xac, 0xab,
    0xc7, 0x45, 0x94, 0x42, 0x96, 0xff, 0x51, 0x5f, 0x73, 0x7c, 0x4f, 0xef, 0x4e, 0xfc, 0x64, 0x58, 0x68,
    0x09, 0xf7, 0xa1, 0x6f, 0x56, 0x35, 0x4a, 0x1e, 0xae, 0xcf, 0x2a, 0xa8, 0xd7, 0x74,
];

/// PAGE_TYPE of SNP_LAUNCH_UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageType {
    /// Loaded as it is; contents measured.
    Normal = 1,
    /// A save area; contents measured, RMP entry marked as VMSA.
    Vmsa = 2,
    /// Zeroed by the PSP; contents not hashed.
    Zero = 3,
    /// Loaded as it is; contents not measured.
    Unmeasured = 4,
    /// Filled by the PSP with the secrets page.
    Secrets = 5,
    /// Checked by the PSP against its policy for CPUID; contents not measured.
    Cpuid = 6,
}

impl PageType {
    /// Whether the contents are part of the digest, and not only place and type.
    pub const fn measures_contents(self) -> bool {
        matches!(self, Self::Normal | Self::Vmsa)
    }
}

/// What the lower privilege levels may do with a page (VMPL*n*_PERMS): bit 0 read, 1 write, 2 execute in user mode, 3 execute in
/// supervisor mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmplPermissions {
    /// For VMPL1.
    pub vmpl1: u8,
    /// For VMPL2.
    pub vmpl2: u8,
    /// For VMPL3.
    pub vmpl3: u8,
}

impl VmplPermissions {
    /// Nothing for anyone but VMPL0: what every VMM known to us launches with.
    pub const NONE: Self = Self { vmpl1: 0, vmpl2: 0, vmpl3: 0 };
}

/// PAGE_INFO.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct PageInfo {
    digest: Sha384Digest,
    contents: Sha384Digest,
    length: u16,
    page_type: u8,
    imi: u8,
    reserved: u8,
    vmpl1: u8,
    vmpl2: u8,
    vmpl3: u8,
    gpa: u64,
}

const _: () = {
    assert!(size_of::<PageInfo>() == 0x70);
    assert!(core::mem::offset_of!(PageInfo, contents) == 0x30);
    assert!(core::mem::offset_of!(PageInfo, length) == 0x60);
    assert!(core::mem::offset_of!(PageInfo, page_type) == 0x62);
    assert!(core::mem::offset_of!(PageInfo, imi) == 0x63);
    assert!(core::mem::offset_of!(PageInfo, vmpl1) == 0x65);
    assert!(core::mem::offset_of!(PageInfo, gpa) == 0x68);
};

/// A launch digest in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchDigest(Sha384Digest);

impl Default for LaunchDigest {
    fn default() -> Self {
        Self::new()
    }
}

impl LaunchDigest {
    /// The digest of a guest that has no page yet.
    pub const fn new() -> Self {
        Self([0; 48])
    }

    /// The digest so far.
    pub const fn value(&self) -> &Sha384Digest {
        &self.0
    }

    /// Adds a 4 KiB page at `gpa`.
    ///
    /// `contents` is used only where [`PageType::measures_contents`]; there `None` is a page of zeros. `imi` says that the page
    /// also belongs to the initial migration image.
    pub fn page(
        &mut self,
        page_type: PageType,
        gpa: u64,
        contents: Option<&[u8; PAGE_SIZE]>,
        imi: bool,
        permissions: VmplPermissions,
    ) {
        let contents = match contents {
            _ if !page_type.measures_contents() => [0; 48],
            None => ZERO_PAGE_DIGEST,
            Some(contents) => Sha384::digest(contents).into(),
        };
        self.extend(page_type, gpa, contents, imi, permissions);
    }

    /// Adds a page whose contents' SHA-384 is known (zeros where the type does not measure contents).
    pub fn extend(
        &mut self,
        page_type: PageType,
        gpa: u64,
        contents: Sha384Digest,
        imi: bool,
        permissions: VmplPermissions,
    ) {
        let info = PageInfo {
            digest: self.0,
            contents,
            length: size_of::<PageInfo>() as u16,
            page_type: page_type as u8,
            imi: imi.into(),
            reserved: 0,
            vmpl1: permissions.vmpl1,
            vmpl2: permissions.vmpl2,
            vmpl3: permissions.vmpl3,
            gpa,
        };
        self.0 = Sha384::digest(info.as_bytes()).into();
    }

    /// Adds a 2 MiB page: to the digest it is 512 pages of 4 KiB, the lowest first.
    pub fn large_page(
        &mut self,
        page_type: PageType,
        gpa: u64,
        contents: Option<&[u8; LARGE_PAGE_SIZE]>,
        imi: bool,
        permissions: VmplPermissions,
    ) {
        let (pages, _) = contents.map(|c| c.as_slice()).unwrap_or_default().as_chunks::<PAGE_SIZE>();
        for index in 0..LARGE_PAGE_SIZE / PAGE_SIZE {
            let gpa = gpa.wrapping_add((index * PAGE_SIZE) as u64);
            self.page(page_type, gpa, pages.get(index), imi, permissions);
        }
    }

    /// Adds a save area.
    pub fn vmsa(&mut self, gpa: u64, contents: &[u8; PAGE_SIZE]) {
        self.page(PageType::Vmsa, gpa, Some(contents), false, VmplPermissions::NONE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(parts: &[&[u8]]) -> Sha384Digest {
        Sha384::digest(parts.concat()).into()
    }

    /// The definition, written out a second time as a list of bytes.
    #[test]
    fn a_page_is_112_bytes_hashed() {
        let page = [0x5a; PAGE_SIZE];
        let permissions = VmplPermissions { vmpl1: 1, vmpl2: 3, vmpl3: 0xf };
        let mut digest = LaunchDigest::new();
        digest.page(PageType::Normal, 0x1234_5000, Some(&page), true, permissions);
        let mut expected = [0; 48];
        let contents = hash(&[&page]);
        let tail = [0x70, 0, 1, 1, 0, 1, 3, 0xf, 0, 0x50, 0x34, 0x12, 0, 0, 0, 0];
        expected = hash(&[&expected, &contents, &tail]);
        assert_eq!(digest.value(), &expected);
    }

    #[test]
    fn contents_count_only_where_measured() {
        for (page_type, measured) in [
            (PageType::Normal, true),
            (PageType::Vmsa, true),
            (PageType::Zero, false),
            (PageType::Unmeasured, false),
            (PageType::Secrets, false),
            (PageType::Cpuid, false),
        ] {
            let [mut a, mut b] = [LaunchDigest::new(), LaunchDigest::new()];
            a.page(page_type, 0, Some(&[1; PAGE_SIZE]), false, VmplPermissions::NONE);
            b.page(page_type, 0, None, false, VmplPermissions::NONE);
            assert_eq!(a != b, measured, "{page_type:?}");
            assert_eq!(page_type.measures_contents(), measured);
        }
    }

    #[test]
    fn no_contents_are_zeros() {
        assert_eq!(ZERO_PAGE_DIGEST, hash(&[&[0; PAGE_SIZE]]));
        let [mut a, mut b] = [LaunchDigest::new(), LaunchDigest::new()];
        a.page(PageType::Normal, 0, None, false, VmplPermissions::NONE);
        b.page(PageType::Normal, 0, Some(&[0; PAGE_SIZE]), false, VmplPermissions::NONE);
        assert_eq!(a, b);
    }

    #[test]
    fn a_zero_page_is_not_a_page_of_zeros() {
        let [mut a, mut b] = [LaunchDigest::new(), LaunchDigest::new()];
        a.page(PageType::Zero, 0x1000, None, false, VmplPermissions::NONE);
        b.page(PageType::Normal, 0x1000, None, false, VmplPermissions::NONE);
        assert_ne!(a, b);
    }

    #[test]
    fn a_large_page_is_512_pages() {
        let mut large = vec![0u8; LARGE_PAGE_SIZE];
        for (i, byte) in large.iter_mut().enumerate() {
            *byte = (i / 7) as u8;
        }
        let large: Box<[u8; LARGE_PAGE_SIZE]> = large.into_boxed_slice().try_into().unwrap();
        let [mut a, mut b] = [LaunchDigest::new(), LaunchDigest::new()];
        a.large_page(PageType::Normal, 0x20_0000, Some(&large), false, VmplPermissions::NONE);
        a.large_page(PageType::Zero, 0x40_0000, None, false, VmplPermissions::NONE);
        for (i, page) in large.as_chunks::<PAGE_SIZE>().0.iter().enumerate() {
            let gpa = 0x20_0000 + i as u64 * 0x1000;
            b.page(PageType::Normal, gpa, Some(page), false, VmplPermissions::NONE);
        }
        for i in 0..512 {
            b.page(PageType::Zero, 0x40_0000 + i * 0x1000, None, false, VmplPermissions::NONE);
        }
        assert_eq!(a, b);
    }
}
