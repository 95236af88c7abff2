//! The emulator's own interrupts and exceptions.
//!
//! Interrupts are open only where [`open_window`] or [`sleep`] opens them, after the guest has stopped: they are noted per CPU and handed to the
//! machine at its next entry. Vectors of the emulator's own are at the top, where Linux and ours have none for devices.

use super::apic;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use snp_emulator::options::CPUS;

/// The timer of the local APIC.
pub const TIMER: u8 = 0xfe;
/// Another CPU wants this one to leave the guest.
pub const KICK: u8 = 0xfd;
/// The APIC's spurious vector.
pub const SPURIOUS: u8 = 0xff;

/// 256 vectors.
struct Pending([AtomicU64; 4]);

impl Pending {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 4])
    }
    fn set(&self, vector: u8) {
        self.0[usize::from(vector / 64)].fetch_or(1 << (vector % 64), Ordering::SeqCst);
    }
    fn drain(&self, mut with: impl FnMut(u8)) {
        for (word, bits) in self.0.iter().enumerate() {
            let mut bits = bits.swap(0, Ordering::SeqCst);
            while bits != 0 {
                with((word * 64) as u8 + bits.trailing_zeros() as u8);
                bits &= bits - 1;
            }
        }
    }
}

/// What arrived at each CPU's APIC.
static DEVICE: [Pending; CPUS] = [const { Pending::new() }; CPUS];
/// What the 8259 delivered; always to the first CPU.
static EXTERNAL: Pending = Pending::new();

/// Hands over what arrived since the last call.
pub fn drain(cpu: usize, device: impl FnMut(u8), external: impl FnMut(u8)) {
    if let Some(pending) = DEVICE.get(cpu) {
        pending.drain(device);
    }
    if cpu == 0 {
        EXTERNAL.drain(external);
    }
}

global_asm!(
    r#"
    .pushsection .text
    .balign 16
emulator_stubs:                                 // 16 bytes each
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)
    push 0
    .endif
    push vector
    jmp emulator_interrupt
    .set vector, vector + 1
    .endr
emulator_interrupt:
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    cld
    mov rdi, [rsp + 72]
    lea rsi, [rsp + 72]
    call {handler}
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
    .popsection
    "#,
    handler = sym handle,
);

unsafe extern "C" {
    static emulator_stubs: u8;
    static emulator_gdt: u8;
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Gate([u64; 2]);

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

static IDT: spin::Once<[Gate; 256]> = spin::Once::new();

/// Loads the emulator's GDT and IDT on this CPU.
pub fn load() {
    let idt = IDT.call_once(|| {
        let mut gates = [Gate([0; 2]); 256];
        for (vector, gate) in gates.iter_mut().enumerate() {
            let at = (&raw const emulator_stubs) as u64 + vector as u64 * 16;
            gate.0 = [at & 0xffff | 8 << 16 | 0x8e00 << 32 | (at >> 16 & 0xffff) << 48, at >> 32];
        }
        gates
    });
    let idt = Pointer { limit: 4095, base: idt.as_ptr() as u64 };
    let gdt = Pointer { limit: 31, base: (&raw const emulator_gdt) as u64 };
    // SAFETY: both tables are static and right: the code segment is the one at 8 as before, the stack's at 16.
    unsafe {
        asm!("lgdt [{}]", "lidt [{}]", in(reg) &gdt, in(reg) &idt);
        asm!("mov ss, {0:e}", "mov ds, {0:e}", "mov es, {0:e}", in(reg) 16);
    }
}

extern "C" fn handle(vector: u64, frame: *const u64) {
    let vector = vector as u8;
    match vector {
        0..32 => {
            // SAFETY: the stub passes the address of vector, error code, RIP and the rest of the frame.
            let (error, rip) = unsafe { (*frame.add(1), *frame.add(2)) };
            let cr2: u64;
            // SAFETY: reads a register.
            unsafe { asm!("mov {}, cr2", out(reg) cr2) };
            panic!("exception {vector} in the emulator: error {error:#x}, RIP {rip:#x}, CR2 {cr2:#x}");
        }
        TIMER | KICK => apic::end_of_interrupt(),
        SPURIOUS => {}
        // The 8259's interrupts pass the APIC without leaving a mark in it.
        _ if !apic::in_service(vector) => EXTERNAL.set(vector),
        _ => {
            if let Some(pending) = DEVICE.get(apic::id() as usize) {
                pending.set(vector);
            }
            apic::end_of_interrupt();
        }
    }
}

/// Lets pending interrupts in.
pub fn open_window() {
    // SAFETY: the handlers touch only what is atomic.
    unsafe { asm!("sti", "nop", "nop", "cli") };
}

/// Sleeps until an interrupt.
pub fn sleep() {
    // SAFETY: as above; STI takes effect after HLT has begun, so that no wake-up is lost.
    unsafe { asm!("sti", "hlt", "cli") };
}
