//! Who owns which page, as types.
//!
//! Guest memory is a [`Range`] of pages in one of the states of this module. Only the legal transitions exist as functions, and each consumes
//! the state before: `Unaccepted → Private`, `Private → Shared`, `Shared → Private`. Validating a page twice cannot be written down; that PVALIDATE
//! finds a page validated already (CF = 1) therefore means that the host put other memory there, and ends the guest.
//!
//! What must not be does not compile. A page cannot be accepted twice, since the first time used its state up:
//!
//! ```compile_fail,E0382
//! use platform_snp::snp::page_state::{Unaccepted, accept};
//! use platform_snp::snp::{Instructions, Violation, ghcb::Ghcb};
//! fn twice<I: Instructions>(host: &Ghcb<I>, pages: Unaccepted) -> Result<(), Violation> {
//!     accept(host, pages, &|at| at)?;
//!     accept(host, pages, &|at| at)?;
//!     Ok(())
//! }
//! ```
//!
//! Nor can one that was never accepted be given to the host as if it were the guest's, nor a private page be taken from the host:
//!
//! ```compile_fail,E0308
//! use platform_snp::snp::page_state::{Shared, Unaccepted, share};
//! use platform_snp::snp::{Instructions, Violation, ghcb::Ghcb};
//! fn early<I: Instructions>(host: &Ghcb<I>, pages: Unaccepted) -> Result<Shared, Violation> {
//!     share(host, pages, &|at| at)
//! }
//! ```
//!
//! ```compile_fail,E0308
//! use platform_snp::snp::page_state::{Private, unshare};
//! use platform_snp::snp::{Instructions, Violation, ghcb::Ghcb};
//! fn mine<I: Instructions>(host: &Ghcb<I>, pages: Private) -> Result<Private, Violation> {
//!     unshare(host, pages, &|at| at)
//! }
//! ```
//!
//! Nor can safe code make up a state:
//!
//! ```compile_fail,E0133
//! let pages = platform_snp::snp::page_state::Unaccepted::new(0..4096);
//! ```
//!
//! What may be does:
//!
//! ```
//! use platform_snp::snp::page_state::{Private, Unaccepted, accept, share, unshare};
//! use platform_snp::snp::{Instructions, Violation, ghcb::Ghcb};
//! fn round<I: Instructions>(host: &Ghcb<I>, pages: Unaccepted) -> Result<Private, Violation> {
//!     let map = |at| at;
//!     let private = accept(host, pages, &map)?;
//!     let shared = share(host, private, &map)?;
//!     unshare(host, shared, &map)
//! }
//! ```
//!
//! Source: AMD APM volume 2, 15.36.6 (page states); GHCB specification, section 4.1.6.

use super::ghcb::Ghcb;
use super::instructions::{PageSize, Validation};
use super::{Instructions, Violation};
use core::ops::Range;

/// Entries in one request.
pub const BATCH: usize = 253;

const PRIVATE: u64 = 1 << 52;
const SHARED: u64 = 2 << 52;
const LARGE: u64 = 1 << 56;

/// Pages that the guest has never used, by guest-physical address: memory of the memory map that was not launched.
#[derive(Debug)]
pub struct Unaccepted(Range<u64>);

/// Pages that are validated: the guest's alone.
#[derive(Debug, PartialEq, Eq)]
pub struct Private(Range<u64>);

/// Pages that the host reads and writes.
#[derive(Debug, PartialEq, Eq)]
pub struct Shared(Range<u64>);

impl Unaccepted {
    /// # Safety
    /// The pages were neither launched nor accepted before, and no other value stands for them.
    pub unsafe fn new(pages: Range<u64>) -> Unaccepted {
        Unaccepted(pages)
    }
}

impl Private {
    /// # Safety
    /// The pages were validated, by the launch or since; nobody uses their contents any more, and no other value stands for them.
    pub unsafe fn new(pages: Range<u64>) -> Private {
        Private(pages)
    }

    /// Their guest-physical addresses.
    pub fn range(&self) -> Range<u64> {
        self.0.clone()
    }
}

impl Shared {
    /// Their guest-physical addresses.
    pub fn range(&self) -> Range<u64> {
        self.0.clone()
    }
}

/// Cuts a range into the largest pages that fit.
fn pieces(range: Range<u64>) -> impl Iterator<Item = (u64, PageSize)> {
    let mut at = range.start;
    core::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let large = at.is_multiple_of(PageSize::Large.bytes()) && range.end - at >= PageSize::Large.bytes();
        let size = if large { PageSize::Large } else { PageSize::Small };
        let piece = (at, size);
        at += size.bytes();
        Some(piece)
    })
}

/// Asks the host for all pages of a range, in batches.
fn request<I: Instructions>(host: &Ghcb<I>, range: Range<u64>, operation: u64) -> Result<(), Violation> {
    let mut batch = [0; BATCH];
    let mut count = 0;
    for (at, size) in pieces(range) {
        batch[count] = at | operation | if size == PageSize::Large { LARGE } else { 0 };
        count += 1;
        if count == BATCH {
            host.change_pages(&batch)?;
            count = 0;
        }
    }
    if count > 0 { host.change_pages(batch.get(..count).unwrap_or_default()) } else { Ok(()) }
}

/// PVALIDATE of all pages, which `map` finds in virtual memory.
fn validate(
    cpu: &impl Instructions,
    range: Range<u64>,
    validate: bool,
    map: &dyn Fn(u64) -> u64,
) -> Result<(), Violation> {
    for (at, size) in pieces(range) {
        match cpu.pvalidate(map(at), size, validate)? {
            Validation::Changed => {}
            Validation::SizeMismatch if size == PageSize::Large => {
                for small in (at..at + size.bytes()).step_by(4096) {
                    if cpu.pvalidate(map(small), PageSize::Small, validate)? != Validation::Changed {
                        return Err(Violation::Pvalidate);
                    }
                }
            }
            Validation::SizeMismatch => return Err(Violation::Pvalidate),
        }
    }
    Ok(())
}

/// Takes memory into use: asks the host for it, then accepts it. Contents are undefined.
///
/// `map` tells where a page is mapped, private.
pub fn accept<I: Instructions>(
    host: &Ghcb<I>,
    pages: Unaccepted,
    map: &dyn Fn(u64) -> u64,
) -> Result<Private, Violation> {
    request(host, pages.0.clone(), PRIVATE)?;
    validate(host.cpu(), pages.0.clone(), true, map)?;
    Ok(Private(pages.0))
}

/// Gives pages to the host. Nothing secret may be in them: hardware makes ciphertext of it, and the guest reads that.
pub fn share<I: Instructions>(
    host: &Ghcb<I>,
    pages: Private,
    map: &dyn Fn(u64) -> u64,
) -> Result<Shared, Violation> {
    validate(host.cpu(), pages.0.clone(), false, map)?;
    request(host, pages.0.clone(), SHARED)?;
    Ok(Shared(pages.0))
}

/// Takes pages back from the host. Contents are undefined.
pub fn unshare<I: Instructions>(
    host: &Ghcb<I>,
    pages: Shared,
    map: &dyn Fn(u64) -> u64,
) -> Result<Private, Violation> {
    accept(host, Unaccepted(pages.0), map)
}

#[cfg(test)]
mod tests {
    use super::super::ghcb::tests::{Scripted, ghcb};
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A host that does what it is told, and notes it.
    fn honest() -> (Ghcb<Scripted>, Arc<Mutex<Vec<u64>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let host = ghcb(move |page| {
            let header = page.read_u64(0x800);
            let end = header >> 16 & 0xffff;
            for i in header & 0xffff..=end {
                log.lock().unwrap().push(page.read_u64(0x808 + 8 * i as usize));
            }
            page.write_u64(0x800, end << 16 | (end + 1));
            page.write_u64(0x398, 0);
            page.write_u64(0x3a0, 0);
        });
        (host, seen)
    }

    #[test]
    fn memory_is_accepted_in_the_largest_pages() {
        let (host, seen) = honest();
        // SAFETY: made-up addresses.
        let pages = unsafe { Unaccepted::new(0x1f_f000..0x40_1000) };
        let private = accept(&host, pages, &|at| at + (1 << 40)).unwrap();
        assert_eq!(private.range(), 0x1f_f000..0x40_1000);
        let expected = [0x1f_f000 | PRIVATE, 0x20_0000 | PRIVATE | LARGE, 0x40_0000 | PRIVATE];
        assert_eq!(*seen.lock().unwrap(), expected);
        let validated = host.cpu().validated.lock().unwrap();
        assert_eq!(validated[1], ((1 << 40) + 0x20_0000, PageSize::Large, true));
    }

    #[test]
    fn sharing_rescinds_before_the_host_gets_the_page() {
        let (host, seen) = honest();
        // SAFETY: made-up addresses.
        let pages = unsafe { Private::new(0x5000..0x7000) };
        let shared = share(&host, pages, &|at| at).unwrap();
        assert_eq!(*seen.lock().unwrap(), [0x5000 | SHARED, 0x6000 | SHARED]);
        assert_eq!(host.cpu().validated.lock().unwrap()[0], (0x5000, PageSize::Small, false));
        assert_eq!(unshare(&host, shared, &|at| at).unwrap().range(), 0x5000..0x7000);
    }

    #[test]
    fn remapped_memory_is_noticed() {
        let (mut host, _) = honest();
        // SAFETY: made-up addresses.
        let pages = unsafe { Unaccepted::new(0x5000..0x6000) };
        let cpu = &raw const *host.cpu();
        let _ = cpu;
        host = {
            let mut scripted = Scripted::new([]);
            scripted.pvalidate = Err(Violation::DoubleValidation);
            scripted.page = Mutex::new(Box::new(|| {}));
            let page = crate::dma::tests::region(4096, 0);
            page.write_u64(0x398, 0);
            Ghcb::new(scripted, page)
        };
        // The host leaves the header as it is and is given up on before anything is validated, or PVALIDATE tells.
        let error = accept(&host, pages, &|at| at).unwrap_err();
        assert!(matches!(error, Violation::Refused | Violation::DoubleValidation));
        // SAFETY: made-up addresses.
        let pages = unsafe { Private::new(0x5000..0x6000) };
        assert_eq!(share(&host, pages, &|at| at).unwrap_err(), Violation::DoubleValidation);
    }
}
