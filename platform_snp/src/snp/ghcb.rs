//! The GHCB page: requests to the host in three steps.
//!
//! *Stage*: the page is cleared and the request's fields are written and marked valid; *exit*; *collect*: every field of the answer is
//! read once into private memory, checked, and only then typed. The page is shared: nothing in it is believed twice. Source: GHCB
//! specification (56421), version 2, tables 3 to 6.

use super::{Instructions, Violation};
use crate::dma::DmaRegion;
use crate::host::Width;

const RAX: usize = 0x1f8;
const RCX: usize = 0x308;
const RDX: usize = 0x310;
const EXIT_CODE: usize = 0x390;
const INFO1: usize = 0x398;
const INFO2: usize = 0x3a0;
const SCRATCH: usize = 0x3a8;
const VALID: usize = 0x3f0;
/// The shared buffer.
const BUFFER: usize = 0x800;
/// Bytes of the shared buffer.
pub const BUFFER_SIZE: usize = 0x7f0;
const VERSION: usize = 0xffa;
const USAGE: usize = 0xffc;

const IOIO: u64 = 0x7b;
const MSR: u64 = 0x7c;
const MMIO_READ: u64 = 0x8000_0001;
const MMIO_WRITE: u64 = 0x8000_0002;
const PAGE_STATE: u64 = 0x8000_0010;
const GUEST_REQUEST: u64 = 0x8000_0011;

/// Vectors that a host may ask the guest to take instead of an answer, as an event: #UD, #GP.
const UD: u64 = 6;
const GP: u64 = 13;

/// What the host answered when it did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// #GP: there is no such MSR, or the value is not one for it.
    Exception,
    /// The request is malformed, says the host: it does not know it.
    Malformed,
}

/// A request's outcome.
pub type Answer<T> = Result<Result<T, Denied>, Violation>;

/// A GHCB page.
pub struct Ghcb<I> {
    cpu: I,
    page: DmaRegion,
}

/// A field as a request writes it.
type Field = (usize, u64);

/// The bits of the low `size` bytes: 1, 2 or 4.
fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size))
}

impl<I: Instructions> Ghcb<I> {
    /// `page` is one page of shared memory, registered with the host.
    pub fn new(cpu: I, page: DmaRegion) -> Ghcb<I> {
        Ghcb { cpu, page }
    }

    /// The instructions.
    pub fn cpu(&self) -> &I {
        &self.cpu
    }

    fn is_valid(&self, bitmap: [u64; 2], field: usize) -> bool {
        bitmap[field / 8 / 64] >> (field / 8 % 64) & 1 != 0
    }

    /// One exchange; the value is SW_EXITINFO2 and the fields asked for. Bytes of the buffer are the caller's to write before and read after.
    fn exchange<const N: usize>(
        &self,
        code: u64,
        fields: &[Field],
        want: [usize; N],
    ) -> Answer<(u64, [u64; N])> {
        let mut bitmap = [0u64; 2];
        for &(field, value) in fields.iter().chain(&[(EXIT_CODE, code)]) {
            self.page.write_u64(field, value);
            bitmap[field / 8 / 64] |= 1 << (field / 8 % 64);
        }
        self.page.write_u64(VALID, bitmap[0]);
        self.page.write_u64(VALID + 8, bitmap[1]);
        self.page.write_u16(VERSION, 2);
        self.page.write_u32(USAGE, 0);
        self.cpu.vmgexit(self.page.bus(0));

        // Once each, into private memory.
        let valid = [self.page.read_u64(VALID), self.page.read_u64(VALID + 8)];
        let (info1, info2) = (self.page.read_u64(INFO1), self.page.read_u64(INFO2));
        let values = want.map(|field| self.page.read_u64(field));
        match info1 as u32 {
            0 => {}
            1 => {
                let (vector, kind, valid) = (info2 & 0xff, info2 >> 8 & 7, info2 >> 31 & 1);
                return match (vector, kind, valid) {
                    (GP | UD, 3, 1) => Ok(Err(Denied::Exception)),
                    _ => Err(Violation::BadGhcbAnswer),
                };
            }
            2 => return Ok(Err(Denied::Malformed)),
            _ => return Err(Violation::BadGhcbAnswer),
        }
        if want.iter().any(|&field| !self.is_valid(valid, field)) {
            return Err(Violation::BadGhcbAnswer);
        }
        Ok(Ok((info2, values)))
    }

    fn infos(&self, info1: u64, info2: u64) -> [Field; 2] {
        [(INFO1, info1), (INFO2, info2)]
    }

    /// IN; `size` is 1, 2 or 4 bytes.
    pub fn port_in(&self, port: u16, size: u8) -> Answer<u32> {
        let info = u64::from(port) << 16 | u64::from(size) << 4 | 1;
        let [a, b] = self.infos(info, 0);
        let answer = self.exchange(IOIO, &[a, b, (RAX, 0)], [RAX])?;
        Ok(answer.map(|(_, [rax])| (rax & mask(size)) as u32))
    }

    /// OUT.
    pub fn port_out(&self, port: u16, size: u8, value: u32) -> Answer<()> {
        let info = u64::from(port) << 16 | u64::from(size) << 4;
        let [a, b] = self.infos(info, 0);
        // Only as many bytes as are written: nothing else of a register is told.
        Ok(self.exchange(IOIO, &[a, b, (RAX, u64::from(value) & mask(size))], [])?.map(|_| ()))
    }

    /// OUTS of bytes: one exit for up to [`BUFFER_SIZE`] of them.
    pub fn port_out_bytes(&self, port: u16, bytes: &[u8]) -> Answer<()> {
        for part in bytes.chunks(BUFFER_SIZE) {
            self.page.write(BUFFER, part);
            // OUTS, repeated, one byte each, 64-bit addresses.
            let info = u64::from(port) << 16 | 1 << 9 | 1 << 4 | 1 << 3 | 1 << 2;
            let [a, b] = self.infos(info, part.len() as u64);
            if let Err(denied) = self.exchange(IOIO, &[a, b, (SCRATCH, self.page.bus(BUFFER))], [])? {
                return Ok(Err(denied));
            }
        }
        Ok(Ok(()))
    }

    /// RDMSR.
    pub fn read_msr(&self, msr: u32) -> Answer<u64> {
        let [a, b] = self.infos(0, 0);
        let answer = self.exchange(MSR, &[a, b, (RCX, msr.into())], [RAX, RDX])?;
        Ok(answer.map(|(_, [rax, rdx])| rdx << 32 | rax & 0xffff_ffff))
    }

    /// WRMSR.
    pub fn write_msr(&self, msr: u32, value: u64) -> Answer<()> {
        let [a, b] = self.infos(1, 0);
        let fields = [a, b, (RCX, msr.into()), (RAX, value & 0xffff_ffff), (RDX, value >> 32)];
        Ok(self.exchange(MSR, &fields, [])?.map(|_| ()))
    }

    /// Reads device memory.
    pub fn mmio_read(&self, address: u64, width: Width) -> Answer<u32> {
        self.page.write_u64(BUFFER, 0);
        let [a, b] = self.infos(address, width.bytes().into());
        let answer = self.exchange(MMIO_READ, &[a, b, (SCRATCH, self.page.bus(BUFFER))], [])?;
        Ok(answer.map(|_| self.page.read_u32(BUFFER) & mask(width.bytes()) as u32))
    }

    /// Writes device memory.
    pub fn mmio_write(&self, address: u64, width: Width, value: u32) -> Answer<()> {
        self.page.write_u64(BUFFER, u64::from(value) & mask(width.bytes()));
        let [a, b] = self.infos(address, width.bytes().into());
        Ok(self.exchange(MMIO_WRITE, &[a, b, (SCRATCH, self.page.bus(BUFFER))], [])?.map(|_| ()))
    }

    /// A guest request: both pages are shared. The value is the firmware's and the host's status.
    pub fn guest_request(&self, request: u64, response: u64) -> Answer<u64> {
        let [a, b] = self.infos(request, response);
        Ok(self.exchange(GUEST_REQUEST, &[a, b], [])?.map(|(info2, [])| info2))
    }

    /// A page state change (section 4.1.6): asks until the host has done all entries.
    ///
    /// # Errors
    /// The host changed what it was asked, or makes no progress.
    pub fn change_pages(&self, entries: &[u64]) -> Result<(), Violation> {
        for part in entries.chunks(super::page_state::BATCH) {
            let end = part.len() as u16 - 1;
            let mut header = u64::from(end) << 16;
            for (i, entry) in part.iter().enumerate() {
                self.page.write_u64(BUFFER + 8 + 8 * i, *entry);
            }
            let mut current = 0u16;
            let mut idle = 0;
            while current <= end {
                self.page.write_u64(BUFFER, header);
                let [a, b] = self.infos(0, 0);
                let answer = self.exchange(PAGE_STATE, &[a, b, (SCRATCH, self.page.bus(BUFFER))], [])?;
                let (info2, []) = answer.map_err(|_| Violation::Refused)?;
                if info2 != 0 {
                    return Err(Violation::Refused);
                }
                let now = self.page.read_u64(BUFFER);
                let (next, same_end, reserved) = (now as u16, (now >> 16) as u16, (now >> 32) as u32);
                if same_end != end || reserved != 0 || next < current || next > end + 1 {
                    return Err(Violation::PageState);
                }
                idle = if next == current { idle + 1 } else { 0 };
                if idle > 1000 {
                    return Err(Violation::Refused);
                }
                current = next;
                header = u64::from(end) << 16 | u64::from(current);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::instructions::{PageSize, Validation};
    use super::*;
    use crate::dma::tests::region;
    use std::sync::Mutex;

    /// A host that plays back answers of the MSR protocol, and a closure for the page.
    #[allow(clippy::type_complexity)]
    pub(crate) struct Scripted {
        msr: Mutex<Vec<u64>>,
        pub(crate) page: Mutex<Box<dyn FnMut() + Send>>,
        pub(crate) validated: Mutex<Vec<(u64, PageSize, bool)>>,
        pub(crate) pvalidate: Result<Validation, Violation>,
    }

    impl Scripted {
        pub(crate) fn new<const N: usize>(msr: [u64; N]) -> Self {
            Self {
                msr: Mutex::new(msr.into_iter().rev().collect()),
                page: Mutex::new(Box::new(|| {})),
                validated: Mutex::default(),
                pvalidate: Ok(Validation::Changed),
            }
        }
    }

    impl Instructions for Scripted {
        fn pvalidate(&self, at: u64, size: PageSize, validate: bool) -> Result<Validation, Violation> {
            self.validated.lock().unwrap().push((at, size, validate));
            self.pvalidate
        }
        fn rmpadjust(&self, _: u64, _: PageSize, _: u64) -> u64 {
            0
        }
        fn msr_exchange(&self, _: u64) -> u64 {
            self.msr.lock().unwrap().pop().unwrap_or(0)
        }
        fn vmgexit(&self, _: u64) {
            (self.page.lock().unwrap())();
        }
        fn terminate(&self, value: u64) -> ! {
            panic!("terminated with {value:#x}")
        }
    }

    /// A GHCB whose host runs `answer` on the page.
    pub(crate) fn ghcb(mut answer: impl FnMut(&DmaRegion) + Send + 'static) -> Ghcb<Scripted> {
        let page = region(4096, 0x7000);
        // SAFETY: the test's leaked page, used by one thread.
        let theirs =
            unsafe { DmaRegion::new(core::ptr::NonNull::new(page.base_for_tests()).unwrap(), 0x7000, 4096) };
        let cpu = Scripted::new([]);
        *cpu.page.lock().unwrap() = Box::new(move || answer(&theirs));
        Ghcb::new(cpu, page)
    }

    fn mark(page: &DmaRegion, field: usize) {
        let word = VALID + field / 8 / 64 * 8;
        page.write_u64(word, page.read_u64(word) | 1 << (field / 8 % 64));
    }

    #[test]
    fn only_the_bytes_of_the_access_pass() {
        let ghcb = ghcb(|page| {
            assert_eq!((page.read_u64(EXIT_CODE), page.read_u64(INFO1)), (0x7b, 0x3f8_0011));
            page.write_u64(RAX, 0x1234_5678);
            page.write_u64(INFO1, 0);
            mark(page, RAX);
        });
        assert_eq!(ghcb.port_in(0x3f8, 1), Ok(Ok(0x78)));
        let ghcb = super::tests::ghcb(|page| {
            assert_eq!(page.read_u64(RAX), 0x41);
            page.write_u64(INFO1, 0);
        });
        assert_eq!(ghcb.port_out(0x3f8, 1, 0xffff_ff41), Ok(Ok(())));
    }

    #[test]
    fn an_answer_must_be_marked_valid() {
        let silent = ghcb(|page| {
            page.write_u64(VALID, 0);
            page.write_u64(VALID + 8, 0);
            page.write_u64(INFO1, 0);
        });
        assert_eq!(silent.read_msr(0x1b), Err(Violation::BadGhcbAnswer));
    }

    #[test]
    fn only_gp_and_ud_can_be_asked_for() {
        for (event, expected) in [
            (13 | 3 << 8 | 1 << 31, Ok(Err(Denied::Exception))),
            (6 | 3 << 8 | 1 << 31, Ok(Err(Denied::Exception))),
            (13 | 3 << 8, Err(Violation::BadGhcbAnswer)),
            (14 | 3 << 8 | 1 << 31, Err(Violation::BadGhcbAnswer)),
            (13 | 4 << 8 | 1 << 31, Err(Violation::BadGhcbAnswer)),
        ] {
            let host = ghcb(move |page| {
                page.write_u64(INFO1, 1);
                page.write_u64(INFO2, event);
            });
            assert_eq!(host.write_msr(0x10, 0), expected, "{event:#x}");
        }
        let odd = ghcb(|page| page.write_u64(INFO1, 3));
        assert_eq!(odd.write_msr(0x10, 0), Err(Violation::BadGhcbAnswer));
    }

    #[test]
    fn a_page_state_change_goes_on_until_done() {
        let ghcb = ghcb(|page| {
            page.write_u64(INFO1, 0);
            page.write_u64(INFO2, 0);
            let header = page.read_u64(BUFFER);
            page.write_u64(BUFFER, header + 1);
        });
        assert_eq!(ghcb.change_pages(&[1, 2, 3]), Ok(()));
    }

    #[test]
    fn a_host_that_changes_the_request_is_caught() {
        for lie in [0x0003_0001u64, 1 << 32 | 0x0002_0003, 0x0002_0009, 0x0001_0003] {
            let host = ghcb(move |page| {
                page.write_u64(INFO1, 0);
                page.write_u64(INFO2, 0);
                page.write_u64(BUFFER, lie);
            });
            assert_eq!(host.change_pages(&[1, 2, 3]), Err(Violation::PageState), "{lie:#x}");
        }
        let lazy = ghcb(|page| {
            page.write_u64(INFO1, 0);
            page.write_u64(INFO2, 0);
        });
        assert_eq!(lazy.change_pages(&[1]), Err(Violation::Refused));
    }

    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

        /// Whatever the host leaves in the page, an answer is one that the request can have, and its bits above the access are zero.
        #[test]
        fn any_answer_is_survived(noise in proptest::collection::vec((0usize..512, any::<u64>()), 0..12), code in 0u64..4, all in any::<bool>()) {
            let host = || {
                let noise = noise.clone();
                ghcb(move |page| {
                    for &(word, value) in &noise {
                        page.write_u64(8 * word, value);
                    }
                    page.write_u64(INFO1, code);
                    if all {
                        page.write_u64(VALID, !0);
                        page.write_u64(VALID + 8, !0);
                    }
                })
            };
            if let Ok(Ok(value)) = host().port_in(0x3f8, 1) {
                prop_assert!(code == 0 && value < 0x100);
            }
            if let Ok(Ok(value)) = host().mmio_read(0xfeb0_0000, Width::Half) {
                prop_assert!(code == 0 && value < 0x1_0000);
            }
            prop_assert!(code == 0 || !matches!(host().read_msr(0x1b), Ok(Ok(_))));
            // Done is only what the host says that it did.
            if host().change_pages(&[0x1000 | 1 << 52]).is_ok() {
                let header = noise.iter().rev().find(|(word, _)| *word == BUFFER / 8).map(|(_, value)| *value);
                prop_assert_eq!(header, Some(1));
            }
        }
    }
}
