/*
 * The program under the hook: `program SCENARIO`.  Each scenario is a way to live or to end in which a guest could be
 * noticed.  It says on stdout what it noticed, so that its output is the same with and without the hook.
 */
#define _GNU_SOURCE
#include "fake_c10.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void some_memory(void)
{
	fake_alloc(0x1000, 100);
	fake_alloc(0x2000, 50);
	fake_free(0x1000);
}

static volatile sig_atomic_t nr_child_signals;

static void count_child_signal(int number)
{
	nr_child_signals++;
}

static void say_children(void)
{
	int status;
	pid_t pid = waitpid(-1, &status, 0);

	printf("waitpid: %s, %d signals\n", pid < 0 ? strerror(errno) : "a child", (int)nr_child_signals);
}

static unsigned nr_descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned count = 0;

	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static int nothing(void)
{
	puts("no memory was used");
	return 5;
}

static int returns(void)
{
	some_memory();
	return 3;
}

static int exits_at_once(void)
{
	some_memory();
	_exit(7);
}

static int exits_at_once_c99(void)
{
	some_memory();
	_Exit(8);
}

static void frees_late(void)
{
	fake_free(0x2000);
}

static int late_free(void)
{
	atexit(frees_late);
	some_memory();
	exit(4);
}

static void *ends_the_process(void *arg)
{
	fake_alloc(0x3000, 10);
	_exit(6);
}

static int thread_exits(void)
{
	pthread_t thread;

	some_memory();
	pthread_create(&thread, NULL, ends_the_process, NULL);
	pthread_join(thread, NULL);
	return 1;
}

static void *uses_memory(void *arg)
{
	for (int i = 0; i < 5; i++)
		fake_alloc(0x10000 + (uint64_t)i * 64, 7);
	return NULL;
}

static int threads(void)
{
	pthread_t thread;

	some_memory();
	pthread_create(&thread, NULL, uses_memory, NULL);
	pthread_setname_np(thread, "late"); /* named after its first report, or before: not told apart below */
	pthread_join(thread, NULL);
	return 0;
}

static int main_thread_ends(void)
{
	some_memory();
	pthread_exit(NULL);
}

static int children(void)
{
	signal(SIGCHLD, count_child_signal);
	some_memory();
	say_children();
	return 0;
}

/* As in a container whose first process is the program: orphans come back to it. */
static int subreaper(void)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	return children();
}

static int forks(void)
{
	pid_t child;
	int status;

	some_memory();
	fflush(stdout);
	child = fork();
	if (child == 0) {
		fake_free(0x2000);
		fake_alloc(0x5000, 9);
		exit(11);
	}
	waitpid(child, &status, 0);
	printf("child: %d\n", WEXITSTATUS(status));
	child = fork();
	if (child == 0)
		_exit(12);
	waitpid(child, &status, 0);
	printf("child: %d\n", WEXITSTATUS(status));
	child = fork();
	if (child == 0) {
		execl("/bin/sh", "sh", "-c", "exit 13", (char *)NULL);
		_exit(1);
	}
	waitpid(child, &status, 0);
	printf("child: %d\n", WEXITSTATUS(status));
	fake_alloc(0x6000, 8);
	return 0;
}

/* The child of vfork() runs in our memory until it execs. */
static int vforks(void)
{
	pid_t child;
	int status;

	some_memory();
	fflush(stdout);
	child = vfork();
	if (child == 0) {
		execl("/bin/sh", "sh", "-c", "exit 13", (char *)NULL);
		_exit(1);
	}
	waitpid(child, &status, 0);
	printf("child: %d\n", WEXITSTATUS(status));
	child = vfork();
	if (child == 0) {
		execl("/nonexistent", "x", (char *)NULL);
		_exit(14);
	}
	waitpid(child, &status, 0);
	printf("child: %d\n", WEXITSTATUS(status));
	fake_alloc(0x6000, 8);
	return 0;
}

static int execs(void)
{
	some_memory();
	fflush(stdout);
	execlp("sh", "sh", "-c", "echo another program; exit 9", (char *)NULL);
	return 1;
}

static int execs_with_environment(void)
{
	char *const environment[] = {(char *)(uintptr_t) "WORD=hello", NULL};

	some_memory();
	fflush(stdout);
	execle("/bin/sh", "sh", "-c", "echo $WORD; exit 9", (char *)NULL, environment);
	return 1;
}

static int execs_at(void)
{
	char *const arguments[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c",
	                           (char *)(uintptr_t) "echo another program; exit 9", NULL};
	int folder = open("/bin", O_PATH | O_DIRECTORY);

	some_memory();
	fflush(stdout);
	execveat(folder, "sh", arguments, environ, 0);
	return 1;
}

static int exec_fails(void)
{
	char *const arguments[] = {(char *)(uintptr_t) "x", NULL};

	some_memory();
	errno = 0;
	printf("%d", execv("/nonexistent", arguments));
	printf(" %s\n", strerror(errno));
	printf("%d", execvp("nonexistent-program", arguments));
	printf(" %s\n", strerror(errno));
	printf("%d", execv("/tmp", arguments)); /* it has an x, for passing through */
	printf(" %s\n", strerror(errno));
	fake_alloc(0x6000, 8);
	return 0;
}

/* It looks as if it would succeed until the kernel reads the file. */
static int exec_fails_late(void)
{
	char *const arguments[] = {(char *)(uintptr_t) "x", NULL};
	int fd = open("not-a-program", O_CREAT | O_WRONLY, 0700);

	if (fd < 0 || write(fd, "\1\2\3", 3) != 3)
		return 1;
	close(fd);
	some_memory();
	errno = 0;
	printf("%d", execv("./not-a-program", arguments));
	printf(" %s\n", strerror(errno));
	fake_alloc(0x6000, 8);
	return 0;
}

static volatile unsigned long nr_made;

static void handle_by_allocating(int number)
{
	fake_alloc(0x7000, 1);
	fake_free(0x7000);
	nr_made += 2;
}

/* Signals that allocate, while the hook is at work: every report is recorded or counted. */
static int signals(void)
{
	struct sigaction action = {.sa_handler = handle_by_allocating};
	struct itimerspec often = {.it_value.tv_nsec = 50000, .it_interval.tv_nsec = 50000};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	timer_t timer;

	sigaction(SIGUSR1, &action, NULL);
	timer_create(CLOCK_MONOTONIC, &event, &timer);
	timer_settime(timer, 0, &often, NULL);
	for (int i = 0; i < 100000; i++)
		fake_alloc(0x8000, 1);
	timer_delete(timer);
	printf("made %lu\n", nr_made + 100000);
	return 0;
}

static int descriptors(void)
{
	unsigned before = nr_descriptors();

	some_memory();
	printf("%d more\n", (int)(nr_descriptors() - before));
	return 0;
}

/* Standard error becomes another file: nothing of ours may land in it. */
static int stderr_is_reused(void)
{
	some_memory();
	close(2);
	if (open("reused", O_CREAT | O_TRUNC | O_WRONLY, 0600) != 2)
		return 1;
	return 0;
}

static int file_limit(void)
{
	struct rlimit limit = {4u << 20, 4u << 20};

	setrlimit(RLIMIT_FSIZE, &limit);
	some_memory();
	return 0;
}

static int crashes(void)
{
	some_memory();
	raise(SIGSEGV);
	return 1;
}

static int killed(void)
{
	some_memory();
	raise(SIGKILL);
	return 1;
}

static int blocked_signals(void)
{
	sigset_t blocked;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGTERM);
	sigprocmask(SIG_SETMASK, &blocked, NULL);
	some_memory();
	sigprocmask(SIG_BLOCK, NULL, &blocked);
	for (int number = 1; number < 32; number++) {
		if (sigismember(&blocked, number))
			printf("blocked: %s\n", strsignal(number));
	}
	return 0;
}

static int own_profiler(void)
{
	some_memory();
	fake_profiler_is_on = true;
	fake_free(0x2000); /* older than the session: not told */
	fake_alloc(0x1000, 5);
	fake_alloc(0x3000, 9);
	fake_free(0x1000);
	fake_profiler_is_on = false;
	printf("told %u times, %ld bytes, total %ld\n", fake_nr_told, (long)fake_told_bytes, (long)fake_told_total);
	return 0;
}

static const struct {
	const char *name;
	int (*run)(void);
} scenarios[] = {
        {"nothing", nothing},
        {"returns", returns},
        {"exits_at_once", exits_at_once},
        {"exits_at_once_c99", exits_at_once_c99},
        {"late_free", late_free},
        {"thread_exits", thread_exits},
        {"threads", threads},
        {"main_thread_ends", main_thread_ends},
        {"children", children},
        {"subreaper", subreaper},
        {"forks", forks},
        {"vforks", vforks},
        {"execs", execs},
        {"execs_with_environment", execs_with_environment},
        {"execs_at", execs_at},
        {"exec_fails", exec_fails},
        {"exec_fails_late", exec_fails_late},
        {"signals", signals},
        {"descriptors", descriptors},
        {"stderr_is_reused", stderr_is_reused},
        {"file_limit", file_limit},
        {"crashes", crashes},
        {"killed", killed},
        {"blocked_signals", blocked_signals},
        {"own_profiler", own_profiler},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc == 2 && i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
		if (!strcmp(scenarios[i].name, argv[1]))
			return scenarios[i].run();
	}
	return 99;
}
