//! Files, as rustix has them: typed calls on descriptors and paths (`open(2)`, `read(2)`, `stat(2)`, `poll(2)`, …).
//!
//! [`Files`] is what the calls need of whoever makes them: a thread of a process, or a program linked in.

use crate::errno::{Errno, Result};
use crate::event::WaitQueue;
use crate::fd::{Fd, FdTable};
use crate::fs::{
    File, FileType, FsContext, Host, Location, Metadata, OFlags, OpenFile, PollEvents, ResolveFlags, ops,
    pipe,
};
use crate::mm::{Page, Sink, Source};
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::Mutex;

/// Who makes the calls.
pub trait Files {
    /// Its descriptors.
    fn fds(&self) -> &Mutex<FdTable>;
    /// Its view of the file system.
    fn fs(&self) -> Arc<FsContext>;
    /// Changes that view.
    fn update_fs(&self, change: &mut dyn FnMut(&mut FsContext));
    /// RLIMIT_NOFILE.
    fn descriptor_limit(&self) -> u64;
    /// The machine.
    fn host(&self) -> &'static dyn Host;
    /// Blocks until `ready` says true (`Ok(true)`) or the monotonic clock reaches `deadline` (`Ok(false)`); `ready` is asked
    /// again whenever one of `queues` was woken. ERESTARTSYS: a signal came.
    fn wait(
        &self,
        queues: &[&WaitQueue],
        ready: &mut dyn FnMut() -> bool,
        deadline: Option<u64>,
    ) -> Result<bool>;
    /// Sends SIGPIPE to the calling thread.
    fn broken_pipe(&self);
    /// RLIMIT_FSIZE: no write makes a file longer.
    fn file_size_limit(&self) -> u64;
    /// Sends SIGXFSZ to the calling thread.
    fn file_too_large(&self);
}

/// Where a relative path starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The working directory (`AT_FDCWD`).
    Cwd,
    /// An open directory.
    Dir(Fd),
}

/// The open file description of `fd`. EBADF.
pub fn get<F: Files + ?Sized>(files: &F, fd: Fd) -> Result<Arc<OpenFile>> {
    files.fds().lock().get(fd).cloned()
}

/// The directory that `path` starts from; an absolute one starts from anywhere.
pub fn base<F: Files + ?Sized>(files: &F, context: &FsContext, base: Base, path: &[u8]) -> Result<Location> {
    match base {
        Base::Cwd => Ok(context.cwd.clone()),
        Base::Dir(_) if path.first() == Some(&b'/') => Ok(context.root.clone()),
        Base::Dir(fd) => get(files, fd)?.directory().cloned(),
    }
}

/// The place that `path` names. An empty path is ENOENT.
pub fn resolve<F: Files + ?Sized>(files: &F, at: Base, path: &[u8], follow: bool) -> Result<Location> {
    let context = files.fs();
    if at == Base::Cwd {
        return ops::resolve(&context, &context.cwd, path, follow);
    }
    let start = base(files, &context, at, path)?;
    ops::resolve(&context, &start, path, follow)
}

/// Gives `file` the lowest free descriptor.
pub fn install<F: Files + ?Sized>(files: &F, file: Arc<OpenFile>, close_on_exec: bool) -> Result<Fd> {
    let limit = files.descriptor_limit();
    files.fds().lock().insert(file, close_on_exec, limit)
}

/// `openat2(2)`.
pub fn openat<F: Files + ?Sized>(
    files: &F,
    at: Base,
    path: &[u8],
    flags: OFlags,
    mode: u32,
    resolve: ResolveFlags,
) -> Result<Fd> {
    let context = files.fs();
    // Confined to a directory, an absolute path starts from it.
    let confined = resolve.intersects(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT);
    let start = base(files, &context, at, if confined { b"" } else { path })?;
    let file = ops::open(&context, &start, path, flags, mode, resolve)?;
    install(files, file, flags.contains(OFlags::CLOEXEC))
}

/// `close(2)`.
pub fn close<F: Files + ?Sized>(files: &F, fd: Fd) -> Result<()> {
    let file = files.fds().lock().remove(fd)?;
    drop(file);
    Ok(())
}

/// Repeats `attempt` as long as it says EAGAIN and `file` may wait, sleeping until one of `events`.
pub fn blocking<F: Files + ?Sized, T>(
    files: &F,
    file: &OpenFile,
    events: PollEvents,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    loop {
        let result = attempt();
        if !matches!(result, Err(Errno::EAGAIN)) || file.nonblocking() {
            return result;
        }
        let file = file.file()?;
        let Some(queue) = file.wait_queue() else { return result };
        let wanted = events | PollEvents::ERR | PollEvents::HUP;
        files.wait(&[queue], &mut || file.poll().intersects(wanted), None)?;
    }
}

/// `read(2)`, waiting when there is nothing.
pub fn read<F: Files + ?Sized>(files: &F, fd: Fd, to: &mut dyn Sink) -> Result<usize> {
    let file = get(files, fd)?;
    blocking(files, &file, PollEvents::IN, || file.read(to))
}

/// `write(2)`, waiting until all is written unless the file does not wait.
pub fn write<F: Files + ?Sized>(files: &F, fd: Fd, from: &mut dyn Source) -> Result<usize> {
    let file = get(files, fd)?;
    write_open(files, &file, from)
}

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the position, which moves; at the end with `O_APPEND`.
    Position,
    /// At this offset; at the end with `O_APPEND`.
    At(u64),
    /// At the end, as with `O_APPEND` (`RWF_APPEND`).
    End,
}

/// A part of what a source gives.
struct Part<'a> {
    whole: &'a mut dyn Source,
    left: usize,
}

impl Source for Part<'_> {
    fn remaining(&self) -> usize {
        self.left.min(self.whole.remaining())
    }
    fn take(&mut self, into: &mut [u8]) -> Result<usize> {
        let len = into.len().min(self.left);
        let count = self.whole.take(into.get_mut(..len).unwrap_or_default())?;
        self.left -= count.min(len);
        Ok(count)
    }
    fn take_page(&mut self, page: &Page, offset: usize, len: usize) -> Result<usize> {
        let len = len.min(self.left);
        let count = self.whole.take_page(page, offset, len)?;
        self.left -= count.min(len);
        Ok(count)
    }
    fn skip(&mut self, count: usize) {
        let count = count.min(self.left);
        self.whole.skip(count);
        self.left -= count;
    }
}

/// Up to where a file that `file` refers to may be written: RLIMIT_FSIZE for regular files.
fn size_limit<F: Files + ?Sized>(files: &F, file: &OpenFile) -> u64 {
    let limit = files.file_size_limit();
    let regular = limit != u64::MAX
        && match file.inode() {
            Some(inode) => inode.file_type() == FileType::Regular,
            None => file.metadata().is_ok_and(|metadata| metadata.file_type == FileType::Regular),
        };
    if regular { limit } else { u64::MAX }
}

/// EFBIG, with SIGXFSZ, when a file must not be made `length` bytes long.
pub fn check_size<F: Files + ?Sized>(files: &F, length: u64) -> Result<()> {
    if length <= files.file_size_limit() {
        return Ok(());
    }
    files.file_too_large();
    Err(Errno::EFBIG)
}

/// Writes once, without waiting, and no further than RLIMIT_FSIZE lets a regular file grow. EFBIG, with SIGXFSZ: not at all.
pub fn write_at<F: Files + ?Sized>(
    files: &F,
    file: &OpenFile,
    place: Place,
    from: &mut dyn Source,
) -> Result<usize> {
    let write = |from: &mut dyn Source| match place {
        Place::Position => file.write(from),
        Place::At(offset) => file.write_at(offset, from),
        Place::End => file.append(from),
    };
    let limit = size_limit(files, file);
    if limit == u64::MAX || from.remaining() == 0 {
        return write(from);
    }
    let start = match place {
        _ if place == Place::End || file.flags().contains(OFlags::APPEND) => file.writable()?.end()?,
        Place::At(offset) => offset,
        _ => file.offset(),
    };
    if start >= limit {
        file.writable()?;
        files.file_too_large();
        return Err(Errno::EFBIG);
    }
    let left = usize::try_from(limit - start).unwrap_or(usize::MAX);
    write(&mut Part { whole: from, left })
}

/// The same as [`write`](fn@write) for an open file description.
pub fn write_open<F: Files + ?Sized>(files: &F, file: &OpenFile, from: &mut dyn Source) -> Result<usize> {
    let mut done = 0;
    loop {
        match blocking(files, file, PollEvents::OUT, || write_at(files, file, Place::Position, from)) {
            Ok(count) => {
                done += count;
                // Streams take what fits; the rest waits. Anything else that stops early stopped for good.
                let more = count > 0 && from.remaining() > 0 && !file.nonblocking();
                if !more || file.file().is_ok_and(|file| file.seekable() || file.wait_queue().is_none()) {
                    return Ok(done);
                }
            }
            Err(error) => {
                if error == Errno::EPIPE && done == 0 {
                    files.broken_pipe();
                }
                return if done > 0 { Ok(done) } else { Err(error) };
            }
        }
    }
}

/// `fstat(2)`.
pub fn fstat<F: Files + ?Sized>(files: &F, fd: Fd) -> Result<Metadata> {
    get(files, fd)?.metadata()
}

/// `fstatat(2)`; with `AT_EMPTY_PATH` an empty path is the base itself.
pub fn statat<F: Files + ?Sized>(
    files: &F,
    at: Base,
    path: &[u8],
    follow: bool,
    empty: bool,
) -> Result<Metadata> {
    if path.is_empty() && empty {
        return match at {
            Base::Cwd => files.fs().cwd.inode.metadata(),
            Base::Dir(fd) => fstat(files, fd),
        };
    }
    resolve(files, at, path, follow)?.inode.metadata()
}

/// `pipe2(2)`: reading and writing end.
pub fn pipe2<F: Files + ?Sized>(files: &F, flags: OFlags) -> Result<(Fd, Fd)> {
    let (reader, writer) = pipe(files.host());
    let status = flags & (OFlags::NONBLOCK | OFlags::DIRECT);
    let close_on_exec = flags.contains(OFlags::CLOEXEC);
    let open = |file: Arc<dyn File>, access| OpenFile::new(file, None, status | access);
    let reader = install(files, open(reader, OFlags::RDONLY), close_on_exec)?;
    match install(files, open(writer, OFlags::WRONLY), close_on_exec) {
        Ok(writer) => Ok((reader, writer)),
        Err(error) => {
            close(files, reader)?;
            Err(error)
        }
    }
}

/// One descriptor to poll, and what it was ready for.
#[derive(Clone, Copy, Debug)]
pub struct PollFd {
    /// The descriptor; negative ones are passed over.
    pub fd: i32,
    /// What is asked for.
    pub events: PollEvents,
    /// The answer; ERR, HUP and NVAL come unasked.
    pub ready: PollEvents,
}

/// `ppoll(2)`: how many are ready. `deadline` is monotonic.
pub fn poll<F: Files + ?Sized>(files: &F, fds: &mut [PollFd], deadline: Option<u64>) -> Result<usize> {
    let always = PollEvents::ERR | PollEvents::HUP | PollEvents::NVAL;
    let open: Vec<Option<Result<Arc<OpenFile>>>> = {
        let table = files.fds().lock();
        let get = |fd: i32| Fd::from_raw(fd).and_then(|fd| table.get(fd).cloned());
        fds.iter().map(|poll| (poll.fd >= 0).then(|| get(poll.fd))).collect()
    };
    let mut look = || {
        let mut count = 0;
        for (poll, open) in fds.iter_mut().zip(&open) {
            let state = match open {
                None => PollEvents::empty(),
                Some(Ok(open)) => open.file().map_or(PollEvents::NVAL, |file| file.poll()),
                Some(Err(_)) => PollEvents::NVAL,
            };
            poll.ready = state & (poll.events | always);
            count += usize::from(!poll.ready.is_empty());
        }
        count
    };
    let count = look();
    if count > 0 || deadline.is_some_and(|deadline| deadline <= files.host().monotonic()) {
        return Ok(count);
    }
    let files_open: Vec<&Arc<dyn File>> =
        open.iter().filter_map(|open| open.as_ref()?.as_ref().ok()?.file().ok()).collect();
    let queues: Vec<&WaitQueue> = files_open.iter().filter_map(|file| file.wait_queue()).collect();
    let mut count = 0;
    files.wait(
        &queues,
        &mut || {
            count = look();
            count > 0
        },
        deadline,
    )?;
    Ok(count)
}
