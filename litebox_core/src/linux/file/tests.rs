use super::*;
use crate::errno::Errno;
use crate::event::WaitQueue;
use crate::fd::FdTable;
use crate::fs::testing::{SliceSource, TestHost};
use crate::fs::tmpfs::Tmpfs;
use crate::fs::{DeviceId, FsContext, Host, MountTable};
use alloc::sync::Arc;
use core::cell::{Cell, RefCell};
use spin::Mutex;

/// A thread whose memory is one array at address 0x1000.
struct Thread {
    fds: Mutex<FdTable>,
    fs: Mutex<Arc<FsContext>>,
    host: &'static TestHost,
    memory: RefCell<Vec<u8>>,
    size_limit: Cell<u64>,
    /// How many SIGXFSZ came.
    too_large: Cell<u32>,
    /// What the last wait was to be masked with.
    mask: Cell<Option<u64>>,
}

const START: usize = 0x1000;
const SIZE: usize = 0x4000;

struct Buffer<'a>(&'a Thread, Vec<(usize, usize)>);

impl Sink for Buffer<'_> {
    fn remaining(&self) -> usize {
        self.1.iter().map(|(_, len)| len).sum()
    }
    fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut done = 0;
        for (address, len) in &mut self.1 {
            let count = (*len).min(bytes.len() - done);
            if self.0.write_memory(*address, &bytes[done..done + count]).is_err() {
                return if done == 0 { Err(Errno::EFAULT) } else { Ok(done) };
            }
            (*address, *len, done) = (*address + count, *len - count, done + count);
        }
        Ok(done)
    }
    fn put_page(&mut self, page: &crate::mm::Page, offset: usize, len: usize) -> Result<usize> {
        let mut bytes = vec![0; len];
        page.read(offset, &mut bytes);
        self.put(&bytes)
    }
    fn put_zeros(&mut self, len: usize) -> Result<usize> {
        self.put(&vec![0; len.min(1 << 20)])
    }
}

impl Files for Thread {
    fn fds(&self) -> &Mutex<FdTable> {
        &self.fds
    }
    fn fs(&self) -> Arc<FsContext> {
        self.fs.lock().clone()
    }
    fn update_fs(&self, change: &mut dyn FnMut(&mut FsContext)) {
        change(Arc::make_mut(&mut self.fs.lock()));
    }
    fn descriptor_limit(&self) -> u64 {
        16
    }
    fn host(&self) -> &'static dyn Host {
        self.host
    }
    fn wait(&self, _: &[&WaitQueue], ready: &mut dyn FnMut() -> bool, _: Option<u64>) -> Result<bool> {
        if ready() { Ok(true) } else { Err(Errno::ERESTARTSYS) }
    }
    fn broken_pipe(&self) {}
    fn file_size_limit(&self) -> u64 {
        self.size_limit.get()
    }
    fn file_too_large(&self) {
        self.too_large.set(self.too_large.get() + 1);
    }
}

impl Caller for Thread {
    fn read_memory(&self, address: usize, to: &mut [u8]) -> Result<()> {
        let start = address.wrapping_sub(START);
        let end = start.checked_add(to.len()).filter(|end| *end <= SIZE).ok_or(Errno::EFAULT)?;
        to.copy_from_slice(&self.memory.borrow()[start..end]);
        Ok(())
    }
    fn write_memory(&self, address: usize, from: &[u8]) -> Result<()> {
        let start = address.wrapping_sub(START);
        let end = start.checked_add(from.len()).filter(|end| *end <= SIZE).ok_or(Errno::EFAULT)?;
        self.memory.borrow_mut()[start..end].copy_from_slice(from);
        Ok(())
    }
    fn sink<'a>(&'a self, buffers: &'a [(usize, usize)]) -> impl Sink + 'a {
        Buffer(self, buffers.to_vec())
    }
    fn source<'a>(&'a self, buffers: &'a [(usize, usize)]) -> impl Source + 'a {
        let memory = self.memory.borrow();
        let mut bytes = Vec::new();
        for (address, len) in buffers {
            let start = address.wrapping_sub(START).min(SIZE);
            bytes.extend_from_slice(&memory[start..start.saturating_add(*len).min(SIZE)]);
        }
        SliceSource(bytes.leak())
    }
    fn keep_restart(&self, _: crate::linux::Restart) {}
    fn memory_file_limit(&self) -> u64 {
        64
    }
    fn address_limit(&self) -> usize {
        1 << 47
    }
    fn with_signal_mask<T>(&self, mask: Option<u64>, wait: impl FnOnce() -> Result<T>) -> Result<T> {
        self.mask.set(mask);
        wait()
    }
}

fn thread() -> Thread {
    let host = TestHost::leak(512);
    let (_fs, root) = Tmpfs::new(host, DeviceId::new(0, 20), None, None, 100).unwrap();
    let context = FsContext::new(MountTable::new(root, "tmpfs", "rw", None).root());
    let memory = RefCell::new(vec![0; SIZE]);
    Thread {
        fds: Mutex::default(),
        fs: Mutex::new(Arc::new(context)),
        host,
        memory,
        size_limit: Cell::new(u64::MAX),
        too_large: Cell::new(0),
        mask: Cell::new(None),
    }
}

fn text(thread: &Thread, at: usize, text: &str) -> u64 {
    thread.write_memory(START + at, text.as_bytes()).unwrap();
    thread.write_memory(START + at + text.len(), &[0]).unwrap();
    (START + at) as u64
}

fn run(thread: &Thread, number: u32, args: &[u64]) -> Result<usize> {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    call(thread, number, all).expect("a call of this family")
}

#[test]
fn a_file_is_written_and_read_back() {
    let t = thread();
    let (name, data, out) = (text(&t, 0, "dir/file"), text(&t, 100, "hello"), (START + 200) as u64);
    let dir = text(&t, 600, "dir");
    assert_eq!(run(&t, nr::__NR_mkdir, &[dir, 0o777]), Ok(0));
    assert_eq!(run(&t, nr::__NR_open, &[name, 0o102, 0o644]), Ok(0));
    assert_eq!(run(&t, nr::__NR_write, &[0, data, 5]), Ok(5));
    assert_eq!(run(&t, nr::__NR_lseek, &[0, 1, 0]), Ok(1));
    assert_eq!(run(&t, nr::__NR_read, &[0, out, 100]), Ok(4));
    assert_eq!(&t.memory.borrow()[200..204], b"ello");
    assert_eq!(run(&t, nr::__NR_pread64, &[0, out, 1, -1i64 as u64]), Err(Errno::EINVAL));
    assert_eq!(run(&t, nr::__NR_fstat, &[0, out]), Ok(0));
    assert_eq!(&t.memory.borrow()[248..256], &5u64.to_ne_bytes());
    assert_eq!(run(&t, nr::__NR_chdir, &[dir]), Ok(0));
    assert_eq!(run(&t, nr::__NR_getcwd, &[out, 100]), Ok(5));
    assert_eq!(run(&t, nr::__NR_getcwd, &[out, 4]), Err(Errno::ERANGE));
    assert_eq!(run(&t, nr::__NR_dup2, &[0, 5]), Ok(5));
    assert_eq!(run(&t, nr::__NR_dup2, &[0, 16]), Err(Errno::EBADF));
    assert_eq!(run(&t, nr::__NR_fcntl, &[5, 3, 0]), Ok(0o100002));
    assert_eq!(run(&t, nr::__NR_close, &[9]), Err(Errno::EBADF));
    assert_eq!(run(&t, nr::__NR_ioctl, &[0, 0x5401, out]), Err(Errno::ENOTTY));
}

#[test]
fn a_pipe_holds_as_much_as_it_is_told_to() {
    const SETPIPE_SZ: u64 = 1031;
    const GETPIPE_SZ: u64 = 1032;
    let t = thread();
    let at = (START + 8) as u64;
    assert_eq!(run(&t, nr::__NR_pipe2, &[at, 0o4000]), Ok(0));
    assert_eq!(run(&t, nr::__NR_fcntl, &[1, GETPIPE_SZ, 0]), Ok(65_536));
    assert_eq!(run(&t, nr::__NR_fcntl, &[1, SETPIPE_SZ, 5000]), Ok(8192));
    assert_eq!(run(&t, nr::__NR_write, &[1, START as u64, SIZE as u64]), Ok(8192));
    assert_eq!(run(&t, nr::__NR_write, &[1, START as u64, 1]), Err(Errno::EAGAIN));
    assert_eq!(run(&t, nr::__NR_fcntl, &[0, SETPIPE_SZ, 1]), Err(Errno::EBUSY));
    assert_eq!(run(&t, nr::__NR_fcntl, &[0, SETPIPE_SZ, (1 << 20) + 1]), Err(Errno::EPERM));
    assert_eq!(run(&t, nr::__NR_fcntl, &[0, SETPIPE_SZ, 1 << 20]), Ok(1 << 20));
    assert_eq!(run(&t, nr::__NR_write, &[1, START as u64, SIZE as u64]), Ok(SIZE));
    let name = text(&t, 0, "file");
    assert_eq!(run(&t, nr::__NR_open, &[name, 0o102, 0o644]), Ok(2));
    assert_eq!(run(&t, nr::__NR_fcntl, &[2, GETPIPE_SZ, 0]), Err(Errno::EBADF));
}

#[test]
fn pipes_carry_bytes_and_end() {
    let t = thread();
    let (at, data) = ((START + 8) as u64, text(&t, 100, "abc"));
    assert_eq!(run(&t, nr::__NR_pipe2, &[at, 0]), Ok(0));
    assert_eq!(run(&t, nr::__NR_read, &[0, at, 9]), Err(Errno::ERESTARTSYS));
    assert_eq!(run(&t, nr::__NR_write, &[1, data, 3]), Ok(3));
    assert_eq!(run(&t, nr::__NR_lseek, &[0, 0, 0]), Err(Errno::ESPIPE));
    assert_eq!(run(&t, nr::__NR_close, &[1]), Ok(0));
    assert_eq!(run(&t, nr::__NR_read, &[0, at, 9]), Ok(3));
    assert_eq!(run(&t, nr::__NR_read, &[0, at, 9]), Ok(0));
}

#[test]
fn no_write_makes_a_file_longer_than_the_limit() {
    let t = thread();
    let (name, data) = (text(&t, 0, "file"), text(&t, 100, "0123456789"));
    assert_eq!(run(&t, nr::__NR_open, &[name, 0o102, 0o644]), Ok(0));
    t.size_limit.set(6);
    assert_eq!(run(&t, nr::__NR_write, &[0, data, 10]), Ok(6));
    assert_eq!(run(&t, nr::__NR_write, &[0, data, 0]), Ok(0));
    assert_eq!(run(&t, nr::__NR_pwrite64, &[0, data, 10, 4]), Ok(2));
    assert_eq!(t.too_large.get(), 0);
    assert_eq!(run(&t, nr::__NR_write, &[0, data, 1]), Err(Errno::EFBIG));
    assert_eq!(run(&t, nr::__NR_pwrite64, &[0, data, 1, 6]), Err(Errno::EFBIG));
    assert_eq!(run(&t, nr::__NR_ftruncate, &[0, 7]), Err(Errno::EFBIG));
    assert_eq!(run(&t, nr::__NR_truncate, &[name, 7]), Err(Errno::EFBIG));
    assert_eq!(run(&t, nr::__NR_fallocate, &[0, 0, 0, 7]), Err(Errno::EFBIG));
    assert_eq!(t.too_large.get(), 5);
    assert_eq!(run(&t, nr::__NR_ftruncate, &[0, 3]), Ok(0));
    t.size_limit.set(0);
    assert_eq!(run(&t, nr::__NR_pipe2, &[name, 0]), Ok(0));
    assert_eq!(run(&t, nr::__NR_write, &[2, data, 10]), Ok(10));
}

#[test]
fn masks_are_as_long_as_a_signal_set() {
    let t = thread();
    let (set, pair) = ((START + 64) as u64, (START + 128) as u64);
    t.write_memory(START + 64, &5u64.to_ne_bytes()).unwrap();
    t.write_memory(START + 128, zerocopy::IntoBytes::as_bytes(&[set, 8])).unwrap();
    let now = (START + 256) as u64;
    assert_eq!(run(&t, nr::__NR_ppoll, &[now, 0, now, set, 7]), Err(Errno::EINVAL));
    assert_eq!(run(&t, nr::__NR_ppoll, &[now, 0, now, 0x10, 8]), Err(Errno::EFAULT));
    assert_eq!(run(&t, nr::__NR_ppoll, &[now, 0, now, set, 8]), Ok(0));
    assert_eq!(t.mask.take(), Some(5));
    assert_eq!(run(&t, nr::__NR_pselect6, &[0, 0, 0, 0, now, pair]), Ok(0));
    assert_eq!(t.mask.take(), Some(5));
    assert_eq!(run(&t, nr::__NR_pselect6, &[0, 0, 0, 0, now, 0]), Ok(0));
    assert_eq!(t.mask.take(), None);
}

#[test]
fn wild_arguments_never_panic() {
    let t = thread();
    let name = text(&t, 0, "x");
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state >> 33
    };
    let values = [
        0,
        1,
        2,
        3,
        7,
        4096,
        name,
        START as u64 + 64,
        u64::MAX,
        i64::MAX as u64,
        1 << 47,
        -100i64 as u64,
        0o102,
    ];
    for _ in 0..40_000 {
        let args = [(); 6].map(|()| values[random() as usize % values.len()]);
        let _ = call(&t, (random() % 460) as u32, args);
    }
    assert_eq!(run(&t, nr::__NR_openat, &[AT_FDCWD, 0x10, 0, 0]), Err(Errno::EFAULT));
}
