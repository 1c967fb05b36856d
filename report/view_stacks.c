/*
 * stacks: where memory comes from, by the stack that allocated it: a tree from the outermost frame or from the innermost line,
 * a line a stack for flame graphs, or a profile for speedscope.
 *
 * The tree is for people and leaves out frames of Python that are not the user's own code, and compiled code that only passes
 * calls on; the other forms have every frame.
 * Memory follows the distinct stacks.
 */
#include "report/live.h"
#include "report/symbol_name.h"
#include "report/symbols.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define NODES_MAX   (1u << 18) /* of a tree or table: no run has so many, a hostile file may */
#define NR_SLOTS    (1u << 19) /* a power of 2, above NODES_MAX */
#define DEPTH_SHOWN 64u
#define LIMIT_TEXT  40u
#define FRAME_TEXT  700u
#define SHARE_LEAST 200u /* a part of the whole: less is not listed in the tree */

static const char *const of_names[NR_STACKS_OF] = {"peak", "allocated", "live"};

struct node {
	uint32_t frame, parent, first_child, next_sibling; /* indices, 0 none */
	char *words;
	uint64_t bytes, nr_blocks;
	unsigned depth; /* how far it is indented */
	bool is_native;
};

struct stacks {
	struct report *report;
	enum store_stacks_of of;
	uint64_t nr_blocks, bytes, left_out_bytes;

	struct node *nodes; /* [0] is the whole; for speedscope a list of frames below it */
	uint32_t nr_nodes, room;
	uint32_t *slots; /* NR_SLOTS: indices by parent and frame, 0 free */
	struct rows *rows;
	uint64_t limit, listed;
	json_t *weights;
	struct symbols *symbols;
};

/* ---- words for a frame */

static const char *without_folder(const char *file)
{
	const char *slash = strrchr(file, '/');

	return slash ? slash + 1 : file;
}

/* "at::native::empty_cpu (libtorch_cpu.so)", with debug information "main (main.c:12)", else "libx.so+0x12ab". */
static void spell_native_frame(struct stacks *stacks, const struct store_frame *frame, bool whole_path, char ret[FRAME_TEXT])
{
	const struct symbol *symbol;
	const char *file;

	if (frame->file[0] == '<') { /* why the stack ends here */
		snprintf(ret, FRAME_TEXT, "%.600s", frame->file);
		return;
	}
	symbol = symbols_find(stacks->symbols, frame->file, frame->build_id, frame->offset);
	file = symbol->file ? symbol->file : "";
	if (!symbol->function)
		snprintf(ret, FRAME_TEXT, "%.600s+0x%" PRIx64, without_folder(frame->file), frame->offset);
	else if (symbol->line)
		snprintf(ret, FRAME_TEXT, "%.200s (%.400s:%" PRIu64 ")", symbol->function,
		         whole_path ? file : without_folder(file), symbol->line);
	else
		snprintf(ret, FRAME_TEXT, "%.200s (%.400s)", symbol->function, without_folder(frame->file));
}

/* "Net.forward (/dir/train.py:31)", "aten::relu"; never with what ends a frame or a line of folded stacks. */
static void spell_frame(struct stacks *stacks, const struct store_frame *frame, bool whole_path, char ret[FRAME_TEXT])
{
	const char *file = whole_path ? frame->file : without_folder(frame->file);

	if (frame->kind == FRAME_NATIVE)
		spell_native_frame(stacks, frame, whole_path, ret);
	else if (frame->kind == FRAME_OPERATION || !*file)
		snprintf(ret, FRAME_TEXT, "%.600s", *frame->function ? frame->function : "?");
	else if (frame->line)
		snprintf(ret, FRAME_TEXT, "%.200s (%.400s:%" PRIu64 ")", frame->function, file, frame->line);
	else
		snprintf(ret, FRAME_TEXT, "%.200s (%.400s)", frame->function, file);
	for (char *c = ret; *c; c++)
		if (*c == ';' || (unsigned char)*c < ' ' || *c == 0x7f)
			*c = *c == ';' ? ':' : ' ';
}

/* Returns NULL without memory; the caller's. */
static char *fold(struct stacks *stacks, const struct store_stack *stack)
{
	char words[FRAME_TEXT], valid[3 * FRAME_TEXT], *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	if (!stack->nr_frames)
		fputs("[stack not known]", out);
	for (unsigned i = 0; i < stack->nr_frames; i++) {
		spell_frame(stacks, &stack->frames[i], true, words);
		/* A name that was cut may end within a character. */
		fprintf(out, "%s%s", i ? ";" : "", text_make_valid(words, valid, sizeof(valid)));
	}
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}

static int print_folded(const struct store_stack *stack, void *arg)
{
	struct stacks *stacks = arg;
	char *text = fold(stacks, stack);

	if (!text)
		return -ENOMEM;
	fprintf(stacks->report->out, "%s %" PRIu64 "\n", text, stack->bytes);
	free(text);
	return report_check(stacks->report);
}

/* ---- nodes */

/* The child of @parent for @frame, new if need be; 0: too many, or no memory (*@ret_error). */
static uint32_t child_of(struct stacks *stacks, uint32_t parent, uint32_t frame, const char *words, int *ret_error)
{
	uint64_t key = ((uint64_t)parent << 32 | frame) * UINT64_C(0x9e3779b97f4a7c15);
	uint32_t slot = (uint32_t)(key >> 40) & (NR_SLOTS - 1);

	for (; stacks->slots[slot]; slot = (slot + 1) & (NR_SLOTS - 1))
		if (stacks->nodes[stacks->slots[slot]].parent == parent && stacks->nodes[stacks->slots[slot]].frame == frame)
			return stacks->slots[slot];
	if (stacks->nr_nodes == NODES_MAX)
		return 0;
	if (stacks->nr_nodes == stacks->room) {
		uint32_t room = 2 * stacks->room;
		struct node *nodes = realloc(stacks->nodes, room * sizeof(*nodes));

		if (!nodes) {
			*ret_error = -ENOMEM;
			return 0;
		}
		stacks->nodes = nodes;
		stacks->room = room;
	}
	uint32_t at = stacks->nr_nodes;

	stacks->nodes[at] = (struct node){.frame = frame, .parent = parent, .words = strdup(words)};
	if (!stacks->nodes[at].words) {
		*ret_error = -ENOMEM;
		return 0;
	}
	stacks->nr_nodes++;
	stacks->slots[slot] = at;
	return at;
}

/* Operations are nobody's code, and say most; of compiled code is shown what does something. */
static bool is_shown(struct stacks *stacks, const struct store_frame *frame)
{
	const struct symbol *symbol;

	if (frame->kind != FRAME_NATIVE)
		return !frame->internal || frame->kind == FRAME_OPERATION;
	if (frame->file[0] == '<')
		return true;
	symbol = symbols_find(stacks->symbols, frame->file, frame->build_id, frame->offset);
	return !symbol->function || !symbol_name_is_glue(symbol->function);
}

static int add_to_tree(const struct store_stack *stack, void *arg)
{
	struct stacks *stacks = arg;
	bool bottom_up = stacks->report->arguments->stacks_as == STACKS_BOTTOM_UP;
	uint32_t at = 0;
	unsigned depth = 0;
	char words[FRAME_TEXT];
	int error = 0;

	stacks->nodes[0].bytes += stack->bytes;
	stacks->nodes[0].nr_blocks += stack->nr_blocks;
	for (unsigned i = 0; i < stack->nr_frames && depth < DEPTH_SHOWN; i++) {
		const struct store_frame *frame = &stack->frames[bottom_up ? stack->nr_frames - 1 - i : i];

		if (!is_shown(stacks, frame))
			continue;
		spell_frame(stacks, frame, false, words);
		uint32_t child = child_of(stacks, at, frame->id, words, &error);

		if (!child)
			break;
		at = child;
		depth++;
		stacks->nodes[at].is_native = frame->kind == FRAME_NATIVE;
		stacks->nodes[at].bytes += stack->bytes;
		stacks->nodes[at].nr_blocks += stack->nr_blocks;
	}
	if (!depth)
		stacks->left_out_bytes += stack->bytes;
	return error;
}

/* ---- the tree */

static const struct row_column tree_columns[] = {
        {"bytes", "%", COLUMN_BYTES, 0, 0},
        {"share", "share", COLUMN_TEXT, COLUMN_RIGHT, 0},
        {"blocks", "blocks", COLUMN_COUNT, 0, 70},
        {"where", "where", COLUMN_TEXT, COLUMN_CUT_END, 0},
};
static const struct row_kind tree_kind = ROW_KIND("node", tree_columns);

/* By parent; of one parent the smallest first. */
static int compare_nodes(const void *a, const void *b)
{
	const struct node *x = *(struct node *const *)a, *y = *(struct node *const *)b;

	if (x->parent != y->parent)
		return x->parent < y->parent ? -1 : 1;
	if (x->bytes != y->bytes)
		return x->bytes < y->bytes ? -1 : 1;
	return x > y ? -1 : x < y;
}

/* Link each node into its parent's list, biggest first, without those that are too small to show. */
static int link_nodes(struct stacks *stacks)
{
	struct node **sorted = calloc(stacks->nr_nodes, sizeof(*sorted));

	if (!sorted)
		return -ENOMEM;
	for (uint32_t i = 0; i < stacks->nr_nodes; i++)
		sorted[i] = &stacks->nodes[i];
	qsort(sorted, stacks->nr_nodes, sizeof(struct node *), compare_nodes);
	for (uint32_t i = 0; i < stacks->nr_nodes; i++) {
		struct node *node = sorted[i], *parent = &stacks->nodes[node->parent];

		if (node == stacks->nodes || !node->bytes || node->bytes < stacks->nodes[0].bytes / SHARE_LEAST)
			continue;
		node->next_sibling = parent->first_child;
		parent->first_child = (uint32_t)(node - stacks->nodes);
	}
	free(sorted);
	return 0;
}

static int add_node(struct rows *rows, const struct stacks *stacks, uint32_t at)
{
	const struct node *node = &stacks->nodes[at];

	row_begin(rows);
	row_count(rows, "bytes", node->bytes);
	row_share(rows, "share", node->bytes, stacks->nodes[0].bytes);
	row_count(rows, "blocks", node->nr_blocks);
	row_textf(rows, "where", "%*s%s", (int)(2 * node->depth), "", node->words);
	return row_end(rows);
}

/* Below its parent, which is.  Calls of compiled code go deep: one that is all of what called it stays where that is. */
static void indent(struct stacks *stacks, uint32_t at)
{
	struct node *node = &stacks->nodes[at];
	const struct node *parent = &stacks->nodes[node->parent];

	if (!node->parent)
		node->depth = 0;
	else if (node->is_native && parent->is_native && parent->first_child == at && !node->next_sibling &&
	         node->bytes == parent->bytes)
		node->depth = parent->depth;
	else
		node->depth = parent->depth + 1;
}

static int print_tree(struct stacks *stacks)
{
	struct report *report = stacks->report;
	uint64_t limit = report->arguments->limit == LIMIT_DEFAULT ? LIMIT_TEXT : report->arguments->limit, listed = 0;
	struct rows *rows = rows_new(report, &tree_kind);
	uint32_t at = stacks->nodes[0].first_child;
	int error = 0;

	while (at && !error && (limit == LIMIT_ALL || listed < limit)) {
		indent(stacks, at);
		error = add_node(rows, stacks, at);
		listed++;
		if (stacks->nodes[at].first_child) {
			at = stacks->nodes[at].first_child;
			continue;
		}
		while (at && !stacks->nodes[at].next_sibling)
			at = stacks->nodes[at].parent;
		at = stacks->nodes[at].next_sibling;
	}
	error = rows_close(rows, error);
	if (!error && at)
		report_say(report, 0, "(more; --limit all lists them)");
	return error;
}

static int show_tree(struct stacks *stacks)
{
	static const char *const of_words[NR_STACKS_OF] = {"what is alive at the peak", "everything that was ever allocated",
	                                                   "what was never freed"};
	struct report *report = stacks->report;
	char size[2 * FORMAT_MAX];
	format_buffer left;

	report_heading(report, "Where the memory of %s comes from, by %s: %s, %s", report->device_name,
	               report->arguments->stacks_as == STACKS_BOTTOM_UP ? "what allocated it, callers below" : "its callers",
	               of_words[stacks->of], report_size(report, stacks->nodes[0].bytes, size));
	if (!stacks->nodes[0].nr_blocks) {
		report_say(report, 0, "Nothing.");
		return 0;
	}
	if (stacks->left_out_bytes)
		report_say(report, 0, "(%s of it without a line of the user's code, not shown)",
		           report_bytes(report, stacks->left_out_bytes, left));
	return print_tree(stacks);
}

/* ---- speedscope */

static void print_string(FILE *out, const char *text)
{
	char valid[3 * FRAME_TEXT];
	json_t *string = json_string(text_make_valid(text, valid, sizeof(valid)));
	char *dumped = string ? json_dumps(string, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : NULL;

	fputs(dumped ? dumped : "\"?\"", out);
	free(dumped);
	json_decref(string);
}

static int print_sample(const struct store_stack *stack, void *arg)
{
	struct stacks *stacks = arg;
	FILE *out = stacks->report->out;
	char words[FRAME_TEXT];
	bool any = false;
	int error = 0;

	fputs(stacks->listed++ ? ",\n[" : "\n[", out);
	for (unsigned i = 0; i < stack->nr_frames; i++) {
		spell_frame(stacks, &stack->frames[i], true, words);
		uint32_t at = child_of(stacks, 0, stack->frames[i].id, words, &error);

		if (at)
			fprintf(out, "%s%" PRIu32, any ? "," : "", at - 1);
		any |= at != 0;
	}
	putc(']', out);
	stacks->bytes += stack->bytes;
	if (json_array_append_new(stacks->weights, json_integer((json_int_t)stack->bytes)))
		error = -ENOMEM;
	return error ? error : report_check(stacks->report);
}

/* Samples first, since they name the frames; the order of an object's keys means nothing. */
static int print_speedscope(struct stacks *stacks, uint64_t seq)
{
	struct report *report = stacks->report;
	FILE *out = report->out;
	char name[128];

	snprintf(name, sizeof(name), "%s, %s", report->device_name, of_names[stacks->of]);
	fputs("{\"$schema\":\"https://www.speedscope.app/file-format-schema.json\",\"exporter\":\"nnmem\",\n"
	      "\"profiles\":[{\"type\":\"sampled\",\"unit\":\"bytes\",\"name\":",
	      out);
	print_string(out, name);
	fputs(",\"startValue\":0,\"samples\":[", out);
	int error = store_each_stack(report->store, report->device, stacks->of, seq, &report->arguments->filter, print_sample,
	                             stacks);

	if (error)
		return error;
	fprintf(out, "],\n\"endValue\":%" PRIu64 ",\"weights\":", stacks->bytes);
	json_dumpf(stacks->weights, out, JSON_COMPACT);
	fputs("}],\n\"shared\":{\"frames\":[", out);
	for (uint32_t i = 1; i < stacks->nr_nodes; i++) {
		fputs(i > 1 ? ",\n{\"name\":" : "\n{\"name\":", out);
		print_string(out, stacks->nodes[i].words);
		putc('}', out);
	}
	fputs("]}}\n", out);
	return 0;
}

/* ---- for programs */

static const struct row_column stack_columns[] = {
        {"device", NULL, COLUMN_TEXT, 0, 0},  {"of", NULL, COLUMN_TEXT, 0, 0},    {"bytes", NULL, COLUMN_BYTES, 0, 0},
        {"blocks", NULL, COLUMN_COUNT, 0, 0}, {"stack", NULL, COLUMN_TEXT, 0, 0},
};
static const struct row_kind stack_kind = ROW_KIND("stack", stack_columns);
static const struct row_kind *const kinds[] = {&stack_kind, NULL};

static int stack_row(const struct store_stack *stack, void *arg)
{
	struct stacks *stacks = arg;
	char *text;

	if (stacks->limit != LIMIT_ALL && stacks->listed == stacks->limit)
		return 1;
	stacks->listed++;
	text = stack->nr_frames ? fold(stacks, stack) : NULL;
	if (stack->nr_frames && !text)
		return -ENOMEM;
	row_begin(stacks->rows);
	row_text(stacks->rows, "device", stacks->report->device_name);
	row_text(stacks->rows, "of", of_names[stacks->of]);
	row_count(stacks->rows, "bytes", stack->bytes);
	row_count(stacks->rows, "blocks", stack->nr_blocks);
	row_text(stacks->rows, "stack", text);
	free(text);
	return row_end(stacks->rows);
}

/* ---- the view */

static int show_as(struct stacks *stacks, uint64_t seq)
{
	struct report *report = stacks->report;
	const struct arguments *arguments = report->arguments;
	int (*each)(const struct store_stack *, void *) = add_to_tree;
	int error;

	if (report_is_for_people(report) && arguments->stacks_as == STACKS_SPEEDSCOPE)
		return print_speedscope(stacks, seq);
	if (report_is_for_people(report) && arguments->stacks_as == STACKS_FOLDED)
		each = print_folded;
	if (!report_is_for_people(report)) {
		each = stack_row;
		stacks->limit = arguments->limit == LIMIT_DEFAULT ? LIMIT_ALL : arguments->limit;
		stacks->rows = rows_new(report, &stack_kind);
	}
	error = store_each_stack(report->store, report->device, stacks->of, seq, &arguments->filter, each, stacks);
	if (each == stack_row)
		return rows_close(stacks->rows, error == 1 ? 0 : error);
	if (!error && each == add_to_tree)
		error = link_nodes(stacks);
	return error || each == print_folded ? error : show_tree(stacks);
}

static int show_stacks(struct report *report)
{
	struct stacks stacks = {.report = report, .of = report->arguments->stacks_of, .nr_nodes = 1, .room = 64};
	struct store_device device;
	int error = report_read_device(report, &device);

	if (error)
		return error;
	stacks.nodes = calloc(stacks.room, sizeof(*stacks.nodes));
	stacks.slots = calloc(NR_SLOTS, sizeof(*stacks.slots));
	stacks.weights = json_array();
	error = symbols_new(SYMBOLS_DEBUG, &stacks.symbols);
	if (!error)
		error = stacks.nodes && stacks.slots && stacks.weights ? show_as(&stacks, device.peak_seq) : -ENOMEM;
	for (uint32_t i = 0; stacks.nodes && i < stacks.nr_nodes; i++)
		free(stacks.nodes[i].words);
	free(stacks.nodes);
	free(stacks.slots);
	symbols_free(stacks.symbols);
	json_decref(stacks.weights);
	return error;
}

static int show(struct report *report)
{
	bool tree = report->arguments->stacks_as <= STACKS_BOTTOM_UP && report_is_for_people(report), has_stacks = false;
	int error = tree ? report_losses(report) : 0;

	if (!error)
		error = store_has_stacks(report->store, &has_stacks);
	if (error)
		return error;
	if (tree && !report->has_device)
		fprintf(report->out, "No tensor was allocated in this run.\n");
	else if (tree && !has_stacks)
		report_say(report, 0,
		           "The run recorded no stacks: NNMEM_STACKS=python, the default, records them; see nnmem-run(1).");
	else if (report->has_device)
		error = show_stacks(report);
	return error ? error : report_check(report);
}

const struct report_view stacks_view = {
        .name = "stacks",
        .help = "where memory comes from, by the stack that allocated it; --bottom-up, --folded, --speedscope",
        .filters = FILTERS_ALL,
        .kinds = kinds,
        .show = show,
};
