/*
 * layers: the tree of modules with what each owns in the step of the device's peak.  A line for what no layer owns makes
 * every column close to its total.
 */
#include "report/live.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define INDENT_MAX 24u
#define WIDE       100u /* columns of a line with room for everything */

enum { SUM_PARAMS, SUM_GRADIENT, SUM_STATE, SUM_SAVED, SUM_TEMPORARY, SUM_AT_PEAK, NR_SUMS };

struct node {
	uint32_t id;
	char *root, *layer, *class_name; /* NULL: what no layer owns */
	uint64_t sums[NR_SUMS];
	uint64_t forward_peak_bytes, backward_peak_bytes;
	size_t parent, first_child, last_child, next_sibling; /* index + 1, 0: none */
	bool holds;                                           /* it or a layer below it has a number to show */
	unsigned depth;
};

struct tree {
	struct node *nodes; /* in the order met: a parent before its children */
	size_t nr_nodes, room_nodes;
	uint32_t *by_id; /* index + 1 by id, for ids below room_ids */
	size_t room_ids;
};

static void tree_release(struct tree *tree)
{
	for (size_t i = 0; i < tree->nr_nodes; i++) {
		free(tree->nodes[i].root);
		free(tree->nodes[i].layer);
		free(tree->nodes[i].class_name);
	}
	free(tree->nodes);
	free(tree->by_id);
	*tree = (struct tree){0};
}

static int copy(const char *text, char **ret)
{
	*ret = text ? strdup(text) : NULL;
	return text && !*ret ? -ENOMEM : 0;
}

/* The hook counts modules from 1, so ids are dense; a file that says otherwise gets a flat list. */
#define ID_MAX (1u << 20)

static int remember_id(struct tree *tree, uint32_t id, size_t index)
{
	if (id == 0 || id > ID_MAX)
		return 0;
	if (id >= tree->room_ids) {
		size_t room = tree->room_ids ? tree->room_ids : 256;
		uint32_t *by_id;

		while (room <= id)
			room *= 2;
		by_id = realloc(tree->by_id, room * sizeof(*by_id));
		if (!by_id)
			return -ENOMEM;
		memset(by_id + tree->room_ids, 0, (room - tree->room_ids) * sizeof(*by_id));
		tree->by_id = by_id;
		tree->room_ids = room;
	}
	if (!tree->by_id[id])
		tree->by_id[id] = (uint32_t)(index + 1);
	return 0;
}

static void link_to_parent(struct tree *tree, size_t index, uint32_t parent_id)
{
	struct node *node = &tree->nodes[index], *parent;
	size_t parent_index = parent_id < tree->room_ids ? tree->by_id[parent_id] : 0;

	/* Only to one that was met before: so no file can make a circle. */
	if (!parent_id || !parent_index || parent_index - 1 >= index)
		return;
	parent = &tree->nodes[parent_index - 1];
	node->parent = parent_index;
	node->depth = parent->depth + 1;
	if (parent->last_child)
		tree->nodes[parent->last_child - 1].next_sibling = index + 1;
	else
		parent->first_child = index + 1;
	parent->last_child = index + 1;
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
	*node = (struct node){
	        .id = layer->module,
	        .sums = {layer->params_bytes, layer->gradient_bytes, layer->optimizer_state_bytes, layer->saved_bytes,
	                 layer->temporary_bytes, layer->live_at_peak_bytes},
	        .forward_peak_bytes = layer->forward_peak_bytes,
	        .backward_peak_bytes = layer->backward_peak_bytes,
	};
	if (!layer->module)
		return 0;
	error = copy(layer->root ? layer->root : "?", &node->root);
	if (!error)
		error = copy(layer->layer ? layer->layer : "?", &node->layer);
	if (!error)
		error = copy(layer->class_name ? layer->class_name : "?", &node->class_name);
	if (!error)
		error = remember_id(tree, layer->module, tree->nr_nodes - 1);
	if (!error)
		link_to_parent(tree, tree->nr_nodes - 1, layer->parent);
	return error;
}

static void mark_holders(struct tree *tree)
{
	/* Children come after their parents, so backwards every child is done before its parent. */
	for (size_t i = tree->nr_nodes; i-- > 0;) {
		struct node *node = &tree->nodes[i];

		for (size_t j = 0; j < NR_SUMS; j++)
			node->holds |= node->sums[j] != 0;
		for (size_t child = node->first_child; child; child = tree->nodes[child - 1].next_sibling)
			node->holds |= tree->nodes[child - 1].holds;
	}
}

/* The nodes as a tree is read, from top to bottom; NULL without memory.  The caller frees it. */
static size_t *tree_order(const struct tree *tree)
{
	size_t *order = calloc(tree->nr_nodes + 1, sizeof(*order));
	size_t *stack = malloc((tree->nr_nodes + 1) * sizeof(*stack));
	size_t nr = 0;

	if (!order || !stack) {
		free(order);
		free(stack);
		return NULL;
	}
	for (size_t i = 0; i < tree->nr_nodes; i++) {
		size_t depth = 0;

		if (tree->nodes[i].parent)
			continue;
		stack[depth++] = i + 1;
		while (depth) {
			size_t at = stack[depth - 1];
			const struct node *node = &tree->nodes[at - 1];

			order[nr++] = at - 1;
			/* A sibling takes the place of what was just left, children go on top of it. */
			if (node->parent && node->next_sibling)
				stack[depth - 1] = node->next_sibling;
			else
				depth--;
			if (node->first_child)
				stack[depth++] = node->first_child;
		}
	}
	free(stack);
	return order;
}

/* ---- text */

struct printing {
	struct report *report;
	struct table *table;
	struct unit unit;
	bool classes;
	uint64_t totals[NR_SUMS];
};

static void add_numbers(struct printing *printing, const uint64_t sums[NR_SUMS], bool has_peaks, uint64_t forward,
                        uint64_t backward)
{
	format_buffer number;

	for (size_t j = 0; j < NR_SUMS; j++) {
		if (j == SUM_AT_PEAK) {
			table_cell(printing->table, has_peaks ? format_in_unit(printing->unit, forward, number) : "");
			table_cell(printing->table, has_peaks ? format_in_unit(printing->unit, backward, number) : "");
		}
		table_cell(printing->table, format_in_unit(printing->unit, sums[j], number));
	}
}

static void add_row(struct printing *printing, enum style style, const char *name, const char *class_name)
{
	table_row(printing->table, style);
	table_cell(printing->table, name);
	if (printing->classes)
		table_cell(printing->table, class_name);
}

/* A child is named by what it adds to its parent's path. */
static const char *own_name(struct report *report, const struct tree *tree, const struct node *node)
{
	char indented[SAFE_TEXT_MAX];
	unsigned step = report->table_width && report->table_width < WIDE ? 1 : 2;
	unsigned indent = node->depth * step < INDENT_MAX ? node->depth * step : INDENT_MAX;
	const char *name = node->layer;

	if (!*name)
		return report_safe(report, node->root);
	if (node->parent) {
		const char *path = tree->nodes[node->parent - 1].layer;
		size_t length = strlen(path);

		if (length && !strncmp(name, path, length) && name[length] == '.')
			name += length + 1;
	}
	snprintf(indented, sizeof(indented), "%*s%s", (int)indent, "", name);
	return report_safe(report, indented);
}

static int compare_at_peak(const void *a, const void *b, void *arg)
{
	const struct tree *tree = arg;
	size_t x = *(const size_t *)a, y = *(const size_t *)b;
	uint64_t of_x = tree->nodes[x].sums[SUM_AT_PEAK], of_y = tree->nodes[y].sums[SUM_AT_PEAK];

	if (of_x != of_y)
		return of_x > of_y ? -1 : 1;
	return x < y ? -1 : x > y;
}

static void add_to(uint64_t sums[NR_SUMS], const struct node *node)
{
	for (size_t j = 0; j < NR_SUMS; j++)
		sums[j] += node->sums[j];
}

/* Add up all layers.  Returns the largest number that the table shows. */
static uint64_t add_totals(struct printing *printing, const struct tree *tree)
{
	uint64_t largest = 0;

	for (size_t i = 0; i < tree->nr_nodes; i++) {
		const struct node *node = &tree->nodes[i];

		add_to(printing->totals, node);
		largest = node->backward_peak_bytes > largest ? node->backward_peak_bytes : largest;
		largest = node->forward_peak_bytes > largest ? node->forward_peak_bytes : largest;
	}
	for (size_t j = 0; j < NR_SUMS; j++)
		largest = printing->totals[j] > largest ? printing->totals[j] : largest;
	return largest;
}

/*
 * A row for each layer that holds something, in @order: as a tree, or, where there is a @limit, as a list with a row for
 * those beyond it.  Returns how many layers hold nothing.
 */
static uint64_t add_layers(struct printing *printing, const struct tree *tree, const size_t *order, uint64_t limit)
{
	struct report *report = printing->report;
	bool flat = limit != LIMIT_ALL;
	uint64_t shown = 0, rest = 0, empty = 0;
	uint64_t rest_sums[NR_SUMS] = {0};
	format_buffer number;
	char words[96];

	for (size_t i = 0; i < tree->nr_nodes; i++) {
		const struct node *node = &tree->nodes[order[i]];

		if (!node->layer)
			continue;
		if (!node->holds) {
			empty++;
		} else if (flat && shown == limit) {
			rest++;
			add_to(rest_sums, node);
		} else {
			shown++;
			add_row(printing, STYLE_PLAIN,
			        flat ? report_layer(report, node->root, node->layer) : own_name(report, tree, node),
			        report_safe(report, node->class_name));
			add_numbers(printing, node->sums, true, node->forward_peak_bytes, node->backward_peak_bytes);
		}
	}
	if (rest) {
		snprintf(words, sizeof(words), "%s more layers", format_count(rest, number));
		add_row(printing, STYLE_FAINT, words, "");
		add_numbers(printing, rest_sums, false, 0, 0);
	}
	return empty;
}

static int print_tree(struct report *report, const struct tree *tree, size_t *order)
{
	static const struct column wide[] = {
	        {"layer", false, true},    {"class", false, true},   {"params", true, false}, {"grads", true, false},
	        {"state", true, false},    {"saved", true, false},   {"temp", true, false},   {"fwd peak", true, false},
	        {"bwd peak", true, false}, {"at peak", true, false},
	};
	static const struct column narrow[] = {
	        {"layer", false, true},    {"params", true, false},   {"grads", true, false},
	        {"state", true, false},    {"saved", true, false},    {"temp", true, false},
	        {"fwd peak", true, false}, {"bwd peak", true, false}, {"at peak", true, false},
	};
	uint64_t limit = report->arguments->limit == LIMIT_DEFAULT ? LIMIT_ALL : report->arguments->limit;
	struct printing printing = {.report = report, .classes = !report->table_width || report->table_width >= WIDE};
	uint64_t empty;
	format_buffer number;
	int error;

	printing.unit = unit_for_table(report->arguments->units, add_totals(&printing, tree));
	printing.table = printing.classes ? table_new(wide, sizeof(wide) / sizeof(wide[0]))
	                                  : table_new(narrow, sizeof(narrow) / sizeof(narrow[0]));
	if (limit != LIMIT_ALL)
		qsort_r(order, tree->nr_nodes, sizeof(*order), compare_at_peak, (void *)(uintptr_t)tree);
	empty = add_layers(&printing, tree, order, limit);
	for (size_t i = 0; i < tree->nr_nodes; i++)
		if (!tree->nodes[i].layer) {
			add_row(&printing, STYLE_FAINT, "no layer", "");
			add_numbers(&printing, tree->nodes[i].sums, false, 0, 0);
		}
	add_row(&printing, STYLE_STRONG, "total", "");
	add_numbers(&printing, printing.totals, false, 0, 0);
	fprintf(report->out, "%s, each layer without those below it; fwd and bwd peak: all that was alive while it ran\n",
	        printing.unit.bytes > 1 ? printing.unit.name : "Bytes");
	error = report_print_table(report, printing.table);
	table_free(printing.table);
	if (empty)
		fprintf(report->out, "%s(%s layer%s without memory of %s own not shown)%s\n",
		        style_begin(STYLE_FAINT, report->colour), format_count(empty, number), empty == 1 ? "" : "s",
		        empty == 1 ? "its" : "their", style_end(STYLE_FAINT, report->colour));
	return error;
}

static bool has_several_roots(const struct tree *tree)
{
	const char *root = NULL;

	for (size_t i = 0; i < tree->nr_nodes; i++) {
		if (!tree->nodes[i].root || !*tree->nodes[i].layer)
			continue;
		if (root && strcmp(root, tree->nodes[i].root))
			return true;
		root = tree->nodes[i].root;
	}
	return false;
}

static int show_text(struct report *report)
{
	struct store_device device = {0};
	struct tree tree = {0};
	size_t *order = NULL;
	int error;

	if (!report->has_device) {
		fprintf(report->out, "No tensor was allocated in this run.\n");
		return report_losses(report);
	}
	error = report_losses(report);
	if (!error)
		error = report_read_device(report, &device);
	if (!error)
		error = store_each_layer(report->store, report->device, each_layer, &tree);
	if (!error) {
		order = tree_order(&tree);
		error = order ? 0 : -ENOMEM;
	}
	if (!error) {
		mark_holders(&tree);
		report->several_roots = has_several_roots(&tree);
		fprintf(report->out, "Layers on %s in step %" PRIu64 ", the one with the peak\n", report->device_name,
		        device.peak_step);
		error = print_tree(report, &tree, order);
	}
	free(order);
	tree_release(&tree);
	return error ? error : report_check(report);
}

/* ---- rows */

static const struct row_column layer_columns[] = {
        {"root", NULL, COLUMN_TEXT, 0, 0},
        {"layer", NULL, COLUMN_TEXT, 0, 0},
        {"class", NULL, COLUMN_TEXT, 0, 0},
        {"device", NULL, COLUMN_TEXT, 0, 0},
        {"params_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"gradient_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"optimizer_state_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"saved_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"temporary_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"forward_peak_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"backward_peak_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"live_at_peak_bytes", NULL, COLUMN_BYTES, 0, 0},
};
static const struct row_kind layer_kind = ROW_KIND("layer", layer_columns);
static const struct row_kind *const kinds[] = {&layer_kind, NULL};

struct listing {
	struct report *report;
	struct rows *rows;
	uint64_t limit, listed;
};

static int layer_row(const struct store_layer *layer, void *arg)
{
	struct listing *listing = arg;
	struct rows *rows = listing->rows;

	if (listing->limit != LIMIT_ALL && listing->listed == listing->limit)
		return 1;
	listing->listed++;
	row_begin(rows);
	row_text(rows, "root", layer->module ? layer->root : NULL);
	row_text(rows, "layer", layer->module ? layer->layer : NULL);
	row_text(rows, "class", layer->module ? layer->class_name : NULL);
	row_text(rows, "device", listing->report->device_name);
	row_count(rows, "params_bytes", layer->params_bytes);
	row_count(rows, "gradient_bytes", layer->gradient_bytes);
	row_count(rows, "optimizer_state_bytes", layer->optimizer_state_bytes);
	row_count(rows, "saved_bytes", layer->saved_bytes);
	row_count(rows, "temporary_bytes", layer->temporary_bytes);
	row_count(rows, "forward_peak_bytes", layer->forward_peak_bytes);
	row_count(rows, "backward_peak_bytes", layer->backward_peak_bytes);
	row_count(rows, "live_at_peak_bytes", layer->live_at_peak_bytes);
	return row_end(rows);
}

static int show_rows(struct report *report)
{
	struct listing listing = {
	        .report = report,
	        .rows = rows_new(report, &layer_kind),
	        .limit = report->arguments->limit == LIMIT_DEFAULT ? LIMIT_ALL : report->arguments->limit,
	};
	int error = 0;

	if (report->has_device)
		error = store_each_layer(report->store, report->device, layer_row, &listing);
	return rows_close(listing.rows, error == 1 ? 0 : error);
}

static int show(struct report *report)
{
	return report_is_for_people(report) ? show_text(report) : show_rows(report);
}

const struct report_view layers_view = {
        .name = "layers",
        .help = "what each layer owns in the step with the peak",
        .filters = FILTER_DEVICE,
        .kinds = kinds,
        .show = show,
};
