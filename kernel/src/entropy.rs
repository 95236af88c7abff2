//! Random numbers: ChaCha20 keyed by the CPU's RDSEED or RDRAND, with a new key after every request.
//!
//! Invariant: without a working hardware source the machine does not start; the host's entropy is never used alone, nor at all.

use crate::cpu::features;
use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use core::arch::asm;
use spin::Mutex;

static GENERATOR: Mutex<Option<ChaCha20Rng>> = Mutex::new(None);

/// Retries for one word: RDRAND promises one within 10 unless it is broken; RDSEED may be drained by others for longer.
const RETRIES: usize = 1000;

fn rdrand() -> Option<u64> {
    let (value, ok): (u64, u8);
    // SAFETY: only called when CPUID says that RDRAND exists.
    unsafe { asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack)) };
    (ok == 1).then_some(value)
}

fn rdseed() -> Option<u64> {
    let (value, ok): (u64, u8);
    // SAFETY: only called when CPUID says that RDSEED exists.
    unsafe { asm!("rdseed {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack)) };
    (ok == 1).then_some(value)
}

fn word() -> Option<u64> {
    let features = features::get();
    let from = |f: fn() -> Option<u64>| {
        for _ in 0..RETRIES {
            // All zeros and all ones are what broken sources have given (AMD erratum on resume): neither is taken.
            if let Some(value) = f().filter(|&v| v != 0 && v != u64::MAX) {
                return Some(value);
            }
            core::hint::spin_loop();
        }
        None
    };
    let seed = if features.rdseed { from(rdseed) } else { None };
    seed.or_else(|| if features.rdrand { from(rdrand) } else { None })
}

/// Seeds the generator; `Err` says why that cannot be.
pub fn init() -> Result<(), &'static str> {
    let mut seed = [0; 32];
    let mut last = 0;
    for chunk in seed.chunks_exact_mut(8) {
        let value = word()
            .ok_or("the CPU has no working RDSEED or RDRAND; with QEMU use -cpu max, or add +rdrand")?;
        if value == last {
            return Err("RDSEED and RDRAND repeat themselves");
        }
        last = value;
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    *GENERATOR.lock() = Some(ChaCha20Rng::from_seed(seed));
    Ok(())
}

/// Fills `out`.
pub fn fill(out: &mut [u8]) {
    let mut guard = GENERATOR.lock();
    let generator = guard.as_mut().expect("the machine does not start without entropy");
    generator.fill_bytes(out);
    // Fast key erasure: what was given out cannot be computed from what is kept.
    let mut key = [0; 32];
    generator.fill_bytes(&mut key);
    *generator = ChaCha20Rng::from_seed(key);
}
