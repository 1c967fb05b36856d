/*
 * Opening a run file safely, and finding those beside it that are of the same run.
 *
 * What may be wrong with a file is found in this order: that it is no regular file, empty or no database (from its first
 * bytes), another program's or a newer nnmem's (its header as SQLite sees it, WAL included), and not made of our tables:
 * each must be a real table with the very definition of schema.sql, so no view, trigger or virtual table can stand in for
 * one.  After that a read transaction stays open until store_close(): all answers are of one commit.
 */
#include "store/reader_internal.h"

#include "store/recover.h"
#include "store/runfile.h"
#include "store/schema.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAP_LIMIT_BYTES  (INT64_C(512) << 20)
#define VALUE_LIMIT_BYTES (4 << 20)
#define MAX_SIBLINGS      4096

/* ---------------------------------------------------------------- opening */

struct file_header {
	unsigned char bytes[100];
	size_t nr_bytes;
};

/* Source: SQLite file format, "The Database Header" (https://www.sqlite.org/fileformat2.html#the_database_header). */
static bool header_is_sqlite(const struct file_header *header)
{
	return header->nr_bytes == sizeof(header->bytes) && memcmp(header->bytes, "SQLite format 3", 16) == 0;
}

static bool header_is_wal(const struct file_header *header)
{
	return header->bytes[18] == 2;
}

static uint32_t header_application_id(const struct file_header *header)
{
	const unsigned char *id = header->bytes + 68;

	return (uint32_t)id[0] << 24 | (uint32_t)id[1] << 16 | (uint32_t)id[2] << 8 | id[3];
}

static uint32_t header_page_bytes(const struct file_header *header)
{
	uint32_t bytes = (uint32_t)header->bytes[16] << 8 | header->bytes[17];

	return bytes == 1 ? 65536 : bytes;
}

/* A closed file that does not end with a page has lost its end; SQLite would read zeroes there. */
static bool is_cut(const struct store *store, const struct file_header *header)
{
	uint32_t page_bytes = header_page_bytes(header);

	return !header_is_wal(header) && !recover_has_leftovers(store->real_path) && page_bytes && store->size_bytes % page_bytes;
}

/* Look at what is at store->path without waiting for it (a pipe, a terminal) and without SQLite. */
static int read_header(struct store *store, struct file_header *ret)
{
	struct stat status;
	int fd = open(store->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	int error = errno;
	ssize_t nr_bytes;

	if (fd < 0)
		return store_fail(store, -error, "%s", error == ENOENT ? "there is no such file" : strerror(error));
	if (fstat(fd, &status)) {
		error = errno;
		close(fd);
		return store_fail(store, -error, "%s", strerror(error));
	}
	if (!S_ISREG(status.st_mode)) {
		close(fd);
		if (S_ISDIR(status.st_mode))
			return store_fail(store, -EISDIR, "is a directory, not a run file");
		return store_fail(store, -EBADMSG, "is not a regular file");
	}
	store->size_bytes = (uint64_t)status.st_size;
	nr_bytes = pread(fd, ret->bytes, sizeof(ret->bytes), 0);
	error = errno;
	close(fd);
	if (nr_bytes < 0)
		return store_fail(store, -error, "cannot be read: %s", strerror(error));
	ret->nr_bytes = (size_t)nr_bytes;
	return 0;
}

/* Bytes of @sql with comments dropped and blanks kept only where they part two words; the caller frees. */
static char *normalised_sql(const char *sql)
{
	char *normal = malloc(strlen(sql) + 1);
	char *end = normal;
	bool blank = false;
	char quote = 0;

	if (!normal)
		return NULL;
	for (const char *at = sql; *at; at++) {
		if (!quote && at[0] == '-' && at[1] == '-') {
			at += strcspn(at, "\n");
			if (!*at)
				break;
		}
		if (!quote && strchr(" \t\r\n", *at)) {
			blank = true;
			continue;
		}
		if (blank && end != normal && !strchr("(),", end[-1]) && !strchr("(),", *at))
			*end++ = ' ';
		blank = false;
		if (quote ? *at == quote : strchr("'\"`[", *at) != NULL)
			quote = quote ? 0 : *at == '[' ? ']' : *at;
		*end++ = *at;
	}
	*end = 0;
	return normal;
}

static bool same_sql(const char *one, const char *other)
{
	char *normal_one = normalised_sql(one), *normal_other = normalised_sql(other);
	bool same = normal_one && normal_other && strcmp(normal_one, normal_other) == 0;

	free(normal_one);
	free(normal_other);
	return same;
}

/* One table of ours: in the file it must be a table, defined as in schema.sql, once. */
static int check_table(struct store *store, const char *name, const char *expected_sql)
{
	static const char sql[] = "SELECT type, sql FROM sqlite_master WHERE name = :name COLLATE NOCASE AND type <> 'index'";
	struct query query;
	int nr_rows = 0;

	if (!query_open_sql(store, &query, "table definition", sql))
		sqlite3_bind_text(query.stmt, 1, name, -1, SQLITE_STATIC);
	while (query_step(&query) == 1) {
		const char *type = (const char *)sqlite3_column_text(query.stmt, 0);
		const char *found_sql = (const char *)sqlite3_column_text(query.stmt, 1);

		if (nr_rows++ || !type || strcmp(type, "table") || !found_sql || !same_sql(found_sql, expected_sql)) {
			query.error = store_fail(
			        store, -EBADMSG,
			        "is damaged, or not written by nnmem: its table `%s` is not defined as it must be", name);
			break;
		}
	}
	if (!query.error && !nr_rows)
		query.error = store_fail(store, -EBADMSG, "is damaged or was never finished: it has no table `%s`", name);
	return query_close(&query);
}

static int check_tables(struct store *store)
{
	struct db *model = NULL;
	sqlite3_stmt *statement;
	int r = db_open("", DB_MEMORY, &model, NULL, 0);

	if (!r)
		r = db_exec(model, store_schema_sql);
	if (!r)
		r = db_prepare(model, "SELECT name, sql FROM sqlite_master WHERE type = 'table'", &statement);
	if (r)
		store_fail(store, r, "cannot be checked: %s", model ? db_message(model) : strerror(-r));
	while (!r && (r = db_step(model, statement)) == 1)
		r = check_table(store, db_column_text(statement, 0), db_column_text(statement, 1));
	db_close(model);
	return r;
}

static int check_identity(struct store *store)
{
	struct query query;
	int64_t application_id = 0, version = 0;

	if (!query_open_sql(store, &query, "header", "PRAGMA application_id") && query_step(&query) == 1)
		application_id = query_i64(&query, 0);
	int r = query_close(&query);

	if (r)
		return r;
	if (!query_open_sql(store, &query, "header", "PRAGMA user_version") && query_step(&query) == 1)
		version = query_i64(&query, 0);
	r = query_close(&query);
	if (r)
		return r;
	if (application_id != SCHEMA_APPLICATION_ID)
		return store_fail(store, -EBADMSG, "is a database of another program, not a run file of nnmem");
	if (version > SCHEMA_VERSION)
		return store_fail(store, -EPROTONOSUPPORT,
		                  "was written by a newer nnmem (file version %" PRId64 "; this one reads up to %u)", version,
		                  SCHEMA_VERSION);
	if (version < 1)
		return store_fail(store, -EBADMSG, "is damaged: it has no version");
	store->schema_version = (unsigned)version;
	return 0;
}

static void limit_connection(struct store *store)
{
	static const struct {
		int limit, value;
	} limits[] = {
	        {SQLITE_LIMIT_LENGTH, VALUE_LIMIT_BYTES},
	        {SQLITE_LIMIT_SQL_LENGTH, 1 << 20},
	        {SQLITE_LIMIT_COLUMN, 200},
	        {SQLITE_LIMIT_EXPR_DEPTH, 100},
	        {SQLITE_LIMIT_COMPOUND_SELECT, 20},
	        {SQLITE_LIMIT_VDBE_OP, 25000},
	        {SQLITE_LIMIT_ATTACHED, 0},
	        {SQLITE_LIMIT_TRIGGER_DEPTH, 1},
	        {SQLITE_LIMIT_WORKER_THREADS, 0},
	};

	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
		sqlite3_limit(store->handle, limits[i].limit, limits[i].value);
	if (sqlite3_hard_heap_limit64(-1) == 0)
		sqlite3_hard_heap_limit64(HEAP_LIMIT_BYTES);
}

static void detach(struct store *store)
{
	db_close(store->db);
	store->db = NULL;
	store->handle = NULL;
}

/* Open the database at @path, begin the read transaction, and check that it is a run file.  On failure nothing is open. */
static int attach(struct store *store, const char *path, bool immutable)
{
	char message[200], odd[16];

	if (!immutable && recover_has_odd_companion(path, odd, sizeof(odd)))
		return store_fail(store, -EBADMSG, "cannot be read: what lies beside it as %s is not a regular file", odd);
	int r = db_open(path, immutable ? DB_READ_IMMUTABLE : DB_READ, &store->db, message, sizeof(message));

	if (r)
		return store_fail(store, r, "cannot be read: %s", message);
	store->handle = db_handle(store->db);
	store_begin_call(store);
	limit_connection(store);
	int code = sqlite3_exec(store->handle,
	                        "PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; "
	                        "PRAGMA query_only = ON; PRAGMA cache_size = -16384; BEGIN; SELECT 1 FROM sqlite_master LIMIT 1",
	                        NULL, NULL, NULL);

	r = code == SQLITE_OK ? 0 : store_fail_sqlite(store, code);
	if (!r)
		r = check_identity(store);
	if (!r)
		r = check_tables(store);
	if (r)
		detach(store);
	return r;
}

struct origin {
	char *ring_path; /* malloc'ed, or NULL */
	int64_t pid;
	uint64_t ring_start_ns;
	uint64_t nr_events;
	bool running;
};

static int read_origin(struct store *store, struct origin *ret)
{
	struct query query;
	const char *ring_path = NULL, *ended = NULL;

	free(ret->ring_path);
	*ret = (struct origin){0};
	if (!query_open(store, &query, "run")) {
		int found = query_step(&query);

		if (found == 0)
			query.error = store_fail(store, -EBADMSG,
			                         "holds no run: its recorder was stopped before it had written anything");
		if (found == 1) {
			ret->pid = query_i64(&query, 2);
			ring_path = query_text(&query, 6);
			ret->ring_start_ns = query_u64(&query, 7);
			ended = query_text_required(&query, 9);
			store->last_seq = query_u64(&query, 10);
		}
		if (query_ok(&query)) {
			ret->ring_path = ring_path ? strdup(ring_path) : NULL;
			ret->running = strcmp(ended, "running") == 0;
		}
	}
	int r = query_close(&query);

	if (r)
		return r;
	if (!query_open(store, &query, "totals") && query_step(&query) == 1)
		ret->nr_events = query_u64(&query, 0);
	return query_close(&query);
}

/* Attach, to a private copy where the file itself cannot be opened only because of what lies beside it. */
static int attach_left_behind(struct store *store, bool leftovers, bool wal, struct recovery *recovery)
{
	int r = attach(store, store->real_path, wal && !leftovers);

	if (!r || !leftovers || recover_copy(store->real_path, recovery->copy_path, sizeof(recovery->copy_path)))
		return r;
	recover_fold(recovery->copy_path);
	return attach(store, recovery->copy_path, false);
}

/* The file has no living recorder: see how it was left, take up what can be, and attach to the outcome. */
static int attach_dead(struct store *store, bool wal)
{
	struct recovery recovery = {0};
	struct origin before = {0}, after = {0};
	bool leftovers = recover_has_leftovers(store->real_path);
	int r = attach_left_behind(store, leftovers, wal, &recovery);

	if (!r)
		r = read_origin(store, &before);
	if (r)
		goto out;
	store->recovery = STORE_COMPLETE;
	const struct recover_origin origin = {before.ring_path, before.pid, before.ring_start_ns};

	if (before.running) {
		detach(store);
		recover_run(store->real_path, &origin, &recovery, store->recovery_reason, sizeof(store->recovery_reason));
		store->recovery = recovery.result;
	} else {
		recover_drop_ring(&origin);
	}
	if (!before.running && leftovers) {
		detach(store);
		if (!recover_fold(store->real_path)) {
			recover_drop_copy(recovery.copy_path);
			recovery.copy_path[0] = 0;
		}
	}
	if (!store->db) {
		/* Recovery has made a plain file of it; where there was none, nobody writes to it. */
		wal = wal && (store->recovery == STORE_RING_GONE || store->recovery == STORE_ORPHANED);
		leftovers = recover_has_leftovers(store->real_path);
		r = recovery.copy_path[0] ? attach(store, recovery.copy_path, false)
		                          : attach_left_behind(store, leftovers, wal, &recovery);
	}
	if (!r)
		r = read_origin(store, &after);
	if (!r && after.nr_events > before.nr_events)
		store->recovered_events = after.nr_events - before.nr_events;
out:
	recover_drop_copy(recovery.copy_path);
	free(before.ring_path);
	free(after.ring_path);
	return r;
}

static int open_run(struct store *store)
{
	struct file_header header = {{0}, 0};
	int r = read_header(store, &header);

	if (r)
		return r;
	store->real_path = realpath(store->path, NULL);
	if (!store->real_path)
		return store_fail(store, -errno, "%s", strerror(errno));
	bool live = runfile_is_live(store->real_path) == 1;

	if (!header.nr_bytes)
		return store_fail(store, -ENODATA, live ? "is empty: its recorder has not written anything yet" : "is empty");
	if (!header_is_sqlite(&header))
		return store_fail(store, -EBADMSG, "is not a run file of nnmem");
	if (!live && is_cut(store, &header))
		return store_fail(store, -EBADMSG, "is damaged: its end is missing");
	if (!live)
		return attach_dead(store, header_is_wal(&header));
	struct origin origin = {0};

	store->recovery = STORE_LIVE;
	r = attach(store, store->real_path, false);
	if (!r)
		r = read_origin(store, &origin);
	free(origin.ring_path);
	return r;
}

int store_open(const char *path, struct store **ret_store, struct store_error *error)
{
	struct store *store = calloc(1, sizeof(*store));
	int r = -ENOMEM;

	if (store)
		store->path = strdup(path);
	if (!store || !store->path)
		snprintf(error->message, sizeof(error->message), "%.400s: %s", path, strerror(ENOMEM));
	else if ((r = open_run(store)) != 0)
		memcpy(error->message, store->message, sizeof(error->message));
	if (r) {
		store_close(store);
		return r;
	}
	*ret_store = store;
	return 0;
}

void store_close(struct store *store)
{
	if (!store)
		return;
	db_close(store->db);
	store_free_run_texts(store);
	free(store->real_path);
	free(store->path);
	free(store);
}

const char *store_message(const struct store *store)
{
	return store->message;
}

/* ---------------------------------------------------------------- siblings */

static int read_run_id(struct store *store, char **ret_run_id)
{
	struct query query;
	const char *run_id = NULL;

	if (!query_open(store, &query, "run") && query_step(&query) == 1)
		run_id = query_text_required(&query, 0);
	*ret_run_id = run_id ? strdup(run_id) : NULL;
	return query_close(&query);
}

/* Whether @path is a readable run file of run @run_id.  Nothing is recovered here. */
static bool is_sibling(const char *path, const char *run_id)
{
	struct store other = {.path = (char *)path};
	struct file_header header = {{0}, 0};
	char *other_id = NULL;
	bool same = false;

	if (read_header(&other, &header) || !header_is_sqlite(&header) || header_application_id(&header) != SCHEMA_APPLICATION_ID)
		return false;
	bool immutable = header_is_wal(&header) && !recover_has_leftovers(path) && runfile_is_live(path) != 1;

	if (!attach(&other, path, immutable) && !read_run_id(&other, &other_id) && other_id)
		same = strcmp(other_id, run_id) == 0;
	free(other_id);
	detach(&other);
	return same;
}

static int compare_names(const void *one, const void *other)
{
	return strcmp(*(char *const *)one, *(char *const *)other);
}

/* Names in @folder with the extension of @path that are not @path itself, sorted; each and the list are the caller's. */
static size_t list_folder(const char *folder, const char *path, char ***ret_names)
{
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	const char *extension = strrchr(base, '.') ? strrchr(base, '.') : "";
	size_t extension_bytes = strlen(extension);
	char **names = calloc(MAX_SIBLINGS, sizeof(*names));
	DIR *directory = names ? opendir(folder) : NULL;
	size_t nr_names = 0;
	struct dirent *entry;

	while (directory && nr_names < MAX_SIBLINGS && (entry = readdir(directory))) {
		size_t name_bytes = strlen(entry->d_name);

		if (strcmp(entry->d_name, base) && name_bytes > extension_bytes &&
		    !strcmp(entry->d_name + name_bytes - extension_bytes, extension) && (names[nr_names] = strdup(entry->d_name)))
			nr_names++;
	}
	if (directory)
		closedir(directory);
	if (nr_names)
		qsort(names, nr_names, sizeof(*names), compare_names);
	*ret_names = names;
	return nr_names;
}

int store_each_sibling(struct store *store, int (*each)(const char *path, void *arg), void *arg)
{
	const char *slash = strrchr(store->path, '/');
	int folder_bytes = slash ? (int)(slash - store->path) + 1 : 0;
	char folder[PATH_MAX];
	char **names = NULL;
	char *run_id = NULL;
	struct stat own;
	size_t nr_names = 0;

	store_begin_call(store);
	int r = read_run_id(store, &run_id);

	if (r || !run_id || stat(store->path, &own) || folder_bytes >= (int)sizeof(folder))
		goto out;
	snprintf(folder, sizeof(folder), "%.*s", folder_bytes, store->path);
	nr_names = list_folder(folder_bytes ? folder : ".", store->path, &names);
	for (size_t i = 0; i < nr_names && !r; i++) {
		char path[PATH_MAX + NAME_MAX + 1];
		struct stat status;

		snprintf(path, sizeof(path), "%s%s", folder_bytes ? folder : "", names[i]);
		/* Opening and closing our own file by another name would drop the locks that SQLite holds on it. */
		if (stat(path, &status) || !S_ISREG(status.st_mode) ||
		    (status.st_ino == own.st_ino && status.st_dev == own.st_dev))
			continue;
		if (is_sibling(path, run_id))
			r = each(path, arg);
	}
out:
	for (size_t i = 0; i < nr_names; i++)
		free(names[i]);
	free(names);
	free(run_id);
	return r;
}
