/*
 * Keeps a secret, and does a little of everything meanwhile: what a host that attacks must neither learn nor change.
 *
 * The secret is unmasked in memory only; it goes through the heap, a file, a pipe and the environment of the kernel's calls. Nothing of it is printed, unless the
 * first argument is "tell". What is printed is the same on every machine.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* "LiteBox keeps this one to itself" under 0x5a; tests/attacks.rs has it in the clear. */
static const unsigned char masked[32] = {
	0x16, 0x33, 0x2e, 0x3f, 0x18, 0x35, 0x22, 0x7a, 0x31, 0x3f, 0x3f, 0x2a, 0x29, 0x7a, 0x2e, 0x32,
	0x33, 0x29, 0x7a, 0x35, 0x34, 0x3f, 0x7a, 0x2e, 0x35, 0x7a, 0x33, 0x2e, 0x29, 0x3f, 0x36, 0x3c,
};

static volatile unsigned char mask = 0x5a;

/* Makes the file so long that its blocks come in several requests. */
static unsigned char ballast[640 << 10] = { 1 };

static uint64_t hash(uint64_t h, const void *data, size_t size)
{
	for (const unsigned char *byte = data; size--; byte++)
		h = (h ^ *byte) * 0x100000001b3;
	return h;
}

static const uint64_t START = 0xcbf29ce484222325;

static void fail(const char *what)
{
	printf("wrong: %s\n", what);
	exit(1);
}

/* Exits at a known place of ring 3, where a host can do something. */
static void knock(int times)
{
	unsigned a, b, c, d;

	while (times--)
		__cpuid(0, a, b, c, d);
}

/* Stays in ring 3 for a while, for a host that waits for that. */
static void compute(void)
{
	uint64_t h = START;

	for (int i = 0; i < 4; i++)
		h = hash(h, ballast, sizeof ballast);
	printf("computed %016llx\n", (unsigned long long)h);
}

static char *unmask(void)
{
	char *secret = malloc(sizeof masked);

	for (size_t i = 0; i < sizeof masked; i++)
		secret[i] = masked[i] ^ mask;
	return secret;
}

/* Through a file and a pipe: the kernel has copies. */
static void pass_on(const char *secret)
{
	char back[sizeof masked];
	int ends[2], file = open("/tmp/secret", O_RDWR | O_CREAT, 0600);

	if (write(file, secret, sizeof masked) != sizeof masked || pread(file, back, sizeof back, 0) != sizeof back)
		fail("a file");
	if (pipe(ends) || write(ends[1], back, sizeof back) != sizeof back || read(ends[0], back, sizeof back) != sizeof back)
		fail("a pipe");
	if (memcmp(secret, back, sizeof back))
		fail("what came back");
}

/* The program's own file, from the disk: the image that was measured. */
static void disk(void)
{
	static char buffer[64 << 10];
	uint64_t h = START;
	ssize_t count;
	int file = open("/proc/self/exe", O_RDONLY);

	while ((count = read(file, buffer, sizeof buffer)) > 0)
		h = hash(h, buffer, count);
	printf("file %016llx\n", (unsigned long long)h);
}

static void memory(void)
{
	enum { SIZE = 6 << 20 };
	volatile unsigned char *area = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (size_t at = 0; at < SIZE; at += 4096)
		if (area[at])
			fail("memory that is not zero");
		else
			area[at] = at >> 12 | 1;
	for (size_t at = 0; at < SIZE; at += 4096)
		if (area[at] != (unsigned char)(at >> 12 | 1))
			fail("memory");
	puts("memory kept");
}

static void clocks(void)
{
	struct timespec pause = { .tv_nsec = 5000000 }, last, now;

	clock_gettime(CLOCK_MONOTONIC, &last);
	for (int i = 0; i < 4; i++) {
		nanosleep(&pause, 0);
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec < last.tv_sec || (now.tv_sec == last.tv_sec && now.tv_nsec < last.tv_nsec))
			fail("time runs back");
		last = now;
	}
	puts("time ran on");
}

static void input(void)
{
	char line[64];
	uint64_t h = START;
	ssize_t count;

	while ((count = read(0, line, sizeof line)) > 0)
		h = hash(h, line, count);
	printf("input %016llx\n", (unsigned long long)h);
}

int main(int argc, char **argv)
{
	unsigned char random[2][16] = { { 0 } };
	char *secret = unmask();

	setvbuf(stdout, 0, _IOLBF, 0);
	knock(4);
	pass_on(secret);
	if (argc > 1 && !strcmp(argv[1], "tell"))
		printf("%.32s\n", secret);
	disk();
	compute();
	memory();
	knock(4);
	if (getrandom(random[0], 16, 0) != 16 || getrandom(random[1], 16, 0) != 16 || !memcmp(random[0], random[1], 16))
		fail("random numbers");
	clocks();
	input();
	pass_on(secret);
	knock(4);
	puts("done");
	return 3;
}
