/*
 * summary: what was run, what went wrong with recording it, what the memory was for in training and in inference, and
 * when there was most of it.  Its table says each kind at its own maximum, then the peak as one instant.
 */
#include "report/live.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* The order of the table: what stays, what a forward makes, what a backward makes, what the optimizer makes, the rest. */
static const struct {
	unsigned category;
	bool always; /* shown even when there was none */
} table_rows[] = {
        {CATEGORY_PARAMETER, true},
        {CATEGORY_BUFFER, false},
        {CATEGORY_INPUT, true},
        {CATEGORY_ACTIVATION, true},
        {CATEGORY_FORWARD_TEMPORARY, true},
        {CATEGORY_RECOMPUTE, false},
        {CATEGORY_GRADIENT, true},
        {CATEGORY_BACKWARD_TEMPORARY, true},
        {CATEGORY_OPTIMIZER_STATE, true},
        {CATEGORY_OPTIMIZER_TEMPORARY, true},
        {CATEGORY_WORKSPACE, false},
        {CATEGORY_COMMUNICATION, false},
        {CATEGORY_UNKNOWN, false},
};
#define NR_TABLE_ROWS (sizeof(table_rows) / sizeof(table_rows[0]))

struct compositions {
	struct store_composition training, inference;
};

static int read_compositions(struct report *report, struct compositions *ret)
{
	int error = store_read_composition(report->store, report->device, WINDOW_STEADY_STEP, &ret->training);

	return error ? error : store_read_composition(report->store, report->device, WINDOW_INFERENCE, &ret->inference);
}

/* ---- facts */

static const char *ended_words(struct report *report, char *ret, size_t size)
{
	const char *ended = report->run.ended ? report->run.ended : "?";
	int number;

	if (!strcmp(ended, "running"))
		snprintf(ret, size, "not yet");
	else if (!strcmp(ended, "killed"))
		snprintf(ret, size, "killed (nobody saw by what)");
	else if (!strcmp(ended, "exec"))
		snprintf(ret, size, "replaced itself by another program (exec)");
	else if (sscanf(ended, "signal %d", &number) == 1)
		snprintf(ret, size, "killed by signal %d (%s)", number, strsignal(number));
	else
		snprintf(ret, size, "%s", report_safe(report, ended));
	return ret;
}

static void print_facts(struct report *report)
{
	const struct store_run *run = &report->run;
	format_buffer events, steps, duration, number;
	char ended[128];

	fprintf(report->out, "Run       %s\n", report_safe(report, run->command));
	fprintf(report->out, "          PyTorch %s, Python %s, pid %" PRId64, report_safe(report, run->torch_version),
	        report_safe(report, run->python_version), run->pid);
	if (run->rank >= 0)
		fprintf(report->out, ", rank %" PRId64, run->rank);
	if (report->has_device)
		fprintf(report->out, ", on %s", report->device_name);
	fprintf(report->out, "\nEnded     %s, %s after the recording began\n", ended_words(report, ended, sizeof(ended)),
	        format_duration(run->duration_ns, duration));
	fprintf(report->out, "Recorded  %s allocations and frees in %s training step%s", format_count(run->events, events),
	        format_count(run->steps, steps), run->steps == 1 ? "" : "s");
	if (!run->lost.total)
		fprintf(report->out, ", none lost");
	if (run->audit_checks && !run->audit_failures)
		fprintf(report->out, "\n          %s running totals compared with PyTorch's own: all equal",
		        format_count(run->audit_checks, number));
	fprintf(report->out, "\n\n");
}

/* ---- the table */

/* One column pair: exact bytes and the same in @unit. */
static void cells_of(struct table *table, struct unit unit, bool present, uint64_t bytes)
{
	format_buffer number;

	table_cell(table, present ? format_count(bytes, number) : "-");
	if (unit.bytes > 1)
		table_cell(table, present ? format_in_unit(unit, bytes, number) : "-");
}

static void cell_at_peak(struct table *table, struct unit unit, bool present, uint64_t bytes)
{
	format_buffer number;

	table_cell(table, present ? format_in_unit(unit, bytes, number) : "-");
}

static int print_table(struct report *report, const struct compositions *both)
{
	const struct store_composition *training = &both->training, *inference = &both->inference;
	uint64_t largest = training->peak_bytes > inference->peak_bytes ? training->peak_bytes : inference->peak_bytes;
	struct unit unit = unit_for_table(report->arguments->units, largest);
	const struct column human[] = {
	        {"", false, false},       {"training", true, false},  {unit.name, true, false},
	        {"at peak", true, false}, {"inference", true, false}, {unit.name, true, false},
	};
	const struct column exact[] = {
	        {"", false, false}, {"training", true, false}, {"at peak", true, false}, {"inference", true, false}};
	bool is_exact = unit.bytes == 1;
	struct table *table = is_exact ? table_new(exact, 4) : table_new(human, 6);
	format_buffer share;
	int error;

	for (size_t i = 0; i < NR_TABLE_ROWS; i++) {
		unsigned category = table_rows[i].category;

		if (!table_rows[i].always && !training->max_bytes[category] && !inference->max_bytes[category])
			continue;
		table_row(table, STYLE_PLAIN);
		table_cell(table, category_words(category));
		cells_of(table, unit, training->present, training->max_bytes[category]);
		cell_at_peak(table, unit, training->present, training->at_peak_bytes[category]);
		cells_of(table, unit, inference->present, inference->max_bytes[category]);
	}
	table_row(table, STYLE_FAINT);
	table_cell(table, "sum of the maxima");
	cells_of(table, unit, training->present, training->sum_of_max_bytes);
	table_cell(table, "");
	cells_of(table, unit, inference->present, inference->sum_of_max_bytes);
	table_row(table, STYLE_STRONG);
	table_cell(table, "PEAK, at one instant");
	cells_of(table, unit, training->present, training->peak_bytes);
	cell_at_peak(table, unit, training->present, training->peak_bytes);
	cells_of(table, unit, inference->present, inference->peak_bytes);
	table_row(table, STYLE_FAINT);
	table_cell(table, "  of the sum");
	table_cell(table, training->present ? format_share(training->peak_bytes, training->sum_of_max_bytes, share) : "");
	table_cell(table, "");
	if (!is_exact)
		table_cell(table, "");
	table_cell(table, inference->present ? format_share(inference->peak_bytes, inference->sum_of_max_bytes, share) : "");

	fprintf(report->out, "The most bytes of each kind on %s, each at its own time", report->device_name);
	if (training->present)
		fprintf(report->out, "; training: step %" PRIu64, training->step);
	if (inference->present)
		fprintf(report->out, "; inference: step %" PRIu64, inference->step);
	fprintf(report->out, "\n");
	error = report_print_table(report, table);
	table_free(table);
	putc('\n', report->out);
	return error;
}

/* ---- sentences */

static int print_peak(struct report *report, const struct store_device *device, const struct compositions *both)
{
	format_buffer size, exact, when, part;
	const struct live_owner *owner;
	struct live live;
	int error = live_read(report, report->device, device->peak_seq, &live);

	if (error)
		return error;
	owner = live_biggest_owner(&live);
	fprintf(report->out, "%sPeak%s      %s (%s bytes) on %s in step %" PRIu64 ", %s",
	        style_begin(STYLE_STRONG, report->colour), style_end(STYLE_STRONG, report->colour),
	        report_bytes(report, device->peak_bytes, size), format_count(device->peak_bytes, exact), report->device_name,
	        device->peak_step, phase_name(device->peak_phase));
	if (live.has_last) {
		fprintf(report->out, ", %s after the start,\n          by %s of %s", format_duration(live.last_ns, when),
		        report_bytes(report, live.last_bytes, size), category_words(live.last_category));
		if (live.last_layer)
			fprintf(report->out, " for %s", report_layer(report, live.last_root, live.last_layer));
	}
	if (owner)
		fprintf(report->out, ";%s%s owns most at that moment: %s", live.has_last ? " " : "\n          ",
		        report_layer(report, owner->root, owner->layer), report_bytes(report, owner->bytes, part));
	fprintf(report->out, "\n");
	if (both->training.present && both->training.step != device->peak_step)
		fprintf(report->out, "          (not in the step of the table: see 'nnmem-report peak' for what was alive)\n");
	live_release(&live);
	return 0;
}

struct listing {
	struct report *report;
	uint64_t count, cpu_peak_bytes;
};

static int each_device(const struct store_device *device, void *arg)
{
	struct listing *listing = arg;

	listing->count++;
	if (device->device == RECORD_DEVICE_CPU)
		listing->cpu_peak_bytes = device->peak_bytes;
	return 0;
}

static int print_device(const struct store_device *device, void *arg)
{
	struct listing *listing = arg;
	format_buffer peak, live;

	fprintf(listing->report->out, "%s  %s: peak %s in step %" PRIu64 ", %s; %s at the end\n",
	        listing->count++ ? "        " : "Devices ", report_safe(listing->report, device->name),
	        report_bytes(listing->report, device->peak_bytes, peak), device->peak_step, phase_name(device->peak_phase),
	        report_bytes(listing->report, device->live_at_end_bytes, live));
	return 0;
}

static int print_sibling(const char *path, void *arg)
{
	struct listing *listing = arg;

	fprintf(listing->report->out, "%s  %s\n", listing->count++ ? "        " : "See also", report_safe(listing->report, path));
	return report_check(listing->report);
}

static int print_process(struct report *report)
{
	const struct store_run *run = &report->run;
	format_buffer rss, rest, bytes, exact, values;
	struct listing devices = {.report = report}, printed = {.report = report}, siblings = {.report = report};
	int error = store_each_device(report->store, each_device, &devices);

	if (error)
		return error;
	if (run->params_bytes) {
		fprintf(report->out, "Model     parameters hold %s bytes (%s)", format_count(run->params_bytes, exact),
		        report_bytes(report, run->params_bytes, bytes));
		if (run->params_values)
			fprintf(report->out, " in %s values", format_count(run->params_values, values));
		fprintf(report->out, "\n");
	}
	if (run->external_bytes)
		fprintf(report->out,
		        "          %s more in tensors whose memory is not PyTorch's (from numpy, mapped files): not counted\n",
		        report_bytes(report, run->external_bytes, bytes));
	if (run->peak_rss_bytes) {
		uint64_t others = run->peak_rss_bytes > devices.cpu_peak_bytes ? run->peak_rss_bytes - devices.cpu_peak_bytes : 0;

		fprintf(report->out,
		        "Process   %s of memory at most (peak RSS), at least %s of it not tensors: Python, libraries, caches\n",
		        report_bytes(report, run->peak_rss_bytes, rss), report_bytes(report, others, rest));
	}
	if (devices.count > 1)
		error = store_each_device(report->store, print_device, &printed);
	return error ? error : store_each_sibling(report->store, print_sibling, &siblings);
}

static int show_text(struct report *report)
{
	struct compositions both = {0};
	struct store_device device = {0};
	int error = report_losses(report);

	if (error)
		return error;
	print_facts(report);
	if (report->has_device) {
		error = report_read_device(report, &device);
		if (!error)
			error = read_compositions(report, &both);
		if (!error)
			error = print_table(report, &both);
		if (!error)
			error = print_peak(report, &device, &both);
	} else {
		fprintf(report->out, "No tensor was allocated in this run.\n");
	}
	if (!error)
		error = print_process(report);
	return error ? error : report_check(report);
}

/* ---- rows */

static const struct row_column category_columns[] = {
        {"device", NULL, COLUMN_TEXT, 0, 0},     {"window", NULL, COLUMN_TEXT, 0, 0},
        {"step", NULL, COLUMN_NUMBER, 0, 0},     {"category", NULL, COLUMN_TEXT, 0, 0},
        {"max_bytes", NULL, COLUMN_BYTES, 0, 0}, {"at_peak_bytes", NULL, COLUMN_BYTES, 0, 0},
};
static const struct row_kind category_kind = ROW_KIND("category", category_columns);
static const struct row_column window_columns[] = {
        {"device", NULL, COLUMN_TEXT, 0, 0},
        {"window", NULL, COLUMN_TEXT, 0, 0},
        {"step", NULL, COLUMN_NUMBER, 0, 0},
        {"step_kind", NULL, COLUMN_TEXT, 0, 0},
        {"sum_of_max_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"peak_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"peak_seq", NULL, COLUMN_NUMBER, 0, 0},
        {"peak_phase", NULL, COLUMN_TEXT, 0, 0},
};
static const struct row_kind window_kind = ROW_KIND("window", window_columns);
static const struct row_kind *const kinds[] = {&run_kind, &device_kind, &category_kind, &window_kind, NULL};

static int window_rows(struct report *report, const char *window, const struct store_composition *composition)
{
	struct rows *rows;
	int error = 0;

	if (!composition->present)
		return 0;
	rows = rows_new(report, &category_kind);
	for (size_t i = 0; i < NR_TABLE_ROWS && !error; i++) {
		unsigned category = table_rows[i].category;

		row_begin(rows);
		row_text(rows, "device", report->device_name);
		row_text(rows, "window", window);
		row_count(rows, "step", composition->step);
		row_text(rows, "category", category_name(category));
		row_count(rows, "max_bytes", composition->max_bytes[category]);
		row_count(rows, "at_peak_bytes", composition->at_peak_bytes[category]);
		error = row_end(rows);
	}
	error = rows_close(rows, error);
	if (error)
		return error;
	rows = rows_new(report, &window_kind);
	row_begin(rows);
	row_text(rows, "device", report->device_name);
	row_text(rows, "window", window);
	row_count(rows, "step", composition->step);
	row_text(rows, "step_kind", step_kind_name(composition->step_kind));
	row_count(rows, "sum_of_max_bytes", composition->sum_of_max_bytes);
	row_count(rows, "peak_bytes", composition->peak_bytes);
	row_count(rows, "peak_seq", composition->peak_seq);
	row_text(rows, "peak_phase", phase_name(composition->peak_phase));
	return rows_close(rows, row_end(rows));
}

static int show_rows(struct report *report)
{
	struct compositions both = {0};
	int error = report_run_row(report);

	if (!error)
		error = report_device_rows(report);
	if (!error && report->has_device) {
		error = read_compositions(report, &both);
		if (!error)
			error = window_rows(report, "training", &both.training);
		if (!error)
			error = window_rows(report, "inference", &both.inference);
	}
	return error;
}

static int show(struct report *report)
{
	return report_is_for_people(report) ? show_text(report) : show_rows(report);
}

const struct report_view summary_view = {
        .name = "summary",
        .help = "the run, what its memory was for, and its peak",
        .filters = FILTER_DEVICE,
        .kinds = kinds,
        .show = show,
};
