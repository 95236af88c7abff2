//! The workload's standard streams as files: pipes, or a terminal (`tty_ioctl(4)`, `termios(3)`).
//!
//! The terminal's line discipline is the host's: bytes arrive as its terminal passes them on. The settings here are
//! kept for programs that ask.

use super::{DeviceId, File, FileType, Host, IoctlMemory, Metadata, PollEvents, Timestamp};
use crate::errno::{Errno, Result};
use crate::event::WaitQueue;
use crate::mm::{Sink, Source};
use crate::platform::{Input, Stream};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use spin::Mutex;

const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSETSW: u32 = 0x5403;
const TCSETSF: u32 = 0x5404;
const TCSBRK: u32 = 0x5409;
const TIOCGPGRP: u32 = 0x540f;
const TIOCSPGRP: u32 = 0x5410;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const FIONREAD: u32 = 0x541b;
/// `struct termios` of the kernel: four flag words, line discipline, 19 control characters.
const TERMIOS_SIZE: usize = 36;
/// Most bytes that pass in one copy.
const CHUNK: usize = 16_384;

/// The standard streams.
pub struct ConsoleDevice {
    host: &'static dyn Host,
    input_arrived: Arc<WaitQueue>,
    termios: Mutex<[u8; TERMIOS_SIZE]>,
    /// Rows, columns and two numbers that nobody uses.
    window: Mutex<[u16; 4]>,
    started: Timestamp,
}

/// One of the three streams.
struct StreamFile {
    device: Arc<ConsoleDevice>,
    role: Role,
    tty: bool,
}

/// What a stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Standard input.
    Input,
    /// Standard output or error.
    Output(Stream),
    /// `/dev/tty`, `/dev/console`: reads input, writes to standard output.
    Both,
}

impl ConsoleDevice {
    /// The device; `window` is columns and rows.
    pub fn new(host: &'static dyn Host, window: Option<(u16, u16)>) -> Arc<ConsoleDevice> {
        let input_arrived = Arc::new(WaitQueue::new());
        let queue = input_arrived.clone();
        host.console().set_notifier(Box::new(move || queue.wake_all()));
        let (columns, rows) = window.unwrap_or((80, 24));
        Arc::new(ConsoleDevice {
            host,
            input_arrived,
            termios: Mutex::new(DEFAULT_TERMIOS),
            window: Mutex::new([rows, columns, 0, 0]),
            started: Timestamp::from_ns(host.realtime()),
        })
    }

    /// A file for one stream; `tty`: it is a terminal, else a pipe.
    pub fn file(self: &Arc<Self>, role: Role, tty: bool) -> Arc<dyn File> {
        Arc::new(StreamFile { device: self.clone(), role, tty })
    }
}

/// `tty_std_termios` of Linux: cooked, 38400 baud, 8 bits. Four flag words (0o2400, 0o5, 0o277, 0o105073), little-endian; the line
/// discipline; the control characters.
const DEFAULT_TERMIOS: [u8; TERMIOS_SIZE] = [
    0x00, 0x05, 0, 0, 0x05, 0, 0, 0, 0xbf, 0, 0, 0, 0x3b, 0x8a, 0, 0, 0, 3, 28, 127, 21, 4, 0, 1, 0, 17, 19,
    26, 0, 18, 15, 23, 22, 0, 0, 0,
];

impl File for StreamFile {
    fn read_at(&self, _offset: u64, to: &mut dyn Sink) -> Result<usize> {
        if matches!(self.role, Role::Output(_)) && !self.tty {
            return Err(Errno::EBADF);
        }
        let want = to.remaining().min(CHUNK);
        if want == 0 {
            return Ok(0);
        }
        let mut chunk = vec![0; want];
        match self.device.host.console().read(&mut chunk) {
            Input::Bytes(count) => to.put(chunk.get(..count).unwrap_or_default()),
            Input::Empty => Err(Errno::EAGAIN),
            Input::Eof => Ok(0),
        }
    }

    fn write_at(&self, _offset: u64, from: &mut dyn Source) -> Result<usize> {
        let stream = match self.role {
            Role::Output(stream) => stream,
            Role::Both => Stream::Stdout,
            Role::Input if self.tty => Stream::Stdout,
            Role::Input => return Err(Errno::EBADF),
        };
        let total = from.remaining();
        let mut small = [0; 512];
        let mut large = if total > small.len() { vec![0; total.min(CHUNK)] } else { alloc::vec::Vec::new() };
        let chunk = if total > small.len() { large.as_mut_slice() } else { small.as_mut_slice() };
        let mut done = 0;
        while done < total {
            let want = chunk.len().min(total - done);
            let count = match from.take(chunk.get_mut(..want).unwrap_or_default()) {
                Ok(count) => count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            let mut rest = chunk.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                let taken = self.device.host.console().write(stream, rest);
                if taken == 0 {
                    return if done == 0 { Err(Errno::EIO) } else { Ok(done) };
                }
                done += taken;
                rest = rest.get(taken..).unwrap_or_default();
            }
            if count < want {
                break;
            }
        }
        Ok(done)
    }

    fn metadata(&self) -> Result<Metadata> {
        let time = self.device.started;
        let (file_type, mode, rdev, dev) = if self.tty {
            (FileType::CharDevice, 0o620, DeviceId::new(136, 0), DeviceId::new(0, 5))
        } else {
            (FileType::Fifo, 0o600, DeviceId::default(), DeviceId::new(0, 14))
        };
        let ino = match self.role {
            _ if self.tty => 3,
            Role::Output(Stream::Stdout) => u64::MAX - 1,
            Role::Output(Stream::Stderr) => u64::MAX - 2,
            _ => u64::MAX - 3,
        };
        Ok(Metadata {
            dev,
            ino,
            file_type,
            mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev,
            size: 0,
            block_size: if self.tty { 1024 } else { 4096 },
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        })
    }

    fn poll(&self) -> PollEvents {
        let mut events = PollEvents::empty();
        let reads = self.tty || !matches!(self.role, Role::Output(_));
        let writes = self.tty || self.role != Role::Input;
        events.set(PollEvents::IN | PollEvents::RDNORM, reads && self.device.host.console().input_ready());
        events.set(PollEvents::OUT | PollEvents::WRNORM, writes);
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.device.input_arrived)
    }

    fn ioctl(&self, command: u32, argument: usize, user: &mut dyn IoctlMemory) -> Result<usize> {
        if !self.tty {
            return Err(if command == FIONREAD { Errno::EINVAL } else { Errno::ENOTTY });
        }
        match command {
            TCGETS => {
                let termios = *self.device.termios.lock();
                user.write(argument, &termios)?;
            }
            TCSETS | TCSETSW | TCSETSF => {
                let mut termios = [0; TERMIOS_SIZE];
                user.read(argument, &mut termios)?;
                *self.device.termios.lock() = termios;
            }
            TIOCGWINSZ => {
                let window = *self.device.window.lock();
                let mut bytes = [0; 8];
                bytes
                    .iter_mut()
                    .zip(window.iter().flat_map(|word| word.to_ne_bytes()))
                    .for_each(|(to, from)| *to = from);
                user.write(argument, &bytes)?;
            }
            TIOCSWINSZ => {
                let mut bytes = [0; 8];
                user.read(argument, &mut bytes)?;
                let [a, b, c, d, e, f, g, h] = bytes;
                *self.device.window.lock() = [[a, b], [c, d], [e, f], [g, h]].map(u16::from_ne_bytes);
            }
            TIOCGPGRP => user.write(argument, &1u32.to_ne_bytes())?,
            TIOCSPGRP | TCSBRK => {}
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
}
