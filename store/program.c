/* The traced program as it is seen from outside: see program.h for the contract. */
#define _GNU_SOURCE
#include "store/program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/*
 * The exit status behind a pidfd, also after somebody has reaped the process.
 * Source: include/uapi/linux/pidfd.h, Linux 6.15 (PIDFD_INFO_EXIT); the structure's first version, 64 bytes.
 */
struct exit_info {
	uint64_t mask;
	uint64_t cgroup_id;
	uint32_t ids[11];
	int32_t exit_code;
};
_Static_assert(sizeof(struct exit_info) == 64, "the size is part of the ioctl's number");
#define EXIT_INFO_IOCTL _IOWR(0xff, 11, struct exit_info)
#define EXIT_INFO_EXIT  (UINT64_C(1) << 3)

/* What /proc/<pid>/stat says of a program. */
struct stat_line {
	char state;
	uint64_t start_ticks;
	int exit_code; /* wait status of a zombie; 0 also when we may not know */
};

static int open_proc(const struct program *program, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%ld/%s", (long)program->pid, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* The beginning of a file of /proc as a string; false when it cannot be read. */
static bool read_proc(const struct program *program, const char *name, char *ret, size_t size)
{
	int fd = open_proc(program, name);
	ssize_t nr_bytes = fd < 0 ? -1 : read(fd, ret, size - 1);

	if (fd >= 0)
		close(fd);
	ret[nr_bytes > 0 ? nr_bytes : 0] = '\0';
	return nr_bytes > 0;
}

/* Source: proc(5).  The name in parentheses may hold anything; field 3 comes after the last one. */
static bool read_stat(const struct program *program, struct stat_line *ret)
{
	char text[2048];
	char *rest;
	char *save = NULL;
	unsigned field = 2;

	if (!read_proc(program, "stat", text, sizeof(text)) || !(rest = strrchr(text, ')')))
		return false;
	memset(ret, 0, sizeof(*ret));
	for (char *word = strtok_r(rest + 1, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
		field++;
		if (field == 3)
			ret->state = word[0];
		else if (field == 22)
			ret->start_ticks = strtoull(word, NULL, 10);
		else if (field == 52)
			ret->exit_code = (int)strtol(word, NULL, 10);
	}
	return field >= 22;
}

/* Whether /proc still shows the program, as a zombie perhaps. */
static bool is_there(const struct program *program, struct stat_line *ret)
{
	return read_stat(program, ret) && ret->start_ticks == program->start_ticks;
}

void program_open(struct program *program, uint32_t pid, uint64_t start_ticks)
{
	struct stat_line line;

	*program = (struct program){.pid = (pid_t)pid, .start_ticks = start_ticks, .pidfd = -1};
	if (program->pid <= 0)
		return;
	program->pidfd = (int)syscall(SYS_pidfd_open, program->pid, 0);
	/* The pid may have been another's by the time of the call. */
	if (program->pidfd >= 0 && !is_there(program, &line))
		program_close(program);
}

void program_close(struct program *program)
{
	if (program->pidfd >= 0)
		close(program->pidfd);
	program->pidfd = -1;
}

bool program_wait(struct program *program, int timeout_ms)
{
	struct pollfd poll_for = {.fd = program->pidfd, .events = POLLIN};
	struct stat_line line;

	if (program->pidfd >= 0)
		return poll(&poll_for, 1, timeout_ms) == 1;
	if (is_there(program, &line) && line.state != 'Z' && line.state != 'X') {
		if (timeout_ms > 0)
			poll(NULL, 0, timeout_ms);
		if (timeout_ms == 0 || is_there(program, &line))
			return line.state == 'Z' || line.state == 'X';
	}
	return true;
}

static bool describe_status(int status, char *ret, size_t size)
{
	if (WIFSIGNALED(status))
		snprintf(ret, size, "signal %d", WTERMSIG(status));
	else if (WIFEXITED(status))
		snprintf(ret, size, "exit %d", WEXITSTATUS(status));
	else
		return false;
	return true;
}

static bool read_exit_info(const struct program *program, int *ret_status)
{
	struct exit_info info = {.mask = EXIT_INFO_EXIT};

	if (program->pidfd < 0 || ioctl(program->pidfd, EXIT_INFO_IOCTL, &info) != 0 || !(info.mask & EXIT_INFO_EXIT))
		return false;
	*ret_status = info.exit_code;
	return true;
}

void program_describe_end(struct program *program, char *ret, size_t size)
{
	struct stat_line line;
	int status;

	/* While it is a zombie only /proc tells, after that only the pidfd; it may be reaped between the two. */
	if (is_there(program, &line) && (line.state == 'Z' || line.state == 'X') && line.exit_code != 0 &&
	    describe_status(line.exit_code, ret, size))
		return;
	if (read_exit_info(program, &status) && describe_status(status, ret, size))
		return;
	snprintf(ret, size, "killed");
}

/* The number after @key in kB. */
static bool find_kb(const char *text, const char *key, uint64_t *ret_bytes)
{
	const char *found = strstr(text, key);

	if (!found)
		return false;
	*ret_bytes = strtoull(found + strlen(key), NULL, 10) * 1024;
	return true;
}

bool program_read_rss(const struct program *program, uint64_t *ret_rss_bytes, uint64_t *ret_peak_rss_bytes)
{
	char text[4096];

	/* The line before VmHWM may hold anything but a newline; a zombie has neither. */
	return read_proc(program, "status", text, sizeof(text)) && find_kb(text, "\nVmRSS:", ret_rss_bytes) &&
	       find_kb(text, "\nVmHWM:", ret_peak_rss_bytes);
}

/* Source: proc(5), /proc/pid/maps.  A name has its newlines escaped; what has none begins with no slash. */
bool program_find_object(const struct program *program, uint64_t address, uint64_t *ret_start, uint64_t *ret_end, char *ret,
                         size_t size)
{
	int fd = open_proc(program, "maps");
	FILE *maps = fd < 0 ? NULL : fdopen(fd, "r");
	char *line = NULL;
	size_t line_size = 0;
	bool found = false;

	if (!maps && fd >= 0)
		close(fd);
	while (maps && !found && getline(&line, &line_size, maps) > 0) {
		unsigned long long start, end;
		int name = 0;

		if (sscanf(line, "%llx-%llx %*s %*s %*s %*s %n", &start, &end, &name) != 2 || address < start || address >= end)
			continue;
		if (!name || line[name] != '/')
			break;
		line[strcspn(line, "\n")] = '\0';
		snprintf(ret, size, "%s", line + name);
		*ret_start = start;
		*ret_end = end;
		found = true;
	}
	free(line);
	if (maps)
		fclose(maps);
	return found;
}

void program_read_command(const struct program *program, char *ret, size_t size)
{
	int fd = open_proc(program, "cmdline");
	size_t length = 0;
	ssize_t nr_bytes = 0;

	while (fd >= 0 && length < size - 1 && (nr_bytes = read(fd, ret + length, size - 1 - length)) > 0)
		length += (size_t)nr_bytes;
	if (fd >= 0)
		close(fd);
	while (length > 0 && ret[length - 1] == '\0')
		length--;
	for (size_t i = 0; i < length; i++) {
		if (ret[i] == '\0')
			ret[i] = ' ';
		else if ((unsigned char)ret[i] < ' ' || ret[i] == 0x7f)
			ret[i] = '?';
	}
	ret[length] = '\0';
}
