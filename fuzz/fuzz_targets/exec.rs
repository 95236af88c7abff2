//! Programs as files: `execve` of any bytes, which are also their own interpreter (`process::exec` above `process::elf`). What starts
//! has a stack and a memory map that is one; what does not start leaves nothing.
#![no_main]

use litebox_core::fs::{OFlags, ResolveFlags, ops};
use litebox_core::manifest::Manifest;
use litebox_core::mm::Mm;
use litebox_core::platform::{Memory, Prot};
use litebox_core::process::signal::ThreadSignals;
use litebox_core::process::{enter, execute};
use litebox_fuzz::machine::{check_memory, host, without_a_leak};

litebox_fuzz::target!(litebox_fuzz::seeds::exec, run);

const PROGRAM: &[u8] = b"/tmp/program";
/// The interpreter's name in the seeds, and the program's.
const NAMES: [&[u8]; 2] = [b"/i", PROGRAM];
/// Areas whose pages are touched.
const TOUCHED: usize = 32;

fn run(file: &[u8]) {
    without_a_leak(|| {
        let machine = host();
        machine.relive(|| {});
        let manifest = Manifest { cwd: b"/".to_vec(), hostname: "box".into(), ..Manifest::default() };
        let thread = enter(machine, &manifest).expect("a machine with memory");
        let context = thread.process.fs.lock().clone();
        for name in NAMES {
            let flags = OFlags::CREAT | OFlags::RDWR;
            let opened = ops::open(&context, &context.cwd, name, flags, 0o755, ResolveFlags::empty());
            let opened = opened.expect("a file in an empty tree");
            if !file.is_empty() {
                assert_eq!(opened.write_at(0, &mut &file[..]), Ok(file.len()));
            }
        }
        let strings = [b"program".to_vec(), Vec::new(), b"A=b".to_vec()];
        let (args, env) = strings.split_at(2);
        let memory = Mm::new(machine).expect("a machine with memory");
        let started =
            execute(&thread.process, memory, Some(&thread), PROGRAM, args, env, ThreadSignals::default());
        if let Ok((thread, registers)) = started {
            thread.bind();
            check_memory(thread.mm());
            assert_eq!(registers.rsp % 16, 0);
            let mut count = [0; 8];
            thread.mm().read(registers.rsp as usize, &mut count).expect("a stack");
            assert!(u64::from_le_bytes(count) >= 2, "a program without its arguments");
            for area in thread.mm().areas().into_iter().take(TOUCHED) {
                for access in [Prot::READ, Prot::WRITE, Prot::EXEC] {
                    for at in [area.range.start, area.range.end - 1] {
                        let allowed = thread.mm().handle_fault(at, access).is_ok();
                        assert!(
                            !allowed || area.prot.intersects(access | Prot::READ),
                            "more than was asked for"
                        );
                    }
                }
            }
            check_memory(thread.mm());
        } else {
            check_memory(thread.mm());
        }
        machine.activate(None);
    });
}
