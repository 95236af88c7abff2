//! Exceptions and interrupts: descriptor tables, and what is done about each.
//!
//! An exception while the probe runs ([`super::probe`]) is its outcome. The naive guest ([`crate::naive`]) has ways of its own. Otherwise: interrupts and NMIs are counted per CPU and ended at the APIC; #VC at
//! CPUID is answered with zeros, for libraries that look for CPU features; anything else ends the guest.

use super::global::Global;
use super::{cpu, ghcb, give_up, probe, processor};
use crate::suite::CPUS;
use crate::{measure, naive};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

/// Kernel code, 64 bits.
pub const KERNEL_CODE: u64 = 0x08;
/// Kernel data.
pub const KERNEL_DATA: u64 = 0x10;
/// User code, 32 bits.
pub const USER_CODE_32: u64 = 0x1b;
/// User data.
pub const USER_DATA: u64 = 0x23;
/// User code, 64 bits.
pub const USER_CODE: u64 = 0x2b;
/// Kernel code, 32 bits.
pub const KERNEL_CODE_32: u64 = 0x30;
const TASK: u64 = 0x38;
/// #UD.
pub const UD: u64 = 6;
/// #DF.
pub const DF: u64 = 8;
/// #GP.
pub const GP: u64 = 13;
/// #PF.
pub const PF: u64 = 14;
/// #VC.
pub const VC: u64 = 29;
/// The first vector of interrupts.
pub const FIRST_INTERRUPT: u64 = 0x20;

/// What a stub leaves on the stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Frame {
    /// R15 to R8, RBP, RDI, RSI, RDX, RCX, RBX, RAX.
    pub registers: [u64; 15],
    /// Vector.
    pub vector: u64,
    /// Error code, or 0.
    pub error: u64,
    /// RIP.
    pub rip: u64,
    /// CS.
    pub cs: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RSP.
    pub rsp: u64,
    /// SS.
    pub ss: u64,
}

impl Frame {
    /// RAX.
    pub fn rax(&self) -> u64 {
        self.registers[14]
    }
    /// Changes RAX.
    pub fn set_rax(&mut self, value: u64) {
        self.registers[14] = value;
    }
    /// RBX.
    pub fn rbx(&self) -> u64 {
        self.registers[13]
    }
    /// RCX.
    pub fn rcx(&self) -> u64 {
        self.registers[12]
    }
    /// RDX.
    pub fn rdx(&self) -> u64 {
        self.registers[11]
    }
    /// RDI.
    pub fn rdi(&self) -> u64 {
        self.registers[9]
    }
}

global_asm!(
    r#"
    .pushsection .text
    .balign 16
conformance_stubs:                              // 16 bytes each
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)
    push 0
    .endif
    push vector
    jmp conformance_trap
    .set vector, vector + 1
    .endr
conformance_trap:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    mov rbp, rsp
    and rsp, -16
    call {handler}
    mov rsp, rbp
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq
    .popsection
    "#,
    handler = sym handle,
);

unsafe extern "C" {
    static conformance_stubs: u8;
}

/// A descriptor table's register.
#[repr(C, packed)]
pub struct Pointer {
    /// Bytes less one.
    pub limit: u16,
    /// Address.
    pub base: u64,
}

static GDT: Global<[u64; 9]> = Global::new([0; 9]);
static IDT: Global<[[u64; 2]; 256]> = Global::new([[0; 2]; 256]);
static TSS: Global<[u32; 26]> = Global::new([0; 26]);
/// Stacks: for ring 0 when ring 3 is left, and two of the interrupt-stack table.
static STACKS: Global<[[u8; 16384]; 3]> = Global::new([[0; 16384]; 3]);

/// The end of the stack that ring 3 is left on.
pub fn ring0_stack() -> u64 {
    STACKS.address() + 16384
}

/// The end of a stack of the interrupt-stack table, 1 or 2.
pub fn interrupt_stack(ist: u64) -> u64 {
    STACKS.address() + 16384 * (1 + ist)
}

fn set_task_word(offset: usize, value: u64) {
    // SAFETY: inside the TSS, which the CPU only reads; nobody holds a reference.
    unsafe { (TSS.get().cast::<u8>()).add(offset).cast::<u64>().write_unaligned(value) };
}

/// Sets the end of the interrupt-stack table's stack 3, for tests of a stack that is not there.
pub fn set_spare_stack(address: u64) {
    set_task_word(0x24 + 16, address);
}

/// Makes the tables and loads them on the first CPU.
pub fn start() {
    let tss = TSS.address();
    set_task_word(4, ring0_stack());
    set_task_word(0x24, interrupt_stack(1));
    set_task_word(0x2c, interrupt_stack(2));
    // SAFETY: before anything uses the tables; only this CPU runs.
    unsafe {
        // No I/O map: offset at the limit.
        (*TSS.get())[25] = 104 << 16;
        let low = 0x0000_8900_0000_0067 | (tss & 0xff_ffff) << 16 | (tss >> 24 & 0xff) << 56;
        *GDT.get() = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            0x00cf_9b00_0000_ffff,
            low,
            tss >> 32,
        ];
    }
    for vector in 0..256 {
        set_gate(vector, Gate::default());
    }
    load_tables();
    // SAFETY: the descriptor is there.
    unsafe { asm!("ltr {:x}", in(reg) TASK, options(nostack)) };
}

/// Loads GDT and IDT on this CPU, and the segment registers.
pub fn load_tables() {
    let gdt = Pointer { limit: 9 * 8 - 1, base: GDT.address() };
    let idt = Pointer { limit: 4095, base: IDT.address() };
    // SAFETY: tables that stay; the code segment is where the entry had it.
    unsafe {
        asm!("lgdt [{}]", "lidt [{}]", in(reg) &gdt, in(reg) &idt, options(nostack));
        asm!("mov ss, {0:e}", "mov ds, {0:e}", "mov es, {0:e}", in(reg) KERNEL_DATA, options(nostack));
        asm!("push 8", "lea {0}, [rip + 2f]", "push {0}", "retfq", "2:", out(reg) _);
    }
}

/// The pointers to the tables, for the state of another CPU.
pub fn tables() -> (u64, u64) {
    (GDT.address(), IDT.address())
}

/// How a vector is taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gate {
    /// Interrupt-stack table, 0 for none.
    pub ist: u64,
    /// Leaves IF alone.
    pub trap: bool,
    /// Not there.
    pub absent: bool,
}

/// Sets the gate of a vector. Ring 3 may use that of [`probe::DONE`] alone.
pub fn set_gate(vector: u64, gate: Gate) {
    let at = (&raw const conformance_stubs) as u64 + vector * 16;
    let dpl = if vector == probe::DONE { 3 } else { 0 };
    let kind = (if gate.trap { 15 } else { 14 }) | dpl << 5 | if gate.absent { 0 } else { 0x80 };
    let low = at & 0xffff | KERNEL_CODE << 16 | gate.ist << 32 | kind << 40 | (at >> 16 & 0xffff) << 48;
    // SAFETY: the table is only read by CPUs; a gate is changed while it is not used.
    unsafe { (*IDT.get())[vector as usize & 255] = [low, at >> 32] };
}

/// Interrupts that arrived: by CPU and vector.
static COUNT: [[AtomicU64; 256]; CPUS] = [const { [const { AtomicU64::new(0) }; 256] }; CPUS];

/// How often a vector arrived at a CPU.
pub fn count(cpu: usize, vector: u64) -> u64 {
    COUNT.get(cpu).and_then(|this| this.get(vector as usize)).map_or(0, |n| n.load(Ordering::SeqCst))
}

/// This CPU's number: what it has for a GS base.
pub fn this_cpu() -> usize {
    const GS_BASE: u32 = 0xc000_0101;
    // SAFETY: the MSR is the guest's own.
    unsafe { cpu::rdmsr(GS_BASE) as usize }
}

/// End of interrupt, by the mode that the APIC is in.
fn end_of_interrupt(cpu: usize) {
    let page = ghcb::page_of(cpu);
    if !ghcb::write_msr(page, 0x80b, 0) {
        // Not x2APIC: the register in memory.
        ghcb::write_shared(page + ghcb::BUFFER, 0);
        ghcb::Request::new(ghcb::code::MMIO_WRITE, 0xfee0_00b0, 4).at(page).with_buffer().send();
    }
}

extern "C" fn handle(frame: &mut Frame) {
    let vector = frame.vector;
    let cpu = this_cpu();
    let expected = match cpu {
        0 => probe::outcome(frame) || naive::trap(frame) || measure::trap(frame),
        _ => processor::outcome(frame),
    };
    if expected {
        return;
    }
    match vector {
        2 | FIRST_INTERRUPT..=0xff => {
            if let Some(count) = COUNT.get(cpu).and_then(|this| this.get(vector as usize)) {
                count.fetch_add(1, Ordering::SeqCst);
            }
            if vector != 2 {
                end_of_interrupt(cpu);
            }
        }
        VC if frame.error == ghcb::code::CPUID => {
            for register in [11, 12, 13, 14] {
                frame.registers[register] = 0;
            }
            frame.rip += 2;
        }
        _ => give_up(format_args!(
            "exception {vector}, error {:#x}, at {:#x} on CPU {cpu}, CR2 {:#x}",
            frame.error,
            frame.rip,
            cpu::cr2()
        )),
    }
}
