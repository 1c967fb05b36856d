/*
 * What is alive when: the live blocks of a device replayed over a window, and what is answered from that
 * (compositions, levels, layers).
 *
 * Rows come in the order of birth; the deaths that lie between two births wait in a heap ordered by free_seq.  So a run
 * of any length streams through memory that only the blocks alive at one time fill.
 */
#include "store/reader_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Blocks that wait for their death in a window: no program has that many tensors, a hostile file may. */
#define MAX_WAITING (UINT32_C(1) << 22)

struct heap {
	struct replay_block *blocks;
	size_t nr_blocks, nr_allocated;
};

static int heap_push(struct heap *heap, const struct replay_block *block)
{
	if (heap->nr_blocks == heap->nr_allocated) {
		size_t nr_allocated = heap->nr_allocated ? 2 * heap->nr_allocated : 1024;
		struct replay_block *grown =
		        nr_allocated <= MAX_WAITING ? realloc(heap->blocks, nr_allocated * sizeof(*grown)) : NULL;

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

struct interval {
	uint64_t start, end;
};

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

/* The instants of a step, the one before its first record among them: it may begin at its peak. */
static struct interval step_window(uint64_t start_seq, uint64_t end_seq)
{
	struct interval window = {.start = start_seq ? start_seq - 1 : 0, .end = end_seq + 1};

	return window;
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
			        nr_allocated <= MAX_WAITING ? realloc(windows, nr_allocated * sizeof(*grown)) : NULL;

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

/* ---------------------------------------------------------------- layers */

enum layer_part { PART_NONE = 0, PART_GRADIENT, PART_STATE, PART_SAVED, PART_TEMPORARY, NR_PARTS };

struct layer {
	uint32_t module, parent;
	uint32_t first_child, next_sibling; /* indices, 0 none (0 is the row that no layer owns) */
	char *root, *fqn, *class_name;
	uint64_t params_bytes, forward_peak_bytes, backward_peak_bytes, live_bytes, live_at_peak_bytes;
	uint64_t part_bytes[NR_PARTS], part_max_bytes[NR_PARTS];
	bool shown;
};

struct layers {
	struct layer *layers; /* by module id; [0] has module 0 */
	size_t nr_layers, nr_allocated;
	uint64_t peak_seq;
};

static size_t find_layer(const struct layers *layers, uint32_t module)
{
	size_t low = 0, high = layers->nr_layers;

	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (layers->layers[middle].module <= module)
			low = middle;
		else
			high = middle;
	}
	return layers->layers[low].module == module ? low : 0;
}

static enum layer_part part_of(uint8_t category)
{
	switch (category) {
	case CATEGORY_GRADIENT:
		return PART_GRADIENT;
	case CATEGORY_OPTIMIZER_STATE:
		return PART_STATE;
	case CATEGORY_ACTIVATION:
		return PART_SAVED;
	case CATEGORY_FORWARD_TEMPORARY:
	case CATEGORY_BACKWARD_TEMPORARY:
	case CATEGORY_OPTIMIZER_TEMPORARY:
	case CATEGORY_RECOMPUTE:
		return PART_TEMPORARY;
	default:
		return PART_NONE;
	}
}

static void layers_change(void *arg, const struct replay_block *block, int sign)
{
	struct layers *layers = arg;
	struct layer *layer = &layers->layers[find_layer(layers, block->module)];
	uint64_t *part = &layer->part_bytes[part_of(block->category)];

	/* Deaths of an instant come before its births, so the sum right after a birth never shows a level that was not. */
	*part += sign > 0 ? block->size_bytes : -block->size_bytes;
	layer->live_bytes += sign > 0 ? block->size_bytes : -block->size_bytes;
	if (sign > 0 && *part > layer->part_max_bytes[part_of(block->category)])
		layer->part_max_bytes[part_of(block->category)] = *part;
}

static void layers_hold(void *arg, uint64_t from, uint64_t to)
{
	struct layers *layers = arg;

	if (from > layers->peak_seq || to <= layers->peak_seq)
		return;
	for (size_t i = 0; i < layers->nr_layers; i++)
		layers->layers[i].live_at_peak_bytes = layers->layers[i].live_bytes;
}

static int add_layer(struct layers *layers, const struct layer *layer)
{
	if (layers->nr_layers == layers->nr_allocated) {
		size_t nr_allocated = layers->nr_allocated ? 2 * layers->nr_allocated : 64;
		struct layer *grown = nr_allocated <= MAX_WAITING ? realloc(layers->layers, nr_allocated * sizeof(*grown)) : NULL;

		if (!grown)
			return -ENOMEM;
		layers->layers = grown;
		layers->nr_allocated = nr_allocated;
	}
	layers->layers[layers->nr_layers++] = *layer;
	return 0;
}

static char *copy_text(const char *text)
{
	return text ? strdup(text) : NULL;
}

static int read_modules(struct store *store, struct layers *layers)
{
	struct query query;
	struct layer nobody = {0};
	int r = add_layer(layers, &nobody);

	if (query_open(store, &query, "module"))
		goto out;
	if (r)
		query.error = store_fail(store, r, "takes more memory to read than there is");
	while (query_step(&query) == 1) {
		struct layer layer = {
		        .module = (uint32_t)query_u64_max(&query, 0, UINT32_MAX),
		        .parent = (uint32_t)query_u64_max(&query, 1, UINT32_MAX),
		        .root = copy_text(query_text_required(&query, 2)),
		        .fqn = copy_text(query_text_required(&query, 3)),
		        .class_name = copy_text(query_text_required(&query, 4)),
		};

		if (query_ok(&query) && layer.module == 0)
			query.error = store_fail(store, -EBADMSG, "is damaged: id of a module is out of range");
		if (query_ok(&query) && (!layer.root || !layer.fqn || !layer.class_name || add_layer(layers, &layer)))
			query.error = store_fail(store, -ENOMEM, "has more modules than nnmem can follow");
		if (!query_ok(&query)) {
			free(layer.root);
			free(layer.fqn);
			free(layer.class_name);
		}
	}
out:
	return query_close(&query);
}

static int read_layer_marks(struct store *store, uint16_t device, struct layers *layers)
{
	struct query query;

	if (!query_open(store, &query, "layer_peak"))
		query_bind(&query, ":device", device);
	while (query_step(&query) == 1) {
		struct layer *layer = &layers->layers[find_layer(layers, (uint32_t)query_u64_max(&query, 0, UINT32_MAX))];

		layer->forward_peak_bytes = query_u64(&query, 1);
		layer->backward_peak_bytes = query_u64(&query, 2);
	}
	int r = query_close(&query);

	if (r)
		return r;
	if (!query_open(store, &query, "layer_params"))
		query_bind(&query, ":device", device);
	while (query_step(&query) == 1) {
		struct layer *layer = &layers->layers[find_layer(layers, (uint32_t)query_u64_max(&query, 0, UINT32_MAX))];

		layer->params_bytes += query_u64(&query, 1);
	}
	return query_close(&query);
}

static int replay_layers(struct store *store, uint16_t device, struct layers *layers)
{
	struct query query;
	struct interval window = {0};

	if (!query_open(store, &query, "peak_window")) {
		query_bind(&query, ":device", device);
		if (query_step(&query) == 1) {
			layers->peak_seq = query_u64(&query, 0);
			window = step_window(query_u64(&query, 1), query_u64(&query, 2));
		}
	}
	int r = query_close(&query);

	if (r || window.end <= window.start)
		return r;
	struct replay_sink sink = {.arg = layers, .change = layers_change, .hold = layers_hold};

	return store_replay(store, device, window.start, window.end, &sink);
}

static int show_layer(const struct layers *layers, size_t i, uint16_t device, int (*each)(const struct store_layer *, void *),
                      void *arg)
{
	const struct layer *layer = &layers->layers[i];
	const struct store_layer shown = {
	        .root = layer->root,
	        .layer = layer->fqn,
	        .class_name = layer->class_name,
	        .module = layer->module,
	        .parent = layer->parent,
	        .device = device,
	        .params_bytes = layer->params_bytes,
	        .gradient_bytes = layer->part_max_bytes[PART_GRADIENT],
	        .optimizer_state_bytes = layer->part_max_bytes[PART_STATE],
	        .saved_bytes = layer->part_max_bytes[PART_SAVED],
	        .temporary_bytes = layer->part_max_bytes[PART_TEMPORARY],
	        .forward_peak_bytes = layer->forward_peak_bytes,
	        .backward_peak_bytes = layer->backward_peak_bytes,
	        .live_at_peak_bytes = layer->live_at_peak_bytes,
	};

	return each(&shown, arg);
}

/* Link every module into the list of its parent's children; roots, and those with an unknown parent, into that of [0]. */
static void link_layers(struct layers *layers)
{
	for (size_t i = layers->nr_layers; i-- > 1;) {
		struct layer *layer = &layers->layers[i];
		size_t parent = layer->parent == layer->module ? 0 : find_layer(layers, layer->parent);

		if (!parent)
			layer->parent = 0;
		layer->next_sibling = layers->layers[parent].first_child;
		layers->layers[parent].first_child = (uint32_t)i;
	}
}

/* Depth first without recursion: a chain of parents may be as long as the file. */
static int show_layers(struct layers *layers, uint16_t device, int (*each)(const struct store_layer *, void *), void *arg)
{
	int r = 0;

	link_layers(layers);
	for (size_t i = layers->layers[0].first_child; i && !r;) {
		struct layer *layer = &layers->layers[i];

		layer->shown = true;
		r = show_layer(layers, i, device, each, arg);
		if (layer->first_child) {
			i = layer->first_child;
			continue;
		}
		while (i && !layers->layers[i].next_sibling)
			i = find_layer(layers, layers->layers[i].parent);
		i = layers->layers[i].next_sibling;
	}
	/* Modules that are their own ancestors hang from no root. */
	for (size_t i = 1; i < layers->nr_layers && !r; i++) {
		if (layers->layers[i].shown)
			continue;
		layers->layers[i].parent = 0;
		r = show_layer(layers, i, device, each, arg);
	}
	return r ? r : show_layer(layers, 0, device, each, arg);
}

int store_each_layer(struct store *store, uint16_t device, int (*each)(const struct store_layer *, void *), void *arg)
{
	struct layers layers = {0};

	store_begin_call(store);
	int r = read_modules(store, &layers);

	if (!r)
		r = read_layer_marks(store, device, &layers);
	if (!r)
		r = replay_layers(store, device, &layers);
	if (!r)
		r = show_layers(&layers, device, each, arg);
	for (size_t i = 0; i < layers.nr_layers; i++) {
		free(layers.layers[i].root);
		free(layers.layers[i].fqn);
		free(layers.layers[i].class_name);
	}
	free(layers.layers);
	return r;
}
