/*
 * segments: where the blocks lie in the memory that PyTorch's allocator has taken from the device, and what is free between
 * them; drawn, a line for each segment, every column an equal part of it.
 *
 * Free memory in pieces is what an allocation of more than the largest piece cannot use: that is fragmentation.  What
 * expandable segments would have made of the same blocks is an estimate (expandable.h), and said to be one.
 */
#include "report/block_row.h"
#include "report/expandable.h"
#include "report/instant.h"
#include "report/live.h"
#include "report/memory_map.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_TEXT    20u
#define MAP_MIN       16u
#define MAP_MAX       200u
#define OTHER_COLUMNS 50u /* of a line beside the map */
#define FREE_LETTER   '.'
#define MIXED_LETTER  ':'

/* A letter for each category, in the map and its legend. */
static const char letters[NR_CATEGORIES] = {
        [CATEGORY_UNKNOWN] = '?',
        [CATEGORY_PARAMETER] = 'P',
        [CATEGORY_BUFFER] = 'B',
        [CATEGORY_GRADIENT] = 'G',
        [CATEGORY_OPTIMIZER_STATE] = 'O',
        [CATEGORY_ACTIVATION] = 'A',
        [CATEGORY_INPUT] = 'I',
        [CATEGORY_FORWARD_TEMPORARY] = 'f',
        [CATEGORY_BACKWARD_TEMPORARY] = 'b',
        [CATEGORY_OPTIMIZER_TEMPORARY] = 'o',
        [CATEGORY_RECOMPUTE] = 'r',
        [CATEGORY_WORKSPACE] = 'W',
        [CATEGORY_COMMUNICATION] = 'C',
};

struct segments {
	struct report *report;
	struct instant instant;
	struct store_device device;
	struct memory_map map;
	struct expandable expandable;
	uint64_t nr_refusals, nr_near_misses;
	size_t *order; /* of regions: PyTorch's first, the largest first */
	/* For programs. */
	struct rows *rows;
	const struct map_region *region;
	uint64_t number; /* of the region, from 1 */
};

static int each_refusal(const struct store_oom *refusal, bool near_miss, void *arg)
{
	struct segments *segments = arg;

	if (refusal->device != segments->report->device)
		return 0;
	segments->nr_refusals++;
	segments->nr_near_misses += near_miss;
	return 0;
}

/* qsort() has no argument: what is ordered. */
static const struct map_region *ordered;

static int compare_regions(const void *a, const void *b)
{
	const struct map_region *x = &ordered[*(const size_t *)a], *y = &ordered[*(const size_t *)b];

	if (x->of_pytorch != y->of_pytorch)
		return x->of_pytorch ? -1 : 1;
	if (x->size_bytes != y->size_bytes)
		return x->size_bytes > y->size_bytes ? -1 : 1;
	return (x > y) - (x < y);
}

static int order_regions(struct segments *segments)
{
	segments->order = malloc((segments->map.nr_regions + 1) * sizeof(*segments->order));
	if (!segments->order)
		return -ENOMEM;
	for (size_t i = 0; i < segments->map.nr_regions; i++)
		segments->order[i] = i;
	ordered = segments->map.regions;
	qsort(segments->order, segments->map.nr_regions, sizeof(*segments->order), compare_regions);
	return 0;
}

/* ---- the drawing */

/* Bytes of [start, end) that a block takes. */
static uint64_t overlap(const struct store_placed *block, uint64_t start, uint64_t end)
{
	uint64_t from = block->address > start ? block->address : start;
	uint64_t to = block->address + block->size_bytes < end ? block->address + block->size_bytes : end;

	return to > from ? to - from : 0;
}

/* The letter of [start, end): what takes most of it.  *@first_block: the first block that may reach into it; moves on. */
static char letter_of(const struct memory_map *map, const struct map_region *region, uint64_t start, uint64_t end,
                      size_t *first_block)
{
	uint64_t bytes[NR_CATEGORIES] = {0}, taken = 0;
	unsigned most = 0;

	for (size_t i = *first_block; i < region->nr_blocks; i++) {
		const struct store_placed *block = &map->blocks[region->first_block + i];
		uint64_t here = overlap(block, start, end);

		if (block->address >= end)
			break;
		if (block->address + block->size_bytes <= end)
			*first_block = i + 1;
		bytes[block->category < NR_CATEGORIES ? block->category : CATEGORY_UNKNOWN] += here;
		taken += here;
	}
	for (unsigned i = 1; i < NR_CATEGORIES; i++)
		if (bytes[i] > bytes[most])
			most = i;
	if (!taken)
		return FREE_LETTER;
	return taken * 2 < end - start ? MIXED_LETTER : letters[most];
}

static void draw(const struct memory_map *map, const struct map_region *region, unsigned columns, char *ret)
{
	size_t first_block = 0;

	for (unsigned i = 0; i < columns; i++) {
		uint64_t start = region->address + (uint64_t)((double)region->size_bytes * i / columns);
		uint64_t end = i + 1 == columns ? region->address + region->size_bytes
		                                : region->address + (uint64_t)((double)region->size_bytes * (i + 1) / columns);

		ret[i] = letter_of(map, region, start, end, &first_block);
	}
	ret[columns] = '\0';
}

/* ---- for people */

static const struct row_column table_columns[] = {
        {"size_bytes", "%", COLUMN_BYTES, 0, 0},  {"used", "used", COLUMN_TEXT, COLUMN_RIGHT, 0},
        {"blocks", "blocks", COLUMN_COUNT, 0, 0}, {"largest_free_bytes", "gap", COLUMN_BYTES, 0, 0},
        {"since", "since", COLUMN_TEXT, 0, 0},    {"whose", "of", COLUMN_TEXT, COLUMN_IF_ANY, 0},
        {"map", "map", COLUMN_TEXT, 0, 0},
};
static const struct row_kind table_kind = ROW_KIND("segment", table_columns);

static int add_region(struct rows *rows, struct segments *segments, const struct map_region *region, unsigned columns)
{
	char map[MAP_MAX + 1];

	row_begin(rows);
	row_count(rows, "size_bytes", region->size_bytes);
	row_textf(rows, "since", "%" PRIu64 " %s", region->step, phase_name(region->phase));
	if (!region->of_pytorch) {
		row_text(rows, "whose", map_caller(segments->report, region->caller));
		return row_end(rows);
	}
	row_share(rows, "used", region->allocated_bytes, region->size_bytes);
	row_count(rows, "blocks", region->nr_blocks);
	row_count(rows, "largest_free_bytes", region->largest_free_bytes);
	if (region->expandable)
		row_text(rows, "whose", region->address ? "expandable" : "not mapped");
	draw(&segments->map, region, columns, map);
	row_text(rows, "map", map);
	return row_end(rows);
}

static int print_table(struct segments *segments)
{
	struct report *report = segments->report;
	const struct memory_map *map = &segments->map;
	struct rows *rows = rows_new(report, &table_kind);
	uint64_t limit = report->arguments->limit == LIMIT_DEFAULT ? LIMIT_TEXT : report->arguments->limit, left_bytes = 0;
	unsigned columns = report->width > OTHER_COLUMNS + MAP_MIN ? report->width - OTHER_COLUMNS : MAP_MIN;
	format_buffer number;
	int error = 0;

	columns = columns > MAP_MAX ? MAP_MAX : columns;
	rows_set_unit(rows, unit_for_table(report->arguments->units, map->reserved_bytes));
	if (limit != LIMIT_ALL && limit + 1 == map->nr_regions)
		limit++;
	for (size_t i = 0; i < map->nr_regions && !error; i++) {
		if (limit != LIMIT_ALL && i >= limit)
			left_bytes += map->regions[segments->order[i]].size_bytes;
		else
			error = add_region(rows, segments, &map->regions[segments->order[i]], columns);
	}
	if (!error && left_bytes) {
		row_begin_for_people(rows, STYLE_FAINT);
		row_count(rows, "size_bytes", left_bytes);
		row_textf(rows, "map", "%s more segments (--limit all lists them)",
		          format_count(map->nr_regions - limit, number));
		error = row_end(rows);
	}
	return rows_close(rows, error);
}

static void print_legend(struct report *report, const struct memory_map *map)
{
	char words[640] = "";
	size_t used = 0;

	for (unsigned i = 0; i < NR_CATEGORIES; i++)
		if (map->category_bytes[i] && used < sizeof(words) - 64)
			used += (size_t)snprintf(words + used, sizeof(words) - used, "%c %s, ", letters[i], category_words(i));
	snprintf(words + used, sizeof(words) - used, "%c free, %c mostly free", FREE_LETTER, MIXED_LETTER);
	report_say(report, 2, "%s", words);
}

static void print_head(struct segments *segments)
{
	struct report *report = segments->report;
	const struct memory_map *map = &segments->map;
	char whole[2 * FORMAT_MAX];
	format_buffer count, allocated, gaps, available, largest;

	report_heading(report, "Segments of %s %s: %s in %s", report->device_name, segments->instant.words,
	               report_size(report, map->reserved_bytes, whole), format_count(map->nr_segments, count));
	report_say(report, 0, "%s in blocks, %s free in %s piece%s, the largest %s",
	           report_bytes(report, map->allocated_bytes, allocated), report_bytes(report, map->free_bytes, available),
	           format_count(map->nr_gaps, gaps), map->nr_gaps == 1 ? "" : "s",
	           report_bytes(report, map->largest_free_bytes, largest));
	if (map->unplaced_blocks)
		report_say(report, 0, "%s block%s (%s) lie in memory of which it was not seen how the program got it",
		           format_count(map->unplaced_blocks, count), map->unplaced_blocks == 1 ? "" : "s",
		           report_bytes(report, map->unplaced_bytes, allocated));
	putc('\n', report->out);
}

static void print_refusals(struct segments *segments)
{
	format_buffer refusals, misses;

	if (!segments->nr_refusals)
		return;
	report_say(segments->report, 0,
	           "The driver refused memory %s time%s in the run; %s time%s PyTorch gave back what it kept and the second call"
	           " succeeded: the view oom says when",
	           format_count(segments->nr_refusals, refusals), segments->nr_refusals == 1 ? "" : "s",
	           format_count(segments->nr_near_misses, misses), segments->nr_near_misses == 1 ? "" : "s");
}

static void print_estimate(struct segments *segments)
{
	struct report *report = segments->report;
	uint64_t reserved = segments->device.reserved_peak_bytes, wanted = segments->expandable.reserved_bytes;
	format_buffer most, estimate, gain;

	if (segments->map.expandable) {
		report_say(report, 0, "The run uses expandable segments.");
		return;
	}
	if (!segments->expandable.known || !reserved) {
		report_say(report, 0, "What expandable segments would gain was not estimated: %s",
		           segments->expandable.known ? "PyTorch reported no reserved memory" : "the run is too long to replay");
		return;
	}
	report_bytes(report, reserved, most);
	report_bytes(report, wanted, estimate);
	if (wanted < reserved)
		report_say(report, 0,
		           "With expandable segments PyTorch would have reserved %s at most instead of %s, %s less: an estimate, "
		           "from this"
		           " run's blocks placed one after the other into one segment for small and one for large blocks; "
		           "streams and"
		           " private pools are left out (PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True)",
		           estimate, most, report_bytes(report, reserved - wanted, gain));
	else
		report_say(report, 0,
		           "Expandable segments would not have reserved less: by an estimate from this run's blocks %s at most, "
		           "and %s was"
		           " reserved; where memory runs short they can join what is free in pieces",
		           estimate, most);
}

static int show_text(struct segments *segments)
{
	int error;

	if (segments->map.direct) {
		format_buffer count, size;

		report_say(segments->report, 0,
		           "PyTorch reported no block of %s: its allocator (backend cudaMallocAsync, a pluggable one, or none "
		           "that caches)"
		           " takes each tensor by a call of its own: %s in %s %s. The view ledger accounts for them",
		           segments->report->device_name, report_bytes(segments->report, segments->map.reserved_bytes, size),
		           format_count(segments->map.nr_segments, count), segments->instant.words);
		return 0;
	}
	print_head(segments);
	error = print_table(segments);
	if (error)
		return error;
	print_legend(segments->report, &segments->map);
	putc('\n', segments->report->out);
	print_refusals(segments);
	print_estimate(segments);
	return 0;
}

/* ---- for programs */

static const struct row_column segments_columns[] = {
        {"device", NULL, COLUMN_TEXT, 0, 0},
        {"at", NULL, COLUMN_TEXT, 0, 0},
        {"at_number", NULL, COLUMN_NUMBER, 0, 0},
        {"seq", NULL, COLUMN_NUMBER, 0, 0},
        {"segments", NULL, COLUMN_COUNT, 0, 0},
        {"reserved_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"allocated_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"free_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"gaps", NULL, COLUMN_COUNT, 0, 0},
        {"largest_free_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"unplaced_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"refusals", NULL, COLUMN_COUNT, 0, 0},
        {"near_misses", NULL, COLUMN_COUNT, 0, 0},
        {"reserved_peak_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"expandable", NULL, COLUMN_BOOL, 0, 0},
        {"expandable_estimate_bytes", NULL, COLUMN_BYTES, 0, 0},
};
static const struct row_kind segments_kind = ROW_KIND("segments", segments_columns);
static const struct row_column segment_columns[] = {
        {"number", NULL, COLUMN_NUMBER, 0, 0},
        {"address", NULL, COLUMN_NUMBER, 0, 0},
        {"size_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"allocated_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"free_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"gaps", NULL, COLUMN_COUNT, 0, 0},
        {"largest_free_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"blocks", NULL, COLUMN_COUNT, 0, 0},
        {"of_pytorch", NULL, COLUMN_BOOL, 0, 0},
        {"expandable", NULL, COLUMN_BOOL, 0, 0},
        {"caller", NULL, COLUMN_TEXT, 0, 0},
        {"line", NULL, COLUMN_TEXT, 0, 0},
        {"step", NULL, COLUMN_NUMBER, 0, 0},
        {"phase", NULL, COLUMN_TEXT, 0, 0},
        {"alloc_ns", NULL, COLUMN_DURATION, 0, 0},
};
static const struct row_kind segment_kind = ROW_KIND("segment", segment_columns);
static const struct row_column piece_columns[] = {
        {"number", NULL, COLUMN_NUMBER, 0, 0},
        {"offset_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"requested_bytes", NULL, COLUMN_BYTES, 0, 0},
        BLOCK_COLUMNS,
};
static const struct row_kind piece_kind = ROW_KIND("block", piece_columns);
static const struct row_kind *const kinds[] = {&segments_kind, &segment_kind, &piece_kind, NULL};

static int summary_row(struct segments *segments)
{
	struct report *report = segments->report;
	struct rows *rows = rows_new(report, &segments_kind);
	const struct memory_map *map = &segments->map;

	row_begin(rows);
	row_text(rows, "device", report->device_name);
	row_text(rows, "at", segments->instant.name);
	if (report->arguments->at >= INSTANT_STEP)
		row_count(rows, "at_number", segments->instant.number);
	row_count(rows, "seq", segments->instant.seq);
	row_count(rows, "segments", map->nr_segments);
	row_count(rows, "reserved_bytes", map->reserved_bytes);
	row_count(rows, "allocated_bytes", map->allocated_bytes);
	row_count(rows, "free_bytes", map->free_bytes);
	row_count(rows, "gaps", map->nr_gaps);
	row_count(rows, "largest_free_bytes", map->largest_free_bytes);
	row_count(rows, "unplaced_bytes", map->unplaced_bytes);
	row_count(rows, "refusals", segments->nr_refusals);
	row_count(rows, "near_misses", segments->nr_near_misses);
	row_count(rows, "reserved_peak_bytes", segments->device.reserved_peak_bytes);
	row_bool(rows, "expandable", map->expandable);
	if (segments->expandable.known)
		row_count(rows, "expandable_estimate_bytes", segments->expandable.reserved_bytes);
	return rows_close(rows, row_end(rows));
}

static int segment_row(struct rows *rows, const struct map_region *region, uint64_t number)
{
	row_begin(rows);
	row_count(rows, "number", number);
	if (region->address)
		row_count(rows, "address", region->address);
	row_count(rows, "size_bytes", region->size_bytes);
	if (region->of_pytorch) {
		row_count(rows, "allocated_bytes", region->allocated_bytes);
		row_count(rows, "free_bytes", region->free_bytes);
		row_count(rows, "gaps", region->nr_gaps);
		row_count(rows, "largest_free_bytes", region->largest_free_bytes);
		row_count(rows, "blocks", region->nr_blocks);
	}
	row_bool(rows, "of_pytorch", region->of_pytorch);
	row_bool(rows, "expandable", region->expandable);
	row_text(rows, "caller", region->caller);
	row_text(rows, "line", region->line);
	row_count(rows, "step", region->step);
	row_text(rows, "phase", phase_name(region->phase));
	row_count(rows, "alloc_ns", region->alloc_ns);
	return row_end(rows);
}

static int piece_row(const struct store_allocation *allocation, void *arg)
{
	struct segments *segments = arg;

	row_begin(segments->rows);
	row_count(segments->rows, "number", segments->number);
	row_count(segments->rows, "offset_bytes", allocation->address - segments->region->address);
	if (allocation->requested_bytes)
		row_count(segments->rows, "requested_bytes", allocation->requested_bytes);
	block_row(segments->rows, allocation);
	return row_end(segments->rows);
}

/* Each segment, in the order of addresses, and after it its blocks. */
static int show_rows(struct segments *segments)
{
	struct report *report = segments->report;
	const struct memory_map *map = &segments->map;
	int error = summary_row(segments);
	struct rows *rows;

	if (error)
		return error;
	rows = rows_new(report, &segment_kind);
	segments->rows = rows_new(report, &piece_kind);
	for (size_t i = 0; i < map->nr_regions && !error; i++) {
		if (report->arguments->limit != LIMIT_DEFAULT && report->arguments->limit != LIMIT_ALL &&
		    i >= report->arguments->limit)
			break;
		segments->region = &map->regions[i];
		segments->number = i + 1;
		error = segment_row(rows, segments->region, segments->number);
		for (size_t k = 0; k < segments->region->nr_blocks && !error; k++)
			error = store_one_allocation(report->store, map->blocks[segments->region->first_block + k].id, piece_row,
			                             segments);
	}
	error = rows_close(segments->rows, error);
	return rows_close(rows, error);
}

/* ---- the view */

static int show(struct report *report)
{
	struct segments segments = {.report = report};
	int error = report_is_for_people(report) ? report_losses(report) : 0;

	if (error)
		return error;
	if (!report_has_device_memory(report))
		return report_check(report);
	error = instant_find(report, &segments.instant);
	if (!error)
		error = report_read_device(report, &segments.device);
	if (!error)
		error = memory_map_read(report, report->device, segments.instant.seq, &segments.map);
	if (!error)
		error = store_each_refusal(report->store, each_refusal, &segments);
	if (!error)
		error = expandable_estimate(report, report->device, &segments.expandable);
	if (!error)
		error = order_regions(&segments);
	if (!error)
		error = report_is_for_people(report) ? show_text(&segments) : show_rows(&segments);
	free(segments.order);
	memory_map_release(&segments.map);
	return error ? error : report_check(report);
}

const struct report_view segments_view = {
        .name = "segments",
        .help = "a GPU's memory as PyTorch's allocator has it: a map of each segment, what is free",
        .filters = FILTER_DEVICE,
        .kinds = kinds,
        .show = show,
        .takes_instant = true,
};
