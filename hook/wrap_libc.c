/*
 * libc: the ways in which a process ends without exit().
 *
 * exit() itself is seen by on_exit() (process.c).  A child of fork() or vfork() ends by these too: hook_end() tells it from
 * the process that records.  posix_spawn(), system() and popen() never end the caller and are not wrapped.
 *
 * Whether an exec will fail is looked at first, because the recording is closed before it: a shell-like search that tries
 * one folder after the other must not end it.
 */
#define _GNU_SOURCE
#include "hook/wrap_libc.h"

#include "hook/hook.h"
#include "hook/sys.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
	int (*execv)(const char *, char *const[]);
	int (*execve)(const char *, char *const[], char *const[]);
	int (*execvp)(const char *, char *const[]);
	int (*execvpe)(const char *, char *const[], char *const[]);
	int (*fexecve)(int, char *const[], char *const[]);
	int (*execveat)(int, const char *, char *const[], char *const[], int); /* NULL before glibc 2.34 */
} real;

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

void wrap_libc_resolve(void)
{
	if (real.fexecve)
		return;
	real.execv = (int (*)(const char *, char *const[]))(uintptr_t)next("execv");
	real.execve = (int (*)(const char *, char *const[], char *const[]))(uintptr_t)next("execve");
	real.execvp = (int (*)(const char *, char *const[]))(uintptr_t)next("execvp");
	real.execvpe = (int (*)(const char *, char *const[], char *const[]))(uintptr_t)next("execvpe");
	real.execveat = (int (*)(int, const char *, char *const[], char *const[], int))(uintptr_t)next("execveat");
	real.fexecve = (int (*)(int, char *const[], char *const[]))(uintptr_t)next("fexecve");
}

/* ---- exit */

static void leave_now(int status) __attribute__((noreturn));
static void leave_now(int status)
{
	hook_end(RECORD_END_EXIT, status);
	for (;;)
		sys_call(__NR_exit_group, status, 0, 0, 0, 0);
}

NNMEM_EXPORT void _exit(int status)
{
	leave_now(status);
}

NNMEM_EXPORT void _Exit(int status)
{
	leave_now(status);
}

/* ---- exec */

static bool can_execute(const char *path)
{
	int saved_errno = errno;
	struct stat status;
	bool can = stat(path, &status) == 0 && S_ISREG(status.st_mode) && /* A folder's X is for passing through. */
	           faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0;

	errno = saved_errno;
	return can;
}

/* Whether execvp() will find @file. */
static bool can_find(const char *file)
{
	const char *folders = getenv("PATH");

	if (strchr(file, '/'))
		return can_execute(file);
	if (!folders)
		folders = "/bin:/usr/bin";
	for (;;) {
		const char *end = strchrnul(folders, ':');
		size_t length = (size_t)(end - folders);
		char path[PATH_MAX];

		if (length + strlen(file) + 2 <= sizeof(path)) {
			memcpy(path, folders, length);
			path[length] = '/';
			strcpy(path + (length ? length + 1 : 0), file);
			if (can_execute(path))
				return true;
		}
		if (!*end)
			return false;
		folders = end + 1;
	}
}

static void before_exec(bool will_succeed)
{
	wrap_libc_resolve();
	if (will_succeed)
		hook_end(RECORD_END_EXEC, 0);
}

static int after_exec(int result)
{
	int saved_errno = errno;

	hook_exec_failed();
	errno = saved_errno;
	return result;
}

NNMEM_EXPORT int execv(const char *path, char *const argv[])
{
	before_exec(can_execute(path));
	return after_exec(real.execv(path, argv));
}

NNMEM_EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
	before_exec(can_execute(path));
	return after_exec(real.execve(path, argv, envp));
}

NNMEM_EXPORT int execvp(const char *file, char *const argv[])
{
	before_exec(can_find(file));
	return after_exec(real.execvp(file, argv));
}

NNMEM_EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
	before_exec(can_find(file));
	return after_exec(real.execvpe(file, argv, envp));
}

NNMEM_EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
	before_exec(fcntl(fd, F_GETFD) >= 0);
	return after_exec(real.fexecve(fd, argv, envp));
}

#if !__GLIBC_PREREQ(2, 34)
NNMEM_EXPORT int execveat(int folder, const char *path, char *const argv[], char *const envp[], int flags);
#endif

NNMEM_EXPORT int execveat(int folder, const char *path, char *const argv[], char *const envp[], int flags)
{
	int saved_errno = errno;
	bool is_open_file = (flags & AT_EMPTY_PATH) && !*path;
	bool will_succeed = is_open_file ? fcntl(folder, F_GETFD) >= 0 : faccessat(folder, path, X_OK, AT_EACCESS) == 0;

	errno = saved_errno;
	before_exec(will_succeed);
	if (real.execveat)
		return after_exec(real.execveat(folder, path, argv, envp, flags));
	return after_exec((int)syscall(SYS_execveat, folder, path, argv, envp, flags));
}

/* The arguments of the variadic forms, gathered on the stack of the caller: @arguments stands before the second. */
static size_t count_arguments(const char *first, va_list *arguments)
{
	size_t count = 0;

	for (const char *argument = first; argument; argument = va_arg(*arguments, const char *))
		count++;
	return count;
}

static void gather_arguments(char **argv, const char *first, va_list *arguments)
{
	size_t i = 0;

	for (const char *argument = first; argument; argument = va_arg(*arguments, const char *))
		argv[i++] = (char *)(uintptr_t)argument;
	argv[i] = NULL;
}

/* A macro, because the memory must be on the stack of the function that uses it. */
#define ARGUMENTS_OF(argv, last)                                                                                                 \
	do {                                                                                                                     \
		va_list arguments;                                                                                               \
                                                                                                                                 \
		va_start(arguments, last);                                                                                       \
		argv = __builtin_alloca((count_arguments(last, &arguments) + 1) * sizeof(char *));                               \
		va_end(arguments);                                                                                               \
		va_start(arguments, last);                                                                                       \
		gather_arguments(argv, last, &arguments);                                                                        \
		va_end(arguments);                                                                                               \
	} while (0)

NNMEM_EXPORT int execl(const char *path, const char *argument, ...)
{
	char **argv;

	ARGUMENTS_OF(argv, argument);
	return execv(path, argv);
}

NNMEM_EXPORT int execlp(const char *file, const char *argument, ...)
{
	char **argv;

	ARGUMENTS_OF(argv, argument);
	return execvp(file, argv);
}

NNMEM_EXPORT int execle(const char *path, const char *argument, ...)
{
	char **argv, *const *envp;
	va_list arguments;

	va_start(arguments, argument);
	argv = __builtin_alloca((count_arguments(argument, &arguments) + 1) * sizeof(char *));
	envp = va_arg(arguments, char *const *); /* follows the NULL */
	va_end(arguments);
	va_start(arguments, argument);
	gather_arguments(argv, argument, &arguments);
	va_end(arguments);
	return execve(path, argv, envp);
}
