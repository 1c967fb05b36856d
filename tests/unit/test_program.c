/* store/program.c: a program seen from outside, played by children of the test. */
#define _GNU_SOURCE
#include "store/program.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct child {
	pid_t pid;
	int hold; /* closing it lets the child go on */
	uint64_t start_ticks;
};

/* Field 22, read in the simplest way there is: the test's own children have no blanks in their names. */
static uint64_t start_ticks_of(pid_t pid)
{
	char path[64];
	unsigned long long ticks = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "r");
	if (!file)
		return 0;
	for (int i = 0; i < 21; i++)
		(void)fscanf(file, "%*s");
	if (fscanf(file, "%llu", &ticks) != 1)
		ticks = 0;
	fclose(file);
	return ticks;
}

/* A child that waits to be let go, and then ends with @status. */
static struct child start_child(int status)
{
	struct child child;
	int hold[2];

	assert_int_equal(pipe(hold), 0);
	child.pid = fork();
	assert_true(child.pid >= 0);
	if (child.pid == 0) {
		char byte;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(hold[1]);
		if (read(hold[0], &byte, 1) < 0)
			_exit(99);
		_exit(status);
	}
	close(hold[0]);
	child.hold = hold[1];
	child.start_ticks = start_ticks_of(child.pid);
	assert_true(child.start_ticks > 0);
	return child;
}

/* Linux 6.15 tells how a process ended that was reaped already. */
static bool kernel_remembers(void)
{
	struct utsname name;
	int major_number = 0, minor_number = 0;

	uname(&name);
	(void)sscanf(name.release, "%d.%d", &major_number, &minor_number);
	return major_number > 6 || (major_number == 6 && minor_number >= 15);
}

static void test_program_wait_when_it_lives_then_false_and_when_it_ends_then_true(void **state)
{
	struct child child = start_child(7);
	struct program program;
	char ended[32];
	(void)state;

	program_open(&program, (uint32_t)child.pid, child.start_ticks);
	assert_false(program_wait(&program, 0));
	assert_false(program_wait(&program, 10));
	close(child.hold);
	while (!program_wait(&program, 1000))
		;
	program_describe_end(&program, ended, sizeof(ended));
	assert_string_equal(ended, "exit 7");
	waitpid(child.pid, NULL, 0);
	program_close(&program);
}

static void test_program_wait_without_pidfd_then_the_same(void **state)
{
	struct child child = start_child(7);
	struct program program;
	char ended[32];
	(void)state;

	program_open(&program, (uint32_t)child.pid, child.start_ticks);
	program_close(&program); /* As on a kernel that has none. */
	assert_false(program_wait(&program, 0));
	assert_false(program_wait(&program, 10));
	close(child.hold);
	while (!program_wait(&program, 10))
		;
	program_describe_end(&program, ended, sizeof(ended));
	assert_string_equal(ended, "exit 7");
	waitpid(child.pid, NULL, 0);
	assert_true(program_wait(&program, 0));
	program_describe_end(&program, ended, sizeof(ended));
	assert_string_equal(ended, "killed");
}

static void test_program_describe_end_when_killed_then_the_signal_also_after_it_was_reaped(void **state)
{
	struct child child = start_child(0);
	struct program program;
	char ended[32];
	(void)state;

	program_open(&program, (uint32_t)child.pid, child.start_ticks);
	kill(child.pid, SIGKILL);
	while (!program_wait(&program, 1000))
		;
	program_describe_end(&program, ended, sizeof(ended));
	assert_string_equal(ended, "signal 9");
	waitpid(child.pid, NULL, 0);
	program_describe_end(&program, ended, sizeof(ended));
	assert_string_equal(ended, kernel_remembers() ? "signal 9" : "killed");
	close(child.hold);
	program_close(&program);
}

static void test_program_describe_end_when_reaped_after_exit_0_then_exit_0(void **state)
{
	struct child child = start_child(0);
	struct program program;
	char ended[32];
	(void)state;

	program_open(&program, (uint32_t)child.pid, child.start_ticks);
	close(child.hold);
	waitpid(child.pid, NULL, 0);
	assert_true(program_wait(&program, 1000));
	program_describe_end(&program, ended, sizeof(ended));
	assert_string_equal(ended, kernel_remembers() ? "exit 0" : "killed");
	program_close(&program);
}

static void test_program_open_when_the_pid_is_anothers_then_it_has_ended(void **state)
{
	struct child child = start_child(0);
	struct program program;
	uint64_t rss_bytes, peak_rss_bytes;
	(void)state;

	program_open(&program, (uint32_t)child.pid, child.start_ticks + 1);
	assert_true(program_wait(&program, 0));
	program_close(&program);
	program_open(&program, 0, 0);
	assert_true(program_wait(&program, 0));
	program_close(&program);
	program_open(&program, UINT32_MAX, 0);
	assert_true(program_wait(&program, 0));
	assert_false(program_read_rss(&program, &rss_bytes, &peak_rss_bytes));
	program_close(&program);
	close(child.hold);
	waitpid(child.pid, NULL, 0);
}

static void test_program_read_rss_when_it_lives_then_grows_with_it(void **state)
{
	struct program program;
	uint64_t rss_bytes, peak_rss_bytes, more_bytes;
	size_t size = 64 << 20;
	char *memory;
	(void)state;

	program_open(&program, (uint32_t)getpid(), start_ticks_of(getpid()));
	assert_true(program_read_rss(&program, &rss_bytes, &peak_rss_bytes));
	assert_true(rss_bytes > 100000 && peak_rss_bytes >= rss_bytes);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(memory != MAP_FAILED);
	memset(memory, 1, size);
	assert_true(program_read_rss(&program, &more_bytes, &peak_rss_bytes));
	assert_true(more_bytes >= rss_bytes + size / 2);
	munmap(memory, size);
	program_close(&program);
}

static void test_program_read_command_when_it_has_odd_bytes_then_one_line(void **state)
{
	struct program program;
	char command[200] = "", small[6];
	int hold[2];
	pid_t pid;
	(void)state;

	assert_int_equal(pipe(hold), 0);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(hold[0], 0);
		close(hold[1]);
		execl("/bin/sh", "sh", "-c", "read x; true", "two words\n", "\x7f", "", (char *)NULL);
		_exit(99);
	}
	close(hold[0]);
	program_open(&program, (uint32_t)pid, start_ticks_of(pid));
	for (int i = 0; i < 1000 && strncmp(command, "sh ", 3) != 0; i++) {
		usleep(1000);
		program_read_command(&program, command, sizeof(command));
	}
	assert_string_equal(command, "sh -c read x; true two words? ?");
	program_read_command(&program, small, sizeof(small));
	assert_string_equal(small, "sh -c");
	close(hold[1]);
	waitpid(pid, NULL, 0);
	program_read_command(&program, command, sizeof(command));
	assert_string_equal(command, "");
	program_close(&program);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_program_wait_when_it_lives_then_false_and_when_it_ends_then_true),
	        cmocka_unit_test(test_program_wait_without_pidfd_then_the_same),
	        cmocka_unit_test(test_program_describe_end_when_killed_then_the_signal_also_after_it_was_reaped),
	        cmocka_unit_test(test_program_describe_end_when_reaped_after_exit_0_then_exit_0),
	        cmocka_unit_test(test_program_open_when_the_pid_is_anothers_then_it_has_ended),
	        cmocka_unit_test(test_program_read_rss_when_it_lives_then_grows_with_it),
	        cmocka_unit_test(test_program_read_command_when_it_has_odd_bytes_then_one_line),
	};

	return cmocka_run_group_tests_name("program", tests, NULL, NULL);
}
