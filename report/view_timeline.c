/*
 * timeline: live bytes over the run as a chart, with the phases under it, then one row per phase per step:
 * what there was at its start, at its highest and at its end, and what the end has more than the end of the same phase one
 * step earlier, which in a healthy run is nothing.
 *
 * Steps and spans are read in batches, so that memory does not grow with the run.
 */
#include "report/live.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define CHART_ROWS        12u
#define CHART_MIN_COLUMNS 20u
#define LEGEND_FROM       72u /* columns of a line: below, the legend begins at its start */
#define COLUMNS_PER_STEP  6u  /* below that the phases in it cannot be told apart */
#define LIMIT_TEXT        5u
#define BATCH_STEPS       16384u

/* ---- rows: steps with their phases */

struct phase_row {
	bool seen, has_start;
	uint64_t order; /* seq of its first span, for the order of rows */
	uint64_t start_bytes, peak_bytes, end_bytes, end_seq;
	uint64_t allocs, alloc_bytes;
};

struct step_row {
	struct store_step step;
	struct phase_row phases[NR_PHASES];
	uint64_t number; /* of the row in the run, from 0 */
};

struct timeline {
	struct report *report;
	/* First reading: the run as a whole. */
	uint64_t nr_steps;
	uint64_t start_seq, end_seq; /* of what the chart shows */
	bool found;                  /* the step of --step */
	uint64_t peak_number;        /* row of the step with the device's peak */
	uint64_t peak_step, peak_bytes;
	uint64_t peak_start_seq, peak_end_seq;

	/* Second reading. */
	struct step_row *batch;
	size_t nr_batch;
	struct step_row *before; /* the last step so far of each kind: NR_STEP_KINDS, with had[] */
	bool had[NR_STEP_KINDS];
	uint64_t head, tail; /* rows shown at both ends */
	uint64_t skipped;    /* rows since the last shown one */
	uint64_t shown, unshown, limit;
	struct table *table;                 /* for people, else NULL */
	struct rows *step_rows, *phase_rows; /* for programs */
	struct unit unit;
};

static int each_step_first(const struct store_step *step, void *arg)
{
	struct timeline *timeline = arg;
	const struct arguments *arguments = timeline->report->arguments;

	if (timeline->nr_steps == 0 || step->peak_bytes > timeline->peak_bytes) {
		timeline->peak_bytes = step->peak_bytes;
		timeline->peak_number = timeline->nr_steps;
		timeline->peak_step = step->step;
		timeline->peak_start_seq = step->start_seq;
		timeline->peak_end_seq = step->end_seq + 1;
	}
	if (arguments->filter.step == step->step) {
		timeline->found = true;
		timeline->start_seq = step->start_seq;
		timeline->end_seq = step->end_seq + 1;
	}
	if (arguments->filter.step == UINT64_MAX) {
		if (timeline->nr_steps == 0)
			timeline->start_seq = step->start_seq;
		if (step->end_seq >= timeline->end_seq)
			timeline->end_seq = step->end_seq + 1;
	}
	timeline->nr_steps++;
	return 0;
}

static struct step_row *find_in_batch(struct timeline *timeline, uint64_t step)
{
	size_t low = 0, high = timeline->nr_batch;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (timeline->batch[middle].step.step < step)
			low = middle + 1;
		else
			high = middle;
	}
	return low < timeline->nr_batch && timeline->batch[low].step.step == step ? &timeline->batch[low] : NULL;
}

static int each_span(const struct store_span *span, void *arg)
{
	struct timeline *timeline = arg;
	struct step_row *row = find_in_batch(timeline, span->step);
	struct phase_row *phase;

	if (!row || span->phase >= NR_PHASES)
		return 0;
	phase = &row->phases[span->phase];
	if (!phase->has_start || span->start_seq < phase->order) {
		phase->order = span->start_seq;
		phase->start_bytes = span->start_bytes;
	}
	if (!phase->has_start || span->peak_bytes > phase->peak_bytes)
		phase->peak_bytes = span->peak_bytes;
	if (!phase->has_start || span->end_seq == 0 || (phase->end_seq && span->end_seq > phase->end_seq)) {
		phase->end_seq = span->end_seq;
		phase->end_bytes = span->end_bytes;
	}
	phase->seen = phase->has_start = true;
	return 0;
}

static int each_phase(const struct store_phase *totals, void *arg)
{
	struct timeline *timeline = arg;
	struct step_row *row = find_in_batch(timeline, totals->step);
	struct phase_row *phase;

	if (!row || totals->phase >= NR_PHASES)
		return 0;
	phase = &row->phases[totals->phase];
	phase->allocs = totals->allocs;
	phase->alloc_bytes = totals->alloc_bytes;
	if (!phase->has_start) {
		phase->peak_bytes = totals->peak_bytes;
		phase->end_bytes = totals->end_bytes;
		phase->order = row->step.end_seq;
	}
	phase->seen = true;
	return 0;
}

static bool is_shown(const struct timeline *timeline, const struct step_row *row)
{
	const struct arguments *arguments = timeline->report->arguments;

	if (arguments->filter.step != UINT64_MAX)
		return row->step.step == arguments->filter.step;
	if (timeline->limit == LIMIT_ALL)
		return true;
	return row->number < timeline->head || row->number + timeline->tail >= timeline->nr_steps ||
	       row->number == timeline->peak_number;
}

/* The phases of a step in the order in which they began.  Returns how many. */
static unsigned order_phases(const struct step_row *row, unsigned ret[NR_PHASES])
{
	unsigned nr = 0;

	for (unsigned phase = 0; phase < NR_PHASES; phase++) {
		unsigned at = nr;

		if (!row->phases[phase].seen)
			continue;
		for (; at > 0 && row->phases[ret[at - 1]].order > row->phases[phase].order; at--)
			ret[at] = ret[at - 1];
		ret[at] = phase;
		nr++;
	}
	return nr;
}

/* ---- rows as text */

static void cell_bytes(struct timeline *timeline, bool known, uint64_t bytes)
{
	format_buffer number;

	table_cell(timeline->table, known ? format_in_unit(timeline->unit, bytes, number) : "-");
}

static void cell_residual(struct timeline *timeline, bool known, uint64_t now, uint64_t before)
{
	format_buffer number;

	table_cell(timeline->table, known ? format_delta((int64_t)(now - before), number) : "-");
}

static void flush_skipped(struct timeline *timeline)
{
	char words[96];
	format_buffer number;

	if (!timeline->skipped)
		return;
	snprintf(words, sizeof(words), "%s %s more step%s", timeline->report->utf8 ? "\xe2\x8b\xae" : "...",
	         format_count(timeline->skipped, number), timeline->skipped == 1 ? "" : "s");
	table_row(timeline->table, STYLE_FAINT);
	table_cell(timeline->table, words);
	timeline->skipped = 0;
}

static void text_step(struct timeline *timeline, const struct step_row *row, const struct step_row *before)
{
	const struct store_step *step = &row->step;
	unsigned phases[NR_PHASES];
	unsigned nr = order_phases(row, phases);
	char name[64];

	if (timeline->report->arguments->filter.step == UINT64_MAX)
		flush_skipped(timeline);
	snprintf(name, sizeof(name), "%" PRIu64 " %s%s", step->step, step_kind_name(step->kind),
	         row->number == timeline->peak_number && timeline->nr_steps > 1 ? " (peak)" : "");
	table_row(timeline->table, STYLE_STRONG);
	table_cell(timeline->table, name);
	cell_bytes(timeline, true, step->start_bytes);
	cell_bytes(timeline, true, step->peak_bytes);
	cell_bytes(timeline, true, step->end_bytes);
	cell_residual(timeline, before, step->end_bytes, before ? before->step.end_bytes : 0);
	for (unsigned i = 0; i < nr; i++) {
		const struct phase_row *phase = &row->phases[phases[i]];
		const struct phase_row *earlier = before && before->phases[phases[i]].seen ? &before->phases[phases[i]] : NULL;

		snprintf(name, sizeof(name), "  %s", phase_name(phases[i]));
		table_row(timeline->table, STYLE_PHASE + phases[i]);
		table_cell(timeline->table, name);
		cell_bytes(timeline, phase->has_start, phase->start_bytes);
		cell_bytes(timeline, true, phase->peak_bytes);
		cell_bytes(timeline, true, phase->end_bytes);
		cell_residual(timeline, earlier, phase->end_bytes, earlier ? earlier->end_bytes : 0);
	}
}

/* ---- rows for programs */

static const struct row_column step_columns[] = {
        {"step", NULL, COLUMN_NUMBER, 0, 0},       {"device", NULL, COLUMN_TEXT, 0, 0},
        {"kind", NULL, COLUMN_TEXT, 0, 0},         {"start_seq", NULL, COLUMN_NUMBER, 0, 0},
        {"end_seq", NULL, COLUMN_NUMBER, 0, 0},    {"start_ns", NULL, COLUMN_DURATION, 0, 0},
        {"end_ns", NULL, COLUMN_DURATION, 0, 0},   {"allocs", NULL, COLUMN_COUNT, 0, 0},
        {"frees", NULL, COLUMN_COUNT, 0, 0},       {"alloc_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"start_bytes", NULL, COLUMN_BYTES, 0, 0}, {"peak_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"peak_phase", NULL, COLUMN_TEXT, 0, 0},   {"peak_seq", NULL, COLUMN_NUMBER, 0, 0},
        {"end_bytes", NULL, COLUMN_BYTES, 0, 0},   {"residual_bytes", NULL, COLUMN_DELTA, 0, 0},
};
static const struct row_kind step_kind = ROW_KIND("step", step_columns);
static const struct row_column phase_columns[] = {
        {"step", NULL, COLUMN_NUMBER, 0, 0},          {"device", NULL, COLUMN_TEXT, 0, 0},
        {"phase", NULL, COLUMN_TEXT, 0, 0},           {"allocs", NULL, COLUMN_COUNT, 0, 0},
        {"alloc_bytes", NULL, COLUMN_BYTES, 0, 0},    {"start_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"peak_bytes", NULL, COLUMN_BYTES, 0, 0},     {"end_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"residual_bytes", NULL, COLUMN_DELTA, 0, 0},
};
static const struct row_kind phase_kind = ROW_KIND("phase", phase_columns);
static const struct row_kind *const kinds[] = {&step_kind, &phase_kind, NULL};

static void residual(struct rows *rows, bool known, uint64_t now, uint64_t before)
{
	if (known)
		row_delta(rows, "residual_bytes", (int64_t)(now - before));
}

static int phase_row(struct timeline *timeline, uint64_t step, unsigned name, const struct phase_row *phase,
                     const struct phase_row *earlier)
{
	struct rows *rows = timeline->phase_rows;

	row_begin(rows);
	row_count(rows, "step", step);
	row_text(rows, "device", timeline->report->device_name);
	row_text(rows, "phase", phase_name(name));
	row_count(rows, "allocs", phase->allocs);
	row_count(rows, "alloc_bytes", phase->alloc_bytes);
	if (phase->has_start)
		row_count(rows, "start_bytes", phase->start_bytes);
	row_count(rows, "peak_bytes", phase->peak_bytes);
	row_count(rows, "end_bytes", phase->end_bytes);
	residual(rows, earlier, phase->end_bytes, earlier ? earlier->end_bytes : 0);
	return row_end(rows);
}

static int step_row(struct timeline *timeline, const struct step_row *row, const struct step_row *before)
{
	const struct store_step *step = &row->step;
	struct rows *rows = timeline->step_rows;
	unsigned phases[NR_PHASES];
	unsigned nr = order_phases(row, phases);
	int error;

	row_begin(rows);
	row_count(rows, "step", step->step);
	row_text(rows, "device", timeline->report->device_name);
	row_text(rows, "kind", step_kind_name(step->kind));
	row_count(rows, "start_seq", step->start_seq);
	row_count(rows, "end_seq", step->end_seq);
	row_count(rows, "start_ns", step->start_ns);
	row_count(rows, "end_ns", step->end_ns);
	row_count(rows, "allocs", step->allocs);
	row_count(rows, "frees", step->frees);
	row_count(rows, "alloc_bytes", step->alloc_bytes);
	row_count(rows, "start_bytes", step->start_bytes);
	row_count(rows, "peak_bytes", step->peak_bytes);
	row_text(rows, "peak_phase", phase_name(step->peak_phase));
	row_count(rows, "peak_seq", step->peak_seq);
	row_count(rows, "end_bytes", step->end_bytes);
	residual(rows, before, step->end_bytes, before ? before->step.end_bytes : 0);
	error = row_end(rows);
	for (unsigned i = 0; i < nr && !error; i++) {
		const struct phase_row *earlier = before && before->phases[phases[i]].seen ? &before->phases[phases[i]] : NULL;

		error = phase_row(timeline, step->step, phases[i], &row->phases[phases[i]], earlier);
	}
	return error;
}

/* ---- reading rows */

static int flush_batch(struct timeline *timeline)
{
	struct report *report = timeline->report;
	int error = 0;

	if (!timeline->nr_batch)
		return 0;
	/* Spans carry the bytes of the run's main device only. */
	if (report->device_is_main)
		error = store_each_span(report->store, timeline->batch[0].step.start_seq,
		                        timeline->batch[timeline->nr_batch - 1].step.end_seq + 1, each_span, timeline);
	if (!error)
		error = store_each_phase(report->store, report->device, each_phase, timeline);
	for (size_t i = 0; i < timeline->nr_batch && !error; i++) {
		const struct step_row *row = &timeline->batch[i];
		unsigned kind = row->step.kind < NR_STEP_KINDS ? row->step.kind : STEP_SETUP;
		const struct step_row *before;

		if (kind == STEP_PARTIAL)
			kind = STEP_TRAIN; /* a training step like any other, only without its end */
		before = timeline->had[kind] ? &timeline->before[kind] : NULL;
		if (!is_shown(timeline, row)) {
			timeline->skipped++;
			timeline->unshown++;
		} else {
			timeline->shown++;
			if (timeline->table)
				text_step(timeline, row, before);
			else
				error = step_row(timeline, row, before);
		}
		timeline->before[kind] = *row;
		timeline->had[kind] = true;
	}
	timeline->nr_batch = 0;
	return error ? error : report_check(report);
}

static int each_step_second(const struct store_step *step, void *arg)
{
	struct timeline *timeline = arg;

	/* A file whose steps come in another order than they say cannot be searched. */
	if (timeline->nr_batch && step->step <= timeline->batch[timeline->nr_batch - 1].step.step)
		return 0;
	timeline->batch[timeline->nr_batch] =
	        (struct step_row){.step = *step, .number = timeline->shown + timeline->unshown + timeline->nr_batch};
	if (++timeline->nr_batch == BATCH_STEPS)
		return flush_batch(timeline);
	return 0;
}

static int read_rows(struct timeline *timeline)
{
	int error;

	timeline->batch = calloc(BATCH_STEPS, sizeof(*timeline->batch));
	timeline->before = calloc(NR_STEP_KINDS, sizeof(*timeline->before));
	if (!timeline->batch || !timeline->before)
		error = -ENOMEM;
	else
		error = store_each_step(timeline->report->store, timeline->report->device, each_step_second, timeline);
	if (!error)
		error = flush_batch(timeline);
	if (!error && timeline->table && timeline->report->arguments->filter.step == UINT64_MAX)
		flush_skipped(timeline);
	free(timeline->batch);
	free(timeline->before);
	return error;
}

/* ---- chart */

struct chart {
	struct report *report;
	uint64_t start_seq, end_seq;
	unsigned nr_columns;
	struct store_bucket *buckets;
	uint64_t (*covered)[NR_PHASES]; /* per bucket: records that each phase covers */
	bool phases;                    /* columns are short enough to tell them */
	char *marks;                    /* step numbers under the phases */
	unsigned marked;                /* columns of it that are taken */
};

static unsigned column_of(const struct chart *chart, uint64_t seq)
{
	double place = (double)(seq - chart->start_seq) / (double)(chart->end_seq - chart->start_seq);
	unsigned column = (unsigned)(place * chart->nr_columns);

	return column < chart->nr_columns ? column : chart->nr_columns - 1;
}

static int each_chart_span(const struct store_span *span, void *arg)
{
	struct chart *chart = arg;
	uint64_t start = span->start_seq < chart->start_seq ? chart->start_seq : span->start_seq;
	uint64_t end = span->end_seq == 0 || span->end_seq > chart->end_seq ? chart->end_seq : span->end_seq;

	if (span->phase >= NR_PHASES || start >= end)
		return 0;
	for (unsigned i = column_of(chart, start); i < chart->nr_columns; i++) {
		const struct store_bucket *bucket = &chart->buckets[i];
		uint64_t from = start > bucket->start_seq ? start : bucket->start_seq;
		uint64_t to = end < bucket->end_seq ? end : bucket->end_seq;

		if (from < to)
			chart->covered[i][span->phase] += to - from;
		else if (bucket->start_seq >= end)
			break;
	}
	return 0;
}

static int each_chart_step(const struct store_step *step, void *arg)
{
	struct chart *chart = arg;
	char number[24];
	unsigned column, length;

	if (step->start_seq < chart->start_seq || step->start_seq >= chart->end_seq)
		return 0;
	column = column_of(chart, step->start_seq);
	length = (unsigned)snprintf(number, sizeof(number), "%" PRIu64, step->step);
	if (column < chart->marked || column + length > chart->nr_columns)
		return 0;
	memcpy(chart->marks + column, number, length);
	chart->marked = column + length + 1;
	return 0;
}

static const char phase_letters[NR_PHASES] = {
        [PHASE_STATIC] = 's',    [PHASE_FORWARD] = 'f',   [PHASE_BACKWARD] = 'b',
        [PHASE_OPTIMIZER] = 'o', [PHASE_INFERENCE] = 'i', [PHASE_OTHER] = '.',
};

/* The phase that covers most of a column, or NR_PHASES. */
static unsigned phase_of(const struct chart *chart, unsigned column)
{
	unsigned most = NR_PHASES;

	for (unsigned phase = 0; phase < NR_PHASES && chart->phases; phase++)
		if (chart->covered[column][phase] &&
		    (most == NR_PHASES || chart->covered[column][phase] > chart->covered[column][most]))
			most = phase;
	return most;
}

/* How many eighths of a cell in row @row (0 the lowest) @bytes fill, when @top fills all rows. */
static unsigned eighths(uint64_t bytes, uint64_t top, unsigned row)
{
	double filled = (double)bytes / (double)top * CHART_ROWS * 8 - row * 8.0;

	/* What is there at all is seen. */
	if (row == 0 && bytes > 0 && filled < 1)
		return 1;
	return filled <= 0 ? 0 : filled >= 8 ? 8 : (unsigned)(filled + 0.5);
}

static void print_chart_cell(const struct chart *chart, const struct store_bucket *bucket, uint64_t top, unsigned row)
{
	static const char *const blocks[] = {" ",
	                                     "\xe2\x96\x81",
	                                     "\xe2\x96\x82",
	                                     "\xe2\x96\x83",
	                                     "\xe2\x96\x84",
	                                     "\xe2\x96\x85",
	                                     "\xe2\x96\x86",
	                                     "\xe2\x96\x87",
	                                     "\xe2\x96\x88"};
	unsigned most = eighths(bucket->max_bytes, top, row);
	unsigned least = eighths(bucket->min_bytes, top, row);
	FILE *out = chart->report->out;

	if (chart->report->utf8) {
		/* Between the lowest and the highest of a column: a lighter block. */
		fputs(most == 8 && least < 4 ? "\xe2\x96\x92" : blocks[most], out);
	} else {
		putc(most == 0 ? ' ' : most < 4 ? '.' : least < 4 ? ':' : '#', out);
	}
}

/* Print one row of the chart, cells coloured by their column's phase. */
static void print_chart_row(const struct chart *chart, uint64_t top, unsigned row)
{
	bool colour = chart->report->colour;
	unsigned current = NR_PHASES;
	unsigned last = chart->nr_columns;

	while (last > 0 && !eighths(chart->buckets[last - 1].max_bytes, top, row))
		last--;
	for (unsigned i = 0; i < last; i++) {
		unsigned phase = phase_of(chart, i);

		if (colour && phase != current) {
			fputs(style_end(STYLE_PHASE, colour), chart->report->out);
			fputs(phase < NR_PHASES ? style_begin(STYLE_PHASE + phase, colour) : "", chart->report->out);
			current = phase;
		}
		print_chart_cell(chart, &chart->buckets[i], top, row);
	}
	fputs(style_end(STYLE_PHASE, colour), chart->report->out);
}

static void print_chart_foot(const struct chart *chart, unsigned label_width)
{
	struct report *report = chart->report;
	bool seen[NR_PHASES] = {false};
	unsigned last = chart->nr_columns;

	if (chart->phases)
		fprintf(report->out, "%*s  ", (int)label_width, "phase");
	for (unsigned i = 0; i < chart->nr_columns && chart->phases; i++) {
		unsigned phase = phase_of(chart, i);

		if (phase == NR_PHASES) {
			putc(' ', report->out);
			continue;
		}
		seen[phase] = true;
		fprintf(report->out, "%s%c%s", style_begin(STYLE_PHASE + phase, report->colour), phase_letters[phase],
		        style_end(STYLE_PHASE + phase, report->colour));
	}
	while (last > 0 && chart->marks[last - 1] == ' ')
		last--;
	fprintf(report->out, "%s%*s  %.*s\n", chart->phases ? "\n" : "", (int)label_width, "step", (int)last, chart->marks);
	if (chart->phases)
		fprintf(report->out, "%*s ", report->width < LEGEND_FROM ? 0 : (int)label_width, "");
	for (unsigned phase = 0; phase < NR_PHASES && chart->phases; phase++)
		if (seen[phase])
			fprintf(report->out, " %s%c %s%s", style_begin(STYLE_PHASE + phase, report->colour), phase_letters[phase],
			        phase_name(phase), style_end(STYLE_PHASE + phase, report->colour));
	fprintf(report->out, "%s\n", chart->phases ? "\n" : "");
}

static void draw_chart(const struct chart *chart)
{
	struct report *report = chart->report;
	uint64_t top = 1;
	unsigned peak_column = 0;
	const unsigned label_width = 10;

	for (unsigned i = 0; i < chart->nr_columns; i++)
		if (chart->buckets[i].max_bytes > top) {
			top = chart->buckets[i].max_bytes;
			peak_column = i;
		}
	fprintf(report->out, "%*s  %*s%s\n", (int)label_width, "", (int)peak_column, "", report->utf8 ? "\xe2\x96\xbc" : "v");
	for (unsigned row = CHART_ROWS; row-- > 0;) {
		format_buffer label = "";

		if (row == CHART_ROWS - 1)
			report_bytes(report, top, label);
		else if (row == CHART_ROWS / 2 - 1)
			report_bytes(report, top / 2, label);
		else if (row == 0)
			snprintf(label, sizeof(label), "0");
		fprintf(report->out, "%*s %s", (int)label_width, label, report->utf8 ? "\xe2\x94\x82" : "|");
		print_chart_row(chart, top, row);
		putc('\n', report->out);
	}
	print_chart_foot(chart, label_width);
}

static unsigned chart_width(const struct report *report)
{
	return report->width > 12 + CHART_MIN_COLUMNS ? report->width - 12 : CHART_MIN_COLUMNS;
}

static int print_chart(struct report *report, uint64_t start_seq, uint64_t end_seq, bool phases)
{
	uint64_t nr_records = end_seq - start_seq;
	unsigned nr_columns = chart_width(report);
	struct chart chart = {.report = report, .start_seq = start_seq, .end_seq = end_seq, .phases = phases};
	int error = -ENOMEM;

	if (end_seq <= start_seq)
		return 0;
	chart.nr_columns = nr_records < nr_columns ? (unsigned)nr_records : nr_columns;
	chart.buckets = calloc(chart.nr_columns, sizeof(*chart.buckets));
	chart.covered = calloc(chart.nr_columns, sizeof(*chart.covered));
	chart.marks = malloc(chart.nr_columns + 1);
	if (chart.buckets && chart.covered && chart.marks) {
		memset(chart.marks, ' ', chart.nr_columns);
		chart.marks[chart.nr_columns] = '\0';
		error = store_read_levels(report->store, report->device, chart.start_seq, chart.end_seq, chart.buckets,
		                          chart.nr_columns);
	}
	if (!error)
		error = store_each_span(report->store, chart.start_seq, chart.end_seq, each_chart_span, &chart);
	if (!error)
		error = store_each_step(report->store, report->device, each_chart_step, &chart);
	if (!error)
		draw_chart(&chart);
	free(chart.buckets);
	free(chart.covered);
	free(chart.marks);
	return error;
}

/* The run; and where that leaves less than a few columns for a step, the step with the peak once more by itself. */
static int print_charts(const struct timeline *timeline)
{
	struct report *report = timeline->report;
	bool one_step = report->arguments->filter.step != UINT64_MAX;
	bool crowded = !one_step && timeline->nr_steps > chart_width(report) / COLUMNS_PER_STEP;
	int error;

	if (one_step)
		fprintf(report->out, "Live bytes on %s in step %" PRIu64 ", event by event\n", report->device_name,
		        report->arguments->filter.step);
	else
		fprintf(report->out, "Live bytes on %s over the whole run, event by event\n", report->device_name);
	error = print_chart(report, timeline->start_seq, timeline->end_seq, !crowded);
	if (error || !crowded)
		return error;
	fprintf(report->out, "Step %" PRIu64 ", the one with the peak\n", timeline->peak_step);
	return print_chart(report, timeline->peak_start_seq, timeline->peak_end_seq, true);
}

/* ---- the view */

static void choose_rows(struct timeline *timeline)
{
	uint64_t limit = timeline->report->arguments->limit;

	timeline->limit = limit == LIMIT_DEFAULT ? (timeline->table ? LIMIT_TEXT : LIMIT_ALL) : limit;
	/* One place is for the step with the peak; the rest is shared by the first and the last ones. */
	timeline->tail = (timeline->limit - (timeline->limit > 0)) / 2;
	timeline->head = timeline->limit - (timeline->limit > 0) - timeline->tail;
	if (timeline->limit && timeline->nr_steps <= timeline->limit)
		timeline->limit = LIMIT_ALL;
}

static int read_first(struct timeline *timeline)
{
	struct report *report = timeline->report;
	int error = store_each_step(report->store, report->device, each_step_first, timeline);

	return error;
}

static int show_text(struct report *report)
{
	static const struct column columns[] = {
	        {.heading = "step"},
	        {.heading = "start", .right = true},
	        {.heading = "peak", .right = true},
	        {.heading = "end", .right = true},
	        {.heading = "change, bytes", .right = true},
	};
	struct timeline timeline = {.report = report};
	int error = report_losses(report);

	if (!error && report->has_device)
		error = read_first(&timeline);
	if (error)
		return error;
	if (!timeline.nr_steps) {
		fprintf(report->out, "No tensor was allocated in this run.\n");
		return 0;
	}
	timeline.unit = unit_for_table(report->arguments->units, timeline.peak_bytes);
	error = print_charts(&timeline);
	if (error)
		return error;
	timeline.table = table_new(columns, 5);
	choose_rows(&timeline);
	error = read_rows(&timeline);
	report_say(
	        report, 0,
	        "%s at the start, the highest and the end of each step and phase; change: what the end has more than that of the "
	        "step of its kind before",
	        timeline.unit.bytes > 1 ? timeline.unit.name : "Bytes");
	if (!error)
		error = report_print_table(report, timeline.table);
	table_free(timeline.table);
	return error ? error : report_check(report);
}

static int show_rows(struct report *report)
{
	struct timeline timeline = {.report = report};
	int error;

	if (!report->has_device)
		return 0;
	error = read_first(&timeline);
	if (error)
		return error;
	timeline.step_rows = rows_new(report, &step_kind);
	timeline.phase_rows = rows_new(report, &phase_kind);
	choose_rows(&timeline);
	error = rows_close(timeline.step_rows, read_rows(&timeline));
	return rows_close(timeline.phase_rows, error);
}

static int show(struct report *report)
{
	return report_is_for_people(report) ? show_text(report) : show_rows(report);
}

const struct report_view timeline_view = {
        .name = "timeline",
        .help = "live memory over the run, and each step phase by phase",
        .filters = FILTER_DEVICE | FILTER_STEP,
        .kinds = kinds,
        .show = show,
};
