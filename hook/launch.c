/*
 * Starting nnmem-record: see launch.h for what must not be noticed.
 *
 * Three processes: the program's thread calls clone(): the *maker*; the maker calls clone(): the child that becomes the
 * recorder by execve().  Both clones share the program's memory and its thread-local storage (CLONE_VM), so below the maker
 * only sys_call() is used.
 *
 * Source: clone(2), execve(2) ("exit signal is reset to SIGCHLD"), wait(2) (__WALL); kernel/exit.c reparent_leader() for the
 * same on reparenting; tried on Linux 6.x: waitpid(-1) says ECHILD whether we are init, a subreaper or neither.
 */
#define _GNU_SOURCE
#include "hook/launch.h"

#include "hook/sys.h"
#include "nnmem/atomic.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES    (64u << 10)
#define STARTED_WAIT_S 1
/* Where close_range() is missing (before Linux 5.9): how far descriptors are closed one by one. */
#define MAX_DESCRIPTOR   65536
#define SIGNAL_SET_BYTES 8 /* the kernel's */

struct launch {
	const char *program;
	char *const *argv;
	char **envp;
	char *recorder_stack; /* its end */
	long program_pid;
	bool maker_stays;
	uint32_t started; /* 1: the recorder runs, or `error` says why not; futex */
	int error;        /* negative errno */
};

static void close_descriptors(unsigned first)
{
	if (sys_call(__NR_close_range, (long)first, ~0L, 0, 0, 0) != -ENOSYS)
		return;
	for (long fd = (long)first; fd < MAX_DESCRIPTOR; fd++)
		sys_call(__NR_close, fd, 0, 0, 0, 0);
}

/* The child that becomes the recorder. */
static int recorder_main(void *arg)
{
	/* The kernel's struct sigaction, all zero: SIG_DFL, no flags, nothing blocked. */
	static const uint64_t default_action[8];
	static const uint64_t no_signals;
	struct launch *launch = arg;

	sys_call(__NR_setsid, 0, 0, 0, 0, 0);
	for (int signal = 1; signal <= 64; signal++)
		sys_call(__NR_rt_sigaction, signal, (long)default_action, 0, SIGNAL_SET_BYTES, 0);
	sys_call(__NR_rt_sigprocmask, SIG_SETMASK, (long)&no_signals, 0, SIGNAL_SET_BYTES, 0);
	close_descriptors(0);
	for (int fd = 0; fd <= 2; fd++)
		sys_call(__NR_openat, AT_FDCWD, (long)"/dev/null", O_RDWR, 0, 0);
	launch->error = (int)sys_call(__NR_execve, (long)launch->program, (long)launch->argv, (long)launch->envp, 0, 0);
	sys_call(__NR_exit_group, 127, 0, 0, 0, 0);
	return 127;
}

/* The maker that stays: until the recorder or the program has ended.  It keeps no file of the program's open. */
static void stay(const struct launch *launch, long recorder)
{
	struct pollfd ends[2] = {{.events = POLLIN}, {.events = POLLIN}};
	struct timespec pause = {.tv_nsec = 200000000};

	sys_call(__NR_setsid, 0, 0, 0, 0, 0);
	close_descriptors(0);
	ends[0].fd = (int)sys_call(__NR_pidfd_open, launch->program_pid, 0, 0, 0, 0);
	ends[1].fd = (int)sys_call(__NR_pidfd_open, recorder, 0, 0, 0, 0);
	while (sys_call(__NR_getppid, 0, 0, 0, 0, 0) == launch->program_pid) {
		if (sys_call(__NR_wait4, recorder, 0, WNOHANG | __WALL, 0, 0) != 0)
			return;
		if (ends[0].fd >= 0 && ends[1].fd >= 0)
			sys_call(__NR_ppoll, (long)ends, 2, 0, 0, 0);
		else /* before Linux 5.3 */
			sys_call(__NR_nanosleep, (long)&pause, 0, 0, 0, 0);
	}
}

static int maker_main(void *arg)
{
	struct launch *launch = arg;
	/* Returns when the child has called execve() or has ended: CLONE_VFORK. */
	long recorder = clone(recorder_main, launch->recorder_stack, CLONE_VM | CLONE_VFORK, launch);

	if (recorder < 0)
		launch->error = -errno;
	if (launch->maker_stays) {
		bool failed = launch->error != 0;

		/* Release pairs with the acquire in wait_until_started(), after which @launch is gone but for what stays mapped.
		 */
		atomic32_store_release(&launch->started, 1);
		sys_call(__NR_futex, (long)&launch->started, FUTEX_WAKE, 1, 0, 0);
		if (recorder > 0 && failed)
			sys_call(__NR_wait4, recorder, 0, __WALL, 0, 0);
		else if (recorder > 0)
			stay(launch, recorder);
	}
	sys_call(__NR_exit_group, 0, 0, 0, 0, 0);
	return 0;
}

static int wait_until_started(struct launch *launch)
{
	struct timespec limit = {.tv_sec = STARTED_WAIT_S};

	while (!atomic32_load_acquire(&launch->started)) {
		long result = sys_call(__NR_futex, (long)&launch->started, FUTEX_WAIT, 0, (long)&limit, 0);

		if (result == -ETIMEDOUT)
			return -ETIMEDOUT;
	}
	return launch->error;
}

static bool orphans_come_to_us(void)
{
	int is_subreaper = 0;

	return getpid() == 1 || (prctl(PR_GET_CHILD_SUBREAPER, &is_subreaper, 0, 0, 0) == 0 && is_subreaper);
}

static bool is_for_the_program_only(const char *variable)
{
	return !strncmp(variable, "LD_PRELOAD=", 11) || !strncmp(variable, "LD_AUDIT=", 9);
}

int launch_recorder(const char *program, char *const argv[])
{
	static const uint64_t all_signals = UINT64_MAX;
	int saved_errno = errno, error = 0;
	size_t nr_variables = 0, used = 0, size;
	uint64_t old_signals;
	struct launch *launch;
	char *memory;
	long maker;

	if (access(program, X_OK) != 0) {
		error = -errno;
		goto out;
	}
	while (environ && environ[nr_variables])
		nr_variables++;
	/* One mapping: two stacks, and above them what the processes read.  It stays when the maker stays. */
	size = 2 * STACK_BYTES + sizeof(*launch) + (nr_variables + 1) * sizeof(char *);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (memory == MAP_FAILED) {
		error = -errno;
		goto out;
	}
	launch = (struct launch *)(void *)(memory + 2 * STACK_BYTES);
	launch->program = program;
	launch->argv = argv;
	launch->envp = (char **)(void *)(launch + 1);
	for (size_t i = 0; i < nr_variables; i++) {
		if (!is_for_the_program_only(environ[i]))
			launch->envp[used++] = environ[i];
	}
	launch->recorder_stack = memory + 2 * STACK_BYTES;
	launch->program_pid = getpid();
	launch->maker_stays = orphans_come_to_us();

	/* All of them, also those that glibc keeps for itself: a handler must not run on the makers' stacks. */
	sys_call(__NR_rt_sigprocmask, SIG_SETMASK, (long)&all_signals, (long)&old_signals, SIGNAL_SET_BYTES, 0);
	maker = clone(maker_main, memory + STACK_BYTES, CLONE_VM | (launch->maker_stays ? 0 : CLONE_VFORK), launch);
	if (maker < 0)
		error = -errno;
	else if (launch->maker_stays)
		error = wait_until_started(launch);
	else
		error = launch->error;
	if (maker > 0 && (!launch->maker_stays || (error && error != -ETIMEDOUT)))
		sys_call(__NR_wait4, maker, 0, __WALL, 0, 0);
	sys_call(__NR_rt_sigprocmask, SIG_SETMASK, (long)&old_signals, 0, SIGNAL_SET_BYTES, 0);
	if (!(maker > 0 && launch->maker_stays && (!error || error == -ETIMEDOUT)))
		munmap(memory, size);
out:
	errno = saved_errno;
	return error;
}
