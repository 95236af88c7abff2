//! The type that joins the CPU's South traits, implemented here, with the host's, from `platform_snp`.

use crate::cpu::cpuid::{cpuid, cpuid_count};
use crate::cpu::{entry, features, forged, fpu, percpu::PerCpu, trap};
use crate::mm::heap::POOL;
use crate::mm::layout::{USER, USER_END};
use crate::mm::page_table::PageTable;
use crate::mm::user_access;
use crate::{clock, devices, entropy, power, sched, snp, vdso};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use litebox_core::mm::{Page, PagePool};
use litebox_core::platform::{
    Attack, BlockDevice, Clock, Console, Cpu, Entropy, Exception, ExitStatus, Memory, OutOfMemory, Platform,
    Power, Registers, ThreadToken, Threads, UserAccess, UserExit,
};
use spin::Once;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{FsBase, KernelGsBase};

/// RFLAGS that user mode may have: CF, PF, AF, ZF, SF, TF, DF, OF, NT, RF, AC, ID.
const USER_FLAGS: u64 = 0x25_4dd5;
/// Always one, and the interrupt flag.
const FIXED_FLAGS: u64 = 0x202;

/// The platform: this kernel on its host.
pub struct Kernel {
    vdso: Once<Option<Vec<Page>>>,
}

/// The one value.
pub static KERNEL: Kernel = Kernel { vdso: Once::new() };

impl Platform for Kernel {
    fn console(&self) -> &dyn Console {
        devices::console()
    }

    fn root_device(&self) -> Option<&'static dyn BlockDevice> {
        devices::root()
    }

    fn log_enabled(&self) -> bool {
        crate::log::enabled()
    }

    fn log(&self, line: fmt::Arguments<'_>) {
        crate::log::line(line);
    }

    fn vdso_pages(&self) -> usize {
        vdso::page_count()
    }

    fn vdso_page(&self, index: usize) -> Option<Page> {
        self.vdso.call_once(|| vdso::pages().ok()).as_ref()?.get(index).cloned()
    }
}

impl Memory for Kernel {
    type PageTable = PageTable;

    fn pages(&self) -> &'static PagePool {
        &POOL
    }

    fn new_page_table(&self) -> Result<PageTable, OutOfMemory> {
        PageTable::new()
    }

    fn activate(&self, table: Option<&PageTable>) {
        sched::set_address_space(table.map(PageTable::physical));
    }

    fn user_range(&self) -> Range<usize> {
        USER
    }
}

impl UserAccess for Kernel {
    #[inline]
    fn copy_from_user(&self, from: usize, to: &mut [u8]) -> usize {
        user_access::copy_from_user(from, to)
    }

    #[inline]
    fn copy_to_user(&self, to: usize, from: &[u8]) -> usize {
        user_access::copy_to_user(to, from)
    }

    #[inline]
    fn fill_user(&self, to: usize, byte: u8, len: usize) -> usize {
        user_access::fill(to, byte, len)
    }

    #[inline]
    fn load_user_u32(&self, at: usize) -> Option<u32> {
        user_access::load_u32(at)
    }

    #[inline]
    fn compare_exchange_user_u32(&self, at: usize, old: u32, new: u32) -> Option<u32> {
        user_access::compare_exchange_u32(at, old, new)
    }
}

impl Cpu for Kernel {
    #[inline]
    fn run_user(&self, registers: &mut Registers) -> UserExit {
        // A SYSRET or IRET to an address that is not the user's would fault in ring 0.
        if registers.rip >= USER_END as u64 {
            return UserExit::Exception(Exception::Protection);
        }
        registers.rflags = registers.rflags & USER_FLAGS | FIXED_FLAGS;
        sched::before_user();
        loop {
            // SAFETY: RIP and RFLAGS were just checked; the active address space is the thread's; interrupts are off in the kernel.
            let reason = unsafe { entry::run_user(registers) };
            if reason != snp::VC {
                if !forged::is_believed(reason, registers.rip) {
                    continue;
                }
                if reason < trap::EXTERNAL_BASE.into() && reason != trap::PAGE_FAULT {
                    snp::check_user_exception(reason, registers);
                }
                return trap::user_exit(reason);
            }
            if let Some(exit) = snp::user_exception(registers, PerCpu::get().error_code()) {
                return exit;
            }
        }
    }

    fn fs_base(&self) -> u64 {
        FsBase::read().as_u64()
    }

    fn set_fs_base(&self, base: u64) -> bool {
        let legal = base < USER_END as u64;
        if legal {
            FsBase::write(VirtAddr::new_truncate(base));
        }
        legal
    }

    fn gs_base(&self) -> u64 {
        KernelGsBase::read().as_u64()
    }

    fn set_gs_base(&self, base: u64) -> bool {
        let legal = base < USER_END as u64;
        if legal {
            KernelGsBase::write(VirtAddr::new_truncate(base));
        }
        legal
    }

    fn reset_fpu(&self) {
        fpu::FpuState::new().restore();
    }

    fn fpu_size(&self) -> usize {
        fpu::size()
    }

    fn fpu_features(&self) -> Option<u64> {
        let features = features::get();
        features.xsave.then_some(features.xcr0)
    }

    fn save_fpu(&self, to: &mut [u8]) {
        fpu::save_to(to);
    }

    fn load_fpu(&self, from: &[u8]) -> bool {
        fpu::load_from(from)
    }

    fn hwcap(&self) -> (u64, u64) {
        (u64::from(features::get().leaf1_edx), 0)
    }

    fn cpu_index(&self) -> usize {
        PerCpu::get().index
    }

    fn cpu_count(&self) -> usize {
        1
    }

    fn cpuinfo(&self, index: usize) -> String {
        cpuinfo(index)
    }
}

/// The fields of Linux's /proc/cpuinfo that programs look at.
fn cpuinfo(index: usize) -> String {
    let leaf0 = cpuid(0);
    let leaf1 = cpuid(1);
    let text = |words: &[u32]| -> String {
        words
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .take_while(|&b| b != 0)
            .filter(|b| b.is_ascii_graphic() || *b == b' ')
            .map(char::from)
            .collect()
    };
    let vendor = text(&[leaf0.ebx, leaf0.edx, leaf0.ecx]);
    let mut brand = String::new();
    if cpuid(0x8000_0000).eax >= 0x8000_0004 {
        for leaf in 0x8000_0002..=0x8000_0004 {
            let part = cpuid(leaf);
            brand += &text(&[part.eax, part.ebx, part.ecx, part.edx]);
        }
    }
    let base_family = leaf1.eax >> 8 & 0xf;
    let family = if base_family == 0xf { base_family + (leaf1.eax >> 20 & 0xff) } else { base_family };
    let model = leaf1.eax >> 4 & 0xf | if base_family >= 6 { leaf1.eax >> 12 & 0xf0 } else { 0 };
    let khz = clock::khz();
    let flags = cpu_flags();
    format!(
        "processor\t: {index}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {}\n\
         stepping\t: {}\ncpu MHz\t\t: {}.{:03}\nphysical id\t: 0\nsiblings\t: 1\ncore id\t\t: {index}\ncpu cores\t: 1\n\
         fpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: {}\nwp\t\t: yes\nflags\t\t: {flags}\n\
         bogomips\t: {}.{:02}\nclflush size\t: {}\naddress sizes\t: 48 bits physical, 48 bits virtual\n\n",
        brand.trim(),
        leaf1.eax & 0xf,
        khz / 1000,
        khz % 1000,
        leaf0.eax,
        khz / 500,
        khz / 5 % 100,
        (leaf1.ebx >> 8 & 0xff) * 8,
    )
}

/// Names of the feature bits that are set, as Linux spells them.
fn cpu_flags() -> String {
    const LEAF1_EDX: [(u32, &str); 23] = [
        (0, "fpu"),
        (3, "pse"),
        (4, "tsc"),
        (5, "msr"),
        (6, "pae"),
        (7, "mce"),
        (8, "cx8"),
        (9, "apic"),
        (11, "sep"),
        (12, "mtrr"),
        (13, "pge"),
        (14, "mca"),
        (15, "cmov"),
        (16, "pat"),
        (17, "pse36"),
        (19, "clflush"),
        (23, "mmx"),
        (24, "fxsr"),
        (25, "sse"),
        (26, "sse2"),
        (28, "ht"),
        (2, "de"),
        (1, "vme"),
    ];
    const LEAF1_ECX: [(u32, &str); 16] = [
        (0, "pni"),
        (1, "pclmulqdq"),
        (9, "ssse3"),
        (12, "fma"),
        (13, "cx16"),
        (19, "sse4_1"),
        (20, "sse4_2"),
        (22, "movbe"),
        (23, "popcnt"),
        (25, "aes"),
        (26, "xsave"),
        (28, "avx"),
        (29, "f16c"),
        (30, "rdrand"),
        (31, "hypervisor"),
        (17, "pcid"),
    ];
    const LEAF7_EBX: [(u32, &str); 8] = [
        (3, "bmi1"),
        (5, "avx2"),
        (8, "bmi2"),
        (9, "erms"),
        (16, "avx512f"),
        (18, "rdseed"),
        (19, "adx"),
        (29, "sha_ni"),
    ];
    const EXTENDED_EDX: [(u32, &str); 5] =
        [(11, "syscall"), (20, "nx"), (26, "pdpe1gb"), (27, "rdtscp"), (29, "lm")];
    let leaf1 = cpuid(1);
    let leaf7 = if cpuid(0).eax >= 7 { cpuid_count(7, 0).ebx } else { 0 };
    let sets: [(u32, &[(u32, &str)]); 4] = [
        (leaf1.edx, &LEAF1_EDX),
        (cpuid(0x8000_0001).edx, &EXTENDED_EDX),
        (leaf1.ecx, &LEAF1_ECX),
        (leaf7, &LEAF7_EBX),
    ];
    let mut out = String::new();
    for (value, names) in sets {
        for (bit, name) in names {
            if value & 1 << bit != 0 {
                if !out.is_empty() {
                    out.push(' ');
                }
                out.push_str(name);
            }
        }
    }
    out
}

impl Threads for Kernel {
    fn current(&self) -> ThreadToken {
        sched::current_token()
    }

    fn park(&self, deadline: Option<u64>) {
        sched::park(deadline);
    }

    fn unpark(&self, thread: ThreadToken) {
        sched::unpark(thread);
    }

    fn cpu_time(&self, thread: ThreadToken) -> u64 {
        sched::cpu_time(thread)
    }

    fn yield_now(&self) {
        sched::yield_now();
    }

    fn spawn(&self, body: Box<dyn FnOnce() + Send>) -> Result<ThreadToken, OutOfMemory> {
        sched::spawn(body)
    }
}

impl Clock for Kernel {
    #[inline]
    fn monotonic(&self) -> u64 {
        clock::monotonic()
    }

    #[inline]
    fn realtime(&self) -> u64 {
        clock::realtime()
    }
}

impl Entropy for Kernel {
    fn fill_random(&self, out: &mut [u8]) {
        entropy::fill(out);
    }
}

impl Power for Kernel {
    fn power_off(&self, status: ExitStatus, why: fmt::Arguments<'_>) -> ! {
        devices::console().flush();
        power::off(status, why)
    }

    fn host_attack(&self, attack: Attack, what: fmt::Arguments<'_>) -> ! {
        power::attack(attack, what)
    }
}
