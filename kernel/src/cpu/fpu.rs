//! The user's vector and floating-point state. The kernel itself uses none (soft float), so the state stays in the registers across
//! system calls, and is saved only when another thread runs.

use super::{cpuid, features};
use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a save area; FXSAVE's until [`init`] knows better.
static AREA_SIZE: AtomicUsize = AtomicUsize::new(512);

/// Sets XCR0, and measures the save area.
pub fn init() {
    let features = features::get();
    if features.xsave {
        let xcr0 = features.xcr0;
        // SAFETY: CR4.OSXSAVE is on; the bits are a legal combination of those that CPUID offers.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") xcr0 as u32, in("edx") (xcr0 >> 32) as u32, options(nostack));
        }
        AREA_SIZE.store((cpuid::xsave_area(xcr0) as usize).max(576), Ordering::Relaxed);
    }
}

/// The x87 status word and MXCSR, as user mode left them.
pub fn status() -> (u16, u32) {
    let (mut x87, mut mxcsr) = (0u16, 0u32);
    // SAFETY: store two registers, and change and wait for nothing.
    unsafe { asm!("fnstsw [{}]", "stmxcsr [{}]", in(reg) &mut x87, in(reg) &mut mxcsr, options(nostack)) };
    (x87, mxcsr)
}

/// Bytes of a save area.
pub fn size() -> usize {
    AREA_SIZE.load(Ordering::Relaxed)
}

/// Writes the registers to `to`, as far as it goes.
pub fn save_to(to: &mut [u8]) {
    let state = FpuState::new();
    state.save();
    let len = to.len().min(size());
    // SAFETY: the area has `size()` bytes, all written by `new`; `to` is elsewhere.
    unsafe { core::ptr::copy_nonoverlapping(state.area.as_ptr(), to.as_mut_ptr(), len) };
}

/// Where MXCSR is in an area.
const MXCSR: usize = 24;
/// The mask of MXCSR's legal bits, as FXSAVE writes it; 0 stands for the default (SDM vol. 1, 11.6.6).
const MXCSR_MASK: usize = 28;
const MXCSR_DEFAULT_MASK: u32 = 0xffbf;
/// XSAVE's header: XSTATE_BV, XCOMP_BV and eight bytes that must be zero too.
const HEADER: usize = 512;
const HEADER_END: usize = HEADER + 24;

/// Whether the CPU would load `image` without a fault (SDM vol. 1, 13.8: XRSTOR raises #GP for components that are off, for a compacted image, for bytes 8 to 23 of
/// the header, and, like FXRSTOR, for reserved bits of MXCSR).
fn is_legal(image: &[u8], mxcsr_mask: u32) -> bool {
    let word =
        |at: usize| image.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let mask = if mxcsr_mask == 0 { MXCSR_DEFAULT_MASK } else { mxcsr_mask };
    if image.len() < size() || word(MXCSR) & !mask != 0 {
        return false;
    }
    let features = features::get();
    let in_use = u64::from(word(HEADER)) | u64::from(word(HEADER + 4)) << 32;
    let reserved = image.get(HEADER + 8..HEADER_END).unwrap_or_default();
    !features.xsave || in_use & !features.xcr0 == 0 && reserved.iter().all(|&byte| byte == 0)
}

/// Loads the registers from what anybody may have written; `false`: the CPU would refuse it.
pub fn load_from(image: &[u8]) -> bool {
    let state = FpuState::new();
    state.save();
    // SAFETY: within the area, aligned to 4; FXSAVE and XSAVE have written it.
    let mask = unsafe { state.area.add(MXCSR_MASK).cast::<u32>().read() };
    if !is_legal(image, mask) {
        return false;
    }
    // SAFETY: `is_legal` saw that `image` has `size()` bytes, which the area has too; they are different memory.
    unsafe { core::ptr::copy_nonoverlapping(image.as_ptr(), state.area.as_ptr(), size()) };
    state.restore();
    true
}

/// A save area (XSAVE's standard format, or FXSAVE's).
pub struct FpuState {
    area: NonNull<u8>,
}

// SAFETY: the area is owned.
unsafe impl Send for FpuState {}
// SAFETY: it is only touched through `&mut` or by the one CPU that switches the owning thread.
unsafe impl Sync for FpuState {}

impl FpuState {
    fn layout() -> Layout {
        Layout::from_size_align(size(), 64).expect("a few KiB, aligned to 64")
    }

    /// The initial state.
    pub fn new() -> FpuState {
        // SAFETY: the size is not zero.
        let Some(area) = NonNull::new(unsafe { alloc_zeroed(Self::layout()) }) else {
            handle_alloc_error(Self::layout())
        };
        // SAFETY: the area has at least 512 bytes. FCW and MXCSR as after FNINIT and reset; XSTATE_BV = 0 makes XRSTOR initialise the rest.
        unsafe {
            area.cast::<u16>().write(0x37f);
            area.cast::<u32>().add(6).write(0x1f80);
        }
        FpuState { area }
    }

    /// Saves the registers here.
    pub fn save(&self) {
        let area = self.area.as_ptr();
        // SAFETY: the area is large enough for every component in XCR0 (leaf 0xD EBX), and aligned.
        unsafe {
            if features::get().xsave {
                asm!("xsave64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
            } else {
                asm!("fxsave64 [{}]", in(reg) area, options(nostack));
            }
        }
    }

    /// Loads the registers from here.
    pub fn restore(&self) {
        let area = self.area.as_ptr();
        // SAFETY: the area holds what `new` or `save` wrote, or what `is_legal` passed: a legal image.
        unsafe {
            if features::get().xsave {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
            } else {
                asm!("fxrstor64 [{}]", in(reg) area, options(nostack));
            }
        }
    }
}

impl Default for FpuState {
    fn default() -> Self {
        FpuState::new()
    }
}

impl Drop for FpuState {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.area.as_ptr(), Self::layout()) }
    }
}
