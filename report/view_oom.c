/*
 * oom: each time that memory was refused: what was asked for and by whom, what was alive then, why it did not fit, and what
 * would help.  A refusal by the driver after which PyTorch's second try succeeded is a near miss.
 *
 * When PyTorch reports out of memory it has already given back every segment without blocks.  What would have fit is then the
 * largest free piece of a segment, or what the driver still has, in pages of 2 MiB.
 */
#include "report/driver.h"
#include "report/instant.h"
#include "report/live.h"
#include "report/memory_map.h"

#include "report/groups.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES  (UINT64_C(2) << 20) /* what the driver gives out */
#define LAYERS_TEXT 8u
#define GAPS_TEXT   5u
#define OOMS_TEXT   5u    /* the last ones, unless --limit=all */
#define MAX_OOMS    4096u /* of a run that catches them all, the last ones */
#define MAX_ADVICE  8u
#define WORTH_PART  20u /* advice is worth its line from a 20th of what was asked for */

enum cause { CAUSE_TOO_LARGE, CAUSE_FRAGMENTED, CAUSE_OTHERS, CAUSE_FULL, NR_CAUSES };

static const char *const cause_names[NR_CAUSES] = {"too_large", "fragmented", "others", "full"};

/* An out of memory, or a near miss, as the store has it, its strings copied. */
struct refused {
	struct store_oom oom;
	char *root, *layer, *line, *operation;
	uint64_t number; /* from 1 */
};

struct refused_list {
	struct refused *all;
	size_t nr, room;
	uint64_t seen;
	uint16_t device;
};

struct gap {
	uint64_t size_bytes;
	const struct store_placed *before, *after; /* NULL: the segment's border */
};

struct advice {
	const char *name; /* for programs */
	uint64_t bytes;   /* what it would free, 0: not known */
	char words[320];
};

struct autopsy {
	struct report *report;
	const struct refused *refused;
	struct live live;
	struct memory_map map;
	struct driver_said driver;
	const struct live_owner **owners;
	size_t nr_owners;
	struct gap *gaps; /* the largest first */
	size_t nr_gaps, room_gaps;
	uint64_t available_bytes, fits_bytes; /* of the driver; the largest block that would have fit */
	enum cause cause;
	struct advice advice[MAX_ADVICE];
	unsigned nr_advice;
};

/* ---- reading */

static int copy(const char *text, char **ret)
{
	*ret = text ? strdup(text) : NULL;
	return text && !*ret ? -ENOMEM : 0;
}

static void refused_release(struct refused *refused)
{
	free(refused->root);
	free(refused->layer);
	free(refused->line);
	free(refused->operation);
}

static int add_refused(struct refused_list *list, const struct store_oom *oom)
{
	struct refused *refused;

	if (oom->device != list->device)
		return 0;
	list->seen++;
	if (list->nr == MAX_OOMS) {
		refused_release(&list->all[0]);
		memmove(&list->all[0], &list->all[1], --list->nr * sizeof(*list->all));
	}
	if (list->nr == list->room) {
		size_t room = list->room ? 2 * list->room : 16;
		struct refused *all = realloc(list->all, room * sizeof(*all));

		if (!all)
			return -ENOMEM;
		list->all = all;
		list->room = room;
	}
	refused = &list->all[list->nr++];
	*refused = (struct refused){.oom = *oom, .number = list->seen};
	refused->oom.root = refused->oom.layer = refused->oom.line = refused->oom.operation = NULL;
	return copy(oom->root, &refused->root) || copy(oom->layer, &refused->layer) || copy(oom->line, &refused->line) ||
	                       copy(oom->operation, &refused->operation)
	               ? -ENOMEM
	               : 0;
}

static int each_oom(const struct store_oom *oom, void *arg)
{
	return add_refused(arg, oom);
}

static int each_refusal(const struct store_oom *refusal, bool near_miss, void *arg)
{
	return near_miss ? add_refused(arg, refusal) : 0;
}

static void list_release(struct refused_list *list)
{
	for (size_t i = 0; i < list->nr; i++)
		refused_release(&list->all[i]);
	free(list->all);
}

static int compare_gaps(const void *a, const void *b)
{
	const struct gap *x = a, *y = b;

	return (x->size_bytes < y->size_bytes) - (x->size_bytes > y->size_bytes);
}

static int add_gap(uint64_t address, uint64_t size_bytes, const struct store_placed *before, const struct store_placed *after,
                   void *arg)
{
	struct autopsy *autopsy = arg;

	if (autopsy->nr_gaps == autopsy->room_gaps) {
		size_t room = autopsy->room_gaps ? 2 * autopsy->room_gaps : 64;
		struct gap *gaps = realloc(autopsy->gaps, room * sizeof(*gaps));

		if (!gaps)
			return -ENOMEM;
		autopsy->gaps = gaps;
		autopsy->room_gaps = room;
	}
	autopsy->gaps[autopsy->nr_gaps++] = (struct gap){size_bytes, before, after};
	return 0;
}

static int read_gaps(struct autopsy *autopsy)
{
	int error = 0;

	for (size_t i = 0; i < autopsy->map.nr_regions && !error; i++)
		if (autopsy->map.regions[i].of_pytorch)
			error = memory_map_each_gap(&autopsy->map, &autopsy->map.regions[i], add_gap, autopsy);
	if (autopsy->nr_gaps)
		qsort(autopsy->gaps, autopsy->nr_gaps, sizeof(*autopsy->gaps), compare_gaps);
	return error;
}

/* ---- why */

static void find_cause(struct autopsy *autopsy)
{
	const struct memory_map *map = &autopsy->map;
	uint64_t wanted = autopsy->refused->oom.size_bytes;
	uint64_t total = autopsy->driver.known ? autopsy->driver.said.total_bytes : 0;
	uint64_t others = autopsy->driver.used_bytes > map->reserved_bytes ? autopsy->driver.used_bytes - map->reserved_bytes : 0;

	if (autopsy->driver.known && total > autopsy->driver.used_bytes)
		autopsy->available_bytes = total - autopsy->driver.used_bytes;
	autopsy->fits_bytes = autopsy->available_bytes / PAGE_BYTES * PAGE_BYTES;
	if (map->largest_free_bytes > autopsy->fits_bytes)
		autopsy->fits_bytes = map->largest_free_bytes;
	if (total && wanted > total - (autopsy->driver.context_bytes < total ? autopsy->driver.context_bytes : 0))
		autopsy->cause = CAUSE_TOO_LARGE;
	else if (wanted <= map->free_bytes + autopsy->available_bytes)
		autopsy->cause = CAUSE_FRAGMENTED;
	else if (total && wanted <= map->free_bytes + autopsy->available_bytes + others -
	                                    (autopsy->driver.context_bytes < others ? autopsy->driver.context_bytes : others))
		autopsy->cause = CAUSE_OTHERS;
	else
		autopsy->cause = CAUSE_FULL;
}

/* ---- what would help */

__attribute__((format(printf, 4, 5))) static void advise(struct autopsy *autopsy, const char *name, uint64_t bytes,
                                                         const char *format, ...)
{
	struct advice *advice = &autopsy->advice[autopsy->nr_advice];
	va_list list;

	if (autopsy->nr_advice == MAX_ADVICE)
		return;
	autopsy->nr_advice++;
	*advice = (struct advice){.name = name, .bytes = bytes};
	va_start(list, format);
	vsnprintf(advice->words, sizeof(advice->words), format, list);
	va_end(list);
}

static bool is_worth(const struct autopsy *autopsy, uint64_t bytes)
{
	return bytes && bytes >= autopsy->refused->oom.size_bytes / WORTH_PART;
}

static void advise_on_categories(struct autopsy *autopsy)
{
	const uint64_t *bytes = autopsy->map.category_bytes;
	uint64_t saved = bytes[CATEGORY_ACTIVATION] + bytes[CATEGORY_RECOMPUTE];
	unsigned phase = autopsy->refused->oom.phase;
	format_buffer size;

	if (is_worth(autopsy, saved))
		advise(autopsy, "activations", saved,
		       "%s are activations saved for backward: a smaller batch, or torch.utils.checkpoint around the layers that "
		       "have most",
		       report_bytes(autopsy->report, saved, size));
	if (phase == PHASE_FORWARD && is_worth(autopsy, bytes[CATEGORY_GRADIENT]))
		advise(autopsy, "gradients", bytes[CATEGORY_GRADIENT],
		       "%s are gradients that are still alive in forward: zero_grad(set_to_none=True) before it, unless they are "
		       "accumulated",
		       report_bytes(autopsy->report, bytes[CATEGORY_GRADIENT], size));
	if (phase == PHASE_OPTIMIZER && is_worth(autopsy, bytes[CATEGORY_OPTIMIZER_TEMPORARY]))
		advise(autopsy, "optimizer_temporaries", bytes[CATEGORY_OPTIMIZER_TEMPORARY],
		       "%s are temporaries of step(): fused=True, or foreach=False, needs fewer",
		       report_bytes(autopsy->report, bytes[CATEGORY_OPTIMIZER_TEMPORARY], size));
	if (is_worth(autopsy, bytes[CATEGORY_OPTIMIZER_STATE]))
		advise(autopsy, "optimizer_state", bytes[CATEGORY_OPTIMIZER_STATE],
		       "%s are optimizer state: an optimizer with less of it, or with 8-bit state",
		       report_bytes(autopsy->report, bytes[CATEGORY_OPTIMIZER_STATE], size));
	if (is_worth(autopsy, bytes[CATEGORY_UNKNOWN] + bytes[CATEGORY_INPUT]))
		advise(autopsy, "outside", bytes[CATEGORY_UNKNOWN] + bytes[CATEGORY_INPUT],
		       "%s are inputs or were made outside the training: what is kept between steps can be freed (view growth)",
		       report_bytes(autopsy->report, bytes[CATEGORY_UNKNOWN] + bytes[CATEGORY_INPUT], size));
}

static void find_advice(struct autopsy *autopsy)
{
	const struct memory_map *map = &autopsy->map;
	uint64_t others, wanted = autopsy->refused->oom.size_bytes;
	format_buffer size, most;

	others = autopsy->driver.used_bytes > map->reserved_bytes ? autopsy->driver.used_bytes - map->reserved_bytes : 0;
	if (autopsy->cause == CAUSE_TOO_LARGE)
		advise(autopsy, "too_large", wanted,
		       "%s in one piece is more than the device has: the tensor itself must be smaller, or made in parts",
		       report_bytes(autopsy->report, wanted, size));
	if (autopsy->cause == CAUSE_FRAGMENTED && !map->expandable)
		advise(autopsy, "expandable_segments", map->free_bytes,
		       "%s are free, but in pieces of at most %s: PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True makes them "
		       "one",
		       report_bytes(autopsy->report, map->free_bytes, size),
		       report_bytes(autopsy->report, map->largest_free_bytes, most));
	advise_on_categories(autopsy);
	others -= autopsy->driver.context_bytes < others ? autopsy->driver.context_bytes : others;
	if (is_worth(autopsy, others))
		advise(autopsy, "others", others,
		       "%s of the device are used by others than PyTorch's allocator: the view ledger says by whom",
		       report_bytes(autopsy->report, others, size));
}

/* ---- one autopsy */

static int autopsy_read(struct report *report, const struct refused *refused, struct autopsy *ret)
{
	uint16_t device = report->device;
	uint64_t seq = refused->oom.seq;
	int error;

	*ret = (struct autopsy){.report = report, .refused = refused};
	error = live_read(report, device, seq, &ret->live);
	if (!error)
		error = memory_map_read(report, device, seq, &ret->map);
	if (!error)
		error = driver_read(report, device, seq, &ret->map, &ret->driver);
	if (!error)
		error = read_gaps(ret);
	if (!error) {
		ret->owners = live_owners(&ret->live, &ret->nr_owners);
		error = ret->owners ? 0 : -ENOMEM;
	}
	if (!error) {
		find_cause(ret);
		find_advice(ret);
	}
	return error;
}

static void autopsy_release(struct autopsy *autopsy)
{
	live_release(&autopsy->live);
	memory_map_release(&autopsy->map);
	free(autopsy->owners);
	free(autopsy->gaps);
}

/* The categories that had any, most bytes first.  Returns how many. */
static unsigned order_categories(const struct autopsy *autopsy, unsigned ret[NR_CATEGORIES])
{
	const uint64_t *bytes = autopsy->map.category_bytes;
	unsigned nr = 0;

	for (unsigned i = 0; i < NR_CATEGORIES; i++) {
		unsigned at = nr;

		if (!bytes[i])
			continue;
		for (; at > 0 && bytes[ret[at - 1]] < bytes[i]; at--)
			ret[at] = ret[at - 1];
		ret[at] = i;
		nr++;
	}
	return nr;
}

/* ---- for people */

static const struct row_column category_columns[] = {
        {"size_bytes", "%", COLUMN_BYTES, 0, 0},
        {"share", "", COLUMN_TEXT, COLUMN_RIGHT, 0},
        {"blocks", "blocks", COLUMN_COUNT, 0, 0},
        {"category", "what was alive", COLUMN_TEXT, 0, 0},
};
static const struct row_kind category_table = ROW_KIND("category", category_columns);
static const struct row_column layer_columns[] = {
        {"size_bytes", "%", COLUMN_BYTES, 0, 0},
        {"share", "", COLUMN_TEXT, COLUMN_RIGHT, 0},
        {"layer", "whose", COLUMN_TEXT, COLUMN_FLEXIBLE | COLUMN_CUT_START, 0},
};
static const struct row_kind layer_table = ROW_KIND("layer", layer_columns);
static const struct row_column gap_columns[] = {
        {"size_bytes", "%", COLUMN_BYTES, 0, 0},
        {"before", "free, after", COLUMN_TEXT, COLUMN_FLEXIBLE, 0},
        {"after", "before", COLUMN_TEXT, COLUMN_FLEXIBLE, 0},
};
static const struct row_kind gap_table = ROW_KIND("gap", gap_columns);

static int print_categories(struct autopsy *autopsy)
{
	struct rows *rows = rows_new(autopsy->report, &category_table);
	unsigned order[NR_CATEGORIES], nr = order_categories(autopsy, order);
	int error = 0;

	for (unsigned i = 0; i < nr && !error; i++) {
		row_begin(rows);
		row_count(rows, "size_bytes", autopsy->map.category_bytes[order[i]]);
		row_share(rows, "share", autopsy->map.category_bytes[order[i]], autopsy->live.bytes);
		row_count(rows, "blocks", autopsy->map.category_blocks[order[i]]);
		row_text(rows, "category", category_words(order[i]));
		error = row_end(rows);
	}
	return rows_close(rows, error);
}

static int print_layers(struct autopsy *autopsy)
{
	struct report *report = autopsy->report;
	struct rows *rows = rows_new(report, &layer_table);
	uint64_t limit = report->arguments->limit == LIMIT_DEFAULT ? LAYERS_TEXT : report->arguments->limit, rest = 0;
	int error = 0;

	for (size_t i = 0; i < autopsy->nr_owners && !error; i++) {
		const struct live_owner *owner = autopsy->owners[i];

		if (limit != LIMIT_ALL && i >= limit) {
			rest += owner->bytes;
			continue;
		}
		row_begin(rows);
		row_count(rows, "size_bytes", owner->bytes);
		row_share(rows, "share", owner->bytes, autopsy->live.bytes);
		row_text(rows, "layer", owner->layer ? report_layer(report, owner->root, owner->layer) : "no layer");
		error = row_end(rows);
	}
	if (rest && !error) {
		row_begin_for_people(rows, STYLE_FAINT);
		row_count(rows, "size_bytes", rest);
		row_share(rows, "share", rest, autopsy->live.bytes);
		row_text(rows, "layer", "other layers");
		error = row_end(rows);
	}
	return rows_close(rows, error);
}

struct neighbour {
	struct report *report;
	char words[2 * SAFE_TEXT_MAX];
};

/* "optimizer state of 0 (train.py:12)" */
static int describe(const struct store_allocation *allocation, void *arg)
{
	struct neighbour *neighbour = arg;
	struct report *report = neighbour->report;
	const char *line = short_line(report, allocation->line, false);

	snprintf(neighbour->words, sizeof(neighbour->words), "%s%s%s%s%s%s", category_words(allocation->category),
	         allocation->layer ? " of " : "",
	         allocation->layer ? report_layer(report, allocation->root, allocation->layer) : "", *line ? " (" : "", line,
	         *line ? ")" : "");
	return 0;
}

static int describe_neighbour(struct neighbour *neighbour, const struct store_placed *block)
{
	snprintf(neighbour->words, sizeof(neighbour->words), "the segment's border");
	return block ? store_one_allocation(neighbour->report->store, block->id, describe, neighbour) : 0;
}

static int print_gaps(struct autopsy *autopsy)
{
	struct rows *rows = rows_new(autopsy->report, &gap_table);
	struct neighbour before = {.report = autopsy->report}, after = {.report = autopsy->report};
	int error = 0;

	for (size_t i = 0; i < autopsy->nr_gaps && i < GAPS_TEXT && !error; i++) {
		error = describe_neighbour(&before, autopsy->gaps[i].before);
		if (!error)
			error = describe_neighbour(&after, autopsy->gaps[i].after);
		if (error)
			break;
		row_begin(rows);
		row_count(rows, "size_bytes", autopsy->gaps[i].size_bytes);
		row_text(rows, "before", before.words);
		row_text(rows, "after", after.words);
		error = row_end(rows);
	}
	return rows_close(rows, error);
}

static void print_request(struct report *report, const struct refused *refused, const char *what)
{
	const struct store_oom *oom = &refused->oom;
	const char *line = short_line(report, refused->line, true);
	format_buffer when;
	char whole[2 * FORMAT_MAX];

	report_heading(report, "%s %" PRIu64 " on %s: %s asked for", what, refused->number, report->device_name,
	               report_size(report, oom->size_bytes, whole));
	report_say(report, 0, "Step %" PRIu64 ", %s, %s after the start%s%s%s%s%s%s", oom->step, phase_name(oom->phase),
	           format_duration(oom->ns, when), refused->layer ? ", for layer " : "",
	           refused->layer ? report_layer(report, refused->root, refused->layer) : "", refused->operation ? ", " : "",
	           refused->operation ? report_safe(report, refused->operation) : "", *line ? " at " : "", line);
}

static void print_cause(struct autopsy *autopsy)
{
	struct report *report = autopsy->report;
	const struct memory_map *map = &autopsy->map;
	static const char *const words[NR_CAUSES] = {
	        [CAUSE_TOO_LARGE] = "It is more than the device could ever give.",
	        [CAUSE_FRAGMENTED] = "There was enough, but in pieces: fragmentation.",
	        [CAUSE_OTHERS] = "What others than PyTorch use would have been enough.",
	        [CAUSE_FULL] = "There was not enough.",
	};
	format_buffer allocated, reserved, pieces, largest, fits, available, gaps;

	report_say(report, 0, "PyTorch had %s in blocks and %s reserved; %s were free in %s piece%s, the largest %s",
	           report_bytes(report, autopsy->live.bytes, allocated), report_bytes(report, map->reserved_bytes, reserved),
	           report_bytes(report, map->free_bytes, pieces), format_count(map->nr_gaps, gaps), map->nr_gaps == 1 ? "" : "s",
	           report_bytes(report, map->largest_free_bytes, largest));
	if (autopsy->driver.known)
		report_say(report, 0, "The driver had %s left of %s", report_bytes(report, autopsy->available_bytes, available),
		           report_bytes(report, autopsy->driver.said.total_bytes, reserved));
	report_say(report, 0, "%s The largest block that would have fit: %s", words[autopsy->cause],
	           report_bytes(report, autopsy->fits_bytes, fits));
	putc('\n', report->out);
}

static void print_advice(struct autopsy *autopsy)
{
	struct report *report = autopsy->report;

	if (autopsy->nr_advice)
		report_say(report, 0, "What would help:");
	for (unsigned i = 0; i < autopsy->nr_advice; i++)
		report_say(report, 2, "- %s", autopsy->advice[i].words);
}

static int show_autopsy(struct autopsy *autopsy)
{
	int error;

	print_request(autopsy->report, autopsy->refused, "Out of memory");
	print_cause(autopsy);
	error = print_categories(autopsy);
	putc('\n', autopsy->report->out);
	if (!error)
		error = print_layers(autopsy);
	putc('\n', autopsy->report->out);
	if (!error && autopsy->nr_gaps) {
		error = print_gaps(autopsy);
		putc('\n', autopsy->report->out);
	}
	if (!error)
		print_advice(autopsy);
	return error;
}

/* ---- for programs */

static const struct row_column oom_columns[] = {
        {"number", NULL, COLUMN_NUMBER, 0, 0},
        {"near_miss", NULL, COLUMN_BOOL, 0, 0},
        {"device", NULL, COLUMN_TEXT, 0, 0},
        {"seq", NULL, COLUMN_NUMBER, 0, 0},
        {"ns", NULL, COLUMN_DURATION, 0, 0},
        {"step", NULL, COLUMN_NUMBER, 0, 0},
        {"phase", NULL, COLUMN_TEXT, 0, 0},
        {"thread", NULL, COLUMN_NUMBER, 0, 0},
        {"root", NULL, COLUMN_TEXT, 0, 0},
        {"layer", NULL, COLUMN_TEXT, 0, 0},
        {"operation", NULL, COLUMN_TEXT, 0, 0},
        {"line", NULL, COLUMN_TEXT, 0, 0},
        {"size_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"allocated_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"reserved_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"free_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"gaps", NULL, COLUMN_COUNT, 0, 0},
        {"largest_free_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"driver_used_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"driver_total_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"fits_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"cause", NULL, COLUMN_TEXT, 0, 0},
};
static const struct row_kind oom_kind = ROW_KIND("oom", oom_columns);
static const struct row_column alive_columns[] = {
        {"number", NULL, COLUMN_NUMBER, 0, 0},
        {"category", NULL, COLUMN_TEXT, 0, 0},
        {"bytes", NULL, COLUMN_BYTES, 0, 0},
        {"blocks", NULL, COLUMN_COUNT, 0, 0},
};
static const struct row_kind alive_kind = ROW_KIND("category", alive_columns);
static const struct row_column owner_columns[] = {
        {"number", NULL, COLUMN_NUMBER, 0, 0},
        {"root", NULL, COLUMN_TEXT, 0, 0},
        {"layer", NULL, COLUMN_TEXT, 0, 0},
        {"bytes", NULL, COLUMN_BYTES, 0, 0},
};
static const struct row_kind owner_kind = ROW_KIND("layer", owner_columns);
static const struct row_column piece_columns[] = {
        {"number", NULL, COLUMN_NUMBER, 0, 0},       {"bytes", NULL, COLUMN_BYTES, 0, 0},
        {"before_block", NULL, COLUMN_NUMBER, 0, 0}, {"before_category", NULL, COLUMN_TEXT, 0, 0},
        {"after_block", NULL, COLUMN_NUMBER, 0, 0},  {"after_category", NULL, COLUMN_TEXT, 0, 0},
};
static const struct row_kind piece_kind = ROW_KIND("gap", piece_columns);
static const struct row_column advice_columns[] = {
        {"number", NULL, COLUMN_NUMBER, 0, 0},
        {"advice", NULL, COLUMN_TEXT, 0, 0},
        {"bytes", NULL, COLUMN_BYTES, 0, 0},
        {"words", NULL, COLUMN_TEXT, 0, 0},
};
static const struct row_kind advice_kind = ROW_KIND("advice", advice_columns);
static const struct row_kind *const kinds[] = {&oom_kind, &alive_kind, &owner_kind, &piece_kind, &advice_kind, NULL};

/* The row of a refusal; @autopsy: NULL for a near miss. */
static int refused_row(struct report *report, const struct refused *refused, const struct autopsy *autopsy)
{
	struct rows *rows = rows_new(report, &oom_kind);
	const struct store_oom *oom = &refused->oom;

	row_begin(rows);
	row_count(rows, "number", refused->number);
	row_bool(rows, "near_miss", !autopsy);
	row_text(rows, "device", report->device_name);
	row_count(rows, "seq", oom->seq);
	row_count(rows, "ns", oom->ns);
	row_count(rows, "step", oom->step);
	row_text(rows, "phase", phase_name(oom->phase));
	row_count(rows, "thread", oom->thread);
	row_text(rows, "root", refused->root);
	row_text(rows, "layer", refused->layer);
	row_text(rows, "operation", refused->operation);
	row_text(rows, "line", refused->line);
	row_count(rows, "size_bytes", oom->size_bytes);
	row_count(rows, "allocated_bytes", oom->allocated_bytes);
	row_count(rows, "reserved_bytes", oom->reserved_bytes);
	if (autopsy) {
		row_count(rows, "free_bytes", autopsy->map.free_bytes);
		row_count(rows, "gaps", autopsy->map.nr_gaps);
		row_count(rows, "largest_free_bytes", autopsy->map.largest_free_bytes);
		if (autopsy->driver.known) {
			row_count(rows, "driver_used_bytes", autopsy->driver.used_bytes);
			row_count(rows, "driver_total_bytes", autopsy->driver.said.total_bytes);
		}
		row_count(rows, "fits_bytes", autopsy->fits_bytes);
		row_text(rows, "cause", cause_names[autopsy->cause]);
	}
	return rows_close(rows, row_end(rows));
}

static int category_rows(struct autopsy *autopsy)
{
	struct rows *rows = rows_new(autopsy->report, &alive_kind);
	unsigned order[NR_CATEGORIES], nr = order_categories(autopsy, order);
	int error = 0;

	for (unsigned i = 0; i < nr && !error; i++) {
		row_begin(rows);
		row_count(rows, "number", autopsy->refused->number);
		row_text(rows, "category", category_name(order[i]));
		row_count(rows, "bytes", autopsy->map.category_bytes[order[i]]);
		row_count(rows, "blocks", autopsy->map.category_blocks[order[i]]);
		error = row_end(rows);
	}
	return rows_close(rows, error);
}

static int layer_rows(struct autopsy *autopsy)
{
	struct rows *rows = rows_new(autopsy->report, &owner_kind);
	int error = 0;

	for (size_t i = 0; i < autopsy->nr_owners && !error; i++) {
		row_begin(rows);
		row_count(rows, "number", autopsy->refused->number);
		row_text(rows, "root", autopsy->owners[i]->root);
		row_text(rows, "layer", autopsy->owners[i]->layer);
		row_count(rows, "bytes", autopsy->owners[i]->bytes);
		error = row_end(rows);
	}
	return rows_close(rows, error);
}

static int gap_rows(struct autopsy *autopsy)
{
	struct rows *rows = rows_new(autopsy->report, &piece_kind);
	int error = 0;

	for (size_t i = 0; i < autopsy->nr_gaps && !error; i++) {
		const struct gap *gap = &autopsy->gaps[i];

		row_begin(rows);
		row_count(rows, "number", autopsy->refused->number);
		row_count(rows, "bytes", gap->size_bytes);
		if (gap->before) {
			row_count(rows, "before_block", gap->before->id);
			row_text(rows, "before_category", category_name(gap->before->category));
		}
		if (gap->after) {
			row_count(rows, "after_block", gap->after->id);
			row_text(rows, "after_category", category_name(gap->after->category));
		}
		error = row_end(rows);
	}
	return rows_close(rows, error);
}

static int advice_rows(struct autopsy *autopsy)
{
	struct rows *rows = rows_new(autopsy->report, &advice_kind);
	int error = 0;

	for (unsigned i = 0; i < autopsy->nr_advice && !error; i++) {
		row_begin(rows);
		row_count(rows, "number", autopsy->refused->number);
		row_text(rows, "advice", autopsy->advice[i].name);
		row_count(rows, "bytes", autopsy->advice[i].bytes);
		row_text(rows, "words", autopsy->advice[i].words);
		error = row_end(rows);
	}
	return rows_close(rows, error);
}

static int autopsy_rows(struct autopsy *autopsy)
{
	int error = refused_row(autopsy->report, autopsy->refused, autopsy);

	if (!error)
		error = category_rows(autopsy);
	if (!error)
		error = layer_rows(autopsy);
	if (!error)
		error = gap_rows(autopsy);
	return error ? error : advice_rows(autopsy);
}

/* ---- the view */

static int show_ooms(struct report *report, const struct refused_list *ooms)
{
	bool people = report_is_for_people(report);
	size_t first = people && report->arguments->limit != LIMIT_ALL && ooms->nr > OOMS_TEXT ? ooms->nr - OOMS_TEXT : 0;
	int error = 0;

	if (people && ooms->nr - first < ooms->seen)
		fprintf(report->out, "The last %zu of %" PRIu64 " (--limit all shows more):\n", ooms->nr - first, ooms->seen);
	for (size_t i = first; i < ooms->nr && !error; i++) {
		struct autopsy autopsy;

		error = autopsy_read(report, &ooms->all[i], &autopsy);
		if (!error && people && i > first)
			putc('\n', report->out);
		if (!error)
			error = people ? show_autopsy(&autopsy) : autopsy_rows(&autopsy);
		autopsy_release(&autopsy);
	}
	return error;
}

static int show_near_misses(struct report *report, const struct refused_list *misses)
{
	int error = 0;

	for (size_t i = 0; i < misses->nr && !error; i++) {
		if (!report_is_for_people(report)) {
			error = refused_row(report, &misses->all[i], NULL);
			continue;
		}
		putc('\n', report->out);
		print_request(report, &misses->all[i], "Near miss");
		report_say(report, 0, "The driver refused; PyTorch gave back what it kept, and the second call succeeded");
	}
	return error;
}

static int show(struct report *report)
{
	struct refused_list ooms = {.device = report->device}, misses = {.device = report->device};
	int error = report_is_for_people(report) ? report_losses(report) : 0;

	if (error)
		return error;
	if (!report_has_device_memory(report))
		return report_check(report);
	error = store_each_oom(report->store, each_oom, &ooms);
	if (!error)
		error = store_each_refusal(report->store, each_refusal, &misses);
	if (!error && !ooms.nr && !misses.nr && report_is_for_people(report))
		fprintf(report->out, "%s was never out of memory in this run, nor nearly.\n", report->device_name);
	if (!error)
		error = show_ooms(report, &ooms);
	if (!error)
		error = show_near_misses(report, &misses);
	list_release(&ooms);
	list_release(&misses);
	return error ? error : report_check(report);
}

const struct report_view oom_view = {
        .name = "oom",
        .help = "each time a GPU was out of memory: why, what was alive, what would help; and near misses",
        .filters = FILTER_DEVICE,
        .kinds = kinds,
        .show = show,
};
