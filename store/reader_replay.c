/*
 * What is alive when: the live blocks of a device replayed over a window, and what is answered from that
 * (compositions, levels; layers are in reader_layers.c).
 *
 * Rows come in the order of birth; the deaths that lie between two births wait in a heap ordered by free_seq.  So a run
 * of any length streams through memory that only the blocks alive at one time fill.
 */
#include "store/reader_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct heap {
	struct replay_block *blocks;
	size_t nr_blocks, nr_allocated;
};

static int heap_push(struct heap *heap, const struct replay_block *block)
{
	if (heap->nr_blocks == heap->nr_allocated) {
		size_t nr_allocated = heap->nr_allocated ? 2 * heap->nr_allocated : 1024;
		struct replay_block *grown =
		        nr_allocated <= READER_MAX_KEPT ? realloc(heap->blocks, nr_allocated * sizeof(*grown)) : NULL;

		if (!grown)
			return -ENOMEM;
		heap->blocks = grown;
		heap->nr_allocated = nr_allocated;
	}
	size_t at = heap->nr_blocks++;

	for (; at > 0 && heap->blocks[(at - 1) / 2].free_seq > block->free_seq; at = (at - 1) / 2)
		heap->blocks[at] = heap->blocks[(at - 1) / 2];
	heap->blocks[at] = *block;
	return 0;
}

static struct replay_block heap_pop(struct heap *heap)
{
	struct replay_block first = heap->blocks[0];
	struct replay_block last = heap->blocks[--heap->nr_blocks];
	size_t at = 0;

	for (size_t child; (child = 2 * at + 1) < heap->nr_blocks; at = child) {
		if (child + 1 < heap->nr_blocks && heap->blocks[child + 1].free_seq < heap->blocks[child].free_seq)
			child++;
		if (heap->blocks[child].free_seq >= last.free_seq)
			break;
		heap->blocks[at] = heap->blocks[child];
	}
	heap->blocks[at] = last;
	return first;
}

struct replay {
	const struct replay_sink *sink;
	struct heap heap;
	uint64_t now;
};

static void replay_hold(struct replay *replay, uint64_t until)
{
	if (until > replay->now)
		replay->sink->hold(replay->sink->arg, replay->now, until);
	replay->now = until;
}

static void replay_deaths(struct replay *replay, uint64_t until)
{
	while (replay->heap.nr_blocks && replay->heap.blocks[0].free_seq <= until) {
		struct replay_block dead = heap_pop(&replay->heap);

		replay_hold(replay, dead.free_seq);
		replay->sink->change(replay->sink->arg, &dead, -1);
	}
}

int store_replay(struct store *store, uint16_t device, uint64_t start, uint64_t end, const struct replay_sink *sink)
{
	struct replay replay = {.sink = sink, .now = start};
	struct query query;
	uint64_t last_birth = 0;

	if (query_open(store, &query, "replay"))
		goto out;
	query_bind(&query, ":device", device);
	query_bind(&query, ":start", start);
	query_bind(&query, ":end", end);
	while (query_step(&query) == 1) {
		struct replay_block block = {
		        .size_bytes = query_u64(&query, 0),
		        .free_seq = query_u64(&query, 2),
		        .category = (uint8_t)query_code(&query, 3, NR_CATEGORIES),
		        .module = (uint32_t)query_u64_max(&query, 4, UINT32_MAX),
		};
		uint64_t birth = query_u64(&query, 1);

		if (!query_ok(&query))
			break;
		if (birth < last_birth || (block.free_seq && block.free_seq <= birth)) {
			query.error =
			        store_fail(store, -EBADMSG, "is damaged: its allocations are not in the order of their birth");
			break;
		}
		last_birth = birth;
		if (birth > replay.now) {
			replay_deaths(&replay, birth);
			replay_hold(&replay, birth);
		}
		sink->change(sink->arg, &block, 1);
		if (block.free_seq && block.free_seq < end && heap_push(&replay.heap, &block)) {
			query.error = store_fail(store, -ENOMEM, "has more blocks alive at one time than nnmem can follow");
			break;
		}
	}
	if (query_ok(&query) && end > start) {
		replay_deaths(&replay, end - 1);
		replay_hold(&replay, end);
	}
out:
	free(replay.heap.blocks);
	return query_close(&query);
}

/* ---------------------------------------------------------------- compositions */

struct composing {
	struct store_composition *composition;
	uint64_t live_bytes[NR_CATEGORIES];
	uint64_t total_bytes;
	const struct interval *windows; /* ascending, apart from each other */
	size_t nr_windows, at;
};

static void composing_change(void *arg, const struct replay_block *block, int sign)
{
	struct composing *composing = arg;
	uint64_t bytes = sign > 0 ? block->size_bytes : -block->size_bytes;

	composing->live_bytes[block->category] += bytes;
	composing->total_bytes += bytes;
}

static void composing_hold(void *arg, uint64_t from, uint64_t to)
{
	struct composing *composing = arg;
	struct store_composition *composition = composing->composition;

	while (composing->at < composing->nr_windows && composing->windows[composing->at].end <= from)
		composing->at++;
	if (composing->at == composing->nr_windows || composing->windows[composing->at].start >= to)
		return;
	uint64_t window_start = composing->windows[composing->at].start;

	for (unsigned i = 0; i < NR_CATEGORIES; i++)
		if (composing->live_bytes[i] > composition->max_bytes[i])
			composition->max_bytes[i] = composing->live_bytes[i];
	if (!composition->present || composing->total_bytes > composition->peak_bytes) {
		composition->present = true;
		composition->peak_bytes = composing->total_bytes;
		composition->peak_seq = from > window_start ? from : window_start;
		memcpy(composition->at_peak_bytes, composing->live_bytes, sizeof(composing->live_bytes));
	}
}

static int compose(struct store *store, uint16_t device, const struct interval *windows, size_t nr_windows,
                   struct store_composition *composition)
{
	struct composing composing = {.composition = composition, .windows = windows, .nr_windows = nr_windows};
	struct replay_sink sink = {.arg = &composing, .change = composing_change, .hold = composing_hold};
	int r = store_replay(store, device, windows[0].start, windows[nr_windows - 1].end, &sink);

	for (unsigned i = 0; i < NR_CATEGORIES; i++)
		composition->sum_of_max_bytes += composition->max_bytes[i];
	return r;
}

static int compose_steady_step(struct store *store, uint16_t device, struct store_composition *composition)
{
	struct query query;
	struct interval window = {0};

	if (!query_open(store, &query, "steady_step")) {
		query_bind(&query, ":device", device);
		if (query_step(&query) == 1) {
			composition->step = query_u64(&query, 0);
			composition->step_kind = query_code(&query, 1, NR_STEP_KINDS);
			window = step_window(query_u64(&query, 2), query_u64(&query, 3));
			composition->peak_phase = query_code(&query, 4, NR_PHASES);
		}
	}
	int r = query_close(&query);

	if (r || window.end <= window.start)
		return r;
	return compose(store, device, &window, 1, composition);
}

static int read_inference_spans(struct store *store, uint64_t step, struct interval **ret_windows, size_t *ret_nr_windows)
{
	struct query query;
	struct interval *windows = NULL;
	size_t nr_windows = 0, nr_allocated = 0;

	if (!query_open(store, &query, "inference_spans"))
		query_bind(&query, ":step", step);
	while (query_step(&query) == 1) {
		struct interval window = {.start = query_u64(&query, 0), .end = query_u64(&query, 1)};

		if (!query_ok(&query))
			break;
		window.end = (window.end ? window.end : store->last_seq) + 1;
		if (window.end <= window.start)
			continue;
		if (nr_windows && window.start <= windows[nr_windows - 1].end) {
			if (window.end > windows[nr_windows - 1].end)
				windows[nr_windows - 1].end = window.end;
			continue;
		}
		if (nr_windows == nr_allocated) {
			nr_allocated = nr_allocated ? 2 * nr_allocated : 256;
			struct interval *grown =
			        nr_allocated <= READER_MAX_KEPT ? realloc(windows, nr_allocated * sizeof(*grown)) : NULL;

			if (!grown) {
				query.error = store_fail(store, -ENOMEM, "has more spans in one step than nnmem can follow");
				break;
			}
			windows = grown;
		}
		windows[nr_windows++] = window;
	}
	int r = query_close(&query);

	if (r) {
		free(windows);
		return r;
	}
	*ret_windows = windows;
	*ret_nr_windows = nr_windows;
	return 0;
}

static int compose_inference(struct store *store, uint16_t device, struct store_composition *composition)
{
	struct query query;
	struct interval *windows = NULL;
	size_t nr_windows = 0;
	bool found = false;

	if (!query_open(store, &query, "inference_step")) {
		query_bind(&query, ":device", device);
		if (query_step(&query) == 1) {
			composition->step = query_u64(&query, 0);
			composition->step_kind = query_code(&query, 1, NR_STEP_KINDS);
			composition->peak_phase = PHASE_INFERENCE;
			found = true;
		}
	}
	int r = query_close(&query);

	if (r || !found)
		return r;
	r = read_inference_spans(store, composition->step, &windows, &nr_windows);
	if (!r && nr_windows)
		r = compose(store, device, windows, nr_windows, composition);
	free(windows);
	return r;
}

int store_read_composition(struct store *store, uint16_t device, enum store_window window, struct store_composition *ret)
{
	struct store_composition composition = {0};
	int r;

	store_begin_call(store);
	if (window == WINDOW_INFERENCE)
		r = compose_inference(store, device, &composition);
	else
		r = compose_steady_step(store, device, &composition);
	if (!r)
		*ret = composition;
	return r;
}

/* ---------------------------------------------------------------- levels */

struct levelling {
	struct store_bucket *buckets;
	size_t nr_buckets, at;
	uint64_t live_bytes;
};

static void levelling_change(void *arg, const struct replay_block *block, int sign)
{
	struct levelling *levelling = arg;

	levelling->live_bytes += sign > 0 ? block->size_bytes : -block->size_bytes;
}

/* A bucket narrower than one instant shows the instant in which it lies. */
static uint64_t bucket_end(const struct store_bucket *bucket)
{
	return bucket->end_seq > bucket->start_seq ? bucket->end_seq : bucket->start_seq + 1;
}

static void levelling_hold(void *arg, uint64_t from, uint64_t to)
{
	struct levelling *levelling = arg;

	while (levelling->at < levelling->nr_buckets && bucket_end(&levelling->buckets[levelling->at]) <= from)
		levelling->at++;
	for (size_t i = levelling->at; i < levelling->nr_buckets && levelling->buckets[i].start_seq < to; i++) {
		struct store_bucket *bucket = &levelling->buckets[i];

		if (levelling->live_bytes < bucket->min_bytes)
			bucket->min_bytes = levelling->live_bytes;
		if (levelling->live_bytes > bucket->max_bytes)
			bucket->max_bytes = levelling->live_bytes;
	}
}

int store_read_levels(struct store *store, uint16_t device, uint64_t start_seq, uint64_t end_seq,
                      struct store_bucket *ret_buckets, size_t nr_buckets)
{
	struct levelling levelling = {.buckets = ret_buckets, .nr_buckets = nr_buckets};
	struct replay_sink sink = {.arg = &levelling, .change = levelling_change, .hold = levelling_hold};

	store_begin_call(store);
	if (end_seq <= start_seq || !nr_buckets || end_seq > INT64_MAX)
		return store_fail(store, -EINVAL, "has no events to show in the window that was asked for");
	for (size_t i = 0; i < nr_buckets; i++) {
		ret_buckets[i] = (struct store_bucket){
		        .start_seq = start_seq + (uint64_t)((unsigned __int128)(end_seq - start_seq) * i / nr_buckets),
		        .end_seq = start_seq + (uint64_t)((unsigned __int128)(end_seq - start_seq) * (i + 1) / nr_buckets),
		        .min_bytes = UINT64_MAX,
		};
	}
	return store_replay(store, device, start_seq, end_seq, &sink);
}
