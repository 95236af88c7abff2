/*
 * Random system calls with random arguments: sysfuzz SEED COUNT CANARY [trace]
 *
 * For a guest kernel, never for a real machine: it unlinks, mounts and changes the clock as it comes. Everything is decided by the seed.
 * Left out, or given arguments that are harmless, is only what would end or stop this process itself: exit, kill, exec,
 * fork, waits without end, and memory calls on its own text, data and stack. The canary is a file whose contents must
 * be the same afterwards; it is held open, and no path that the calls are given leads to it.
 *
 * Calls are made without a libc in between, since a wild arch_prctl may take away its thread pointer.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OUT_FD = 900, CANARY_FD, LAST_KEPT = CANARY_FD, ARENA = 64 * 4096 };

typedef unsigned long word;

extern char __executable_start[], _end[];

static char *arena;
static word state, thread_pointer;
static const word brief[2] = { 0, 1000 };

static long call6(word number, const word *a)
{
	register word r10 __asm__("r10") = a[3];
	register word r8 __asm__("r8") = a[4];
	register word r9 __asm__("r9") = a[5];
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return result;
}

static long call(word number, word a, word b, word c, word d)
{
	return call6(number, (word[6]){ a, b, c, d, 0, 0 });
}

static word next(void)
{
	word z = state += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static word below(word bound)
{
	return next() % bound;
}

static word pick(const word *from, word count)
{
	return from[below(count)];
}

static void ignore_signals(void)
{
	static const word ignore[4] = { 1 };

	for (int number = 1; number <= 64; number++)
		if (number != SIGSEGV && number != SIGBUS && number != SIGILL && number != SIGFPE)
			call(SYS_rt_sigaction, number, (word)ignore, 0, 8);
}

static const char *const paths[] = {
	"/", ".", "..", "", "/tmp", "/tmp/a", "/tmp/b", "/tmp/a/b", "a", "b", "/dev/null", "/dev/zero", "/dev/full", "/dev/urandom",
	"/proc", "/proc/self/maps", "/proc/self/exe", "/proc/self/status", "/proc/self/fd", "/proc/meminfo", "/proc/self/cmdline",
	"/tmp/../tmp/./a", "/tmp//a/", "tmpfs", "proc",
};

/* An argument of a kind that some call wants, whichever call it is for. */
static word argument(void)
{
	static const word edges[] = {
		0, 1, 2, 3, 7, 8, 16, 64, 255, 4095, 4096, 4097, 65536, 1 << 20, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
		0x7fffffffffff, 0x7ffffffff000, 0x800000000000, 0xffff800000000000, 0xffffffff80000000, 0x7fffffffffffffff,
		0x8000000000000000, 0xfffffffffffff000, -2UL, -1UL, AT_FDCWD,
	};
	switch (below(10)) {
	case 0:
		return pick(edges, sizeof edges / sizeof *edges);
	case 1:
		return below(16);
	case 2:
		return next();
	case 3:
		return 1UL << below(64);
	case 4:
		return below(1 << 16);
	case 5:
		return (word)paths[below(sizeof paths / sizeof *paths)];
	case 6:
		return (word)arena + (below(ARENA / 4096) << 12);
	case 7:
		return (word)arena + ARENA - below(64);
	default:
		return (word)arena + below(ARENA);
	}
}

/* Whether pages of this program itself lie in the range. */
static int own(word start, word length)
{
	word here = (word)__builtin_frame_address(0) - (16 << 20), end;

	start &= ~4095UL;
	if (__builtin_add_overflow(start, length, &end) || __builtin_add_overflow(end, 4095, &end))
		end = -1UL;
	return (start < (word)_end + (64 << 20) && end > (word)__executable_start) || (start < 0x7fffffffffff && end > here);
}

/* Makes the call one that this process outlives; 0 when it cannot be. */
static int tame(word number, word *a)
{
	switch (number) {
	case SYS_exit: case SYS_exit_group: case SYS_kill: case SYS_tkill: case SYS_tgkill: case SYS_rt_sigqueueinfo:
	case SYS_rt_tgsigqueueinfo: case SYS_pidfd_send_signal: case SYS_execve: case SYS_execveat: case SYS_fork: case SYS_vfork:
	case SYS_clone: case SYS_clone3: case SYS_pause: case SYS_rt_sigsuspend: case SYS_rt_sigreturn: case SYS_ptrace:
	case SYS_seccomp: case SYS_rseq: case SYS_setrlimit: case SYS_pipe: case SYS_eventfd: case SYS_signalfd:
	case SYS_inotify_init: case SYS_io_getevents: case SYS_io_pgetevents: case SYS_semop: case SYS_semtimedop:
	case SYS_msgrcv: case SYS_msgsnd: case SYS_mq_timedsend: case SYS_mq_timedreceive: case 449 /* futex_waitv */:
	case 335 /* uretprobe */: case 336 /* uprobe */: case SYS_reboot: case SYS_io_uring_enter: case SYS_shmat: case SYS_remap_file_pages: case SYS_process_vm_writev:
		return 0;
	case SYS_prctl:
		/* Seccomp, the speculation that kills, dispatch of calls, and moving the program's own memory. */
		return (int)a[0] != 22 && (int)a[0] != 59 && (int)a[0] != 35;
	case SYS_munmap: case SYS_mprotect: case SYS_madvise: case SYS_pkey_mprotect: case SYS_process_madvise:
		return !own(a[0], a[1]);
	case SYS_mmap:
		return !own(a[0], a[1]) || !(a[3] & (MAP_FIXED | MAP_FIXED_NOREPLACE));
	case SYS_mremap:
		return !own(a[0], a[1]) && !(a[3] & 2 && own(a[4], a[2]));
	case SYS_prlimit64:
		a[2] = 0;
		break;
	case SYS_close_range:
		return (uint32_t)a[1] < OUT_FD;
	case SYS_nanosleep:
		a[0] = (word)brief;
		break;
	case SYS_clock_nanosleep: case SYS_ppoll: case SYS_rt_sigtimedwait:
		a[2] = (word)brief;
		break;
	case SYS_futex: case 441 /* epoll_pwait2 */:
		a[3] = (word)brief;
		break;
	case SYS_select: case SYS_pselect6:
		a[4] = (word)brief;
		break;
	case SYS_poll:
		a[2] &= 1;
		break;
	case SYS_epoll_wait: case SYS_epoll_pwait:
		a[3] &= 1;
		break;
	case SYS_flock:
		a[1] |= 4;
		break;
	case SYS_fcntl:
		if ((uint32_t)a[1] == 7 || (uint32_t)a[1] == 38)
			a[1]--;
		if ((uint32_t)a[1] == F_SETFL)
			a[2] |= O_NONBLOCK;
		break;
	case SYS_mknod:
		a[1] = (a[1] & 0777) | 0100000;
		break;
	case SYS_mknodat:
		a[2] = (a[2] & 0777) | 0100000;
		break;
	case SYS_pipe2: case SYS_eventfd2: case SYS_socket: case SYS_socketpair: case SYS_timerfd_create:
		a[1] |= O_NONBLOCK;
		break;
	case SYS_accept4: case SYS_signalfd4:
		a[3] |= O_NONBLOCK;
		break;
	case SYS_inotify_init1: case SYS_userfaultfd:
		a[0] |= O_NONBLOCK;
		break;
	case SYS_ioctl:
		return (uint32_t)a[1] != 0x5421;
	}
	for (int i = 0; i < 6; i++)
		if ((uint32_t)a[i] >= OUT_FD && (uint32_t)a[i] <= LAST_KEPT)
			a[i] = 3;
	return 1;
}

static word checksum(void)
{
	static unsigned char block[4096];
	word sum = 0xcbf29ce484222325, at = 0;
	long count;

	while ((count = call(SYS_pread64, CANARY_FD, (word)block, sizeof block, at)) > 0) {
		for (long i = 0; i < count; i++)
			sum = (sum ^ block[i]) * 0x100000001b3;
		at += (word)count;
	}
	return count < 0 ? 0 : sum ^ at;
}

int main(int argc, char **argv)
{
	word count, done = 0, succeeded = 0, before, after;
	char line[256];

	if (argc < 4)
		return 2;
	state = strtoul(argv[1], NULL, 0);
	count = strtoul(argv[2], NULL, 0);
	int canary = open(argv[3], O_RDONLY);
	int null = open("/dev/null", O_RDWR);
	if (canary < 0 || null < 0 || dup2(canary, CANARY_FD) < 0 || dup2(1, OUT_FD) < 0)
		return 2;
	/* What the calls print is nobody's output, and what they read must not be waited for. */
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	call(SYS_arch_prctl, 0x1003, (word)&thread_pointer, 0, 0);
	ignore_signals();
	before = checksum();

	while (done < count) {
		word a[6], number = below(64) ? below(452) : next();

		for (int i = 0; i < 6; i++)
			a[i] = argument();
		/* Structures that the pointers lead to: some random, some small numbers and addresses. */
		word at = below(ARENA / 8 - 8);
		call(SYS_mprotect, (word)arena, ARENA, PROT_READ | PROT_WRITE, 0);
		for (int i = 0; i < 8; i++)
			((word *)arena)[at + i] = argument();
		if (!tame(number, a))
			continue;
		if (argc > 4) {
			int length = snprintf(line, sizeof line, "%lu %lu(%lx, %lx, %lx, %lx, %lx, %lx)\n", done, number, a[0], a[1], a[2], a[3], a[4], a[5]);
			call(SYS_write, OUT_FD, (word)line, (word)length, 0);
		}
		long result = call6(number, a);
		succeeded += result >= 0 || result < -4095;
		done++;
		if (number == SYS_arch_prctl)
			call(SYS_arch_prctl, 0x1002, thread_pointer, 0, 0);
		if (number == SYS_rt_sigaction)
			ignore_signals();
		if (number == SYS_munmap || number == SYS_mremap || number == SYS_mmap)
			call6(SYS_mmap, (word[6]){ (word)arena, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1UL, 0 });
	}
	after = checksum();
	int length = snprintf(line, sizeof line, "%lu calls, canary %s\n", done, before && before == after ? "unchanged" : "CHANGED");
	call(SYS_write, OUT_FD, (word)line, (word)length, 0);
	call(SYS_exit_group, before && before == after && succeeded > count / 100 ? 0 : 1, 0, 0, 0);
	return 1;
}
