/*
 * A recording: ring reader, tagger and writer joined.  nnmem-record pumps one while the program runs; recovery
 * (store/recover.c) opens the one that a dead recorder left and pumps what the ring still holds.
 */
#ifndef NNMEM_STORE_RECORDING_H
#define NNMEM_STORE_RECORDING_H

#include "nnmem/ring.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct db;
struct recording;

/* What the recorder knows of the program besides the ring. */
struct recording_origin {
	const char *out;       /* NNMEM_OUT as given, or NULL: "run.db"; %p pid, %r rank, %h host */
	const char *ring_path; /* where the ring is, for recovery */
	const char *command;   /* the program's command line, joined by blanks */
	const char *run_id;    /* shared by the files of one run; NULL: make one */
	int64_t rank;          /* RANK, or -1 */
};

/*
 * Choose the file's name by the rule of runfile.h, create it and connect @ring.
 * Errors: negative errno, with one sentence in @message (which names path and reason).
 */
int recording_create(struct ring *ring, const struct recording_origin *origin, struct recording **ret, char *message,
                     size_t message_size);

/*
 * Take up the recording that is in @db (opened with DB_WRITE under the run file's lock, runfile_take_over(), or a copy in
 * memory) where its last commit left it: the tagger is rebuilt, and what @ring holds can be pumped.
 * @ring has passed ring_check() and is proven to be the run's (run.ring_start_ns and pid) here: -ESTALE when it is not.
 * -EBADMSG: the file is damaged.  A run that was closed has nothing to take up: -EALREADY.
 * Owner of @db: still the caller, also after recording_close(), which then leaves one plain file.
 */
int recording_reopen(struct db *db, struct ring *ring, struct recording **ret, char *message, size_t message_size);

/*
 * No producer lives any more: slots that were claimed and never published are skipped at once (LOST_TORN), and nothing is
 * read beyond what is claimed now, whatever a damaged header says later.
 */
void recording_producers_gone(struct recording *recording);

/* The name of the run file as the user would write it. */
const char *recording_path(const struct recording *recording);

/*
 * Read what the ring holds (at most about @max_slots), and COMMIT when @commit or when a batch is full; after a commit
 * the ring's tail moves.  Returns the number of slots read, or a negative errno.
 */
int64_t recording_pump(struct recording *recording, uint64_t now_ns, uint32_t max_slots, bool commit);

/* Whether the program need not tell operators now: for ring->operations_known. */
bool recording_operations_known(const struct recording *recording);

/*
 * An address in the program's code that called for memory, of which it is not known in which file it lies; 0: none.  Once
 * each.  The answer is recording_object().
 */
uint64_t recording_unknown_code(struct recording *recording);
/* @file lies in the program's memory from @start to before @end; "": it could not be told which. */
int recording_object(struct recording *recording, uint64_t start, uint64_t end, const char *file);

/* Slots that were claimed and are not read yet. */
uint64_t recording_backlog(const struct recording *recording);

/* How the program ended, for when RECORD_END did not say: "signal 9", "killed", ... (copied). */
int recording_set_ended(struct recording *recording, const char *ended);
/* A sample of the process: resident set now and its high-water mark, bytes. */
int recording_sample(struct recording *recording, uint64_t now_ns, uint64_t rss_bytes, uint64_t peak_rss_bytes);

/*
 * Everything was pumped: finish the tagger, final commit, one file (no WAL).  @ret_summary (may be NULL) says what the file
 * holds: "2 291 events, 50 steps".
 */
int recording_finish(struct recording *recording, char *ret_summary, size_t summary_size);

/* recording_finish() if that was not done, then unlock.  Frees @recording, also on error. */
int recording_close(struct recording *recording);

/*
 * Leave the file as of its last commit, for a later recovery, and unlock.  @why: a note in the file if it can be written,
 * NULL none.  Frees @recording.
 */
void recording_abandon(struct recording *recording, const char *why);

/* The sentence of the last error.  Owner: @recording. */
const char *recording_message(const struct recording *recording);

#endif
