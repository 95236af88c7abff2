/* Threads: mutexes, condition variables, barriers, thread-local storage, robust mutexes, signals to threads, CPU clocks; and the ways in which they end. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 8, ROUNDS = 2000 };

static void say(const char *what, long value)
{
	printf("%s: %ld\n", what, value);
	fflush(stdout);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static long counter, turn;
static _Thread_local long mine = 5;
static volatile long spun;

static void *count(void *argument)
{
	for (int i = 0; i < ROUNDS; i++) {
		pthread_mutex_lock(&mutex);
		counter++;
		pthread_mutex_unlock(&mutex);
		if (i % 100 == 0)
			sched_yield();
		mine += (long)argument;
	}
	return (void *)mine;
}

static void *ping(void *argument)
{
	long me = (long)argument;
	for (int i = 0; i < 200; i++) {
		pthread_mutex_lock(&mutex);
		while (turn != me)
			pthread_cond_wait(&changed, &mutex);
		turn = !me;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&mutex);
	}
	return NULL;
}

static void *meet(void *argument)
{
	long serial = 0;
	(void)argument;
	for (int i = 0; i < 50; i++)
		serial += pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD;
	return (void *)serial;
}

/* Nobody gives the CPU up here: only the timer takes it. */
static void *spin(void *argument)
{
	(void)argument;
	while (spun < 1)
		;
	spun = 2;
	return NULL;
}

static long joined(void *(*body)(void *), int threads, int numbered)
{
	pthread_t all[THREADS];
	long sum = 0;
	void *result;
	for (long i = 0; i < threads; i++)
		if (pthread_create(&all[i], NULL, body, (void *)(numbered ? i : 1)))
			say("cannot create", i);
	for (int i = 0; i < threads; i++) {
		pthread_join(all[i], &result);
		sum += (long)result;
	}
	return sum;
}

static volatile pthread_t signalled;
static void note(int signal)
{
	(void)signal;
	signalled = pthread_self();
}

static sem_t ready;
static void *wait_for_signal(void *argument)
{
	sem_post(&ready);
	while (!pthread_equal(signalled, pthread_self()))
		usleep(1000);
	return argument;
}

static void signals(void)
{
	pthread_t thread;
	struct sigaction action = { .sa_handler = note };
	void *result;
	sigaction(SIGUSR1, &action, NULL);
	sem_init(&ready, 0, 0);
	pthread_create(&thread, NULL, wait_for_signal, (void *)3);
	sem_wait(&ready);
	pthread_kill(thread, SIGUSR1);
	pthread_join(thread, &result);
	say("one thread's signal", (long)result);
	/* To the process, and only the other thread does not block it. */
	sigset_t set, old;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	signalled = 0;
	pthread_create(&thread, NULL, wait_for_signal, (void *)4);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	sem_wait(&ready);
	kill(getpid(), SIGUSR1);
	pthread_join(thread, &result);
	say("the process's signal", (long)result);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void *die_holding(void *robust)
{
	pthread_mutex_lock(robust);
	return NULL;
}

static void robust(void)
{
	pthread_mutex_t held;
	pthread_mutexattr_t attributes;
	pthread_t thread;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&held, &attributes);
	pthread_create(&thread, NULL, die_holding, &held);
	pthread_join(thread, NULL);
	say("robust", pthread_mutex_lock(&held));
	say("consistent", pthread_mutex_consistent(&held));
	say("unlock", pthread_mutex_unlock(&held));
}

static void clocks(void)
{
	struct timespec soon, cpu;
	clock_gettime(CLOCK_REALTIME, &soon);
	soon.tv_nsec += 20000000;
	if (soon.tv_nsec >= 1000000000) {
		soon.tv_nsec -= 1000000000;
		soon.tv_sec++;
	}
	pthread_mutex_lock(&mutex);
	say("timed out", pthread_cond_timedwait(&changed, &mutex, &soon));
	pthread_mutex_unlock(&mutex);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
	long before = cpu.tv_sec * 1000 + cpu.tv_nsec / 1000000;
	usleep(200000);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
	say("a sleep costs no CPU time", cpu.tv_sec * 1000 + cpu.tv_nsec / 1000000 - before < 100);
	clockid_t id;
	pthread_getcpuclockid(pthread_self(), &id);
	say("clock by thread", clock_gettime(id, &cpu));
}

static long tasks(void)
{
	DIR *dir = opendir("/proc/self/task");
	long found = 0;
	for (struct dirent *entry; (entry = readdir(dir));)
		found += entry->d_name[0] != '.';
	closedir(dir);
	return found;
}

static void *sleep_long(void *argument)
{
	if (argument)
		sem_post(argument);
	sleep(1000);
	return NULL;
}

static void *end_process(void *how)
{
	usleep(20000);
	if (!strcmp(how, "exit"))
		exit(7);
	if (!strcmp(how, "kill"))
		kill(getpid(), SIGTERM);
	if (!strcmp(how, "fault"))
		*(volatile char *)(uintptr_t)tasks() = 1;
	if (!strcmp(how, "exec")) {
		char *arguments[] = { "threads", "status", NULL };
		execv("/proc/self/exe", arguments);
	}
	usleep(20000);
	puts("the last thread");
	fflush(stdout);
	syscall(SYS_exit, 9);
	return NULL;
}

static void clean(void *text)
{
	puts(text);
}

static void *cleaned(void *argument)
{
	pthread_cleanup_push(clean, "cleaned up");
	sleep_long(argument);
	pthread_cleanup_pop(1);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	void *result;
	if (argc > 1 && !strcmp(argv[1], "status")) {
		say("after exec, tid is pid", gettid() == getpid());
		say("tasks", tasks());
		return 12;
	}
	if (argc > 1 && !strcmp(argv[1], "cancel")) {
		sem_init(&ready, 0, 0);
		pthread_create(&thread, NULL, cleaned, &ready);
		sem_wait(&ready);
		pthread_cancel(thread);
		pthread_join(thread, &result);
		say("cancelled", result == PTHREAD_CANCELED);
		return 0;
	}
	if (argc > 1) {
		pthread_create(&thread, NULL, sleep_long, NULL);
		if (!strcmp(argv[1], "leader")) {
			pthread_cancel(thread);
			pthread_join(thread, NULL);
		}
		pthread_create(&thread, NULL, end_process, argv[1]);
		if (!strcmp(argv[1], "leader"))
			syscall(SYS_exit, 8);
		for (;;)
			pause();
	}
	say("own storage", joined(count, THREADS, 1));
	say("counted", counter);
	say("main's storage", mine);
	say("ping-pong", joined(ping, 2, 1));
	pthread_barrier_init(&barrier, NULL, 4);
	say("barriers", joined(meet, 4, 1));
	pthread_create(&thread, NULL, spin, NULL);
	spun = 1;
	while (spun < 2)
		;
	pthread_join(thread, NULL);
	say("preempted", spun);
	sem_init(&ready, 0, 0);
	pthread_create(&thread, NULL, sleep_long, &ready);
	sem_wait(&ready);
	say("tasks", tasks());
	pthread_cancel(thread);
	pthread_join(thread, NULL);
	say("tasks", tasks());
	signals();
	robust();
	clocks();
	return 0;
}
