/* Instructions, flags and registers that user mode may try on the kernel: processor WHAT [N]. Most end the process, and none the kernel. */
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

#define ASM(text) __asm__ volatile(text ::: "rax", "rcx", "rdx", "rbx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc")

/* A page at the end of user space whose last bytes are SYSCALL. */
static void at_the_end(void)
{
	unsigned char *last = mmap((void *)0x7fffffffe000, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (last == MAP_FAILED)
		exit(3);
	memset(last, 0x90, 4096);
	last[4094] = 0x0f, last[4095] = 0x05;
	__asm__ volatile("jmp *%0" :: "r"(last), "a"(39));
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int number = argc > 2 ? atoi(argv[2]) : 0;

	if (!strcmp(what, "int")) {
		/* INT n for any n, made on the fly: code that changes itself. */
		unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		memcpy(code, (unsigned char[]){ 0xcd, (unsigned char)number, 0xc3 }, 3);
		((void (*)(void))code)();
	}
	else if (!strcmp(what, "trap-flag"))
		ASM("pushfq; orq $0x100, (%%rsp); popfq; movl $39, %%eax; syscall; nop");
	else if (!strcmp(what, "trap-syscall"))
		/* TF set by the very instruction before: the trap comes after SYSCALL, if the kernel lets it. */
		ASM("movl $39, %%eax; pushfq; orq $0x100, (%%rsp); popfq; syscall");
	else if (!strcmp(what, "mov-ss"))
		ASM("movl $39, %%eax; movl %%ss, %%ebx; pushfq; orq $0x100, (%%rsp); popfq; movl %%ebx, %%ss; syscall");
	else if (!strcmp(what, "mov-ss-int3"))
		ASM("movl %%ss, %%ebx; pushfq; orq $0x100, (%%rsp); popfq; movl %%ebx, %%ss; int3");
	else if (!strcmp(what, "flags")) {
		/* NT, AC, DF, ID and IOPL: what may be set stays set, and a system call goes on as ever. */
		long result, flags;
		__asm__ volatile("pushfq; orq $0x247400, (%%rsp); popfq; movl $39, %%eax; syscall; movq %%rax, %0; pushfq; popq %1; cld; pushq $0x202; popfq" : "=r"(result), "=r"(flags) :: "rax", "rcx", "r11", "memory", "cc");
		printf("%d %lx\n", result == getpid(), (unsigned long)flags & ~0x8d5UL);
		return 0;
	}
	else if (!strcmp(what, "nested-iret"))
		ASM("pushfq; orq $0x4000, (%%rsp); popfq; movq %%rsp, %%rax; pushq $0x2b; pushq %%rax; pushfq; pushq $0x33; leaq 1f(%%rip), %%rax; pushq %%rax; iretq; 1: nop");
	else if (!strcmp(what, "stack"))
		/* No stack at all: the kernel must not need it. */
		ASM("movq $0x8000000000000000, %%rsp; movl $39, %%eax; syscall; movl $60, %%eax; xorl %%edi, %%edi; syscall");
	else if (!strcmp(what, "kernel-stack"))
		ASM("movq $0xffffffff80200000, %%rsp; movl $39, %%eax; syscall; pushq %%rax");
	else if (!strcmp(what, "end"))
		at_the_end();
	else if (!strcmp(what, "segments")) {
		/* Every selector into every segment register but CS, SS; those that are there load, the others fault. */
		ASM("xorl %%eax, %%eax; movl %%eax, %%ds; movl %%eax, %%es; movl %%eax, %%gs; movl $39, %%eax; syscall; movl %%ss, %%eax; movl %%eax, %%ds; movl %%eax, %%es; movl %%eax, %%gs; movl $39, %%eax; syscall");
		puts("alive");
		return 0;
	}
	else if (!strcmp(what, "selector"))
		__asm__ volatile("movl %0, %%gs" :: "r"(number));
	else if (!strcmp(what, "far"))
		__asm__ volatile("pushq %q0; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1: nop" :: "r"((long)number) : "rax");
	else if (!strcmp(what, "null-ss"))
		ASM("xorl %%eax, %%eax; movl %%eax, %%ss");
	else if (!strcmp(what, "swapgs"))
		ASM("swapgs");
	else if (!strcmp(what, "sysret"))
		ASM("leaq 1f(%%rip), %%rcx; sysretq; 1: nop");
	else if (!strcmp(what, "sysenter"))
		ASM("movl $39, %%eax; sysenter");
	else if (!strcmp(what, "cr"))
		ASM("movq %%cr3, %%rax");
	else if (!strcmp(what, "dr"))
		ASM("movq %%rax, %%dr7");
	else if (!strcmp(what, "msr"))
		ASM("movl $0xc0000082, %%ecx; rdmsr");
	else if (!strcmp(what, "xsetbv"))
		ASM("xorl %%ecx, %%ecx; xorl %%edx, %%edx; movl $1, %%eax; .byte 0x0f, 0x01, 0xd1");
	else if (!strcmp(what, "cli"))
		ASM("cli");
	else if (!strcmp(what, "in"))
		ASM("movw $0x3f8, %%dx; inb %%dx, %%al");
	else if (!strcmp(what, "lidt"))
		ASM("subq $16, %%rsp; lidt (%%rsp)");
	else if (!strcmp(what, "invlpg"))
		ASM("invlpg (%%rsp)");
	else if (!strcmp(what, "align")) {
		/* AC makes an unaligned access fault where the kernel switched that on; the kernel's own accesses to user memory must not. */
		static char bytes[64];
		long count;
		int fd = open("/dev/zero", O_RDONLY);
		__asm__ volatile("pushfq; orq $0x40000, (%%rsp); popfq; syscall; pushfq; andq $~0x40000, (%%rsp); popfq" : "=a"(count) : "a"(SYS_read), "D"(fd), "S"(bytes + 1), "d"(33) : "rcx", "r11", "memory", "cc");
		printf("%ld\n", count);
		return 0;
	}
	else if (!strcmp(what, "fpu")) {
		/* Unmasked exceptions that are pending when the kernel is entered are the workload's affair. */
		ASM("fnstcw -8(%%rsp); andw $~0x3f, -8(%%rsp); fldcw -8(%%rsp); fldz; fld1; fdivp; movl $39, %%eax; syscall; fwait");
	}
	else if (!strcmp(what, "vectors")) {
		/* What vector registers hold survives system calls, page faults and sleep. */
		static unsigned char in[256] __attribute__((aligned(64))), out[256] __attribute__((aligned(64)));
		for (int i = 0; i < 256; i++)
			in[i] = (unsigned char)(i * 7);
		char *fresh = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		struct { long s, n; } nap = { 0, 3000000 };
		__asm__ volatile("movdqa (%1), %%xmm0; movdqa 16(%1), %%xmm7; movdqa 32(%1), %%xmm15; movl $35, %%eax; movq %3, %%rdi; xorl %%esi, %%esi; syscall; movb $1, (%2); movb $1, 0x5000(%2); "
			"movdqa %%xmm0, (%0); movdqa %%xmm7, 16(%0); movdqa %%xmm15, 32(%0)" :: "r"(out), "r"(in), "r"(fresh), "r"(&nap) : "rax", "rcx", "rdx", "rsi", "rdi", "r11", "memory", "xmm0", "xmm7", "xmm15");
		puts(memcmp(in, out, 48) ? "lost" : "kept");
		return 0;
	}
	else if (!strcmp(what, "truncated")) {
		/* A page of a file that ends before it now. */
		int fd = open("/tmp/f", O_RDWR | O_CREAT, 0600);
		if (ftruncate(fd, 8192))
			return 1;
		char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, number ? MAP_PRIVATE : MAP_SHARED, fd, 0);
		page[4096] = 1;
		if (ftruncate(fd, 4096))
			return 1;
		return page[4096];
	}
	else if (!strcmp(what, "file-size")) {
		/* SIGXFSZ where nobody ignores it. */
		if (syscall(SYS_prlimit64, 0, 1, (unsigned long[2]){ 3, 3 }, NULL))
			return 1;
		int fd = open("/tmp/f", O_RDWR | O_CREAT, 0600);
		printf("%zd\n", write(fd, "12345", 5));
		fflush(stdout);
		return (int)write(fd, "12345", 5);
	}
	else
		return 99;
	return 0;
}
