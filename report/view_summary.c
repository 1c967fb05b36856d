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
	struct store_values named;
};

static int read_compositions(struct report *report, struct compositions *ret)
{
	int error = store_read_composition(report->store, report->device, WINDOW_STEADY_STEP, &ret->training);

	if (!error)
		error = store_read_composition(report->store, report->device, WINDOW_INFERENCE, &ret->inference);
	return error ? error : store_read_values(report->store, report->device, &ret->named);
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
	char ended[128], rank[32] = "";

	if (run->rank >= 0)
		snprintf(rank, sizeof(rank), ", rank %" PRId64, run->rank);
	report_say(report, 10, "Run       %s", report_safe(report, run->command));
	report_say(report, 10, "          PyTorch %s, Python %s, pid %" PRId64 "%s%s%s", report_safe(report, run->torch_version),
	           report_safe(report, run->python_version), run->pid, rank, report->has_device ? ", on " : "",
	           report->has_device ? report->device_name : "");
	report_say(report, 10, "Ended     %s, %s after the recording began", ended_words(report, ended, sizeof(ended)),
	           format_duration(run->duration_ns, duration));
	report_say(report, 10, "Recorded  %s allocations and frees in %s training step%s%s", format_count(run->events, events),
	           format_count(run->steps, steps), run->steps == 1 ? "" : "s", run->lost.total ? "" : ", none lost");
	if (run->audit_checks && !run->audit_failures)
		report_say(report, 10, "          %s running totals compared with PyTorch's own: all equal",
		           format_count(run->audit_checks, number));
	putc('\n', report->out);
}

/* ---- the table */

/*
 * How many values a category holds: those of the tensors known by name, where these are all that there was of it.
 * Returns 0 when that is not known.
 */
static uint64_t values_of(const struct compositions *both, unsigned category)
{
	const struct store_composition *window = both->training.present ? &both->training : &both->inference;

	return both->named.bytes[category] == window->max_bytes[category] ? both->named.values[category] : 0;
}

#define UNITS_FROM 72u /* columns of a line with room for bytes in two units */

static const struct row_column table_columns[] = {
        {"kind", "", COLUMN_TEXT, 0, 0},
        {"values", "values", COLUMN_COUNT, COLUMN_IF_ANY, 85},
        {"training_exact", "training", COLUMN_EXACT, 0, 0},
        {"training_bytes", "%", COLUMN_BYTES, COLUMN_IF_ANY, UNITS_FROM},
        {"at_peak_bytes", "at peak", COLUMN_BYTES, 0, 0},
        {"inference_exact", "inference", COLUMN_EXACT, 0, 0},
        {"inference_bytes", "%", COLUMN_BYTES, COLUMN_IF_ANY, UNITS_FROM},
};
static const struct row_kind table_kind = ROW_KIND("table", table_columns);

static void fill(struct rows *rows, const char *column, bool present, uint64_t bytes)
{
	if (present)
		row_count(rows, column, bytes);
	else
		row_unknown(rows, column);
}

struct line {
	uint64_t training_bytes, at_peak_bytes, inference_bytes;
	bool no_peak; /* the column "at peak" has no meaning */
};

static int add_line(struct rows *rows, const struct compositions *both, bool exact, enum style style, const char *kind,
                    uint64_t values, const struct line *line)
{
	bool training = both->training.present, inference = both->inference.present;

	row_begin_for_people(rows, style);
	row_text(rows, "kind", kind);
	if (values)
		row_count(rows, "values", values);
	fill(rows, "training_exact", training, line->training_bytes);
	if (!exact)
		fill(rows, "training_bytes", training, line->training_bytes);
	if (!line->no_peak)
		fill(rows, "at_peak_bytes", training, line->at_peak_bytes);
	fill(rows, "inference_exact", inference, line->inference_bytes);
	if (!exact)
		fill(rows, "inference_bytes", inference, line->inference_bytes);
	return row_end(rows);
}

static int add_categories(struct rows *rows, const struct compositions *both, bool exact)
{
	const struct store_composition *training = &both->training, *inference = &both->inference;
	int error = 0;

	for (size_t i = 0; i < NR_TABLE_ROWS && !error; i++) {
		unsigned category = table_rows[i].category;
		struct line line = {training->max_bytes[category], training->at_peak_bytes[category],
		                    inference->max_bytes[category], false};

		if (table_rows[i].always || line.training_bytes || line.inference_bytes)
			error = add_line(rows, both, exact, STYLE_PLAIN, category_words(category), values_of(both, category),
			                 &line);
	}
	return error;
}

static void print_title(struct report *report, const struct compositions *both)
{
	char training[48] = "", inference[48] = "";

	if (both->training.present)
		snprintf(training, sizeof(training), "; training: step %" PRIu64, both->training.step);
	if (both->inference.present)
		snprintf(inference, sizeof(inference), "; inference: step %" PRIu64, both->inference.step);
	report_say(report, 0, "The most bytes of each kind on %s, each at its own time%s%s", report->device_name, training,
	           inference);
}

static int print_table(struct report *report, const struct compositions *both)
{
	const struct store_composition *training = &both->training, *inference = &both->inference;
	uint64_t largest = training->peak_bytes > inference->peak_bytes ? training->peak_bytes : inference->peak_bytes;
	bool exact = report->arguments->units == UNITS_EXACT;
	struct rows *rows = rows_new(report, &table_kind);
	const struct line sum = {training->sum_of_max_bytes, 0, inference->sum_of_max_bytes, true};
	const struct line peak = {training->peak_bytes, training->peak_bytes, inference->peak_bytes, false};
	format_buffer of_training, of_inference;
	int error;

	rows_set_unit(rows, unit_for_table(report->arguments->units, largest));
	error = add_categories(rows, both, exact);
	if (!error)
		error = add_line(rows, both, exact, STYLE_FAINT, "sum of the maxima", 0, &sum);
	if (!error)
		error = add_line(rows, both, exact, STYLE_STRONG, "PEAK, at one instant", 0, &peak);
	print_title(report, both);
	if (report->table_width && report->table_width < UNITS_FROM && !exact)
		rows_name_unit(rows, "at_peak_bytes");
	error = rows_close(rows, error);
	if (error)
		return error;
	if (training->present && inference->present)
		report_say(report, 0, "The peak is %s of the sum in training, %s in inference",
		           format_share(training->peak_bytes, training->sum_of_max_bytes, of_training),
		           format_share(inference->peak_bytes, inference->sum_of_max_bytes, of_inference));
	else if (training->present || inference->present)
		report_say(report, 0, "The peak is %s of the sum",
		           format_share(peak.training_bytes + peak.inference_bytes, sum.training_bytes + sum.inference_bytes,
		                        of_training));
	putc('\n', report->out);
	return 0;
}

/* ---- sentences */

static int print_peak(struct report *report, const struct store_device *device, const struct compositions *both)
{
	char last[4 * SAFE_TEXT_MAX], most[2 * SAFE_TEXT_MAX] = "";
	format_buffer when, part;
	char whole[2 * FORMAT_MAX];
	struct live live;
	int error = live_read(report, report->device, device->peak_seq, &live);

	if (error)
		return error;
	live_last_words(report, &live, last, sizeof(last));
	if (live.biggest)
		snprintf(most, sizeof(most), "; layer %s owns most at that moment: %s",
		         report_layer(report, live.biggest->root, live.biggest->layer),
		         report_bytes(report, live.biggest->bytes, part));
	report_say(report, 10, "Peak      %s on %s in step %" PRIu64 ", %s%s%s%s%s%s",
	           report_size(report, device->peak_bytes, whole), report->device_name, device->peak_step,
	           phase_name(device->peak_phase), live.has_last ? ", " : "",
	           live.has_last ? format_duration(live.last_ns, when) : "",
	           live.has_last ? " after the start, reached with " : "", last, most);
	if (both->training.present && both->training.step != device->peak_step)
		report_say(report, 10, "          (not in the step of the table: see 'nnmem-report peak' for what was alive)");
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
	format_buffer rss, rest, bytes, values;
	char whole[2 * FORMAT_MAX];
	struct listing devices = {.report = report}, printed = {.report = report}, siblings = {.report = report};
	int error = store_each_device(report->store, each_device, &devices);

	if (error)
		return error;
	if (run->params_bytes) {
		report_say(report, 10, "Model     parameters hold %s%s%s%s", report_size(report, run->params_bytes, whole),
		           run->params_values ? " in " : "", run->params_values ? format_count(run->params_values, values) : "",
		           run->params_values ? " values" : "");
	}
	if (run->external_bytes)
		report_say(report, 10,
		           "          %s more in tensors whose memory is not PyTorch's (from numpy, mapped files): not counted",
		           report_bytes(report, run->external_bytes, bytes));
	if (run->peak_rss_bytes) {
		uint64_t others = run->peak_rss_bytes > devices.cpu_peak_bytes ? run->peak_rss_bytes - devices.cpu_peak_bytes : 0;

		report_say(report, 10,
		           "Process   %s of memory at most (peak RSS), at least %s of it not tensors: Python, libraries, caches",
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
        {"values", NULL, COLUMN_COUNT, 0, 0},
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

static int window_rows(struct report *report, const char *window, const struct store_composition *composition,
                       const struct store_values *named)
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
		if (named->values[category] && named->bytes[category] == composition->max_bytes[category])
			row_count(rows, "values", named->values[category]);
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
			error = window_rows(report, "training", &both.training, &both.named);
		if (!error)
			error = window_rows(report, "inference", &both.inference, &both.named);
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
