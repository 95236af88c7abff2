//! A local APIC, as xAPIC (registers in memory) and x2APIC (MSRs).
//!
//! Source: AMD APM volume 2, chapter 16; Intel SDM volume 3, chapter 11 for the x2APIC register map. The timer counts cycles of the TSC.
//! Invariant: an interrupt is in IRR, then in ISR, then gone; the vector in service of the highest priority is the one that EOI ends.

/// Where the registers are.
pub const BASE: u64 = 0xfee0_0000;
/// MSR of the base and the mode.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// First MSR of the x2APIC registers.
pub const MSR_X2APIC: u32 = 0x800;

const ID: u32 = 0x20;
const VERSION: u32 = 0x30;
const TPR: u32 = 0x80;
const PPR: u32 = 0xa0;
const EOI: u32 = 0xb0;
const LDR: u32 = 0xd0;
const DFR: u32 = 0xe0;
const SVR: u32 = 0xf0;
const ISR: u32 = 0x100;
const TMR: u32 = 0x180;
const IRR: u32 = 0x200;
const ESR: u32 = 0x280;
const ICR: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_ERROR: u32 = 0x370;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_CURRENT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;
const SELF_IPI: u32 = 0x3f0;

const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;

/// A set of 256 vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8) {
        self.0[usize::from(vector / 32)] |= 1 << (vector % 32);
    }
    fn clear(&mut self, vector: u8) {
        self.0[usize::from(vector / 32)] &= !(1 << (vector % 32));
    }
    fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector / 32)] >> (vector % 32) & 1 != 0
    }
    fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|&bits| bits != 0)?;
        Some((word as u32 * 32 + 31 - self.0[word].leading_zeros()) as u8)
    }
}

/// What an interrupt command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A vector.
    Fixed(u8),
    /// NMI.
    Nmi,
    /// INIT.
    Init,
    /// Start-up, with its vector.
    Startup(u8),
}

/// A message to other CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// What.
    pub delivery: Delivery,
    /// To whom.
    pub target: Target,
}

/// Destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The APIC with this id; all ones is everyone.
    Physical(u32),
    /// By logical id.
    Logical(u32),
    /// The sender.
    Myself,
    /// Everyone.
    All,
    /// Everyone else.
    Others,
}

/// What a write of a register means to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A message.
    Send(Ipi),
    /// A level-triggered interrupt is over: the I/O APIC may show it again.
    EndOfLevel(u8),
}

/// A local APIC.
#[derive(Clone, Debug)]
pub struct LocalApic {
    id: u32,
    base: u64,
    tpr: u32,
    ldr: u32,
    dfr: u32,
    svr: u32,
    esr: u32,
    icr: u64,
    /// Timer, thermal, performance, LINT0, LINT1, error.
    lvt: [u32; 6],
    irr: Vectors,
    isr: Vectors,
    level: Vectors,
    timer_initial: u32,
    timer_divide: u32,
    /// TSC when the count began.
    timer_start: u64,
    /// TSC when it reaches zero.
    timer_deadline: Option<u64>,
}

impl LocalApic {
    /// As after reset. The first CPU's passes the 8259's interrupts on, as firmware leaves it.
    pub fn new(id: u32, first: bool) -> LocalApic {
        let lint0 = if first { 0x700 } else { MASKED };
        LocalApic {
            id,
            base: BASE | 1 << 11 | u64::from(first) << 8,
            tpr: 0,
            ldr: 0,
            dfr: !0,
            svr: if first { 0x1ff } else { 0xff },
            esr: 0,
            icr: 0,
            lvt: [MASKED, MASKED, MASKED, lint0, MASKED, MASKED],
            irr: Vectors::default(),
            isr: Vectors::default(),
            level: Vectors::default(),
            timer_initial: 0,
            timer_divide: 0,
            timer_start: 0,
            timer_deadline: None,
        }
    }

    /// The APIC id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The registers that say which logical destinations mean this CPU: LDR and DFR.
    pub fn logical_id(&self) -> (u32, u32) {
        (self.ldr, self.dfr)
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Sets IA32_APIC_BASE. False: not a state that exists (#GP).
    pub fn set_base(&mut self, value: u64) -> bool {
        let (enabled, x2) = (value >> 11 & 1 != 0, value >> 10 & 1 != 0);
        if (x2 && !enabled) || (self.x2apic() && enabled && !x2) || value & !0x000f_ffff_ffff_fd00 != 0 {
            return false;
        }
        if x2 && !self.x2apic() {
            self.ldr = (self.id >> 4) << 16 | 1 << (self.id & 15);
        }
        self.base = value & !0x100 | self.base & 0x100;
        true
    }

    fn x2apic(&self) -> bool {
        self.base >> 10 & 1 != 0
    }

    fn enabled(&self) -> bool {
        self.base >> 11 & 1 != 0 && self.svr >> 8 & 1 != 0
    }

    /// Whether the 8259's interrupts reach this CPU.
    pub fn accepts_external(&self) -> bool {
        let lint0 = self.lvt[3];
        self.base >> 11 & 1 == 0 || (lint0 & MASKED == 0 && lint0 >> 8 & 7 == 7)
    }

    /// An interrupt arrives.
    pub fn raise(&mut self, vector: u8, level: bool) {
        if vector < 16 || !self.enabled() {
            return;
        }
        self.irr.set(vector);
        if level { self.level.set(vector) } else { self.level.clear(vector) }
    }

    fn ppr(&self) -> u32 {
        let service = u32::from(self.isr.highest().unwrap_or(0));
        if self.tpr & 0xf0 >= service & 0xf0 { self.tpr & 0xff } else { service & 0xf0 }
    }

    /// The interrupt to deliver next, if any may be.
    pub fn pending(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        (self.enabled() && u32::from(vector) & 0xf0 > self.ppr() & 0xf0).then_some(vector)
    }

    /// The CPU took it.
    pub fn accept(&mut self, vector: u8) {
        self.irr.clear(vector);
        self.isr.set(vector);
    }

    /// Ends the interrupt in service; its vector, if it was level-triggered.
    fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = self.isr.highest()?;
        self.isr.clear(vector);
        self.level.contains(vector).then_some(vector)
    }

    /// Whether a logical destination means this CPU.
    pub fn matches_logical(&self, destination: u32) -> bool {
        if self.x2apic() {
            return destination >> 16 == self.ldr >> 16 && destination & self.ldr & 0xffff != 0;
        }
        let (mine, wanted) = (self.ldr >> 24, destination & 0xff);
        if self.dfr >> 28 == 15 {
            mine & wanted != 0
        } else {
            mine >> 4 == wanted >> 4 && mine & wanted & 15 != 0
        }
    }

    fn divisor(&self) -> u64 {
        let code = (self.timer_divide & 3) | (self.timer_divide >> 1 & 4);
        1 << ((code + 1) & 7)
    }

    fn start_timer(&mut self, now: u64) {
        self.timer_start = now;
        let cycles = u64::from(self.timer_initial) * self.divisor();
        self.timer_deadline = (cycles != 0).then(|| now.saturating_add(cycles));
    }

    /// When the timer fires, by the TSC.
    pub fn deadline(&self) -> Option<u64> {
        self.timer_deadline
    }

    /// Fires the timer if it is time.
    pub fn tick(&mut self, now: u64) {
        let Some(deadline) = self.timer_deadline.filter(|&deadline| now >= deadline) else { return };
        let lvt = self.lvt[0];
        if lvt & PERIODIC != 0 {
            let period = (u64::from(self.timer_initial) * self.divisor()).max(1);
            // A guest that was held up gets one interrupt, not all that it missed.
            let behind = (now - deadline) / period;
            self.timer_start = deadline + behind * period;
            self.timer_deadline = Some(self.timer_start + period);
        } else {
            self.timer_deadline = None;
        }
        if lvt & MASKED == 0 {
            self.raise(lvt as u8, false);
        }
    }

    fn current_count(&self, now: u64) -> u32 {
        self.timer_deadline.map_or(0, |deadline| (deadline.saturating_sub(now) / self.divisor()) as u32)
    }

    /// Reads the register at `offset` in the page (a multiple of 16).
    pub fn read(&self, offset: u32, now: u64) -> u32 {
        let word = |vectors: &Vectors, first: u32| vectors.0[((offset - first) / 16) as usize & 7];
        match offset {
            ID if self.x2apic() => self.id,
            ID => self.id << 24,
            VERSION => 0x0005_0014,
            TPR => self.tpr,
            PPR => self.ppr(),
            LDR => self.ldr,
            DFR => self.dfr,
            SVR => self.svr,
            ISR..=0x170 => word(&self.isr, ISR),
            TMR..=0x1f0 => word(&self.level, TMR),
            IRR..=0x270 => word(&self.irr, IRR),
            ESR => self.esr,
            ICR => self.icr as u32,
            ICR_HIGH => (self.icr >> 32) as u32,
            LVT_TIMER..=LVT_ERROR => self.lvt[((offset - LVT_TIMER) / 16) as usize % 6],
            TIMER_INITIAL => self.timer_initial,
            TIMER_CURRENT => self.current_count(now),
            TIMER_DIVIDE => self.timer_divide,
            _ => 0,
        }
    }

    /// Writes the register at `offset` in the page.
    pub fn write(&mut self, offset: u32, value: u32, now: u64) -> Effect {
        match offset {
            TPR => self.tpr = value & 0xff,
            EOI => {
                if let Some(vector) = self.end_of_interrupt() {
                    return Effect::EndOfLevel(vector);
                }
            }
            LDR if !self.x2apic() => self.ldr = value & 0xff00_0000,
            DFR => self.dfr = value | 0x0fff_ffff,
            SVR => {
                self.svr = value & 0x3ff;
                if value & 0x100 == 0 {
                    self.lvt.iter_mut().for_each(|lvt| *lvt |= MASKED);
                }
            }
            ESR => self.esr = 0,
            ICR => {
                self.icr = self.icr & !0xffff_ffff | u64::from(value & !0x1000);
                return self.command(value, (self.icr >> 56) as u32);
            }
            ICR_HIGH => self.icr = u64::from(value) << 32 | self.icr & 0xffff_ffff,
            LVT_TIMER..=LVT_ERROR => {
                let masked = if self.svr & 0x100 == 0 { MASKED } else { 0 };
                self.lvt[((offset - LVT_TIMER) / 16) as usize % 6] = value & 0x0003_f7ff | masked;
            }
            TIMER_INITIAL => {
                self.timer_initial = value;
                self.start_timer(now);
            }
            TIMER_DIVIDE => self.timer_divide = value & 0xb,
            SELF_IPI if self.x2apic() => self.raise(value as u8, false),
            _ => {}
        }
        Effect::None
    }

    fn command(&mut self, low: u32, destination: u32) -> Effect {
        let vector = low as u8;
        let delivery = match low >> 8 & 7 {
            0 | 1 => Delivery::Fixed(vector),
            4 => Delivery::Nmi,
            // The de-assertion of INIT is nothing to today's CPUs.
            5 if low >> 14 & 1 == 0 => return Effect::None,
            5 => Delivery::Init,
            6 => Delivery::Startup(vector),
            _ => return Effect::None,
        };
        let target = match low >> 18 & 3 {
            1 => Target::Myself,
            2 => Target::All,
            3 => Target::Others,
            _ if low >> 11 & 1 != 0 => Target::Logical(destination),
            _ if !self.x2apic() && destination == 0xff => Target::All,
            _ => Target::Physical(destination),
        };
        Effect::Send(Ipi { delivery, target })
    }

    /// Reads an x2APIC register by its MSR; `None` is #GP.
    pub fn read_msr(&self, msr: u32, now: u64) -> Option<u64> {
        let offset = msr.checked_sub(MSR_X2APIC).filter(|&n| self.x2apic() && n < 0x40)? * 16;
        match offset {
            DFR | ICR_HIGH | EOI | SELF_IPI => None,
            ICR => Some(self.icr),
            _ => Some(u64::from(self.read(offset, now))),
        }
    }

    /// Writes an x2APIC register by its MSR; `None` is #GP.
    pub fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Option<Effect> {
        let offset = msr.checked_sub(MSR_X2APIC).filter(|&n| self.x2apic() && n < 0x40)? * 16;
        match offset {
            ICR => {
                self.icr = value & !0x1000;
                Some(self.command(value as u32, (value >> 32) as u32))
            }
            EOI if value != 0 => None,
            DFR | ICR_HIGH | ID | VERSION | LDR | PPR | TIMER_CURRENT | ISR..=0x270 => None,
            _ => Some(self.write(offset, u32::try_from(value).ok()?, now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities() {
        let mut apic = LocalApic::new(0, true);
        apic.raise(0x35, false);
        apic.raise(0x81, false);
        assert_eq!(apic.pending(), Some(0x81));
        apic.accept(0x81);
        assert_eq!(apic.pending(), None, "a lower class waits");
        apic.raise(0x91, false);
        assert_eq!(apic.pending(), Some(0x91));
        assert_eq!(apic.write(EOI, 0, 0), Effect::None);
        apic.write(TPR, 0x90, 0);
        assert_eq!(apic.pending(), None);
        apic.write(TPR, 0, 0);
        assert_eq!(apic.pending(), Some(0x91));
    }

    #[test]
    fn the_end_of_a_level_interrupt_is_told() {
        let mut apic = LocalApic::new(0, true);
        apic.raise(0x41, true);
        apic.accept(0x41);
        assert_eq!(apic.write(EOI, 0, 0), Effect::EndOfLevel(0x41));
        assert_eq!(apic.write(EOI, 0, 0), Effect::None);
    }

    #[test]
    fn timer() {
        let mut apic = LocalApic::new(0, true);
        apic.write(TIMER_DIVIDE, 3, 0);
        apic.write(LVT_TIMER, 0x50, 0);
        apic.write(TIMER_INITIAL, 100, 1000);
        assert_eq!(apic.deadline(), Some(1000 + 1600));
        assert_eq!(apic.read(TIMER_CURRENT, 1000 + 160), 90);
        apic.tick(2599);
        assert_eq!(apic.pending(), None);
        apic.tick(2600);
        assert_eq!((apic.pending(), apic.deadline()), (Some(0x50), None));
        apic.write(LVT_TIMER, 0x50 | PERIODIC, 0);
        apic.write(TIMER_INITIAL, 100, 0);
        apic.tick(1600 * 10 + 5);
        assert_eq!(apic.deadline(), Some(1600 * 11));
    }

    #[test]
    fn commands() {
        let mut apic = LocalApic::new(0, true);
        apic.write(ICR_HIGH, 1 << 24, 0);
        let sent = apic.write(ICR, 0x40fd, 0);
        let ipi = Ipi { delivery: Delivery::Fixed(0xfd), target: Target::Physical(1) };
        assert_eq!(sent, Effect::Send(ipi));
        assert_eq!(apic.write_msr(0x830, 0, 0), None, "not in x2APIC mode");
        assert!(apic.set_base(BASE | 0xd00));
        assert!(!apic.set_base(BASE | 0x900), "back only through off");
        let sent = apic.write_msr(0x830, 2 << 32 | 0x608, 0).unwrap();
        assert_eq!(sent, Effect::Send(Ipi { delivery: Delivery::Startup(8), target: Target::Physical(2) }));
        assert_eq!(apic.read_msr(0x802, 0), Some(0));
        assert_eq!(apic.write_msr(0x80b, 1, 0), None, "EOI takes zero alone");
        assert_eq!(apic.write_msr(0x80b, 0, 0), Some(Effect::None));
    }

    #[test]
    fn an_apic_that_is_off_takes_nothing() {
        let mut apic = LocalApic::new(1, false);
        apic.raise(0x60, false);
        assert_eq!(apic.pending(), None);
        assert!(!apic.accepts_external());
    }
}
