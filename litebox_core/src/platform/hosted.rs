//! The platform of unit tests: pages from the heap, a page table in a map, threads of the host, a console that records.
//!
//! User memory is what the active table maps; there is no user code, so [`Cpu::run_user`] plays a script. Whatever would end the machine unwinds instead, with an
//! [`Ended`] that a test can catch.

use super::*;
use crate::mm::{LargePage, Page, PagePool};
use std::alloc::{Layout, alloc_zeroed};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How the machine ended: what `power_off` and `host_attack` unwind with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The workload ended, or did not start, for this reason.
    Off(ExitStatus, String),
    /// The host attacked.
    Attack(Attack, String),
}

type Map = BTreeMap<usize, (Page, Prot)>;
type Step = Box<dyn FnOnce(&Hosted, &mut Registers) -> UserExit + Send>;
type Permit = Arc<(Mutex<bool>, Condvar)>;

thread_local! {
    static ACTIVE: RefCell<Option<Arc<Mutex<Map>>>> = const { RefCell::new(None) };
    static TOKEN: RefCell<Option<u64>> = const { RefCell::new(None) };
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A test that unwound out of the machine's end leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is called when nothing can wake the thread that waits.
type Idle = Arc<dyn Fn() + Send + Sync>;

/// A sleep beyond this is taken for one without an end, where time is simulated.
const LONGEST_SLEEP: u64 = 3_600_000_000_000;

/// Bytes of the vector state: x87 and SSE, and the header of an XSAVE image. Kept, and looked into by nobody.
const FPU_SIZE: usize = 576;

/// Time that passes only where somebody waits for it.
struct Simulated {
    now: u64,
    idle: Idle,
}

/// The platform.
pub struct Hosted {
    pool: &'static PagePool,
    start: Instant,
    simulated: Mutex<Option<Simulated>>,
    seed: AtomicU64,
    permits: Mutex<HashMap<u64, Permit>>,
    next_token: AtomicU64,
    script: Mutex<VecDeque<Step>>,
    bases: Mutex<(u64, u64)>,
    fpu: Mutex<[u8; FPU_SIZE]>,
    console: Recorder,
    root: Option<&'static dyn BlockDevice>,
}

/// Records output, and gives scripted input.
#[derive(Default)]
struct Recorder {
    output: Mutex<[Vec<u8>; 2]>,
    input: Mutex<VecDeque<u8>>,
}

impl Console for Recorder {
    fn write(&self, stream: Stream, bytes: &[u8]) -> usize {
        lock(&self.output)[usize::from(stream == Stream::Stderr)].extend_from_slice(bytes);
        bytes.len()
    }
    fn read(&self, buffer: &mut [u8]) -> Input {
        let mut input = lock(&self.input);
        let len = buffer.len().min(input.len());
        for (to, from) in buffer.iter_mut().zip(input.drain(..len)) {
            *to = from;
        }
        if len == 0 { Input::Eof } else { Input::Bytes(len) }
    }
    fn input_ready(&self) -> bool {
        true
    }
    fn set_notifier(&self, _notify: Box<dyn Fn() + Send + Sync>) {}
    fn flush(&self) {}
}

/// A disk of bytes.
struct Disk(Vec<u8>);

impl BlockDevice for Disk {
    fn block_count(&self) -> u64 {
        (self.0.len() / BLOCK_SIZE) as u64
    }
    fn read(&self, first: u64, into: &mut [&mut [u8; BLOCK_SIZE]]) -> Result<(), BlockError> {
        for (i, block) in into.iter_mut().enumerate() {
            let at = (first as usize + i) * BLOCK_SIZE;
            block.copy_from_slice(self.0.get(at..at + BLOCK_SIZE).ok_or(BlockError::OutOfRange)?);
        }
        Ok(())
    }
}

impl Hosted {
    /// A machine with this many pages of memory, for ever.
    pub fn leak(pages: usize) -> &'static Hosted {
        Self::leak_with_disk(pages, None)
    }

    /// The same with a disk.
    pub fn leak_with_disk(pages: usize, disk: Option<Vec<u8>>) -> &'static Hosted {
        let pool: &'static PagePool = Box::leak(Box::new(PagePool::new()));
        let layout = Layout::from_size_align(pages * PAGE_SIZE, LARGE_PAGE_SIZE).expect("a sane size");
        // SAFETY: the size is not zero; the memory is never freed, and nobody else has its address.
        unsafe {
            let memory = alloc_zeroed(layout);
            assert!(!memory.is_null());
            pool.add_region(memory, 0..(pages * PAGE_SIZE) as u64);
        }
        Box::leak(Box::new(Hosted {
            pool,
            start: Instant::now(),
            simulated: Mutex::default(),
            seed: AtomicU64::new(1),
            permits: Mutex::default(),
            next_token: AtomicU64::new(1),
            script: Mutex::default(),
            bases: Mutex::default(),
            fpu: Mutex::new([0; FPU_SIZE]),
            console: Recorder::default(),
            root: disk.map(|bytes| &*Box::leak(Box::new(Disk(bytes))) as &dyn BlockDevice),
        }))
    }

    /// Begins a life in which everything is the same each time: what was scripted, typed, written and drawn at random is forgotten, and
    /// time stands still but for a thread that waits, whose deadline has come at once. Where none would, `idle` is called. For
    /// machines with one thread.
    pub fn relive(&self, idle: impl Fn() + Send + Sync + 'static) {
        *lock(&self.simulated) = Some(Simulated { now: 1_000_000_000, idle: Arc::new(idle) });
        self.seed.store(1, Ordering::Relaxed);
        lock(&self.permits).clear();
        lock(&self.script).clear();
        *lock(&self.bases) = (0, 0);
        *lock(&self.console.output) = Default::default();
        lock(&self.console.input).clear();
    }

    /// Where time is simulated: waits, and says so.
    fn simulated_park(&self, deadline: Option<u64>) -> bool {
        let idle = {
            let mut simulated = lock(&self.simulated);
            let Some(simulated) = &mut *simulated else { return false };
            let permit = self.permit(self.current().0);
            if std::mem::take(&mut *lock(&permit.0)) {
                return true;
            }
            match deadline {
                Some(at) if at <= simulated.now.saturating_add(LONGEST_SLEEP) => {
                    simulated.now = simulated.now.max(at);
                    return true;
                }
                _ => simulated.idle.clone(),
            }
        };
        idle();
        true
    }

    /// What the next run of user code does; with no step left it calls `exit_group(0)`.
    pub fn script(&self, step: impl FnOnce(&Hosted, &mut Registers) -> UserExit + Send + 'static) {
        lock(&self.script).push_back(Box::new(step));
    }

    /// What standard input will give, before its end.
    pub fn type_in(&self, bytes: &[u8]) {
        lock(&self.console.input).extend(bytes);
    }

    /// What was written to a stream.
    pub fn output(&self, stream: Stream) -> Vec<u8> {
        lock(&self.console.output)[usize::from(stream == Stream::Stderr)].clone()
    }

    fn permit(&self, token: u64) -> Permit {
        lock(&self.permits).entry(token).or_default().clone()
    }

    /// Goes over the pages of a user range as far as `wanted` is permitted; returns how many bytes that was.
    fn each_page(
        &self,
        at: usize,
        len: usize,
        wanted: Prot,
        mut f: impl FnMut(&Page, usize, Range<usize>),
    ) -> usize {
        ACTIVE.with_borrow(|active| {
            let Some(map) = active else { return 0 };
            let map = lock(map);
            let mut done = 0;
            while done < len {
                let Some(address) = at.checked_add(done) else { break };
                let Some((page, prot)) = map.get(&(address & !(PAGE_SIZE - 1))) else { break };
                if !prot.contains(wanted) {
                    break;
                }
                let offset = address % PAGE_SIZE;
                let now = (PAGE_SIZE - offset).min(len - done);
                f(page, offset, done..done + now);
                done += now;
            }
            done
        })
    }
}

/// A page table in a map.
pub struct HostedTable {
    map: Arc<Mutex<Map>>,
}

impl PageTable for HostedTable {
    fn map(&mut self, at: usize, page: Page, prot: Prot) -> Result<(), OutOfMemory> {
        let old = lock(&self.map).insert(at, (page, prot));
        assert!(old.is_none(), "mapped twice: {at:#x}");
        Ok(())
    }
    fn map_large(&mut self, at: usize, page: LargePage, prot: Prot) -> Result<(), OutOfMemory> {
        assert!(at.is_multiple_of(LARGE_PAGE_SIZE) && self.large_slot_is_empty(at));
        for (i, page) in page.into_pages().enumerate() {
            self.map(at + i * PAGE_SIZE, page, prot)?;
        }
        Ok(())
    }
    fn query(&self, at: usize) -> Option<Mapping> {
        lock(&self.map).get(&at).map(|(page, prot)| Mapping { page: page.clone(), prot: *prot })
    }
    fn large_slot_is_empty(&self, at: usize) -> bool {
        let base = at & !(LARGE_PAGE_SIZE - 1);
        lock(&self.map).range(base..base + LARGE_PAGE_SIZE).next().is_none()
    }
    fn protect(&mut self, range: Range<usize>, prot: Prot, shared_readonly: bool) -> Result<(), OutOfMemory> {
        for (_, (page, entry)) in lock(&self.map).range_mut(range) {
            *entry = if shared_readonly && page.is_shared() { prot - Prot::WRITE } else { prot };
        }
        Ok(())
    }
    fn replace(&mut self, at: usize, page: Page, prot: Prot) -> Result<(), OutOfMemory> {
        lock(&self.map).insert(at, (page, prot));
        Ok(())
    }
    fn unmap(&mut self, range: Range<usize>) -> Result<(), OutOfMemory> {
        let mut map = lock(&self.map);
        let keys: Vec<usize> = map.range(range).map(|(&at, _)| at).collect();
        for at in keys {
            map.remove(&at);
        }
        Ok(())
    }
    fn for_each(&self, range: Range<usize>, f: &mut dyn FnMut(usize, &Page, Prot)) {
        for (&at, (page, prot)) in lock(&self.map).range(range) {
            f(at, page, *prot);
        }
    }
    fn relocate(&mut self, range: Range<usize>, to: usize) -> Result<(), OutOfMemory> {
        let mut map = lock(&self.map);
        let keys: Vec<usize> = map.range(range.clone()).map(|(&at, _)| at).collect();
        for at in keys {
            if let Some(entry) = map.remove(&at) {
                assert!(map.insert(to + (at - range.start), entry).is_none(), "relocated over something");
            }
        }
        Ok(())
    }
    fn resident(&self) -> usize {
        lock(&self.map).len() * PAGE_SIZE
    }
}

impl Memory for Hosted {
    type PageTable = HostedTable;
    fn pages(&self) -> &'static PagePool {
        self.pool
    }
    fn new_page_table(&self) -> Result<HostedTable, OutOfMemory> {
        Ok(HostedTable { map: Arc::default() })
    }
    fn activate(&self, table: Option<&HostedTable>) {
        ACTIVE.set(table.map(|table| table.map.clone()));
    }
    fn user_range(&self) -> Range<usize> {
        0x1_0000..0x7fff_ffff_f000
    }
}

impl UserAccess for Hosted {
    fn copy_from_user(&self, from: usize, to: &mut [u8]) -> usize {
        let len = to.len();
        self.each_page(from, len, Prot::READ, |page, offset, range| {
            page.read(offset, &mut to[range]);
        })
    }
    fn copy_to_user(&self, to: usize, from: &[u8]) -> usize {
        self.each_page(to, from.len(), Prot::WRITE, |page, offset, range| {
            page.write(offset, &from[range]);
        })
    }
    fn fill_user(&self, to: usize, byte: u8, len: usize) -> usize {
        self.each_page(to, len, Prot::WRITE, |page, offset, range| page.fill(offset, range.len(), byte))
    }
    fn load_user_u32(&self, at: usize) -> Option<u32> {
        let mut bytes = [0; 4];
        (at.is_multiple_of(4) && self.copy_from_user(at, &mut bytes) == 4).then(|| u32::from_le_bytes(bytes))
    }
    fn compare_exchange_user_u32(&self, at: usize, old: u32, new: u32) -> Option<u32> {
        // Atomic enough: tests that race on a word hold a lock of their own.
        let found = self.load_user_u32(at)?;
        if found == old {
            return (self.copy_to_user(at, &new.to_le_bytes()) == 4).then_some(found);
        }
        Some(found)
    }
}

impl Cpu for Hosted {
    fn run_user(&self, registers: &mut Registers) -> UserExit {
        let step = lock(&self.script).pop_front();
        match step {
            Some(step) => step(self, registers),
            None => {
                (registers.rax, registers.rdi) = (231, 0);
                UserExit::Syscall
            }
        }
    }
    fn fs_base(&self) -> u64 {
        lock(&self.bases).0
    }
    fn set_fs_base(&self, base: u64) -> bool {
        let legal = base < self.user_range().end as u64;
        if legal {
            lock(&self.bases).0 = base;
        }
        legal
    }
    fn gs_base(&self) -> u64 {
        lock(&self.bases).1
    }
    fn set_gs_base(&self, base: u64) -> bool {
        let legal = base < self.user_range().end as u64;
        if legal {
            lock(&self.bases).1 = base;
        }
        legal
    }
    fn reset_fpu(&self) {
        lock(&self.fpu).fill(0);
    }
    fn fpu_size(&self) -> usize {
        FPU_SIZE
    }
    fn fpu_features(&self) -> Option<u64> {
        Some(3)
    }
    fn save_fpu(&self, to: &mut [u8]) {
        to.copy_from_slice(&*lock(&self.fpu));
    }
    fn load_fpu(&self, from: &[u8]) -> bool {
        // The CPU's rules that matter to tests: XSTATE_BV within the features, XCOMP_BV zero.
        let word = |at: usize| u64::from_le_bytes(from[at..at + 8].try_into().expect("eight bytes"));
        let legal = from.len() == FPU_SIZE && word(512) & !3 == 0 && word(520) == 0;
        if legal {
            lock(&self.fpu).copy_from_slice(from);
        }
        legal
    }
    fn hwcap(&self) -> (u64, u64) {
        (0, 0)
    }
    fn cpu_index(&self) -> usize {
        0
    }
    fn cpu_count(&self) -> usize {
        1
    }
    fn cpuinfo(&self, index: usize) -> String {
        format!("processor\t: {index}\n\n")
    }
}

impl Threads for Hosted {
    fn current(&self) -> ThreadToken {
        TOKEN.with_borrow_mut(|token| {
            ThreadToken(*token.get_or_insert_with(|| self.next_token.fetch_add(1, Ordering::Relaxed)))
        })
    }
    fn park(&self, deadline: Option<u64>) {
        if self.simulated_park(deadline) {
            return;
        }
        let permit = self.permit(self.current().0);
        let mut given = lock(&permit.0);
        while !*given {
            match deadline {
                None => given = permit.1.wait(given).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_sub(self.monotonic());
                    if left == 0 {
                        return;
                    }
                    let left = Duration::from_nanos(left);
                    given = permit.1.wait_timeout(given, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        *given = false;
    }
    fn unpark(&self, thread: ThreadToken) {
        let permit = self.permit(thread.0);
        *lock(&permit.0) = true;
        permit.1.notify_all();
    }
    fn cpu_time(&self, _thread: ThreadToken) -> u64 {
        self.monotonic()
    }
    fn yield_now(&self) {
        std::thread::yield_now();
    }
    fn spawn(&self, body: Box<dyn FnOnce() + Send>) -> Result<ThreadToken, OutOfMemory> {
        // Simulated time passes for the one thread that waits.
        if lock(&self.simulated).is_some() {
            return Err(OutOfMemory);
        }
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        std::thread::spawn(move || {
            TOKEN.set(Some(token));
            body();
        });
        Ok(ThreadToken(token))
    }
}

impl Clock for Hosted {
    fn monotonic(&self) -> u64 {
        let simulated = lock(&self.simulated).as_ref().map(|simulated| simulated.now);
        simulated.unwrap_or_else(|| self.start.elapsed().as_nanos() as u64)
    }
    fn realtime(&self) -> u64 {
        1_700_000_000_000_000_000 + self.monotonic()
    }
}

impl Entropy for Hosted {
    fn fill_random(&self, out: &mut [u8]) {
        // SplitMix64: the same bytes in every run.
        for chunk in out.chunks_mut(8) {
            let mut z = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ z >> 31).to_le_bytes()[..chunk.len()]);
        }
    }
}

impl Power for Hosted {
    fn power_off(&self, status: ExitStatus, why: fmt::Arguments<'_>) -> ! {
        std::panic::panic_any(Ended::Off(status, why.to_string()))
    }
    fn host_attack(&self, attack: Attack, what: fmt::Arguments<'_>) -> ! {
        std::panic::panic_any(Ended::Attack(attack, what.to_string()))
    }
}

impl Platform for Hosted {
    fn console(&self) -> &dyn Console {
        &self.console
    }
    fn root_device(&self) -> Option<&'static dyn BlockDevice> {
        self.root
    }
    fn log_enabled(&self) -> bool {
        false
    }
    fn log(&self, _line: fmt::Arguments<'_>) {}
    fn vdso_pages(&self) -> usize {
        0
    }
    fn vdso_page(&self, _index: usize) -> Option<crate::mm::Page> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_time_passes_for_those_who_wait() {
        static IDLE: AtomicU64 = AtomicU64::new(0);
        let host = Hosted::leak(1024);
        host.relive(|| {
            IDLE.fetch_add(1, Ordering::Relaxed);
        });
        let before = host.monotonic();
        assert_eq!(host.monotonic(), before);
        host.park(Some(before + 500_000_000));
        assert_eq!(host.monotonic(), before + 500_000_000);
        host.unpark(host.current());
        host.park(None);
        assert_eq!(IDLE.load(Ordering::Relaxed), 0);
        host.park(None);
        host.park(Some(u64::MAX));
        assert_eq!((IDLE.load(Ordering::Relaxed), host.monotonic()), (2, before + 500_000_000));
    }

    #[test]
    fn an_unpark_that_comes_first_is_not_lost() {
        let host = Hosted::leak(1024);
        let me = host.current();
        host.unpark(me);
        host.park(None);
        host.spawn(Box::new(move || host.unpark(me))).unwrap();
        host.park(None);
        let before = host.monotonic();
        host.park(Some(before + 2_000_000));
        assert!(host.monotonic() >= before + 2_000_000);
    }
}
