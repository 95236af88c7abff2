//! Other CPUs: the state that they start from, and what they do when they run.
//!
//! A CPU that was created announces itself, then carries out one command at a time out of its mailbox. It runs Rust on a stack of its own, and shares with
//! the first CPU nothing but atomics.

use super::global::Global;
use super::instructions::{pvalidate, rmpadjust};
use super::{arena, cpu, ghcb, give_up, paging, traps};
use crate::suite::CPUS;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// SEV_FEATURES of every save area: SNP.
pub const FEATURES: u64 = 1;
/// EFER: LME, LMA, NXE, SVME.
const EFER: u64 = 0x1d00;
/// What R8 to R15 begin with; the register's number is added.
pub const PATTERN: u64 = 0x5eed_0000_0000_0000;
/// The result of a read that could not be made: #VC with the error code in the lower half.
pub const FAULT: u64 = 0xfa17_0000_0000_0000;

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Command {
    /// Reads a quadword at an address.
    Read = 1,
    /// Lets interrupts in for a moment.
    Window,
    /// HLT with interrupts on.
    Halt,
    /// MSR protocol: AP reset hold; the answer.
    HoldByMsr,
    /// GHCB page: AP reset hold; SW_EXITINFO2.
    HoldByPage,
    /// Sends an interrupt command (the low half of ICR) to the CPU in the upper half.
    Send,
    /// Uses the GHCB of the first CPU; SW_EXITINFO1 and 2, the former in the upper half.
    ForeignGhcb,
    /// Reads a register of its local APIC.
    ReadApic,
}

struct Mailbox {
    alive: AtomicU64,
    command: AtomicU64,
    argument: AtomicU64,
    result: AtomicU64,
    registers_wrong: AtomicU64,
}

static MAILBOX: [Mailbox; CPUS] = [const {
    Mailbox {
        alive: AtomicU64::new(0),
        command: AtomicU64::new(0),
        argument: AtomicU64::new(0),
        result: AtomicU64::new(0),
        registers_wrong: AtomicU64::new(0),
    }
}; CPUS];
static STACKS: Global<[[u8; 16384]; CPUS]> = Global::new([[0; 16384]; CPUS]);

global_asm!(
    r#"
    .pushsection .text
conformance_processor:                          // RDI: number; R8 to R15: the pattern
    xor esi, esi
    .irp n, 8, 9, 10, 11, 12, 13, 14, 15
    movabs rax, {pattern}
    add rax, \n
    cmp rax, r\n
    je 2f
    inc esi
2:
    .endr
    xor ebp, ebp
    call {main}
    ud2
    .globl conformance_read, conformance_read_end
conformance_read:                               // RDI: address
    mov rax, [rdi]
conformance_read_end:
    ret
    .popsection
    "#,
    pattern = const PATTERN,
    main = sym main,
);

unsafe extern "C" {
    static conformance_processor: u8;
    static conformance_read_end: u8;
    fn conformance_read(address: u64) -> u64;
}

/// A #VC at [`Command::Read`] is its result. Whether it was one.
pub fn outcome(frame: &mut traps::Frame) -> bool {
    if frame.vector != traps::VC || !is_reading(frame) {
        return false;
    }
    finish_read(frame, FAULT | frame.error);
    true
}

/// Reads a quadword by an instruction that handlers know.
///
/// # Safety
/// The address is mapped, and if there is something of Rust's, it may be read there.
pub unsafe fn read(address: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { conformance_read(address) }
}

/// Whether an exception came up in [`read`]; the address is in RDI.
pub fn is_reading(frame: &traps::Frame) -> bool {
    frame.rip == conformance_read as *const () as u64
}

/// Lets a read that faulted end with this value.
pub fn finish_read(frame: &mut traps::Frame, value: u64) {
    frame.set_rax(value);
    frame.rip = (&raw const conformance_read_end) as u64;
}

/// A page with the state of a CPU in it that has not become a VMSA yet.
pub fn state(number: usize) -> u64 {
    let mut page = arena::page();
    if page.is_multiple_of(2 << 20) {
        // Not where 2 MiB begin: a processor's erratum, which hosts refuse to meet.
        page = arena::page();
    }
    pvalidate(paging::private(page), 0, true);
    for at in (0..4096).step_by(8) {
        set(page, at, 0);
    }
    let (gdt, idt) = traps::tables();
    let code = 0xa9b << 16 | traps::KERNEL_CODE | 0xffff_ffff << 32;
    let data = 0xc93 << 16 | traps::KERNEL_DATA | 0xffff_ffff << 32;
    for (at, value) in [
        (0x00, data),
        (0x10, code),
        (0x20, data),
        (0x30, data),
        (0x40, data),
        (0x50, data),
        (0x58, number as u64),
        (0x60, 71 << 32),
        (0x68, gdt),
        (0x80, 4095 << 32),
        (0x88, idt),
        (0x90, 0x8b << 16 | 0xffff << 32),
        (0xd0, EFER),
        (0x148, 0x20),
        (0x150, paging::cr3()),
        (0x158, 0x8000_0031),
        (0x160, 0x400),
        (0x168, 0xffff_0ff0),
        (0x170, 2),
        (0x178, (&raw const conformance_processor) as u64),
        (0x1d8, STACKS.address() + 16384 * (number as u64 + 1)),
        (0x268, 0x0007_0406_0007_0406),
        (0x338, number as u64),
        (0x3b0, FEATURES),
        (0x3e8, 1),
        (0x408, 0x1f80),
        (0x410, 0x37f),
    ] {
        set(page, at, value);
    }
    for register in 8..16 {
        set(page, 0x340 + 8 * (register - 8), PATTERN + register);
    }
    page
}

/// Writes a quadword of a state.
pub fn set(page: u64, at: u64, value: u64) {
    // SAFETY: a validated page of the arena's, in which nothing of Rust's is.
    unsafe { ((paging::private(page) + at) as *mut u64).write_volatile(value) };
}

/// Makes a state a VMSA.
pub fn make_vmsa(page: u64) {
    let code = rmpadjust(paging::private(page), 0, 1 << 16 | 1);
    if code != 0 {
        give_up(format_args!("a page cannot be made a VMSA: {code}"));
    }
}

/// AP creation: `what` is 0 at INIT, 1 now, 2 destroy. SW_EXITINFO1 and 2.
pub fn request(what: u64, apic_id: u64, vmpl: u64, vmsa: u64, features: u64) -> (u64, u64) {
    let info1 = apic_id << 32 | vmpl << 16 | what;
    let request = ghcb::Request::new(ghcb::code::AP_CREATION, info1, vmsa);
    request.with(ghcb::Field::Rax, features).send().info()
}

/// Prepares what a CPU needs besides its state: a GHCB. Before it is created.
pub fn prepare(number: usize) {
    ghcb::share_for(number);
    forget(number);
}

/// Forgets that a CPU was alive.
pub fn forget(number: usize) {
    if let Some(mailbox) = MAILBOX.get(number) {
        mailbox.alive.store(0, Ordering::SeqCst);
        mailbox.command.store(0, Ordering::SeqCst);
    }
}

/// Waits as long as a busy machine may need for `done`.
pub fn wait(done: impl Fn() -> bool) -> bool {
    let end = cpu::rdtsc() + 60_000_000_000;
    while !done() {
        if cpu::rdtsc() > end {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Waits a short while: for what is not to happen.
pub fn linger() {
    let end = cpu::rdtsc() + 50_000_000;
    while cpu::rdtsc() < end {
        core::hint::spin_loop();
    }
}

/// Whether a CPU has announced itself since it was forgotten, and how many of its registers were wrong.
pub fn is_alive(number: usize) -> Option<u64> {
    let mailbox = MAILBOX.get(number)?;
    (mailbox.alive.load(Ordering::SeqCst) != 0).then(|| mailbox.registers_wrong.load(Ordering::SeqCst))
}

/// Gives a command, without waiting.
pub fn give(number: usize, command: Command, argument: u64) {
    if let Some(mailbox) = MAILBOX.get(number) {
        mailbox.argument.store(argument, Ordering::SeqCst);
        mailbox.command.store(command as u64, Ordering::SeqCst);
    }
}

/// Waits for the result of a command.
pub fn result(number: usize) -> Option<u64> {
    let mailbox = MAILBOX.get(number)?;
    wait(|| mailbox.command.load(Ordering::SeqCst) == 0).then(|| mailbox.result.load(Ordering::SeqCst))
}

/// Gives a command and waits for its result.
pub fn ask(number: usize, command: Command, argument: u64) -> Option<u64> {
    give(number, command, argument);
    result(number)
}

extern "C" fn main(number: usize, wrong: u64) -> ! {
    ghcb::start(number, ghcb::page_of(number));
    // The APIC on, LINT0 masked.
    write_apic(number, 0xf0, 0x1ff);
    write_apic(number, 0x350, 1 << 16);
    let Some(mailbox) = MAILBOX.get(number) else { give_up(format_args!("no such CPU: {number}")) };
    mailbox.registers_wrong.store(wrong, Ordering::SeqCst);
    mailbox.alive.store(1, Ordering::SeqCst);
    loop {
        let command = mailbox.command.load(Ordering::SeqCst);
        if command == 0 {
            cpu::interrupt_window();
            core::hint::spin_loop();
            continue;
        }
        let result = obey(number, command, mailbox.argument.load(Ordering::SeqCst));
        mailbox.result.store(result, Ordering::SeqCst);
        mailbox.command.store(0, Ordering::SeqCst);
    }
}

fn write_apic(number: usize, register: u64, value: u64) {
    let page = ghcb::page_of(number);
    ghcb::write_shared(page + ghcb::BUFFER, value);
    ghcb::Request::new(ghcb::code::MMIO_WRITE, 0xfee0_0000 + register, 4).at(page).with_buffer().send();
}

fn obey(number: usize, command: u64, argument: u64) -> u64 {
    let page = ghcb::page_of(number);
    match command {
        // SAFETY: the first CPU gives addresses of the arena's pages, in the windows; a #VC is an outcome.
        c if c == Command::Read as u64 => unsafe { read(argument) },
        c if c == Command::Halt as u64 => {
            cpu::halt_with_interrupts();
            0
        }
        c if c == Command::HoldByMsr as u64 => ghcb::msr_protocol(0x006),
        c if c == Command::HoldByPage as u64 => {
            ghcb::Request::new(ghcb::code::RESET_HOLD, 0, 0).at(page).send().info2
        }
        c if c == Command::Send as u64 => {
            write_apic(number, 0x310, argument >> 32 << 24);
            write_apic(number, 0x300, argument & 0xffff_ffff);
            0
        }
        c if c == Command::ForeignGhcb as u64 => {
            let reply = ghcb::Request::new(ghcb::code::RDTSC, 0, 0).at(ghcb::page()).send();
            reply.info1 << 32 | reply.info2
        }
        c if c == Command::ReadApic as u64 => {
            ghcb::write_shared(page + ghcb::BUFFER, 0);
            ghcb::Request::new(ghcb::code::MMIO_READ, 0xfee0_0000 + argument, 4)
                .at(page)
                .with_buffer()
                .send();
            ghcb::read_shared(page + ghcb::BUFFER)
        }
        _ => {
            cpu::interrupt_window();
            0
        }
    }
}
