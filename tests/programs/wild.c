/*
 * Wild pointers into every call that takes a pointer: each must come back with EFAULT, and nothing else may happen.
 *
 * A row of the table is a call whose other arguments are valid, and which of its arguments is the pointer. Every
 * row is tried with every kind of wild pointer. Rows where a result other than EFAULT is also right (the kernel may
 * look at something else first) carry that as their alternative. Run on Linux, this checks its own table.
 *
 * A call that is not there at all (ENOSYS) is reported at the end, and does not count as an error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/futex.h>
#include <unistd.h>

#define WILD 0x3117d00dUL
#define FREE 0x7a7a7a7aUL /* replaced by a pointer to valid memory */

struct row {
	const char *name;
	long number;
	unsigned long args[6];
	int also;
};

enum { FILE_FD = 100, ZERO_FD, DIR_FD, NULL_FD };
#define CWD ((unsigned long)AT_FDCWD)
#define ROW(call, ...) { #call, SYS_##call, { __VA_ARGS__ }, 0 }
#define ROW_OR(also, call, ...) { #call, SYS_##call, { __VA_ARGS__ }, also }

/* NULL means "not wanted" to the calls in this part, so that they are not given it. */
static const struct row optional[] = {
	ROW(rt_sigaction, SIGUSR1, WILD, 0, 8),
	ROW(rt_sigaction, SIGUSR1, 0, WILD, 8),
	ROW(rt_sigprocmask, SIG_BLOCK, WILD, 0, 8),
	ROW(rt_sigprocmask, SIG_BLOCK, 0, WILD, 8),
	ROW(sigaltstack, WILD, 0),
	ROW(sigaltstack, 0, WILD),
	ROW(prlimit64, 0, 7, WILD, 0),
	ROW(prlimit64, 0, 7, 0, WILD),
	ROW(gettimeofday, WILD, 0),
	ROW(time, WILD),
	ROW(getcpu, WILD, 0, 0),
	ROW(clock_getres, 1, WILD),
	ROW(utimensat, FILE_FD, 0, WILD, 0),
	ROW(sendfile, NULL_FD, FILE_FD, WILD, 10),
	ROW(futex, FREE, FUTEX_WAIT, 0, WILD),
	ROW(ppoll, FREE, 0, WILD, 0, 8),
	ROW(select, 0, 0, 0, 0, WILD),
	ROW(select, 1, WILD, 0, 0, FREE),
	ROW(times, WILD),
};

static const struct row required[] = {
	ROW(read, ZERO_FD, WILD, 64),
	ROW(read, FILE_FD, WILD, 64),
	ROW(pread64, FILE_FD, WILD, 64, 0),
	ROW(write, FILE_FD, WILD, 64),
	ROW(pwrite64, FILE_FD, WILD, 64, 0),
	ROW(readv, FILE_FD, WILD, 2),
	ROW(writev, FILE_FD, WILD, 2),
	ROW(preadv, FILE_FD, WILD, 2, 0, 0),
	ROW(pwritev, FILE_FD, WILD, 2, 0, 0),
	ROW(open, WILD, O_RDONLY, 0),
	ROW(openat, CWD, WILD, O_RDONLY, 0),
	ROW(creat, WILD, 0600),
	ROW(stat, WILD, FREE),
	ROW(stat, FREE, WILD),
	ROW(lstat, WILD, FREE),
	ROW(lstat, FREE, WILD),
	ROW(fstat, FILE_FD, WILD),
	ROW(newfstatat, CWD, WILD, FREE, 0),
	ROW(newfstatat, CWD, FREE, WILD, 0),
	ROW(statx, CWD, WILD, 0, 0x7ff, FREE),
	ROW(statx, CWD, FREE, 0, 0x7ff, WILD),
	ROW(statfs, WILD, FREE),
	ROW(statfs, FREE, WILD),
	ROW(fstatfs, FILE_FD, WILD),
	ROW(access, WILD, 0),
	ROW(faccessat, CWD, WILD, 0),
	ROW(faccessat2, CWD, WILD, 0, 0),
	ROW(getcwd, WILD, 100),
	ROW(chdir, WILD),
	ROW(mkdir, WILD, 0700),
	ROW(mkdirat, CWD, WILD, 0700),
	ROW(rmdir, WILD),
	ROW(unlink, WILD),
	ROW(unlinkat, CWD, WILD, 0),
	ROW(rename, WILD, FREE),
	ROW(rename, FREE, WILD),
	ROW(renameat, CWD, WILD, CWD, FREE),
	ROW(renameat2, CWD, FREE, CWD, WILD, 0),
	ROW(link, WILD, FREE),
	ROW(link, FREE, WILD),
	ROW(linkat, CWD, WILD, CWD, FREE, 0),
	ROW(symlink, WILD, FREE),
	ROW(symlink, FREE, WILD),
	ROW(symlinkat, FREE, CWD, WILD),
	ROW(readlink, WILD, FREE, 10),
	ROW_OR(EINVAL, readlink, FREE, WILD, 10),
	ROW(readlinkat, CWD, WILD, FREE, 10),
	ROW(chmod, WILD, 0600),
	ROW(fchmodat, CWD, WILD, 0600),
	ROW(chown, WILD, 0, 0),
	ROW(lchown, WILD, 0, 0),
	ROW(fchownat, CWD, WILD, 0, 0, 0),
	ROW(truncate, WILD, 0),
	ROW(mknod, WILD, S_IFREG | 0600, 0),
	ROW(getdents64, DIR_FD, WILD, 4096),
	ROW(pipe, WILD),
	ROW(pipe2, WILD, 0),
	ROW(poll, WILD, 1, 0),
	ROW(nanosleep, WILD, 0),
	ROW(clock_nanosleep, 1, 0, WILD, 0),
	ROW(clock_gettime, 0, WILD),
	ROW(clock_gettime, 1, WILD),
	ROW(uname, WILD),
	ROW(sysinfo, WILD),
	ROW(getrlimit, 7, WILD),
	ROW(setrlimit, 7, WILD),
	ROW(getrusage, 0, WILD),
	ROW(getrandom, WILD, 16, 0),
	ROW_OR(EINVAL, futex, WILD, FUTEX_WAIT, 0, 0),
	ROW(getresuid, WILD, FREE, FREE),
	ROW(getresgid, FREE, FREE, WILD),
	ROW(arch_prctl, 0x1003, WILD),
	ROW(sched_getaffinity, 0, 128, WILD),
	ROW_OR(ENOTTY, ioctl, FILE_FD, 0x5413, WILD),
	ROW(execve, WILD, FREE, FREE),
	ROW(memfd_create, WILD, 0),
	ROW(prctl, 16, WILD),
	ROW(prctl, 15, WILD),
};

static char scratch[1 << 16] __attribute__((aligned(4096)));

static int try(const struct row *row, unsigned long wild, int *missing)
{
	unsigned long args[6];

	memset(scratch, 0, sizeof scratch);
	strcpy(scratch, "/tmp/wild-file");
	for (int i = 0; i < 6; i++)
		args[i] = row->args[i] == WILD ? wild : row->args[i] == FREE ? (unsigned long)scratch : row->args[i];
	lseek(FILE_FD, 0, SEEK_SET);
	lseek(DIR_FD, 0, SEEK_SET);
	errno = 0;
	long result = syscall(row->number, args[0], args[1], args[2], args[3], args[4], args[5]);
	if (result == -1 && (errno == EFAULT || (row->also && errno == row->also)))
		return 0;
	if (result == -1 && errno == ENOSYS) {
		*missing = 1;
		return 0;
	}
	printf("%s(", row->name);
	for (int i = 0; i < 6; i++)
		printf("%s%lx", i ? ", " : "", args[i]);
	printf(") = %ld, errno %d %s\n", result, result == -1 ? errno : 0, result == -1 ? strerror(errno) : "");
	return 1;
}

int main(void)
{
	/* The last bytes of a page that is followed by nothing; by a page that may not be touched. */
	char *edge = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(edge + 4096, 4096, PROT_NONE);
	munmap(edge + 8192, 4096);
	const unsigned long pointers[] = {
		1,
		0xfff,
		(unsigned long)edge + 4096,	/* mapped, no rights */
		(unsigned long)edge + 8192,	/* not mapped */
		0x7fffffffffff,			/* the last byte below the hole */
		0x7ffffffff000,			/* the page Linux never gives out */
		0x800000000000,			/* not canonical */
		0xdead000000000000,
		0xffff7fffffffffff,
		0xffff800000000000,		/* the kernel's half */
		0xffff888000000000,
		0xffffffff80000000,
		0xffffffff80100000,
		0xfffffffffffff000,
		0xffffffffffffffff,
	};
	const int kinds = sizeof pointers / sizeof *pointers;
	int fd, failures = 0, missing = 0, rows = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	umask(022);
	fd = open("/tmp/wild-file", O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, scratch, 4096) != 4096)
		return 2;
	dup2(fd, FILE_FD);
	dup2(open("/dev/zero", O_RDONLY), ZERO_FD);
	dup2(open("/", O_RDONLY | O_DIRECTORY), DIR_FD);
	dup2(open("/dev/null", O_RDWR), NULL_FD);

	for (unsigned i = 0; i < sizeof required / sizeof *required; i++, rows++) {
		int absent = 0;
		failures += try(&required[i], 0, &absent);
		for (int kind = 0; kind < kinds; kind++)
			failures += try(&required[i], pointers[kind], &absent);
		if (absent)
			printf("absent: %s\n", required[i].name), missing++;
	}
	for (unsigned i = 0; i < sizeof optional / sizeof *optional; i++, rows++) {
		int absent = 0;
		for (int kind = 0; kind < kinds; kind++)
			failures += try(&optional[i], pointers[kind], &absent);
		if (absent)
			printf("absent: %s\n", optional[i].name), missing++;
	}
	printf("%d calls, %d kinds of pointers, %d wrong, %d absent\n", rows, kinds + 1, failures, missing);
	return failures != 0;
}
