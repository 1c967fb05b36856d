/*
 * nnmem-run as a shell sees it: what it starts, what it passes on, how it ends.  It runs from a copy beside a library that
 * does nothing (tests/unit/CMakeLists.txt), as it would when installed.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

/* RUN_UNDER_TEST: the copy of nnmem-run; PRELOAD_UNDER_TEST: the library that it should find. */

struct outcome {
	int status;        /* as of waitpid() */
	char output[4096]; /* stdout and stderr together */
};

static pid_t start(const char *const *argv, int *ret_output)
{
	int ends[2];
	pid_t pid;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		dup2(ends[1], 1);
		dup2(ends[1], 2);
		execv(argv[0], (char *const *)(uintptr_t)argv);
		_exit(99);
	}
	close(ends[1]);
	*ret_output = ends[0];
	return pid;
}

static void finish(pid_t pid, int output, struct outcome *ret)
{
	size_t used = strlen(ret->output);
	ssize_t got;

	while ((got = read(output, ret->output + used, sizeof(ret->output) - 1 - used)) > 0)
		used += (size_t)got;
	ret->output[used] = '\0';
	close(output);
	assert_int_equal(waitpid(pid, &ret->status, 0), pid);
}

static void run(const char *const *argv, struct outcome *ret)
{
	int output;
	pid_t pid = start(argv, &output);

	ret->output[0] = '\0';
	finish(pid, output, ret);
}

#define RUN(ret, ...) run((const char *const[]){RUN_UNDER_TEST, __VA_ARGS__, NULL}, ret)

static void test_run_when_command_exits_then_same_status(void **state)
{
	struct outcome outcome;

	RUN(&outcome, "sh", "-c", "exit 7");
	assert_true(WIFEXITED(outcome.status));
	assert_int_equal(WEXITSTATUS(outcome.status), 7);
	assert_string_equal(outcome.output, "");
}

static void test_run_when_command_is_killed_then_dies_of_same_signal(void **state)
{
	struct outcome outcome;

	RUN(&outcome, "sh", "-c", "kill -KILL $$");
	assert_true(WIFSIGNALED(outcome.status));
	assert_int_equal(WTERMSIG(outcome.status), SIGKILL);
	RUN(&outcome, "sh", "-c", "ulimit -c 0; kill -ABRT $$");
	assert_true(WIFSIGNALED(outcome.status));
	assert_int_equal(WTERMSIG(outcome.status), SIGABRT);
	RUN(&outcome, "sh", "-c", "kill -TERM $$");
	assert_true(WIFSIGNALED(outcome.status));
	assert_int_equal(WTERMSIG(outcome.status), SIGTERM);
}

static void test_run_when_command_is_missing_then_127(void **state)
{
	struct outcome outcome;

	RUN(&outcome, "nnmem-no-such-command");
	assert_int_equal(WEXITSTATUS(outcome.status), 127);
	assert_string_equal(outcome.output, "nnmem-run: nnmem-no-such-command: command not found\n");
}

static void test_run_when_command_is_not_executable_then_126(void **state)
{
	struct outcome outcome;

	RUN(&outcome, "/");
	assert_int_equal(WEXITSTATUS(outcome.status), 126);
	assert_string_equal(outcome.output, "nnmem-run: /: Permission denied\n");
}

static void test_run_when_no_command_then_125(void **state)
{
	struct outcome outcome;

	RUN(&outcome, "-q");
	assert_int_equal(WEXITSTATUS(outcome.status), 125);
	assert_non_null(strstr(outcome.output, "no command given"));
}

static void test_run_when_command_has_options_then_they_are_its_own(void **state)
{
	struct outcome outcome;

	RUN(&outcome, "sh", "-c", "echo \"$@\"", "--", "-o", "x", "--help");
	assert_int_equal(outcome.status, 0);
	assert_string_equal(outcome.output, "-o x --help\n");
}

static void test_run_when_nothing_was_preloaded_then_library_alone(void **state)
{
	struct outcome outcome;

	unsetenv("LD_PRELOAD");
	RUN(&outcome, "sh", "-c", "echo $LD_PRELOAD");
	assert_string_equal(outcome.output, PRELOAD_UNDER_TEST "\n");
}

static void test_run_when_others_were_preloaded_then_library_first(void **state)
{
	struct outcome outcome;

	setenv("LD_PRELOAD", "libm.so.6", 1);
	RUN(&outcome, "sh", "-c", "echo $LD_PRELOAD");
	assert_string_equal(outcome.output, PRELOAD_UNDER_TEST ":libm.so.6\n");
	/* Started by itself it adds nothing. */
	RUN(&outcome, RUN_UNDER_TEST, "sh", "-c", "echo $LD_PRELOAD");
	assert_string_equal(outcome.output, PRELOAD_UNDER_TEST ":libm.so.6\n");
	unsetenv("LD_PRELOAD");
}

static void test_run_when_options_given_then_in_environment(void **state)
{
	struct outcome outcome;

	RUN(&outcome, "-o", "/x/%p.db", "--ring-mb=4", "-q", "sh", "-c", "echo $NNMEM_OUT $NNMEM_RING_MB $NNMEM_LOG");
	assert_string_equal(outcome.output, "/x/%p.db 4 quiet\n");
}

static void test_run_when_out_is_relative_then_meant_from_here(void **state)
{
	struct outcome outcome;
	char expected[4096];
	char folder[2048];

	assert_non_null(getcwd(folder, sizeof(folder)));
	snprintf(expected, sizeof(expected), "%s/a.db\n", folder);
	RUN(&outcome, "--out", "a.db", "sh", "-c", "echo $NNMEM_OUT");
	assert_string_equal(outcome.output, expected);
}

/* Start a command that says "up" when it is ready, and read that. */
static pid_t start_ready(const char *script, int *ret_output)
{
	const char *const argv[] = {RUN_UNDER_TEST, "sh", "-c", script, NULL};
	char up[3];
	pid_t pid = start(argv, ret_output);

	assert_int_equal(read(*ret_output, up, sizeof(up)), 3);
	return pid;
}

static void test_run_when_signalled_then_command_gets_it_once(void **state)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
	static const char script[] = "got() { echo got; exit 5; }; trap got INT TERM HUP QUIT USR1 USR2; echo up;"
	                             "while :; do sleep 0.01; done";

	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		struct outcome outcome = {.output = ""};
		int output;
		pid_t pid = start_ready(script, &output);

		assert_int_equal(kill(pid, signals[i]), 0);
		finish(pid, output, &outcome);
		assert_true(WIFEXITED(outcome.status));
		assert_int_equal(WEXITSTATUS(outcome.status), 5);
		assert_string_equal(outcome.output, "got\n");
	}
}

#define COUNT         "--count-interrupts"
#define NR_INTERRUPTS 8

static volatile sig_atomic_t nr_interrupts;

static void on_interrupt(int number)
{
	nr_interrupts++;
	if (write(1, "!", 1) != 1)
		_exit(98);
}

/*
 * This program as the command: exit with how many SIGINTs came.  Each is answered before the next is sent, since two that
 * wait at the same time are one (so one that came twice may be missed, but hardly eight of them).
 */
static int count_interrupts(void)
{
	struct timespec left = {.tv_nsec = 200000000};

	signal(SIGINT, on_interrupt);
	on_interrupt(0);
	while (nr_interrupts < NR_INTERRUPTS + 1)
		poll(NULL, 0, 10);
	while (nanosleep(&left, &left) && errno == EINTR)
		;
	return nr_interrupts - 1;
}

static void wait_for_answer(int terminal)
{
	char seen = 0;

	while (seen != '!')
		assert_int_equal(read(terminal, &seen, 1), 1);
}

static void test_run_when_terminal_interrupts_then_command_gets_it_once(void **state)
{
	char self[4096] = "", rest[64];
	int terminal, status;
	pid_t pid = forkpty(&terminal, NULL, NULL, NULL);

	assert_true(pid >= 0);
	if (pid == 0) {
		if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
			_exit(97);
		execl(RUN_UNDER_TEST, RUN_UNDER_TEST, self, COUNT, (char *)NULL);
		_exit(99);
	}
	wait_for_answer(terminal);
	for (int i = 0; i < NR_INTERRUPTS; i++) {
		assert_int_equal(write(terminal, "\003", 1), 1);
		wait_for_answer(terminal);
	}
	while (read(terminal, rest, sizeof(rest)) > 0)
		;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(terminal);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), NR_INTERRUPTS);
}

static void test_run_when_command_stops_then_stops_and_continues_with_it(void **state)
{
	struct outcome outcome = {.output = ""};
	int output;
	pid_t pid = start_ready("echo up; kill -STOP $$; echo again; exit 3", &output);
	int status;

	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	assert_int_equal(kill(pid, SIGCONT), 0);
	finish(pid, output, &outcome);
	assert_int_equal(WEXITSTATUS(outcome.status), 3);
	assert_string_equal(outcome.output, "again\n");
}

static void test_run_when_signal_was_ignored_then_command_ignores_it(void **state)
{
	struct outcome outcome;

	signal(SIGHUP, SIG_IGN);
	RUN(&outcome, "sh", "-c", "kill -HUP $$; echo alive");
	signal(SIGHUP, SIG_DFL);
	assert_int_equal(outcome.status, 0);
	assert_string_equal(outcome.output, "alive\n");
}

static void test_run_when_children_were_ignored_then_still_sees_the_end(void **state)
{
	struct outcome outcome;
	struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
	const char *const argv[] = {RUN_UNDER_TEST, "sh", "-c", "exit 4", NULL};
	int output;
	pid_t pid;

	sigaction(SIGCHLD, &ignore, &before);
	pid = start(argv, &output);
	sigaction(SIGCHLD, &before, NULL);
	outcome.output[0] = '\0';
	finish(pid, output, &outcome);
	assert_int_equal(WEXITSTATUS(outcome.status), 4);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_run_when_command_exits_then_same_status),
	        cmocka_unit_test(test_run_when_command_is_killed_then_dies_of_same_signal),
	        cmocka_unit_test(test_run_when_command_is_missing_then_127),
	        cmocka_unit_test(test_run_when_command_is_not_executable_then_126),
	        cmocka_unit_test(test_run_when_no_command_then_125),
	        cmocka_unit_test(test_run_when_command_has_options_then_they_are_its_own),
	        cmocka_unit_test(test_run_when_nothing_was_preloaded_then_library_alone),
	        cmocka_unit_test(test_run_when_others_were_preloaded_then_library_first),
	        cmocka_unit_test(test_run_when_options_given_then_in_environment),
	        cmocka_unit_test(test_run_when_out_is_relative_then_meant_from_here),
	        cmocka_unit_test(test_run_when_signalled_then_command_gets_it_once),
	        cmocka_unit_test(test_run_when_terminal_interrupts_then_command_gets_it_once),
	        cmocka_unit_test(test_run_when_command_stops_then_stops_and_continues_with_it),
	        cmocka_unit_test(test_run_when_signal_was_ignored_then_command_ignores_it),
	        cmocka_unit_test(test_run_when_children_were_ignored_then_still_sees_the_end),
	};

	if (argc == 2 && !strcmp(argv[1], COUNT))
		return count_interrupts();
	alarm(60); /* a signal that went astray must not hold up the other tests */
	unsetenv("LD_PRELOAD");
	/* Where nnmem-run itself is built with ASan, it meets a preloaded library when it starts itself. */
	setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
