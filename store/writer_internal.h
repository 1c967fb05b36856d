/* What the writer's files share: writer.c opens, commits and closes, writer_rows.c writes what the tagger tells. */
#ifndef NNMEM_STORE_WRITER_INTERNAL_H
#define NNMEM_STORE_WRITER_INTERNAL_H

#include "store/db.h"
#include "store/writer.h"

/* Bits of allocation.flags, as schema.sql says them. */
#define FLAG_PROVISIONAL  1u
#define FLAG_RECOMPUTE    2u
#define FLAG_SHARED       4u
#define FLAG_FREE_LOST    8u
#define FLAG_SEEN_FORWARD 16u
#define FLAG_NAMED_INPUT  32u
#define FLAG_SEED         64u
#define FLAG_BEFORE_STEP  128u
#define FLAG_SEEN         256u
#define FLAG_INTO_STEP    512u

#define NO_DEVICE         UINT32_MAX

struct writer {
	struct db *db;
	struct writer_run run;
	char *strings;        /* holds the strings of run after writer_resume() */
	bool dirty;           /* in a transaction */
	uint32_t main_device; /* the device with is_main, NO_DEVICE: none yet */
	uint64_t last_seq;    /* of the last commit */
	uint64_t last_ns;     /* CLOCK_MONOTONIC */
	uint64_t peak_rss_bytes;
	uint64_t lost[NR_LOST]; /* as stored */
	char told_end[32];      /* "": not told */
};

/* ---- one row: a statement and the parameters bound so far */

struct row {
	struct writer *writer;
	sqlite3_stmt *statement;
	int index;
	int code; /* first error of binding, SQLITE_OK: none */
};

static inline int row_begin(struct writer *writer, const char *sql, struct row *ret)
{
	int r;

	if (!writer->dirty) {
		r = db_begin(writer->db);
		if (r)
			return r;
		writer->dirty = true;
	}
	*ret = (struct row){.writer = writer};
	return db_prepare(writer->db, sql, &ret->statement);
}

static inline void row_keep(struct row *row, int code)
{
	if (row->code == SQLITE_OK)
		row->code = code;
}

static inline void row_u64(struct row *row, uint64_t value)
{
	row_keep(row, db_bind_u64(row->statement, ++row->index, value));
}

static inline void row_null(struct row *row)
{
	row_keep(row, sqlite3_bind_null(row->statement, ++row->index));
}

/* NULL when @absent. */
static inline void row_u64_unless(struct row *row, bool absent, uint64_t value)
{
	if (absent)
		row_null(row);
	else
		row_u64(row, value);
}

static inline void row_text(struct row *row, const char *value)
{
	row_keep(row, sqlite3_bind_text(row->statement, ++row->index, value, -1, SQLITE_STATIC));
}

static inline void row_text_or_empty(struct row *row, const char *value)
{
	row_text(row, value ? value : "");
}

static inline int row_end(struct row *row)
{
	if (row->code != SQLITE_OK)
		return db_error(row->writer->db, row->code);
	return db_step(row->writer->db, row->statement);
}

/* ns columns count from the ring's start. */
static inline uint64_t relative_ns(const struct writer *writer, uint64_t ns)
{
	return ns > writer->run.ring_start_ns ? ns - writer->run.ring_start_ns : 0;
}

#endif
