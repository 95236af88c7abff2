//! Clocks: nanoseconds from the time-stamp counter, its rate from the PIT (Intel 8254), the date from the CMOS RTC
//! (Motorola MC146818). The host can lie about all of them; answers are only checked for plausibility.

use crate::{DeviceError, host::HostIo};
use core::sync::atomic::{AtomicU64, Ordering};
use litebox_core::platform::ClockScale;

const SHIFT: u32 = 32;
const PIT_HZ: u64 = 1_193_182;
/// Plausible rates of a TSC in kHz: 100 MHz to 20 GHz.
const TSC_KHZ: core::ops::RangeInclusive<u64> = 100_000..=20_000_000;

/// The monotonic clock.
pub struct TscClock {
    scale: ClockScale,
    last: AtomicU64,
}

impl TscClock {
    /// A clock that is 0 at `base_tsc`; `None` for an implausible rate.
    pub fn new(base_tsc: u64, tsc_khz: u64) -> Option<Self> {
        if !TSC_KHZ.contains(&tsc_khz) {
            return None;
        }
        let multiplier = ((1_000_000u128 << SHIFT) / u128::from(tsc_khz)) as u64;
        Some(Self {
            scale: ClockScale { base_tsc, base_ns: 0, multiplier, shift: SHIFT },
            last: AtomicU64::new(0),
        })
    }

    /// The parameters, for the vDSO.
    pub fn scale(&self) -> ClockScale {
        self.scale
    }

    /// Nanoseconds at `tsc`; never less than a value returned before.
    pub fn nanoseconds(&self, tsc: u64) -> u64 {
        let now = nanoseconds(&self.scale, tsc);
        self.last.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

/// Nanoseconds at `tsc`; a `tsc` before the base is the base.
pub fn nanoseconds(scale: &ClockScale, tsc: u64) -> u64 {
    let ticks = u128::from(tsc.saturating_sub(scale.base_tsc));
    let ns = (ticks * u128::from(scale.multiplier)) >> scale.shift.min(127);
    scale.base_ns.saturating_add(u64::try_from(ns).unwrap_or(u64::MAX))
}

/// Measures the TSC in kHz against channel 0 of the PIT, which every machine with a PIT has (channel 2 needs port 0x61, which a microvm has
/// not): counts down from 65535, and is read on the way. The least of several windows, since delays only lengthen one.
pub fn calibrate(host: &dyn HostIo, rdtsc: impl Fn() -> u64) -> Result<u64, DeviceError> {
    const WINDOW: u16 = 2386; // 2 ms
    const BAD: DeviceError = DeviceError::BadDevice("an implausible TSC rate");
    let count = || {
        host.out8(0x43, 0x00); // latch channel 0
        let low = host.in8(0x40);
        u16::from_le_bytes([low, host.in8(0x40)])
    };
    let mut best = u64::MAX;
    for _ in 0..4 {
        host.out8(0x43, 0x30); // channel 0, both bytes, mode 0
        host.out8(0x40, 0xff);
        host.out8(0x40, 0xff);
        let (from, start) = (count(), rdtsc());
        let passed = (0..1_000_000).find_map(|_| {
            let passed = from.wrapping_sub(count());
            (WINDOW..0x8000).contains(&passed).then_some(passed)
        });
        let ticks = u128::from(passed.ok_or(DeviceError::Timeout)?);
        let cycles = u128::from(rdtsc().saturating_sub(start));
        best = best.min(u64::try_from(cycles * u128::from(PIT_HZ) / ticks / 1000).map_err(|_| BAD)?);
    }
    if TSC_KHZ.contains(&best) { Ok(best) } else { Err(BAD) }
}

/// Reads the date from the RTC: nanoseconds since 1970-01-01T00:00Z. (The hardware's clock is taken to be UTC.)
pub fn read_rtc(host: &dyn HostIo) -> Result<u64, DeviceError> {
    let register = |index: u8| {
        host.out8(0x70, 0x80 | index); // bit 7: NMI off while the index is ours
        host.in8(0x71)
    };
    let snapshot = || [0, 2, 4, 7, 8, 9, 0x32].map(register);
    for _ in 0..100 {
        if !(0..10_000).any(|_| register(0x0a) & 0x80 == 0) {
            return Err(DeviceError::Timeout);
        }
        let first = snapshot();
        // Equal twice and no update under way: not torn.
        if register(0x0a) & 0x80 == 0 && snapshot() == first {
            return decode_rtc(first, register(0x0b)).ok_or(DeviceError::BadDevice("the RTC holds no date"));
        }
    }
    Err(DeviceError::Timeout)
}

/// Seconds, minutes, hours, day, month, year, century; and status register B.
fn decode_rtc(fields: [u8; 7], status: u8) -> Option<u64> {
    let number = |byte: u8| -> Option<u64> {
        if status & 4 != 0 {
            return Some(byte.into());
        }
        let (tens, ones) = (byte >> 4, byte & 15);
        (tens < 10 && ones < 10).then_some(u64::from(tens) * 10 + u64::from(ones))
    };
    let [second, minute, hour, day, month, year, century] = fields;
    let (second, minute, day, month) = (number(second)?, number(minute)?, number(day)?, number(month)?);
    let hour = if status & 2 != 0 {
        number(hour)?
    } else {
        let twelve = number(hour & 0x7f)?;
        if !(1..=12).contains(&twelve) {
            return None;
        }
        twelve % 12 + if hour & 0x80 != 0 { 12 } else { 0 }
    };
    // A machine without a century register has 0 or 0xff there.
    let century = number(century).filter(|c| (20..=21).contains(c)).unwrap_or(20);
    let year = century * 100 + number(year).filter(|&y| y < 100)?;
    if second > 59
        || minute > 59
        || hour > 23
        || !(1..=12).contains(&month)
        || day == 0
        || day > days_in(year, month)
    {
        return None;
    }
    let days: u64 = (1970..year).map(|y| if leap(y) { 366 } else { 365 }).sum::<u64>()
        + (1..month).map(|m| days_in(year, m)).sum::<u64>()
        + day
        - 1;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000)
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn time_never_goes_back(khz in TSC_KHZ, base: u64, a: u64, b: u64) {
            let clock = TscClock::new(base, khz).unwrap();
            let first = clock.nanoseconds(a);
            prop_assert!(clock.nanoseconds(b) >= first);
        }

        #[test]
        fn a_second_is_a_second(khz in TSC_KHZ, base in 0u64..1 << 60) {
            let clock = TscClock::new(base, khz).unwrap();
            let ns = clock.nanoseconds(base + khz * 1000);
            prop_assert!((999_999_900..=1_000_000_000).contains(&ns), "{}", ns);
        }

        #[test]
        fn any_rtc_is_survived(fields: [u8; 7], status: u8) {
            let _ = decode_rtc(fields, status);
        }
    }

    #[test]
    fn dates() {
        let ns = 1_000_000_000;
        assert_eq!(decode_rtc([0x56, 0x34, 0x12, 0x29, 0x02, 0x24, 0x20], 2), Some(1_709_210_096 * ns));
        assert_eq!(decode_rtc([56, 34, 0x80 | 12, 29, 2, 24, 0], 4), Some(1_709_210_096 * ns));
        assert_eq!(decode_rtc([0, 0, 0, 30, 2, 24, 20], 6), None);
        assert_eq!(decode_rtc([0x0a, 0, 0, 1, 1, 0x24, 0x20], 2), None);
    }
}
