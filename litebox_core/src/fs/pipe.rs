//! Pipes (`pipe(7)`): a ring of bytes with two ends.

use super::{DeviceId, File, FileType, Host, IoctlMemory, Metadata, PollEvents, Timestamp};
use crate::errno::{Errno, Result};
use crate::event::WaitQueue;
use crate::mm::{Sink, Source};
use crate::platform::PAGE_SIZE;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// Bytes a new pipe holds, as on Linux.
const CAPACITY: usize = 65_536;
/// Bytes that a pipe can be made to hold (`/proc/sys/fs/pipe-max-size`).
const MAX_CAPACITY: usize = 1 << 20;
/// Writes of up to this many bytes are not mixed with others'.
const PIPE_BUF: usize = 4096;
const FIONREAD: u32 = 0x541b;

struct Pipe {
    state: Mutex<State>,
    /// Woken by everything that happens.
    changed: WaitQueue,
    ino: u64,
    made: Timestamp,
}

struct State {
    bytes: VecDeque<u8>,
    capacity: usize,
    readers: usize,
    writers: usize,
}

/// One end.
struct End {
    pipe: Arc<Pipe>,
    writes: bool,
}

/// A pipe's reading and writing end.
pub fn pipe(host: &dyn Host) -> (Arc<dyn File>, Arc<dyn File>) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let pipe = Arc::new(Pipe {
        state: Mutex::new(State { bytes: VecDeque::new(), capacity: CAPACITY, readers: 1, writers: 1 }),
        changed: WaitQueue::new(),
        ino: NEXT.fetch_add(1, Ordering::Relaxed),
        made: Timestamp::from_ns(host.realtime()),
    });
    (Arc::new(End { pipe: pipe.clone(), writes: false }), Arc::new(End { pipe, writes: true }))
}

impl File for End {
    fn read_at(&self, _offset: u64, to: &mut dyn Sink) -> Result<usize> {
        if self.writes {
            return Err(Errno::EBADF);
        }
        let mut done = 0;
        let mut chunk = [0; PIPE_BUF];
        while to.remaining() > 0 {
            let count = {
                // Copied out first: the receiver may fault, and the lock is not held over that.
                let state = self.pipe.state.lock();
                let (front, back) = state.bytes.as_slices();
                let from = if front.is_empty() { back } else { front };
                let count = from.len().min(to.remaining()).min(chunk.len());
                if count == 0 {
                    let nothing_yet = done == 0 && state.writers > 0;
                    return if nothing_yet { Err(Errno::EAGAIN) } else { Ok(done) };
                }
                if let (Some(to), Some(from)) = (chunk.get_mut(..count), from.get(..count)) {
                    to.copy_from_slice(from);
                }
                count
            };
            match to.put(chunk.get(..count).unwrap_or_default()) {
                Ok(taken) => {
                    let mut state = self.pipe.state.lock();
                    let taken_now = taken.min(state.bytes.len());
                    state.bytes.drain(..taken_now);
                    drop(state);
                    self.pipe.changed.wake_all();
                    done += taken;
                    if taken < count {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn write_at(&self, _offset: u64, from: &mut dyn Source) -> Result<usize> {
        if !self.writes {
            return Err(Errno::EBADF);
        }
        let total = from.remaining();
        let mut done = 0;
        let mut chunk = vec![0; PIPE_BUF.min(total)];
        while done < total {
            let room = {
                let state = self.pipe.state.lock();
                if state.readers == 0 {
                    return if done == 0 { Err(Errno::EPIPE) } else { Ok(done) };
                }
                state.capacity.saturating_sub(state.bytes.len())
            };
            let whole = total <= PIPE_BUF;
            if room == 0 || whole && room < total {
                return if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) };
            }
            let want = room.min(chunk.len()).min(total - done);
            let count = match from.take(chunk.get_mut(..want).unwrap_or_default()) {
                Ok(count) => count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            self.pipe.state.lock().bytes.extend(chunk.get(..count).unwrap_or_default());
            self.pipe.changed.wake_all();
            done += count;
            if count < want {
                break;
            }
        }
        Ok(done)
    }

    fn metadata(&self) -> Result<Metadata> {
        let time = self.pipe.made;
        Ok(Metadata {
            dev: DeviceId::new(0, 14),
            ino: self.pipe.ino,
            file_type: FileType::Fifo,
            mode: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: DeviceId::default(),
            size: 0,
            block_size: 4096,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        })
    }

    fn poll(&self) -> PollEvents {
        let state = self.pipe.state.lock();
        let mut events = PollEvents::empty();
        if self.writes {
            events.set(
                PollEvents::OUT | PollEvents::WRNORM,
                state.capacity.saturating_sub(state.bytes.len()) >= PIPE_BUF,
            );
            events.set(PollEvents::ERR, state.readers == 0);
        } else {
            events.set(PollEvents::IN | PollEvents::RDNORM, !state.bytes.is_empty());
            events.set(PollEvents::HUP, state.writers == 0);
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.changed)
    }

    fn pipe_capacity(&self, wanted: Option<usize>) -> Result<usize> {
        let mut state = self.pipe.state.lock();
        if let Some(wanted) = wanted {
            // A power of two of pages (`fcntl(2)`, F_SETPIPE_SZ).
            let capacity = wanted.max(PAGE_SIZE).checked_next_power_of_two().ok_or(Errno::EINVAL)?;
            if capacity > MAX_CAPACITY {
                return Err(Errno::EPERM);
            }
            if capacity < state.bytes.len() {
                return Err(Errno::EBUSY);
            }
            state.capacity = capacity;
        }
        let capacity = state.capacity;
        drop(state);
        if wanted.is_some() {
            // There may be room now.
            self.pipe.changed.wake_all();
        }
        Ok(capacity)
    }

    fn ioctl(&self, command: u32, argument: usize, user: &mut dyn IoctlMemory) -> Result<usize> {
        if command != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let count = self.pipe.state.lock().bytes.len() as u32;
        user.write(argument, &count.to_ne_bytes())?;
        Ok(0)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        {
            let mut state = self.pipe.state.lock();
            let ends = if self.writes { &mut state.writers } else { &mut state.readers };
            *ends = ends.saturating_sub(1);
        }
        self.pipe.changed.wake_all();
    }
}
