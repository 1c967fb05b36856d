/*
 * Calls that CUPTI saw: memory that was taken past the names that the hook stands before.
 *
 * CUPTI sees every call, those too that were told as they were made, and says so later, in no certain order.  So each of its
 * records waits until what was told of the same call must have come, and all that waited are settled at once, in the order
 * of the calls.  A record is of a call that was told when address, size and time agree: its time lies between the call's
 * beginning and the moment in which it was told.  What is left over is memory that only CUPTI saw.  It has a life beside
 * those that were told, since both may be at one address: the one that was given back and told, and a later one that was not.
 */
#include "store/tagger_internal.h"

#include <errno.h>
#include <stdlib.h>

#define SETTLE_NS   UINT64_C(1000000000) /* how much later a call may be told than CUPTI's record of it */
#define SLACK_NS    UINT64_C(1000000)    /* by which CUPTI's clock may be wrong */
#define MAX_PENDING (UINT32_C(1) << 20)  /* records that wait, calls that were told */

void seen_told(struct tagger *tagger, const struct record *record)
{
	struct seen_call *call;

	if (!record->b || tagger->nr_seen_calls == MAX_PENDING ||
	    !tagger_reserve(tagger, &tagger->seen_calls, tagger->nr_seen_calls, &tagger->seen_calls_size, sizeof(*call)))
		return;
	call = &tagger->seen_calls[tagger->nr_seen_calls++];
	*call = (struct seen_call){
	        .address = record->address,
	        .size_bytes = record->size,
	        .begin_ns = record->b,
	        .end_ns = record->time_ns,
	        .handle = record->flags & RECORD_F_HANDLE,
	};
}

void seen_feed(struct tagger *tagger, const struct record *record)
{
	uint8_t level = (uint8_t)record_level(record->flags);
	bool given = record->kind == RECORD_SEEN_ALLOC;

	if (level == LEVEL_BLOCK || level == LEVEL_MAPPING || level >= NR_LEVELS || record->size > MAX_SIZE_BYTES ||
	    (given && !record->size)) {
		tagger->nr_ignored++;
		return;
	}
	if (tagger->nr_seen == MAX_PENDING)
		seen_settle(tagger, UINT64_MAX);
	if (!tagger_reserve(tagger, &tagger->seen, tagger->nr_seen, &tagger->seen_size, sizeof(*tagger->seen)))
		return;
	tagger->seen[tagger->nr_seen++] = (struct seen){
	        .seq = record->seq,
	        .come_ns = record->time_ns,
	        .ns = record->b,
	        .address = record->address,
	        .size_bytes = record->size,
	        .caller = record->a <= INT64_MAX ? record->a : 0,
	        .thread = record->thread,
	        .device = record->device,
	        .level = level,
	        .given = given,
	};
}

/* ---- which call was told */

static int compare_u64(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

static int compare_calls(const void *a, const void *b)
{
	const struct seen_call *x = a, *y = b;
	int order = compare_u64(x->address, y->address);

	return order ? order : compare_u64(x->begin_ns, y->begin_ns);
}

static int compare_seen(const void *a, const void *b)
{
	const struct seen *x = a, *y = b;
	int order = compare_u64(x->ns, y->ns);

	return order ? order : compare_u64(x->seq, y->seq);
}

/* How far @ns is from the call's time. */
static uint64_t distance(const struct seen_call *call, uint64_t ns)
{
	if (ns < call->begin_ns)
		return call->begin_ns - ns;
	return ns > call->end_ns ? ns - call->end_ns : 0;
}

/* The first call at @address or above; calls are sorted. */
static uint32_t first_call(const struct tagger *tagger, uint64_t address)
{
	uint32_t low = 0, high = tagger->nr_seen_calls;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (tagger->seen_calls[middle].address < address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Physical memory is told by its handle, and CUPTI says an address where there is one. */
static struct seen_call *call_by_handle(struct tagger *tagger, const struct seen *seen)
{
	for (uint32_t i = 0; i < tagger->nr_seen_calls; i++) {
		struct seen_call *call = &tagger->seen_calls[i];

		if (call->handle && !call->seen && call->size_bytes == seen->size_bytes && !distance(call, seen->ns))
			return call;
	}
	return NULL;
}

static struct seen_call *call_of(struct tagger *tagger, const struct seen *seen)
{
	struct seen_call *best = NULL;

	for (uint32_t i = first_call(tagger, seen->address); i < tagger->nr_seen_calls; i++) {
		struct seen_call *call = &tagger->seen_calls[i];

		if (call->address != seen->address)
			break;
		if (call->seen || call->size_bytes != seen->size_bytes || distance(call, seen->ns) > SLACK_NS)
			continue;
		if (!best || distance(call, seen->ns) < distance(best, seen->ns))
			best = call;
	}
	return best ? best : call_by_handle(tagger, seen);
}

/* ---- what only CUPTI saw */

static void settle_given(struct tagger *tagger, const struct seen *seen)
{
	struct seen_call *call = call_of(tagger, seen);
	uint32_t index;

	if (call) {
		call->seen = true;
		return;
	}
	if (tagger_device(tagger, seen->device) == NONE)
		return;
	index = live_find(&tagger->live, seen->address, seen->device, seen->level | LIVE_SEEN);
	if (index != NONE)
		life_end(tagger, index, seen->seq, seen->ns, seen->thread, PHASE_OTHER, true);
	if (live_add(&tagger->live, seen->address, seen->device, seen->level | LIVE_SEEN, &index) < 0) {
		tagger_fail(tagger, -ENOMEM);
		return;
	}
	tagger->live.pool[index].forwards = tagger->nr_forwards;
	tagger->live.pool[index].a.id = ++tagger->last_allocation;
	tagger->live.pool[index].a.size_bytes = seen->size_bytes;
	tagger->live.pool[index].a.alloc_seq = seen->seq;
	tagger->live.pool[index].a.alloc_ns = seen->ns;
	tagger->live.pool[index].a.stretch = tagger->last_stretch;
	tagger->live.pool[index].a.thread = seen->thread;
	tagger->live.pool[index].a.phase = PHASE_OTHER; /* what its call was a part of is not known any more */
	tagger->live.pool[index].a.caller = seen->caller;
}

static void settle_taken(struct tagger *tagger, const struct seen *seen)
{
	uint32_t index = live_find(&tagger->live, seen->address, seen->device, seen->level | LIVE_SEEN);

	/* One that was told, but not when it was given back. */
	if (index == NONE) {
		index = live_find(&tagger->live, seen->address, seen->device, seen->level);
		if (index != NONE && (tagger->live.pool[index].a.level == LEVEL_MAPPING ||
		                      tagger->live.pool[index].a.alloc_ns > seen->ns + SLACK_NS))
			index = NONE;
	}
	if (index == NONE)
		return;
	/* Records out of order: a life ends after it began. */
	life_end(tagger, index,
	         seen->seq > tagger->live.pool[index].a.alloc_seq ? seen->seq : tagger->live.pool[index].a.alloc_seq + 1,
	         seen->ns, seen->thread, PHASE_OTHER, false);
}

/* Keep the calls whose record may still come. */
static void forget_calls(struct tagger *tagger)
{
	uint32_t nr = 0;

	for (uint32_t i = 0; i < tagger->nr_seen_calls; i++)
		if (!tagger->seen_calls[i].seen)
			tagger->seen_calls[nr++] = tagger->seen_calls[i];
	/* So many have none: CUPTI lost them. */
	tagger->nr_seen_calls = nr < MAX_PENDING / 2 ? nr : 0;
}

void seen_settle(struct tagger *tagger, uint64_t now_ns)
{
	uint32_t nr = 0;

	while (nr < tagger->nr_seen && (now_ns == UINT64_MAX || tagger->seen[nr].come_ns + SETTLE_NS <= now_ns))
		nr++;
	if (!nr)
		return;
	if (tagger->nr_seen_calls) /* there is no array else */
		qsort(tagger->seen_calls, tagger->nr_seen_calls, sizeof(*tagger->seen_calls), compare_calls);
	qsort(tagger->seen, nr, sizeof(*tagger->seen), compare_seen);
	for (uint32_t i = 0; i < nr; i++) {
		if (tagger->seen[i].given)
			settle_given(tagger, &tagger->seen[i]);
		else
			settle_taken(tagger, &tagger->seen[i]);
	}
	for (uint32_t i = nr; i < tagger->nr_seen; i++)
		tagger->seen[i - nr] = tagger->seen[i];
	tagger->nr_seen -= nr;
	forget_calls(tagger);
}

void seen_release(struct tagger *tagger)
{
	free(tagger->seen);
	free(tagger->seen_calls);
}
