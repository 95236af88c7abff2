/* What libc-level programs do all day: memory, files, directories, time, environment. Prints only what is the same everywhere. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define CHECK(what) printf("%s: %s\n", #what, (what) ? "yes" : "NO")

static void memory(void)
{
	size_t page = 4096, size = 64 * page;
	char *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(area != MAP_FAILED);
	memset(area, 0xa5, size);
	CHECK(munmap(area + page, page) == 0);
	CHECK(mprotect(area + 2 * page, page, PROT_READ) == 0);
	char *grown = mremap(area + 8 * page, 8 * page, 16 * page, MREMAP_MAYMOVE);
	CHECK(grown != MAP_FAILED && grown[8 * page - 1] == (char)0xa5 && grown[8 * page] == 0);
	CHECK(madvise(area + 4 * page, page, MADV_DONTNEED) == 0 && area[4 * page] == 0);
	CHECK(mmap(area + 2 * page, page, PROT_READ, MAP_FIXED_NOREPLACE | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EEXIST);
	CHECK(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EINVAL);

	uint64_t sum = 0;
	for (int round = 0; round < 200; round++) {
		size_t want = (size_t)(round * 7919) % 300000 + 1;
		unsigned char *block = malloc(want);
		memset(block, round, want);
		block = realloc(block, want * 2);
		sum += block[want - 1];
		free(block);
	}
	printf("malloc sum %lu\n", (unsigned long)sum);
	/* Not sbrk, which musl refuses. */
	char *top = (char *)syscall(SYS_brk, 0);
	CHECK((char *)syscall(SYS_brk, top + 100000) == top + 100000 && (memset(top, 1, 100000), top[99999] == 1));
}

static void files(void)
{
	char buffer[64] = "";
	struct stat st;
	int fd = open("/tmp/battery", O_RDWR | O_CREAT | O_EXCL, 0640);
	CHECK(fd >= 0);
	CHECK(open("/tmp/battery", O_RDWR | O_CREAT | O_EXCL, 0640) == -1 && errno == EEXIST);
	struct iovec parts[] = { { "one ", 4 }, { "two ", 4 }, { "three\n", 6 } };
	CHECK(writev(fd, parts, 3) == 14);
	CHECK(pread(fd, buffer, 3, 4) == 3 && !strcmp(buffer, "two"));
	CHECK(pwrite(fd, "END", 3, 9000) == 3 && lseek(fd, 0, SEEK_END) == 9003);
	CHECK(fstat(fd, &st) == 0 && st.st_size == 9003 && S_ISREG(st.st_mode) && (st.st_mode & 0777) == 0640);
	char *map = mmap(NULL, 9003, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(map != MAP_FAILED && !memcmp(map, "one two", 7) && map[100] == 0 && !memcmp(map + 9000, "END", 3));
	map[0] = 'O';
	CHECK(msync(map, 9003, MS_SYNC) == 0 && pread(fd, buffer, 1, 0) == 1 && buffer[0] == 'O');
	munmap(map, 9003);
	CHECK(ftruncate(fd, 5) == 0 && fstat(fd, &st) == 0 && st.st_size == 5);
	int copy = dup2(fd, 50);
	CHECK(copy == 50 && fcntl(copy, F_GETFD) == 0 && fcntl(copy, F_SETFD, FD_CLOEXEC) == 0 && fcntl(copy, F_GETFD) == FD_CLOEXEC);
	CHECK(close(copy) == 0 && close(copy) == -1 && errno == EBADF);
	CHECK(link("/tmp/battery", "/tmp/hard") == 0 && fstat(fd, &st) == 0 && st.st_nlink == 2);
	CHECK(symlink("battery", "/tmp/soft") == 0 && readlink("/tmp/soft", buffer, sizeof buffer) == 7);
	CHECK(rename("/tmp/battery", "/tmp/renamed") == 0 && access("/tmp/soft", F_OK) == -1 && errno == ENOENT);
	CHECK(unlink("/tmp/renamed") == 0 && unlink("/tmp/hard") == 0 && fstat(fd, &st) == 0 && st.st_nlink == 0);
	CHECK(write(fd, "x", 1) == 1 && close(fd) == 0);
	CHECK(mkdir("/tmp/dir", 0755) == 0 && mkdir("/tmp/dir", 0755) == -1 && errno == EEXIST);
	CHECK(open("/tmp/dir", O_WRONLY) == -1 && errno == EISDIR);
	CHECK(open("/tmp/soft/x", O_RDONLY) == -1 && errno == ENOENT);
	CHECK(open("/tmp/none", O_RDONLY) == -1 && errno == ENOENT);
	CHECK(open("/dev/null/x", O_RDONLY) == -1 && errno == ENOTDIR);

	int dir = open("/tmp/dir", O_RDONLY | O_DIRECTORY);
	for (int i = 0; i < 100; i++) {
		snprintf(buffer, sizeof buffer, "f%02d", i);
		int file = openat(dir, buffer, O_WRONLY | O_CREAT, 0600);
		if (file < 0 || write(file, buffer, i) != i || close(file))
			printf("file %d: %m\n", i);
	}
	int count = 0, dots = 0;
	long names = 0;
	DIR *stream = fdopendir(dir);
	for (struct dirent *entry; (entry = readdir(stream));) {
		dots += entry->d_name[0] == '.';
		if (entry->d_name[0] == 'f') {
			count++;
			names += atoi(entry->d_name + 1);
			unlinkat(dir, entry->d_name, 0);
		}
	}
	printf("directory: %d files, %d dots, sum %ld\n", count, dots, names);
	closedir(stream);
	CHECK(rmdir("/tmp/dir") == 0);
	CHECK(chdir("/tmp") == 0 && getcwd(buffer, sizeof buffer) && !strcmp(buffer, "/tmp"));
	CHECK(unlink("soft") == 0);

	FILE *file = fopen("/tmp/lines", "w+");
	for (int i = 0; i < 10000; i++)
		fprintf(file, "%d %x\n", i, i * i);
	rewind(file);
	unsigned long sum = 0;
	int n;
	unsigned square;
	while (fscanf(file, "%d %x", &n, &square) == 2)
		sum += n ^ square;
	printf("lines: %lu at %ld\n", sum, ftell(file));
	fclose(file);

	fd = open("/dev/zero", O_RDONLY);
	memset(buffer, 1, sizeof buffer);
	CHECK(read(fd, buffer, sizeof buffer) == sizeof buffer && buffer[0] == 0 && buffer[63] == 0);
	char *zeros = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(zeros != MAP_FAILED && zeros[5000] == 0 && (zeros[5000] = 1));
	close(fd);
	fd = open("/dev/full", O_WRONLY);
	CHECK(write(fd, "x", 1) == -1 && errno == ENOSPC);
	close(fd);
	fd = open("/dev/null", O_RDWR);
	CHECK(write(fd, buffer, 64) == 64 && read(fd, buffer, 64) == 0);
	close(fd);
	CHECK(stat("/proc/self/exe", &st) == 0 && S_ISREG(st.st_mode));
}

static void clocks(void)
{
	struct timespec a, b, nap = { 0, 20000000 };
	struct timeval now;
	clock_gettime(CLOCK_MONOTONIC, &a);
	CHECK(nanosleep(&nap, NULL) == 0);
	clock_gettime(CLOCK_MONOTONIC, &b);
	int64_t ns = (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec;
	CHECK(ns >= 20000000 && ns < 10000000000LL);
	int forward = 1;
	for (int i = 0; i < 10000; i++) {
		clock_gettime(CLOCK_MONOTONIC, &a);
		forward &= a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec >= b.tv_nsec);
		b = a;
	}
	CHECK(forward);
	gettimeofday(&now, NULL);
	CHECK(now.tv_sec > 1700000000 && llabs((long long)now.tv_sec - time(NULL)) <= 1);
	CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a) == 0 && clock_getres(CLOCK_REALTIME, &b) == 0);
	CHECK(clock_gettime(12345, &a) == -1 && errno == EINVAL);
	time_t then = 1000000000;
	char text[64];
	strftime(text, sizeof text, "%F %T %Z", gmtime(&then));
	puts(text);
}

static void self(void)
{
	struct utsname name;
	struct sysinfo info;
	struct rlimit limit;
	CHECK(uname(&name) == 0);
	printf("%s %s\n", name.sysname, name.machine);
	CHECK(sysinfo(&info) == 0 && info.totalram > 0 && info.procs > 0);
	CHECK(getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur >= 1 << 20);
	CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= 256);
	CHECK(getauxval(AT_PAGESZ) == 4096 && getauxval(AT_RANDOM) && getauxval(AT_PHDR) && getauxval(AT_SYSINFO_EHDR));
	CHECK(getpid() > 0 && getppid() >= 0 && getuid() == geteuid());
	unsigned char a[32], b[32];
	CHECK(getentropy(a, 32) == 0 && getentropy(b, 32) == 0 && memcmp(a, b, 32));
	setenv("BATTERY", "charged", 1);
	printf("%s %s\n", getenv("BATTERY"), getenv("LC_ALL"));
	printf("%.10f %.10f %a\n", sqrt(2), pow(1.5, 3.7), sin(1));
	jmp_buf back;
	volatile int jumps = 0;
	if (setjmp(back) < 5)
		longjmp(back, ++jumps);
	printf("jumps %d\n", jumps);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	memory();
	files();
	clocks();
	self();
	return 42;
}
