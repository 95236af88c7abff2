/* Returns from signal handlers through frames that it has changed: `sigframe CASE` once, `sigframe random SEED` many times. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { MXCSR = 24, EXTENDED_SIZE = 468, SIZE = 480, XSTATE_BV = 512, XCOMP_BV = 520, RESERVED = 528, UNUSED = 536 };

static const char *what;
static uint64_t random_state;
static sigjmp_buf out;
static volatile long refused, returned;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	return random_state ^= random_state << 17;
}

static void change(int signal, siginfo_t *info, void *context)
{
	ucontext_t *user = context;
	greg_t *registers = user->uc_mcontext.gregs;
	char *state = (char *)user->uc_mcontext.fpregs;
	(void)signal;
	(void)info;
	if (!strcmp(what, "mxcsr"))
		memset(state + MXCSR, 0xff, 4);
	if (!strcmp(what, "components"))
		memset(state + XSTATE_BV, 0xff, 8);
	if (!strcmp(what, "compacted"))
		state[XCOMP_BV + 7] = (char)0x80;
	if (!strcmp(what, "reserved"))
		state[RESERVED] = 1;
	if (!strcmp(what, "unused"))
		state[UNUSED] = 1;
	if (!strcmp(what, "misaligned"))
		user->uc_mcontext.fpregs = (void *)(state + 8);
	if (!strcmp(what, "unmapped"))
		user->uc_mcontext.fpregs = (void *)64;
	if (!strcmp(what, "kernel-state"))
		user->uc_mcontext.fpregs = (void *)0xffff800000000000;
	if (!strcmp(what, "no-state"))
		user->uc_mcontext.fpregs = NULL;
	if (!strcmp(what, "huge"))
		memset(state + SIZE, 0xff, 4);
	if (!strcmp(what, "kernel-cs"))
		registers[REG_CSGSFS] = 0x002b000000000008;
	if (!strcmp(what, "kernel-ss"))
		registers[REG_CSGSFS] = 0x0010000000000033;
	if (!strcmp(what, "kernel-rip"))
		registers[REG_RIP] = (greg_t)0xffffffff80100000;
	if (!strcmp(what, "end-rip"))
		registers[REG_RIP] = 0x7ffffffffffe;
	if (!strcmp(what, "noncanonical-rip"))
		registers[REG_RIP] = (greg_t)0x8000000000000000;
	/* All but TF, which would only step, and AC and DF, which C does not expect. */
	if (!strcmp(what, "flags"))
		registers[REG_EFL] = ~0x40500;
	if (!strcmp(what, "random")) {
		uint64_t kind = next_random() % 8, at = next_random() % 640, value = next_random();
		if (kind == 0)
			registers[REG_CSGSFS] = (greg_t)(value & ~0xffff) | (0x33 + 8 * (value % 3 == 0));
		else if (kind == 1)
			registers[REG_EFL] = (greg_t)(value & ~0x40500);
		else if (kind == 2)
			user->uc_mcontext.fpregs = (void *)(state + value % 4096);
		else if (kind == 3)
			memset(state + XSTATE_BV, (int)value, 1 + at % 64);
		else
			memcpy(state + at, &value, 1 + value % 8);
	}
}

static void refuse(int signal)
{
	(void)signal;
	refused++;
	siglongjmp(out, 1);
}

int main(int argc, char **argv)
{
	static char stack[65536];
	struct sigaction action = { .sa_sigaction = change, .sa_flags = SA_SIGINFO };
	what = argc > 1 ? argv[1] : "";
	sigaction(SIGUSR1, &action, NULL);
	if (strcmp(what, "random")) {
		syscall(SYS_tkill, getpid(), SIGUSR1);
		puts("returned");
		return 0;
	}
	random_state = strtoul(argv[2], NULL, 0) * 0x9e3779b97f4a7c15 + 1;
	sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof stack }, NULL);
	action = (struct sigaction){ .sa_handler = refuse, .sa_flags = SA_ONSTACK | SA_NODEFER };
	int all[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
	for (int i = 0; i < 5; i++)
		sigaction(all[i], &action, NULL);
	for (int i = 0; i < 20000; i++) {
		unsigned mxcsr = 0x1f80;
		if (!sigsetjmp(out, 1)) {
			syscall(SYS_tkill, getpid(), SIGUSR1);
			returned++;
		}
		__asm__ volatile("fninit; ldmxcsr %0; cld" : : "m"(mxcsr));
	}
	printf("%d\n", returned + refused == 20000 && returned > 1000 && refused > 1000);
	return 0;
}
