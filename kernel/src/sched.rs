//! Kernel threads on CPUs: a run queue, `park`/`unpark`, deadlines, preemption of user mode by the timer.
//!
//! The kernel is never preempted (interrupts are off in it), so a thread gives up its CPU only in [`park`], [`yield_now`] and at its end.
//! A thread that finds nobody else to run idles on its own stack, which saves two switches. The timer is programmed only when somebody
//! waits for it: a lone thread that computes is never interrupted.
//!
//! Lock order: `QUEUE` is a leaf; no other lock is taken under it.

use crate::clock;
use crate::cpu::fpu::FpuState;
use crate::cpu::percpu::PerCpu;
use crate::cpu::{apic, entry};
use crate::mm::kernel_map;
use crate::mm::stack::KernelStack;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use litebox_core::platform::{OutOfMemory, ThreadToken};
use spin::Mutex;
use x86_64::VirtAddr;
use x86_64::instructions::interrupts;
use x86_64::registers::model_specific::{FsBase, KernelGsBase};

/// How long a thread may run in user mode while others wait, in nanoseconds.
const TIME_SLICE: u64 = 4_000_000;

type Body = Box<dyn FnOnce() + Send>;

/// A kernel thread, which may run a thread of the workload.
pub struct Thread {
    id: u64,
    stack: KernelStack,
    /// The stack pointer while it does not run.
    saved_rsp: Cell<u64>,
    body: Mutex<Option<Body>>,
    /// An `unpark` that no `park` has used up.
    permit: AtomicBool,
    /// On the run queue, or running.
    runnable: AtomicBool,
    /// The physical address of its page table.
    cr3: AtomicU64,
    fpu: FpuState,
    /// Nanoseconds it has run, up to `since` if it runs now.
    ran: AtomicU64,
    /// When it began to run.
    since: AtomicU64,
    fs_base: Cell<u64>,
    gs_base: Cell<u64>,
}

// SAFETY: the cells are touched by the CPU that switches the thread in or out, with interrupts off; a thread is on one CPU at a time.
unsafe impl Sync for Thread {}
// SAFETY: as above.
unsafe impl Send for Thread {}

struct Queue {
    ready: VecDeque<Arc<Thread>>,
    threads: BTreeMap<u64, Arc<Thread>>,
    deadlines: BTreeSet<(u64, u64)>,
    /// Ended threads, whose stacks are freed by the next one that runs.
    ended: Vec<Arc<Thread>>,
    next_id: u64,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    ready: VecDeque::new(),
    threads: BTreeMap::new(),
    deadlines: BTreeSet::new(),
    ended: Vec::new(),
    next_id: 1,
});

/// Somebody became ready, or waits for a deadline, since the timer was last programmed.
static TIMER_STALE: AtomicBool = AtomicBool::new(false);

fn current() -> Arc<Thread> {
    PerCpu::get().current_thread().expect("the scheduler has started")
}

/// The running thread's name.
pub fn current_token() -> ThreadToken {
    let cpu = PerCpu::get();
    ThreadToken(cpu.current.borrow().as_ref().map_or(0, |t| t.id))
}

/// Makes a thread that will run `body`.
pub fn spawn(body: Body) -> Result<ThreadToken, OutOfMemory> {
    let stack = KernelStack::new()?;
    // SAFETY: the stack is new.
    let rsp = unsafe { entry::initial_stack(stack.top(), thread_main) };
    let mut queue = QUEUE.lock();
    let id = queue.next_id;
    queue.next_id += 1;
    let thread = Arc::new(Thread {
        id,
        stack,
        saved_rsp: Cell::new(rsp),
        body: Mutex::new(Some(body)),
        permit: AtomicBool::new(false),
        runnable: AtomicBool::new(true),
        cr3: AtomicU64::new(kernel_map::root()),
        fpu: FpuState::new(),
        ran: AtomicU64::new(0),
        since: AtomicU64::new(clock::monotonic()),
        fs_base: Cell::new(0),
        gs_base: Cell::new(0),
    });
    queue.threads.insert(id, thread.clone());
    queue.ready.push_back(thread);
    TIMER_STALE.store(true, Ordering::Relaxed);
    Ok(ThreadToken(id))
}

extern "C" fn thread_main() -> ! {
    bury();
    let thread = current();
    let body = thread.body.lock().take();
    drop(thread);
    if let Some(body) = body {
        body();
    }
    exit_thread()
}

/// Ends the running thread.
fn exit_thread() -> ! {
    leave_address_space();
    let thread = current();
    {
        let mut queue = QUEUE.lock();
        queue.threads.remove(&thread.id);
        thread.runnable.store(false, Ordering::Relaxed);
        queue.ended.push(thread.clone());
    }
    drop(thread);
    loop {
        schedule();
    }
}

/// Drops the threads that have ended; not on their own stacks.
fn bury() {
    let mut queue = QUEUE.lock();
    if !queue.ended.is_empty() {
        let ended = core::mem::take(&mut queue.ended);
        drop(queue);
        drop(ended);
    }
}

/// Starts scheduling on this CPU. The boot stack is left behind.
pub fn start() -> ! {
    loop {
        if let Some(next) = next_ready() {
            let mut abandoned = 0;
            let rsp = next.saved_rsp.get();
            PerCpu::get().current.replace(Some(next));
            // SAFETY: a stack made by `spawn`, that has not run; nobody returns to this one.
            unsafe { entry::switch_stack(&mut abandoned, rsp) };
        }
    }
}

fn next_ready() -> Option<Arc<Thread>> {
    QUEUE.lock().ready.pop_front()
}

/// Lets the next ready thread run, or idles until the running one is ready again.
fn schedule() {
    let me = current();
    loop {
        match next_ready() {
            Some(next) if next.id == me.id => return,
            Some(next) => return switch_to(me, next),
            // Made ready while it idled here, and taken off the queue by that `pop_front`; or it never left.
            None if me.runnable.load(Ordering::Relaxed) => return,
            None => {
                me.stop_counting();
                idle();
                me.since.store(clock::monotonic(), Ordering::Relaxed);
            }
        }
    }
}

fn switch_to(from: Arc<Thread>, to: Arc<Thread>) {
    let cpu = PerCpu::get();
    from.stop_counting();
    to.since.store(from.since.load(Ordering::Relaxed), Ordering::Relaxed);
    from.fpu.save();
    from.fs_base.set(FsBase::read().as_u64());
    from.gs_base.set(KernelGsBase::read().as_u64());
    to.fpu.restore();
    FsBase::write(VirtAddr::new_truncate(to.fs_base.get()));
    KernelGsBase::write(VirtAddr::new_truncate(to.gs_base.get()));
    load_address_space(to.cr3.load(Ordering::Relaxed));
    let save = from.saved_rsp.as_ptr();
    let load = to.saved_rsp.get();
    cpu.current.replace(Some(to));
    // `from` lives on: the queue's table or `ended` holds it until it has run to its end.
    drop(from);
    // SAFETY: `load` was saved by this function or made by `spawn`; a thread is on the ready queue once, so nobody else runs it.
    unsafe { entry::switch_stack(save, load) };
    bury();
}

/// Waits for an interrupt, with everything that may then have to be done.
fn idle() {
    let cpu = PerCpu::get();
    crate::devices::enable_interrupts();
    crate::devices::poll();
    expire(clock::monotonic());
    if !QUEUE.lock().ready.is_empty() {
        return;
    }
    arm_timer(false);
    cpu.idle.set(true);
    // An interrupt that is pending, or comes before HLT, is taken after it: STI holds it off for one instruction.
    interrupts::enable_and_hlt();
    interrupts::disable();
    cpu.idle.set(false);
    crate::devices::poll();
    expire(clock::monotonic());
}

/// Programs the timer for the next deadline, and for the end of the slice when others are ready.
fn arm_timer(running: bool) {
    TIMER_STALE.store(false, Ordering::Relaxed);
    let queue = QUEUE.lock();
    let mut at = queue.deadlines.first().map(|&(at, _)| at);
    if running && !queue.ready.is_empty() {
        let slice = clock::monotonic() + TIME_SLICE;
        at = Some(at.map_or(slice, |at| at.min(slice)));
    }
    drop(queue);
    apic::set_timer(at);
}

/// Wakes everybody whose deadline has passed.
fn expire(now: u64) {
    loop {
        let id = {
            let mut queue = QUEUE.lock();
            match queue.deadlines.first() {
                Some(&(at, id)) if at <= now => {
                    queue.deadlines.pop_first();
                    id
                }
                _ => return,
            }
        };
        make_ready(id);
    }
}

fn make_ready(id: u64) {
    let mut queue = QUEUE.lock();
    if let Some(thread) = queue.threads.get(&id).cloned()
        && !thread.runnable.swap(true, Ordering::Relaxed)
    {
        TIMER_STALE.store(true, Ordering::Relaxed);
        queue.ready.push_back(thread);
    }
}

/// Blocks the running thread. See [`litebox_core::platform::Threads::park`].
pub fn park(deadline: Option<u64>) {
    let me = current();
    if me.permit.swap(false, Ordering::Acquire) {
        return;
    }
    if let Some(at) = deadline {
        if at <= clock::monotonic() {
            return;
        }
        QUEUE.lock().deadlines.insert((at, me.id));
        TIMER_STALE.store(true, Ordering::Relaxed);
    }
    me.runnable.store(false, Ordering::Relaxed);
    schedule();
    if let Some(at) = deadline {
        QUEUE.lock().deadlines.remove(&(at, me.id));
    }
    me.permit.store(false, Ordering::Relaxed);
}

/// Wakes a thread. See [`litebox_core::platform::Threads::unpark`].
pub fn unpark(token: ThreadToken) {
    let thread = QUEUE.lock().threads.get(&token.0).cloned();
    if let Some(thread) = thread {
        thread.permit.store(true, Ordering::Release);
        make_ready(token.0);
    }
}

impl Thread {
    /// Adds to its time what has passed since it began to run.
    fn stop_counting(&self) {
        let now = clock::monotonic();
        let since = self.since.swap(now, Ordering::Relaxed);
        self.ran.fetch_add(now.saturating_sub(since), Ordering::Relaxed);
    }
}

/// See [`litebox_core::platform::Threads::cpu_time`].
pub fn cpu_time(token: ThreadToken) -> u64 {
    let thread = QUEUE.lock().threads.get(&token.0).cloned();
    let Some(thread) = thread else { return 0 };
    let ran = thread.ran.load(Ordering::Relaxed);
    // What others do on another CPU right now is told when they stop.
    if current_token() != token {
        return ran;
    }
    ran + clock::monotonic().saturating_sub(thread.since.load(Ordering::Relaxed))
}

/// Lets others run.
pub fn yield_now() {
    // The timer that brought us here, if it did, is used up.
    TIMER_STALE.store(true, Ordering::Relaxed);
    crate::devices::poll();
    expire(clock::monotonic());
    let me = current();
    {
        let mut queue = QUEUE.lock();
        if queue.ready.is_empty() {
            return;
        }
        queue.ready.push_back(me);
    }
    TIMER_STALE.store(true, Ordering::Relaxed);
    schedule();
}

/// To be called before user mode is entered: others may be waiting for the CPU, or for a deadline, and only the timer brings it back.
#[inline]
pub fn before_user() {
    if TIMER_STALE.load(Ordering::Relaxed) {
        arm_timer(true);
    }
}

/// Makes `root` the running thread's page table.
pub fn set_address_space(root: Option<u64>) {
    let root = root.unwrap_or_else(kernel_map::root);
    if let Some(thread) = PerCpu::get().current_thread() {
        thread.cr3.store(root, Ordering::Relaxed);
    }
    load_address_space(root);
}

/// Leaves the workload's page table for the kernel's.
pub fn leave_address_space() {
    set_address_space(None);
}

fn load_address_space(root: u64) {
    let cpu = PerCpu::get();
    if cpu.cr3.replace(root) != root {
        // SAFETY: every root has the kernel's upper half, so the code and the stack in use stay mapped.
        unsafe { kernel_map::switch_to(root) };
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // The stack must not be the one in use: `bury` runs on another.
        let marker = 0u8;
        let here = (&raw const marker).addr() as u64;
        debug_assert!(!(self.stack.top() - 0x8000..self.stack.top()).contains(&here));
    }
}
