//! Delivery on the hosted platform: scripted user code that runs handlers, restarted calls, hostile frames.

use super::super::tests::{PAGE, call, end, syscall, task};
use super::info::code;
use super::*;
use crate::mm::{MapFlags, MapRequest, UserPtr};
use crate::platform::hosted::Hosted;
use crate::platform::{
    Cpu, Exception, ExitStatus, PAGE_SIZE, Prot, Registers, Threads, UserAccess, UserExit,
};
use crate::process::Thread;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

const HANDLER: u64 = 0x1234_5000;
const RESTORER: u64 = 0x1234_6000;
/// Where the scripted program's stack starts, below [`PAGE`]'s end.
const STACK: u64 = (PAGE + 2 * PAGE_SIZE - 16) as u64;

const SIGRETURN: u64 = 15;
const KILL: u64 = 62;
const ACTION: u64 = 13;

/// `rt_sigaction`.
fn handle(thread: &Arc<Thread<Hosted>>, signal: u32, flags: u64, mask: u64) {
    let words = [HANDLER, flags | sa::RESTORER, RESTORER, mask];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    thread.mm().write(PAGE, &bytes).unwrap();
    assert_eq!(call(thread, ACTION, [signal.into(), PAGE as u64, 0, 8, 0, 0]), 0);
}

fn first() -> Registers {
    Registers { rsp: STACK, rip: 0x40_0000, rflags: 0x202, rbx: 77, ..Registers::default() }
}

/// What `ret` and the restorer do at the end of a handler.
fn leave(registers: &mut Registers) -> UserExit {
    registers.rsp += 8;
    registers.rax = SIGRETURN;
    UserExit::Syscall
}

fn read(host: &Hosted, at: u64) -> u64 {
    let mut bytes = [0; 8];
    assert_eq!(host.copy_from_user(at as usize, &mut bytes), 8);
    u64::from_le_bytes(bytes)
}

fn write(host: &Hosted, at: u64, value: u64) {
    assert_eq!(host.copy_to_user(at as usize, &value.to_le_bytes()), 8);
}

#[test]
fn a_handler_runs_and_returns() {
    let (host, thread) = task(2048);
    handle(&thread, sig::USR1, sa::SIGINFO, bit(sig::USR2));
    let watch = thread.clone();
    host.script(syscall(KILL, 1, sig::USR1.into(), 0));
    host.script(move |host, registers| {
        assert_eq!((registers.rip, registers.rdi, registers.rax), (HANDLER, 10, 0));
        assert_eq!(registers.rsp % 16, 8, "as after a call");
        assert!(registers.rsp + 440 <= STACK - 128, "the red zone is left alone");
        assert_eq!(read(host, registers.rsp), RESTORER);
        // siginfo: signal, code SI_USER, sender.
        assert_eq!((read(host, registers.rsi) as u32, read(host, registers.rsi + 16)), (10, 1));
        // ucontext: flags, then sigcontext at 40: RBX is its twelfth register, RIP its seventeenth.
        assert_eq!(read(host, registers.rdx), 7);
        assert_eq!(
            (read(host, registers.rdx + 40 + 11 * 8), read(host, registers.rdx + 40 + 16 * 8)),
            (77, 0x40_0000)
        );
        assert_eq!(watch.signals.lock().blocked, bit(sig::USR1) | bit(sig::USR2));
        // The vector state is where the context says, with both magic numbers.
        let fpu = read(host, registers.rdx + 40 + 184);
        assert_eq!(fpu % 64, 0);
        assert_eq!(read(host, fpu + 464) as u32, 0x4650_5853);
        assert_eq!(read(host, fpu + 576) as u32, 0x4650_5845);
        // The handler changes what it returns to.
        write(host, registers.rdx + 40 + 11 * 8, 78);
        leave(registers)
    });
    let watch = thread.clone();
    host.script(move |_, registers| {
        assert_eq!((registers.rip, registers.rsp, registers.rbx), (0x40_0000, STACK, 78));
        assert_eq!(watch.signals.lock().blocked, 0);
        UserExit::Interrupt
    });
    assert_eq!(end(thread, first()), ExitStatus::Exited(0));
}

#[test]
fn two_signals_make_two_frames() {
    let (host, thread) = task(2048);
    handle(&thread, sig::USR1, 0, 0);
    handle(&thread, sig::USR2, 0, 0);
    thread.set_blocked(u64::MAX);
    thread.process.send(Info::kernel(sig::USR1)).unwrap();
    thread.process.send(Info::kernel(sig::USR2)).unwrap();
    thread.set_blocked(0);
    for signal in [12, 10] {
        host.script(move |_, registers| {
            assert_eq!((registers.rip, registers.rdi), (HANDLER, signal));
            leave(registers)
        });
    }
    host.script(|_, registers| {
        assert_eq!((registers.rip, registers.rsp), (0x40_0000, STACK));
        UserExit::Interrupt
    });
    // The first run is of user code that takes the signals at its first exit.
    host.script(|_, _| UserExit::Interrupt);
    let mut registers = first();
    thread.deliver_signals(&mut registers);
    assert_eq!(end(thread, registers), ExitStatus::Exited(0));
}

#[test]
fn a_handler_is_reset_or_not_deferred_as_it_says() {
    let (_, thread) = task(2048);
    handle(&thread, sig::USR1, sa::RESETHAND | sa::NODEFER, 0);
    thread.send_own(sig::USR1);
    thread.deliver_signals(&mut first());
    assert_eq!(thread.process.signals.lock().action(sig::USR1).handler, DEFAULT);
    assert_eq!(thread.signals.lock().blocked, 0);
}

/// The registers after a signal has interrupted `read` from a pipe, or another call with these arguments.
fn interrupted(flags: u64, number: u64, args: impl Fn(&Arc<Thread<Hosted>>) -> [u64; 3]) -> Registers {
    let (host, thread) = task(2048);
    handle(&thread, sig::USR1, flags, 0);
    let [rdi, rsi, rdx] = args(&thread);
    let other = thread.clone();
    host.spawn(Box::new(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        other.process.send(Info::kernel(sig::USR1)).unwrap();
    }))
    .unwrap();
    let mut registers = Registers { rax: number, rdi, rsi, rdx, ..first() };
    crate::linux::dispatch(&thread, &mut registers);
    thread.deliver_signals(&mut registers);
    assert_eq!(registers.rip, HANDLER);
    let mut after = registers;
    leave(&mut after);
    crate::linux::dispatch(&thread, &mut after);
    after
}

fn pipe_read(thread: &Arc<Thread<Hosted>>) -> [u64; 3] {
    assert_eq!(call(thread, 22, [PAGE as u64 + 64, 0, 0, 0, 0, 0]), 0);
    [3, PAGE as u64, 1]
}

#[test]
fn calls_are_restarted_where_sa_restart_says_so() {
    const READ: u64 = 0;
    let restarted = interrupted(sa::RESTART, READ, pipe_read);
    assert_eq!((restarted.rax, restarted.rip), (READ, 0x40_0000 - 2));
    let ended = interrupted(0, READ, pipe_read);
    assert_eq!((ended.rax as i64, ended.rip), (-4, 0x40_0000));
    // nanosleep and pause end in any case.
    let sleep = interrupted(sa::RESTART, 35, |thread| {
        thread.mm().write(PAGE + 64, &[100u64.to_le_bytes(), 0u64.to_le_bytes()].concat()).unwrap();
        [PAGE as u64 + 64, PAGE as u64 + 96, 0]
    });
    assert_eq!(sleep.rax as i64, -4);
    assert_eq!(interrupted(sa::RESTART, 34, |_| [0; 3]).rax as i64, -4);
}

#[test]
fn a_sleep_goes_on_when_no_handler_ran() {
    let (_, thread) = task(2048);
    let length: Vec<u8> = [0u64, 30_000_000].iter().flat_map(|word| word.to_le_bytes()).collect();
    thread.mm().write(PAGE, &length).unwrap();
    let before = crate::platform::Clock::monotonic(thread.platform());
    // What would interrupt it loses its effect before delivery: another thread's sigaction.
    handle(&thread, sig::USR1, 0, 0);
    thread.mm().write(PAGE, &length).unwrap();
    thread.send_own(sig::USR1);
    let mut registers = Registers { rax: 35, rdi: PAGE as u64, ..first() };
    crate::linux::dispatch(&thread, &mut registers);
    thread.process.signals.lock().set_action(sig::USR1, Action { handler: IGNORE, ..Action::default() });
    thread.deliver_signals(&mut registers);
    assert_eq!((registers.rax, registers.rip), (219, 0x40_0000 - 2));
    crate::linux::dispatch(&thread, &mut registers);
    assert_eq!(registers.rax, 0);
    assert!(crate::platform::Clock::monotonic(thread.platform()) >= before + 30_000_000);
}

#[test]
fn a_handler_runs_on_the_alternate_stack() {
    let (host, thread) = task(2048);
    let request = MapRequest {
        at: PAGE + 16 * PAGE_SIZE,
        len: 4 * PAGE_SIZE,
        prot: Prot::READ | Prot::WRITE,
        flags: MapFlags::FIXED,
        object: None,
        name: None,
    };
    let base = thread.mm().mmap(request).unwrap() as u64;
    let size = 4 * PAGE_SIZE as u64;
    let stack = AltStack { address: base, size, ..AltStack::default() };
    thread.mm().store(UserPtr::new(PAGE as u64 + 64), stack).unwrap();
    assert_eq!(call(&thread, 131, [PAGE as u64 + 64, 0, 0, 0, 0, 0]), 0);
    handle(&thread, sig::USR1, sa::ONSTACK | sa::NODEFER, 0);
    host.script(syscall(KILL, 1, sig::USR1.into(), 0));
    host.script(move |_, registers| {
        assert!((base..base + size).contains(&registers.rsp));
        // Again, from the handler: it stays on that stack.
        syscall(KILL, 1, sig::USR1.into(), 0)(host, registers)
    });
    host.script(move |_, registers| {
        assert!((base..base + size).contains(&registers.rsp));
        leave(registers)
    });
    host.script(|_, registers| leave(registers));
    host.script(|_, registers| {
        assert_eq!(registers.rsp, STACK);
        UserExit::Interrupt
    });
    assert_eq!(end(thread, first()), ExitStatus::Exited(0));
}

#[test]
fn no_room_for_a_frame_is_sigsegv() {
    let (host, thread) = task(2048);
    handle(&thread, sig::USR1, 0, 0);
    host.script(|_, registers| {
        registers.rsp = 0x8000;
        syscall(KILL, 1, sig::USR1.into(), 0)(Hosted::leak(16), registers)
    });
    assert_eq!(end(thread, first()), ExitStatus::Signaled(11));
    // Nor is there for that signal's own handler.
    let (host, thread) = task(2048);
    handle(&thread, sig::SEGV, 0, 0);
    host.script(|_, registers| {
        registers.rsp = u64::MAX;
        UserExit::Exception(Exception::Protection)
    });
    assert_eq!(end(thread, first()), ExitStatus::Signaled(11));
}

#[test]
fn faults_tell_what_and_where() {
    let (_, thread) = task(2048);
    for signal in [sig::FPE, sig::SEGV, sig::ILL] {
        handle(&thread, signal, sa::SIGINFO | sa::NODEFER, 0);
    }
    let after = |make: &dyn Fn(&mut Registers)| {
        let mut registers = first();
        make(&mut registers);
        thread.deliver_signals(&mut registers);
        let info = thread.mm().load::<Info>(UserPtr::new(registers.rsi)).unwrap();
        (info.number(), info.code, info.fields[0])
    };
    assert_eq!(
        after(&|registers| thread.exception(Exception::DivideError, registers)),
        (sig::FPE, code::FPE_INTDIV, 0x40_0000)
    );
    assert_eq!(
        after(&|registers| thread.exception(Exception::Protection, registers)),
        (sig::SEGV, code::KERNEL, 0)
    );
    let fault = crate::platform::PageFault { address: 0x10, access: Prot::WRITE, present: false };
    let error = crate::mm::FaultError::NoMapping;
    assert_eq!(after(&|_| thread.bad_access(&fault, error)), (sig::SEGV, code::SEGV_MAPERR, 0x10));
}

#[test]
fn a_blocked_fault_ends_the_process() {
    let (host, thread) = task(2048);
    handle(&thread, sig::SEGV, 0, 0);
    thread.set_blocked(bit(sig::SEGV));
    host.script(|_, _| UserExit::Exception(Exception::Protection));
    assert_eq!(end(thread, first()), ExitStatus::Signaled(11));
}

/// A frame that a program has changed: what its `rt_sigreturn` comes to.
fn forged(change: impl Fn(&Hosted, &Registers) + Send + 'static) -> ExitStatus {
    let (host, thread) = task(2048);
    handle(&thread, sig::USR1, 0, 0);
    host.script(syscall(KILL, 1, sig::USR1.into(), 0));
    host.script(move |host, registers| {
        change(host, registers);
        leave(registers)
    });
    end(thread, first())
}

#[test]
fn hostile_frames_are_sigsegv() {
    const CONTEXT: u64 = 40;
    let fpu = |host: &Hosted, registers: &Registers| read(host, registers.rdx + CONTEXT + 184);
    assert_eq!(forged(|_, _| {}), ExitStatus::Exited(0));
    // A kernel's code segment; another stack segment.
    for selectors in [0x002b_0000_0000_0008u64, 0x002b_0000_0000_0023, 0x0018_0000_0000_0033] {
        let change = move |host: &Hosted, registers: &Registers| {
            write(host, registers.rdx + CONTEXT + 144, selectors);
        };
        assert_eq!(forged(change), ExitStatus::Signaled(11), "{selectors:#x}");
    }
    // Components that the CPU does not have; a compacted image; a state that is not aligned, or nowhere.
    assert_eq!(
        forged(move |host, registers| write(host, fpu(host, registers) + 512, 1 << 63)),
        ExitStatus::Signaled(11)
    );
    assert_eq!(
        forged(move |host, registers| write(host, fpu(host, registers) + 520, 1 << 63)),
        ExitStatus::Signaled(11)
    );
    for pointer in [8u64, 0x8000_0000_0000_0000, u64::MAX - 63, 0x40] {
        let change =
            move |host: &Hosted, registers: &Registers| write(host, registers.rdx + CONTEXT + 184, pointer);
        assert_eq!(forged(change), ExitStatus::Signaled(11), "{pointer:#x}");
    }
    // Sizes that cannot be are a state without extensions, and not an error, as on Linux.
    assert_eq!(
        forged(move |host, registers| write(host, fpu(host, registers) + 480, u64::MAX)),
        ExitStatus::Exited(0)
    );
    // No frame at all.
    let (host, thread) = task(2048);
    host.script(|_, registers| {
        (registers.rax, registers.rsp) = (SIGRETURN, u64::MAX - 100);
        UserExit::Syscall
    });
    assert_eq!(end(thread, first()), ExitStatus::Signaled(11));
}

#[test]
fn only_harmless_flags_come_out_of_a_frame() {
    let (host, thread) = task(2048);
    handle(&thread, sig::USR1, 0, 0);
    host.script(syscall(KILL, 1, sig::USR1.into(), 0));
    host.script(|host, registers| {
        write(host, registers.rdx + 40 + 17 * 8, u64::MAX);
        leave(registers)
    });
    host.script(|_, registers| {
        assert_eq!(registers.rflags, 0x5_0fd7, "IOPL, VM, VIF and NT stay as they were");
        UserExit::Interrupt
    });
    assert_eq!(end(thread, first()), ExitStatus::Exited(0));
}

#[test]
fn the_vector_state_is_restored() {
    let (host, thread) = task(2048);
    handle(&thread, sig::USR1, 0, 0);
    host.script(|host, registers| {
        let mut state = [0; 576];
        state[160] = 9;
        state[512] = 2;
        assert!(host.load_fpu(&state));
        syscall(KILL, 1, sig::USR1.into(), 0)(host, registers)
    });
    let xmm0 = |host: &Hosted| {
        let mut state = [0; 576];
        host.save_fpu(&mut state);
        state[160]
    };
    host.script(move |host, registers| {
        assert_eq!(xmm0(host), 0, "a handler starts with an empty state");
        leave(registers)
    });
    host.script(move |host, _| {
        assert_eq!(xmm0(host), 9);
        UserExit::Interrupt
    });
    assert_eq!(end(thread, first()), ExitStatus::Exited(0));
}

#[test]
fn a_timer_sends_its_signal_with_its_overrun() {
    let (_, thread) = task(2048);
    thread.set_blocked(bit(40));
    // SIGEV_SIGNAL 40 with value 99.
    let mut event = [0u8; 64];
    event[..8].copy_from_slice(&99u64.to_le_bytes());
    event[8] = 40;
    thread.mm().write(PAGE, &event).unwrap();
    assert_eq!(call(&thread, 222, [1, PAGE as u64, PAGE as u64 + 128, 0, 0, 0]), 0);
    // Every 2 ms, first after 2 ms.
    let spec: Vec<u8> = [0u64, 2_000_000, 0, 2_000_000].iter().flat_map(|word| word.to_le_bytes()).collect();
    thread.mm().write(PAGE, &spec).unwrap();
    assert_eq!(call(&thread, 223, [0, 0, PAGE as u64, 0, 0, 0]), 0);
    std::thread::sleep(std::time::Duration::from_millis(30));
    thread.mm().write(PAGE, &bit(40).to_le_bytes()).unwrap();
    assert_eq!(call(&thread, 128, [PAGE as u64, PAGE as u64 + 256, 0, 8, 0, 0]), 40);
    let info = thread.mm().load::<Info>(UserPtr::new(PAGE as u64 + 256)).unwrap();
    assert_eq!((info.code, info.fields[0] as u32, info.fields[1]), (code::TIMER, 0, 99));
    let overrun = call(&thread, 225, [0; 6]);
    assert!(overrun >= 5, "{overrun} periods");
    assert_eq!((info.fields[0] >> 32) as i64, overrun);
    assert_eq!(call(&thread, 226, [0; 6]), 0);
    assert_eq!(call(&thread, 226, [0; 6]), -22);
}

#[test]
fn an_alarm_tells_what_was_left_of_it() {
    let (_, thread) = task(2048);
    assert_eq!(call(&thread, 37, [100, 0, 0, 0, 0, 0]), 0);
    assert_eq!(call(&thread, 37, [7, 0, 0, 0, 0, 0]), 100);
    assert_eq!(call(&thread, 36, [0, PAGE as u64, 0, 0, 0, 0]), 0);
    let left = thread.mm().load::<[i64; 4]>(UserPtr::new(PAGE as u64)).unwrap();
    assert!(left[0] == 0 && left[1] == 0 && left[2] <= 7 && left[2] >= 6, "{left:?}");
    assert_eq!(call(&thread, 37, [0; 6]), 7);
    assert_eq!(call(&thread, 37, [0; 6]), 0);
}
