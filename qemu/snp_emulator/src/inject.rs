//! Delivers an exception as the CPU does, by hand: QEMU's CPU pushes no error code for #VC.
//!
//! Source: AMD APM volume 2, sections 8.7 (protected mode), 8.9 (long mode) and 8.2.20 (#VC). Only what #VC needs: an interrupt or trap
//! gate, a change of ring, the interrupt-stack table. What cannot be delivered ends in a double fault on hardware; here it is an error
//! with a reason, which is more than hardware gives.

use crate::access::View;
use crate::memory::PhysicalMemory;
use crate::vmcb::{Segment, Vmcb, efer};

/// The vector of #VC.
pub const VC: u8 = 29;

/// Why an exception could not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undeliverable {
    /// The guest has no such gate.
    NoGate,
    /// The gate, the code segment behind it, or the stack is not usable.
    BadGate,
    /// A table or the stack is not mapped.
    NotMapped,
    /// Real mode: there is no #VC.
    RealMode,
}

impl Undeliverable {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoGate => "the guest has no handler for it",
            Self::BadGate => "the guest's handler for it is not usable",
            Self::NotMapped => "the guest's tables or stack for it are not mapped",
            Self::RealMode => "the guest is in real mode, where it cannot be handled",
        }
    }
}

/// Makes the guest enter its handler for `vector` with `error` on the stack.
pub fn exception<M: PhysicalMemory>(
    view: &View<'_, M>,
    vmcb: &mut Vmcb,
    vector: u8,
    error: u64,
) -> Result<(), Undeliverable> {
    if vmcb.cr0 & 1 == 0 {
        return Err(Undeliverable::RealMode);
    }
    if vmcb.efer & efer::LMA != 0 {
        long_mode(view, vmcb, vector, error)
    } else {
        protected_mode(view, vmcb, vector, error)
    }
}

fn long_mode<M: PhysicalMemory>(
    view: &View<'_, M>,
    vmcb: &mut Vmcb,
    vector: u8,
    error: u64,
) -> Result<(), Undeliverable> {
    use Undeliverable::{BadGate, NoGate, NotMapped};
    let offset = u64::from(vector) * 16;
    if offset + 15 > u64::from(vmcb.idtr.limit) {
        return Err(NoGate);
    }
    let low = view.read_u64(vmcb, vmcb.idtr.base.wrapping_add(offset)).ok_or(NotMapped)?;
    let high = view.read_u64(vmcb, vmcb.idtr.base.wrapping_add(offset + 8)).ok_or(NotMapped)?;
    if low >> 47 & 1 == 0 {
        return Err(NoGate);
    }
    let trap = match low >> 40 & 15 {
        14 => false,
        15 => true,
        _ => return Err(BadGate),
    };
    let target = (low & 0xffff) | (low >> 32 & 0xffff_0000) | high << 32;
    let selector = (low >> 16) as u16;
    let descriptor = code_descriptor(view, vmcb, selector)?;
    let dpl = (descriptor >> 45 & 3) as u8;
    let ist = low >> 32 & 7;
    let stack = match (ist, dpl < vmcb.cpl) {
        (0, false) => vmcb.rsp,
        (0, true) => task_state(view, vmcb, 4 + 8 * u64::from(dpl))?,
        (ist, _) => task_state(view, vmcb, 0x24 + 8 * (ist - 1))?,
    } & !15;
    let frame =
        [error, vmcb.rip, u64::from(vmcb.cs.selector), vmcb.rflags, vmcb.rsp, u64::from(vmcb.ss.selector)];
    let top = stack.wrapping_sub(48);
    for (i, word) in frame.iter().enumerate() {
        view.write(vmcb, top.wrapping_add(8 * i as u64), &word.to_le_bytes()).ok_or(NotMapped)?;
    }
    if dpl != vmcb.cpl {
        // A null selector, with the attributes that let ring 0 use it.
        vmcb.ss =
            Segment { selector: u16::from(dpl), attributes: 0xc93 | u16::from(dpl) << 5, limit: !0, base: 0 };
    }
    enter(vmcb, selector, descriptor, dpl, target, top, trap);
    Ok(())
}

fn protected_mode<M: PhysicalMemory>(
    view: &View<'_, M>,
    vmcb: &mut Vmcb,
    vector: u8,
    error: u64,
) -> Result<(), Undeliverable> {
    use Undeliverable::{BadGate, NoGate, NotMapped};
    let offset = u64::from(vector) * 8;
    if offset + 7 > u64::from(vmcb.idtr.limit) {
        return Err(NoGate);
    }
    let gate = view.read_u64(vmcb, vmcb.idtr.base.wrapping_add(offset)).ok_or(NotMapped)?;
    if gate >> 47 & 1 == 0 {
        return Err(NoGate);
    }
    let trap = match gate >> 40 & 15 {
        14 => false,
        15 => true,
        _ => return Err(BadGate),
    };
    let target = (gate & 0xffff) | (gate >> 32 & 0xffff_0000);
    let selector = (gate >> 16) as u16;
    let descriptor = code_descriptor(view, vmcb, selector)?;
    let dpl = (descriptor >> 45 & 3) as u8;
    if dpl != vmcb.cpl {
        // A stack switch by a 32-bit task state: no guest does that before it is in long mode.
        return Err(BadGate);
    }
    let top = vmcb.rsp.wrapping_sub(16) & 0xffff_ffff;
    for (i, word) in [error, vmcb.rip, u64::from(vmcb.cs.selector), vmcb.rflags].iter().enumerate() {
        let at = vmcb.ss.base.wrapping_add(top + 4 * i as u64);
        view.write(vmcb, at, &(*word as u32).to_le_bytes()).ok_or(NotMapped)?;
    }
    enter(vmcb, selector, descriptor, dpl, target, top, trap);
    Ok(())
}

fn code_descriptor<M: PhysicalMemory>(
    view: &View<'_, M>,
    vmcb: &Vmcb,
    selector: u16,
) -> Result<u64, Undeliverable> {
    let offset = u64::from(selector & !7);
    if offset == 0 || selector & 4 != 0 || offset + 7 > u64::from(vmcb.gdtr.limit) {
        return Err(Undeliverable::BadGate);
    }
    let at = vmcb.gdtr.base.wrapping_add(offset);
    let descriptor = view.read_u64(vmcb, at).ok_or(Undeliverable::NotMapped)?;
    // Present, and code.
    if descriptor >> 47 & 1 == 0 || descriptor >> 43 & 3 != 3 {
        return Err(Undeliverable::BadGate);
    }
    Ok(descriptor)
}

fn task_state<M: PhysicalMemory>(view: &View<'_, M>, vmcb: &Vmcb, offset: u64) -> Result<u64, Undeliverable> {
    view.read_u64(vmcb, vmcb.tr.base.wrapping_add(offset)).ok_or(Undeliverable::NotMapped)
}

fn enter(vmcb: &mut Vmcb, selector: u16, descriptor: u64, dpl: u8, target: u64, stack: u64, trap: bool) {
    let base = (descriptor >> 16 & 0xff_ffff) | (descriptor >> 32 & 0xff00_0000);
    vmcb.cs = Segment {
        selector: selector & !3 | u16::from(dpl),
        attributes: (descriptor >> 40 & 0xff) as u16 | (descriptor >> 44 & 0xf00) as u16,
        limit: !0,
        base: if vmcb.efer & efer::LMA != 0 { 0 } else { base },
    };
    vmcb.cpl = dpl;
    vmcb.rip = target;
    vmcb.rsp = stack;
    // TF, NT, RF and VM are cleared, and IF by an interrupt gate.
    vmcb.rflags &= !(1 << 8 | 1 << 14 | 1 << 16 | 1 << 17 | u64::from(!trap) << 9);
    vmcb.interrupt_state = 0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::TestMemory;
    use crate::memory::{HostMap, Ram};

    /// 64-bit guest with identity-mapped 2 MiB, IDT at 0x5000, GDT at 0x6000, TSS at 0x7000.
    fn guest() -> (TestMemory, HostMap, Vmcb) {
        let memory = TestMemory::new(0x20_0000);
        let mut map = HostMap::default();
        map.add(Ram { gpa: 0, size: 0x20_0000, spa: 0 });
        memory.write_u64(0x1000, 0x2003);
        memory.write_u64(0x2000, 0x3003);
        memory.write_u64(0x3000, 0x83);
        memory.write_u64(0x6008, 0x00af_9b00_0000_ffff);
        let mut vmcb = Vmcb::ZERO;
        vmcb.cr0 = 0x8000_0001;
        vmcb.cr4 = 0x20;
        vmcb.cr3 = 0x1000;
        vmcb.efer = efer::LMA;
        vmcb.idtr = Segment { limit: 0xfff, base: 0x5000, ..Segment::default() };
        vmcb.gdtr = Segment { limit: 0x1f, base: 0x6000, ..Segment::default() };
        vmcb.tr.base = 0x7000;
        vmcb.cs = Segment { selector: 8, attributes: 0xa9b, limit: !0, base: 0 };
        vmcb.rip = 0x1_2345;
        vmcb.rsp = 0x8fff;
        vmcb.rflags = 0x302;
        (memory, map, vmcb)
    }

    fn gate(memory: &TestMemory, target: u64, ist: u64, kind: u64) {
        let low =
            (target & 0xffff) | 8 << 16 | ist << 32 | (0x80 | kind) << 40 | (target >> 16 & 0xffff) << 48;
        memory.write_u64(0x5000 + 29 * 16, low);
        memory.write_u64(0x5000 + 29 * 16 + 8, target >> 32);
    }

    fn deliver(memory: &TestMemory, map: &HostMap, vmcb: &mut Vmcb) -> Result<(), Undeliverable> {
        exception(&View { memory, map, c_bit: 51 }, vmcb, VC, 0x72)
    }

    #[test]
    fn on_the_same_stack() {
        let (memory, map, mut vmcb) = guest();
        gate(&memory, 0xffff_ffff_8000_1234, 0, 14);
        deliver(&memory, &map, &mut vmcb).unwrap();
        assert_eq!((vmcb.rip, vmcb.rsp, vmcb.rflags), (0xffff_ffff_8000_1234, 0x8ff0 - 48, 2));
        let frame: Vec<u64> = (0..6).map(|i| memory.read_u64(vmcb.rsp + 8 * i)).collect();
        assert_eq!(frame, [0x72, 0x1_2345, 8, 0x302, 0x8fff, 0]);
    }

    #[test]
    fn from_ring_3_and_on_an_interrupt_stack() {
        let (memory, map, mut vmcb) = guest();
        memory.write_u64(0x7004, 0xa000);
        memory.write_u64(0x7024 + 8, 0xb000);
        gate(&memory, 0x4000, 0, 15);
        vmcb.cpl = 3;
        vmcb.cs.selector = 0x2b;
        deliver(&memory, &map, &mut vmcb).unwrap();
        assert_eq!((vmcb.rsp, vmcb.cpl, vmcb.cs.selector, vmcb.ss.selector), (0xa000 - 48, 0, 8, 0));
        assert_eq!(vmcb.rflags & 0x200, 0x200, "a trap gate leaves interrupts on");
        gate(&memory, 0x4000, 2, 14);
        deliver(&memory, &map, &mut vmcb).unwrap();
        assert_eq!(vmcb.rsp, 0xb000 - 48);
    }

    #[test]
    fn what_is_missing_is_said() {
        let (memory, map, mut vmcb) = guest();
        assert_eq!(deliver(&memory, &map, &mut vmcb), Err(Undeliverable::NoGate));
        gate(&memory, 0x4000, 0, 12);
        assert_eq!(deliver(&memory, &map, &mut vmcb), Err(Undeliverable::BadGate));
        gate(&memory, 0x4000, 0, 14);
        vmcb.rsp = 0x40_0000;
        assert_eq!(deliver(&memory, &map, &mut vmcb), Err(Undeliverable::NotMapped));
        vmcb.cr0 = 0;
        assert_eq!(deliver(&memory, &map, &mut vmcb), Err(Undeliverable::RealMode));
    }

    #[test]
    fn in_32_bit_mode() {
        let (memory, map, mut vmcb) = guest();
        vmcb.efer = 0;
        vmcb.cr0 = 1;
        memory.write_u64(0x6008, 0x00cf_9b00_0000_ffff);
        memory.write_u64(0x5000 + 29 * 8, 0x4000 | 8 << 16 | 0x8e << 40);
        vmcb.rsp = 0x8000;
        deliver(&memory, &map, &mut vmcb).unwrap();
        assert_eq!((vmcb.rip, vmcb.rsp), (0x4000, 0x8000 - 16));
        assert_eq!(memory.read_u64(0x8000 - 16), 0x72 | 0x1_2345 << 32);
    }
}
