/*
 * Uses up one kind of thing until there is no more: exhaust WHAT [full]
 *
 * With "full", all memory is taken first, so that what the kernel needs comes out of its reserve. The program ends with an error, or is killed; the
 * kernel must not end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096L
#define RW (PROT_READ | PROT_WRITE)
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)

static char name[4096], block[1 << 16];

static int failed(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	return 0;
}

/* One more page, or NULL when there is none; a page that is only touched would end the process. */
static char *page(void)
{
	unsigned char resident = 0;
	char *page = mmap(NULL, PAGE, RW, ANONYMOUS | MAP_POPULATE, -1, 0);

	return page != MAP_FAILED && !mincore(page, PAGE, &resident) && resident & 1 ? page : NULL;
}

/* A name that no other file has, as long as names may be. */
static char *next_name(void)
{
	static long count;

	memset(name, 'x', 255);
	name[snprintf(name, sizeof name, "%ld", count++)] = 'x';
	return name;
}

static int pipes(void)
{
	int ends[2];

	while (!pipe2(ends, O_NONBLOCK))
		if (write(ends[1], block, sizeof block) != sizeof block)
			return failed("write");
	return failed("pipe");
}

static int areas(void)
{
	char *all = mmap(NULL, 65536 * 2 * PAGE, PROT_NONE, ANONYMOUS | MAP_NORESERVE, -1, 0);
	long count = 0, length = 0, bytes;

	while (count < 65536 && !mprotect(all + 2 * PAGE * count, PAGE, PROT_READ))
		count++;
	int maps = open("/proc/self/maps", O_RDONLY);
	while ((bytes = read(maps, block, sizeof block)) > 0)
		length += bytes;
	printf("%s areas, maps %s\n", count > 32000 && count < 33000 ? "many" : "too many or too few", length > 1 << 20 ? "shows them" : "does not");
	return 0;
}

static int directories(void)
{
	while (!mkdir(next_name(), 0700))
		;
	return failed("mkdir");
}

static int links(void)
{
	static char target[4096];

	memset(target, 't', sizeof target - 1);
	while (!symlink(target, next_name()))
		;
	return failed("symlink");
}

static int deep(void)
{
	while (!mkdir("d", 0700) && !chdir("d"))
		;
	failed("mkdir");
	return rename("/tmp/d", "/tmp/e") ? failed("rename") : 0;
}

static int files(void)
{
	while (open("/dev/null", O_RDONLY) >= 0)
		;
	return failed("open");
}

static int memory_files(void)
{
	int fd;

	while ((fd = memfd_create("x", 0)) >= 0)
		if (write(fd, "x", 1) != 1)
			return failed("write");
	return failed("memfd_create");
}

static int shared(void)
{
	char *all = mmap(NULL, 1L << 40, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	for (long at = 0; all != MAP_FAILED; at += PAGE)
		all[at] = 1;
	return failed("mmap");
}

/* A page in every GiB needs two tables. */
static int tables(void)
{
	for (long at = 1; at < 1 << 17; at++) {
		char *page = mmap((void *)(at << 30), PAGE, RW, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		if (page != MAP_FAILED)
			*page = 1;
	}
	return 0;
}

/* Half of all memory is free, and no two pages of it side by side: the kernel must do without large pieces. */
static int crumbs(void)
{
	static char *pages[1 << 20];
	static struct pollfd polls[50000];
	long count = 0;

	for (unsigned i = 0; i < sizeof polls / sizeof *polls; i++)
		polls[i].fd = -1;
	while ((pages[count] = page()))
		count++;
	for (long i = 0; i < count; i += 2)
		munmap(pages[i], PAGE);
	if (poll(polls, sizeof polls / sizeof *polls, 0))
		return failed("poll");
	puts("polled");
	return 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} all[] = {
		{ "pipes", pipes }, { "areas", areas }, { "directories", directories }, { "links", links }, { "deep", deep }, { "files", files },
		{ "memory-files", memory_files }, { "shared", shared }, { "tables", tables }, { "crumbs", crumbs },
	};
	struct rlimit many = { 1 << 20, 1 << 20 };

	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc < 2 || chdir("/tmp") || setrlimit(RLIMIT_NOFILE, &many))
		return 1;
	while (argc > 2 && page())
		;
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		if (!strcmp(argv[1], all[i].name))
			return all[i].run();
	return 2;
}
