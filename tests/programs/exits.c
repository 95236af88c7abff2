/* Makes system calls that a host sees nothing of, or writes so many bytes: what the emulator counts is what they cost. */
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static char bytes[65536];

int main(int argc, char **argv)
{
	long n = argc > 2 ? atol(argv[2]) : 0;
	if (argc < 2)
		return 2;
	if (strcmp(argv[1], "getpid") == 0) {
		for (long i = 0; i < n; i++)
			syscall(SYS_getpid);
		return 0;
	}
	memset(bytes, 'x', sizeof bytes);
	for (long done = 0; done < n;) {
		ssize_t wrote = write(1, bytes, n - done < 65536 ? n - done : 65536);
		if (wrote <= 0)
			return 1;
		done += wrote;
	}
	return 0;
}
