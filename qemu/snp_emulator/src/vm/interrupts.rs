//! Interrupts: from QEMU's devices, between CPUs, and into the guest.
//!
//! One vector is offered to a CPU at a time, as a virtual interrupt that it takes when it can; what it has not taken at its next exit goes back
//! to where it came from.

use super::{Cpu, Machine, State};
use crate::apic::local::{Delivery, Effect, Ipi, Target};
use crate::hardware::Hardware;
use crate::memory::PhysicalMemory;
use crate::vmcb::Vmcb;
use crate::vmsa::features;

const V_IRQ: u32 = 1 << 8;
const V_PRIORITY: u32 = 0xf << 16;
const V_IGNORE_TPR: u32 = 1 << 20;
/// An NMI in the format of an event injection.
const INJECT_NMI: u64 = 2 | 2 << 8 | 1 << 31;
/// Types of events (APM volume 2, 15.20). A software interrupt is executed again, since RIP is still at it.
const EXCEPTION: u64 = 3;
const SOFTWARE_INTERRUPT: u64 = 4;
/// The real I/O APIC's registers.
const IO_APIC: u64 = crate::apic::io::BASE;

/// The vector of the exception whose delivery the last exit interrupted; it is not delivered again. Interrupts stay as they are.
pub(super) fn take_exception(cpu: &mut Cpu) -> Option<u8> {
    let event = cpu.redeliver;
    let exception = event >> 31 & 1 != 0 && event >> 8 & 7 == EXCEPTION;
    exception.then(|| {
        cpu.redeliver = 0;
        event as u8
    })
}

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// Chooses what a CPU gets at its next entry.
    pub(super) fn offer_interrupts(&mut self, cpu: usize, vmcb: &mut Vmcb) {
        let Some(this) = self.cpus.get_mut(cpu) else { return };
        if this.redeliver != 0 && vmcb.event_injection >> 31 & 1 == 0 {
            vmcb.event_injection = core::mem::take(&mut this.redeliver);
        }
        vmcb.interrupt_control &= !(V_IRQ | V_PRIORITY);
        // Hardware takes nothing but #HV from the host then, and this host has no #HV (hypervisor features do not name it).
        if this.features & features::RESTRICTED_INJECTION != 0 {
            return;
        }
        if this.nmi && vmcb.event_injection >> 31 & 1 == 0 {
            this.nmi = false;
            vmcb.event_injection = INJECT_NMI;
        }
        let local = this.apic.pending();
        let external = this.external.first().copied().filter(|_| this.apic.accepts_external());
        let offer = local.map(|vector| (vector, false)).or(external.map(|vector| (vector, true)));
        if let Some((vector, _)) = offer {
            vmcb.interrupt_control |= V_IRQ | V_PRIORITY | V_IGNORE_TPR;
            vmcb.interrupt_vector = vector.into();
        }
        this.offered = offer;
    }

    /// After an exit: what was offered and taken is in service; what was being delivered is delivered again.
    pub(super) fn take_back_interrupts(&mut self, cpu: usize, vmcb: &mut Vmcb) {
        vmcb.event_injection = 0;
        let Some(this) = self.cpus.get_mut(cpu) else { return };
        let event = vmcb.exit_interrupt_info;
        let (valid, kind) = (event >> 31 & 1 != 0, event >> 8 & 7);
        let offered = this.offered.take();
        let taken = vmcb.interrupt_control & V_IRQ == 0;
        if let Some((vector, external)) = offered
            && taken
        {
            self.counters.interrupts += 1;
            if external {
                this.external.remove(0);
            } else {
                this.apic.accept(vector);
            }
        }
        // A virtual interrupt whose delivery faulted: QEMU calls it an exception, which it refuses to inject with such a vector
        // (VMEXIT_INVALID), but leaves it pending, so that it is offered again by itself.
        let still_pending =
            !taken && kind == EXCEPTION && offered.is_some_and(|(vector, _)| event & 0xff == vector.into());
        if valid && kind != SOFTWARE_INTERRUPT && !still_pending {
            this.redeliver = event;
        }
        vmcb.interrupt_control &= !V_IRQ;
    }

    /// The 8259 delivered a vector: the first CPU's.
    pub fn external_interrupt(&mut self, vector: u8) {
        if let Some(first) = self.cpus.first_mut()
            && !first.external.contains(&vector)
        {
            first.external.push(vector);
        }
    }

    /// A message of a device's, or of the I/O APIC's, arrived at the real APIC of this CPU.
    pub fn device_interrupt(&mut self, cpu: usize, vector: u8) {
        let level = self.io_apic.begin_level(vector);
        if let Some(this) = self.cpus.get_mut(cpu) {
            this.apic.raise(vector, level.is_some());
        }
        if let Some(pin) = level {
            self.program_pin(pin);
        }
    }

    /// Writes the real I/O APIC's entry of a pin: the guest's, to a physical destination.
    pub(super) fn program_pin(&mut self, pin: usize) {
        let entry = self.io_apic.real(pin);
        let destination = (entry >> 56) as u32;
        let logical = entry >> 11 & 1 != 0;
        let target = self.cpus.iter().find(|c| {
            c.state != State::Absent
                && if logical { c.apic.matches_logical(destination) } else { c.apic.id() == destination }
        });
        let id = u64::from(target.map_or(0, |c| c.apic.id()));
        // Fixed delivery, physical destination.
        let entry = (entry & 0x1_a0ff) | id << 56;
        let index = 0x10 + 2 * pin as u64;
        for (register, value) in [(index + 1, entry >> 32), (index, entry & 0xffff_ffff)] {
            self.hardware.mmio_write(IO_APIC, 4, register);
            self.hardware.mmio_write(IO_APIC + 0x10, 4, value);
        }
    }

    /// Carries out what a write to a local APIC means to others.
    pub(super) fn apic_effect(&mut self, cpu: usize, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::EndOfLevel(vector) => {
                let pins = self.io_apic.end_level(vector);
                for pin in (0..24).filter(|pin| pins >> pin & 1 != 0) {
                    self.program_pin(pin);
                }
            }
            Effect::Send(ipi) => self.send(cpu, ipi),
        }
    }

    fn send(&mut self, from: usize, ipi: Ipi) {
        let mut kicks = alloc::vec::Vec::new();
        for (index, other) in self.cpus.iter_mut().enumerate() {
            let meant = match ipi.target {
                Target::All => true,
                Target::Others => index != from,
                Target::Myself => index == from,
                Target::Physical(id) => id == u32::MAX || other.apic.id() == id,
                Target::Logical(bits) => other.apic.matches_logical(bits),
            };
            if !meant {
                continue;
            }
            match ipi.delivery {
                Delivery::Fixed(vector) => other.apic.raise(vector, false),
                Delivery::Nmi => other.nmi = true,
                // A confidential CPU cannot be reset: INIT only starts what AP creation left for it.
                Delivery::Init => {
                    if let Some(vmsa) = other.at_init.take() {
                        other.state = State::Starting { vmsa };
                    }
                }
                Delivery::Startup(_) => {
                    if other.state == State::Held {
                        other.state = State::Running;
                    }
                }
            }
            if index != from {
                kicks.push(index);
            }
        }
        for index in kicks {
            self.hardware.kick(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::machine;
    use super::*;

    const VALID: u64 = 1 << 31;
    const VECTOR: u8 = 0xec;

    /// A CPU that was offered an interrupt, and left the guest like this; what it is offered and injected at its next entry.
    fn after(taken: bool, event: u64) -> (bool, u64) {
        let mut machine = machine(0x10000);
        let mut vmcb = Vmcb::ZERO;
        machine.cpus[0].apic.write(0xf0, 0x1ff, 0);
        machine.cpus[0].apic.raise(VECTOR, false);
        machine.offer_interrupts(0, &mut vmcb);
        assert_eq!((vmcb.interrupt_control & V_IRQ, vmcb.interrupt_vector), (V_IRQ, VECTOR.into()));
        if taken {
            vmcb.interrupt_control &= !V_IRQ;
        }
        vmcb.exit_interrupt_info = event;
        machine.take_back_interrupts(0, &mut vmcb);
        machine.offer_interrupts(0, &mut vmcb);
        (vmcb.interrupt_control & V_IRQ != 0, vmcb.event_injection)
    }

    #[test]
    fn an_interrupt_is_delivered_once_whatever_interrupts_its_delivery() {
        let interrupt = VALID | u64::from(VECTOR);
        assert_eq!(after(true, 0), (false, 0), "delivered");
        assert_eq!(after(false, 0), (true, 0), "not yet");
        // Hardware has taken it, and says so.
        assert_eq!(after(true, interrupt), (false, interrupt));
        // QEMU has not, and calls it an exception.
        assert_eq!(after(false, interrupt | EXCEPTION << 8), (true, 0));
    }

    #[test]
    fn a_guest_with_restricted_injection_gets_none() {
        let mut machine = machine(0x10000);
        let mut vmcb = Vmcb::ZERO;
        machine.cpus[0].features |= features::RESTRICTED_INJECTION;
        machine.cpus[0].apic.write(0xf0, 0x1ff, 0);
        machine.cpus[0].apic.raise(VECTOR, false);
        machine.cpus[0].nmi = true;
        machine.offer_interrupts(0, &mut vmcb);
        assert_eq!((vmcb.interrupt_control & V_IRQ, vmcb.event_injection), (0, 0));
    }

    #[test]
    fn what_else_was_being_delivered_is_delivered_again() {
        let page_fault = VALID | 1 << 11 | EXCEPTION << 8 | 14 | 2 << 32;
        assert_eq!(after(false, page_fault), (true, page_fault));
        assert_eq!(after(true, page_fault), (false, page_fault));
        assert_eq!(after(false, VALID | SOFTWARE_INTERRUPT << 8 | 0x80), (true, 0), "executed again");
    }
}
