/*
 * nnmem-run: start a command with libnnmemhook.so preloaded, stand in for it before the shell, end as it ends.
 *
 * The command stays in our process group, so what the terminal sends (Ctrl-C, Ctrl-Z, hang-up) reaches it without us; only
 * what was sent to us alone is passed on.  All signals are taken by sigwaitinfo(): there is no handler.
 *
 * Exit status: the command's.  When a signal killed it, we die of the same signal (without a core file of our own), which
 * a shell shows as 128 + its number.  127: no such command; 126: it cannot be executed; 125: we failed ourselves.
 */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXIT_OURS           125
#define EXIT_NOT_EXECUTABLE 126
#define EXIT_NOT_FOUND      127

#define LIBRARY_NAME        "libnnmemhook.so"

/*
 * How long a command that a signal killed stays unreaped: the recorder reads how it ended from /proc, which works until
 * then.  It is woken by the death itself and needs about a millisecond.
 */
#define WITNESS_NS 50000000

const char *argp_program_version = "nnmem-run " NNMEM_VERSION;

struct options {
	const char *out, *ring_mb, *log;
	char **command;
};

static const struct argp_option options[] = {
        {"out", 'o', "FILE", 0, "Write the run file here; %p is the process id, %r the rank, %h the host (default: run.db)", 0},
        {"ring-mb", 'r', "MIB", 0, "Size of the buffer between program and recorder (default: 16)", 0},
        {"quiet", 'q', 0, 0, "Print no closing line", 0},
        {"log", 'l', "LEVEL", 0, "quiet, info (default: one line at the end) or debug", 0},
        {0},
};

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct options *ret = state->input;

	switch (key) {
	case 'o':
		ret->out = value;
		return 0;
	case 'r':
		ret->ring_mb = value;
		return 0;
	case 'q':
		ret->log = "quiet";
		return 0;
	case 'l':
		if (strcmp(value, "quiet") && strcmp(value, "info") && strcmp(value, "debug"))
			argp_error(state, "--log=%s: quiet, info or debug", value);
		ret->log = value;
		return 0;
	case ARGP_KEY_ARG:
		/* Everything from here on is the command's. */
		ret->command = &state->argv[state->next - 1];
		state->next = state->argc;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no command given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "COMMAND [ARGUMENT...]",
        .doc = "Run a command and record what it uses memory for.\v"
               "Examples:\n"
               "  nnmem-run python train.py --epochs 3\n"
               "  nnmem-run -o /data/runs/%h-%p.db torchrun --nproc-per-node 4 train.py\n"
               "  nnmem-report run.db\n"
               "\n"
               "Other NNMEM_* variables of the environment are left as they are. Exit status: the command's; 128 + N when "
               "signal N killed it; 127 no such command, 126 it cannot be executed, 125 nnmem-run itself failed.",
};

static int fail(const char *what, const char *why)
{
	fprintf(stderr, "nnmem-run: %s%s%s\n", what, why ? ": " : "", why ? why : "");
	return EXIT_OURS;
}

/* ---- the library and the environment */

/* Where the library lies from our own file: installed, in the build tree, or beside us. */
static const char *const library_folders[] = {NNMEM_LIB_FROM_BIN, "../lib", "."};

/* Fill @ret with the library's path.  -ENOENT: it is at none of its places; -EINVAL: LD_PRELOAD cannot name it. */
static int find_library(char ret[PATH_MAX])
{
	char self[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (length < 0)
		return -errno;
	self[length] = '\0';
	slash = strrchr(self, '/');
	if (!slash)
		return -ENOENT;
	*slash = '\0';
	for (size_t i = 0; i < sizeof(library_folders) / sizeof(library_folders[0]); i++) {
		char *candidate;
		bool found;

		if (asprintf(&candidate, "%s/%s/%s", self, library_folders[i], LIBRARY_NAME) < 0)
			return -ENOMEM;
		found = !access(candidate, R_OK) && realpath(candidate, ret);
		free(candidate);
		if (found)
			return strpbrk(ret, " :") ? -EINVAL : 0;
	}
	snprintf(ret, PATH_MAX, "%s", self);
	return -ENOENT;
}

/* Whether @list, as LD_PRELOAD is written, names @path. */
static bool names_library(const char *list, const char *path)
{
	size_t length = strlen(path);

	for (const char *at = list; (at = strstr(at, path)) != NULL; at += length)
		if ((at == list || strchr(" :", at[-1])) && (at[length] == '\0' || strchr(" :", at[length])))
			return true;
	return false;
}

/* Ours first, what the user preloads after it. */
static int set_preload(const char *library)
{
	const char *before = getenv("LD_PRELOAD");
	char *joined;
	int error;

	if (before && names_library(before, library))
		return 0;
	if (!before || !*before)
		return setenv("LD_PRELOAD", library, 1) ? -errno : 0;
	if (asprintf(&joined, "%s:%s", library, before) < 0)
		return -ENOMEM;
	error = setenv("LD_PRELOAD", joined, 1) ? -errno : 0;
	free(joined);
	return error;
}

/* A file named here is meant from here, wherever the program goes before it starts to train. */
static int set_out(const char *out)
{
	char folder[PATH_MAX];
	char *joined;
	int error;

	if (*out == '/' || !getcwd(folder, sizeof(folder)) || strchr(folder, '%'))
		return setenv("NNMEM_OUT", out, 1) ? -errno : 0;
	if (asprintf(&joined, "%s/%s", folder, out) < 0)
		return -ENOMEM;
	error = setenv("NNMEM_OUT", joined, 1) ? -errno : 0;
	free(joined);
	return error;
}

static int set_environment(const struct options *chosen, const char *library)
{
	int error = set_preload(library);

	if (!error && chosen->out)
		error = set_out(chosen->out);
	if (!error && chosen->ring_mb)
		error = setenv("NNMEM_RING_MB", chosen->ring_mb, 1) ? -errno : 0;
	if (!error && chosen->log)
		error = setenv("NNMEM_LOG", chosen->log, 1) ? -errno : 0;
	return error;
}

/* ---- signals */

/* What a terminal, a scheduler or a person sends to a program; SIGCHLD is ours. */
static const int passed_on[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP, SIGCONT, SIGWINCH, SIGALRM};

static void signals_we_take(sigset_t *ret)
{
	sigemptyset(ret);
	sigaddset(ret, SIGCHLD);
	for (size_t i = 0; i < sizeof(passed_on) / sizeof(passed_on[0]); i++)
		sigaddset(ret, passed_on[i]);
}

/*
 * What the kernel itself sent (si_code SI_KERNEL: the terminal's keys, its hang-up, its size) went to the whole process
 * group, the command included.
 * Source: drivers/tty/ (isig, tty_signal_session_leader), kernel/signal.c send_signal_locked(), Linux 6.1.
 */
static void pass_on(pid_t child, const siginfo_t *info)
{
	if (info->si_code != SI_KERNEL)
		kill(child, info->si_signo);
}

/* ---- life of the command */

/* Start it.  Returns its pid; or -errno of the exec, and the child has been reaped. */
static pid_t start(char **command, const sigset_t *mask_before, const struct sigaction *on_child_before)
{
	int report[2];
	int failure = 0;
	ssize_t got;
	pid_t child;

	if (pipe2(report, O_CLOEXEC))
		return -errno;
	child = fork();
	if (child < 0) {
		failure = errno;
		close(report[0]);
		close(report[1]);
		return -failure;
	}
	if (child == 0) {
		sigaction(SIGCHLD, on_child_before, NULL);
		sigprocmask(SIG_SETMASK, mask_before, NULL);
		execvp(command[0], command);
		failure = errno;
		if (write(report[1], &failure, sizeof(failure)) < 0)
			_exit(EXIT_OURS);
		_exit(EXIT_NOT_FOUND);
	}
	close(report[1]);
	do
		got = read(report[0], &failure, sizeof(failure));
	while (got < 0 && errno == EINTR);
	close(report[0]);
	if (got != sizeof(failure))
		return child;
	waitpid(child, NULL, 0);
	return -failure;
}

/*
 * Look at the children after a SIGCHLD.  Returns true with *@ret when the command has ended; it is left unreaped.  Others
 * (orphans that came to us because we are a container's first process) are reaped.
 */
static bool has_ended(pid_t child, siginfo_t *ret)
{
	for (;;) {
		siginfo_t info = {0};

		if (waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT) || info.si_pid == 0)
			return false;
		if (info.si_pid == child && info.si_code != CLD_STOPPED) {
			*ret = info;
			return true;
		}
		waitid(P_PID, (id_t)info.si_pid, &info, WEXITED | WSTOPPED | WNOHANG);
		/* The command has stopped: so must we, for the shell to see its job stopped.  SIGCONT wakes both. */
		if (info.si_pid == child && info.si_code == CLD_STOPPED)
			raise(SIGSTOP);
	}
}

static void wait_for_end(pid_t child, const sigset_t *taken, siginfo_t *ret)
{
	siginfo_t info;

	/* It may have ended before we began to look. */
	while (!has_ended(child, ret))
		if (sigwaitinfo(taken, &info) > 0 && info.si_signo != SIGCHLD)
			pass_on(child, &info);
}

/* Die of @number as the command did, so that whoever waits for us sees the same. */
static int end_by_signal(int number)
{
	const struct rlimit no_core = {0, 0};
	sigset_t only;

	setrlimit(RLIMIT_CORE, &no_core);
	signal(number, SIG_DFL);
	raise(number);
	sigemptyset(&only);
	sigaddset(&only, number);
	sigprocmask(SIG_UNBLOCK, &only, NULL);
	/* Still here: a container's first process cannot kill itself. */
	return 128 + number;
}

static int stand_in(pid_t child, const sigset_t *taken)
{
	const struct timespec witness = {.tv_nsec = WITNESS_NS};
	siginfo_t ended;
	bool killed;

	wait_for_end(child, taken, &ended);
	killed = ended.si_code != CLD_EXITED;
	if (killed)
		nanosleep(&witness, NULL);
	waitpid(child, NULL, 0);
	return killed ? end_by_signal(ended.si_status) : ended.si_status;
}

int main(int argc, char **argv)
{
	struct options chosen = {0};
	struct sigaction on_child = {.sa_handler = SIG_DFL}, on_child_before;
	sigset_t taken, mask_before;
	char library[PATH_MAX];
	pid_t child;
	int error;

	setlocale(LC_CTYPE, "");
	argp_err_exit_status = EXIT_OURS;
	if (argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &chosen))
		return EXIT_OURS;
	error = find_library(library);
	if (error == -EINVAL)
		return fail(library, "a path with a blank or a colon in it cannot be preloaded; install nnmem elsewhere");
	if (error)
		return fail("cannot find " LIBRARY_NAME " from", library);
	error = set_environment(&chosen, library);
	if (error)
		return fail("cannot set the environment", strerror(-error));

	/* Taken from here on, also what arrives before the command runs; the command gets everything as we found it. */
	signals_we_take(&taken);
	sigprocmask(SIG_BLOCK, &taken, &mask_before);
	sigaction(SIGCHLD, &on_child, &on_child_before);
	child = start(chosen.command, &mask_before, &on_child_before);
	if (child == -ENOENT || child == -EACCES || child == -ENOEXEC || child == -ENOTDIR || child == -ELIBBAD) {
		fail(chosen.command[0], child == -ENOENT ? "command not found" : strerror(-child));
		return child == -ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
	}
	if (child < 0)
		return fail(chosen.command[0], strerror(-child));
	return stand_in(child, &taken);
}
