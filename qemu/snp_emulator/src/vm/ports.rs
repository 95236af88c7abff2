//! Ports, device memory and MSRs: the host's devices, which are QEMU's, and those that are emulated here.

use super::dma;
use super::ghcb::{Answer, Block};
use super::{Machine, Next};
use crate::apic;
use crate::ending::Ending;
use crate::ghcb::exits::PortAccess;
use crate::ghcb::page::{Field, Malformed, Writer};
use crate::hardware::Hardware;
use crate::malice::scan::Seen;
use crate::memory::PhysicalMemory;
use crate::queues::pci;
use crate::rmp::PAGE;

/// The keyboard controller's command port: 0xFE pulses the CPU's reset line.
const KEYBOARD: u16 = 0x64;
/// The chipset's reset control register.
const RESET_CONTROL: u16 = 0xcf9;
/// PM1a control as SeaBIOS places it on q35; SLP_EN with SLP_TYP 0 is soft-off there.
const PM1A_CONTROL: u16 = 0x604;
/// What the string instructions of one request may move.
const STRING_MAX: u32 = 0x7f0;

impl<H: Hardware, M: PhysicalMemory> Machine<H, M> {
    pub(super) fn port(&mut self, access: PortAccess, block: &Block) -> Answer {
        let PortAccess { port, size, input, string } = access;
        if let Some(count) = string {
            let len = u64::from(count) * u64::from(size);
            if count > STRING_MAX || len > u64::from(STRING_MAX) {
                return Answer::Malformed(Malformed::Scratch);
            }
            let at = match self.scratch(block, len) {
                Ok(at) => at,
                Err(why) => return Answer::Malformed(why),
            };
            for i in 0..u64::from(count) {
                let (mut unit, slot) = ([0; 4], at + i * u64::from(size));
                let part = unit.get_mut(..usize::from(size)).unwrap_or_default();
                if input {
                    let value = self.port_read(port, size).to_le_bytes();
                    self.memory.write(slot, value.get(..usize::from(size)).unwrap_or_default());
                } else {
                    self.memory.read(slot, part);
                    self.passes(Seen::Port(port), part);
                    if let Some(end) = self.port_write(port, size, u32::from_le_bytes(unit)) {
                        return Answer::After(Next::End(end), 0);
                    }
                }
            }
            return Answer::Done(0);
        }
        if input {
            let value = self.port_read(port, size);
            Writer { memory: &self.memory, spa: block.spa }.set(Field::Rax, value.into());
        } else {
            let value = block.page.get(Field::Rax).unwrap_or(0) as u32;
            // The whole register: the host sees that, whatever it is for.
            self.passes(Seen::Port(port), &block.page.get(Field::Rax).unwrap_or(0).to_le_bytes());
            if let Some(end) = self.port_write(port, size, value) {
                return Answer::After(Next::End(end), 0);
            }
        }
        Answer::Done(0)
    }

    /// Whether an access touches the emulator's channel to its launcher.
    fn is_channel(&self, port: u16, size: u8) -> bool {
        (u32::from(port)..u32::from(port) + u32::from(size)).contains(&self.config.channel.into())
    }

    fn port_read(&mut self, port: u16, size: u8) -> u32 {
        if self.is_channel(port, size) { !0 } else { self.hardware.port_in(port, size) }
    }

    pub(super) fn port_write(&mut self, port: u16, size: u8, value: u32) -> Option<Ending> {
        self.counters.io_bytes += u64::from(size);
        match port {
            _ if self.is_channel(port, size) => {
                // A guest of ours may mark a point in time: 0x4D00_0000 | number.
                if port == self.config.channel && size == 4 && value >> 24 == 0x4d {
                    self.mark(value & 0xff_ffff);
                }
            }
            dma::HIGH | dma::LOW if size == 4 => {
                if let Some(end) = self.fw_cfg_transfer(port, value) {
                    return Some(end);
                }
                self.hardware.port_out(port, size, value);
            }
            _ if port == self.config.debug_exit => return Some(Ending::DebugExit(value)),
            KEYBOARD if value as u8 == 0xfe => return Some(Ending::Reset),
            RESET_CONTROL if value & 4 != 0 => return Some(Ending::Reset),
            PM1A_CONTROL if value >> 13 & 1 != 0 => return Some(Ending::PowerOff),
            _ => {
                if pci::DATA_PORTS.contains(&port) {
                    self.queues.forget_functions();
                }
                self.hardware.port_out(port, size, value);
            }
        }
        None
    }

    /// Notes the time at a mark, once.
    pub fn mark(&mut self, number: u32) {
        let at = (self.hardware.tsc().saturating_sub(self.started), self.counters.vmgexits());
        self.counters.marks.entry(number).or_insert(at);
    }

    pub(super) fn mmio(&mut self, cpu: usize, gpa: u64, size: u8, write: bool, block: &Block) -> Answer {
        let at = match self.scratch(block, size.into()) {
            Ok(at) => at,
            Err(why) => return Answer::Malformed(why),
        };
        // The guest's own memory is not a device, and the emulator's is not the guest's. An access to two pages could be to a device and to something else.
        if self.map.is_ram(gpa) || self.memory.holds(gpa) || gpa % PAGE + u64::from(size) > PAGE {
            return Answer::Malformed(Malformed::Input);
        }
        let mut bytes = [0; 8];
        let part = ..usize::from(size);
        if write {
            self.memory.read(at, bytes.get_mut(part).unwrap_or_default());
            self.counters.io_bytes += u64::from(size);
            let value = u64::from_le_bytes(bytes);
            if let Some(end) = self.queue_notified(gpa, value) {
                return Answer::After(Next::End(end), 0);
            }
            self.passes(Seen::Mmio(gpa), bytes.get(part).unwrap_or_default());
            self.mmio_write(cpu, gpa, size, value);
        } else {
            bytes = self.mmio_read(cpu, gpa, size).to_le_bytes();
            self.memory.write(at, bytes.get(part).unwrap_or_default());
        }
        Answer::Done(0)
    }

    fn mmio_read(&mut self, cpu: usize, gpa: u64, size: u8) -> u64 {
        let now = self.hardware.tsc();
        match gpa & !0xfff {
            apic::local::BASE => {
                self.cpus.get(cpu).map_or(0, |this| this.apic.read((gpa & 0xff0) as u32, now).into())
            }
            apic::io::BASE => self.io_apic.read(gpa & 0xff).into(),
            _ if is_device(gpa) => self.hardware.mmio_read(gpa, size),
            _ => u64::MAX,
        }
    }

    pub(super) fn mmio_write(&mut self, cpu: usize, gpa: u64, size: u8, value: u64) {
        let now = self.hardware.tsc();
        match gpa & !0xfff {
            apic::local::BASE => {
                let offset = (gpa & 0xff0) as u32;
                let Some(this) = self.cpus.get_mut(cpu) else { return };
                let before = this.apic.logical_id();
                let passed = this.apic.accepts_external();
                let effect = this.apic.write(offset, value as u32, now);
                let (ldr, dfr) = this.apic.logical_id();
                let pass = this.apic.accepts_external();
                // The 8259 is the first CPU's.
                if cpu == 0 && pass != passed {
                    self.hardware.pass_external(pass);
                }
                if (ldr, dfr) != before {
                    self.hardware.logical_id(ldr, dfr);
                }
                self.apic_effect(cpu, effect);
            }
            apic::io::BASE => {
                if let Some(pin) = self.io_apic.write(gpa & 0xff, value as u32) {
                    self.program_pin(pin);
                }
            }
            _ if is_device(gpa) => {
                self.queue_written(gpa, size, value);
                self.hardware.mmio_write(gpa, size, value);
            }
            _ => {}
        }
    }

    pub(super) fn read_msr(&mut self, cpu: usize, msr: u32) -> Option<u64> {
        let now = self.hardware.tsc();
        let this = self.cpus.get(cpu)?;
        match msr {
            apic::local::MSR_APIC_BASE => Some(this.apic.base()),
            0x800..=0x83f => this.apic.read_msr(msr, now),
            _ if kept(msr) => Some(this.msrs.get(&msr).copied().unwrap_or_else(|| initial(msr))),
            _ => None,
        }
    }

    pub(super) fn write_msr(&mut self, cpu: usize, msr: u32, value: u64) -> bool {
        let now = self.hardware.tsc();
        let Some(this) = self.cpus.get_mut(cpu) else { return false };
        match msr {
            apic::local::MSR_APIC_BASE => this.apic.set_base(value),
            0x800..=0x83f => match this.apic.write_msr(msr, value, now) {
                Some(effect) => {
                    self.apic_effect(cpu, effect);
                    true
                }
                None => false,
            },
            _ if kept(msr) => {
                this.msrs.insert(msr, value);
                true
            }
            _ => false,
        }
    }
}

/// Addresses where QEMU has devices: below 4 GiB what is above all RAM, and what PCI places above it, as far as the emulator sees.
fn is_device(gpa: u64) -> bool {
    (0xa_0000..0xc_0000).contains(&gpa)
        || (0x8000_0000..0xffff_0000).contains(&gpa)
        || (1 << 32..1 << 39).contains(&gpa)
}

/// MSRs that are only storage here: MTRRs, machine checks, microcode, and AMD's configuration registers.
fn kept(msr: u32) -> bool {
    matches!(msr,
        0x10 | 0x17 | 0x3b | 0x48 | 0x49 | 0x8b | 0xfe | 0x174..=0x17b | 0x1d9 | 0x200..=0x20f | 0x250..=0x26f | 0x277 | 0x2ff
        | 0x400..=0x47f | 0xda0
        | 0xc000_0103 | 0xc001_0010 | 0xc001_0015 | 0xc001_0055 | 0xc001_0058 | 0xc001_0117 | 0xc001_011f
        | 0xc001_1020..=0xc001_102f | 0xc001_0000..=0xc001_0007 | 0xc001_0064..=0xc001_0071 | 0xc000_0104 | 0xc001_0200..=0xc001_020b)
}

/// Their values after reset, where not zero.
fn initial(msr: u32) -> u64 {
    match msr {
        // Eight variable ranges, fixed ranges, write combining.
        0xfe => 0x508,
        // MTRRs on, write-back by default.
        0x2ff => 0xc06,
        0x250..=0x26f => 0x0606_0606_0606_0606,
        0x8b => 0x0a00_11d0,
        0x277 => 0x0007_0406_0007_0406,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestMachine, machine, share};
    use super::*;
    use crate::ghcb::page::{BUFFER, Snapshot};

    const GHCB: u64 = 0x1000;

    fn block(machine: &TestMachine) -> Block {
        Writer { memory: &machine.memory, spa: GHCB }.set(Field::Scratch, GHCB + BUFFER.start);
        Block { page: Snapshot::take(&machine.memory, GHCB), gpa: GHCB, spa: GHCB }
    }

    fn guest() -> TestMachine {
        let mut machine = machine(0x1_0000);
        share(&mut machine, GHCB);
        machine
    }

    #[test]
    fn the_channel_is_not_reached_by_any_access_that_touches_it() {
        let mut machine = guest();
        for (port, size, touches) in [(0x5f0, 1, true), (0x5ef, 1, false), (0x5ef, 2, true), (0x5ed, 4, true)]
        {
            assert_eq!(machine.is_channel(port, size), touches, "{port:#x}");
        }
        assert!(!machine.is_channel(u16::MAX, 4) && !machine.is_channel(0x5f1, 4));
        machine.port_write(0x5ef, 4, 0x4d00_0001);
        assert!(machine.counters.marks.is_empty());
        machine.port_write(0x5f0, 4, 0x4d00_0001);
        assert_eq!(machine.counters.marks.len(), 1);
    }

    #[test]
    fn no_memory_is_a_device() {
        let mut machine = guest();
        let block = block(&machine);
        let mut ask = |gpa, size| match machine.mmio(0, gpa, size, false, &block) {
            Answer::Done(0) => true,
            Answer::Malformed(Malformed::Input) => false,
            _ => panic!("neither done nor refused"),
        };
        assert!(ask(0xfed0_0000, 8) && ask(0xffff_ffff_ffff_fff0, 8));
        assert!(!ask(0x2000, 4), "the guest's");
        assert!(!ask(0x1_0000, 4), "the emulator's");
        assert!(!ask(0xfecf_fffc, 8), "two pages");
    }

    #[test]
    fn addresses_that_the_emulator_does_not_see_are_no_devices() {
        assert!(is_device(0xfed0_0000) && is_device((1 << 39) - 8));
        assert!(!is_device(1 << 39) && !is_device(!7) && !is_device(0x1000));
    }
}
