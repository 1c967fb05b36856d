/*
 * The tree of modules with what each owns in a step: parameters by name, the rest by a replay of the step.
 *
 * Every layer has its own sums and those of its subtree, each at its own highest.  Index 0 stands for what no layer owns,
 * and its subtree for everything, so that the own sums of all layers make up the whole at any instant.
 */
#include "store/reader_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Modules above a module to which its bytes are carried up; beyond, they count for the whole only. */
#define MAX_LEVELS 256u

enum layer_part { PART_NONE = 0, PART_GRADIENT, PART_STATE, PART_SAVED, PART_TEMPORARY, NR_PARTS };

struct sums {
	uint64_t params_bytes;
	uint64_t part_bytes[NR_PARTS], part_max_bytes[NR_PARTS];
	uint64_t live_bytes, live_at_peak_bytes;
};

struct layer {
	uint32_t module, parent_module;
	size_t parent, first_child, next_sibling; /* indices, 0 none */
	bool reached;                             /* from a root */
	char *root, *fqn, *class_name;
	struct sums own, subtree;
	uint64_t forward_peak_bytes, backward_peak_bytes;
};

struct layers {
	struct layer *layers; /* by module id; [0] has module 0 */
	size_t nr_layers, nr_allocated;
	size_t *order; /* as a tree is read; nr_layers - 1 */
	uint64_t peak_seq;
	bool has_marks; /* the step is that of the device's peak */
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

static void change_sums(struct sums *sums, enum layer_part part, uint64_t bytes, bool birth)
{
	/* Deaths of an instant come before its births, so the sum right after a birth never shows a level that was not. */
	sums->part_bytes[part] += bytes;
	sums->live_bytes += bytes;
	if (birth && sums->part_bytes[part] > sums->part_max_bytes[part])
		sums->part_max_bytes[part] = sums->part_bytes[part];
}

/* From layer @i up to the whole. */
static size_t layer_above(const struct layers *layers, size_t i, unsigned levels)
{
	return levels < MAX_LEVELS ? layers->layers[i].parent : 0;
}

static void layers_change(void *arg, const struct replay_block *block, int sign)
{
	struct layers *layers = arg;
	size_t i = find_layer(layers, block->module);
	enum layer_part part = part_of(block->category);
	uint64_t bytes = sign > 0 ? block->size_bytes : -block->size_bytes;

	change_sums(&layers->layers[i].own, part, bytes, sign > 0);
	for (unsigned levels = 0; i; i = layer_above(layers, i, levels++))
		change_sums(&layers->layers[i].subtree, part, bytes, sign > 0);
	change_sums(&layers->layers[0].subtree, part, bytes, sign > 0);
}

static void layers_hold(void *arg, uint64_t from, uint64_t to)
{
	struct layers *layers = arg;

	if (from > layers->peak_seq || to <= layers->peak_seq)
		return;
	for (size_t i = 0; i < layers->nr_layers; i++) {
		layers->layers[i].own.live_at_peak_bytes = layers->layers[i].own.live_bytes;
		layers->layers[i].subtree.live_at_peak_bytes = layers->layers[i].subtree.live_bytes;
	}
}

static int add_layer(struct layers *layers, const struct layer *layer)
{
	if (layers->nr_layers == layers->nr_allocated) {
		size_t nr_allocated = layers->nr_allocated ? 2 * layers->nr_allocated : 64;
		struct layer *grown =
		        nr_allocated <= READER_MAX_KEPT ? realloc(layers->layers, nr_allocated * sizeof(*grown)) : NULL;

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

	if (add_layer(layers, &(struct layer){0}))
		return store_fail(store, -ENOMEM, "takes more memory to read than there is");
	query_open(store, &query, "module");
	while (query_step(&query) == 1) {
		struct layer layer = {
		        .module = (uint32_t)query_u64_max(&query, 0, UINT32_MAX),
		        .parent_module = (uint32_t)query_u64_max(&query, 1, UINT32_MAX),
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
	return query_close(&query);
}

/* Link every module into the list of its parent's children; roots, and those with an unknown parent, into that of [0]. */
static void link_layers(struct layers *layers)
{
	for (size_t i = layers->nr_layers; i-- > 1;) {
		struct layer *layer = &layers->layers[i];

		layer->parent = layer->parent_module == layer->module ? 0 : find_layer(layers, layer->parent_module);
		layer->next_sibling = layers->layers[layer->parent].first_child;
		layers->layers[layer->parent].first_child = i;
	}
}

/* The order of the tree, depth first without recursion: a chain of parents may be as long as the file. */
static int order_layers(struct layers *layers)
{
	size_t nr = 0;

	/* Never of no bytes: the first layer is what no module owns. */
	layers->order = calloc(layers->nr_layers ? layers->nr_layers : 1, sizeof(*layers->order));
	if (!layers->order)
		return -ENOMEM;
	link_layers(layers);
	for (size_t i = layers->layers[0].first_child; i;) {
		layers->layers[i].reached = true;
		layers->order[nr++] = i;
		if (layers->layers[i].first_child) {
			i = layers->layers[i].first_child;
			continue;
		}
		while (i && !layers->layers[i].next_sibling)
			i = layers->layers[i].parent;
		i = layers->layers[i].next_sibling;
	}
	/* Modules that are their own ancestors hang from no root: they become roots. */
	for (size_t i = 1; i < layers->nr_layers; i++)
		if (!layers->layers[i].reached) {
			layers->layers[i].parent = 0;
			layers->order[nr++] = i;
		}
	return 0;
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
	return query_close(&query);
}

static int read_layer_params(struct store *store, uint16_t device, struct layers *layers)
{
	struct query query;

	if (!query_open(store, &query, "layer_params"))
		query_bind(&query, ":device", device);
	while (query_step(&query) == 1) {
		size_t i = find_layer(layers, (uint32_t)query_u64_max(&query, 0, UINT32_MAX));
		uint64_t bytes = query_u64(&query, 1);

		layers->layers[i].own.params_bytes += bytes;
		for (unsigned levels = 0; i; i = layer_above(layers, i, levels++))
			layers->layers[i].subtree.params_bytes += bytes;
		layers->layers[0].subtree.params_bytes += bytes;
	}
	return query_close(&query);
}

struct window {
	uint64_t peak_seq, start_seq, end_seq, step;
	bool of_device_peak; /* the step is that of the device's peak */
};

/* @step: UINT64_MAX for that of the device's peak.  A step that is not there is an empty window. */
static int read_window(struct store *store, uint16_t device, uint64_t step, struct window *ret)
{
	struct query query;

	*ret = (struct window){.step = UINT64_MAX};
	if (!query_open(store, &query, step == UINT64_MAX ? "peak_window" : "step_window")) {
		query_bind(&query, ":device", device);
		if (step != UINT64_MAX)
			query_bind(&query, ":step", step);
		if (query_step(&query) == 1)
			*ret = (struct window){.peak_seq = query_u64(&query, 0),
			                       .start_seq = query_u64(&query, 1),
			                       .end_seq = query_u64(&query, 2),
			                       .of_device_peak = query_u64_max(&query, 3, 1) != 0,
			                       .step = query_u64(&query, 4)};
	}
	return query_close(&query);
}

static int replay_layers(struct store *store, uint16_t device, uint64_t step, struct layers *layers)
{
	struct window window;
	int r = read_window(store, device, step, &window);
	struct interval instants = step_window(window.start_seq, window.end_seq);

	if (r || window.step == UINT64_MAX || instants.end <= instants.start)
		return r;
	struct replay_sink sink = {.arg = layers, .change = layers_change, .hold = layers_hold};

	layers->peak_seq = window.peak_seq;
	layers->has_marks = window.of_device_peak;
	return store_replay(store, device, instants.start, instants.end, &sink);
}

static struct store_layer_sums shown_sums(const struct sums *sums)
{
	return (struct store_layer_sums){
	        .params_bytes = sums->params_bytes,
	        .gradient_bytes = sums->part_max_bytes[PART_GRADIENT],
	        .optimizer_state_bytes = sums->part_max_bytes[PART_STATE],
	        .saved_bytes = sums->part_max_bytes[PART_SAVED],
	        .temporary_bytes = sums->part_max_bytes[PART_TEMPORARY],
	        .live_at_peak_bytes = sums->live_at_peak_bytes,
	};
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
	        .parent = layers->layers[layer->parent].module,
	        .device = device,
	        .own = shown_sums(&layer->own),
	        .subtree = shown_sums(&layer->subtree),
	        .has_peaks = layers->has_marks && i,
	        .forward_peak_bytes = layer->forward_peak_bytes,
	        .backward_peak_bytes = layer->backward_peak_bytes,
	};

	return each(&shown, arg);
}

static int read_layers(struct store *store, uint16_t device, uint64_t step, struct layers *layers)
{
	int r = read_modules(store, layers);

	if (!r && order_layers(layers))
		r = store_fail(store, -ENOMEM, "takes more memory to read than there is");
	if (!r)
		r = replay_layers(store, device, step, layers);
	if (!r && layers->has_marks)
		r = read_layer_marks(store, device, layers);
	return r ? r : read_layer_params(store, device, layers);
}

int store_each_layer(struct store *store, uint16_t device, uint64_t step, int (*each)(const struct store_layer *, void *),
                     void *arg)
{
	struct layers layers = {0};

	store_begin_call(store);
	int r = read_layers(store, device, step, &layers);

	for (size_t i = 0; i + 1 < layers.nr_layers && !r; i++)
		r = show_layer(&layers, layers.order[i], device, each, arg);
	if (!r)
		r = show_layer(&layers, 0, device, each, arg);
	for (size_t i = 0; i < layers.nr_layers; i++) {
		free(layers.layers[i].root);
		free(layers.layers[i].fqn);
		free(layers.layers[i].class_name);
	}
	free(layers.layers);
	free(layers.order);
	return r;
}

int store_each_layer_call(struct store *store, uint16_t device, uint64_t step, const struct store_filter *filter,
                          int (*each)(const struct store_layer_call *, void *), void *arg)
{
	static const struct store_filter none = STORE_FILTER_NONE;
	uint64_t last_module = 0, nr_calls = 0;
	struct window window;
	struct query query;
	int stopped = 0;

	store_begin_call(store);
	int r = read_window(store, device, step, &window);

	if (r || window.step == UINT64_MAX)
		return r;
	filter = filter ? filter : &none;
	query_open(store, &query, "layer_calls");
	query_bind(&query, ":device", device);
	query_bind(&query, ":peak", window.peak_seq);
	query_bind(&query, ":of_step", window.step);
	query_bind(&query, ":layers", filter->layer ? 1 : 0);
	query_bind_layer(&query, filter);
	while (!stopped && query_step(&query) == 1) {
		struct store_layer_call call = {
		        .module = (uint32_t)query_u64_max(&query, 0, UINT32_MAX),
		        .root = query_text_required(&query, 1),
		        .layer = query_text_required(&query, 2),
		        .phase = query_code(&query, 4, NR_PHASES),
		        .blocks = query_u64(&query, 5),
		        .alloc_bytes = query_u64(&query, 6),
		        .saved_bytes = query_u64(&query, 7),
		        .live_at_peak_bytes = query_u64(&query, 8),
		};

		nr_calls = call.module == last_module ? nr_calls + 1 : 1;
		last_module = call.module;
		call.call = nr_calls;
		if (query_ok(&query))
			stopped = each(&call, arg);
	}
	r = query_close(&query);
	return stopped ? stopped : r;
}
