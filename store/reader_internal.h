/*
 * What the files of the reader share: an open run file, and queries whose every value is checked.
 *
 * A query is prepared by name (store/queries.sql; {name} in it stands for another), stepped, and read column by column.  A value
 * of a wrong type or out of its range makes the query *bad*: the accessors then return 0 or NULL, and query_step() refuses to go
 * on.  So a row is read without a test after each column, and checked once with query_ok() before it is used.
 */
#ifndef NNMEM_STORE_READER_INTERNAL_H
#define NNMEM_STORE_READER_INTERNAL_H

#include "store/db.h"
#include "store/store.h"

#include <sqlite3.h>

#define QUERY_TEXTS 8

struct store {
	struct db *db;
	sqlite3 *handle; /* of @db */
	char *path;      /* as the user named it */
	char *real_path; /* without links: SQLite's other files lie beside this one */
	uint64_t size_bytes;
	uint64_t deadline_cpu_ns; /* of the call that is at work, in CPU time of this thread */
	enum store_recovery recovery;
	uint64_t recovered_events;
	char recovery_reason[200]; /* "" none */
	uint64_t last_seq;
	unsigned schema_version;
	char message[sizeof(((struct store_error *)0)->message)];

	/* Texts of the last store_read_run(). */
	char *run_texts[8];
	char peak_device[DEVICE_NAME_MAX];
};

struct query {
	struct store *store;
	sqlite3_stmt *stmt;
	const char *name;
	int error;                      /* 0, or the negative errno that made it bad; the sentence is in store->message */
	char *texts[QUERY_TEXTS];       /* cleaned copies of the current row's texts */
	size_t text_bytes[QUERY_TEXTS]; /* allocated */
	unsigned nr_texts;
};

/* Say what failed on @store and return @error (negative). */
int store_fail(struct store *store, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same for what SQLite said of its last call. */
int store_fail_sqlite(struct store *store, int code);
/* The texts of the last store_read_run() go. */
void store_free_run_texts(struct store *store);
/* A call on the store begins: its time is counted from here. */
void store_begin_call(struct store *store);
/* How much CPU time one call may take; tests shorten it.  0 restores the default. */
void store_set_time_limit(uint64_t cpu_ns);

/* Prepare the query named @name.  query_close() must follow, also after a failure. */
int query_open(struct store *store, struct query *query, const char *name);
int query_open_sql(struct store *store, struct query *query, const char *name, const char *sql);
void query_bind(struct query *query, const char *parameter, uint64_t value);
/* What {filter} in a query needs; @filter must outlive the query.  NULL: everything passes. */
void query_bind_filter(struct query *query, const struct store_filter *filter);
/* What {layer} needs. */
void query_bind_layer(struct query *query, const struct store_filter *filter);
/* Returns 1: a row; 0: the end; negative errno. */
int query_step(struct query *query);
void query_reset(struct query *query);
/* Returns query->error or 0; frees. */
int query_close(struct query *query);

/* An integer in [0, max]. */
uint64_t query_u64_max(struct query *query, int column, uint64_t max);
static inline uint64_t query_u64(struct query *query, int column)
{
	return query_u64_max(query, column, INT64_MAX);
}
/* A code of a closed list with @nr entries. */
static inline unsigned query_code(struct query *query, int column, unsigned nr)
{
	return (unsigned)query_u64_max(query, column, nr - 1);
}
/* A sum of sizes, which total() gives as a floating-point number: exact up to 2^53, and never an overflow. */
uint64_t query_total(struct query *query, int column);
int64_t query_i64(struct query *query, int column);
/* Text in valid UTF-8 without control characters ('?' stands for what was not), or NULL.  Valid until the next step. */
const char *query_text(struct query *query, int column);
/* The same, but NULL is bad. */
const char *query_text_required(struct query *query, int column);
static inline bool query_ok(const struct query *query)
{
	return query->error == 0;
}

/* Fill @ret from a row of the queries `oom` and `refusals`. */
void query_read_oom(struct query *query, struct store_oom *ret);

/* What is kept in memory of one answer (blocks, modules, spans): no program has that many, a hostile file may. */
#define READER_MAX_KEPT (UINT32_C(1) << 22)

/* Instants [start, end); instant s is "right after event s". */
struct interval {
	uint64_t start, end;
};

/* The instants of a step, the one before its first record among them: it may begin at its peak. */
static inline struct interval step_window(uint64_t start_seq, uint64_t end_seq)
{
	return (struct interval){.start = start_seq ? start_seq - 1 : 0, .end = end_seq + 1};
}

/*
 * The live blocks of a device moved through the instants [start, end); instant s is "right after event s".
 * change(): a block is born (@sign 1; also one that was alive at the start) or has died (-1).
 * hold(): what is alive stays the same for the instants [from, to).  Memory: by the blocks that are alive at one time.
 */
struct replay_block {
	uint64_t free_seq /* 0 alive */, size_bytes;
	uint32_t module;
	uint8_t category;
};
struct replay_sink {
	void *arg;
	void (*change)(void *arg, const struct replay_block *block, int sign);
	void (*hold)(void *arg, uint64_t from, uint64_t to);
};
int store_replay(struct store *store, uint16_t device, uint64_t start, uint64_t end, const struct replay_sink *sink);

#endif
