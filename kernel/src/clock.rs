//! The clocks: the TSC, scaled to nanoseconds.
//!
//! The rate comes from the launcher (`tsc_khz=`), or is measured against the PIT; wall-clock time comes from the launcher
//! (`realtime_ns=`) or the RTC. Both are the host's word. Invariant: the monotonic clock never goes back, whatever the TSC does.

use core::arch::x86_64::{_mm_lfence, _rdtsc};
use core::sync::atomic::{AtomicU64, Ordering};
use litebox_core::platform::ClockScale;
use spin::Once;

struct Clock {
    scale: ClockScale,
    /// Wall-clock time minus monotonic time.
    realtime_offset: u64,
}

static CLOCK: Once<Clock> = Once::new();
/// The latest time that was given out.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// Fixed-point position of the multiplier.
const SHIFT: u32 = 32;
/// Rates outside this are nonsense, in kHz.
const PLAUSIBLE: core::ops::RangeInclusive<u64> = 100_000..=20_000_000;

/// The TSC, not earlier than what came before.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: every CPU of this architecture has both instructions.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// Sets the clock going: time 0 is `entry_tsc`.
pub fn init(entry_tsc: u64, tsc_khz: u64, realtime_now: u64) {
    let khz = tsc_khz.clamp(*PLAUSIBLE.start(), *PLAUSIBLE.end());
    let multiplier = (1_000_000u64 << SHIFT) / khz;
    let clock = CLOCK.call_once(|| {
        let scale = ClockScale { base_tsc: entry_tsc, base_ns: 0, multiplier, shift: SHIFT };
        Clock { scale, realtime_offset: realtime_now.saturating_sub(at(&scale, tsc())) }
    });
    debug_assert_eq!(clock.scale.multiplier, multiplier);
}

/// Whether a rate in kHz can be believed.
pub fn is_plausible(khz: u64) -> bool {
    PLAUSIBLE.contains(&khz)
}

#[inline]
fn at(scale: &ClockScale, tsc: u64) -> u64 {
    let ticks = tsc.saturating_sub(scale.base_tsc);
    scale.base_ns + ((u128::from(ticks) * u128::from(scale.multiplier)) >> scale.shift) as u64
}

/// Nanoseconds since the first instruction; 0 until the clock is set.
#[inline]
pub fn monotonic() -> u64 {
    let Some(clock) = CLOCK.get() else { return 0 };
    let now = at(&clock.scale, tsc());
    LATEST.fetch_max(now, Ordering::Relaxed).max(now)
}

/// The TSC value at which the monotonic clock reaches `ns`.
pub fn tsc_at(ns: u64) -> u64 {
    let Some(clock) = CLOCK.get() else { return 1 };
    let ticks = (u128::from(ns) << clock.scale.shift) / u128::from(clock.scale.multiplier);
    clock.scale.base_tsc.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX)).saturating_add(1)
}

/// Nanoseconds since 1970.
pub fn realtime() -> u64 {
    monotonic().saturating_add(realtime_offset())
}

/// What `realtime` adds to `monotonic`.
pub fn realtime_offset() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.realtime_offset)
}

/// The scale, for the vDSO.
pub fn scale() -> ClockScale {
    CLOCK.get().map_or(ClockScale { base_tsc: 0, base_ns: 0, multiplier: 1, shift: 0 }, |clock| clock.scale)
}

/// The TSC's rate in kHz.
pub fn khz() -> u64 {
    CLOCK.get().map_or(0, |clock| (1_000_000u64 << SHIFT) / clock.scale.multiplier.max(1))
}
