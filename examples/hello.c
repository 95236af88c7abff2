/* The smallest program with a libc: one line, then its arguments. */
#include <stdio.h>

int main(int argc, char **argv)
{
	puts("hello, world");
	for (int i = 1; i < argc; i++)
		printf("[%s]\n", argv[i]);
	return 0;
}
