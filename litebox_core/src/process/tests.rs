//! Processes and system calls on the hosted platform: scripted user code, wild arguments.

use super::*;
use crate::linux;
use crate::manifest::Manifest;
use crate::mm::{MapFlags, MapRequest};
use crate::platform::hosted::Hosted;
use crate::platform::{Exception, ExitStatus, PAGE_SIZE, Prot, Registers, Stream, UserExit};
use alloc::sync::Arc;
use proptest::prelude::*;

/// Two pages of user memory that the tests point at.
pub(super) const PAGE: usize = 0x2000_0000;

pub(super) fn task(pages: usize) -> (&'static Hosted, Arc<Thread<Hosted>>) {
    let host = Hosted::leak(pages);
    let thread =
        enter(host, &Manifest { cwd: b"/".to_vec(), hostname: "box".into(), ..Manifest::default() }).unwrap();
    thread.mm().activate();
    let request = MapRequest {
        at: PAGE,
        len: 2 * PAGE_SIZE,
        prot: Prot::READ | Prot::WRITE,
        flags: MapFlags::FIXED,
        object: None,
        name: None,
    };
    thread.mm().mmap(request).unwrap();
    (host, thread)
}

pub(super) fn call(thread: &Arc<Thread<Hosted>>, number: u64, args: [u64; 6]) -> i64 {
    let [rdi, rsi, rdx, r10, r8, r9] = args;
    let mut registers = Registers { rax: number, rdi, rsi, rdx, r10, r8, r9, ..Registers::default() };
    linux::dispatch(thread, &mut registers);
    registers.rax as i64
}

pub(super) fn syscall(
    number: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
) -> impl FnOnce(&Hosted, &mut Registers) -> UserExit {
    move |_, registers| {
        (registers.rax, registers.rdi, registers.rsi, registers.rdx) = (number, rdi, rsi, rdx);
        UserExit::Syscall
    }
}

/// Runs a program to its end.
pub(super) fn end(thread: Arc<Thread<Hosted>>, registers: Registers) -> ExitStatus {
    let process = thread.process.clone();
    launch::run(thread, registers).leave();
    process.exit_status().expect("its last thread has left")
}

#[test]
fn a_scripted_program_writes_and_exits() {
    let (host, thread) = task(2048);
    thread.mm().write(PAGE, b"hello\n").unwrap();
    host.script(syscall(1, 1, PAGE as u64, 6));
    host.script(|_, registers| {
        assert_eq!(registers.rax, 6);
        UserExit::Interrupt
    });
    host.script(syscall(231, 300, 0, 0));
    assert_eq!(end(thread, Registers::default()), ExitStatus::Exited(44));
    assert_eq!(host.output(Stream::Stdout), b"hello\n");
}

#[test]
fn faults_end_the_process_with_their_signals() {
    for (exception, signal) in [
        (Exception::InvalidOpcode, 4),
        (Exception::Breakpoint, 5),
        (Exception::Alignment, 7),
        (Exception::DivideError, 8),
        (Exception::Protection, 11),
        (Exception::Stack, 7),
        (Exception::Simd, 8),
    ] {
        let (host, thread) = task(2048);
        host.script(move |_, _| UserExit::Exception(exception));
        assert_eq!(end(thread, Registers::default()), ExitStatus::Signaled(signal));
    }
    let (host, thread) = task(2048);
    let fault = crate::platform::PageFault { address: 0x10, access: Prot::READ, present: false };
    host.script(move |_, _| UserExit::PageFault(fault));
    assert_eq!(end(thread, Registers::default()), ExitStatus::Signaled(11));
}

#[test]
fn abort_and_ignored_signals() {
    let (host, thread) = task(2048);
    // signal(SIGUSR1, SIG_IGN), kill(getpid(), SIGUSR1), kill(getpid(), SIGABRT)
    thread.mm().write(PAGE, &1u64.to_le_bytes()).unwrap();
    assert_eq!(call(&thread, 13, [10, PAGE as u64, 0, 8, 0, 0]), 0);
    host.script(syscall(62, 1, 10, 0));
    host.script(syscall(62, 1, 6, 0));
    assert_eq!(end(thread, Registers::default()), ExitStatus::Signaled(6));
}

#[test]
fn files_by_system_call() {
    let (_, thread) = task(2048);
    let path = PAGE as u64;
    thread.mm().write(PAGE, b"/tmp/file\0").unwrap();
    let fd = call(&thread, 2, [path, 0o102, 0o600, 0, 0, 0]);
    assert_eq!(fd, 3);
    assert_eq!(call(&thread, 1, [3, path, 4, 0, 0, 0]), 4);
    assert_eq!(call(&thread, 8, [3, 0, 0, 0, 0, 0]), 0);
    assert_eq!(call(&thread, 0, [3, path + 100, 9, 0, 0, 0]), 4);
    let mut back = [0; 4];
    thread.mm().read(PAGE + 100, &mut back).unwrap();
    assert_eq!(&back, b"/tmp");
    assert_eq!(call(&thread, 0, [3, 8, 1, 0, 0, 0]), 0, "end of file comes before the pointer is looked at");
    assert_eq!(call(&thread, 1, [3, 8, 1, 0, 0, 0]), -14);
    assert_eq!(call(&thread, 87, [path, 0, 0, 0, 0, 0]), 0);
    assert_eq!(call(&thread, 2, [path, 0, 0, 0, 0, 0]), -2);
}

#[test]
fn a_futex_waits_for_its_wake() {
    let (host, thread) = task(2048);
    let word = PAGE as u64;
    assert_eq!(call(&thread, 202, [word, 128, 1, 0, 0, 0]), -11, "the word is 0, not 1");
    assert_eq!(call(&thread, 202, [word + 1, 128, 0, 0, 0, 0]), -22);
    // A timeout of a millisecond.
    thread.mm().write(PAGE + 64, &[0u64.to_le_bytes(), 1_000_000u64.to_le_bytes()].concat()).unwrap();
    assert_eq!(call(&thread, 202, [word, 128, 0, word + 64, 0, 0]), -110);
    let waker = thread.clone();
    crate::platform::Threads::spawn(
        host,
        alloc::boxed::Box::new(move || {
            waker.mm().activate();
            while call(&waker, 202, [word, 129, 1, 0, 0, 0]) == 0 {
                std::thread::yield_now();
            }
        }),
    )
    .unwrap();
    assert_eq!(call(&thread, 202, [word, 128, 0, 0, 0, 0]), 0);
}

#[test]
fn a_robust_mutex_tells_that_its_owner_died() {
    let (_, thread) = task(2048);
    let word = |at: usize, value: u64| thread.mm().write(PAGE + at, &value.to_le_bytes()).unwrap();
    // The head: first entry, offset of its word, pending entry. Two entries, the second leads back; their words 32 behind.
    let at = PAGE as u64;
    for (place, value) in [(0, at + 64), (8, 32), (16, at + 128), (64, at + 192), (192, at)] {
        word(place, value);
    }
    // Owned by tid 1 with a waiter; by somebody else; taken but not listed yet.
    word(96, 0x8000_0001);
    word(224, 0x8000_0002);
    word(160, 1);
    assert_eq!(call(&thread, 273, [at, 24, 0, 0, 0, 0]), 0);
    linux::robust_list_exit(&thread);
    let read = |at: usize| thread.mm().load_u32(PAGE + at).unwrap();
    assert_eq!([read(96), read(224), read(160)], [0xc000_0000, 0x8000_0002, 0x4000_0000]);
    // A circle, and a list that leads nowhere.
    word(192, at + 64);
    linux::robust_list_exit(&thread);
    word(64, u64::MAX);
    linux::robust_list_exit(&thread);
}

#[test]
fn a_thread_ends_alone_and_the_last_ends_the_process() {
    let (host, thread) = task(2048);
    let process = thread.process.clone();
    let other = Thread::new(&process, thread.shared_mm(), 7, b"other");
    *other.clear_child_tid.lock() = crate::mm::UserPtr::new(PAGE as u64);
    thread.mm().write(PAGE, &7u32.to_le_bytes()).unwrap();
    host.script(syscall(60, 5, 0, 0));
    launch::run(other, Registers::default()).leave();
    assert_eq!(process.exit_status(), None);
    thread.mm().activate();
    assert_eq!(thread.mm().load_u32(PAGE), Ok(0), "whoever joins it is told");
    // The last: its own status, not the other's.
    host.script(syscall(60, 6, 0, 0));
    launch::run(thread, Registers::default()).leave();
    assert_eq!(process.exit_status(), Some(ExitStatus::Exited(6)));
}

#[test]
fn limits_and_unknown_calls() {
    let (_, thread) = task(2048);
    assert_eq!(call(&thread, 9999, [0; 6]), -38);
    assert_eq!(call(&thread, 56, [0x10000, 0, 0, 0, 0, 0]), -22, "a thread shares more than its name");
    assert_eq!(call(&thread, 97, [7, 0, 0, 0, 0, 0]), -14);
    assert_eq!(call(&thread, 97, [99, PAGE as u64, 0, 0, 0, 0]), -22);
    assert_eq!(call(&thread, 39, [0; 6]), 1);
}

/// Calls that end or block the caller by their nature.
const LEFT_OUT: [u64; 14] = [56, 57, 58, 61, 247, 34, 35, 60, 230, 231, 130, 128, 59, 322];

fn argument() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0u64),
        Just(1),
        Just(u64::MAX),
        Just(PAGE as u64),
        Just((PAGE + 2 * PAGE_SIZE - 4) as u64),
        Just(0xffff_8000_0000_0000),
        Just(0x8000_0000_0000),
        0u64..32,
        any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 800 }))]

    #[test]
    fn no_call_panics(number in 0u64..460, args in proptest::array::uniform6(argument())) {
        // Waiting for ever is what some calls are for: poll, select, futex, reading a pipe of one's own.
        prop_assume!(!LEFT_OUT.contains(&number) && ![7, 23, 202, 270, 271].contains(&number));
        let (_, thread) = task(1024);
        let result = call(&thread, number, args);
        prop_assert!(result >= -4095, "{} is no result", result);
    }
}
