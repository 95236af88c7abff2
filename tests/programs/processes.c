/* Processes: fork with its copies, vfork and exec, waiting in all its forms, groups, pipes between them, orphans, signals to children. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void say(const char *what, long value)
{
	printf("%s: %ld\n", what, value);
	fflush(stdout);
}

static pid_t child(int (*body)(void))
{
	pid_t pid = fork();
	if (!pid)
		_exit(body());
	return pid;
}

static int status_of(pid_t pid)
{
	int status = 0;
	if (waitpid(pid, &status, 0) != pid)
		return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static volatile char data[1 << 16];
static char *shared, *private;
static _Thread_local int mine = 3;

static int writes(void)
{
	for (size_t i = 0; i < sizeof data; i += 4096)
		data[i]++;
	memset(private, 7, 4 << 20);
	shared[0] = 9;
	mine++;
	return data[0] == 6 && mine == 4 && private[(4 << 20) - 1] == 7 ? 21 : 22;
}

static int kills_itself(void)
{
	kill(getpid(), SIGTERM);
	return 0;
}

static int faults(void)
{
	volatile char *nowhere = (char *)(intptr_t)getppid();
	return *nowhere;
}

static int sleeps(void)
{
	usleep(30000);
	return 5;
}

static int sleeps_long(void)
{
	while (pause() < 0)
		;
	return 0;
}

static volatile sig_atomic_t told;
static siginfo_t about;
static void on_child(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	told++;
	about = *info;
}

static void memory(void)
{
	memset((void *)data, 5, sizeof data);
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	private = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(private, 1, 4 << 20);
	say("child's copies", status_of(child(writes)));
	say("parent's data", data[0]);
	say("parent's private page", private[12345]);
	say("shared page", shared[0]);
	say("thread-local", mine);
	private[0] = 2;
	say("written after", private[0] + private[4096]);
}

static void waiting(void)
{
	int status;
	siginfo_t info;
	struct rusage usage;
	say("none", wait(&status) < 0 ? errno : 0);
	say("killed", status_of(child(kills_itself)));
	say("faulted", status_of(child(faults)));
	pid_t pid = child(sleeps);
	say("not yet", waitpid(pid, &status, WNOHANG));
	memset(&info, 0xff, sizeof info);
	say("waitid", waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
	say("it is the child", info.si_pid == pid);
	say("code", info.si_code);
	say("status", info.si_status);
	say("again", wait4(-1, &status, 0, &usage) == pid);
	say("status", WEXITSTATUS(status));
	say("gone", waitpid(pid, &status, 0) < 0 ? errno : 0);
	say("stranger", waitpid(getppid(), &status, 0) < 0 ? errno : 0);
	say("bad option", waitpid(-1, &status, 0x800000) < 0 ? errno : 0);
	say("bad waitid", waitid(P_ALL, 0, &info, 0) < 0 ? errno : 0);

	struct sigaction action = { .sa_sigaction = on_child, .sa_flags = SA_SIGINFO }, old;
	sigaction(SIGCHLD, &action, &old);
	pid = child(sleeps);
	while (!told)
		pause();
	say("SIGCHLD", about.si_pid == pid && about.si_status == 5 && about.si_code == CLD_EXITED);
	say("reaped", status_of(pid));
	action.sa_flags |= SA_RESTART;
	sigaction(SIGCHLD, &action, NULL);
	say("restarted wait", status_of(child(sleeps)));
	signal(SIGCHLD, SIG_IGN);
	child(sleeps);
	say("nobody is left", wait(&status) < 0 ? errno : 0);
	sigaction(SIGCHLD, &old, NULL);
	pid = child(sleeps_long);
	say("kill", kill(pid, SIGKILL));
	say("killed", status_of(pid));
	say("kill nobody", kill(pid, 0) < 0 ? errno : 0);
	int sum = 0;
	for (int i = 0; i < 20; i++)
		child(sleeps);
	for (int i = 0; i < 20; i++) {
		wait(&status);
		sum += WEXITSTATUS(status);
	}
	say("twenty", sum);
}

static int counts_group(void)
{
	return getpgrp() == getpid() ? 1 : 0;
}

static int leads_session(void)
{
	return setsid() == getpid() && getsid(0) == getpid() && getpgrp() == getpid() ? 3 : 4;
}

static void groups(void)
{
	pid_t pid = child(sleeps_long), other = child(sleeps_long);
	say("own group", setpgid(pid, pid));
	say("join", setpgid(other, pid));
	say("group", getpgid(other) == pid);
	say("no such group", setpgid(other, 99999) < 0 ? errno : 0);
	say("inherited", status_of(child(counts_group)));
	say("kill the group", kill(-pid, SIGTERM));
	int status, count = 0;
	while (waitpid(-pid, &status, 0) > 0)
		count += WTERMSIG(status);
	say("both", count);
	say("session", status_of(child(leads_session)));
}

static void pipes(void)
{
	int to[2], from[2], status;
	char buffer[64] = { 0 };
	if (pipe(to) || pipe2(from, O_CLOEXEC))
		return;
	pid_t pid = fork();
	if (!pid) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		close(to[0]);
		close(to[1]);
		char closed[16];
		snprintf(closed, sizeof closed, "%d", from[1]);
		execl("/proc/self/exe", "processes", "upper", closed, (char *)NULL);
		_exit(99);
	}
	close(to[0]);
	close(from[1]);
	if (write(to[1], "through a pipe", 14) != 14)
		return;
	close(to[1]);
	ssize_t count = read(from[0], buffer, sizeof buffer);
	waitpid(pid, &status, 0);
	printf("%zd bytes: %s, status %d\n", count, buffer, WEXITSTATUS(status));
	close(from[0]);
	/* A writer without readers in another process. */
	if (pipe(to))
		return;
	pid = fork();
	if (!pid) {
		close(to[0]);
		usleep(20000);
		if (write(to[1], "x", 1) < 0)
			_exit(98);
		_exit(97);
	}
	close(to[0]);
	close(to[1]);
	say("broken pipe", status_of(pid));
}

static void spawning(void)
{
	pid_t pid;
	char *arguments[] = { "processes", "exit", NULL };
	char *bad[] = { "nothing", NULL };
	fflush(stdout);
	say("spawn", posix_spawn(&pid, "/proc/self/exe", NULL, NULL, arguments, environ));
	say("status", status_of(pid));
	say("spawn nothing", posix_spawn(&pid, "/nowhere", NULL, NULL, bad, environ));
	volatile int before = 1;
	pid = vfork();
	if (!pid) {
		before = 2;
		_exit(6);
	}
	say("vfork shares", before);
	say("status", status_of(pid));
}

static int has_a_child(void)
{
	int fds[2];
	char byte;
	if (pipe(fds))
		return 1;
	pid_t me = getpid();
	if (!fork()) {
		/* Until the parent is gone. */
		while (getppid() == me)
			usleep(1000);
		shared[1] = 1;
		_exit(0);
	}
	(void)byte;
	return 17;
}

static void *forks(void *argument)
{
	(void)argument;
	return (void *)(long)status_of(child(sleeps));
}

static void others(void)
{
	say("leaves a child", status_of(child(has_a_child)));
	while (!shared[1])
		usleep(1000);
	say("orphan", shared[1]);
	pthread_t threads[4];
	long sum = 0;
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, forks, NULL);
	for (int i = 0; i < 4; i++) {
		void *result;
		pthread_join(threads[i], &result);
		sum += (long)result;
	}
	say("threads fork", sum);
	struct rusage usage;
	say("children's time", getrusage(RUSAGE_CHILDREN, &usage));
	int fd = open("/tmp/processes", O_RDWR | O_CREAT | O_TRUNC, 0600);
	pid_t pid = fork();
	if (!pid) {
		if (write(fd, "child", 5) != 5)
			_exit(1);
		_exit(0);
	}
	/* By its number: the first process of a machine also has orphans to wait for. */
	say("wrote", status_of(pid));
	say("shared position", lseek(fd, 0, SEEK_CUR));
	unlink("/tmp/processes");
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "exit"))
		return 33;
	if (argc > 1 && !strcmp(argv[1], "upper")) {
		int c, still_open = argc > 2 && fcntl(atoi(argv[2]), F_GETFD) >= 0;
		while ((c = getchar()) != EOF)
			putchar(c >= 'a' && c <= 'z' ? c - 32 : c);
		fflush(stdout);
		return 40 + still_open;
	}
	memory();
	waiting();
	groups();
	pipes();
	spawning();
	others();
	return 0;
}
