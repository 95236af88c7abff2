//! A program that makes any system calls with any arguments (`linux::dispatch` and everything below it, on the hosted platform): every
//! call has a result that Linux's could have, the memory map stays one, and the process's end gives everything back.
#![no_main]

use litebox_core::manifest::{Manifest, StreamKind};
use litebox_core::mm::{MapFlags, MapRequest};
use litebox_core::platform::hosted::Hosted;
use litebox_core::platform::{
    Exception, Memory, PAGE_SIZE, PageFault, Prot, Registers, UserAccess, UserExit,
};
use litebox_core::process::signal::{Info, sig};
use litebox_core::process::{Process, Thread, enter, run as run_thread};
use litebox_fuzz::Input;
use litebox_fuzz::constants::{self, MEMORY};
use litebox_fuzz::machine::{check_memory, host, without_a_leak};
use std::sync::{Arc, Mutex};

litebox_fuzz::target!(litebox_fuzz::seeds::syscalls, run);

const LEN: usize = 2 * PAGE_SIZE;
/// Steps of one program.
const STEPS: usize = 96;
/// rt_sigreturn, whose result is any register's value.
const SIGRETURN: u64 = 15;

/// An argument.
#[derive(Clone, Copy)]
enum Argument {
    Value(u64),
    /// What the last call returned: a descriptor, an address.
    LastResult,
}

impl Argument {
    fn value(self, last: u64) -> u64 {
        match self {
            Argument::Value(value) => value,
            Argument::LastResult => last,
        }
    }
}

/// What the program does next.
enum Step {
    Call(u64, [Argument; 6]),
    Write(u64, Vec<u8>),
    Fault(Argument, Prot, bool),
    Exit(UserExit),
}

fn argument(input: &mut Input<'_>) -> Argument {
    Argument::Value(match input.u8() {
        0 => return Argument::LastResult,
        1 => MEMORY + u64::from(input.u16()) % LEN as u64,
        2 => MEMORY + LEN as u64 - u64::from(input.u8()),
        3 => MEMORY + 64 * u64::from(input.u8() % 128),
        4 => input.u32().into(),
        5 => input.u64(),
        6 => -i64::from(input.u8()) as u64,
        7 => -100i64 as u64, // AT_FDCWD
        8 => (1u64 << 47).wrapping_sub(4096).wrapping_add(input.u16().into()),
        9 => 0xffff_8000_0000_0000 + u64::from(input.u8()),
        10 => u64::from(input.u16()) << 12,
        11 => 1u64 << (input.u8() % 64),
        12 => MEMORY + constants::PATHS + constants::SLOT * u64::from(input.u8() % 64),
        13 => MEMORY + constants::STRUCTURES + constants::SLOT * u64::from(input.u8() % 64),
        small => u64::from(small - 14),
    })
}

fn step(input: &mut Input<'_>) -> Step {
    let number = match input.u8() {
        number @ 0..=0xef => number.into(),
        // 240 to 495: newer calls, and some that there are not.
        0xf0..=0xf8 => 240 + u64::from(input.u8()),
        0xf9 => input.u64(),
        0xfa..=0xfc => {
            let (at, len) = (u64::from(input.u16()), usize::from(input.u8()));
            return Step::Write(MEMORY + at % LEN as u64, input.bytes(len).to_vec());
        }
        0xfd => {
            let (address, kind) = (argument(input), input.u8());
            let access = [Prot::READ, Prot::WRITE, Prot::EXEC][usize::from(kind % 3)];
            return Step::Fault(address, access, kind & 0x80 != 0);
        }
        0xfe => {
            let all = [Exception::DivideError, Exception::Debug, Exception::Protection, Exception::Alignment];
            return Step::Exit(UserExit::Exception(all[usize::from(input.u8() % 4)]));
        }
        0xff => return Step::Exit(UserExit::Interrupt),
    };
    Step::Call(number, [(); 6].map(|()| argument(input)))
}

/// Nothing in the machine can wake it: somebody outside ends it.
fn kill(process: &Process<Hosted>) {
    process.send(Info::kernel(sig::KILL)).expect("standard signals are not counted");
}

fn check_result(number: u64, result: u64) {
    let result = result as i64;
    let error = (-4095..0).contains(&result);
    // mmap, brk and mremap give addresses; a position in a file can be anything that is not negative.
    let limit = if [9, 12, 25].contains(&number) { 1 << 47 } else { i64::MAX };
    assert!(error || (0..=limit).contains(&result), "system call {number} gives {result:#x}");
    // ENOTRECOVERABLE is the last that there is; 512 to 530 are for the kernel alone.
    assert!(!error || result >= -133, "system call {number} gives error {result}");
}

fn run(bytes: &[u8]) {
    without_a_leak(|| {
        let machine = host();
        machine.relive(|| {});
        let manifest = Manifest {
            cwd: b"/".to_vec(),
            hostname: "box".into(),
            stdin: StreamKind::Tty,
            winsize: Some((80, 25)),
            ..Manifest::default()
        };
        let thread = enter(machine, &manifest).expect("a machine with memory");
        let process = Arc::downgrade(&thread.process);
        machine.relive(move || {
            if let Some(process) = process.upgrade() {
                kill(&process);
            }
        });
        machine.type_in(b"typed\n");
        prepare(&thread);
        let kept = thread.clone();
        // What was asked last, to judge the answer by.
        let asked: Arc<Mutex<Option<u64>>> = Arc::default();
        let mut input = Input::new(bytes);
        for _ in 0..STEPS {
            if input.is_empty() {
                break;
            }
            let (step, asked) = (step(&mut input), asked.clone());
            machine.script(move |machine, registers| play(machine, registers, step, &asked));
        }
        let first = Registers { rsp: MEMORY + LEN as u64 - 512, rip: MEMORY, ..Registers::default() };
        run_thread(thread, first).leave();
        check_memory(kept.mm());
        // Another one, if it called execve.
        check_memory(&kept.process.mm.read());
        machine.relive(|| {});
        machine.activate(None);
    });
}

/// Two pages that can be written, the second with paths and structures in it, then one that cannot.
fn prepare(thread: &Thread<Hosted>) {
    thread.mm().activate();
    for (at, len, prot) in
        [(MEMORY as usize, LEN, Prot::READ | Prot::WRITE), (MEMORY as usize + LEN, PAGE_SIZE, Prot::READ)]
    {
        let request = MapRequest { at, len, prot, flags: MapFlags::FIXED, object: None, name: None };
        thread.mm().mmap(request).expect("an empty address space");
    }
    thread.mm().write(MEMORY as usize, &constants::memory()).expect("just mapped");
}

fn play(machine: &Hosted, registers: &mut Registers, step: Step, asked: &Mutex<Option<u64>>) -> UserExit {
    let mut asked = asked.lock().expect("nothing panics while it is held");
    if let Some(number) = asked.take() {
        check_result(number, registers.rax);
    }
    match step {
        Step::Call(number, arguments) => {
            let last = registers.rax;
            let [rdi, rsi, rdx, r10, r8, r9] = arguments.map(|argument| argument.value(last));
            *registers = Registers { rax: number, rdi, rsi, rdx, r10, r8, r9, ..*registers };
            *asked = (number as u32 != SIGRETURN as u32).then_some(number);
            UserExit::Syscall
        }
        Step::Write(at, bytes) => {
            machine.copy_to_user(at as usize, &bytes);
            UserExit::Interrupt
        }
        Step::Fault(address, access, present) => {
            // The low half, as user mode has no other.
            let address = (address.value(registers.rax) & ((1 << 47) - 1)) as usize;
            UserExit::PageFault(PageFault { address, access, present })
        }
        Step::Exit(exit) => exit,
    }
}
