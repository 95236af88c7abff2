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
        let size = AREA_SIZE.load(Ordering::Relaxed);
        Layout::from_size_align(size, 64).expect("a few KiB, aligned to 64")
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
        // SAFETY: the area holds what `new` or `save` wrote: a legal image.
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
