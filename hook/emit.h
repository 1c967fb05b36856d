/*
 * The producer's side of the ring (include/nnmem/ring.h): claim, fill, publish.
 *
 * Knows nothing of PyTorch or of threads' state; hook/hook.c decides what is recorded.  It allocates nothing, takes no
 * lock and makes no system call but clock_gettime() and, when the ring is full, a look whether the recorder lives and one
 * bounded wait.
 */
#ifndef NNMEM_HOOK_EMIT_H
#define NNMEM_HOOK_EMIT_H

#include "nnmem/ring.h"

#include <stdbool.h>

/* How long producers may wait for a full ring: once, until `tail` moves, and all waits of a run together. */
#define EMIT_WAIT_NS       UINT64_C(10000000)
#define EMIT_WAIT_TOTAL_NS UINT64_C(1000000000)

/*
 * The outside world as emit needs it, so that tests can own time and the recorder's life.
 * All must be async-signal-safe and keep errno.
 */
struct emit_env {
	uint64_t (*now_ns)(void);             /* CLOCK_MONOTONIC */
	void (*pause_ns)(uint64_t ns);        /* let the recorder run; at most about @ns */
	bool (*recorder_alive)(uint32_t pid); /* asked when the ring is full, and at the end */
};

/* The real world: clock_gettime, nanosleep, kill(pid, 0). */
extern const struct emit_env emit_env_default;

/* One producer process' view of a ring.  Shared by all its threads; zero-initialised but for the two pointers. */
struct emitter {
	struct ring *ring;
	const struct emit_env *env;
	uint64_t waited_ns;     /* all waits so far; atomic */
	uint64_t gave_up_tail;  /* tail + 1 at the last wait in vain, 0: none; atomic: no waiting until tail moves */
	uint64_t recorder_dead; /* 1: found dead when the ring was full; atomic */
};

/*
 * Write one record without text.  @record's seq and time_ns are ignored: they are filled in here.
 * Returns true when it was published; false when it was dropped and counted in ring->lost.
 * Thread: any, lock-free but for the bounded wait.  Signal: safe.  Keeps errno.
 */
bool emit_record(struct emitter *emitter, const struct record *record);

/*
 * Write one record with @text_bytes bytes of text (cut at RECORD_TEXT_MAX).  record->stack is filled in.
 * Otherwise as emit_record().
 */
bool emit_record_text(struct emitter *emitter, const struct record *record, const char *text, uint32_t text_bytes);

/*
 * Make @memory (ring_file_bytes(capacity) zero bytes) an empty ring.  The caller chooses @capacity as ring.h says
 * and fills the pid fields.
 */
void ring_format(void *memory, uint32_t capacity, uint64_t start_realtime_ns, uint64_t start_monotonic_ns);

#endif
