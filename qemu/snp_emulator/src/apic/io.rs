//! The I/O APIC that the guest sees. Its pins are those of the real one behind it: the emulator programs the real redirection
//! entry to send the guest's vector to the CPU that the guest chose, so that vectors need no translation.
//!
//! Source: Intel 82093AA datasheet. A level-triggered pin is masked in the real one while the guest serves it, and shown again at the
//! guest's end of interrupt: the emulator ends the physical interrupt at once, or lower priorities of its own would wait.

/// Where the registers are.
pub const BASE: u64 = 0xfec0_0000;
const PINS: usize = 24;
const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;

/// An I/O APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    select: u32,
    id: u32,
    entries: [u64; PINS],
    /// Pins masked until the guest's end of interrupt.
    in_service: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self { select: 0, id: 0, entries: [MASKED; PINS], in_service: 0 }
    }
}

impl IoApic {
    /// Reads the register at `offset` in the page.
    pub fn read(&self, offset: u64) -> u32 {
        match (offset, self.select) {
            (0, select) => select,
            (0x10, 0 | 2) => self.id,
            (0x10, 1) => (PINS as u32 - 1) << 16 | 0x11,
            (0x10, n @ 0x10..=0x3f) => {
                let entry = self.entries[(n as usize - 0x10) / 2];
                if n % 2 == 0 { entry as u32 } else { (entry >> 32) as u32 }
            }
            _ => 0,
        }
    }

    /// Writes the register at `offset`; the pin whose real entry is to be programmed anew.
    pub fn write(&mut self, offset: u64, value: u32) -> Option<usize> {
        match (offset, self.select) {
            (0, _) => self.select = value & 0xff,
            (0x10, 0) => self.id = value & 0x0f00_0000,
            (0x10, n @ 0x10..=0x3f) => {
                let pin = (n as usize - 0x10) / 2;
                let entry = &mut self.entries[pin];
                *entry = if n % 2 == 0 {
                    // Delivery status and remote IRR are read only.
                    *entry & !0xffff_afff | u64::from(value) & 0x1_afff
                } else {
                    *entry & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32
                };
                return Some(pin);
            }
            _ => {}
        }
        None
    }

    /// What the real redirection entry of a pin is to be, with the guest's destination (`physical` or logical) still in it.
    pub fn real(&self, pin: usize) -> u64 {
        let entry = self.entries.get(pin).copied().unwrap_or(MASKED);
        if self.in_service >> pin & 1 != 0 { entry | MASKED } else { entry }
    }

    /// The level-triggered pin with this vector, if there is one: it is in service from now on.
    pub fn begin_level(&mut self, vector: u8) -> Option<usize> {
        let pin =
            self.entries.iter().position(|e| e & LEVEL != 0 && e & MASKED == 0 && *e as u8 == vector)?;
        self.in_service |= 1 << pin;
        Some(pin)
    }

    /// The guest is done with a level-triggered vector: pins to be shown again, as bits.
    pub fn end_level(&mut self, vector: u8) -> u32 {
        let mut pins = 0;
        for (pin, entry) in self.entries.iter().enumerate() {
            if self.in_service >> pin & 1 != 0 && *entry as u8 == vector {
                pins |= 1 << pin;
            }
        }
        self.in_service &= !pins;
        pins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_written_in_halves() {
        let mut apic = IoApic::default();
        apic.write(0, 0x10 + 2 * 5);
        assert_eq!(apic.write(0x10, 0x1_a041), Some(5));
        apic.write(0, 0x11 + 2 * 5);
        assert_eq!(apic.write(0x10, 0x0300_0000), Some(5));
        assert_eq!(apic.real(5), 0x0300_0000_0001_a041);
        assert_eq!(apic.read(0x10), 0x0300_0000);
        apic.write(0, 1);
        assert_eq!(apic.read(0x10), 0x17_0011);
    }

    #[test]
    fn a_level_pin_is_masked_while_served() {
        let mut apic = IoApic::default();
        apic.write(0, 0x10 + 2 * 9);
        apic.write(0x10, 0x8051);
        assert_eq!(apic.begin_level(0x50), None);
        assert_eq!(apic.begin_level(0x51), Some(9));
        assert_ne!(apic.real(9) & MASKED, 0);
        assert_eq!(apic.end_level(0x51), 1 << 9);
        assert_eq!(apic.real(9) & MASKED, 0);
    }
}
