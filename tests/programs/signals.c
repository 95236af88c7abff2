/* Signals as a program sees them: each check prints what it saw, so that the output on Linux is the oracle. */
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t count, last;
static siginfo_t seen;
static sigjmp_buf out;
static char *page;

static void say(const char *what, long value)
{
	printf("%s: %ld\n", what, value);
	fflush(stdout);
}

static void plain(int signal)
{
	count++;
	last = signal;
}

static void with_info(int signal, siginfo_t *info, void *context)
{
	(void)context;
	count++;
	last = signal;
	seen = *info;
}

static void jump(int signal, siginfo_t *info, void *context)
{
	with_info(signal, info, context);
	siglongjmp(out, 1);
}

static void install(int signal, void *handler, int flags)
{
	struct sigaction action = { .sa_flags = flags };
	if (flags & SA_SIGINFO)
		action.sa_sigaction = (void (*)(int, siginfo_t *, void *))handler;
	else
		action.sa_handler = (void (*)(int))handler;
	sigaction(signal, &action, NULL);
}

static sigset_t set_of(int a, int b)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, a);
	if (b)
		sigaddset(&set, b);
	return set;
}

/* Registers of all kinds survive a handler that destroys them. */
static void clobber(int signal)
{
	plain(signal);
	__asm__ volatile("pcmpeqd %%xmm0, %%xmm0; pcmpeqd %%xmm15, %%xmm15; fninit; fld1; fld1" ::: "xmm0", "xmm15");
}

static void registers(void)
{
	uint64_t in[2] = { 0x1122334455667788, 0x99aabbccddeeff00 }, xmm0[2], xmm15[2];
	double st = 0;
	long rax = SYS_kill;
	install(SIGUSR1, clobber, 0);
	__asm__ volatile("movdqu %[in], %%xmm0; movdqu %[in], %%xmm15; fldpi; syscall; fstpl %[st];"
			 "movdqu %%xmm0, %[a]; movdqu %%xmm15, %[b]"
			 : "+a"(rax), [a] "=m"(xmm0), [b] "=m"(xmm15), [st] "=m"(st)
			 : [in] "m"(in), "D"((long)getpid()), "S"((long)SIGUSR1)
			 : "rcx", "r11", "memory", "xmm0", "xmm15");
	say("xmm0", !memcmp(xmm0, in, 16));
	say("xmm15", !memcmp(xmm15, in, 16));
	say("st0 is pi", (long)(st * 1e6));
	say("kill", rax);
}

static void dispositions(void)
{
	struct sigaction old;
	count = 0;
	install(SIGUSR1, plain, SA_RESETHAND | SA_NODEFER);
	raise(SIGUSR1);
	sigaction(SIGUSR1, NULL, &old);
	say("once", count);
	say("reset to default", old.sa_handler == SIG_DFL);
	install(SIGUSR2, with_info, SA_SIGINFO);
	raise(SIGUSR2);
	say("info signal", seen.si_signo);
	say("info code", seen.si_code);
	say("info from me", seen.si_pid == getpid());
	kill(getpid(), SIGUSR2);
	say("kill's code", seen.si_code);
	errno = 0;
	say("SIGKILL cannot be caught", signal(SIGKILL, plain) == SIG_ERR ? errno : 0);
	say("no signal 65", sigaction(65, NULL, &old) ? errno : 0);
}

static void masks(void)
{
	sigset_t both = set_of(SIGUSR1, SIGRTMIN + 2), old, pending;
	install(SIGUSR1, plain, 0);
	install(SIGRTMIN + 2, with_info, SA_SIGINFO);
	sigprocmask(SIG_BLOCK, &both, &old);
	count = 0;
	for (int i = 0; i < 3; i++) {
		kill(getpid(), SIGUSR1);
		sigqueue(getpid(), SIGRTMIN + 2, (union sigval){ .sival_int = 100 + i });
	}
	say("blocked", count);
	sigpending(&pending);
	say("pending", sigismember(&pending, SIGUSR1) + 2 * sigismember(&pending, SIGRTMIN + 2));
	siginfo_t info;
	struct timespec none = { 0, 0 };
	sigset_t rt = set_of(SIGRTMIN + 2, 0);
	say("sigtimedwait", sigtimedwait(&rt, &info, &none) == SIGRTMIN + 2);
	say("its value", info.si_value.sival_int);
	say("its code", info.si_code);
	sigprocmask(SIG_SETMASK, &old, NULL);
	say("delivered", count);
	say("last value", seen.si_value.sival_int);
	say("nothing left", sigtimedwait(&rt, &info, &none) < 0 ? errno : 0);

	/* sigsuspend: blocked outside, delivered inside, blocked again. */
	sigset_t usr1 = set_of(SIGUSR1, 0), now;
	sigprocmask(SIG_BLOCK, &usr1, &old);
	kill(getpid(), SIGUSR1);
	count = 0;
	say("sigsuspend", sigsuspend(&old) < 0 ? errno : 0);
	say("ran", count);
	sigprocmask(SIG_SETMASK, NULL, &now);
	say("blocked again", sigismember(&now, SIGUSR1));
	kill(getpid(), SIGUSR1);
	count = 0;
	say("ppoll", ppoll(NULL, 0, NULL, &old) < 0 ? errno : 0);
	kill(getpid(), SIGUSR1);
	say("pselect", pselect(0, NULL, NULL, NULL, NULL, &old) < 0 ? errno : 0);
	say("ran", count);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

/* Again and again, until `never`: on a busy machine the first may come before the call that it is to interrupt. */
static void soon(int signal, int flags, long microseconds)
{
	struct itimerval timer = { { 0, microseconds }, { 0, microseconds } };
	install(signal, plain, flags);
	setitimer(ITIMER_REAL, &timer, NULL);
}

static long never(long result)
{
	int error = errno;
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	errno = error;
	return result;
}

static void interrupted(void)
{
	int fds[2];
	char byte;
	if (pipe(fds))
		return;
	count = 0;
	soon(SIGALRM, 0, 20000);
	say("read", never(read(fds[0], &byte, 1)) < 0 ? errno : 0);
	soon(SIGALRM, SA_RESTART, 20000);
	struct timespec left, second = { 1, 0 };
	say("nanosleep", never(nanosleep(&second, &left)) < 0 ? errno : 0);
	say("left", left.tv_sec == 0 && left.tv_nsec > 500000000);
	soon(SIGALRM, SA_RESTART, 20000);
	say("poll", never(poll(NULL, 0, 5000)) < 0 ? errno : 0);
	soon(SIGALRM, SA_RESTART, 20000);
	say("select", never(select(0, NULL, NULL, NULL, &(struct timeval){ 5, 0 })) < 0 ? errno : 0);
	soon(SIGALRM, SA_RESTART, 20000);
	say("pause", never(pause()) < 0 ? errno : 0);
	int word = 1;
	soon(SIGALRM, 0, 20000);
	say("futex", never(syscall(SYS_futex, &word, 0, 1, NULL, NULL, 0)) < 0 ? errno : 0);
	say("alarms", count >= 6);
	/* A read that is restarted ends when the writer does: the second alarm writes. */
	close(fds[1]);
	say("end", read(fds[0], &byte, 1));
	close(fds[0]);
	/* A pipe nobody reads. */
	if (pipe(fds))
		return;
	close(fds[0]);
	install(SIGPIPE, plain, 0);
	say("write", write(fds[1], "x", 1) < 0 ? errno : 0);
	say("signal", last == SIGPIPE);
	close(fds[1]);
}

static void fault(const char *what, void (*cause)(void))
{
	if (!sigsetjmp(out, 1))
		cause();
	printf("%s: signal %d code %d\n", what, (int)last, seen.si_code);
	fflush(stdout);
}

static volatile uintptr_t low = 16;
static void null_write(void) { *(volatile char *)low = 1; }
static void read_only(void) { *(volatile char *)page = 1; }
static void noncanonical(void) { __asm__ volatile("movq $0x8000000000000000, %%rax; movb $0, (%%rax)" ::: "rax"); }
static void undefined(void) { __asm__ volatile("ud2"); }
static void trap(void) { __asm__ volatile("int3"); }
static void step(void) { __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq; nop; nop" ::: "memory", "cc"); }
static void privileged(void) { __asm__ volatile("hlt"); }
static void divide(void) { __asm__ volatile("xorl %%ecx, %%ecx; movl $1, %%eax; cltd; idivl %%ecx" ::: "eax", "ecx", "edx"); }
/* Not with SSE: QEMU's translator raises no exceptions there. */
static void x87(void)
{
	unsigned short control = 0x37f & ~4;
	__asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp; fwait" : : "m"(control));
}
static void beyond_file(void)
{
	char name[] = "/tmp/signals.XXXXXX";
	int fd = mkstemp(name);
	unlink(name);
	char *map = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	*(volatile char *)map;
}

static void faults(void)
{
	int all[] = { SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE };
	for (int i = 0; i < 5; i++)
		install(all[i], jump, SA_SIGINFO);
	page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fault("nothing mapped", null_write);
	say("address", (long)seen.si_addr);
	fault("read only", read_only);
	say("address", seen.si_addr == page);
	fault("non-canonical", noncanonical);
	fault("undefined", undefined);
	fault("breakpoint", trap);
	fault("single step", step);
	fault("privileged", privileged);
	fault("divide", divide);
	fault("x87 division by zero", x87);
	fault("beyond the file", beyond_file);
	__asm__ volatile("fninit");
}

static void on_stack(int signal)
{
	char here;
	plain(signal);
	stack_t now;
	sigaltstack(NULL, &now);
	say("on the alternate stack", &here > page && &here < page + 65536);
	say("says so", now.ss_flags);
	say("cannot change it", sigaltstack(&(stack_t){ .ss_flags = SS_DISABLE }, NULL) < 0 ? errno : 0);
}

static int deep(volatile char *above)
{
	volatile char frame[4096];
	frame[0] = above[0];
	if (!above)
		return 0;
	return deep(frame) + frame[0];
}

static void overflow(int signal, siginfo_t *info, void *context)
{
	(void)info;
	(void)context;
	say("stack overflow", signal);
	siglongjmp(out, 1);
}

static void alternate(void)
{
	page = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t stack = { .ss_sp = page, .ss_size = 65536 }, old;
	say("too small", sigaltstack(&(stack_t){ .ss_sp = page, .ss_size = 100 }, NULL) < 0 ? errno : 0);
	say("set", sigaltstack(&stack, &old));
	say("was", old.ss_flags);
	install(SIGUSR1, on_stack, SA_ONSTACK);
	raise(SIGUSR1);
	install(SIGSEGV, overflow, SA_ONSTACK | SA_SIGINFO);
	if (!sigsetjmp(out, 1))
		deep(page);
	say("disable", sigaltstack(&(stack_t){ .ss_flags = SS_DISABLE }, NULL));
}

/* Handlers may change where they return to. */
static void skip(int signal, siginfo_t *info, void *context)
{
	ucontext_t *user = context;
	(void)info;
	plain(signal);
	user->uc_mcontext.gregs[REG_RIP] += 2;
	user->uc_mcontext.gregs[REG_RAX] = 4711;
	sigaddset(&user->uc_sigmask, SIGUSR2);
}

static void contexts(void)
{
	long rax = 0;
	sigset_t now;
	install(SIGILL, skip, SA_SIGINFO);
	__asm__ volatile("ud2" : "+a"(rax));
	say("skipped", rax);
	sigprocmask(SIG_SETMASK, NULL, &now);
	say("mask from the frame", sigismember(&now, SIGUSR2));
	sigdelset(&now, SIGUSR2);
	sigprocmask(SIG_SETMASK, &now, NULL);
}

static void timers(void)
{
	struct itimerval timer = { { 0, 3000 }, { 0, 3000 } }, old;
	count = 0;
	install(SIGALRM, plain, SA_RESTART);
	setitimer(ITIMER_REAL, &timer, NULL);
	while (count < 5)
		pause();
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, &old);
	say("interval", old.it_interval.tv_usec);
	say("periodic", count >= 5);
	say("alarm", alarm(100));
	say("left", alarm(0));

	/* CPU time: only a program that computes is told. */
	install(SIGVTALRM, plain, 0);
	install(SIGPROF, plain, 0);
	for (int which = ITIMER_VIRTUAL; which <= ITIMER_PROF; which++) {
		count = 0;
		setitimer(which, &(struct itimerval){ { 0, 0 }, { 0, 20000 } }, NULL);
		while (!count)
			;
		say("cpu timer", last);
	}

	timer_t id;
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 3, .sigev_value.sival_int = 42 };
	install(SIGRTMIN + 3, with_info, SA_SIGINFO);
	say("create", timer_create(CLOCK_MONOTONIC, &event, &id));
	count = 0;
	struct itimerspec spec = { { 0, 2000000 }, { 0, 2000000 } }, was;
	say("settime", timer_settime(id, 0, &spec, NULL));
	while (count < 3)
		pause();
	say("value", seen.si_value.sival_int);
	say("code", seen.si_code);
	timer_gettime(id, &was);
	say("interval", was.it_interval.tv_nsec);
	sigset_t block = set_of(SIGRTMIN + 3, 0), before;
	sigprocmask(SIG_BLOCK, &block, &before);
	usleep(50000);
	siginfo_t info;
	sigwaitinfo(&block, &info);
	say("overrun", info.si_overrun > 5);
	say("getoverrun", timer_getoverrun(id) == info.si_overrun);
	say("delete", timer_delete(id));
	say("again", timer_delete(id) < 0 ? errno : 0);
	while (sigtimedwait(&block, &info, &(struct timespec){ 0, 0 }) > 0)
		;
	sigprocmask(SIG_SETMASK, &before, NULL);
	say("bad clock", timer_create(77, NULL, &id) < 0 ? errno : 0);
}

int main(int argc, char **argv)
{
	/* One way to die for each argument; status 128+N. */
	if (argc > 1) {
		int signal = atoi(argv[1]);
		install(signal, plain, SA_RESETHAND);
		raise(signal);
		say("survived", count);
		raise(signal);
		return 0;
	}
	registers();
	dispositions();
	masks();
	interrupted();
	faults();
	alternate();
	contexts();
	timers();
	return 0;
}
