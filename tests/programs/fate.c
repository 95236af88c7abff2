/* Ends, or behaves, as its first argument says: what a launcher has to tell apart. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;

static int overflow(volatile char *above)
{
	volatile char frame[4096];
	frame[0] = above[0];
	if (!above)
		return 0;
	return overflow(frame) + frame[0];
}

/* Copies stdin to stdout; the number of read calls is nobody's business. */
static int copy(void)
{
	static char buffer[1 << 16];
	ssize_t count;

	while ((count = read(0, buffer, sizeof buffer)) > 0)
		for (ssize_t done = 0; done < count;) {
			ssize_t wrote = write(1, buffer + done, count - done);
			if (wrote < 0)
				return 1;
			done += wrote;
		}
	return count < 0;
}

/* Writes this many MiB of a counted pattern. */
static int flood(long mebibytes)
{
	static uint32_t block[1 << 18];

	for (long i = 0; i < mebibytes; i++) {
		for (uint32_t j = 0; j < 1 << 18; j++)
			block[j] = (uint32_t)i << 18 | j;
		for (size_t done = 0; done < sizeof block;) {
			ssize_t wrote = write(1, (char *)block + done, sizeof block - done);
			if (wrote < 0)
				return 1;
			done += wrote;
		}
	}
	return 0;
}

/* Prints bytes so that every value can be told from every other. */
static void show(const char *text)
{
	putchar('[');
	for (; *text; text++)
		if (*text > ' ' && *text < 127 && *text != '\\')
			putchar(*text);
		else
			printf("\\%02x", (unsigned char)*text);
	puts("]");
}

int main(int argc, char **argv)
{
	const char *fate = argc > 1 ? argv[1] : "exit";
	long number = argc > 2 ? (long)strtoul(argv[2], NULL, 0) : 0;
	char cwd[4096];

	if (!strcmp(fate, "exit"))
		return (int)number;
	if (!strcmp(fate, "abort"))
		abort();
	if (!strcmp(fate, "kill"))
		return kill(getpid(), (int)number) ? errno : 77;
	if (!strcmp(fate, "read"))
		return *(volatile char *)number;
	if (!strcmp(fate, "write")) {
		*(volatile char *)number = 1;
		return 77;
	}
	if (!strcmp(fate, "jump")) {
		((void (*)(void))number)();
		return 77;
	}
	if (!strcmp(fate, "write-text")) {
		*(volatile char *)main = 1;
		return 77;
	}
	if (!strcmp(fate, "execute-data")) {
		static char code[] = { (char)0xc3 };
		((void (*)(void))code)();
		return 77;
	}
	if (!strcmp(fate, "overflow"))
		return overflow(argv[0]);
	if (!strcmp(fate, "illegal"))
		__asm__ volatile("ud2");
	if (!strcmp(fate, "privileged"))
		__asm__ volatile("hlt");
	if (!strcmp(fate, "port"))
		__asm__ volatile("outb %%al, $0x80" ::"a"(0));
	if (!strcmp(fate, "interrupt"))
		__asm__ volatile("int $0x81");
	if (!strcmp(fate, "breakpoint"))
		__asm__ volatile("int3");
	if (!strcmp(fate, "divide"))
		__asm__ volatile("xorl %%ecx, %%ecx; movl $1, %%eax; cltd; idivl %%ecx" ::: "eax", "ecx", "edx");
	if (!strcmp(fate, "noncanonical"))
		__asm__ volatile("movq $0x8000000000000000, %%rax; movb $0, (%%rax)" ::: "rax");
	if (!strcmp(fate, "loop"))
		for (;;)
			__asm__ volatile("");
	if (!strcmp(fate, "sleep"))
		for (;;)
			pause();
	if (!strcmp(fate, "cat"))
		return copy();
	if (!strcmp(fate, "flood"))
		return flood(number);
	if (!strcmp(fate, "both")) {
		for (int i = 0; i < 100; i++) {
			dprintf(1, "out %d\n", i);
			dprintf(2, "err %d\n", i);
		}
		return 3;
	}
	if (!strcmp(fate, "args")) {
		for (int i = 2; i < argc; i++)
			show(argv[i]);
		return argc - 2;
	}
	if (!strcmp(fate, "env")) {
		for (char **pair = environ; *pair; pair++)
			show(*pair);
		return 0;
	}
	if (!strcmp(fate, "cwd")) {
		show(getcwd(cwd, sizeof cwd) ? cwd : strerror(errno));
		return 0;
	}
	if (!strcmp(fate, "unknown")) {
		/* Numbers beyond the table, thrice: ENOSYS, and the log says so once. */
		for (int i = 0; i < 3; i++)
			if (syscall(9999) != -1 || errno != ENOSYS)
				return 1;
		return 0;
	}
	if (!strcmp(fate, "hog")) {
		/* Touches this many MiB, one page at a time, as far as it is let. */
		for (long i = 0; i < number; i++) {
			char *chunk = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (chunk == MAP_FAILED)
				return 12;
			for (int page = 0; page < 256; page++)
				chunk[page << 12] = 1;
		}
		return 0;
	}
	return 99;
}
