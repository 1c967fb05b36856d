/*
 * layers: the tree of modules with what each has in a step, that of the device's peak or another one.  A layer's numbers
 * include the layers below it, so that a tree is read from the top; what a container owns itself is a line of its own.  The
 * line for what no layer owns makes every column close to its total.
 */
#include "report/live.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define INDENT_MAX 24u
#define WIDE       100u /* columns of a line with room for everything */
#define PEAKS_FROM 90u  /* ... for the peaks of forward and backward */
#define ITSELF     "(itself)"

static const struct row_column layer_columns[] = {
        {"root", NULL, COLUMN_TEXT, 0, 0},
        {"layer", NULL, COLUMN_TEXT, 0, 0},
        {"name", "layer", COLUMN_TEXT, COLUMN_FOR_PEOPLE | COLUMN_FLEXIBLE, 0},
        {"class", "class", COLUMN_TEXT, COLUMN_FLEXIBLE, WIDE},
        {"device", NULL, COLUMN_TEXT, 0, 0},
        {"step", NULL, COLUMN_NUMBER, 0, 0},
        {"calls", "calls", COLUMN_COUNT, COLUMN_IF_ANY, 0},
        {"params_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"gradient_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"optimizer_state_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"saved_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"temporary_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"live_at_peak_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"subtree_params_bytes", "params", COLUMN_BYTES, 0, 0},
        {"subtree_gradient_bytes", "grads", COLUMN_BYTES, 0, 70},
        {"subtree_optimizer_state_bytes", "state", COLUMN_BYTES, 0, 0},
        {"subtree_saved_bytes", "saved", COLUMN_BYTES, 0, 0},
        {"subtree_temporary_bytes", "temp", COLUMN_BYTES, 0, 0},
        {"forward_peak_bytes", "fwd peak", COLUMN_BYTES, COLUMN_IF_ANY, PEAKS_FROM},
        {"backward_peak_bytes", "bwd peak", COLUMN_BYTES, COLUMN_IF_ANY, PEAKS_FROM},
        {"subtree_live_at_peak_bytes", "at peak", COLUMN_BYTES, 0, 0},
};
static const struct row_kind layer_kind = ROW_KIND("layer", layer_columns);

static const struct row_column call_columns[] = {
        {"root", NULL, COLUMN_TEXT, 0, 0},
        {"layer", NULL, COLUMN_TEXT, 0, 0},
        {"name", "layer", COLUMN_TEXT, COLUMN_FOR_PEOPLE | COLUMN_CUT_START, 0},
        {"device", NULL, COLUMN_TEXT, 0, 0},
        {"step", NULL, COLUMN_NUMBER, 0, 0},
        {"call", NULL, COLUMN_NUMBER, 0, 0},
        {"range", "call", COLUMN_TEXT, COLUMN_FOR_PEOPLE, 0},
        {"phase", "phase", COLUMN_TEXT, 0, 0},
        {"blocks", "blocks each", COLUMN_COUNT, 0, 70},
        {"alloc_bytes", "allocated", COLUMN_BYTES, 0, 0},
        {"saved_bytes", "saved", COLUMN_BYTES, 0, 0},
        {"live_at_peak_bytes", "at peak", COLUMN_BYTES, 0, 0},
};
static const struct row_kind call_kind = ROW_KIND("call", call_columns);
static const struct row_kind *const kinds[] = {&layer_kind, &call_kind, NULL};

struct node {
	struct store_layer layer; /* its strings are owned, NULL for what no layer owns */
	size_t parent;            /* index + 1, 0: none */
	unsigned depth;           /* below the first that is shown */
	bool holds;               /* it or a layer below it has a number to show */
	bool has_children;        /* that hold something */
	bool chosen;              /* by --layer */
	uint64_t calls;           /* in which it allocated something */
};

struct tree {
	struct node *nodes; /* in the order of a tree: a parent before its children; last what no layer owns */
	size_t nr_nodes, room_nodes;
	size_t *path, room_path; /* of the last node: its ancestors */
	size_t depth;
};

static void tree_release(struct tree *tree)
{
	for (size_t i = 0; i < tree->nr_nodes; i++) {
		free((char *)(uintptr_t)tree->nodes[i].layer.root);
		free((char *)(uintptr_t)tree->nodes[i].layer.layer);
		free((char *)(uintptr_t)tree->nodes[i].layer.class_name);
	}
	free(tree->nodes);
	free(tree->path);
	*tree = (struct tree){0};
}

static int copy(const char *text, const char **ret)
{
	*ret = strdup(text ? text : "?");
	return *ret ? 0 : -ENOMEM;
}

static bool has_numbers(const struct store_layer_sums *sums)
{
	return sums->params_bytes || sums->gradient_bytes || sums->optimizer_state_bytes || sums->saved_bytes ||
	       sums->temporary_bytes || sums->live_at_peak_bytes;
}

/* The layer's parent is the innermost of the last node's ancestors, or the last node, that it names; else it is a root. */
static int find_place(struct tree *tree, struct node *node)
{
	while (tree->depth &&
	       (!node->layer.parent || tree->nodes[tree->path[tree->depth - 1]].layer.module != node->layer.parent))
		tree->depth--;
	if (tree->depth == tree->room_path) {
		size_t room = tree->room_path ? tree->room_path * 2 : 32;
		size_t *path = realloc(tree->path, room * sizeof(*path));

		if (!path)
			return -ENOMEM;
		tree->path = path;
		tree->room_path = room;
	}
	node->parent = tree->depth ? tree->path[tree->depth - 1] + 1 : 0;
	tree->path[tree->depth++] = tree->nr_nodes - 1;
	return 0;
}

static int each_layer(const struct store_layer *layer, void *arg)
{
	struct tree *tree = arg;
	struct node *node;
	int error;

	if (tree->nr_nodes == tree->room_nodes) {
		size_t room = tree->room_nodes ? tree->room_nodes * 2 : 64;
		struct node *nodes = realloc(tree->nodes, room * sizeof(*nodes));

		if (!nodes)
			return -ENOMEM;
		tree->nodes = nodes;
		tree->room_nodes = room;
	}
	node = &tree->nodes[tree->nr_nodes++];
	*node = (struct node){.layer = *layer};
	node->layer.root = node->layer.layer = node->layer.class_name = NULL;
	if (!layer->module)
		return 0;
	error = copy(layer->root, &node->layer.root);
	if (!error)
		error = copy(layer->layer, &node->layer.layer);
	if (!error)
		error = copy(layer->class_name, &node->layer.class_name);
	return error ? error : find_place(tree, node);
}

/* Children come after their parents, so backwards every child is done before its parent. */
static void mark_holders(struct tree *tree)
{
	for (size_t i = tree->nr_nodes; i-- > 0;) {
		struct node *node = &tree->nodes[i];

		node->holds |= has_numbers(&node->layer.own);
		if (node->holds && node->parent)
			tree->nodes[node->parent - 1].holds = tree->nodes[node->parent - 1].has_children = true;
	}
}

/* ---- --layer */

static bool is_named(const struct store_filter *filter, const struct store_layer *layer)
{
	size_t length = strlen(layer->root);

	if (!strcmp(layer->layer, filter->layer))
		return true;
	if (strncmp(filter->layer, layer->root, length) != 0)
		return false;
	return *layer->layer ? filter->layer[length] == '.' && !strcmp(filter->layer + length + 1, layer->layer)
	                     : !filter->layer[length];
}

/* Choose the layers that the filter names and, where it says so, those below them. */
static void choose_layers(struct tree *tree, const struct store_filter *filter)
{
	for (size_t i = 0; i < tree->nr_nodes; i++) {
		struct node *node = &tree->nodes[i];
		const struct node *parent = node->parent ? &tree->nodes[node->parent - 1] : NULL;
		bool below = parent && parent->chosen;

		if (filter->layers == STORE_LAYERS_ANY)
			node->chosen = true;
		else if (!node->layer.layer)
			node->chosen = filter->layers == STORE_LAYERS_NONE;
		else if (filter->layer)
			node->chosen = is_named(filter, &node->layer) || (filter->layers == STORE_LAYERS_BELOW && below);
		node->depth = below ? parent->depth + 1 : 0;
	}
}

static bool has_several_roots(const struct tree *tree)
{
	const char *root = NULL;

	for (size_t i = 0; i < tree->nr_nodes; i++) {
		const struct store_layer *layer = &tree->nodes[i].layer;

		if (!layer->root || !*layer->layer)
			continue;
		if (root && strcmp(root, layer->root) != 0)
			return true;
		root = layer->root;
	}
	return false;
}

/* ---- calls */

static int compare_modules(const void *a, const void *b)
{
	const struct node *x = *(struct node *const *)a, *y = *(struct node *const *)b;

	return x->layer.module < y->layer.module ? -1 : x->layer.module > y->layer.module;
}

/* The tree's nodes by module; the caller frees it.  NULL: no memory. */
static struct node **sort_by_module(struct tree *tree)
{
	struct node **sorted = calloc(tree->nr_nodes + 1, sizeof(struct node *));

	for (size_t i = 0; sorted && i < tree->nr_nodes; i++)
		sorted[i] = &tree->nodes[i];
	if (sorted)
		qsort(sorted, tree->nr_nodes, sizeof(struct node *), compare_modules);
	return sorted;
}

struct call_reading {
	struct report *report;
	struct node **sorted;
	size_t nr_nodes;
	struct rows *rows;
	uint64_t step;
	/* For people equal calls in a row are one line: those so far; first 0: none. */
	struct store_layer_call equal;
	const struct node *node;
	uint64_t first;
};

static struct node *node_of(const struct call_reading *reading, uint32_t module)
{
	struct node wanted = {.layer = {.module = module}}, *key = &wanted;
	struct node **found = bsearch(&key, reading->sorted, reading->nr_nodes, sizeof(struct node *), compare_modules);

	return found ? *found : NULL;
}

static int count_call(const struct store_layer_call *call, void *arg)
{
	struct node *node = node_of(arg, call->module);

	if (node)
		node->calls = call->call;
	return 0;
}

static int add_call(struct call_reading *reading, const struct node *node, const struct store_layer_call *call, uint64_t first)
{
	struct rows *rows = reading->rows;
	const char *root = node->layer.root, *layer = node->layer.layer;

	row_begin(rows);
	row_text(rows, "root", root);
	row_text(rows, "layer", layer);
	row_text(rows, "name", report_layer(reading->report, root, layer));
	row_text(rows, "device", reading->report->device_name);
	row_count(rows, "step", reading->step);
	row_count(rows, "call", call->call);
	if (first < call->call)
		row_textf(rows, "range", "%" PRIu64 "-%" PRIu64 ", each", first, call->call);
	else
		row_textf(rows, "range", "%" PRIu64, call->call);
	row_text(rows, "phase", phase_name(call->phase));
	row_count(rows, "blocks", call->blocks);
	row_count(rows, "alloc_bytes", call->alloc_bytes);
	row_count(rows, "saved_bytes", call->saved_bytes);
	row_count(rows, "live_at_peak_bytes", call->live_at_peak_bytes);
	return row_end(rows);
}

static int flush_calls(struct call_reading *reading)
{
	int error = reading->first ? add_call(reading, reading->node, &reading->equal, reading->first) : 0;

	reading->first = 0;
	return error;
}

static bool are_equal(const struct store_layer_call *a, const struct store_layer_call *b)
{
	return a->module == b->module && a->phase == b->phase && a->blocks == b->blocks && a->alloc_bytes == b->alloc_bytes &&
	       a->saved_bytes == b->saved_bytes && a->live_at_peak_bytes == b->live_at_peak_bytes;
}

/* A layer that is called once has nothing to tell beyond its own row. */
static int call_row(const struct store_layer_call *call, void *arg)
{
	struct call_reading *reading = arg;
	const struct node *node = node_of(reading, call->module);
	int error = 0;

	if (!node || !node->chosen || node->calls < 2)
		return 0;
	if (!report_is_for_people(reading->report))
		return add_call(reading, node, call, call->call);
	if (!reading->first || !are_equal(&reading->equal, call)) {
		error = flush_calls(reading);
		reading->first = call->call;
	}
	reading->node = node;
	reading->equal = *call;
	return error;
}

static int count_calls(struct report *report, struct tree *tree)
{
	struct call_reading reading = {.report = report, .sorted = sort_by_module(tree), .nr_nodes = tree->nr_nodes};
	int error = reading.sorted ? 0 : -ENOMEM;

	if (!error)
		error = store_each_layer_call(report->store, report->device, report->arguments->filter.step, NULL, count_call,
		                              &reading);
	free(reading.sorted);
	return error;
}

static int call_rows(struct report *report, struct tree *tree, uint64_t step)
{
	struct call_reading reading = {
	        .report = report,
	        .sorted = sort_by_module(tree),
	        .nr_nodes = tree->nr_nodes,
	        .rows = rows_new(report, &call_kind),
	        .step = step,
	};
	int error = reading.sorted ? 0 : -ENOMEM;

	if (!error)
		error = store_each_layer_call(report->store, report->device, report->arguments->filter.step,
		                              &report->arguments->filter, call_row, &reading);
	if (!error)
		error = flush_calls(&reading);
	free(reading.sorted);
	rows_name_unit(reading.rows, "name");
	return rows_close(reading.rows, error);
}

/* Whether a layer that was asked for by its name was called more than once. */
static bool wants_calls(const struct report *report, const struct tree *tree)
{
	for (size_t i = 0; i < tree->nr_nodes && report->arguments->filter.layers == STORE_LAYERS_ONE; i++)
		if (tree->nodes[i].chosen && tree->nodes[i].calls > 1)
			return true;
	return false;
}

/* ---- rows */

static void add_calls_and_peaks(struct rows *rows, const struct node *node, bool always)
{
	const struct store_layer *layer = &node->layer;

	if (always || node->calls > 1)
		row_count(rows, "calls", node->calls);
	/* 0: it was not called; parts of it may be used without a call (MultiheadAttention's out_proj). */
	if (layer->has_peaks && layer->forward_peak_bytes)
		row_count(rows, "forward_peak_bytes", layer->forward_peak_bytes);
	if (layer->has_peaks && layer->backward_peak_bytes)
		row_count(rows, "backward_peak_bytes", layer->backward_peak_bytes);
}

/* What people see: the columns of a subtree. */
static void add_sums(struct rows *rows, const struct store_layer_sums *sums)
{
	row_count(rows, "subtree_params_bytes", sums->params_bytes);
	row_count(rows, "subtree_gradient_bytes", sums->gradient_bytes);
	row_count(rows, "subtree_optimizer_state_bytes", sums->optimizer_state_bytes);
	row_count(rows, "subtree_saved_bytes", sums->saved_bytes);
	row_count(rows, "subtree_temporary_bytes", sums->temporary_bytes);
	row_count(rows, "subtree_live_at_peak_bytes", sums->live_at_peak_bytes);
}

static int add_row_for_people(struct rows *rows, enum style style, const char *name, const char *class_name,
                              const struct store_layer_sums *sums, const struct node *node)
{
	row_begin_for_people(rows, style);
	row_text(rows, "name", name);
	row_text(rows, "class", class_name);
	add_sums(rows, sums);
	if (node)
		add_calls_and_peaks(rows, node, false);
	return row_end(rows);
}

/* A child is named by what it adds to its parent's path. */
static const char *own_name(struct report *report, const struct tree *tree, const struct node *node, char ret[SAFE_TEXT_MAX])
{
	unsigned step = report->table_width && report->table_width < WIDE ? 1 : 2;
	unsigned indent = node->depth * step < INDENT_MAX ? node->depth * step : INDENT_MAX;
	const char *name = node->layer.layer;

	if (!*name)
		name = node->layer.root;
	else if (!node->depth && strcmp(name, ITSELF) != 0)
		name = report_layer(report, node->layer.root, name);
	else if (node->depth) {
		const char *path = tree->nodes[node->parent - 1].layer.layer;
		size_t length = strlen(path);

		if (length && !strncmp(name, path, length) && name[length] == '.')
			name += length + 1;
	}
	snprintf(ret, SAFE_TEXT_MAX, "%*s%s", (int)indent, "", name);
	return ret;
}

static int add_tree(struct rows *rows, struct report *report, const struct tree *tree, uint64_t *ret_empty)
{
	char name[SAFE_TEXT_MAX];
	int error = 0;

	for (size_t i = 0; i < tree->nr_nodes && !error; i++) {
		const struct node *node = &tree->nodes[i];
		struct node itself = *node;

		if (!node->layer.layer || !node->chosen)
			continue;
		if (!node->holds) {
			++*ret_empty;
			continue;
		}
		error = add_row_for_people(rows, STYLE_PLAIN, own_name(report, tree, node, name), node->layer.class_name,
		                           &node->layer.subtree, node);
		if (error || !node->has_children || !has_numbers(&node->layer.own))
			continue;
		itself.depth++;
		itself.layer.layer = ITSELF;
		itself.parent = i + 1;
		error = add_row_for_people(rows, STYLE_FAINT, own_name(report, tree, &itself, name), "", &node->layer.own, NULL);
	}
	return error;
}

static int compare_at_peak(const void *a, const void *b)
{
	const struct node *x = *(const struct node *const *)a, *y = *(const struct node *const *)b;
	uint64_t of_x = x->layer.own.live_at_peak_bytes, of_y = y->layer.own.live_at_peak_bytes;

	if (of_x != of_y)
		return of_x > of_y ? -1 : 1;
	return x < y ? -1 : x > y;
}

static void add_to(struct store_layer_sums *sums, const struct store_layer_sums *more)
{
	sums->params_bytes += more->params_bytes;
	sums->gradient_bytes += more->gradient_bytes;
	sums->optimizer_state_bytes += more->optimizer_state_bytes;
	sums->saved_bytes += more->saved_bytes;
	sums->temporary_bytes += more->temporary_bytes;
	sums->live_at_peak_bytes += more->live_at_peak_bytes;
}

/* The @limit layers that own most at the peak, themselves, and a row for the others. */
static int add_list(struct rows *rows, struct report *report, const struct tree *tree, uint64_t limit, uint64_t *ret_empty)
{
	const struct node **sorted = calloc(tree->nr_nodes + 1, sizeof(struct node *));
	struct store_layer_sums rest = {0};
	uint64_t nr = 0;
	format_buffer number;
	char words[96];
	int error = sorted ? 0 : -ENOMEM;

	for (size_t i = 0; i < tree->nr_nodes && !error; i++) {
		if (!tree->nodes[i].layer.layer || !tree->nodes[i].chosen)
			continue;
		if (has_numbers(&tree->nodes[i].layer.own))
			sorted[nr++] = &tree->nodes[i];
		else
			++*ret_empty;
	}
	if (!error)
		qsort(sorted, nr, sizeof(*sorted), compare_at_peak);
	for (uint64_t i = 0; i < nr && !error; i++) {
		const struct store_layer *layer = &sorted[i]->layer;

		if (i < limit)
			error = add_row_for_people(rows, STYLE_PLAIN, report_layer(report, layer->root, layer->layer),
			                           layer->class_name, &layer->own, sorted[i]);
		else
			add_to(&rest, &layer->own);
	}
	free(sorted);
	if (error || nr <= limit)
		return error;
	snprintf(words, sizeof(words), "%s more layer%s", format_count(nr - limit, number), nr - limit == 1 ? "" : "s");
	return add_row_for_people(rows, STYLE_FAINT, words, "", &rest, NULL);
}

static int add_rest(struct rows *rows, const struct tree *tree, const struct store_filter *filter)
{
	int error = 0;

	for (size_t i = 0; i < tree->nr_nodes && !error; i++) {
		const struct node *node = &tree->nodes[i];

		if (node->layer.layer)
			continue;
		if (node->chosen)
			error = add_row_for_people(rows, STYLE_FAINT, "no layer", "", &node->layer.own, NULL);
		if (!error && filter->layers == STORE_LAYERS_ANY)
			error = add_row_for_people(rows, STYLE_STRONG, "total", "", &node->layer.subtree, NULL);
	}
	return error;
}

static void print_head(struct report *report, uint64_t step, bool at_run_peak, bool list)
{
	report_say(report, 0, "Layers on %s in step %" PRIu64 "%s", report->device_name, step,
	           at_run_peak ? ", the one with the peak" : "");
	report_say(report, 0, "%s, each number the highest in the step; at peak: alive at the %s%s",
	           list ? "What a layer owns itself" : "What a layer owns with all below it",
	           at_run_peak ? "peak of the run" : "step's own peak",
	           at_run_peak && (!report->table_width || report->table_width >= PEAKS_FROM)
	                   ? "; fwd and bwd peak: all that was alive while the layer ran"
	                   : "");
}

static int show_tree(struct report *report, struct tree *tree, uint64_t step, bool at_run_peak)
{
	const struct arguments *arguments = report->arguments;
	bool list = arguments->limit != LIMIT_DEFAULT && arguments->limit != LIMIT_ALL;
	struct rows *rows = rows_new(report, &layer_kind);
	uint64_t empty = 0;
	format_buffer number;
	int error;

	mark_holders(tree);
	report->several_roots = has_several_roots(tree);
	print_head(report, step, at_run_peak, list);
	error = list ? add_list(rows, report, tree, arguments->limit, &empty) : add_tree(rows, report, tree, &empty);
	if (!error)
		error = add_rest(rows, tree, &arguments->filter);
	rows_name_unit(rows, "name");
	error = rows_close(rows, error);
	if (!error && empty)
		fprintf(report->out, "%s(%s layer%s without memory of %s own not shown)%s\n",
		        style_begin(STYLE_FAINT, report->colour), format_count(empty, number), empty == 1 ? "" : "s",
		        empty == 1 ? "its" : "their", style_end(STYLE_FAINT, report->colour));
	if (!error && wants_calls(report, tree)) {
		fprintf(report->out, "\nIts calls, those in which it allocated something itself\n");
		error = call_rows(report, tree, step);
	}
	return error ? error : report_check(report);
}

static int show_rows(struct report *report, struct tree *tree, uint64_t step)
{
	struct rows *rows = rows_new(report, &layer_kind);
	uint64_t limit = report->arguments->limit == LIMIT_DEFAULT ? LIMIT_ALL : report->arguments->limit;
	uint64_t listed = 0;
	int error = 0;

	for (size_t i = 0; i < tree->nr_nodes && !error && (limit == LIMIT_ALL || listed < limit); i++) {
		const struct store_layer *layer = &tree->nodes[i].layer;

		if (!tree->nodes[i].chosen)
			continue;
		listed++;
		row_begin(rows);
		row_text(rows, "root", layer->root);
		row_text(rows, "layer", layer->layer);
		row_text(rows, "class", layer->class_name);
		row_text(rows, "device", report->device_name);
		row_count(rows, "step", step);
		row_count(rows, "params_bytes", layer->own.params_bytes);
		row_count(rows, "gradient_bytes", layer->own.gradient_bytes);
		row_count(rows, "optimizer_state_bytes", layer->own.optimizer_state_bytes);
		row_count(rows, "saved_bytes", layer->own.saved_bytes);
		row_count(rows, "temporary_bytes", layer->own.temporary_bytes);
		row_count(rows, "live_at_peak_bytes", layer->own.live_at_peak_bytes);
		add_sums(rows, &layer->subtree);
		add_calls_and_peaks(rows, &tree->nodes[i], true);
		error = row_end(rows);
	}
	error = rows_close(rows, error);
	return error ? error : call_rows(report, tree, step);
}

static int show(struct report *report)
{
	const struct store_filter *filter = &report->arguments->filter;
	struct store_device device = {0};
	struct tree tree = {0};
	uint64_t step;
	int error = report_is_for_people(report) ? report_losses(report) : 0;

	if (error)
		return error;
	if (!report->has_device) {
		if (report_is_for_people(report))
			fprintf(report->out, "No tensor was allocated in this run.\n");
		return 0;
	}
	error = report_read_device(report, &device);
	step = filter->step == UINT64_MAX ? device.peak_step : filter->step;
	if (!error)
		error = store_each_layer(report->store, report->device, filter->step, each_layer, &tree);
	if (!error)
		error = count_calls(report, &tree);
	if (!error) {
		choose_layers(&tree, filter);
		if (report_is_for_people(report))
			error = show_tree(report, &tree, step, step == device.peak_step);
		else
			error = show_rows(report, &tree, step);
	}
	tree_release(&tree);
	return error;
}

const struct report_view layers_view = {
        .name = "layers",
        .help = "the tree of layers with what each has in a step",
        .filters = FILTER_DEVICE | FILTER_STEP | FILTER_LAYER,
        .kinds = kinds,
        .show = show,
};
