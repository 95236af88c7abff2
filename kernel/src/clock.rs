//! The clocks: the TSC, scaled to nanoseconds.
//!
//! The rate comes from the launcher (`tsc_khz=`), or is measured against the PIT; wall-clock time comes from the launcher
//! (`realtime_ns=`) or the RTC. Both are the host's word. Invariant: the monotonic clock never goes back, whatever the TSC does.

use core::arch::x86_64::{_mm_lfence, _rdtsc};
use litebox_core::platform::ClockScale;
use platform_snp::clock::TscClock;
use spin::Once;

struct Clock {
    tsc: TscClock,
    /// Wall-clock time minus monotonic time.
    realtime_offset: u64,
}

static CLOCK: Once<Clock> = Once::new();

/// The TSC, not earlier than what came before.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: every CPU of this architecture has both instructions.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// Sets the clock going: `clock` tells the time, `realtime_now` the date.
pub fn init(clock: TscClock, realtime_now: u64) {
    let realtime_offset = realtime_now.saturating_sub(clock.nanoseconds(tsc()));
    CLOCK.call_once(|| Clock { tsc: clock, realtime_offset });
}

/// The TSC's ticks in a nanosecond, as long as nobody has said; bounds on waiting need no more.
const TICKS_ASSUMED: u64 = 4;

/// Nanoseconds since the first instruction. Until the clock is set only differences mean something, and these roughly.
#[inline]
pub fn monotonic() -> u64 {
    CLOCK.get().map_or_else(|| tsc() / TICKS_ASSUMED, |clock| clock.tsc.nanoseconds(tsc()))
}

/// The TSC value at which the monotonic clock reaches `ns`.
pub fn tsc_at(ns: u64) -> u64 {
    let Some(clock) = CLOCK.get() else { return 1 };
    let scale = clock.tsc.scale();
    let ticks = (u128::from(ns) << scale.shift) / u128::from(scale.multiplier);
    scale.base_tsc.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX)).saturating_add(1)
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
    CLOCK
        .get()
        .map_or(ClockScale { base_tsc: 0, base_ns: 0, multiplier: 1, shift: 0 }, |clock| clock.tsc.scale())
}

/// The TSC's rate in kHz.
pub fn khz() -> u64 {
    CLOCK.get().map_or(0, |clock| {
        let scale = clock.tsc.scale();
        (1_000_000u64 << scale.shift) / scale.multiplier.max(1)
    })
}
