/*
 * peak: every block that was alive when there was most, biggest first.  What is not listed is added up in a last line, so
 * that the list closes to the peak's bytes.
 */
#include "report/live.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_TEXT 20u
#define WIDE       120u /* columns of a line with room for everything */
#define WIDEST     160u /* ... and for functions' names */

static void print_head(struct report *report, const struct store_device *device, const struct live *live)
{
	format_buffer exact, size, blocks, when;

	fprintf(report->out, "Alive at the peak of %s: %s%s bytes%s (%s) in %s blocks\n", report->device_name,
	        style_begin(STYLE_STRONG, report->colour), format_count(live->bytes, exact),
	        style_end(STYLE_STRONG, report->colour), report_bytes(report, live->bytes, size),
	        format_count(live->nr_blocks, blocks));
	fprintf(report->out, "Step %" PRIu64 ", %s", device->peak_step, phase_name(device->peak_phase));
	if (live->has_last) {
		fprintf(report->out, ", %s after the start, by %s of %s", format_duration(live->last_ns, when),
		        report_bytes(report, live->last_bytes, size), category_words(live->last_category));
		if (live->last_layer)
			fprintf(report->out, " for %s", report_layer(report, live->last_root, live->last_layer));
	}
	fprintf(report->out, "\n\n");
}

static int print_categories(struct report *report, const struct live *live)
{
	static const struct column columns[] = {
	        {"", false, false}, {"bytes", true, false}, {"", true, false}, {"", true, false}, {"blocks", true, false}};
	struct unit unit = unit_for_table(report->arguments->units, live->bytes);
	struct column named[5];
	struct table *table;
	bool done[NR_CATEGORIES] = {false};
	format_buffer number;
	int error;

	for (size_t j = 0; j < 5; j++)
		named[j] = columns[j];
	if (unit.bytes > 1)
		named[2].heading = unit.name;
	table = table_new(named, 5);
	for (;;) {
		unsigned biggest = NR_CATEGORIES;

		for (unsigned i = 0; i < NR_CATEGORIES; i++)
			if (!done[i] && live->category_blocks[i] &&
			    (biggest == NR_CATEGORIES || live->category_bytes[i] > live->category_bytes[biggest]))
				biggest = i;
		if (biggest == NR_CATEGORIES)
			break;
		done[biggest] = true;
		table_row(table, STYLE_PLAIN);
		table_cell(table, category_words(biggest));
		table_cell(table, format_count(live->category_bytes[biggest], number));
		table_cell(table, unit.bytes > 1 ? format_in_unit(unit, live->category_bytes[biggest], number) : "");
		table_cell(table, format_share(live->category_bytes[biggest], live->bytes, number));
		table_cell(table, format_count(live->category_blocks[biggest], number));
	}
	error = report_print_table(report, table);
	table_free(table);
	putc('\n', report->out);
	return error;
}

struct listing {
	struct report *report;
	struct table *table;
	bool human, wide; /* columns that a narrow terminal has no room for */
	bool lines;       /* the run has stacks */
	bool functions;   /* lines are shown with their functions */
	struct unit unit;
	uint64_t total_bytes;
	uint64_t limit; /* LIMIT_ALL: none */
	uint64_t listed, listed_bytes;
};

/* "3 x 5 float32" */
static const char *shape_words(struct report *report, const struct store_allocation *allocation)
{
	char joined[SAFE_TEXT_MAX];

	if (!allocation->shape && !allocation->dtype)
		return "";
	snprintf(joined, sizeof(joined), "[%s] %s", allocation->shape ? allocation->shape : "",
	         allocation->dtype ? allocation->dtype : "");
	return report_safe(report, joined);
}

/* "weight", "weight momentum_buffer": what the layer's own column does not say yet. */
static const char *tensor_words(struct report *report, const struct store_allocation *allocation)
{
	const char *name = allocation->parameter;
	size_t length = allocation->layer ? strlen(allocation->layer) : 0;
	char joined[SAFE_TEXT_MAX];

	if (!name)
		return "";
	if (length && !strncmp(name, allocation->layer, length) && name[length] == '.')
		name += length + 1;
	snprintf(joined, sizeof(joined), "%s%s%s", name, allocation->state_key ? " " : "",
	         allocation->state_key ? allocation->state_key : "");
	return report_safe(report, joined);
}

/*
 * "train.py:12 (Net.forward)" or "train.py:12": the folder is left out, as it is mostly the same for all, and so is the
 * function where both would be cut in the middle.
 */
static const char *line_words(struct report *report, const struct store_allocation *allocation, bool function)
{
	const char *line = allocation->line, *end = NULL, *slash;
	char words[SAFE_TEXT_MAX];

	if (!line)
		return "";
	/* Files' names may hold " (" too, functions' never do. */
	for (const char *next = strstr(line, " ("); next; next = strstr(next + 1, " ("))
		end = next;
	if (!end)
		end = line + strlen(line);
	slash = memrchr(line, '/', (size_t)(end - line));
	if (slash)
		line = slash + 1;
	snprintf(words, sizeof(words), "%.*s", (int)(function ? strlen(line) : (size_t)(end - line)), line);
	return report_safe(report, words);
}

static int each_block(const struct store_allocation *allocation, void *arg)
{
	struct listing *listing = arg;
	struct report *report = listing->report;
	struct table *table = listing->table;
	format_buffer number;
	char step[24];

	if (listing->limit != LIMIT_ALL && listing->listed == listing->limit)
		return 1;
	listing->listed++;
	listing->listed_bytes += allocation->size_bytes;
	table_row(table, STYLE_PLAIN);
	table_cell(table, format_count(allocation->size_bytes, number));
	if (listing->human)
		table_cell(table, format_in_unit(listing->unit, allocation->size_bytes, number));
	table_cell(table, format_share(allocation->size_bytes, listing->total_bytes, number));
	table_cell(table, category_words(allocation->category));
	table_cell(table, report_layer(report, allocation->root, allocation->layer));
	snprintf(step, sizeof(step), "%" PRIu64, allocation->step);
	table_cell(table, step);
	if (listing->wide)
		table_cell(table, phase_name(allocation->phase));
	table_cell(table, tensor_words(report, allocation));
	if (listing->wide)
		table_cell(table, shape_words(report, allocation));
	if (listing->lines)
		table_cell(table, line_words(report, allocation, listing->functions));
	return 0;
}

static int print_blocks(struct report *report, const struct store_device *device, const struct live *live)
{
	struct unit unit = unit_for_table(report->arguments->units, live->bytes);
	bool wide = !report->table_width || report->table_width >= WIDE;
	bool human = wide && unit.bytes > 1;
	struct column columns[10];
	size_t nr_columns = 0;
	struct listing listing = {
	        .report = report,
	        .human = human,
	        .wide = wide,
	        .lines = live->has_lines,
	        .functions = !report->table_width || report->table_width >= WIDEST,
	        .unit = unit,
	        .total_bytes = live->bytes,
	        .limit = report->arguments->limit == LIMIT_DEFAULT ? LIMIT_TEXT : report->arguments->limit,
	};
	uint64_t rest = 0;
	format_buffer number;
	char words[96];
	int error;

	columns[nr_columns++] = (struct column){"bytes", true, false};
	if (human)
		columns[nr_columns++] = (struct column){unit.name, true, false};
	columns[nr_columns++] = (struct column){"share", true, false};
	columns[nr_columns++] = (struct column){"what", false, false};
	columns[nr_columns++] = (struct column){"layer", false, true};
	columns[nr_columns++] = (struct column){"step", true, false};
	if (wide)
		columns[nr_columns++] = (struct column){"born in", false, false};
	columns[nr_columns++] = (struct column){"tensor", false, true};
	if (wide)
		columns[nr_columns++] = (struct column){"shape", false, true};
	if (live->has_lines)
		columns[nr_columns++] = (struct column){"line", false, true};
	listing.table = table_new(columns, nr_columns);
	/* One more row is not worth a line that says "1 smaller block". */
	if (listing.limit != LIMIT_ALL && listing.limit + 1 == live->nr_blocks)
		listing.limit++;
	error = store_each_live(report->store, report->device, device->peak_seq, &report->arguments->filter, each_block,
	                        &listing);
	if (error == 1)
		error = 0;
	if (!error && listing.listed < live->nr_blocks) {
		rest = live->bytes - listing.listed_bytes;
		table_row(listing.table, STYLE_FAINT);
		table_cell(listing.table, format_count(rest, number));
		if (human)
			table_cell(listing.table, format_in_unit(unit, rest, number));
		table_cell(listing.table, format_share(rest, live->bytes, number));
		snprintf(words, sizeof(words), "%s smaller blocks", format_count(live->nr_blocks - listing.listed, number));
		table_cell(listing.table, words);
	}
	if (!error)
		error = report_print_table(report, listing.table);
	table_free(listing.table);
	if (!error && rest)
		fprintf(report->out, "%s(--limit all lists them)%s\n", style_begin(STYLE_FAINT, report->colour),
		        style_end(STYLE_FAINT, report->colour));
	return error;
}

static int show_text(struct report *report)
{
	struct store_device device = {0};
	struct live live = {0};
	int error;

	if (!report->has_device) {
		fprintf(report->out, "No tensor was allocated in this run.\n");
		return report_losses(report);
	}
	error = report_losses(report);
	if (!error)
		error = report_read_device(report, &device);
	if (!error)
		error = live_read(report, report->device, device.peak_seq, &live);
	if (error)
		return error;
	if (live.bytes != device.peak_bytes) {
		format_buffer sum, peak;

		report_warning(report, "The blocks add up to %s bytes, but the peak was %s: the file is incomplete\n",
		               format_count(live.bytes, sum), format_count(device.peak_bytes, peak));
	}
	print_head(report, &device, &live);
	error = print_categories(report, &live);
	if (!error)
		error = print_blocks(report, &device, &live);
	live_release(&live);
	return error ? error : report_check(report);
}

/* ---- rows */

static const struct row_column peak_columns[] = {
        {"device", NULL, COLUMN_TEXT, 0, 0},  {"peak_bytes", NULL, COLUMN_BYTES, 0, 0}, {"live_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"blocks", NULL, COLUMN_COUNT, 0, 0}, {"step", NULL, COLUMN_NUMBER, 0, 0},      {"phase", NULL, COLUMN_TEXT, 0, 0},
        {"seq", NULL, COLUMN_NUMBER, 0, 0},   {"ns", NULL, COLUMN_DURATION, 0, 0},
};
static const struct row_kind peak_kind = ROW_KIND("peak", peak_columns);
static const struct row_column block_columns[] = {
        {"id", NULL, COLUMN_NUMBER, 0, 0},          {"device", NULL, COLUMN_TEXT, 0, 0},
        {"size_bytes", NULL, COLUMN_BYTES, 0, 0},   {"category", NULL, COLUMN_TEXT, 0, 0},
        {"category_rule", NULL, COLUMN_TEXT, 0, 0}, {"provisional", NULL, COLUMN_BOOL, 0, 0},
        {"root", NULL, COLUMN_TEXT, 0, 0},          {"layer", NULL, COLUMN_TEXT, 0, 0},
        {"parameter", NULL, COLUMN_TEXT, 0, 0},     {"state_key", NULL, COLUMN_TEXT, 0, 0},
        {"shape", NULL, COLUMN_TEXT, 0, 0},         {"dtype", NULL, COLUMN_TEXT, 0, 0},
        {"operation", NULL, COLUMN_TEXT, 0, 0},     {"line", NULL, COLUMN_TEXT, 0, 0},
        {"step", NULL, COLUMN_NUMBER, 0, 0},        {"phase", NULL, COLUMN_TEXT, 0, 0},
        {"recompute", NULL, COLUMN_BOOL, 0, 0},     {"thread", NULL, COLUMN_NUMBER, 0, 0},
        {"alloc_seq", NULL, COLUMN_NUMBER, 0, 0},   {"alloc_ns", NULL, COLUMN_DURATION, 0, 0},
        {"free_seq", NULL, COLUMN_NUMBER, 0, 0},    {"free_ns", NULL, COLUMN_DURATION, 0, 0},
        {"free_phase", NULL, COLUMN_TEXT, 0, 0},
};
static const struct row_kind block_kind = ROW_KIND("block", block_columns);
static const struct row_kind *const kinds[] = {&peak_kind, &block_kind, NULL};

struct row_listing {
	struct rows *rows;
	uint64_t limit, listed;
};

static int block_row(const struct store_allocation *allocation, void *arg)
{
	struct row_listing *listing = arg;
	struct rows *rows = listing->rows;
	char device[DEVICE_NAME_MAX];

	if (listing->limit != LIMIT_ALL && listing->listed == listing->limit)
		return 1;
	listing->listed++;
	row_begin(rows);
	row_count(rows, "id", allocation->id);
	row_text(rows, "device", device_name(allocation->device, device));
	row_count(rows, "size_bytes", allocation->size_bytes);
	row_text(rows, "category", category_name(allocation->category));
	row_text(rows, "category_rule", category_rule_name(allocation->rule));
	row_bool(rows, "provisional", allocation->provisional);
	row_text(rows, "root", allocation->root);
	row_text(rows, "layer", allocation->layer);
	row_text(rows, "parameter", allocation->parameter);
	row_text(rows, "state_key", allocation->state_key);
	row_text(rows, "shape", allocation->shape);
	row_text(rows, "dtype", allocation->dtype);
	row_text(rows, "operation", allocation->operation);
	row_text(rows, "line", allocation->line);
	row_count(rows, "step", allocation->step);
	row_text(rows, "phase", phase_name(allocation->phase));
	row_bool(rows, "recompute", allocation->recompute);
	row_count(rows, "thread", allocation->thread);
	row_count(rows, "alloc_seq", allocation->alloc_seq);
	row_count(rows, "alloc_ns", allocation->alloc_ns);
	if (allocation->free_seq) {
		row_count(rows, "free_seq", allocation->free_seq);
		row_count(rows, "free_ns", allocation->free_ns);
		row_text(rows, "free_phase", phase_name(allocation->free_phase));
	}
	return row_end(rows);
}

static int show_rows(struct report *report)
{
	struct row_listing listing = {
	        .limit = report->arguments->limit == LIMIT_DEFAULT ? LIMIT_ALL : report->arguments->limit,
	};
	struct store_device device;
	struct rows *rows;
	struct live live;
	int error;

	if (!report->has_device)
		return 0;
	error = report_read_device(report, &device);
	if (!error)
		error = live_read(report, report->device, device.peak_seq, &live);
	if (error)
		return error;
	rows = rows_new(report, &peak_kind);
	row_begin(rows);
	row_text(rows, "device", report->device_name);
	row_count(rows, "peak_bytes", device.peak_bytes);
	row_count(rows, "live_bytes", live.bytes);
	row_count(rows, "blocks", live.nr_blocks);
	row_count(rows, "step", device.peak_step);
	row_text(rows, "phase", phase_name(device.peak_phase));
	row_count(rows, "seq", device.peak_seq);
	if (live.has_last)
		row_count(rows, "ns", live.last_ns);
	live_release(&live);
	error = rows_close(rows, row_end(rows));
	if (error)
		return error;
	listing.rows = rows_new(report, &block_kind);
	error = store_each_live(report->store, report->device, device.peak_seq, &report->arguments->filter, block_row, &listing);
	return rows_close(listing.rows, error == 1 ? 0 : error);
}

static int show(struct report *report)
{
	return report_is_for_people(report) ? show_text(report) : show_rows(report);
}

const struct report_view peak_view = {
        .name = "peak",
        .help = "what was alive when there was most, biggest first",
        .filters = FILTERS_ALL,
        .kinds = kinds,
        .show = show,
};
