/* The consumer's side of the ring: see ring_reader.h for the contract and include/nnmem/ring.h for the protocol. */
#include "store/ring_reader.h"

#include <errno.h>
#include <string.h>

#define WORDS_PER_SLOT (sizeof(struct record) / sizeof(uint64_t))
#define KIND_WORD      (offsetof(struct record, kind) / sizeof(uint64_t))

int ring_check(const void *memory, size_t size_bytes)
{
	const struct ring *ring = memory;

	if (size_bytes < RING_HEADER_BYTES || ring->magic != RING_MAGIC)
		return -EINVAL;
	if (ring->header_version != RECORD_VERSION)
		return -EPROTONOSUPPORT;
	if (ring->capacity < RING_MIN_SLOTS || ring->capacity > RING_MAX_SLOTS || (ring->capacity & (ring->capacity - 1)))
		return -EINVAL;
	if (size_bytes < ring_file_bytes(ring->capacity))
		return -EINVAL;
	return 0;
}

void ring_reader_init(struct ring_reader *reader, struct ring *ring)
{
	memset(reader, 0, sizeof(*reader));
	reader->ring = ring;
	reader->capacity = ring->capacity;
	reader->position = atomic64_load_relaxed(&ring->tail);
	reader->stalled_position = UINT64_MAX;
	reader->end_position = UINT64_MAX;
}

uint64_t ring_reader_backlog(const struct ring_reader *reader)
{
	uint64_t head = atomic64_load_acquire(&reader->ring->head);

	if (head > reader->end_position)
		head = reader->end_position;
	/* A damaged header can say anything: never read more than one lap. */
	if (head < reader->position)
		return 0;
	return head - reader->position <= reader->capacity ? head - reader->position : reader->capacity;
}

void ring_reader_producers_gone(struct ring_reader *reader)
{
	if (!reader->producers_gone)
		reader->end_position = reader->position + ring_reader_backlog(reader);
	reader->producers_gone = true;
}

static uint64_t *slot_at(const struct ring_reader *reader, uint64_t position)
{
	return (uint64_t *)(void *)&ring_slots(reader->ring)[position & (reader->capacity - 1)];
}

enum slot_state { SLOT_PUBLISHED, SLOT_PENDING, SLOT_TORN };

/* What became of the claimed slot at @position; one that was left unpublished for too long is taken over. */
static enum slot_state slot_state(struct ring_reader *reader, uint64_t position, uint64_t now_ns)
{
	uint64_t *slot = slot_at(reader, position);
	uint64_t seq = atomic64_load_acquire(slot); /* Pairs with publish() in hook/emit.c. */

	if (seq == position + 1)
		return SLOT_PUBLISHED;
	if (!reader->producers_gone) {
		if (reader->stalled_position != position) {
			reader->stalled_position = position;
			reader->stalled_since_ns = now_ns;
		}
		if (now_ns - reader->stalled_since_ns < RING_TORN_NS)
			return SLOT_PENDING;
	}
	if (atomic64_cas_acq_rel(slot, &seq, position + 1)) {
		/* If we die before the release, the next reader must not take what an earlier lap left here for a record. */
		atomic64_store_relaxed(&slot[KIND_WORD], RECORD_NONE);
		return SLOT_TORN;
	}
	return seq == position + 1 ? SLOT_PUBLISHED : SLOT_TORN;
}

static void count_torn(struct ring_reader *reader)
{
	reader->nr_torn++;
	atomic64_add_relaxed(&reader->ring->lost[LOST_TORN], 1);
}

static void load_slot(const struct ring_reader *reader, uint64_t position, void *ret_slot)
{
	const uint64_t *slot = slot_at(reader, position);
	uint64_t words[WORDS_PER_SLOT];

	words[0] = position + 1;
	for (size_t i = 1; i < WORDS_PER_SLOT; i++)
		words[i] = atomic64_load_relaxed(&slot[i]);
	memcpy(ret_slot, words, sizeof(words));
}

/*
 * Read the text of the record at reader->position into reader->text.
 * Returns PENDING when a continuation is not there yet, TORN when one never will be.
 */
static enum slot_state read_text(struct ring_reader *reader, const struct record *record, uint64_t now_ns)
{
	uint32_t nr_slots = record_text_slots(record->stack);

	for (uint32_t i = 0; i < nr_slots; i++) {
		uint32_t done = i * RECORD_TEXT_BYTES;
		uint32_t piece = record->stack - done < RECORD_TEXT_BYTES ? record->stack - done : RECORD_TEXT_BYTES;
		enum slot_state state = slot_state(reader, reader->position + 1 + i, now_ns);
		struct record_text text;

		if (state != SLOT_PUBLISHED)
			return state;
		load_slot(reader, reader->position + 1 + i, &text);
		if (text.kind != RECORD_TEXT || text.record_seq != record->seq)
			return SLOT_TORN; /* A continuation that was taken over before, or a damaged ring. */
		memcpy(reader->text + done, text.bytes, piece);
	}
	reader->text[record->stack] = '\0';
	return SLOT_PUBLISHED;
}

int ring_reader_next(struct ring_reader *reader, uint64_t now_ns, struct ring_item *ret_item)
{
	while (ring_reader_backlog(reader) > 0) {
		struct record *record = &ret_item->record;
		enum slot_state state = slot_state(reader, reader->position, now_ns);

		if (state == SLOT_PENDING)
			return 0;
		if (state == SLOT_TORN) {
			count_torn(reader);
			reader->position++;
			continue;
		}
		load_slot(reader, reader->position, record);
		if (record->kind == RECORD_TEXT || record->kind == RECORD_NONE) {
			reader->position++; /* Its record was torn, or it was itself, and counted then. */
			continue;
		}
		ret_item->text = NULL;
		if (!record_has_text(record->kind)) {
			reader->position++;
			return 1;
		}
		if (record->stack > RECORD_TEXT_MAX ||
		    record_text_slots(record->stack) + UINT64_C(1) > ring_reader_backlog(reader)) {
			count_torn(reader); /* Slots are claimed together, so this is damage. */
			reader->position++;
			continue;
		}
		state = read_text(reader, record, now_ns);
		if (state == SLOT_PENDING)
			return 0;
		if (state == SLOT_TORN) {
			count_torn(reader);
			reader->position++; /* What is left of the text is skipped by its kind. */
			continue;
		}
		reader->position += 1 + record_text_slots(record->stack);
		ret_item->text = reader->text;
		return 1;
	}
	return 0;
}

void ring_reader_release(struct ring_reader *reader)
{
	/* Release pairs with has_room() in hook/emit.c. */
	atomic64_store_release(&reader->ring->tail, reader->position);
}
