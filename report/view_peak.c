/*
 * peak: everything that was alive when there was most, by kind and then by owner, biggest first; equal blocks are one line.
 * What is not listed is added up in a line of its own, so that the list closes to the peak's bytes.
 */
#include "report/block_row.h"
#include "report/groups.h"
#include "report/live.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_TEXT 20u
#define WIDEST     150u /* columns of a line with room for functions' names */

/* The highest that there was in another phase than that of the peak. */
struct runner_up {
	bool seen;
	unsigned peak_phase;
	struct store_phase phase;
};

static int each_phase(const struct store_phase *phase, void *arg)
{
	struct runner_up *runner_up = arg;

	if (phase->phase == runner_up->peak_phase || (runner_up->seen && phase->peak_bytes <= runner_up->phase.peak_bytes))
		return 0;
	runner_up->seen = true;
	runner_up->phase = *phase;
	return 0;
}

struct peak {
	struct store_device device;
	struct runner_up runner_up;
	struct live live;     /* all that was alive */
	struct groups groups; /* of it what the filters choose, and its categories */
	uint64_t category_blocks[NR_CATEGORIES], category_bytes[NR_CATEGORIES];
	bool filtered;
};

/* ---- text */

static int each_chosen(const struct store_allocation *allocation, void *arg)
{
	struct peak *peak = arg;
	unsigned category = allocation->category < NR_CATEGORIES ? allocation->category : CATEGORY_UNKNOWN;
	struct group *group;

	peak->category_blocks[category]++;
	peak->category_bytes[category] += allocation->size_bytes;
	return groups_add(&peak->groups, allocation, GROUP_EQUAL, &group);
}

static void print_head(struct report *report, const struct peak *peak)
{
	const struct store_device *device = &peak->device;
	const struct store_phase *second = &peak->runner_up.phase;
	char last[4 * SAFE_TEXT_MAX];
	format_buffer size, blocks, when;
	char whole[2 * FORMAT_MAX];

	report_heading(report, "Alive at the peak of %s: %s in %s block%s", report->device_name,
	               report_size(report, peak->live.bytes, whole), format_count(peak->live.nr_blocks, blocks),
	               peak->live.nr_blocks == 1 ? "" : "s");
	live_last_words(report, &peak->live, last, sizeof(last));
	if (peak->live.has_last)
		report_say(report, 0, "Step %" PRIu64 ", %s, %s after the start, reached with %s", device->peak_step,
		           phase_name(device->peak_phase), format_duration(peak->live.last_ns, when), last);
	else
		report_say(report, 0, "Step %" PRIu64 ", %s", device->peak_step, phase_name(device->peak_phase));
	if (peak->runner_up.seen)
		report_say(report, 0, "Runner-up, the most in another phase: %s in step %" PRIu64 ", %s",
		           report_bytes(report, second->peak_bytes, size), second->step, phase_name(second->phase));
	if (peak->filtered)
		report_say(report, 0, "Below only what the filters choose: %s in %s block%s",
		           report_size(report, peak->groups.bytes, whole), format_count(peak->groups.nr_blocks, blocks),
		           peak->groups.nr_blocks == 1 ? "" : "s");
	putc('\n', report->out);
}

static const struct row_column category_columns[] = {
        {"category", "", COLUMN_TEXT, 0, 0},      {"exact_bytes", "bytes", COLUMN_EXACT, COLUMN_IF_ANY, 0},
        {"size_bytes", "%", COLUMN_BYTES, 0, 0},  {"share", "", COLUMN_TEXT, COLUMN_RIGHT, 0},
        {"blocks", "blocks", COLUMN_COUNT, 0, 0},
};
static const struct row_kind category_kind = ROW_KIND("category", category_columns);

/* Two columns of bytes would be the same. */
static bool is_exact(const struct report *report)
{
	return report->arguments->units == UNITS_EXACT;
}

static int print_categories(struct report *report, const struct peak *peak)
{
	struct rows *rows = rows_new(report, &category_kind);
	bool done[NR_CATEGORIES] = {false};
	int error = 0;

	rows_set_unit(rows, unit_for_table(report->arguments->units, peak->live.bytes));
	while (!error) {
		unsigned biggest = NR_CATEGORIES;

		for (unsigned i = 0; i < NR_CATEGORIES; i++)
			if (!done[i] && peak->category_blocks[i] &&
			    (biggest == NR_CATEGORIES || peak->category_bytes[i] > peak->category_bytes[biggest]))
				biggest = i;
		if (biggest == NR_CATEGORIES)
			break;
		done[biggest] = true;
		row_begin(rows);
		row_text(rows, "category", category_words(biggest));
		if (!is_exact(report))
			row_count(rows, "exact_bytes", peak->category_bytes[biggest]);
		row_count(rows, "size_bytes", peak->category_bytes[biggest]);
		row_share(rows, "share", peak->category_bytes[biggest], peak->live.bytes);
		row_count(rows, "blocks", peak->category_blocks[biggest]);
		error = row_end(rows);
	}
	error = rows_close(rows, error);
	putc('\n', report->out);
	return error;
}

static const struct row_column group_columns[] = {
        {"exact_bytes", "bytes", COLUMN_EXACT, COLUMN_IF_ANY, 120},
        {"size_bytes", "%", COLUMN_BYTES, 0, 0},
        {"share", "share", COLUMN_TEXT, COLUMN_RIGHT, 70},
        {"blocks", "blocks", COLUMN_COUNT, COLUMN_IF_ANY, 0},
        {"each_bytes", "of", COLUMN_TEXT, COLUMN_IF_ANY | COLUMN_RIGHT, 120},
        {"what", "what", COLUMN_TEXT, COLUMN_CUT_END, 0},
        {"layer", "layer", COLUMN_TEXT, COLUMN_CUT_START, 0},
        {"tensor", "tensor", COLUMN_TEXT, COLUMN_FLEXIBLE | COLUMN_IF_ANY, WIDEST},
        {"detail", "tensor, op", COLUMN_TEXT, COLUMN_FLEXIBLE | COLUMN_IF_ANY, 80},
        {"shape", "shape", COLUMN_TEXT, COLUMN_FLEXIBLE | COLUMN_IF_ANY, 160},
        {"born", "born in step", COLUMN_TEXT, 0, 110},
        {"operation", "operation", COLUMN_TEXT, COLUMN_CUT_END | COLUMN_IF_ANY, WIDEST},
        {"line", "line", COLUMN_TEXT, COLUMN_CUT_END | COLUMN_IF_ANY, 0},
};
static const struct row_kind group_kind = ROW_KIND("group", group_columns);

static void add_shape(struct rows *rows, const struct store_allocation *allocation)
{
	if (allocation->shape || allocation->dtype)
		row_textf(rows, "shape", "[%s] %s", allocation->shape ? allocation->shape : "",
		          allocation->dtype ? allocation->dtype : "");
}

static int add_group(struct rows *rows, struct report *report, const struct group *group, uint64_t total_bytes)
{
	const struct store_allocation *first = &group->first;
	bool wide = !report->table_width || report->table_width >= WIDEST;
	format_buffer size;

	row_begin(rows);
	if (!is_exact(report))
		row_count(rows, "exact_bytes", group->bytes);
	row_count(rows, "size_bytes", group->bytes);
	row_share(rows, "share", group->bytes, total_bytes);
	if (group->nr_blocks > 1) {
		row_count(rows, "blocks", group->nr_blocks);
		row_text(rows, "each_bytes", report_bytes(report, first->size_bytes, size));
	}
	row_text(rows, "what", category_words(first->category));
	row_text(rows, "layer", group_layer(report, group));
	if (wide)
		row_text(rows, "tensor", group_tensor(report, first));
	else
		row_text(rows, "detail", first->parameter ? group_tensor(report, first) : first->operation);
	add_shape(rows, first);
	if (group->first_step == group->last_step)
		row_textf(rows, "born", "%" PRIu64 " %s", group->first_step, phase_name(first->phase));
	else
		row_textf(rows, "born", "%" PRIu64 "-%" PRIu64 " %s", group->first_step, group->last_step,
		          phase_name(first->phase));
	if (wide)
		row_text(rows, "operation", first->operation);
	row_text(rows, "line", short_line(report, first->line, wide));
	return row_end(rows);
}

static int add_sum(struct rows *rows, const struct report *report, enum style style, uint64_t bytes, uint64_t total_bytes,
                   const char *what)
{
	row_begin_for_people(rows, style);
	if (!is_exact(report))
		row_count(rows, "exact_bytes", bytes);
	row_count(rows, "size_bytes", bytes);
	row_share(rows, "share", bytes, total_bytes);
	row_text(rows, "what", what);
	return row_end(rows);
}

static int print_groups(struct report *report, struct peak *peak)
{
	struct rows *rows = rows_new(report, &group_kind);
	const struct groups *groups = &peak->groups;
	uint64_t limit = report->arguments->limit == LIMIT_DEFAULT ? LIMIT_TEXT : report->arguments->limit;
	uint64_t listed_blocks = 0, listed_bytes = 0, total = peak->live.bytes;
	format_buffer number;
	char words[96];
	int error = 0;

	groups_sort(&peak->groups, GROUP_EQUAL);
	rows_set_unit(rows, unit_for_table(report->arguments->units, total));
	/* One more row is not worth a line that says "1 smaller block". */
	if (limit != LIMIT_ALL && limit + 1 == groups->nr)
		limit++;
	for (size_t i = 0; i < groups->nr && (limit == LIMIT_ALL || i < limit) && !error; i++) {
		listed_blocks += groups->all[i]->nr_blocks;
		listed_bytes += groups->all[i]->bytes;
		error = add_group(rows, report, groups->all[i], total);
	}
	if (!error && listed_blocks < groups->nr_blocks) {
		snprintf(words, sizeof(words), "%s smaller blocks", format_count(groups->nr_blocks - listed_blocks, number));
		error = add_sum(rows, report, STYLE_FAINT, groups->bytes - listed_bytes, total, words);
	}
	if (!error && peak->filtered)
		error = add_sum(rows, report, STYLE_FAINT, total - groups->bytes, total, "not chosen");
	if (!error)
		error = add_sum(rows, report, STYLE_STRONG, total, total, "total");
	error = rows_close(rows, error);
	if (!error && listed_blocks < groups->nr_blocks)
		fprintf(report->out, "%s(--limit all lists them)%s\n", style_begin(STYLE_FAINT, report->colour),
		        style_end(STYLE_FAINT, report->colour));
	return error;
}

static int show_text(struct report *report, struct peak *peak)
{
	format_buffer sum, highest;
	int error = store_each_live(report->store, report->device, peak->device.peak_seq, &report->arguments->filter, each_chosen,
	                            peak);

	if (error)
		return error;
	if (peak->live.bytes != peak->device.peak_bytes)
		report_warning(report, "The blocks add up to %s bytes, but the peak was %s: the file is incomplete\n",
		               format_count(peak->live.bytes, sum), format_count(peak->device.peak_bytes, highest));
	print_head(report, peak);
	if (peak->groups.nr_blocks)
		error = print_categories(report, peak);
	return error ? error : print_groups(report, peak);
}

/* ---- rows */

static const struct row_column peak_columns[] = {
        {"device", NULL, COLUMN_TEXT, 0, 0},
        {"peak_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"live_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"blocks", NULL, COLUMN_COUNT, 0, 0},
        {"step", NULL, COLUMN_NUMBER, 0, 0},
        {"phase", NULL, COLUMN_TEXT, 0, 0},
        {"seq", NULL, COLUMN_NUMBER, 0, 0},
        {"ns", NULL, COLUMN_DURATION, 0, 0},
        {"runner_up_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"runner_up_step", NULL, COLUMN_NUMBER, 0, 0},
        {"runner_up_phase", NULL, COLUMN_TEXT, 0, 0},
};
static const struct row_kind peak_kind = ROW_KIND("peak", peak_columns);

static const struct row_column block_columns[] = {BLOCK_COLUMNS};
static const struct row_kind block_kind = ROW_KIND("block", block_columns);
static const struct row_kind *const kinds[] = {&peak_kind, &block_kind, NULL};

struct listing {
	struct rows *rows;
	uint64_t limit, listed;
};

static int list_block(const struct store_allocation *allocation, void *arg)
{
	struct listing *listing = arg;
	struct rows *rows = listing->rows;

	if (listing->limit != LIMIT_ALL && listing->listed == listing->limit)
		return 1;
	listing->listed++;
	row_begin(rows);
	block_row(rows, allocation);
	return row_end(rows);
}

static int peak_row(struct report *report, const struct peak *peak)
{
	struct rows *rows = rows_new(report, &peak_kind);

	row_begin(rows);
	row_text(rows, "device", report->device_name);
	row_count(rows, "peak_bytes", peak->device.peak_bytes);
	row_count(rows, "live_bytes", peak->live.bytes);
	row_count(rows, "blocks", peak->live.nr_blocks);
	row_count(rows, "step", peak->device.peak_step);
	row_text(rows, "phase", phase_name(peak->device.peak_phase));
	row_count(rows, "seq", peak->device.peak_seq);
	if (peak->live.has_last)
		row_count(rows, "ns", peak->live.last_ns);
	if (peak->runner_up.seen) {
		row_count(rows, "runner_up_bytes", peak->runner_up.phase.peak_bytes);
		row_count(rows, "runner_up_step", peak->runner_up.phase.step);
		row_text(rows, "runner_up_phase", phase_name(peak->runner_up.phase.phase));
	}
	return rows_close(rows, row_end(rows));
}

static int show_rows(struct report *report, const struct peak *peak)
{
	struct listing listing = {
	        .limit = report->arguments->limit == LIMIT_DEFAULT ? LIMIT_ALL : report->arguments->limit,
	};
	int error = peak_row(report, peak);

	if (error)
		return error;
	listing.rows = rows_new(report, &block_kind);
	error = store_each_live(report->store, report->device, peak->device.peak_seq, &report->arguments->filter, list_block,
	                        &listing);
	return rows_close(listing.rows, error == 1 ? 0 : error);
}

/* ---- the view */

static int show(struct report *report)
{
	struct peak peak = {.filtered = report->arguments->filters & ~(unsigned)FILTER_DEVICE};
	int error = report_is_for_people(report) ? report_losses(report) : 0;

	if (error)
		return error;
	if (!report->has_device) {
		if (report_is_for_people(report))
			fprintf(report->out, "No tensor was allocated in this run.\n");
		return 0;
	}
	error = report_read_device(report, &peak.device);
	peak.runner_up.peak_phase = peak.device.peak_phase;
	if (!error)
		error = store_each_phase(report->store, report->device, each_phase, &peak.runner_up);
	if (!error)
		error = live_read(report, report->device, peak.device.peak_seq, &peak.live);
	if (!error)
		error = report_is_for_people(report) ? show_text(report, &peak) : show_rows(report, &peak);
	groups_release(&peak.groups);
	live_release(&peak.live);
	return error ? error : report_check(report);
}

const struct report_view peak_view = {
        .name = "peak",
        .help = "what was alive when there was most: whose it is, where made",
        .filters = FILTERS_ALL,
        .kinds = kinds,
        .show = show,
};
