//! The frame that a handler runs on, as Linux lays it out on x86-64 (`arch/x86/include/uapi/asm/sigcontext.h`, `ucontext.h`), and the way back through it.
//!
//! From high to low addresses: the red zone of the interrupted function (not on an alternate stack), the vector state (aligned to 64 bytes), [`Frame`] (so
//! that the stack is aligned as at a function's entry). The frame lies in the program's memory: on the way back every word of it is an allegation. What the CPU
//! could fault on in ring 0 is checked or masked: code and stack segment must be user mode's, RIP by `run_user`, flags by a mask, the
//! vector state by [`Cpu::load_fpu`](crate::platform::Cpu::load_fpu). A frame that fails is SIGSEGV.

use super::info::Info;
use super::stack::AltStack;
use super::{Action, SignalSet, UNBLOCKABLE, sa};
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::platform::{Platform, Registers};
use crate::process::Thread;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes below the stack pointer that belong to the interrupted function (System V ABI, 3.2.2).
const RED_ZONE: u64 = 128;
/// Selectors of user mode, as Linux has them.
const USER_CS: u16 = 0x33;
const USER_SS: u16 = 0x2b;
/// Flags that a frame may set: CF, PF, AF, ZF, SF, TF, DF, OF, RF, AC.
const FRAME_FLAGS: u64 = 0x5_0dd5;
/// TF, DF, RF: a handler starts without them.
const CLEARED_FLAGS: u64 = 0x1_0500;

/// `uc_flags`: the vector state is XSAVE's; SS is saved; SS is restored as it is.
const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;

/// `struct _fpx_sw_bytes`: in the bytes of the FXSAVE area that the CPU leaves to software.
const SOFTWARE: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
const LEGACY_SIZE: usize = 512;
/// Where XSTATE_BV is in an XSAVE image.
const XSTATE_BV: usize = 512;
/// Legacy area and header: the smallest XSAVE image.
const MIN_XSAVE: usize = 576;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Software {
    magic1: u32,
    /// Bytes of the image and of what follows it.
    extended_size: u32,
    features: u64,
    /// Bytes of the image.
    size: u32,
    padding: [u32; 7],
}
const _: () = assert!(size_of::<Software>() + SOFTWARE == LEGACY_SIZE);

/// `struct sigcontext`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Context {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    rflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    error: u64,
    trap: u64,
    old_mask: u64,
    cr2: u64,
    /// Address of the vector state, or NULL.
    fpu: u64,
    reserved: [u64; 8],
}
const _: () = assert!(size_of::<Context>() == 256);

/// `struct ucontext`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct UserContext {
    flags: u64,
    link: u64,
    stack: AltStack,
    context: Context,
    mask: SignalSet,
}

/// `struct rt_sigframe`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Frame {
    /// The handler's return address: code that calls `rt_sigreturn`.
    restorer: u64,
    user: UserContext,
    info: Info,
}
const _: () = assert!(size_of::<Frame>() == 440);

/// What the CPU said of the last fault, for `sigcontext`.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct FaultRegisters {
    pub trap: u64,
    pub error: u64,
    pub cr2: u64,
}

/// Bytes of the vector state in a frame, with the second magic number behind an XSAVE image.
fn state_len<P: Platform>(platform: &P) -> usize {
    platform.fpu_size() + if platform.fpu_features().is_some() { size_of_val(&MAGIC2) } else { 0 }
}

/// The most that a frame takes of a stack (AT_MINSIGSTKSZ).
pub fn max_size<P: Platform>(platform: &P) -> usize {
    (size_of::<Frame>() + 15 + state_len(platform) + 63).next_multiple_of(16)
}

/// The vector state as a frame holds it.
fn save_state<P: Platform>(platform: &P) -> alloc::vec::Vec<u8> {
    let (size, len) = (platform.fpu_size(), state_len(platform));
    let mut state = alloc::vec![0; len];
    platform.save_fpu(state.get_mut(..size).unwrap_or_default());
    if let Some(features) = platform.fpu_features() {
        let software = Software {
            magic1: MAGIC1,
            extended_size: len as u32,
            features,
            size: size as u32,
            padding: [0; 7],
        };
        if let Some(to) = state.get_mut(SOFTWARE..LEGACY_SIZE) {
            to.copy_from_slice(software.as_bytes());
        }
        // Old programs write x87 and SSE registers without marking them in use.
        if let Some(first) = state.get_mut(XSTATE_BV) {
            *first |= 3;
        }
        if let Some(to) = state.get_mut(size..) {
            to.copy_from_slice(&MAGIC2.to_le_bytes());
        }
    }
    state
}

/// Loads the vector state at `at`, as a frame holds it. EFAULT.
fn load_state<P: Platform>(t: &Thread<P>, at: u64) -> Result<()> {
    let platform = t.platform();
    if at == 0 {
        platform.reset_fpu();
        return Ok(());
    }
    let Some(features) = platform.fpu_features() else {
        let mut state = alloc::vec![0; platform.fpu_size()];
        t.mm().read(at as usize, &mut state)?;
        return if at.is_multiple_of(16) && platform.load_fpu(&state) { Ok(()) } else { Err(Errno::EFAULT) };
    };
    if !at.is_multiple_of(64) {
        return Err(Errno::EFAULT);
    }
    let size = platform.fpu_size();
    let mut state = alloc::vec![0; size];
    t.mm().read(at as usize, state.get_mut(..LEGACY_SIZE).unwrap_or_default())?;
    let software = Software::read_from_bytes(state.get(SOFTWARE..LEGACY_SIZE).unwrap_or_default())
        .map_err(|_| Errno::EFAULT)?;
    let image = software.size as usize;
    let mut extended = software.magic1 == MAGIC1
        && (MIN_XSAVE..=size).contains(&image)
        && image <= software.extended_size as usize;
    if extended {
        let end = at.checked_add(image as u64).ok_or(Errno::EFAULT)?;
        let mut magic2 = [0; 4];
        t.mm().read(end as usize, &mut magic2)?;
        extended = u32::from_le_bytes(magic2) == MAGIC2;
    }
    if extended {
        let rest = state.get_mut(LEGACY_SIZE..image).unwrap_or_default();
        t.mm().read(at as usize + LEGACY_SIZE, rest)?;
    }
    // Of the components that the CPU has, those that the frame's writer knew; without XSAVE's header, what FXSAVE has.
    let in_use = match state.get(XSTATE_BV..XSTATE_BV + 8).and_then(|bytes| bytes.try_into().ok()) {
        Some(bytes) if extended => u64::from_le_bytes(bytes) & (software.features | !features),
        _ => 3,
    };
    if let Some(to) = state.get_mut(XSTATE_BV..XSTATE_BV + 8) {
        to.copy_from_slice(&in_use.to_le_bytes());
    }
    if platform.load_fpu(&state) { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Has the thread run the handler of `action` for `info`: writes the frame and sets the registers. `mask` is what the way back restores. EFAULT: there is no room
/// for the frame, or nowhere to return to.
pub(super) fn enter<P: Platform>(
    t: &Thread<P>,
    registers: &mut Registers,
    info: &Info,
    action: &Action,
    mask: SignalSet,
) -> Result<()> {
    if action.flags & sa::RESTORER == 0 {
        return Err(Errno::EFAULT);
    }
    let platform = t.platform();
    let (stack, fault) = {
        let mine = t.signals.lock();
        (mine.stack, mine.fault)
    };
    let nested = stack.in_use(registers.rsp);
    let other = stack.top(registers.rsp).filter(|_| action.flags & sa::ONSTACK != 0);
    let sp = other.unwrap_or(registers.rsp.wrapping_sub(RED_ZONE));
    let state = save_state(platform);
    let fpu = sp.wrapping_sub(state.len() as u64) & !63;
    let at = (fpu.wrapping_sub(size_of::<Frame>() as u64) & !15).wrapping_sub(8);
    if (nested || other.is_some()) && !stack.holds(at) {
        return Err(Errno::EFAULT);
    }
    let from = *registers;
    let context = Context {
        r8: from.r8,
        r9: from.r9,
        r10: from.r10,
        r11: from.r11,
        r12: from.r12,
        r13: from.r13,
        r14: from.r14,
        r15: from.r15,
        rdi: from.rdi,
        rsi: from.rsi,
        rbp: from.rbp,
        rbx: from.rbx,
        rdx: from.rdx,
        rax: from.rax,
        rcx: from.rcx,
        rsp: from.rsp,
        rip: from.rip,
        rflags: from.rflags,
        cs: USER_CS,
        gs: 0,
        fs: 0,
        ss: USER_SS,
        error: fault.error,
        trap: fault.trap,
        old_mask: mask,
        cr2: fault.cr2,
        fpu,
        reserved: [0; 8],
    };
    let xstate = if platform.fpu_features().is_some() { UC_FP_XSTATE } else { 0 };
    let user = UserContext {
        flags: xstate | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
        link: 0,
        stack,
        context,
        mask,
    };
    t.mm().write(fpu as usize, &state)?;
    t.mm().store(UserPtr::new(at), Frame { restorer: action.restorer, user, info: *info })?;
    t.signals.lock().stack.disarm();
    platform.reset_fpu();
    registers.rdi = info.number().into();
    registers.rsi = at + core::mem::offset_of!(Frame, info) as u64;
    registers.rdx = at + core::mem::offset_of!(Frame, user) as u64;
    registers.rax = 0;
    registers.rsp = at;
    registers.rip = action.handler;
    registers.rflags &= !CLEARED_FLAGS;
    Ok(())
}

/// `rt_sigreturn(2)`: goes back to what the frame at the stack pointer says. EFAULT: it is no frame.
pub(super) fn leave<P: Platform>(t: &Thread<P>, registers: &mut Registers) -> Result<()> {
    // The handler's return has taken the restorer's address off.
    const { assert!(core::mem::offset_of!(Frame, user) == size_of::<u64>()) };
    let user = t.mm().load::<UserContext>(UserPtr::new(registers.rsp))?;
    t.signals.lock().blocked = user.mask & !UNBLOCKABLE;
    let from = user.context;
    // A program that knows nothing of SS may have left anything there.
    let strict = user.flags & UC_STRICT_RESTORE_SS != 0;
    if from.cs | 3 != USER_CS || strict && from.ss | 3 != USER_SS {
        return Err(Errno::EFAULT);
    }
    load_state(t, from.fpu)?;
    *registers = Registers {
        r15: from.r15,
        r14: from.r14,
        r13: from.r13,
        r12: from.r12,
        rbp: from.rbp,
        rbx: from.rbx,
        r11: from.r11,
        r10: from.r10,
        r9: from.r9,
        r8: from.r8,
        rax: from.rax,
        rcx: from.rcx,
        rdx: from.rdx,
        rsi: from.rsi,
        rdi: from.rdi,
        rip: from.rip,
        rflags: registers.rflags & !FRAME_FLAGS | from.rflags & FRAME_FLAGS,
        rsp: from.rsp,
    };
    // Linux ignores a stack that cannot be restored, too.
    let _ = t.signals.lock().stack.replace(user.stack, registers.rsp);
    Ok(())
}
