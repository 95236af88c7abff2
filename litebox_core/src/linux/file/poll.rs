//! poll, ppoll, select, pselect6.

use super::super::Restart;
use super::super::time::Timespec;
use super::{Args, Caller};
use crate::errno::{Errno, Result};
use crate::fs::PollEvents;
use crate::north::file::{self, PollFd};
use alloc::vec;
use alloc::vec::Vec;
use zerocopy::IntoBytes;

/// Largest number of descriptors of `select` (`FD_SETSIZE` is the C library's, the kernel takes more).
const MAX_SELECT: u64 = 65_536;

fn deadline<C: Caller>(c: &C, nanoseconds: Option<u64>) -> Option<u64> {
    nanoseconds.map(
        |nanoseconds| if nanoseconds == 0 { 0 } else { c.host().monotonic().saturating_add(nanoseconds) },
    )
}

pub(super) fn poll<C: Caller>(c: &C, fds: u64, count: u64, milliseconds: u64) -> Result<usize> {
    let timeout = u64::try_from(milliseconds as i32).ok().map(|ms| ms * 1_000_000);
    poll_again(c, fds, count, deadline(c, timeout).unwrap_or(u64::MAX))
}

/// `poll` with a deadline, `u64::MAX`: none; `restart_syscall` comes back to it.
pub(in crate::linux) fn poll_again<C: Caller>(c: &C, fds: u64, count: u64, deadline: u64) -> Result<usize> {
    let result = poll_until(c, fds, count, (deadline != u64::MAX).then_some(deadline));
    if matches!(result, Err(Errno::ERESTARTSYS)) {
        c.keep_restart(Restart::Poll { fds, count, deadline });
        return Err(Errno::ERESTART_RESTARTBLOCK);
    }
    result
}

/// Interrupted calls whose timeout is in memory are made again only when no handler runs.
fn no_handler(errno: Errno) -> Errno {
    if errno == Errno::ERESTARTSYS { Errno::ERESTARTNOHAND } else { errno }
}

pub(super) fn ppoll<C: Caller>(
    c: &C,
    fds: u64,
    count: u64,
    timeout: u64,
    mask: u64,
    size: u64,
) -> Result<usize> {
    let timeout = load_timeout(c, timeout)?;
    let mask = load_mask(c, mask, size)?;
    c.with_signal_mask(mask, || poll_until(c, fds, count, deadline(c, timeout)).map_err(no_handler))
}

/// A signal mask in memory, `size` bytes long; `None` for a null pointer. EINVAL, EFAULT.
fn load_mask<C: Caller>(c: &C, address: u64, size: u64) -> Result<Option<u64>> {
    let mut mask = 0;
    if address == 0 {
        return Ok(None);
    }
    if size != size_of_val(&mask) as u64 {
        return Err(Errno::EINVAL);
    }
    c.read_memory(address as usize, mask.as_mut_bytes())?;
    Ok(Some(mask))
}

fn load_timeout<C: Caller>(c: &C, address: u64) -> Result<Option<u64>> {
    if address == 0 {
        return Ok(None);
    }
    let mut raw = Timespec::default();
    c.read_memory(address as usize, raw.as_mut_bytes())?;
    raw.to_ns().map(Some)
}

/// `struct pollfd`: descriptor, events, returned events.
fn poll_until<C: Caller>(c: &C, address: u64, count: u64, deadline: Option<u64>) -> Result<usize> {
    if count > c.descriptor_limit() {
        return Err(Errno::EINVAL);
    }
    let mut raw = Vec::new();
    raw.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
    raw.resize(count as usize, [0i32; 2]);
    c.read_memory(address as usize, raw.as_mut_bytes())?;
    let mut polls: Vec<PollFd> = raw
        .iter()
        .map(|[fd, events]| PollFd {
            fd: *fd,
            events: PollEvents::from_bits_truncate(*events as u32 & 0xffff),
            ready: PollEvents::empty(),
        })
        .collect();
    let ready = file::poll(c, &mut polls, deadline)?;
    for (raw, poll) in raw.iter_mut().zip(&polls) {
        let [_, events] = raw;
        *events = (*events as u32 & 0xffff | poll.ready.bits() << 16) as i32;
    }
    c.write_memory(address as usize, raw.as_bytes())?;
    Ok(ready)
}

pub(super) fn select<C: Caller>(
    c: &C,
    n: u64,
    reads: u64,
    writes: u64,
    others: u64,
    timeout: u64,
) -> Result<usize> {
    let mut nanoseconds = None;
    if timeout != 0 {
        // `struct timeval`.
        let mut raw = [0i64; 2];
        c.read_memory(timeout as usize, raw.as_mut_bytes())?;
        let [sec, usec] = raw;
        if sec < 0 || usec < 0 {
            return Err(Errno::EINVAL);
        }
        nanoseconds = Some(
            (sec as u64).saturating_mul(1_000_000_000).saturating_add((usec as u64).saturating_mul(1000)),
        );
    }
    let end = deadline(c, nanoseconds);
    let ready = select_until(c, n, [reads, writes, others], end).map_err(no_handler)?;
    if timeout != 0 {
        let left = end.map_or(0, |end| end.saturating_sub(c.host().monotonic()));
        let left = [left / 1_000_000_000, left % 1_000_000_000 / 1000];
        c.write_memory(timeout as usize, left.as_bytes())?;
    }
    Ok(ready)
}

pub(super) fn pselect6<C: Caller>(c: &C, [n, reads, writes, others, timeout, masked]: Args) -> Result<usize> {
    // The mask's address and size, since a call has six arguments.
    let mut mask = [0; 2];
    if masked != 0 {
        c.read_memory(masked as usize, mask.as_mut_bytes())?;
    }
    let timeout = load_timeout(c, timeout)?;
    let [address, size] = mask;
    let mask = load_mask(c, address, size)?;
    c.with_signal_mask(mask, || {
        select_until(c, n, [reads, writes, others], deadline(c, timeout)).map_err(no_handler)
    })
}

/// What each of the three sets asks for (`select(2)`, "Correspondence between select() and poll() notifications").
const SETS: [PollEvents; 3] = [
    PollEvents::RDNORM
        .union(PollEvents::RDBAND)
        .union(PollEvents::IN)
        .union(PollEvents::HUP)
        .union(PollEvents::ERR),
    PollEvents::WRNORM.union(PollEvents::WRBAND).union(PollEvents::OUT).union(PollEvents::ERR),
    PollEvents::PRI,
];

fn select_until<C: Caller>(c: &C, n: u64, addresses: [u64; 3], deadline: Option<u64>) -> Result<usize> {
    let n = u64::try_from(n as i32).map_err(|_| Errno::EINVAL)?.min(MAX_SELECT);
    let words = n.div_ceil(64) as usize;
    let mut sets: [Vec<u64>; 3] = [vec![0; words], vec![0; words], vec![0; words]];
    for (set, address) in sets.iter_mut().zip(addresses) {
        if address != 0 {
            c.read_memory(address as usize, set.as_mut_bytes())?;
        }
    }
    let has =
        |set: &Vec<u64>, fd: u64| set.get((fd / 64) as usize).is_some_and(|word| word >> (fd % 64) & 1 != 0);
    let mut polls = Vec::new();
    for fd in 0..n {
        let mut events = PollEvents::empty();
        for (set, wanted) in sets.iter().zip(SETS) {
            if has(set, fd) {
                events |= wanted;
            }
        }
        if !events.is_empty() {
            polls.push(PollFd { fd: fd as i32, events, ready: PollEvents::empty() });
        }
    }
    file::poll(c, &mut polls, deadline)?;
    if polls.iter().any(|poll| poll.ready.contains(PollEvents::NVAL)) {
        return Err(Errno::EBADF);
    }
    let mut count = 0;
    for ((set, wanted), address) in sets.iter_mut().zip(SETS).zip(addresses) {
        let asked = core::mem::replace(set, vec![0; words]);
        for poll in &polls {
            let fd = poll.fd as u64;
            if has(&asked, fd)
                && poll.ready.intersects(wanted)
                && let Some(word) = set.get_mut((fd / 64) as usize)
            {
                *word |= 1 << (fd % 64);
                count += 1;
            }
        }
        if address != 0 {
            c.write_memory(address as usize, set.as_bytes())?;
        }
    }
    Ok(count)
}
