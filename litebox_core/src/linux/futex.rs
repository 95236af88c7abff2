//! `futex(2)`: waiting for a word of user memory to change.
//!
//! Waiters hang in a table by key. A private word's key is its address space and address; a shared one's, the page it lies in. The value
//! is compared with the table locked, so that a wake between comparison and sleep is not lost; a word that is not mapped yet is faulted in before.

use super::{Restart, time};
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::platform::{Platform, ThreadToken};
use crate::process::Thread;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use linux_raw_sys::general as c;
use spin::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Names a word: the address space's identity (0 for shared words), and the address.
type Key = (usize, usize);

struct Waiter {
    thread: ThreadToken,
    bits: u32,
    woken: AtomicBool,
}

static WAITERS: Mutex<BTreeMap<Key, VecDeque<Arc<Waiter>>>> = Mutex::new(BTreeMap::new());

const ANY: u32 = u32::MAX;

fn key<P: Platform>(t: &Thread<P>, address: u64, private: bool) -> Result<Key> {
    let address = address as usize;
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if private {
        if address >= t.platform().user_range().end {
            return Err(Errno::EFAULT);
        }
        return Ok((core::ptr::from_ref(t.mm()).addr(), address));
    }
    t.mm().load_u32(address)?;
    Ok(match t.mm().shared_word(address) {
        Some(word) => (0, word),
        None => (core::ptr::from_ref(t.mm()).addr(), address),
    })
}

/// Wakes up to `count` waiters of `key` that wait for any of `bits`.
fn wake_key<P: Platform>(t: &Thread<P>, key: Key, count: usize, bits: u32) -> usize {
    let mut table = WAITERS.lock();
    let Some(queue) = table.get_mut(&key) else { return 0 };
    let mut woken = 0;
    queue.retain(|waiter| {
        if woken >= count || waiter.bits & bits == 0 {
            return true;
        }
        woken += 1;
        waiter.woken.store(true, Ordering::Release);
        t.platform().unpark(waiter.thread);
        false
    });
    if queue.is_empty() {
        table.remove(&key);
    }
    woken
}

pub(super) fn wait<P: Platform>(
    t: &Thread<P>,
    address: u64,
    private: bool,
    value: u32,
    bits: u32,
    deadline: Option<u64>,
) -> Result<usize> {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let key = key(t, address, private)?;
    let platform = t.platform();
    let waiter = Arc::new(Waiter { thread: platform.current(), bits, woken: AtomicBool::new(false) });
    loop {
        // May fault, so before the lock.
        if t.mm().load_u32(address as usize)? != value {
            return Err(Errno::EAGAIN);
        }
        let mut table = WAITERS.lock();
        match platform.load_user_u32(address as usize) {
            Some(now) if now == value => {
                table.entry(key).or_default().push_back(waiter.clone());
                break;
            }
            Some(_) => return Err(Errno::EAGAIN),
            // Unmapped meanwhile: fault it in again, without the lock.
            None => {}
        }
    }
    let result = loop {
        if waiter.woken.load(Ordering::Acquire) {
            return Ok(0);
        }
        if t.is_interrupted() {
            break Err(match deadline {
                None => Errno::ERESTARTSYS,
                Some(deadline) => {
                    t.signals.lock().restart =
                        Some(Restart::Futex { address, private, value, bits, deadline });
                    Errno::ERESTART_RESTARTBLOCK
                }
            });
        }
        if deadline.is_some_and(|at| platform.monotonic() >= at) {
            break Err(Errno::ETIMEDOUT);
        }
        platform.park(deadline);
    };
    // Out of whatever queue it is in by now: a requeue may have moved it.
    let mut table = WAITERS.lock();
    if waiter.woken.load(Ordering::Acquire) {
        return Ok(0);
    }
    table.retain(|_, queue| {
        queue.retain(|other| !Arc::ptr_eq(other, &waiter));
        !queue.is_empty()
    });
    result
}

/// Wakes up to `count` threads that wait for the word at `address`, for the kernel's own reasons.
pub fn wake<P: Platform>(t: &Thread<P>, address: usize, count: usize) {
    if let Ok(key) = key(t, address as u64, false) {
        wake_key(t, key, count, ANY);
    }
}

/// `struct robust_list_head`: the first entry, where in each entry its word is, and an entry that is being taken or given back.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RobustHead {
    first: u64,
    offset: i64,
    pending: u64,
}

/// Entries of a robust list that are looked at, at most (ROBUST_LIST_LIMIT): it may be a circle.
const ROBUST_LIMIT: usize = 2048;

/// A thread ends that may hold robust futexes: those on its list are marked, and a waiter of each is woken (`set_robust_list(2)`). The list is the program's: what is
/// wrong with it ends the walk.
pub fn robust_list_exit<P: Platform>(t: &Thread<P>) {
    let head = t.robust_list.load(Ordering::Relaxed);
    if head == 0 {
        return;
    }
    let Ok(list) = t.mm().load::<RobustHead>(UserPtr::new(head)) else { return };
    let word = |entry: u64| (entry & !1).wrapping_add_signed(list.offset);
    let mut entry = list.first;
    for _ in 0..ROBUST_LIMIT {
        if entry & !1 == head {
            break;
        }
        // Read before the entry's owner may be gone.
        let next = t.mm().load::<u64>(UserPtr::new(entry & !1));
        if entry & !1 != list.pending & !1 && owner_died(t, word(entry), false).is_err() {
            return;
        }
        match next {
            Ok(next) => entry = next,
            Err(_) => return,
        }
    }
    if list.pending != 0 {
        let _ = owner_died(t, word(list.pending), true);
    }
}

/// Marks a robust futex that the thread owns. `pending`: it may have been given back already, and its waiter not woken.
fn owner_died<P: Platform>(t: &Thread<P>, address: u64, pending: bool) -> Result<()> {
    let mut old = t.mm().load_u32(address as usize)?;
    loop {
        if pending && old == 0 {
            wake(t, address as usize, 1);
            return Ok(());
        }
        if old & c::FUTEX_TID_MASK != t.tid {
            return Ok(());
        }
        let new = old & c::FUTEX_WAITERS | c::FUTEX_OWNER_DIED;
        let found = t.mm().compare_exchange_u32(address as usize, old, new)?;
        if found == old {
            break;
        }
        old = found;
    }
    if old & c::FUTEX_WAITERS != 0 {
        wake(t, address as usize, 1);
    }
    Ok(())
}

fn requeue<P: Platform>(t: &Thread<P>, from: Key, to: Key, wake: usize, move_: usize) -> usize {
    let woken = wake_key(t, from, wake, ANY);
    if from == to {
        return woken;
    }
    let mut table = WAITERS.lock();
    let Some(mut queue) = table.remove(&from) else { return woken };
    let moved = move_.min(queue.len());
    let rest = queue.split_off(moved);
    if !rest.is_empty() {
        table.insert(from, rest);
    }
    if !queue.is_empty() {
        table.entry(to).or_default().append(&mut queue);
    }
    woken + moved
}

/// Changes the second word as FUTEX_WAKE_OP asks, atomically; whether its old value satisfies the comparison.
fn wake_op<P: Platform>(t: &Thread<P>, address: u64, encoded: u32) -> Result<bool> {
    let (op, compare) = (encoded >> 28 & 0xf, encoded >> 24 & 0xf);
    let sign_extend = |bits: u32| (bits << 20) as i32 >> 20;
    let mut operand = sign_extend(encoded >> 12 & 0xfff) as u32;
    if op & 8 != 0 {
        // FUTEX_OP_ARG_SHIFT.
        operand = 1u32.wrapping_shl(operand & 31);
    }
    let mut old = t.mm().load_u32(address as usize)?;
    loop {
        let new = match op & 7 {
            0 => operand,
            1 => old.wrapping_add(operand),
            2 => old | operand,
            3 => old & !operand,
            4 => old ^ operand,
            _ => return Err(Errno::ENOSYS),
        };
        let found = t.mm().compare_exchange_u32(address as usize, old, new)?;
        if found == old {
            break;
        }
        old = found;
    }
    let (old, argument) = (old as i32, sign_extend(encoded & 0xfff));
    match compare {
        0 => Ok(old == argument),
        1 => Ok(old != argument),
        2 => Ok(old < argument),
        3 => Ok(old <= argument),
        4 => Ok(old > argument),
        5 => Ok(old >= argument),
        _ => Err(Errno::ENOSYS),
    }
}

#[allow(clippy::too_many_arguments)]
pub(super) fn futex<P: Platform>(
    t: &Thread<P>,
    address: u64,
    op: u64,
    value: u64,
    timeout: u64,
    address2: u64,
    value3: u64,
) -> Result<usize> {
    let op = op as u32;
    let private = op & c::FUTEX_PRIVATE_FLAG != 0;
    let realtime = op & c::FUTEX_CLOCK_REALTIME != 0;
    let command = op & !(c::FUTEX_PRIVATE_FLAG | c::FUTEX_CLOCK_REALTIME);
    if realtime && !matches!(command, c::FUTEX_WAIT | c::FUTEX_WAIT_BITSET) {
        return Err(Errno::ENOSYS);
    }
    let count = value as u32 as i32;
    // Here the fourth argument is a number.
    let count2 = timeout as u32 as i32;
    match command {
        c::FUTEX_WAIT => {
            let deadline = time::relative_deadline(t, timeout)?;
            wait(t, address, private, value as u32, ANY, deadline)
        }
        c::FUTEX_WAIT_BITSET => {
            let deadline = time::absolute_deadline(t, timeout, realtime)?;
            wait(t, address, private, value as u32, value3 as u32, deadline)
        }
        c::FUTEX_WAKE => Ok(wake_key(t, key(t, address, private)?, count.max(1) as usize, ANY)),
        c::FUTEX_WAKE_BITSET => {
            if value3 as u32 == 0 {
                return Err(Errno::EINVAL);
            }
            Ok(wake_key(t, key(t, address, private)?, count.max(1) as usize, value3 as u32))
        }
        c::FUTEX_REQUEUE | c::FUTEX_CMP_REQUEUE => {
            if count < 0 || count2 < 0 {
                return Err(Errno::EINVAL);
            }
            let (from, to) = (key(t, address, private)?, key(t, address2, private)?);
            if command == c::FUTEX_CMP_REQUEUE && t.mm().load_u32(address as usize)? != value3 as u32 {
                return Err(Errno::EAGAIN);
            }
            Ok(requeue(t, from, to, count as usize, count2 as usize))
        }
        c::FUTEX_WAKE_OP => {
            let (first, second) = (key(t, address, private)?, key(t, address2, private)?);
            let both = wake_op(t, address2, value3 as u32)?;
            let mut woken = wake_key(t, first, count.max(1) as usize, ANY);
            if both {
                woken += wake_key(t, second, count2.max(1) as usize, ANY);
            }
            Ok(woken)
        }
        // Priority inheritance has no use on one CPU without priorities; C libraries fall back.
        _ => Err(Errno::ENOSYS),
    }
}
