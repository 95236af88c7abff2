//! Nested page faults: the reverse map table's verdict on an access, or a mapping that was not made yet.

use super::{Machine, Next};
use crate::ending::Ending;
use crate::hardware::Hardware;
use crate::memory::{Attribute, PhysicalMemory};
use crate::nested::Rights;
use crate::rmp::{Access, LARGE, PAGE, Size};
use crate::vmcb::{Vmcb, exit};

/// Bits of EXITINFO1.
const WRITE: u64 = 1 << 1;
const FETCH: u64 = 1 << 4;
/// The access was to a page table of the guest's.
const TABLE_WALK: u64 = 1 << 33;
/// A fault that comes back this often at one place without progress is not one that mapping mends.
const SAME_FAULT_MAX: u32 = 1000;

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    pub(super) fn nested_page_fault(&mut self, cpu: usize, vmcb: &mut Vmcb) -> Next {
        let (address, info) = (vmcb.exit_info2, vmcb.exit_info1);
        let c = 1u64 << self.config.c_bit;
        let gpa = address & !c;
        let implied = info & (FETCH | TABLE_WALK) != 0;
        let private = !vmcb.paging() || address & c != 0 || implied;
        if !self.map.is_ram(gpa) {
            // Device memory or nothing: hardware reports it to the guest once the host has marked it so, as KVM does.
            return if private && vmcb.paging() && address & c != 0 {
                Next::End(Ending::NoMemory { gpa, rip: vmcb.rip })
            } else {
                self.vc(cpu, vmcb, exit::NPF)
            };
        }
        // Of memory only: a guest may well use the same register of a device again and again.
        if let Some(this) = self.cpus.get_mut(cpu) {
            let (rip, at, times) = this.last_fault;
            this.last_fault =
                if (rip, at) == (vmcb.rip, address) { (rip, at, times + 1) } else { (vmcb.rip, address, 0) };
            if times > SAME_FAULT_MAX {
                return Next::End(Ending::Limit("a nested page fault that does not go away"));
            }
        }
        let Some(spa) = self.map.spa(gpa) else { return self.vc(cpu, vmcb, exit::NPF) };
        let vmpl = self.cpus.get(cpu).map_or(0, |this| this.vmpl);
        let needs = match info {
            info if info & FETCH != 0 => 8,
            info if info & WRITE != 0 => 2,
            _ => 1,
        };
        // What is nobody's in the table may still be meant for the guest alone.
        let meant = private || self.map.attribute(gpa) == Attribute::Shared;
        match self.rmp.check(spa, gpa, private, vmpl, needs) {
            Access::Granted if !meant => self.wrong_owner(cpu, vmcb, gpa, private),
            Access::Granted if self.malice.is_some() => {
                self.touched(cpu, vmcb, gpa);
                self.fill(cpu, gpa, private, private && address & c == 0 && vmcb.paging())
            }
            Access::Granted => self.fill(cpu, gpa, private, private && address & c == 0 && vmcb.paging()),
            Access::NotValidated => self.vc(cpu, vmcb, exit::PAGE_NOT_VALIDATED),
            Access::WrongOwner => self.wrong_owner(cpu, vmcb, gpa, private),
            why => Next::End(Ending::RmpFault { gpa, private, why, rip: vmcb.rip }),
        }
    }

    /// A private access to a page that the host has not assigned yet, or one of the wrong kind.
    fn wrong_owner(&mut self, cpu: usize, vmcb: &Vmcb, gpa: u64, private: bool) -> Next {
        let meant = if private { Attribute::Private } else { Attribute::Shared };
        if self.map.attribute(gpa) != meant {
            if !self.config.implicit_conversion {
                let why = Access::WrongOwner;
                return Next::End(Ending::RmpFault { gpa, private, why, rip: vmcb.rip });
            }
            self.counters.implicit += 1;
            self.trace(cpu, format_args!("implicit conversion of {gpa:#x}, private: {private}"));
            self.convert(cpu, gpa, Size::Small, meant);
        }
        if private {
            self.assign(cpu, gpa);
        }
        Next::Run
    }

    /// Gives the guest the memory at `gpa`, not validated: 2 MiB where nothing speaks against it.
    pub(super) fn assign(&mut self, cpu: usize, gpa: u64) {
        let base = gpa & !(LARGE - 1);
        let whole = self.map.is_large(gpa)
            && self.map.spa(base).is_some_and(|spa| {
                spa % LARGE == 0 && (0..512).all(|i| !self.rmp.entry(spa + i * PAGE).assigned)
            })
            && (0..512).all(|i| self.map.attribute(base + i * PAGE) == Attribute::Private);
        let (gpa, size) = if whole { (base, Size::Large) } else { (gpa & !(PAGE - 1), Size::Small) };
        let Some(spa) = self.map.spa(gpa) else { return };
        self.nested.forget(&self.memory, gpa, size);
        self.rmp.rmpupdate(spa, size, Some(gpa));
        self.flush(cpu);
    }

    /// Maps what the table grants: 2 MiB if one entry says so, else all pages of the 2 MiB around that are granted alike.
    fn fill(&mut self, cpu: usize, gpa: u64, private: bool, alias: bool) -> Next {
        let base = gpa & !(LARGE - 1);
        if alias {
            // A page walk or a fetch without the C-bit: hardware takes it for private, QEMU's CPU asks the shared view. Only this page is shown
            // there, since data accesses then see it too.
            self.counters.walk_alias += 1;
            let Some(spa) = self.map.spa(gpa) else { return Next::Run };
            return Self::mapped(self.nested_map(false, gpa, spa, Size::Small));
        }
        if let Some(spa) = self.map.spa(base).filter(|spa| spa % LARGE == 0 && self.map.is_large(base)) {
            let uniform = if private { self.rmp.is_large(spa) } else { false };
            if uniform {
                return Self::mapped(self.nested_map(private, base, spa, Size::Large));
            }
        }
        let vmpl = self.cpus.get(cpu).map_or(0, |this| this.vmpl);
        for page in (0..512).map(|i| base + i * PAGE) {
            let Some(spa) = self.map.spa(page) else { continue };
            let granted = self.rmp.check(spa, page, private, vmpl, 1) == Access::Granted;
            let meant = private || self.map.attribute(page) == Attribute::Shared;
            if granted && meant && self.nested.lookup(&self.memory, private, page).is_none() {
                let done = self.nested_map(private, page, spa, Size::Small);
                if !done {
                    return Self::mapped(false);
                }
            }
        }
        Next::Run
    }

    fn nested_map(&mut self, private: bool, gpa: u64, spa: u64, size: Size) -> bool {
        self.nested.map(&self.memory, private, gpa, spa, size, Rights::ALL)
    }

    fn mapped(done: bool) -> Next {
        if done { Next::Run } else { Next::End(Ending::Limit("no memory is left for nested page tables")) }
    }

    /// Makes all CPUs forget translations before the next instruction of theirs.
    pub(super) fn flush(&mut self, cpu: usize) {
        for this in &mut self.cpus {
            this.flush = true;
        }
        self.hardware.shoot_down(cpu);
    }
}
