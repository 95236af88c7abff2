/*
 * Arguments that somebody forgot to think of, each answered as Linux answers it.
 *
 * Prints every call and its result, and is compared with the same program's output on Linux; so what it prints must not depend on
 * anything but the kernel's answers. It works in /tmp, which must be empty, and be a tmpfs on Linux.
 */
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#pragma GCC diagnostic ignored "-Wstringop-overread"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char buffer[1 << 17];
#define PAGE 4096UL
#define KERNEL ((void *)0xffff888000000000)

static void show(int line, const char *what, long result)
{
	if (result == -1)
		printf("%d %s: %s\n", line, what, strerrorname_np(errno));
	else
		printf("%d %s: %ld\n", line, what, result);
}

#define T(call) (errno = 0, show(__LINE__, #call, (long)(call)))
/* Addresses differ from run to run. */
#define OK(call) (errno = 0, show(__LINE__, #call, (long)(call) == -1 ? -1 : 0))
#define CALL(number, ...) syscall(SYS_##number, __VA_ARGS__)

static int file(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0)
		perror(name);
	return fd;
}

static long size(int fd)
{
	struct stat s;
	return fstat(fd, &s) ? -1 : (long)s.st_size;
}

static void vectors(void)
{
	int fd = file("v"), null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDONLY);
	struct iovec v[3] = { { buffer, 10 }, { KERNEL, 10 }, { buffer, 10 } };

	T(writev(fd, v, 0));
	T(writev(fd, v, -1));
	T(writev(fd, v, 1025));
	T(writev(fd, v, 3));
	T(readv(zero, v, 3));
	v[1].iov_base = buffer;
	v[1].iov_len = (size_t)-1;
	T(writev(fd, v, 3));
	v[1].iov_len = (size_t)LONG_MAX;
	T(readv(zero, v, 1));
	v[1].iov_base = NULL;
	v[1].iov_len = 0;
	T(writev(fd, v, 3));
	T(writev(-1, v, 3));
	T(writev(zero, v, 3));
	T(lseek(fd, 5, SEEK_SET));
	T(preadv2(fd, v, 1, -1, 0));
	T(lseek(fd, 0, SEEK_CUR));
	T(pwritev2(fd, v, 1, -1, 0));
	T(lseek(fd, 0, SEEK_CUR));
	T(preadv2(fd, v, 1, -2, 0));
	T(preadv(fd, v, 1, -1));
	T(preadv2(fd, v, 1, 0, 0x4000));
	T(CALL(pwritev2, fd, v, 1, 0, 0, 0x10));
	T(size(fd));
	T(write(null, KERNEL, 10));
	T(read(zero, (void *)-10L, 20));
	T(write(fd, buffer, -1) > 0);
	T(ftruncate(fd, 0));
	close(fd), close(null), close(zero);
}

static void sizes(void)
{
	int fd = file("s");
	long max = LONG_MAX;

	T(pwrite(fd, "x", 1, max));
	T(pwrite(fd, "xy", 2, max - 1));
	T(size(fd));
	T(pread(fd, buffer, 10, max - 1));
	T(pread(fd, buffer, 10, max));
	T(pread(fd, buffer, 10, -1));
	T(lseek(fd, 0, SEEK_END));
	T(lseek(fd, 1, SEEK_CUR));
	T(lseek(fd, max, SEEK_END));
	T(write(fd, "x", 1));
	T(lseek(fd, -1, SEEK_SET));
	T(lseek(fd, 0, 9));
	T(lseek(fd, 0, SEEK_DATA) >= 0);
	T(lseek(fd, 0, SEEK_HOLE));
	T(lseek(fd, max, SEEK_DATA));
	T(ftruncate(fd, -1));
	T(ftruncate(fd, max));
	T(size(fd));
	OK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, max - 4095 - PAGE));
	OK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, (long)0x8000000000000000));
	OK(mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, max - 4095));
	T(ftruncate(fd, 0));
	T(pwrite(fd, "x", 1, 1L << 50));
	T(pread(fd, buffer, 100, (1L << 50) - 50));
	T(ftruncate(fd, 0));
	T(truncate("/", 0));
	T(truncate("/dev/null", 0));
	T(truncate("s", -1));
	T(truncate("nothing", 0));
	T(fallocate(fd, 0, 0, 0));
	T(fallocate(fd, 0, -1, 1));
	T(fallocate(fd, 0, max, max));
	T(fallocate(fd, 3, max - 10, 5));
	T(fallocate(fd, 2, 0, 1));
	T(fallocate(fd, 0x1000, 0, 1));
	T(fallocate(fd, 0, 0, 10000));
	T(size(fd));
	T(fallocate(fd, 1, 20000, 10000));
	T(size(fd));
	close(fd);
	fd = open("s", O_WRONLY | O_APPEND);
	T(pwrite(fd, "abc", 3, 0));
	T(size(fd));
	T(lseek(fd, 0, SEEK_CUR));
	T(lseek(fd, 2, SEEK_SET));
	T(write(fd, "abc", 3));
	T(lseek(fd, 0, SEEK_CUR));
	T(fcntl(fd, F_SETFL, 0));
	T(pwrite(fd, "abc", 3, 0));
	T(size(fd));
	T(read(fd, buffer, 1));
	close(fd);
}

static void copies(void)
{
	int a = file("a"), b = file("b"), p[2];
	off_t at = 0, to = 5;

	if (pipe2(p, O_NONBLOCK))
		return;
	T(write(a, "0123456789", 10));
	T(copy_file_range(a, &at, a, &to, 10, 0));
	T(at);
	at = 0, to = 10;
	T(copy_file_range(a, &at, a, &to, 10, 0));
	T(size(a));
	T(copy_file_range(a, &at, b, NULL, 100, 1));
	at = -1;
	T(copy_file_range(a, &at, b, NULL, 100, 0));
	at = LONG_MAX;
	T(copy_file_range(a, &at, b, NULL, 100, 0));
	at = 0, to = LONG_MAX - 5;
	T(copy_file_range(a, &at, b, &to, 10, 0));
	T(copy_file_range(p[0], NULL, b, NULL, 10, 0));
	T(sendfile(b, a, NULL, 5));
	T(lseek(a, 0, SEEK_CUR));
	at = 3;
	T(sendfile(b, a, &at, 100));
	T(at);
	T(sendfile(p[1], a, &(off_t){ 0 }, 100));
	T(sendfile(b, p[0], NULL, 100));
	T(sendfile(a, a, &(off_t){ 0 }, 100));
	T(sendfile(p[1], a, &(off_t){ -1 }, 100));
	T(sendfile(-1, a, NULL, 100));
	close(a), close(b), close(p[0]), close(p[1]);
}

static void descriptors(void)
{
	struct rlimit old, low = { 8, 1024 };
	int fd = file("d"), p[2], count = 0, got[16];
	struct flock lock = { F_WRLCK, SEEK_SET, 0, 0, 0 };

	T(dup2(fd, -1));
	T(dup2(fd, 1 << 20));
	T(dup2(fd, INT_MAX));
	T(dup2(-1, 5));
	T(dup2(fd, fd) == fd);
	T(dup3(fd, fd, 0));
	T(dup3(fd, 50, 1));
	T(dup3(fd, 50, O_CLOEXEC));
	T(fcntl(50, F_GETFD));
	T(fcntl(fd, F_DUPFD, -1));
	T(fcntl(fd, F_DUPFD, 1 << 20));
	T(fcntl(fd, F_DUPFD, 60));
	T(fcntl(fd, 9999, 0));
	T(CALL(close_range, 60, 50, 0));
	T(CALL(close_range, 50, -1, 8));
	T(CALL(close_range, 50, -1, 0));
	T(fcntl(60, F_GETFD));
	T(fcntl(fd, F_GETLK, &lock));
	T(lock.l_type);
	T(fcntl(fd, F_SETLK, &lock));
	lock.l_whence = 7;
	T(fcntl(fd, F_SETLK, &lock));
	lock.l_whence = 0, lock.l_type = 9;
	T(fcntl(fd, F_SETLK, &lock));
	lock.l_type = F_WRLCK, lock.l_start = -1;
	T(fcntl(fd, F_SETLK, &lock));
	lock.l_start = LONG_MAX, lock.l_len = LONG_MAX;
	T(fcntl(fd, F_SETLK, &lock));
	lock.l_start = 0, lock.l_len = 0, lock.l_type = F_RDLCK;
	int wronly = open("d", O_WRONLY);
	T(fcntl(wronly, F_SETLK, &lock));
	lock.l_pid = 1;
	T(fcntl(fd, F_OFD_SETLK, &lock));
	close(wronly);
	T(flock(fd, 0));
	T(flock(fd, LOCK_EX | LOCK_NB));
	T(flock(-1, LOCK_EX));
	getrlimit(RLIMIT_NOFILE, &old);
	low.rlim_max = old.rlim_max;
	T(setrlimit(RLIMIT_NOFILE, &low));
	T(dup2(fd, 8));
	T(fcntl(fd, F_DUPFD, 8));
	while (count < 16 && (got[count] = dup(fd)) >= 0)
		count++;
	T(dup(fd));
	T(pipe(p));
	T(poll((struct pollfd *)buffer, 9, 0));
	while (count-- > 0)
		close(got[count]);
	setrlimit(RLIMIT_NOFILE, &old);
	low = (struct rlimit){ 9, 8 };
	T(setrlimit(RLIMIT_NOFILE, &low));
	T(setrlimit(99, &low));
	low = (struct rlimit){ 1 << 30, 1 << 30 };
	T(setrlimit(RLIMIT_NOFILE, &low));
	T(CALL(prlimit64, 99999999, RLIMIT_NOFILE, NULL, NULL));
	close(fd);
}

static void limits(void)
{
	struct rlimit old, low;
	int fd = file("l");

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	low = (struct rlimit){ 10, old.rlim_max };
	setrlimit(RLIMIT_FSIZE, &low);
	T(write(fd, "0123456789abc", 13));
	T(write(fd, "x", 1));
	T(write(fd, "", 0));
	T(pwrite(fd, "abc", 3, 8));
	T(pwrite(fd, "abc", 3, 100));
	T(ftruncate(fd, 11));
	T(ftruncate(fd, 10));
	T(truncate("l", 11));
	T(fallocate(fd, 0, 0, 11));
	int append = open("l", O_WRONLY | O_APPEND);
	T(write(append, "x", 1));
	T(fcntl(append, F_SETFL, 0));
	int b = file("l2");
	T(copy_file_range(fd, &(off_t){ 0 }, b, &(off_t){ 5 }, 10, 0));
	T(sendfile(b, fd, &(off_t){ 0 }, 10));
	T(size(b));
	setrlimit(RLIMIT_FSIZE, &old);
	T(write(b, "0123456789", 10));
	close(fd), close(append), close(b);

	getrlimit(RLIMIT_AS, &old);
	low = (struct rlimit){ 1 << 20, old.rlim_max };
	setrlimit(RLIMIT_AS, &low);
	OK(mmap(NULL, 1 << 21, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	char *end = sbrk(0);
	T(brk(end + (1 << 21)));
	setrlimit(RLIMIT_AS, &old);
	T(brk(end + 12345));
	T((char *)CALL(brk, 0) - end);
	T((char *)CALL(brk, -1UL) - end);
	T((char *)CALL(brk, 1UL << 62) - end);
	T((char *)CALL(brk, end - (1 << 30)) - end);
	T(brk(end));
}

static void paths(void)
{
	static char name[8192];

	T(open("", O_RDONLY));
	T(mkdir("p", 0700));
	T(chdir("p"));
	T(symlink("loop", "loop"));
	T(open("loop", O_RDONLY));
	T(open("loop/x", O_RDONLY));
	T(open("loop", O_CREAT | O_RDWR, 0600));
	T(open("loop", O_RDONLY | O_NOFOLLOW));
	T(mkdir("loop", 0700));
	T(mkdir("loop/", 0700));
	T(symlink("", "empty"));
	T(symlink("target", ""));
	memset(name, 'n', sizeof name);
	name[256] = 0;
	T(mkdir(name, 0700));
	T(open(name, O_CREAT | O_RDWR, 0600));
	name[255] = 0;
	T(mkdir(name, 0700));
	T(rmdir(name));
	memset(name, '/', sizeof name);
	name[4096] = 0;
	T(chdir(name));
	name[4095] = 0;
	T(access(name, F_OK));
	memset(name, 't', sizeof name);
	name[4095] = 0;
	T(symlink(name, "long"));
	T(readlink("long", buffer, sizeof buffer));
	T(readlink("long", buffer, 10));
	T(readlink("long", buffer, 0));
	T(readlink("long", buffer, -1));
	T(open("long", O_RDONLY));
	name[4096] = 't', name[4095] = 't', name[4097] = 0;
	T(symlink(name, "longer"));
	/* Forty links in a row, and one more. */
	T(symlink("/", "l0"));
	for (int i = 1; i <= 41; i++) {
		char from[16], to[16];
		sprintf(from, "l%d", i - 1), sprintf(to, "l%d", i);
		if (symlink(from, to))
			perror("symlink");
	}
	T(access("l39", F_OK));
	T(access("l40", F_OK));
	T(mkdir("d", 0700));
	T(mkdir("d/e", 0700));
	T(rename("d", "d/e/f"));
	T(rename("d/e", "d"));
	T(rename("d", "d"));
	T(rename(".", "x"));
	T(rename("d/.", "x"));
	T(rename("d/..", "x"));
	T(rename("nothing", "x"));
	T(rename("d/", "x/"));
	T(rename("x", "d"));
	int fd = file("f");
	T(rename("f", "d"));
	T(rename("d", "f"));
	T(rename("f", "g/"));
	T(rename("f/", "g"));
	T(renameat2(AT_FDCWD, "f", AT_FDCWD, "d", RENAME_EXCHANGE));
	T(renameat2(AT_FDCWD, "f", AT_FDCWD, "d", RENAME_EXCHANGE));
	T(renameat2(AT_FDCWD, "f", AT_FDCWD, "d", RENAME_NOREPLACE));
	T(renameat2(AT_FDCWD, "f", AT_FDCWD, "d", 3));
	T(renameat2(AT_FDCWD, "d", AT_FDCWD, "d/e", RENAME_EXCHANGE));
	T(renameat2(AT_FDCWD, "f", AT_FDCWD, "f", RENAME_NOREPLACE));
	T(link("f", "h"));
	T(rename("f", "h"));
	T(access("f", F_OK));
	T(link("d", "hard"));
	T(link("f", "f"));
	T(rename("f", "/proc/x"));
	T(unlink("d"));
	T(unlink("f/"));
	T(unlink("."));
	T(unlink("/"));
	T(rmdir("."));
	T(rmdir("d/e/.."));
	T(rmdir("d"));
	T(rmdir("f"));
	T(rmdir("/"));
	T(rmdir("/proc"));
	T(unlinkat(AT_FDCWD, "f", 0x400));
	T(linkat(AT_FDCWD, "f", AT_FDCWD, "z", 1));
	T(unlink("f"));
	T(unlink("h"));
	T(size(fd));
	T(write(fd, "still", 5));
	sprintf(name, "/proc/self/fd/%d", fd);
	T(linkat(AT_FDCWD, name, AT_FDCWD, "again", AT_SYMLINK_FOLLOW));
	T(open(name, O_RDONLY) >= 0);
	int hidden = open(".", O_TMPFILE | O_RDWR, 0600);
	T(hidden >= 0);
	sprintf(name, "/proc/self/fd/%d", hidden);
	T(linkat(AT_FDCWD, name, AT_FDCWD, "shown", AT_SYMLINK_FOLLOW));
	T(access("shown", F_OK));
	T(open(".", O_TMPFILE | O_RDONLY, 0600));
	hidden = open(".", O_TMPFILE | O_EXCL | O_RDWR, 0600);
	sprintf(name, "/proc/self/fd/%d", hidden);
	T(linkat(AT_FDCWD, name, AT_FDCWD, "never", AT_SYMLINK_FOLLOW));
	/* A directory that is gone. */
	T(mkdir("gone", 0700));
	int gone = open("gone", O_RDONLY | O_DIRECTORY);
	T(chdir("gone"));
	T(rmdir("../gone"));
	T(CALL(getcwd, buffer, sizeof buffer));
	T(open("x", O_CREAT | O_RDWR, 0600));
	T(mkdir("x", 0700));
	T(access(".", F_OK));
	T(access("..", F_OK));
	T(CALL(getdents64, gone, buffer, sizeof buffer));
	T(openat(gone, ".", O_TMPFILE | O_RDWR, 0600) >= 0);
	T(chdir("/tmp"));
	int dir = open("/", O_RDONLY);
	T(CALL(getdents64, dir, buffer, 10));
	T(CALL(getdents64, fd, buffer, 1000));
	T(read(dir, buffer, 10));
	T(CALL(getcwd, buffer, 1));
	T(CALL(getcwd, buffer, 0));
	T(openat(fd, "x", O_RDONLY));
	T(openat(-5, "x", O_RDONLY));
	T(openat(-5, "/", O_RDONLY | O_DIRECTORY) >= 0);
	T(open("/dev/null", O_RDONLY | O_DIRECTORY));
	T(open("/tmp", O_RDWR));
	/* Confined to a directory, absolute paths and links stay in it. */
	int jail = open("/tmp/p", O_RDONLY | O_DIRECTORY);
	T(openat(jail, "shown", O_RDONLY) >= 0);
	T(symlinkat("/shown", jail, "inside"));
	for (unsigned long resolve = 8; resolve <= 16; resolve *= 2) {
		unsigned long how[3] = { O_RDONLY, 0, resolve };
		T(CALL(openat2, jail, "/shown", how, sizeof how) > 0 ? 0 : -1);
		T(CALL(openat2, jail, "inside", how, sizeof how) > 0 ? 0 : -1);
		T(CALL(openat2, jail, "/proc/self", how, sizeof how));
		T(CALL(openat2, jail, "../../../../proc/self", how, sizeof how));
	}
	T(open("/tmp", O_CREAT, 0600));
	T(open("/dev/null/x", O_RDONLY));
	T(mknod("/tmp/fifo", S_IFIFO | 0600, 0));
	T(mknod("/tmp/odd", 0170000 | 0600, 0));
	T(mknod("/tmp/dir", S_IFDIR | 0600, 0));
	T(utimensat(AT_FDCWD, "/tmp/fifo", (struct timespec[2]){ { 0, 1000000000 }, { 0, 0 } }, 0));
	T(utimensat(AT_FDCWD, "/tmp/fifo", (struct timespec[2]){ { 0, UTIME_OMIT }, { 0, UTIME_NOW } }, 0));
	T(faccessat(AT_FDCWD, "/tmp/fifo", 8, 0));
	T(chmod("/proc/self/exe/x", 0));
	T(open("/proc/self/fd/999", O_RDONLY));
	T(open("/proc/self/fd/-1", O_RDONLY));
	T(open("/proc/999999999999", O_RDONLY));
	T(open("/proc/0", O_RDONLY));
}

static void memory(void)
{
	int fd = file("/tmp/m");
	char *p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *q;
	long top = 0x7ffffffff000;

	T(ftruncate(fd, 4 * PAGE));
	OK(mmap((void *)top, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	OK(mmap((void *)-PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	OK(mmap((void *)(top - PAGE), 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	OK(mmap(KERNEL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	OK(mmap(NULL, -1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	OK(mmap(NULL, 1UL << 47, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
	OK(mmap(NULL, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0));
	OK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_SHARED, fd, 0));
	OK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 1));
	OK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0));
	OK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_GROWSDOWN, fd, 0));
	OK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED | MAP_GROWSDOWN | MAP_ANONYMOUS, -1, 0));
	OK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_GROWSDOWN | MAP_ANONYMOUS, -1, 0));
	OK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED_VALIDATE | MAP_ANONYMOUS | 0x40000000, -1, 0));
	OK(mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	OK(mmap(p + 1, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	T(munmap(p + 1, PAGE));
	T(munmap(p, 0));
	T(munmap((void *)top, PAGE));
	T(munmap((void *)(top - PAGE), 2 * PAGE));
	T(munmap(p + 3 * PAGE, PAGE));
	T(mprotect(p + 2 * PAGE, 3 * PAGE, PROT_NONE));
	T(mprotect(p + 1, PAGE, PROT_READ));
	T(mprotect(p, PAGE, 0x100));
	T(mprotect(p, PAGE, PROT_GROWSDOWN));
	T(mprotect(p, PAGE, PROT_GROWSDOWN | PROT_GROWSUP));
	T(mprotect(p, -1, PROT_READ));
	OK(mremap(p, 4 * PAGE, 8 * PAGE, MREMAP_MAYMOVE));
	OK(mremap(p, PAGE, 0, 0));
	OK(mremap(p + 1, PAGE, PAGE, 0));
	OK(mremap(p, 0, PAGE, MREMAP_MAYMOVE));
	OK(mremap(p, PAGE, PAGE, 8));
	OK(mremap(p, PAGE, PAGE, MREMAP_FIXED, p + 8 * PAGE));
	OK(mremap(p, 2 * PAGE, 2 * PAGE, MREMAP_FIXED | MREMAP_MAYMOVE, p + PAGE));
	OK(mremap(p, PAGE, PAGE, MREMAP_FIXED | MREMAP_MAYMOVE, (void *)top));
	OK(mremap(p + 3 * PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
	OK(mremap(p, PAGE, 2 * PAGE, MREMAP_DONTUNMAP | MREMAP_MAYMOVE));
	memcpy(p + 8 * PAGE, "moved", 6);
	q = mremap(p + 8 * PAGE, PAGE, PAGE, MREMAP_FIXED | MREMAP_MAYMOVE, p + 3 * PAGE);
	T(q == p + 3 * PAGE && !strcmp(q, "moved"));
	T(munmap(p, 16 * PAGE));
	T(madvise(p, PAGE, MADV_DONTNEED));
	T(madvise(p, 0, MADV_DONTNEED));
	T(madvise(p + 1, 0, MADV_DONTNEED));
	T(madvise(p, -1, MADV_DONTNEED));
	T(madvise(p, PAGE, 9999));
	T(mincore(p, PAGE, (void *)buffer));
	T(mincore((void *)1, PAGE, (void *)buffer));
	T(msync(p, PAGE, MS_SYNC));
	T(msync((void *)1, PAGE, MS_SYNC));
	T(msync(p, PAGE, MS_SYNC | MS_ASYNC));
	/* Shared and private views of one file, and what truncation does to them. */
	char *shared = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *private = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	strcpy(shared, "all see this");
	T(strcmp(private, "all see this"));
	strcpy(private, "nobody sees this");
	T(strcmp(shared, "all see this"));
	T(pread(fd, buffer, 13, 0) == 13 && !strcmp(buffer, "all see this"));
	T(pwrite(fd, "everybody sees this", 20, PAGE));
	T(strcmp(shared + PAGE, "everybody sees this") | strcmp(private + PAGE, "everybody sees this"));
	strcpy(shared + PAGE + 2000, "tail");
	T(ftruncate(fd, PAGE + 1000));
	T(ftruncate(fd, 4 * PAGE));
	T(shared[PAGE + 2000]);
	T(shared[3 * PAGE]);
	T(unlink("/tmp/m"));
	T(shared[0]);
	close(fd);
	T(shared[0]);
	int readonly = open("/tmp/m2", O_RDONLY | O_CREAT, 0600), writeonly = open("/tmp/m2", O_WRONLY);
	OK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, readonly, 0));
	OK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, readonly, 0));
	OK(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, writeonly, 0));
	p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, readonly, 0);
	T(mprotect(p, PAGE, PROT_READ | PROT_WRITE));
	T(write(1, p, 1));
	T(read(open("/dev/zero", O_RDONLY), p, 1));
	OK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, open("/tmp", O_RDONLY), 0));
	/* Thousands of pieces, joined again. */
	p = mmap(NULL, 20000 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	for (int i = 0; i < 20000; i += 2)
		if (mprotect(p + i * PAGE, PAGE, PROT_NONE))
			perror("mprotect");
	T(mprotect(p, 20000 * PAGE, PROT_READ | PROT_WRITE));
	p[12345 * PAGE] = 7;
	T(p[12345 * PAGE] + p[12344 * PAGE]);
	T(munmap(p, 20000 * PAGE));
}

static void streams(void)
{
	int p[2];
	struct pollfd both[4];
	fd_set set;
	struct timeval now = { 0, 0 };
	long total = 0, n;

	T(pipe2(p, 1));
	T(CALL(pipe2, KERNEL, 0));
	if (pipe2(p, O_NONBLOCK))
		return;
	T(read(p[0], buffer, 1));
	T(read(p[0], buffer, 0));
	T(read(p[1], buffer, 1));
	T(write(p[0], buffer, 1));
	T(lseek(p[0], 0, SEEK_SET));
	T(pread(p[0], buffer, 1, 0));
	while ((n = write(p[1], buffer, 4096)) > 0)
		total += n;
	T(total);
	T(write(p[1], buffer, 5000));
	T(write(p[1], buffer, 1));
	both[0] = (struct pollfd){ p[0], -1, 0 };
	both[1] = (struct pollfd){ p[1], -1, 0 };
	both[2] = (struct pollfd){ -1, -1, 77 };
	both[3] = (struct pollfd){ 999, -1, 0 };
	T(poll(both, 4, 0));
	for (int i = 0; i < 4; i++)
		T(both[i].revents);
	T(read(p[0], buffer, 4096));
	T(poll(both, 2, 0));
	T(both[0].revents);
	T(both[1].revents);
	close(p[1]);
	while (read(p[0], buffer, sizeof buffer) > 0)
		;
	T(read(p[0], buffer, 1));
	T(poll(both, 1, -1));
	T(both[0].revents);
	close(p[0]);
	if (pipe2(p, O_NONBLOCK))
		return;
	close(p[0]);
	signal(SIGPIPE, SIG_IGN);
	T(write(p[1], buffer, 1));
	T(write(p[1], buffer, 0));
	both[0].fd = p[1];
	T(poll(both, 1, -1));
	T(both[0].revents);
	T(select(-1, NULL, NULL, NULL, &now));
	FD_ZERO(&set);
	FD_SET(p[0], &set);
	T(select(p[0] + 1, &set, NULL, NULL, &now));
	T(select(0, NULL, NULL, NULL, &(struct timeval){ 0, -1 }));
	T(select(0, NULL, NULL, NULL, &(struct timeval){ 0, 5000000 }) == 0 ? 0 : -1);
	T(ppoll(NULL, 0, &(struct timespec){ 0, 1000000000 }, NULL));
	T(CALL(ppoll, NULL, 0, &(struct timespec){ 0, 0 }, buffer, 7));
	T(CALL(pselect6, 0, NULL, NULL, NULL, &(struct timespec){ 0, 0 }, (long[2]){ (long)buffer, 7 }));
	T(CALL(pselect6, 0, NULL, NULL, NULL, &(struct timespec){ 0, 0 }, (long[2]){ (long)KERNEL, 8 }));
	close(p[1]);
}

static void proc(void)
{
	static const char *const names[] = { "/proc/self/status", "/proc/self/stat", "/proc/meminfo", "/proc/self/cmdline", "/proc/version", "/proc/self/comm" };
	char byte;

	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		int fd = open(names[i], O_RDONLY);
		long count = 0;
		printf("%s\n", names[i]);
		while (read(fd, &byte, 1) == 1)
			count++;
		T(count > 5);
		T(pread(fd, buffer, 100, 1L << 40));
		T(pread(fd, buffer, 100, LONG_MAX));
		T(pread(fd, buffer, 2, 3));
		T(lseek(fd, -1, SEEK_SET));
		T(lseek(fd, 1, SEEK_SET));
		T(pread(fd, KERNEL, 100, 0));
		T(write(fd, "x", 1));
		close(fd);
	}
	T(open("/proc/self/status", O_RDWR) >= 0 ? 0 : -1);
	T(unlink("/proc/self/status"));
	T(open("/proc/self/status", O_WRONLY | O_CREAT | O_EXCL, 0600));
	T(readlink("/proc/self/exe", buffer, 1));
}

static void odd(void)
{
	char *empty[] = { NULL };
	static char argument[(128 << 10) + 1];
	char *longs[] = { argument, NULL };
	sigset_t mask;
	stack_t stack = { buffer, 0, 100 }, old;
	struct sigaction action = { .sa_handler = SIG_IGN };
	int word = 0;

	memset(argument, 'a', sizeof argument - 1);
	T(chdir("/tmp"));
	T(execve("/", empty, empty));
	T(execve("/dev/null", empty, empty));
	T(execve("nothing", empty, empty));
	T(execve("", empty, empty));
	close(open("x", O_CREAT | O_WRONLY, 0755));
	T(execve("x", empty, empty));
	T(execve("x/", empty, empty));
	T(chmod("x", 0644));
	T(execve("x", empty, empty));
	int fd = open("y", O_CREAT | O_WRONLY, 0755);
	T(write(fd, "#!/tmp/y\n", 9));
	close(fd);
	T(execve("y", empty, empty));
	fd = open("z", O_CREAT | O_WRONLY, 0755);
	T(write(fd, "#!/nothing\n", 11));
	close(fd);
	T(execve("z", empty, empty));
	T(execve("/proc/self/exe", longs, empty));
	T(execve("/proc/self/exe", (char **)KERNEL, empty));
	T(CALL(execveat, AT_FDCWD, "", empty, empty, 0));
	T(CALL(execveat, -1, "x", empty, empty, 0));
	T(CALL(execveat, AT_FDCWD, "x", empty, empty, 0x10));

	T(sigaction(SIGKILL, &action, NULL));
	T(CALL(rt_sigaction, 65, NULL, NULL, 8));
	T(CALL(rt_sigaction, 0, NULL, NULL, 8));
	T(CALL(rt_sigaction, SIGUSR1, &action, NULL, 16));
	T(CALL(rt_sigprocmask, 9, NULL, NULL, 8));
	sigfillset(&mask);
	T(CALL(rt_sigprocmask, 9, &mask, NULL, 8));
	T(sigaltstack(&stack, &old));
	stack.ss_flags = 77, stack.ss_size = 1 << 16;
	T(sigaltstack(&stack, &old));
	T(kill(getpid(), 65));
	T(kill(getpid(), -1));
	T(kill(getpid(), 0));
	T(kill(INT_MIN, 0));
	T(CALL(tgkill, getpid(), 0, 0));
	T(CALL(tgkill, -1, getpid(), 0));
	T(CALL(tkill, INT_MAX, 0));
	T(raise(SIGCHLD));
	T(raise(SIGWINCH));

	T(CALL(arch_prctl, 0x1002, 0x800000000000));
	T(CALL(arch_prctl, 0x1001, 0xffff800000000000));
	T(CALL(arch_prctl, 0x1001, -1));
	T(CALL(arch_prctl, 0x1001, 0x7fffffffe000));
	T(CALL(arch_prctl, 0x1004, buffer));
	T(*(long *)buffer == 0x7fffffffe000);
	T(CALL(arch_prctl, 0x1001, 0));
	T(CALL(arch_prctl, 0x9999, 0));

	T(CALL(futex, (char *)&word + 1, 1, 1, NULL, NULL, 0));
	T(CALL(futex, &word, 0, 1, NULL, NULL, 0));
	T(CALL(futex, &word, 0, 0, &(struct timespec){ 0, -1 }, NULL, 0));
	T(CALL(futex, &word, 0, 0, &(struct timespec){ 0, 1 }, NULL, 0));
	T(CALL(futex, &word, 9, 0, NULL, NULL, 0));
	T(CALL(futex, &word, 3, -1, 1, &word, 0));
	T(CALL(futex, &word, 4, 1, 1, &word, 1));
	T(CALL(futex, &word, 99, 1, 1, &word, 1));
	T(CALL(nanosleep, &(struct timespec){ -1, 0 }, NULL));
	T(CALL(nanosleep, &(struct timespec){ 0, 1000000000 }, NULL));
	T(CALL(clock_nanosleep, 1, 1, &(struct timespec){ 0, 5 }, NULL));
	T(CALL(clock_nanosleep, 99, 1, &(struct timespec){ 0, 5 }, NULL));
	T(CALL(clock_gettime, 99, buffer));
	T(CALL(getrandom, buffer, 10, 99));
	T(CALL(getrandom, buffer, 0, 0));
	T(CALL(memfd_create, "x", 0x1000));
	T(CALL(getrusage, 5, buffer));
	T(CALL(getpriority, 9, 0));
	T(CALL(sched_getaffinity, 0, 1, buffer));
	T(CALL(sched_getscheduler, -1));
	T(CALL(wait4, -1, NULL, 0, NULL));
	T(CALL(ioctl, 0, 0x12345678, KERNEL) == -1 ? 0 : 1);
	T(CALL(membarrier, 99, 0));
	T(CALL(uname, KERNEL));
}

int main(void)
{
	if (chdir("/tmp"))
		return 1;
	vectors();
	sizes();
	copies();
	descriptors();
	limits();
	paths();
	memory();
	streams();
	proc();
	odd();
	return 0;
}
