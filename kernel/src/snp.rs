//! The kernel as an SNP guest: its GHCB, memory that is accepted as it is first used, memory shared with devices, and #VC.
//!
//! Nothing here is reached in a plain VM. Invariant: a page is validated once: launched pages by the launch, the zeroed data by the entry code, tables made while
//! booting by [`accept_early`], all other memory by [`accept`], which the pool calls once for each range.

use crate::clock;
use crate::cpu::trap::EXTERNAL_BASE;
use crate::cpu::{cpuid, features, fpu};
use crate::host::{Cpu, HOST};
use crate::mm::kernel_map;
use crate::mm::layout::{DIRECT_MAP, SHARED_MAP, c_bit};
use crate::mm::user_access;
use boot::{CPU, KERNEL_BASE};
use core::ops::Range;
use core::ptr::NonNull;
use litebox_core::platform::{Exception, PAGE_SIZE, Registers, UserExit};
use platform_snp::dma::DmaRegion;
use platform_snp::host::ghcb::GhcbHost;
use platform_snp::snp::exception::{Evidence, INSTRUCTION, Intercepted, intercepted, is_genuine};
use platform_snp::snp::ghcb::Ghcb;
use platform_snp::snp::instructions::PageSize;
use platform_snp::snp::page_state::{self, Private, Unaccepted};
use platform_snp::snp::{Instructions, Violation, msr_protocol};

/// The vector of #VC.
pub const VC: u64 = 29;
/// The vector of NMI.
const NMI: u64 = 2;
/// Error code of #VC: a nested page fault on memory that is not validated (AMD APM volume 2, 15.36.10).
const NOT_VALIDATED: u64 = 0x404;

/// Whether this is an SNP guest, with its GHCB set up.
pub fn active() -> bool {
    HOST.ghcb().is_some()
}

/// Ends the guest, for a reason that the host learns.
pub fn terminate(violation: Violation) -> ! {
    CPU.terminate(violation.request().into())
}

fn check<T>(result: Result<T, Violation>) -> T {
    result.unwrap_or_else(|violation| terminate(violation))
}

/// Takes a page into use while there is no GHCB yet. It is mapped by boot.
///
/// # Safety
/// The page is RAM by the memory map, neither launched nor accepted before.
pub unsafe fn accept_early(frame: u64) {
    check(msr_protocol::change_page(&CPU, frame, true));
    check(CPU.pvalidate(KERNEL_BASE + frame, PageSize::Small, true));
}

/// Makes `frame` the GHCB: shared, registered, mapped at [`SHARED_MAP`].
///
/// # Safety
/// The page is RAM by the memory map, neither launched nor accepted before, mapped at [`SHARED_MAP`] without the C-bit, and nobody else's.
pub unsafe fn init_ghcb(frame: u64) {
    check(msr_protocol::change_page(&CPU, frame, false));
    check(msr_protocol::register_ghcb(&CPU, frame));
    let at = (SHARED_MAP + frame) as *mut u8;
    // SAFETY: mapped and ours alone, says the caller; the host may write it too, which a `DmaRegion` is made for.
    let region = unsafe { DmaRegion::new(NonNull::new_unchecked(at), frame, PAGE_SIZE) };
    region.write(0, &[0; PAGE_SIZE]);
    HOST.use_ghcb(GhcbHost::new(Ghcb::new(Cpu, region)));
}

fn direct(gpa: u64) -> u64 {
    DIRECT_MAP + gpa
}

/// Takes memory into use: called by the pool, once for each range, before it is touched.
pub fn accept(range: Range<u64>) -> bool {
    if let Some(host) = HOST.ghcb() {
        // SAFETY: the pool's invariant: memory that was not launched and is not used yet, each range once.
        let pages = unsafe { Unaccepted::new(range) };
        let pages = host.with(|ghcb| page_state::accept(ghcb, pages, &direct));
        if !keeps_caches_coherent() {
            evict(pages.range());
        }
    }
    true
}

/// Whether the CPU needs no help to keep what the host wrote to a page before it was validated out of the guest's caches (CVE-2025-38560; APM volume 3,
/// CPUID Fn8000_001F EBX bit 31). The entry code and early tables need none: they write whole pages.
fn keeps_caches_coherent() -> bool {
    cpuid::cpuid(0x8000_001f).ebx >> 31 != 0
}

/// Evicts stale lines of pages that were just validated: touching the first and the last line of a page evicts all of it, as AMD has it done in Linux.
fn evict(pages: Range<u64>) {
    for page in pages.step_by(PAGE_SIZE) {
        for at in [page, page + PAGE_SIZE as u64 - 1] {
            // SAFETY: validated memory in the direct map, which nobody uses yet; any byte is a value.
            unsafe { (direct(at) as *const u8).read_volatile() };
        }
    }
}

/// Makes pages of the direct map shared with the host for ever, and returns where they are from now on. They must not be used in the
/// direct map any more, where they are encrypted.
///
/// # Safety
/// The pages were just allocated, whole, and are never freed.
pub unsafe fn share(base: NonNull<u8>, pages: usize) -> Option<NonNull<u8>> {
    let Some(host) = HOST.ghcb() else { return Some(base) };
    let gpa = base.as_ptr() as u64 - DIRECT_MAP;
    let range = gpa..gpa + (pages * PAGE_SIZE) as u64;
    // Pool pages are validated; the caller gives them up.
    // SAFETY: as just said.
    let private = unsafe { Private::new(range.clone()) };
    host.with(|ghcb| page_state::share(ghcb, private, &direct));
    kernel_map::map_shared(range).ok()?;
    NonNull::new((SHARED_MAP + gpa) as *mut u8)
}

/// The user's code: the bytes at RIP, and the two in front of it.
struct Code {
    at: [u8; INSTRUCTION],
    len: usize,
    before: [u8; 2],
}

impl Code {
    fn read(rip: u64) -> Code {
        let mut code = Code { at: [0; INSTRUCTION], len: 0, before: [0; 2] };
        code.len = user_access::copy_from_user(rip as usize, &mut code.at);
        user_access::copy_from_user(rip.wrapping_sub(2) as usize, &mut code.before);
        code
    }

    fn at(&self) -> &[u8] {
        self.at.get(..self.len).unwrap_or_default()
    }
}

/// Ends the guest if its user mode took an exception that it cannot have caused.
pub fn check_user_exception(vector: u64, registers: &Registers) {
    if !active() {
        return;
    }
    let code = Code::read(registers.rip);
    let (x87_status, mxcsr) = fpu::status();
    if !is_genuine(vector, Evidence { at: code.at(), before: code.before, x87_status, mxcsr }) {
        terminate(if vector == NMI { Violation::BadInterrupt } else { Violation::BadException });
    }
}

/// What to do about a #VC that ring 3 caused: go on, or end like this.
///
/// The instruction is looked at before the error code is believed: a host can inject #VC with any.
pub fn user_exception(registers: &mut Registers, error: u64) -> Option<UserExit> {
    let code = Code::read(registers.rip);
    let (what, len) = check(intercepted(error, code.at()));
    match what {
        Intercepted::Cpuid => {
            let xcr0 = if features::get().xsave { features::get().xcr0 } else { 1 };
            let result =
                cpuid::for_user(registers.rax as u32, registers.rcx as u32, xcr0, features::get().xsave);
            registers.rax = result.eax.into();
            registers.rbx = result.ebx.into();
            registers.rcx = result.ecx.into();
            registers.rdx = result.edx.into();
        }
        Intercepted::Rdtsc | Intercepted::Rdtscp => {
            let now = clock::tsc();
            (registers.rax, registers.rdx) = (now & 0xffff_ffff, now >> 32);
            if what == Intercepted::Rdtscp {
                registers.rcx = 0;
            }
        }
        Intercepted::Refused => return Some(UserExit::Exception(Exception::Protection)),
        Intercepted::Undefined => return Some(UserExit::Exception(Exception::InvalidOpcode)),
    }
    registers.rip += len as u64;
    None
}

/// A #VC in ring 0: nothing of ours causes one.
pub fn kernel_vc(error: u64) -> ! {
    terminate(if error == NOT_VALIDATED { Violation::MemoryLost } else { Violation::InjectedVc })
}

/// Ends an SNP guest for a trap in ring 0 that nothing of ours expects: a host can inject any vector, also where interrupts are off. In a plain VM it
/// is a bug, and this returns.
pub fn kernel_exception(vector: u64) {
    if c_bit() != 0 {
        let interrupt = vector == NMI || vector >= u64::from(EXTERNAL_BASE);
        terminate(if interrupt { Violation::BadInterrupt } else { Violation::BadException });
    }
}
