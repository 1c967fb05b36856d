/*
 * The consumer's side of the ring (include/nnmem/ring.h): check, read in order, take over torn slots, release.
 *
 * The recorder uses it on a live ring; recovery uses it on one that was left behind, possibly damaged: nothing in the
 * mapping is trusted, every index is masked, and no read goes outside the mapping whatever its bytes say.
 * Thread: one at a time for a reader.
 */
#ifndef NNMEM_STORE_RING_READER_H
#define NNMEM_STORE_RING_READER_H

#include "nnmem/ring.h"

#include <stdbool.h>

struct ring_reader {
	struct ring *ring;
	uint32_t capacity;         /* checked copy: the mapping may change under us */
	uint64_t position;         /* next slot to read, >= ring->tail */
	uint64_t stalled_position; /* slot that was found unpublished, and since when (now_ns of the caller) */
	uint64_t stalled_since_ns;
	uint64_t nr_torn;      /* slots taken over */
	bool producers_gone;   /* no producer lives: unpublished slots are taken over at once */
	uint64_t end_position; /* nothing is read from here on, whatever the header says; UINT64_MAX: no such end */
	char text[RECORD_TEXT_MAX + 1];
};

/* One record as read: copied out of the mapping. */
struct ring_item {
	struct record record;
	const char *text; /* NUL-terminated, record.stack bytes; NULL without text.  Valid until the next read. */
};

/*
 * Check that @memory of @size_bytes holds a ring that this program can read.
 * Returns 0; -EINVAL not a ring or damaged; -EPROTONOSUPPORT a ring of another version.
 */
int ring_check(const void *memory, size_t size_bytes);

/* Start reading at the ring's tail.  The ring has passed ring_check(). */
void ring_reader_init(struct ring_reader *reader, struct ring *ring);

/*
 * Read the next record.  Returns 1 and fills @ret_item; 0 when there is nothing (yet).
 * @now_ns only measures how long a slot has been unpublished (RING_TORN_NS).  Torn records, and text whose
 * continuation is torn, are skipped and counted in ring->lost[LOST_TORN].
 */
int ring_reader_next(struct ring_reader *reader, uint64_t now_ns, struct ring_item *ret_item);

/* Give everything that was read back to the producers: only after COMMIT. */
void ring_reader_release(struct ring_reader *reader);

/* No producer lives any more: sets producers_gone, and the end to what is claimed now. */
void ring_reader_producers_gone(struct ring_reader *reader);

/* Slots claimed and not yet read. */
uint64_t ring_reader_backlog(const struct ring_reader *reader);

#endif
