//! The ways to the host: the GHCB MSR and the GHCB page, in the raw, so that a request can be as wrong as a test wants it.
//!
//! Source: GHCB specification (56421), sections 2.3 and 2.6, table 3. Nothing the host answers is believed here; it is handed on.

use super::{cpu, give_up, paging};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// The MSR.
pub const MSR: u32 = 0xc001_0130;
/// Where the shared buffer is in the page.
pub const BUFFER: u64 = 0x800;
/// Its bytes.
pub const BUFFER_SIZE: usize = 0x7f0;
const VALID: u64 = 0x3f0;
const VERSION: u64 = 0xffa;
const USAGE: u64 = 0xffc;

/// A quadword of the page, by its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Field {
    /// CPL, in the byte at 0xCB.
    Cpl = 0xc8,
    /// DR7.
    Dr7 = 0x160,
    /// RAX.
    Rax = 0x1f8,
    /// RCX.
    Rcx = 0x308,
    /// RDX.
    Rdx = 0x310,
    /// RBX.
    Rbx = 0x318,
    /// SW_EXITCODE.
    Code = 0x390,
    /// SW_EXITINFO1.
    Info1 = 0x398,
    /// SW_EXITINFO2.
    Info2 = 0x3a0,
    /// SW_SCRATCH.
    Scratch = 0x3a8,
    /// XCR0.
    Xcr0 = 0x3e8,
}

/// Exit codes of the specification (table 6).
#[allow(missing_docs)]
pub mod code {
    pub const READ_DR7: u64 = 0x27;
    pub const WRITE_DR7: u64 = 0x37;
    pub const RDTSC: u64 = 0x6e;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const INVD: u64 = 0x76;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const VMMCALL: u64 = 0x81;
    pub const RDTSCP: u64 = 0x87;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MMIO_READ: u64 = 0x8000_0001;
    pub const MMIO_WRITE: u64 = 0x8000_0002;
    pub const NMI_COMPLETE: u64 = 0x8000_0003;
    pub const RESET_HOLD: u64 = 0x8000_0004;
    pub const JUMP_TABLE: u64 = 0x8000_0005;
    pub const PAGE_STATE: u64 = 0x8000_0010;
    pub const GUEST_REQUEST: u64 = 0x8000_0011;
    pub const EXTENDED_GUEST_REQUEST: u64 = 0x8000_0012;
    pub const AP_CREATION: u64 = 0x8000_0013;
    pub const HV_DOORBELL: u64 = 0x8000_0014;
    pub const HV_IPI: u64 = 0x8000_0015;
    pub const HV_TIMER: u64 = 0x8000_0016;
    pub const APIC_IDS: u64 = 0x8000_0017;
    pub const RUN_VMPL: u64 = 0x8000_0018;
    pub const FEATURES: u64 = 0x8000_fffd;
    pub const TERMINATE: u64 = 0x8000_fffe;
}

/// The page of each CPU; 0: none yet.
static PAGE: [AtomicU64; super::super::suite::CPUS] =
    [const { AtomicU64::new(0) }; super::super::suite::CPUS];

/// The GHCB page of the first CPU.
pub fn page() -> u64 {
    page_of(0)
}

/// The GHCB page of a CPU.
pub fn page_of(cpu: usize) -> u64 {
    PAGE.get(cpu).map_or(0, |page| page.load(Ordering::Relaxed))
}

/// Exits to the host.
pub fn vmgexit() {
    // SAFETY: the host reads and writes shared memory only.
    unsafe { asm!("rep vmmcall", options(nostack)) };
}

/// One exchange by the MSR protocol: the MSR's value after the exit.
pub fn msr_protocol(request: u64) -> u64 {
    // SAFETY: the MSR is the guest's own; its accesses do not exit.
    unsafe {
        cpu::wrmsr(MSR, request);
        vmgexit();
        cpu::rdmsr(MSR)
    }
}

/// Makes a page shared (MSR protocol 0x014) and gives it the contents zero.
pub fn share(gpa: u64) {
    let answer = msr_protocol(2 << 52 | gpa | 0x014);
    if answer != 0x015 {
        give_up(format_args!("the page {gpa:#x} cannot be shared: {answer:#x}"));
    }
    clear(gpa);
}

/// Zeroes a shared page.
pub fn clear(gpa: u64) {
    for at in (0..4096).step_by(8) {
        write_shared(gpa + at, 0);
    }
}

/// Makes the GHCB of a CPU, registers and sets it. Called on that CPU.
pub fn start(cpu: usize, gpa: u64) {
    let answer = msr_protocol(gpa | 0x012);
    if answer != gpa | 0x013 {
        give_up(format_args!("the GHCB cannot be registered: {answer:#x}"));
    }
    if let Some(page) = PAGE.get(cpu) {
        page.store(gpa, Ordering::Relaxed);
    }
}

/// Makes the page that is to be the GHCB of another CPU, which registers it itself.
pub fn share_for(cpu: usize) {
    let Some(slot) = PAGE.get(cpu) else { give_up(format_args!("no such CPU: {cpu}")) };
    if slot.load(Ordering::Relaxed) == 0 {
        let page = super::arena::page();
        share(page);
        slot.store(page, Ordering::Relaxed);
    }
}

/// Reads a quadword of shared memory.
pub fn read_shared(gpa: u64) -> u64 {
    // SAFETY: the window maps all memory; the page is shared, says the caller, and nothing of Rust's is in it.
    unsafe { (paging::shared(gpa) as *const u64).read_volatile() }
}

/// Writes a quadword of shared memory.
pub fn write_shared(gpa: u64, value: u64) {
    // SAFETY: as above.
    unsafe { (paging::shared(gpa) as *mut u64).write_volatile(value) }
}

/// Copies bytes into shared memory.
pub fn write_bytes(gpa: u64, bytes: &[u8]) {
    for (i, &byte) in bytes.iter().enumerate() {
        // SAFETY: as above.
        unsafe { ((paging::shared(gpa) + i as u64) as *mut u8).write_volatile(byte) };
    }
}

/// Copies bytes out of shared memory.
pub fn read_bytes(gpa: u64, bytes: &mut [u8]) {
    for (i, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: as above.
        *byte = unsafe { ((paging::shared(gpa) + i as u64) as *const u8).read_volatile() };
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the GHCB is.
    pub page: u64,
    fields: [Option<(Field, u64)>; 12],
    version: u16,
    usage: u32,
}

/// What the host left in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// SW_EXITINFO1.
    pub info1: u64,
    /// SW_EXITINFO2.
    pub info2: u64,
    /// RAX, RBX, RCX, RDX; zero where not marked valid.
    pub rax: u64,
    /// RBX.
    pub rbx: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// DR7.
    pub dr7: u64,
}

impl Reply {
    /// SW_EXITINFO1 and 2.
    pub fn info(&self) -> (u64, u64) {
        (self.info1, self.info2)
    }
}

impl Request {
    /// A request of the first CPU with the three fields that every exit needs.
    pub fn new(code: u64, info1: u64, info2: u64) -> Self {
        let mut fields = [None; 12];
        fields[0] = Some((Field::Code, code));
        fields[1] = Some((Field::Info1, info1));
        fields[2] = Some((Field::Info2, info2));
        Self { page: page(), fields, version: 2, usage: 0 }
    }

    /// From another GHCB page.
    pub fn at(mut self, page: u64) -> Self {
        self.page = page;
        self
    }

    /// With a field, which is marked valid.
    pub fn with(mut self, field: Field, value: u64) -> Self {
        if let Some(slot) = self.fields.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some((field, value));
        }
        self
    }

    /// With a field that is there and not marked valid.
    pub fn without(mut self, field: Field) -> Self {
        for slot in &mut self.fields {
            if slot.is_some_and(|(this, _)| this == field) {
                *slot = None;
            }
        }
        self
    }

    /// With the scratch area in the GHCB's own buffer.
    pub fn with_buffer(self) -> Self {
        let at = self.page + BUFFER;
        self.with(Field::Scratch, at)
    }

    /// With another version of the protocol.
    pub fn version(mut self, version: u16) -> Self {
        self.version = version;
        self
    }

    /// With another usage.
    pub fn usage(mut self, usage: u32) -> Self {
        self.usage = usage;
        self
    }

    /// Fills the page, without exiting.
    pub fn fill(&self) {
        for at in (0..0x400).step_by(8) {
            write_shared(self.page + at, 0);
        }
        let mut valid = [0u64; 2];
        for (field, value) in self.fields.iter().flatten() {
            let at = *field as u64;
            write_shared(self.page + at, *value);
            valid[(at / 8 / 64) as usize] |= 1 << (at / 8 % 64);
        }
        write_shared(self.page + VALID, valid[0]);
        write_shared(self.page + VALID + 8, valid[1]);
        write_bytes(self.page + VERSION, &self.version.to_le_bytes());
        write_bytes(self.page + USAGE, &self.usage.to_le_bytes());
    }

    /// Asks, and reads the answer.
    pub fn send(&self) -> Reply {
        self.fill();
        // SAFETY: the MSR is the guest's own.
        unsafe { cpu::wrmsr(MSR, self.page) };
        vmgexit();
        self.reply()
    }

    /// What is in the page now.
    pub fn reply(&self) -> Reply {
        let field = |field: Field| {
            let at = field as u64;
            let valid = read_shared(self.page + VALID + at / 8 / 64 * 8) >> (at / 8 % 64) & 1 != 0;
            if valid { read_shared(self.page + at) } else { 0 }
        };
        Reply {
            info1: field(Field::Info1),
            info2: field(Field::Info2),
            rax: field(Field::Rax),
            rbx: field(Field::Rbx),
            rcx: field(Field::Rcx),
            rdx: field(Field::Rdx),
            dr7: field(Field::Dr7),
        }
    }
}

/// SW_EXITINFO1 of a port access (APM volume 2, 15.10.2): `size` in bytes.
pub fn port_info(port: u16, size: u64, flags: u64) -> u64 {
    u64::from(port) << 16 | size << 4 | flags
}

/// IOIO: input.
pub const IN: u64 = 1 << 0;
/// IOIO: string.
pub const STRING: u64 = 1 << 2;
/// IOIO: repeated.
pub const REPEAT: u64 = 1 << 3;

/// Reads a port.
pub fn read_port(port: u16, size: u64) -> u64 {
    Request::new(code::IOIO, port_info(port, size, IN), 0).with(Field::Rax, 0).send().rax
}

/// Writes a port.
pub fn write_port(port: u16, size: u64, value: u64) -> Reply {
    Request::new(code::IOIO, port_info(port, size, 0), 0).with(Field::Rax, value).send()
}

/// OUTSB of at most [`BUFFER_SIZE`] bytes.
pub fn write_port_string(port: u16, bytes: &[u8]) {
    let page = page();
    if page == 0 || bytes.is_empty() {
        return;
    }
    write_bytes(page + BUFFER, bytes);
    Request::new(code::IOIO, port_info(port, 1, STRING | REPEAT), bytes.len() as u64).with_buffer().send();
}

/// Reads an MSR by the host; `None` if it says #GP.
pub fn read_msr(page: u64, msr: u32) -> Option<u64> {
    let reply = Request::new(code::MSR, 0, 0).at(page).with(Field::Rcx, msr.into()).send();
    (reply.info1 == 0).then_some(reply.rdx << 32 | reply.rax & 0xffff_ffff)
}

/// Writes an MSR by the host; false if it says #GP.
pub fn write_msr(page: u64, msr: u32, value: u64) -> bool {
    let request = Request::new(code::MSR, 1, 0).at(page).with(Field::Rcx, msr.into());
    request.with(Field::Rax, value & 0xffff_ffff).with(Field::Rdx, value >> 32).send().info1 == 0
}

/// Reads device memory through the GHCB's buffer.
pub fn read_mmio(gpa: u64, size: u64) -> u64 {
    write_shared(page() + BUFFER, 0);
    Request::new(code::MMIO_READ, gpa, size).with_buffer().send();
    read_shared(page() + BUFFER)
}

/// Writes device memory through the GHCB's buffer.
pub fn write_mmio(gpa: u64, size: u64, value: u64) {
    write_shared(page() + BUFFER, value);
    Request::new(code::MMIO_WRITE, gpa, size).with_buffer().send();
}

/// Ends the guest: 0 switches the machine off, anything else is the status that QEMU's debug-exit port gets.
pub fn end(status: u64) -> ! {
    if page() != 0 {
        if status == 0 {
            // ACPI's soft-off as q35 has it: PM1a control, SLP_EN.
            write_port(0x604, 2, 1 << 13);
        }
        write_port(0xf4, 4, status);
    }
    // What every host has: terminate, general request.
    loop {
        msr_protocol(0x100);
    }
}
