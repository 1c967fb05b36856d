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

struct recording;

/* What the recorder knows of the program besides the ring. */
struct recording_origin {
	const char *out;	/* NNMEM_OUT as given, or NULL: "run.db"; %p pid, %r rank, %h host */
	const char *ring_path;	/* where the ring is, for recovery */
	const char *command;	/* the program's command line, joined by blanks */
	const char *run_id;	/* shared by the files of one run; NULL: make one */
	int64_t rank;		/* RANK, or -1 */
};

/*
 * Choose the file's name by the rule of DESIGN 7 (Files), create it and connect @ring.
 * Errors: negative errno, with one sentence in @message (which names path and reason).
 */
int recording_create(struct ring *ring, const struct recording_origin *origin, struct recording **ret, char *message, size_t message_size);

/* The name of the run file as the user would write it. */
const char *recording_path(const struct recording *recording);

/*
 * Read what the ring holds (at most about @max_slots), and COMMIT when @commit or when a batch is full; after a commit
 * the ring's tail moves.  Returns the number of slots read, or a negative errno.
 */
int64_t recording_pump(struct recording *recording, uint64_t now_ns, uint32_t max_slots, bool commit);

/* How the program ended, when RECORD_END did not say: "signal 9", "killed", ... */
int recording_set_ended(struct recording *recording, const char *ended);
/* A sample of the process: resident set now and its high-water mark, bytes. */
int recording_sample(struct recording *recording, uint64_t now_ns, uint64_t rss_bytes, uint64_t peak_rss_bytes);

/* Everything was pumped: finish the tagger, final commit, one file (no WAL), unlock.  Frees @recording. */
int recording_close(struct recording *recording);

#endif
