/*
 * The producer's side of the ring: see emit.h for the contract and include/nnmem/ring.h for the protocol.
 *
 * Called by every recording thread of the traced program through hook/hook.c.
 */
#include "hook/emit.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#define PAUSE_NS       UINT64_C(50000)
#define WORDS_PER_SLOT (sizeof(struct record) / sizeof(uint64_t))

static uint64_t default_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static void default_pause_ns(uint64_t ns)
{
	int saved_errno = errno;
	struct timespec pause = {.tv_sec = (time_t)(ns / UINT64_C(1000000000)), .tv_nsec = (long)(ns % UINT64_C(1000000000))};

	nanosleep(&pause, NULL); /* A signal cuts it short: the caller measures time itself. */
	errno = saved_errno;
}

static bool default_recorder_alive(uint32_t pid)
{
	int saved_errno = errno;
	bool alive = kill((pid_t)pid, 0) == 0 || errno == EPERM;

	errno = saved_errno;
	return alive;
}

const struct emit_env emit_env_default = {
        .now_ns = default_now_ns,
        .pause_ns = default_pause_ns,
        .recorder_alive = default_recorder_alive,
};

void ring_format(void *memory, uint32_t capacity, uint64_t start_realtime_ns, uint64_t start_monotonic_ns)
{
	struct ring *ring = memory;

	ring->header_version = RECORD_VERSION;
	ring->capacity = capacity;
	ring->start_realtime_ns = start_realtime_ns;
	ring->start_monotonic_ns = start_monotonic_ns;
	ring->magic = RING_MAGIC;
}

static bool recorder_is_dead(const struct emitter *emitter)
{
	const struct ring *ring = emitter->ring;
	uint32_t state = atomic32_load_relaxed(&ring->recorder);
	uint32_t pid = atomic32_load_relaxed(&ring->recorder_pid);

	if (state == RECORDER_FAILED || state == RECORDER_CLOSED)
		return true;
	return pid != 0 && !emitter->env->recorder_alive(pid);
}

static bool has_room(const struct ring *ring, uint64_t head, uint32_t nr_slots)
{
	/* Acquire pairs with the release in ring_reader_release(): the consumer is done with what we overwrite. */
	return head + nr_slots - atomic64_load_acquire(&ring->tail) <= ring->capacity;
}

/*
 * The slow path of claim(): the ring is full.  Wait once, at most EMIT_WAIT_NS, and after a wait in vain not again until
 * the tail moves.  Returns true when there may be room now.
 */
static bool wait_for_room(struct emitter *emitter, uint32_t nr_slots)
{
	const struct emit_env *env = emitter->env;
	struct ring *ring = emitter->ring;
	uint64_t tail = atomic64_load_relaxed(&ring->tail);
	uint64_t start_ns, elapsed_ns;

	if (atomic64_load_relaxed(&emitter->gave_up_tail) == tail + 1)
		goto full;
	if (recorder_is_dead(emitter)) {
		atomic64_store_relaxed(&emitter->recorder_dead, 1);
		atomic64_store_relaxed(&emitter->gave_up_tail, tail + 1);
		goto full;
	}
	if (atomic64_load_relaxed(&emitter->waited_ns) >= EMIT_WAIT_TOTAL_NS)
		goto full;
	start_ns = env->now_ns();
	do {
		env->pause_ns(PAUSE_NS);
		elapsed_ns = env->now_ns() - start_ns;
		if (has_room(ring, atomic64_load_relaxed(&ring->head), nr_slots)) {
			atomic64_add_relaxed(&emitter->waited_ns, elapsed_ns);
			return true;
		}
	} while (elapsed_ns < EMIT_WAIT_NS);
	atomic64_add_relaxed(&emitter->waited_ns, elapsed_ns);
	atomic64_store_relaxed(&emitter->gave_up_tail, atomic64_load_relaxed(&ring->tail) + 1);
full:
	atomic64_add_relaxed(&ring->lost[atomic64_load_relaxed(&emitter->recorder_dead) ? LOST_RECORDER : LOST_FULL], 1);
	return false;
}

/* Claim @nr_slots slots.  Returns true and the position of the first. */
static bool claim(struct emitter *emitter, uint32_t nr_slots, uint64_t *ret_position)
{
	struct ring *ring = emitter->ring;
	uint64_t head = atomic64_load_relaxed(&ring->head);

	do {
		while (__builtin_expect(!has_room(ring, head, nr_slots), 0)) {
			if (!wait_for_room(emitter, nr_slots))
				return false;
			head = atomic64_load_relaxed(&ring->head);
		}
	} while (!atomic64_cas_weak_relaxed(&ring->head, &head, head + nr_slots));
	*ret_position = head;
	return true;
}

/*
 * Fill and publish the slot at @position with @words (word 0, the seq, is ignored).  Returns false when the consumer has
 * taken the slot over because we were too late.
 */
static bool publish(struct ring *ring, uint64_t position, const uint64_t *words)
{
	uint64_t *slot = (uint64_t *)(void *)&ring_slots(ring)[position & (ring->capacity - 1)];
	uint64_t stale = ring_stale_seq(ring, position);

	if (atomic64_load_acquire(slot) != stale)
		return false;
	for (size_t i = 1; i < WORDS_PER_SLOT; i++)
		atomic64_store_relaxed(&slot[i], words[i]);
	/* Release pairs with the acquire in ring_reader_next(). */
	return atomic64_cas_acq_rel(slot, &stale, position + 1);
}

/* A slot as a record, a text or its words. */
union slot {
	struct record record;
	struct record_text text;
	uint64_t words[WORDS_PER_SLOT];
};

bool emit_record(struct emitter *emitter, const struct record *record)
{
	union slot slot = {.record = *record};
	uint64_t position;

	slot.record.time_ns = emitter->env->now_ns();
	if (!claim(emitter, 1, &position))
		return false;
	return publish(emitter->ring, position, slot.words);
}

bool emit_record_text(struct emitter *emitter, const struct record *record, const char *text, uint32_t text_bytes)
{
	union slot slot = {.record = *record};
	uint32_t nr_text_slots;
	uint64_t position;
	bool published;

	if (text_bytes > RECORD_TEXT_MAX)
		text_bytes = RECORD_TEXT_MAX;
	nr_text_slots = record_text_slots(text_bytes);
	slot.record.time_ns = emitter->env->now_ns();
	slot.record.stack = text_bytes;
	if (!claim(emitter, 1 + nr_text_slots, &position))
		return false;
	published = publish(emitter->ring, position, slot.words);
	for (uint32_t i = 0; i < nr_text_slots; i++) {
		uint32_t done = i * RECORD_TEXT_BYTES;
		uint32_t piece = text_bytes - done < RECORD_TEXT_BYTES ? text_bytes - done : RECORD_TEXT_BYTES;
		union slot continuation = {.text = {.record_seq = position + 1, .kind = RECORD_TEXT}};

		memcpy(continuation.text.bytes, text + done, piece);
		published &= publish(emitter->ring, position + 1 + i, continuation.words);
	}
	return published;
}
