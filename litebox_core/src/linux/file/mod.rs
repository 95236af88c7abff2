//! System calls on files: decode, call the North, encode. Numbers, structures and flags are x86-64's.

mod abi;
mod attributes;
mod descriptor;
mod directory;
mod open;
mod poll;
mod rw;
mod stat;
#[cfg(test)]
mod tests;

use super::Restart;
use crate::errno::{Errno, Result};
use crate::fs::{IoctlMemory, PATH_MAX};
use crate::mm::{Sink, Source, read_cstr};
use crate::north::file::{Base, Files};
use alloc::vec::Vec;
use linux_raw_sys::general as nr;

/// The calling thread: [`Files`] and its memory. Addresses are what the program passed: anything.
pub trait Caller: Files {
    /// Fills `to` from the program's memory. EFAULT.
    fn read_memory(&self, address: usize, to: &mut [u8]) -> Result<()>;
    /// Copies `from` to the program's memory. EFAULT.
    fn write_memory(&self, address: usize, from: &[u8]) -> Result<()>;
    /// Memory that data is read into, as (address, length) pairs in order. Lengths have been checked, addresses not.
    fn sink<'a>(&'a self, buffers: &'a [(usize, usize)]) -> impl Sink + 'a;
    /// Memory that data is written from.
    fn source<'a>(&'a self, buffers: &'a [(usize, usize)]) -> impl Source + 'a;
    /// One past the last address that memory of a program can have.
    fn address_limit(&self) -> usize;
    /// Calls `wait` with another signal mask, if there is one; a signal that ends the wait is delivered with that mask.
    fn with_signal_mask<T>(&self, mask: Option<u64>, wait: impl FnOnce() -> Result<T>) -> Result<T>;
    /// Keeps how `restart_syscall` goes on with a call that a signal interrupted.
    fn keep_restart(&self, restart: Restart);
    /// Pages that all anonymous files together may take.
    fn memory_file_limit(&self) -> u64;
}

pub(super) use poll::poll_again;

/// The arguments of a call, as registers.
type Args = [u64; 6];

/// Makes the call `number` if it is one of this family.
pub fn call<C: Caller>(c: &C, number: u32, args: Args) -> Option<Result<usize>> {
    let [a, b, d, e, f, g] = args;
    Some(match number {
        nr::__NR_read => rw::read(c, a, b, d),
        nr::__NR_write => rw::write(c, a, b, d),
        nr::__NR_close => descriptor::close(c, a),
        nr::__NR_openat => open::openat(c, a, b, d, e),
        nr::__NR_newfstatat => stat::newfstatat(c, a, b, d, e),
        nr::__NR_fstat => stat::fstat(c, a, b),
        nr::__NR_stat => stat::stat(c, b, a, true),
        nr::__NR_lstat => stat::stat(c, b, a, false),
        nr::__NR_lseek => rw::lseek(c, a, b, d),
        nr::__NR_pread64 => rw::pread(c, a, b, d, e),
        nr::__NR_pwrite64 => rw::pwrite(c, a, b, d, e),
        nr::__NR_readv => rw::readv(c, a, b, d),
        nr::__NR_writev => rw::writev(c, a, b, d),
        nr::__NR_preadv => rw::preadv(c, a, b, d, e),
        nr::__NR_pwritev => rw::pwritev(c, a, b, d, e),
        nr::__NR_preadv2 => rw::preadv2(c, a, b, d, e, g),
        nr::__NR_pwritev2 => rw::pwritev2(c, a, b, d, e, g),
        nr::__NR_sendfile => rw::sendfile(c, a, b, d, e),
        nr::__NR_copy_file_range => rw::copy_file_range(c, a, b, d, e, f, g),
        nr::__NR_ftruncate => rw::ftruncate(c, a, b),
        nr::__NR_truncate => rw::truncate(c, a, b),
        nr::__NR_fallocate => rw::fallocate(c, a, b, d, e),
        nr::__NR_fsync | nr::__NR_fdatasync => rw::fsync(c, a),
        nr::__NR_sync => Ok(0),
        nr::__NR_syncfs => descriptor::open_file(c, a).map(|_| 0),
        nr::__NR_sync_file_range => descriptor::open_file(c, a).map(|_| 0),
        nr::__NR_fadvise64 => rw::fadvise(c, a, d, e),
        nr::__NR_readahead => rw::readahead(c, a),
        nr::__NR_open => open::openat(c, AT_FDCWD, a, b, d),
        nr::__NR_creat => open::openat(c, AT_FDCWD, a, open::CREAT, b),
        nr::__NR_openat2 => open::openat2(c, a, b, d, e),
        nr::__NR_memfd_create => open::memfd_create(c, a, b),
        nr::__NR_pipe => open::pipe2(c, a, 0),
        nr::__NR_pipe2 => open::pipe2(c, a, b),
        nr::__NR_statx => stat::statx(c, a, b, d, e, f),
        nr::__NR_statfs => stat::statfs(c, a, b),
        nr::__NR_fstatfs => stat::fstatfs(c, a, b),
        nr::__NR_access => stat::faccessat(c, AT_FDCWD, a, b, 0),
        nr::__NR_faccessat => stat::faccessat(c, a, b, d, 0),
        nr::__NR_faccessat2 => stat::faccessat(c, a, b, d, e),
        nr::__NR_getcwd => directory::getcwd(c, a, b),
        nr::__NR_chdir => directory::chdir(c, a),
        nr::__NR_fchdir => directory::fchdir(c, a),
        nr::__NR_chroot => directory::chroot(c, a),
        nr::__NR_getdents => directory::getdents(c, a, b, d, false),
        nr::__NR_getdents64 => directory::getdents(c, a, b, d, true),
        nr::__NR_mkdir => directory::mkdirat(c, AT_FDCWD, a, b),
        nr::__NR_mkdirat => directory::mkdirat(c, a, b, d),
        nr::__NR_rmdir => directory::unlinkat(c, AT_FDCWD, a, AT_REMOVEDIR),
        nr::__NR_unlink => directory::unlinkat(c, AT_FDCWD, a, 0),
        nr::__NR_unlinkat => directory::unlinkat(c, a, b, d),
        nr::__NR_rename => directory::renameat2(c, AT_FDCWD, a, AT_FDCWD, b, 0),
        nr::__NR_renameat => directory::renameat2(c, a, b, d, e, 0),
        nr::__NR_renameat2 => directory::renameat2(c, a, b, d, e, f),
        nr::__NR_link => directory::linkat(c, AT_FDCWD, a, AT_FDCWD, b, 0),
        nr::__NR_linkat => directory::linkat(c, a, b, d, e, f),
        nr::__NR_symlink => directory::symlinkat(c, a, AT_FDCWD, b),
        nr::__NR_symlinkat => directory::symlinkat(c, a, b, d),
        nr::__NR_readlink => directory::readlinkat(c, AT_FDCWD, a, b, d),
        nr::__NR_readlinkat => directory::readlinkat(c, a, b, d, e),
        nr::__NR_mknod => directory::mknodat(c, AT_FDCWD, a, b, d),
        nr::__NR_mknodat => directory::mknodat(c, a, b, d, e),
        nr::__NR_chmod => attributes::chmod(c, AT_FDCWD, a, b, 0),
        nr::__NR_fchmod => attributes::fchmod(c, a, b),
        nr::__NR_fchmodat => attributes::chmod(c, a, b, d, 0),
        nr::__NR_fchmodat2 => attributes::chmod(c, a, b, d, e),
        nr::__NR_chown => attributes::chown(c, AT_FDCWD, a, b, d, 0),
        nr::__NR_lchown => attributes::chown(c, AT_FDCWD, a, b, d, AT_SYMLINK_NOFOLLOW),
        nr::__NR_fchown => attributes::fchown(c, a, b, d),
        nr::__NR_fchownat => attributes::chown(c, a, b, d, e, f),
        nr::__NR_utimensat => attributes::utimensat(c, a, b, d, e),
        nr::__NR_utime => attributes::utime(c, a, b),
        nr::__NR_utimes => attributes::futimesat(c, AT_FDCWD, a, b),
        nr::__NR_futimesat => attributes::futimesat(c, a, b, d),
        nr::__NR_umask => attributes::umask(c, a),
        nr::__NR_dup => descriptor::dup(c, a),
        nr::__NR_dup2 => descriptor::dup2(c, a, b),
        nr::__NR_dup3 => descriptor::dup3(c, a, b, d),
        nr::__NR_fcntl => descriptor::fcntl(c, a, b, d),
        nr::__NR_flock => descriptor::flock(c, a, b),
        nr::__NR_close_range => descriptor::close_range(c, a, b, d),
        nr::__NR_ioctl => descriptor::ioctl(c, a, b, d),
        nr::__NR_poll => poll::poll(c, a, b, d),
        nr::__NR_ppoll => poll::ppoll(c, a, b, d, e, f),
        nr::__NR_select => poll::select(c, a, b, d, e, f),
        nr::__NR_pselect6 => poll::pselect6(c, args),
        nr::__NR_listxattr | nr::__NR_llistxattr => attributes::listxattr(c, a, number == nr::__NR_listxattr),
        nr::__NR_flistxattr => descriptor::open_file(c, a).map(|_| 0),
        nr::__NR_getxattr | nr::__NR_lgetxattr | nr::__NR_setxattr | nr::__NR_lsetxattr => {
            attributes::no_xattr(c, a, !matches!(number, nr::__NR_lgetxattr | nr::__NR_lsetxattr))
        }
        nr::__NR_removexattr => attributes::no_xattr(c, a, true),
        nr::__NR_lremovexattr => attributes::no_xattr(c, a, false),
        nr::__NR_fgetxattr | nr::__NR_fsetxattr | nr::__NR_fremovexattr => {
            descriptor::open_file(c, a).and(Err(Errno::EOPNOTSUPP))
        }
        nr::__NR_mount | nr::__NR_umount2 | nr::__NR_pivot_root => Err(Errno::EPERM),
        _ => return None,
    })
}

/// The working directory as a directory argument.
const AT_FDCWD: u64 = -100i64 as u64;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_REMOVEDIR: u64 = 0x200;
const AT_EACCESS: u64 = 0x200;
const AT_SYMLINK_FOLLOW: u64 = 0x400;
const AT_NO_AUTOMOUNT: u64 = 0x800;
const AT_EMPTY_PATH: u64 = 0x1000;

/// Most bytes that one call transfers (`MAX_RW_COUNT`).
const MAX_RW: usize = 0x7fff_f000;

/// A directory argument. An absolute path has no use for it, so that it is not even looked at.
fn base(raw: u64, path: &[u8]) -> Result<Base> {
    let unused = raw as i32 == AT_FDCWD as i32 || path.first() == Some(&b'/');
    if unused { Ok(Base::Cwd) } else { Ok(Base::Dir(descriptor::fd(raw)?)) }
}

/// A path argument. EFAULT, ENAMETOOLONG.
fn path<C: Caller>(c: &C, address: u64) -> Result<Vec<u8>> {
    read_cstr(|at, to| c.read_memory(at, to), address as usize, PATH_MAX - 1, Errno::ENAMETOOLONG)
}

/// EINVAL when `flags` has others than `known`.
fn only(flags: u64, known: u64) -> Result<()> {
    if flags as u32 & !(known as u32) == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}

/// The memory that an ioctl's argument points to.
struct Memory<'a, C>(&'a C);

impl<C: Caller> IoctlMemory for Memory<'_, C> {
    fn read(&mut self, address: usize, to: &mut [u8]) -> Result<()> {
        self.0.read_memory(address, to)
    }
    fn write(&mut self, address: usize, from: &[u8]) -> Result<()> {
        self.0.write_memory(address, from)
    }
}
