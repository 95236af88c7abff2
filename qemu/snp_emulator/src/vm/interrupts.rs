//! Interrupts: from QEMU's devices, between CPUs, and into the guest.
//!
//! One vector is offered to a CPU at a time, as a virtual interrupt that it takes when it can; what it has not taken at its next exit goes back
//! to where it came from.

use super::{Machine, State};
use crate::apic::local::{Delivery, Effect, Ipi, Target};
use crate::hardware::Hardware;
use crate::memory::PhysicalMemory;
use crate::vmcb::Vmcb;

const V_IRQ: u32 = 1 << 8;
const V_PRIORITY: u32 = 0xf << 16;
const V_IGNORE_TPR: u32 = 1 << 20;
/// An NMI in the format of an event injection.
const INJECT_NMI: u64 = 2 | 2 << 8 | 1 << 31;
/// The real I/O APIC's registers.
const IO_APIC: u64 = crate::apic::io::BASE;

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    /// Chooses what a CPU gets at its next entry.
    pub(super) fn offer_interrupts(&mut self, cpu: usize, vmcb: &mut Vmcb) {
        let Some(this) = self.cpus.get_mut(cpu) else { return };
        if this.redeliver != 0 && vmcb.event_injection >> 31 & 1 == 0 {
            vmcb.event_injection = core::mem::take(&mut this.redeliver);
        }
        if this.nmi && vmcb.event_injection >> 31 & 1 == 0 {
            this.nmi = false;
            vmcb.event_injection = INJECT_NMI;
        }
        let local = this.apic.pending();
        let external = this.external.first().copied().filter(|_| this.apic.accepts_external());
        let offer = local.map(|vector| (vector, false)).or(external.map(|vector| (vector, true)));
        vmcb.interrupt_control &= !(V_IRQ | V_PRIORITY);
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
        if let Some((vector, external)) = this.offered.take()
            && vmcb.interrupt_control & V_IRQ == 0
        {
            self.counters.interrupts += 1;
            if external {
                this.external.remove(0);
            } else {
                this.apic.accept(vector);
            }
        }
        // A software interrupt (type 4) is executed again, since RIP is still at it.
        if event >> 31 & 1 != 0 && event >> 8 & 7 != 4 {
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
