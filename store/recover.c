/* Recovery: see recover.h for the contract. */
#define _GNU_SOURCE /* faccessat(AT_EACCESS) */
#include "store/recover.h"

#include "store/db.h"
#include "store/program.h"
#include "store/recording.h"
#include "store/ring_file.h"
#include "store/runfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define PUMP_SLOTS (1u << 16)

static const char *const companions[] = {"-wal", "-journal"};

/*
 * SQLite opens what lies beside a file without a look at what it is: it would wait for ever for the writer of a FIFO, and
 * one such pair of files would stop every report on its folder, which looks through all for siblings.
 */
bool recover_has_odd_companion(const char *path, char *ret_name, size_t size)
{
	static const char *const suffixes[] = {"-journal", "-wal", "-shm"};

	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		char name[4096 + 16];
		struct stat status;

		snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
		if (stat(name, &status) == 0 && !S_ISREG(status.st_mode)) {
			snprintf(ret_name, size, "%s", suffixes[i]);
			return true;
		}
	}
	return false;
}

bool recover_has_leftovers(const char *path)
{
	for (size_t i = 0; i < sizeof(companions) / sizeof(companions[0]); i++) {
		char name[4096 + 16];
		struct stat status;

		snprintf(name, sizeof(name), "%s%s", path, companions[i]);
		if (stat(name, &status) == 0 && status.st_size > 0)
			return true;
	}
	return false;
}

/*
 * Whether the rollback journal beside the file names a super-journal: SQLite would look into that file, and maybe delete it,
 * whatever it is.  A run file is never part of a transaction over several files, so such a journal is not ours.
 * Source: SQLite 3.40, pager.c, readSuperJournal().
 */
static bool has_foreign_journal(const char *path)
{
	static const unsigned char magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
	unsigned char tail[8];
	char name[4096 + 16];
	struct stat status;
	bool found = false;

	snprintf(name, sizeof(name), "%s-journal", path);
	int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return false;
	if (fstat(fd, &status) || !S_ISREG(status.st_mode))
		found = true;
	else if (status.st_size >= (off_t)sizeof(tail))
		found = pread(fd, tail, sizeof(tail), status.st_size - (off_t)sizeof(tail)) == (ssize_t)sizeof(tail) &&
		        memcmp(tail, magic, sizeof(tail)) == 0;
	close(fd);
	return found;
}

/* ---------------------------------------------------------------- private copies */

static int copy_file(const char *from, const char *to)
{
	int in = open(from, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	int out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r = in < 0 || out < 0 ? -errno : 0;
	size_t buffer_bytes = 1 << 20;
	char *buffer = malloc(buffer_bytes);

	if (!r && !buffer)
		r = -ENOMEM;
	while (!r) {
		ssize_t nr_read = read(in, buffer, buffer_bytes);

		if (nr_read == 0)
			break;
		if (nr_read < 0) {
			r = errno == EINTR ? 0 : -errno;
			continue;
		}
		for (ssize_t done = 0; done < nr_read && !r;) {
			ssize_t nr_written = write(out, buffer + done, (size_t)(nr_read - done));

			if (nr_written < 0)
				r = errno == EINTR ? 0 : -errno;
			else
				done += nr_written;
		}
	}
	free(buffer);
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return r;
}

static int copy_into(const char *folder, const char *path, char *ret_copy_path, size_t size)
{
	char name[512];
	int r;

	snprintf(name, sizeof(name), "%s/nnmem-read-XXXXXX", folder);
	if (!mkdtemp(name))
		return -errno;
	if ((size_t)snprintf(ret_copy_path, size, "%s/run.db", name) >= size) {
		rmdir(name);
		return -ENAMETOOLONG;
	}
	r = copy_file(path, ret_copy_path);
	for (size_t i = 0; i < sizeof(companions) / sizeof(companions[0]) && !r; i++) {
		char from[4096 + 16], to[600];

		snprintf(from, sizeof(from), "%s%s", path, companions[i]);
		snprintf(to, sizeof(to), "%s%s", ret_copy_path, companions[i]);
		r = copy_file(from, to);
		if (r == -ENOENT)
			r = 0;
	}
	if (r) {
		recover_drop_copy(ret_copy_path);
		ret_copy_path[0] = 0;
	}
	return r;
}

/* The bytes of a copy: holes in a file become bytes in it. */
static uint64_t copy_bytes(const char *path)
{
	uint64_t bytes = 0;
	char name[4096 + 16];
	struct stat status;

	if (stat(path, &status) == 0)
		bytes = (uint64_t)status.st_size;
	for (size_t i = 0; i < sizeof(companions) / sizeof(companions[0]); i++) {
		snprintf(name, sizeof(name), "%s%s", path, companions[i]);
		if (stat(name, &status) == 0)
			bytes += (uint64_t)status.st_size;
	}
	return bytes;
}

/* Half of what is free is left to others: in /dev/shm it is memory. */
static bool has_room(const char *folder, uint64_t bytes)
{
	struct statvfs status;

	return statvfs(folder, &status) == 0 && bytes / status.f_frsize < status.f_bavail / 2;
}

int recover_copy(const char *path, char *ret_copy_path, size_t size)
{
	const char *const folders[] = {"/dev/shm", getenv("TMPDIR"), "/tmp"};
	uint64_t bytes = copy_bytes(path);
	char odd[16];
	int r = -ENOSPC;

	if (recover_has_odd_companion(path, odd, sizeof(odd)))
		return -EBADMSG;
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]) && r; i++)
		if (folders[i] && folders[i][0] && has_room(folders[i], bytes))
			r = copy_into(folders[i], path, ret_copy_path, size);
	return r;
}

void recover_drop_copy(const char *copy_path)
{
	static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
	char name[600];

	if (!copy_path[0])
		return;
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		snprintf(name, sizeof(name), "%s%s", copy_path, suffixes[i]);
		unlink(name);
	}
	snprintf(name, sizeof(name), "%s", copy_path);
	char *slash = strrchr(name, '/');

	if (slash) {
		*slash = 0;
		rmdir(name);
	}
}

/* ---------------------------------------------------------------- the ring and its program */

/* Rings are called nnmem-<uid>-<pid>-<start ticks>.ring: nothing else is ever mapped or unlinked. */
static bool is_ring_name(const char *path)
{
	const char *name = strrchr(path, '/');
	size_t length = name ? strlen(name) : 0;

	return path[0] == '/' && length > 12 && strncmp(name, "/nnmem-", 7) == 0 && strcmp(name + length - 5, ".ring") == 0;
}

/* Map the ring of the run; @shared: what is read there is given back to it. */
static int open_ring(const struct recover_origin *origin, bool shared, struct ring_file *ret, char *reason, size_t reason_size)
{
	int r;

	if (!origin->ring_path || !is_ring_name(origin->ring_path)) {
		snprintf(reason, reason_size, "the file does not name its ring");
		return -ENOENT;
	}
	r = ring_file_open(origin->ring_path, shared, ret);
	if (!r && (ret->ring->start_monotonic_ns != origin->ring_start_ns || (int64_t)ret->ring->pid != origin->pid)) {
		ring_file_close(ret);
		r = -ESTALE;
	}
	if (r == -EPROTONOSUPPORT)
		snprintf(reason, reason_size, "%.120s was written by another version of nnmem", origin->ring_path);
	else if (r == -EINVAL || r == -EPERM || r == -ESTALE)
		snprintf(reason, reason_size, "%.120s is not the ring of this run", origin->ring_path);
	else if (r)
		snprintf(reason, reason_size, "%.120s: %s", origin->ring_path, strerror(-r));
	return r;
}

/* ---------------------------------------------------------------- taking up */

static uint64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Pump everything that @ring holds into the run file at @path and close it. */
static int take_up(const char *path, struct ring *ring, const char *ended, char *reason, size_t reason_size)
{
	struct recording *recording = NULL;
	struct db *db = NULL;
	int64_t nr_slots;
	int r = has_foreign_journal(path) ? -EBADMSG : 0;

	if (r) {
		snprintf(reason, reason_size, "the journal beside the file is not its own");
		return r;
	}
	r = db_open(path, DB_WRITE, &db, reason, reason_size);
	if (r)
		return r;
	r = recording_reopen(db, ring, &recording, reason, reason_size);
	if (r)
		goto out;
	recording_producers_gone(recording);
	do
		nr_slots = recording_pump(recording, monotonic_ns(), PUMP_SLOTS, true);
	while (nr_slots > 0);
	r = nr_slots < 0 ? (int)nr_slots : recording_set_ended(recording, ended);
	if (r) {
		snprintf(reason, reason_size, "%s", recording_message(recording));
		recording_abandon(recording, NULL);
		goto out;
	}
	r = recording_close(recording);
	if (r)
		snprintf(reason, reason_size, "%s", db_message(db));
out:
	db_close(db);
	return r;
}

static int take_up_in_place(const char *path, const struct recover_origin *origin, const char *ended, char *reason,
                            size_t reason_size)
{
	struct runfile file;
	struct ring_file left;
	int r = runfile_take_over(path, &file);

	if (r) {
		snprintf(reason, reason_size, "%s", strerror(-r));
		return r;
	}
	r = open_ring(origin, true, &left, reason, reason_size);
	if (!r) {
		r = take_up(path, left.ring, ended, reason, reason_size);
		if (!r)
			ring_file_unlink(&left);
		ring_file_close(&left);
	}
	runfile_release(&file);
	return r;
}

static int take_up_copy(const char *path, const struct recover_origin *origin, const char *ended, struct recovery *recovery,
                        char *reason, size_t reason_size)
{
	struct ring_file left;
	int r = recovery->copy_path[0] ? 0 : recover_copy(path, recovery->copy_path, sizeof(recovery->copy_path));

	if (r) {
		snprintf(reason, reason_size, "no room for a copy: %s", strerror(-r));
		return r;
	}
	r = open_ring(origin, false, &left, reason, reason_size);
	if (!r) {
		r = take_up(recovery->copy_path, left.ring, ended, reason, reason_size);
		ring_file_close(&left);
	}
	return r;
}

/* Whether the file, and what SQLite must put beside it, can be written. */
static bool is_writable(const char *path)
{
	char folder[4096];

	snprintf(folder, sizeof(folder), "%s", path);
	char *slash = strrchr(folder, '/');

	if (slash)
		slash[slash == folder] = 0;
	return faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0 &&
	       faccessat(AT_FDCWD, slash ? folder : ".", W_OK, AT_EACCESS) == 0;
}

/* False: the program lives.  Else @ret says how it ended, as far as can be told. */
static bool find_end(const struct ring *ring, char *ret, size_t size)
{
	struct program program;
	bool ended;

	program_open(&program, ring->pid, ring->pid_start_ticks);
	ended = program_wait(&program, 0);
	if (ended)
		program_describe_end(&program, ret, size);
	program_close(&program);
	return ended;
}

void recover_drop_ring(const struct recover_origin *origin)
{
	struct ring_file left;
	char text[200];

	if (open_ring(origin, false, &left, text, sizeof(text)))
		return;
	if (find_end(left.ring, text, sizeof(text)))
		ring_file_unlink(&left);
	ring_file_close(&left);
}

void recover_run(const char *path, const struct recover_origin *origin, struct recovery *ret, char *reason, size_t reason_size)
{
	struct ring_file left;
	char ended[32] = "";

	reason[0] = 0;
	ret->result = STORE_RING_GONE;
	if (open_ring(origin, false, &left, reason, reason_size))
		return;
	bool has_ended = find_end(left.ring, ended, sizeof(ended));

	ring_file_close(&left);
	if (!has_ended) {
		ret->result = STORE_ORPHANED;
		return;
	}
	if (is_writable(path)) {
		int r = take_up_in_place(path, origin, ended, reason, reason_size);

		if (!r || r == -EBUSY) {
			ret->result = r ? STORE_LIVE : STORE_RECOVERED;
			recover_drop_copy(ret->copy_path);
			ret->copy_path[0] = 0;
			return;
		}
	}
	if (!take_up_copy(path, origin, ended, ret, reason, reason_size))
		ret->result = STORE_RECOVERED_IN_MEMORY;
}

int recover_fold(const char *path)
{
	struct runfile file;
	struct db *db = NULL;
	int r = runfile_take_over(path, &file);

	if (r)
		return r;
	r = has_foreign_journal(path) ? -EBADMSG : db_open(path, DB_WRITE, &db, NULL, 0);
	if (!r)
		r = db_exec(db, "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE");
	db_close(db);
	runfile_release(&file);
	return r;
}
