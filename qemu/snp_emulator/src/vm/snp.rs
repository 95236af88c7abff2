//! The instructions of SNP, emulated where QEMU's CPU raises #UD.
//!
//! Source: AMD APM volume 3: PVALIDATE, RMPADJUST, RMPQUERY.

use super::{Machine, Next};
use crate::decode::{Instruction, decode};
use crate::ending::Ending;
use crate::hardware::Hardware;
use crate::memory::{Attribute, PhysicalMemory};
use crate::rmp::{Access, Fail, PAGE, Size};
use crate::vmcb::{Registers, Vmcb, exit};

const CF: u64 = 1;
/// CF, PF, AF, ZF, SF, OF.
const STATUS_FLAGS: u64 = 0x8d5;
const ZF: u64 = 1 << 6;
const PF: u64 = 1 << 2;

/// What an instruction meets before it does anything.
enum Operand {
    /// The page.
    Page {
        gpa: u64,
        spa: u64,
        /// The size of the mapping that reaches it.
        mapped: Size,
    },
    /// Wrong alignment or a shared mapping.
    BadInput,
    /// Not mapped by the guest: page fault.
    Fault,
    /// It ends here.
    Done(Next),
}

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// #UD: an instruction of SNP, or really undefined.
    pub(super) fn undefined(&mut self, cpu: usize, vmcb: &mut Vmcb, registers: &mut Registers) -> Next {
        let instruction = decode(self.view().instruction(vmcb));
        let privileged = matches!(
            instruction,
            Some(Instruction::Pvalidate | Instruction::Rmpadjust | Instruction::Rmpquery)
        );
        if !privileged || vmcb.cr0 & 1 == 0 {
            return Self::fault(vmcb, 6, None);
        }
        if vmcb.cpl != 0 {
            return Self::fault(vmcb, 13, Some(0));
        }
        match instruction {
            Some(Instruction::Pvalidate) => self.pvalidate(cpu, vmcb, registers),
            Some(Instruction::Rmpadjust) => self.rmpadjust(cpu, vmcb, registers),
            _ => self.rmpquery(cpu, vmcb, registers),
        }
    }

    /// Finds the page of an instruction's operand, assigning it first where the host means it to be the guest's.
    fn operand(&mut self, cpu: usize, vmcb: &mut Vmcb, size: Size) -> Operand {
        let address = if vmcb.long_mode() { vmcb.rax } else { vmcb.rax & 0xffff_ffff };
        if address & (size.bytes() - 1) != 0 {
            return Operand::BadInput;
        }
        let Some(page) = self.view().translate(vmcb, address) else { return Operand::Fault };
        if !page.private {
            return Operand::BadInput;
        }
        let gpa = page.gpa & !(PAGE - 1);
        let Some(spa) = self.map.spa(gpa) else {
            return Operand::Done(Next::End(Ending::NoMemory { gpa, rip: vmcb.rip }));
        };
        let mut entry = self.rmp.entry(spa);
        if !entry.assigned {
            if self.map.attribute(gpa) == Attribute::Shared {
                let why = Access::WrongOwner;
                return Operand::Done(Next::End(Ending::RmpFault { gpa, private: true, why, rip: vmcb.rip }));
            }
            self.assign(cpu, gpa);
            entry = self.rmp.entry(spa);
        }
        if entry.gpa != gpa {
            let why = Access::WrongAddress;
            return Operand::Done(Next::End(Ending::RmpFault { gpa, private: true, why, rip: vmcb.rip }));
        }
        if size == Size::Small && entry.large {
            // Hardware exits with a nested page fault that says "size mismatch", and the host splits the entry.
            self.nested.forget(&self.memory, gpa, Size::Large);
            self.rmp.psmash(spa);
            self.flush(cpu);
            entry = self.rmp.entry(spa);
        }
        let large = self.map.is_large(gpa) && entry.large;
        Operand::Page { gpa, spa, mapped: if large { Size::Large } else { Size::Small } }
    }

    /// A page fault of ring 0 at the address in RAX.
    fn page_fault(vmcb: &mut Vmcb) -> Next {
        vmcb.cr2 = vmcb.rax;
        Self::fault(vmcb, 14, Some(0))
    }

    fn finish(vmcb: &mut Vmcb, code: u64, carry: bool) -> Next {
        vmcb.rax = code;
        vmcb.rflags &= !STATUS_FLAGS;
        // As a comparison of the code with zero would leave them (APM volume 3, PVALIDATE); it has less than eight bits.
        let even = (code as u8).count_ones().is_multiple_of(2);
        vmcb.rflags |=
            if carry { CF } else { 0 } | if code == 0 { ZF } else { 0 } | if even { PF } else { 0 };
        vmcb.rip = vmcb.rip.wrapping_add(4);
        Next::Run
    }

    fn pvalidate(&mut self, cpu: usize, vmcb: &mut Vmcb, registers: &Registers) -> Next {
        let size = match registers.rcx() as u32 {
            0 => Size::Small,
            1 => Size::Large,
            _ => return Self::finish(vmcb, Fail::Input as u64, false),
        };
        let validate = registers.rdx() & 1 != 0;
        self.before_pvalidate(cpu, vmcb, validate);
        let (gpa, spa, mapped) = match self.operand(cpu, vmcb, size) {
            Operand::Page { gpa, spa, mapped } => (gpa, spa, mapped),
            Operand::BadInput => return Self::finish(vmcb, Fail::Input as u64, false),
            Operand::Fault => return Self::page_fault(vmcb),
            Operand::Done(next) => return next,
        };
        if self.cpus.get(cpu).is_some_and(|this| this.vmpl != 0) {
            return Self::finish(vmcb, Fail::Permission as u64, false);
        }
        let result = self.rmp.pvalidate(spa, size, mapped, validate);
        self.trace(cpu, format_args!("PVALIDATE {gpa:#x} {size:?} {validate}: {result:?}"));
        match result {
            Ok(unchanged) => {
                if !unchanged {
                    let pages = size.bytes() / PAGE;
                    if validate {
                        self.counters.validated += pages;
                        self.note_validated(gpa);
                    } else {
                        self.counters.rescinded += pages;
                        self.nested.forget(&self.memory, gpa, size);
                        self.flush(cpu);
                    }
                }
                Self::finish(vmcb, 0, unchanged)
            }
            Err(fail) => Self::finish(vmcb, fail as u64, false),
        }
    }

    fn rmpadjust(&mut self, cpu: usize, vmcb: &mut Vmcb, registers: &Registers) -> Next {
        let size = match registers.rcx() as u32 {
            0 => Size::Small,
            1 => Size::Large,
            _ => return Self::finish(vmcb, Fail::Input as u64, false),
        };
        let attributes = registers.rdx();
        let (target, permissions, vmsa) =
            (attributes as u8, (attributes >> 8) as u8, attributes >> 16 & 1 != 0);
        let (gpa, spa) = match self.operand(cpu, vmcb, size) {
            Operand::Page { gpa, spa, .. } => (gpa, spa),
            Operand::BadInput => return Self::finish(vmcb, Fail::Input as u64, false),
            Operand::Fault => return Self::page_fault(vmcb),
            Operand::Done(next) => return next,
        };
        let vmpl = self.cpus.get(cpu).map_or(0, |this| this.vmpl);
        if self.rmp.check(spa, gpa, true, vmpl, 0) == Access::NotValidated {
            return self.vc(cpu, vmcb, exit::PAGE_NOT_VALIDATED);
        }
        let result = self.rmp.rmpadjust(spa, size, vmpl, target, permissions, vmsa);
        self.trace(cpu, format_args!("RMPADJUST {gpa:#x} {size:?} {attributes:#x}: {result:?}"));
        if result.is_ok() {
            self.nested.forget(&self.memory, gpa, size);
            self.flush(cpu);
        }
        Self::finish(vmcb, result.err().map_or(0, |fail| fail as u64), false)
    }

    fn rmpquery(&mut self, cpu: usize, vmcb: &mut Vmcb, registers: &mut Registers) -> Next {
        let target = registers.rdx() as u8;
        let spa = match self.operand(cpu, vmcb, Size::Small) {
            Operand::Page { spa, .. } => spa,
            Operand::BadInput => return Self::finish(vmcb, Fail::Input as u64, false),
            Operand::Fault => return Self::page_fault(vmcb),
            Operand::Done(next) => return next,
        };
        let vmpl = self.cpus.get(cpu).map_or(0, |this| this.vmpl);
        let entry = self.rmp.entry(spa);
        if target <= vmpl || target > 3 {
            return Self::finish(vmcb, Fail::Permission as u64, false);
        }
        let permissions = entry.permissions.get(usize::from(target) - 1).copied().unwrap_or(0);
        let answer = u64::from(target) | u64::from(permissions) << 8 | u64::from(entry.vmsa) << 16;
        registers.set_rdx(answer);
        registers.set_rcx(u64::from(entry.large));
        Self::finish(vmcb, 0, false)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{CODE, machine, running};
    use super::*;

    #[test]
    fn flags_follow_from_the_code() {
        let mut machine = machine(0x20_0000);
        let mut vmcb = running(&mut machine, &[0xf2, 0x0f, 0x01, 0xff]);
        let mut registers = Registers::default();
        let mut pvalidate = |size, validate| {
            (vmcb.rax, vmcb.rip, vmcb.rflags) = (0x20_0000 - PAGE, CODE, 0xad7);
            registers.set_rcx(size);
            registers.set_rdx(validate);
            assert_eq!(machine.undefined(0, &mut vmcb, &mut registers), Next::Run);
            (vmcb.rax, vmcb.rflags & STATUS_FLAGS, vmcb.rip - CODE)
        };
        assert_eq!(pvalidate(0, 1), (0, ZF | PF, 4));
        assert_eq!(pvalidate(0, 1), (0, ZF | PF | CF, 4), "nothing changed");
        assert_eq!(pvalidate(2, 1), (Fail::Input as u64, 0, 4));
        assert_eq!(pvalidate(1, 1), (Fail::Input as u64, 0, 4), "not at 2 MiB");
    }
}
