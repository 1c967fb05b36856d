/* The writer: see writer.h for the contract. */
#include "store/writer.h"

#include "store/schema.h"
#include "store/writer_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int writer_sample(struct writer *writer, uint64_t ns, uint64_t rss_bytes, uint64_t peak_rss_bytes)
{
	struct row row;
	int r = row_begin(writer, "INSERT INTO sample (ns, rss_bytes, peak_rss_bytes) VALUES (?,?,?)", &row);

	if (r)
		return r;
	if (peak_rss_bytes > writer->peak_rss_bytes)
		writer->peak_rss_bytes = peak_rss_bytes;
	row_u64(&row, relative_ns(writer, ns));
	row_u64(&row, rss_bytes);
	row_u64(&row, peak_rss_bytes);
	return row_end(&row);
}

/* ---- creating */

struct name_list {
	const char *list;
	const char *(*name)(unsigned code);
	unsigned first, end;
};

static int write_names(struct writer *writer)
{
	static const struct name_list lists[] = {
	        {"phase", phase_name, 0, NR_PHASES},
	        {"level", level_name, 0, NR_LEVELS},
	        {"category", category_name, 0, NR_CATEGORIES},
	        {"category_rule", category_rule_name, 0, NR_CATEGORY_RULES},
	        {"step_kind", step_kind_name, 0, NR_STEP_KINDS},
	        {"frame_kind", frame_kind_name, 0, NR_FRAME_KINDS},
	        {"severity", severity_name, RECORD_SEVERITY_INFO, RECORD_SEVERITY_ERROR + 1},
	        {"tensor_kind", tensor_kind_name, RECORD_TENSOR_PARAMETER, RECORD_TENSOR_GRADIENT + 1},
	};
	struct row row;
	int r = 0;

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		for (unsigned code = lists[i].first; code < lists[i].end && !r; code++) {
			r = row_begin(writer, "INSERT INTO name (list, code, name) VALUES (?,?,?)", &row);
			if (r)
				return r;
			row_text(&row, lists[i].list);
			row_u64(&row, code);
			row_text(&row, lists[i].name(code));
			r = row_end(&row);
		}
	}
	return r;
}

static int write_run(struct writer *writer)
{
	const struct writer_run *run = &writer->run;
	struct row row;
	int r = row_begin(writer,
	                  "INSERT INTO run (id, run_id, nnmem_version, pid, rank, hostname, command, ring_path, ring_start_ns,"
	                  " start_realtime_ns, ended, last_seq, last_ns, peak_rss_bytes)"
	                  " VALUES (1, ?,?,?,?,?,?,?,?,?, 'running', 0, 0, 0)",
	                  &row);

	if (r)
		return r;
	row_text(&row, run->run_id);
	row_text(&row, NNMEM_VERSION);
	row_u64(&row, (uint64_t)run->pid);
	row_u64_unless(&row, run->rank < 0, (uint64_t)run->rank);
	row_text(&row, run->hostname);
	row_text(&row, run->command);
	row_text(&row, run->ring_path);
	row_u64(&row, run->ring_start_ns);
	row_u64(&row, run->start_realtime_ns);
	return row_end(&row);
}

/* Ask for @sql, a journal_mode pragma, and say whether the mode is @wanted afterwards. */
static int set_journal_mode(struct db *db, const char *sql, const char *wanted, bool *ret_set)
{
	sqlite3_stmt *statement;
	const char *mode;
	int r = db_prepare(db, sql, &statement);

	if (r)
		return r;
	r = db_step(db, statement);
	if (r < 0)
		return r;
	mode = r == 1 ? db_column_text(statement, 0) : NULL;
	*ret_set = mode && strcmp(mode, wanted) == 0;
	sqlite3_reset(statement);
	return 0;
}

static int be_alone(struct db *db)
{
	bool set;
	int r = db_exec(db, "PRAGMA locking_mode = EXCLUSIVE");

	return r ? r : set_journal_mode(db, "PRAGMA journal_mode = TRUNCATE", "truncate", &set);
}

/* Settings of the connection and of the (empty or existing) file. */
static int settle_in(struct db *db, bool network)
{
	bool wal = false;
	int r = db_exec(db, "PRAGMA page_size = 8192; PRAGMA cache_size = -32768; PRAGMA temp_store = MEMORY;"
	                    "PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 2000; PRAGMA journal_size_limit = 67108864");

	if (r)
		return r;
	if (!network) {
		/* Where shared memory cannot be had, SQLite refuses WAL by an error or by staying as it was. */
		r = set_journal_mode(db, "PRAGMA journal_mode = WAL", "wal", &wal);
		if (r == -ENOMEM || r == -ENOSPC)
			return r;
	}
	return wal ? 0 : be_alone(db);
}

int writer_create(struct db *db, bool network, const struct writer_run *run, struct writer **ret_writer)
{
	struct writer *writer = calloc(1, sizeof(*writer));
	int r;

	if (!writer)
		return -ENOMEM;
	writer->db = db;
	writer->run = *run;
	writer->main_device = NO_DEVICE;
	/* Before WAL: the file itself says from its first byte on whose it is, also while all else is in the WAL. */
	r = db_exec(db, "PRAGMA page_size = 8192; PRAGMA synchronous = OFF; PRAGMA application_id = 1852730733");
	_Static_assert(SCHEMA_APPLICATION_ID == 1852730733u, "the text above says so");
	if (!r)
		r = settle_in(db, network);
	if (!r)
		r = db_begin(db);
	if (r)
		goto out;
	writer->dirty = true;
	r = db_exec(db, store_schema_sql);
	if (!r)
		r = write_names(writer);
	if (!r)
		r = write_run(writer);
	if (!r)
		r = db_commit(db);
	if (r)
		goto out;
	writer->dirty = false;
	/* The caller's strings need not live on. */
	writer->run.run_id = writer->run.hostname = writer->run.command = writer->run.ring_path = NULL;
	*ret_writer = writer;
	writer = NULL;
out:
	writer_free(writer);
	return r;
}

void writer_free(struct writer *writer)
{
	if (!writer)
		return;
	writer_rollback(writer);
	free(writer->strings);
	free(writer);
}

/* ---- committing */

bool writer_is_dirty(const struct writer *writer)
{
	return writer->dirty;
}

void writer_rollback(struct writer *writer)
{
	db_rollback(writer->db);
	writer->dirty = false;
}

const char *writer_told_end(const struct writer *writer)
{
	return writer->told_end[0] ? writer->told_end : NULL;
}

static int write_lost(struct writer *writer, const uint64_t *lost)
{
	struct row row;
	int r = 0;

	for (unsigned i = 0; i < NR_LOST && !r; i++) {
		uint64_t count = atomic64_load_relaxed(&lost[i]);

		if (count == writer->lost[i])
			continue;
		r = row_begin(writer, "INSERT OR REPLACE INTO lost (cause, count) VALUES (?,?)", &row);
		if (r)
			return r;
		row_text(&row, lost_name(i));
		row_u64(&row, count);
		r = row_end(&row);
		writer->lost[i] = count;
	}
	return r;
}

static int write_progress(struct writer *writer, const struct writer_commit *commit, const char *ended)
{
	struct row row;
	int r = row_begin(writer,
	                  "UPDATE run SET ended = ?, told_end = ?, last_seq = ?, last_ns = ?, peak_rss_bytes = ? WHERE id = 1",
	                  &row);

	if (r)
		return r;
	row_text(&row, ended);
	row_text(&row, writer_told_end(writer));
	row_u64(&row, commit->last_seq);
	row_u64(&row, relative_ns(writer, commit->last_ns));
	row_u64(&row, writer->peak_rss_bytes);
	return row_end(&row);
}

static int write_state(struct writer *writer, const struct writer_commit *commit)
{
	struct row row;
	int r;

	if (!commit->state) {
		r = row_begin(writer, "DELETE FROM commit_state", &row);
		return r ? r : row_end(&row);
	}
	r = row_begin(writer, "INSERT OR REPLACE INTO commit_state (id, tagger) VALUES (1, ?)", &row);
	if (r)
		return r;
	row_keep(&row, sqlite3_bind_blob64(row.statement, ++row.index, commit->state, commit->state_bytes, SQLITE_STATIC));
	return row_end(&row);
}

static int commit_as(struct writer *writer, const struct writer_commit *commit, const char *ended)
{
	int r = write_lost(writer, commit->lost);

	if (!r)
		r = write_progress(writer, commit, ended);
	if (!r)
		r = write_state(writer, commit);
	if (!r)
		r = db_commit(writer->db);
	if (r)
		return r;
	writer->dirty = false;
	writer->last_seq = commit->last_seq;
	writer->last_ns = commit->last_ns;
	return 0;
}

int writer_commit(struct writer *writer, const struct writer_commit *commit)
{
	return commit_as(writer, commit, "running");
}

int writer_finish(struct writer *writer, const struct writer_commit *commit, const char *ended)
{
	int r = commit_as(writer, commit, ended);
	bool single;

	if (r)
		return r;
	/* A reader in the middle of the file keeps it in WAL mode: its last user makes one file of it then. */
	r = set_journal_mode(writer->db, "PRAGMA journal_mode = DELETE", "delete", &single);
	return r == -EBUSY ? 0 : r;
}

const char *writer_message(const struct writer *writer)
{
	return db_message(writer->db);
}

int writer_read_totals(struct writer *writer, struct writer_totals *ret)
{
	int64_t events, steps, lost;
	int r = db_read_i64(writer->db, "SELECT ifnull(sum(allocs + frees), 0) FROM device", &events);

	if (!r)
		r = db_read_i64(writer->db, "SELECT count(*) FROM step WHERE kind IN (1, 3)", &steps);
	if (!r)
		r = db_read_i64(writer->db, "SELECT ifnull(sum(count), 0) FROM lost", &lost);
	if (!r)
		*ret = (struct writer_totals){(uint64_t)events, (uint64_t)steps, (uint64_t)lost};
	return r;
}

/* ---- taking a run up again */

const struct writer_run *writer_run(const struct writer *writer)
{
	return &writer->run;
}

uint64_t writer_last_seq(const struct writer *writer)
{
	return writer->last_seq;
}

uint64_t writer_last_ns(const struct writer *writer)
{
	return writer->last_ns;
}

/* The strings of the run row outlive its statement in one block. */
static int keep_strings(struct writer *writer, sqlite3_stmt *statement)
{
	static const int columns[] = {0, 3, 4, 5};
	const char **const targets[] = {&writer->run.run_id, &writer->run.hostname, &writer->run.command, &writer->run.ring_path};
	size_t size = 0;
	char *end;

	for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++)
		size += (size_t)sqlite3_column_bytes(statement, columns[i]) + 1;
	writer->strings = end = malloc(size);
	if (!end)
		return -ENOMEM;
	for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++) {
		const char *text = db_column_text(statement, columns[i]);

		*targets[i] = text ? end : NULL;
		if (text)
			end = stpcpy(end, text) + 1;
	}
	return 0;
}

static int read_run(struct writer *writer)
{
	sqlite3_stmt *statement;
	const char *ended;
	const char *told_end;
	int r = db_prepare(
	        writer->db,
	        "SELECT run_id, pid, rank, hostname, command, ring_path, ring_start_ns, start_realtime_ns, ended, told_end,"
	        " last_seq, peak_rss_bytes, last_ns FROM run WHERE id = 1",
	        &statement);

	if (r)
		return r;
	r = db_step(writer->db, statement);
	if (r <= 0)
		return r < 0 ? r : -EBADMSG;
	ended = db_column_text(statement, 8);
	told_end = db_column_text(statement, 9);
	writer->run.pid = sqlite3_column_int64(statement, 1);
	writer->run.rank = sqlite3_column_type(statement, 2) == SQLITE_NULL ? -1 : sqlite3_column_int64(statement, 2);
	writer->run.ring_start_ns = db_column_u64(statement, 6);
	writer->run.start_realtime_ns = db_column_u64(statement, 7);
	writer->last_seq = db_column_u64(statement, 10);
	writer->peak_rss_bytes = db_column_u64(statement, 11);
	writer->last_ns = db_column_u64(statement, 12) + writer->run.ring_start_ns;
	if (told_end && strlen(told_end) < sizeof(writer->told_end))
		strcpy(writer->told_end, told_end);
	r = keep_strings(writer, statement);
	if (!r)
		r = ended && strcmp(ended, "running") == 0 ? 0 : -EALREADY;
	sqlite3_reset(statement);
	return r;
}

static int read_main_device(struct writer *writer)
{
	int64_t device;
	int r = db_read_i64(writer->db, "SELECT id FROM device WHERE is_main", &device);

	if (r == -ENODATA)
		return 0;
	if (!r && (device < 0 || device > UINT16_MAX))
		return -EBADMSG;
	if (!r)
		writer->main_device = (uint32_t)device;
	return r;
}

int writer_resume(struct db *db, struct writer **ret_writer)
{
	struct writer *writer = calloc(1, sizeof(*writer));
	int64_t application_id, version;
	int r;

	if (!writer)
		return -ENOMEM;
	writer->db = db;
	writer->main_device = NO_DEVICE;
	r = db_read_i64(db, "PRAGMA application_id", &application_id);
	if (!r)
		r = db_read_i64(db, "PRAGMA user_version", &version);
	if (!r && (application_id != SCHEMA_APPLICATION_ID || version != SCHEMA_VERSION))
		r = -EBADMSG;
	if (!r)
		r = read_run(writer);
	if (!r)
		r = read_main_device(writer);
	/* The file's journal mode is left as it is; only what the process that dies cannot lose is set. */
	if (!r)
		r = db_exec(db, "PRAGMA cache_size = -32768; PRAGMA temp_store = MEMORY; PRAGMA synchronous = OFF");
	if (!r) {
		*ret_writer = writer;
		writer = NULL;
	}
	writer_free(writer);
	return r;
}

int writer_read_state(struct writer *writer, unsigned char **ret_state, size_t *ret_state_bytes)
{
	sqlite3_stmt *statement;
	int r = db_prepare(writer->db, "SELECT tagger FROM commit_state WHERE id = 1", &statement);
	size_t size_bytes;
	unsigned char *state;

	if (r)
		return r;
	r = db_step(writer->db, statement);
	if (r < 0)
		return r;
	if (r == 0 || sqlite3_column_type(statement, 0) != SQLITE_BLOB) {
		sqlite3_reset(statement);
		return -EBADMSG;
	}
	size_bytes = (size_t)sqlite3_column_bytes(statement, 0);
	state = malloc(size_bytes + 1);
	if (state) {
		if (size_bytes > 0)
			memcpy(state, sqlite3_column_blob(statement, 0), size_bytes);
		*ret_state = state;
		*ret_state_bytes = size_bytes;
	}
	sqlite3_reset(statement);
	return state ? 0 : -ENOMEM;
}

static void read_allocation(const struct writer *writer, sqlite3_stmt *statement, struct tag_allocation *ret)
{
	unsigned flags = (unsigned)db_column_u64(statement, 14);

	*ret = (struct tag_allocation){
	        .id = db_column_u64(statement, 0),
	        .device = (uint16_t)db_column_u64(statement, 1),
	        .level = (uint8_t)db_column_u64(statement, 2),
	        .address = db_column_u64(statement, 3),
	        .size_bytes = db_column_u64(statement, 4),
	        .alloc_seq = db_column_u64(statement, 5),
	        .alloc_ns = db_column_u64(statement, 6) + writer->run.ring_start_ns,
	        .thread = (uint32_t)db_column_u64(statement, 7),
	        .stretch = db_column_u64(statement, 8),
	        .phase = (uint8_t)db_column_u64(statement, 9),
	        .category = (uint8_t)db_column_u64(statement, 10),
	        .rule = (uint8_t)db_column_u64(statement, 11),
	        .module = (uint32_t)db_column_u64(statement, 12),
	        .tensor = (uint32_t)db_column_u64(statement, 13),
	        .provisional = (flags & FLAG_PROVISIONAL) != 0,
	        .recompute = (flags & FLAG_RECOMPUTE) != 0,
	        .shared = (flags & FLAG_SHARED) != 0,
	        .seen_forward = (flags & FLAG_SEEN_FORWARD) != 0,
	        .named_input = (flags & FLAG_NAMED_INPUT) != 0,
	        .seed = (flags & FLAG_SEED) != 0,
	        .before_step = (flags & FLAG_BEFORE_STEP) != 0,
	        .seen = (flags & FLAG_SEEN) != 0,
	        .into_step = (flags & FLAG_INTO_STEP) != 0,
	        .stack = (uint32_t)db_column_u64(statement, 15),
	        .episode = db_column_u64(statement, 16),
	        .call = db_column_u64(statement, 17),
	        .requested_bytes = db_column_u64(statement, 18),
	        .caller = db_column_u64(statement, 19),
	        .stored = true,
	};
}

int writer_each_open(struct writer *writer, int (*each)(void *arg, const struct tag_allocation *allocation), void *arg)
{
	sqlite3_stmt *statement;
	int r = db_prepare(
	        writer->db,
	        "SELECT id, device, level, address, size_bytes, alloc_seq, alloc_ns, thread, stretch, phase, category, rule,"
	        " module, tensor, flags, stack, episode, call, requested_bytes, caller FROM allocation"
	        " WHERE free_seq IS NULL ORDER BY id",
	        &statement);

	if (r)
		return r;
	while ((r = db_step(writer->db, statement)) == 1) {
		struct tag_allocation allocation;

		read_allocation(writer, statement, &allocation);
		r = each(arg, &allocation);
		if (r)
			break;
	}
	sqlite3_reset(statement);
	return r;
}
