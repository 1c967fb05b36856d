/*
 * The writer: what the tagger finds goes into the tables of schema.sql, in batches.
 *
 * It is a tag_sink.  Everything between two commits is one transaction, begun by the first change after a commit; the
 * recording (recording.c) decides when to commit, and only after that the ring's tail moves.  An allocation's row is
 * written once, at its death, unless it was alive at a commit: then it is written open and replaced at its death.
 *
 * Settings: on local disks WAL, so that a live file can be read; on file systems that others may write to, a rollback
 * journal that is truncated, and exclusive locking.  synchronous=OFF: a process that dies loses nothing that it wrote.
 * Thread: one at a time.  Errors: negative errno, writer_message() says what SQLite said; after one, roll back and stop.
 */
#ifndef NNMEM_STORE_WRITER_H
#define NNMEM_STORE_WRITER_H

#include "store/tagger.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct db;
struct writer;

/* The facts of a run that are known when its file is made; all strings may be NULL but run_id. */
struct writer_run {
	const char *run_id;
	int64_t pid;
	int64_t rank; /* or -1 */
	const char *hostname;
	const char *command;
	const char *ring_path;
	uint64_t ring_start_ns; /* CLOCK_MONOTONIC: ns columns count from here */
	uint64_t start_realtime_ns;
};

/* What belongs to a commit besides the tables. */
struct writer_commit {
	uint64_t last_seq;    /* last record that was fed */
	uint64_t last_ns;     /* its time, CLOCK_MONOTONIC */
	const uint64_t *lost; /* NR_LOST counters of the ring */
	const void *state;    /* tagger_save(); NULL: none, the run is being closed */
	size_t state_bytes;
};

/* Create the tables in the empty file behind @db (borrowed) and commit.  Owner: caller, writer_free(). */
int writer_create(struct db *db, bool network, const struct writer_run *run, struct writer **ret_writer);

/*
 * Go on with the run in @db (borrowed).  Nothing in it is trusted.
 * Errors: -EBADMSG not a run file or damaged; -EALREADY the run was closed.
 */
int writer_resume(struct db *db, struct writer **ret_writer);

/* Rolls back what was not committed.  NULL is allowed.  The database stays open. */
void writer_free(struct writer *writer);

/* The callbacks to give to tagger_new(); valid as long as @writer. */
struct tag_sink writer_sink(struct writer *writer);

/* A degradation that the recorder itself noticed. */
int writer_note(struct writer *writer, uint64_t seq, enum record_severity severity, const char *what);
/* A file that lies in the program's memory from @start to before @end; "": it is not known which. */
int writer_object(struct writer *writer, uint64_t start, uint64_t end, const char *file);
/* One sample of the process; @ns is CLOCK_MONOTONIC. */
int writer_sample(struct writer *writer, uint64_t ns, uint64_t rss_bytes, uint64_t peak_rss_bytes);

/* Whether anything was written since the last commit. */
bool writer_is_dirty(const struct writer *writer);
int writer_commit(struct writer *writer, const struct writer_commit *commit);
void writer_rollback(struct writer *writer);

/* The end that the program announced (RECORD_END), "exit 0" or "exec"; NULL: none. */
const char *writer_told_end(const struct writer *writer);

/*
 * The last commit: @ended is stored, the state for recovery removed, and the file left as one plain file.  Where a reader
 * holds the file too long for that, its WAL stays beside it; that is no error.
 */
int writer_finish(struct writer *writer, const struct writer_commit *commit, const char *ended);

/* What the file holds, as v_run says it. */
struct writer_totals {
	uint64_t events;
	uint64_t steps; /* training steps, partial ones too */
	uint64_t lost;
};
int writer_read_totals(struct writer *writer, struct writer_totals *ret);

/* For taking a run up again. */
const struct writer_run *writer_run(const struct writer *writer);
uint64_t writer_last_seq(const struct writer *writer);
uint64_t writer_last_ns(const struct writer *writer); /* CLOCK_MONOTONIC */
/* The tagger's state as of the last commit, malloc'ed: the caller frees it.  -EBADMSG: there is none. */
int writer_read_state(struct writer *writer, unsigned char **ret_state, size_t *ret_state_bytes);
/* Every allocation that was alive at the last commit, oldest first; a callback's non-zero return stops and is returned. */
int writer_each_open(struct writer *writer, int (*each)(void *arg, const struct tag_allocation *allocation), void *arg);

/* What went wrong last.  Owner: @writer. */
const char *writer_message(const struct writer *writer);

#endif
