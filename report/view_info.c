/* info: everything that is known about the run and its recording. */
#include "report/view.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

static void line(struct report *report, const char *key, const char *value)
{
	report_say(report, 23, "  %-20s %s", key, value);
}

static void line_count(struct report *report, const char *key, uint64_t count)
{
	format_buffer number;

	line(report, key, format_count(count, number));
}

static void print_run(struct report *report)
{
	const struct store_run *run = &report->run;
	const char *recovery = report_recovery(run);
	time_t seconds = (time_t)(run->start_realtime_ns / 1000000000u);
	struct tm tm;
	char started[40] = "?";
	char text[128];
	format_buffer number;
	char size[2 * FORMAT_MAX];

	if (gmtime_r(&seconds, &tm))
		strftime(started, sizeof(started), "%Y-%m-%d %H:%M:%S UTC", &tm);
	report_heading(report, "Run");
	line(report, "command", report_safe(report, run->command));
	line(report, "started", started);
	line(report, "ended", report_safe(report, run->ended));
	line(report, "duration", format_duration(run->duration_ns, number));
	snprintf(text, sizeof(text), "%" PRId64, run->pid);
	line(report, "pid", text);
	if (run->rank >= 0) {
		snprintf(text, sizeof(text), "%" PRId64, run->rank);
		line(report, "rank", text);
	}
	line(report, "host", report_safe(report, run->hostname));
	line(report, "run id", report_safe(report, run->run_id));
	snprintf(text, sizeof(text), "nnmem %s, schema version %u", report_safe(report, run->nnmem_version), run->schema_version);
	line(report, "written by", text);
	line(report, "file", recovery ? recovery : "complete");
	line_count(report, "training steps", run->steps);
	if (run->peak_rss_bytes) {
		line(report, "peak RSS", report_size(report, run->peak_rss_bytes, size));
	}
	line(report, "parameters", report_size(report, run->params_bytes, size));
	if (run->external_bytes) {
		snprintf(text, sizeof(text), "%s, not PyTorch's memory and not counted",
		         report_size(report, run->external_bytes, size));
		line(report, "external tensors", text);
	}
}

static void print_recording(struct report *report)
{
	const struct store_run *run = &report->run;

	report_heading(report, "\nRecording");
	line_count(report, "events", run->events);
	line_count(report, "audit checks", run->audit_checks);
	line_count(report, "audit failures", run->audit_failures);
	for (unsigned i = 0; i < NR_LOST; i++) {
		char key[32];

		snprintf(key, sizeof(key), "lost %s", lost_name(i));
		line_count(report, key, run->lost.count[i]);
	}
	line_count(report, "recovered events", run->recovered_events);
}

struct section {
	struct report *report;
	const char *heading; /* printed before the first row, then NULL */
};

static void begin_section(struct section *section)
{
	if (section->heading)
		report_heading(section->report, "\n%s", section->heading);
	section->heading = NULL;
}

static int each_fact(const char *key, const char *value, void *arg)
{
	struct section *section = arg;
	struct report *report = section->report;

	begin_section(section);
	line(report, report_safe(report, key), report_safe(report, value));
	return report_check(report);
}

static int each_thread(const struct store_thread *thread, void *arg)
{
	struct section *section = arg;
	struct report *report = section->report;

	begin_section(section);
	report_say(report, 7, "  %-4" PRIu32 " %-18s os id %" PRIu64 "%s%s", thread->id,
	           thread->name && *thread->name ? report_safe(report, thread->name) : "-", thread->os_id,
	           thread->python ? ", runs Python" : "", thread->autograd ? ", autograd worker" : "");
	return report_check(report);
}

static int each_oom(const struct store_oom *oom, void *arg)
{
	struct section *section = arg;
	struct report *report = section->report;
	char device[DEVICE_NAME_MAX];
	format_buffer asked, had, when;

	begin_section(section);
	report_say(report, 4, "  %s: step %" PRIu64 ", %s, %s after the start: %s bytes asked for, %s in use",
	           device_name(oom->device, device), oom->step, phase_name(oom->phase), format_duration(oom->ns, when),
	           format_count(oom->size_bytes, asked), format_count(oom->allocated_bytes, had));
	if (oom->operation)
		fprintf(report->out, "    by %s\n", report_safe(report, oom->operation));
	if (oom->line)
		fprintf(report->out, "    at %s\n", report_safe(report, oom->line));
	return report_check(report);
}

static int each_note(const struct store_note *note, void *arg)
{
	struct section *section = arg;
	struct report *report = section->report;

	begin_section(section);
	report_say(report, 12, "  %-9s %s", severity_name(note->severity), report_safe(report, note->text));
	return report_check(report);
}

static int each_sibling(const char *path, void *arg)
{
	struct section *section = arg;

	begin_section(section);
	fprintf(section->report->out, "  %s\n", report_safe(section->report, path));
	return report_check(section->report);
}

static int show_text(struct report *report)
{
	struct section facts = {.report = report, .heading = "What the program said"};
	struct section threads = {.report = report, .heading = "Threads"};
	struct section ooms = {.report = report, .heading = "Out of memory"};
	struct section notes = {.report = report, .heading = "Notes"};
	struct section siblings = {.report = report, .heading = "Other files of this run"};
	int error;

	print_run(report);
	print_recording(report);
	report_heading(report, "\nDevices");
	error = report_device_rows(report);
	if (!error)
		error = store_each_fact(report->store, each_fact, &facts);
	if (!error)
		error = store_each_thread(report->store, each_thread, &threads);
	if (!error)
		error = store_each_oom(report->store, each_oom, &ooms);
	if (!error)
		error = store_each_note(report->store, each_note, &notes);
	if (!error)
		error = store_each_sibling(report->store, each_sibling, &siblings);
	return error ? error : report_check(report);
}

/* ---- rows */

static const struct row_column lost_columns[] = {
        {"cause", NULL, COLUMN_TEXT, 0, 0},
        {"count", NULL, COLUMN_COUNT, 0, 0},
};
static const struct row_kind lost_kind = ROW_KIND("lost", lost_columns);
static const struct row_column fact_columns[] = {
        {"key", NULL, COLUMN_TEXT, 0, 0},
        {"value", NULL, COLUMN_TEXT, 0, 0},
};
static const struct row_kind fact_kind = ROW_KIND("fact", fact_columns);
static const struct row_column thread_columns[] = {
        {"thread", NULL, COLUMN_NUMBER, 0, 0}, {"os_id", NULL, COLUMN_NUMBER, 0, 0},  {"name", NULL, COLUMN_TEXT, 0, 0},
        {"python", NULL, COLUMN_BOOL, 0, 0},   {"autograd", NULL, COLUMN_BOOL, 0, 0},
};
static const struct row_kind thread_kind = ROW_KIND("thread", thread_columns);
static const struct row_column oom_columns[] = {
        {"seq", NULL, COLUMN_NUMBER, 0, 0},
        {"ns", NULL, COLUMN_DURATION, 0, 0},
        {"device", NULL, COLUMN_TEXT, 0, 0},
        {"thread", NULL, COLUMN_NUMBER, 0, 0},
        {"step", NULL, COLUMN_NUMBER, 0, 0},
        {"phase", NULL, COLUMN_TEXT, 0, 0},
        {"root", NULL, COLUMN_TEXT, 0, 0},
        {"layer", NULL, COLUMN_TEXT, 0, 0},
        {"operation", NULL, COLUMN_TEXT, 0, 0},
        {"line", NULL, COLUMN_TEXT, 0, 0},
        {"size_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"allocated_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"reserved_bytes", NULL, COLUMN_BYTES, 0, 0},
};
static const struct row_kind oom_kind = ROW_KIND("oom", oom_columns);
static const struct row_column note_columns[] = {
        {"seq", NULL, COLUMN_NUMBER, 0, 0},
        {"severity", NULL, COLUMN_TEXT, 0, 0},
        {"what", NULL, COLUMN_TEXT, 0, 0},
};
static const struct row_kind note_kind = ROW_KIND("note", note_columns);
static const struct row_column sibling_columns[] = {
        {"path", NULL, COLUMN_TEXT, 0, 0},
};
static const struct row_kind sibling_kind = ROW_KIND("sibling", sibling_columns);
static const struct row_kind *const kinds[] = {&run_kind, &lost_kind, &device_kind,  &fact_kind, &thread_kind,
                                               &oom_kind, &note_kind, &sibling_kind, NULL};

static int lost_rows(struct report *report)
{
	struct rows *rows = rows_new(report, &lost_kind);
	int error = 0;

	for (unsigned i = 0; i < NR_LOST && !error; i++) {
		row_begin(rows);
		row_text(rows, "cause", lost_name(i));
		row_count(rows, "count", report->run.lost.count[i]);
		error = row_end(rows);
	}
	return rows_close(rows, error);
}

static int fact_row(const char *key, const char *value, void *arg)
{
	struct rows *rows = arg;

	row_begin(rows);
	row_text(rows, "key", key);
	row_text(rows, "value", value);
	return row_end(rows);
}

static int thread_row(const struct store_thread *thread, void *arg)
{
	struct rows *rows = arg;

	row_begin(rows);
	row_count(rows, "thread", thread->id);
	row_count(rows, "os_id", thread->os_id);
	row_text(rows, "name", thread->name);
	row_bool(rows, "python", thread->python);
	row_bool(rows, "autograd", thread->autograd);
	return row_end(rows);
}

static int oom_row(const struct store_oom *oom, void *arg)
{
	struct rows *rows = arg;
	char device[DEVICE_NAME_MAX];

	row_begin(rows);
	row_count(rows, "seq", oom->seq);
	row_count(rows, "ns", oom->ns);
	row_text(rows, "device", device_name(oom->device, device));
	row_count(rows, "thread", oom->thread);
	row_count(rows, "step", oom->step);
	row_text(rows, "phase", phase_name(oom->phase));
	row_text(rows, "root", oom->root);
	row_text(rows, "layer", oom->layer);
	row_text(rows, "operation", oom->operation);
	row_text(rows, "line", oom->line);
	row_count(rows, "size_bytes", oom->size_bytes);
	row_count(rows, "allocated_bytes", oom->allocated_bytes);
	row_count(rows, "reserved_bytes", oom->reserved_bytes);
	return row_end(rows);
}

static int note_row(const struct store_note *note, void *arg)
{
	struct rows *rows = arg;

	row_begin(rows);
	row_count(rows, "seq", note->seq);
	row_text(rows, "severity", severity_name(note->severity));
	row_text(rows, "what", note->text);
	return row_end(rows);
}

static int sibling_row(const char *path, void *arg)
{
	struct rows *rows = arg;

	row_begin(rows);
	row_text(rows, "path", path);
	return row_end(rows);
}

static int show_rows(struct report *report)
{
	int error = report_run_row(report);
	struct rows *rows;

	if (!error)
		error = lost_rows(report);
	if (!error)
		error = report_device_rows(report);
	if (error)
		return error;
	rows = rows_new(report, &fact_kind);
	error = rows_close(rows, store_each_fact(report->store, fact_row, rows));
	if (error)
		return error;
	rows = rows_new(report, &thread_kind);
	error = rows_close(rows, store_each_thread(report->store, thread_row, rows));
	if (error)
		return error;
	rows = rows_new(report, &oom_kind);
	error = rows_close(rows, store_each_oom(report->store, oom_row, rows));
	if (error)
		return error;
	rows = rows_new(report, &note_kind);
	error = rows_close(rows, store_each_note(report->store, note_row, rows));
	if (error)
		return error;
	rows = rows_new(report, &sibling_kind);
	return rows_close(rows, store_each_sibling(report->store, sibling_row, rows));
}

static int show(struct report *report)
{
	return report_is_for_people(report) ? show_text(report) : show_rows(report);
}

const struct report_view info_view = {
        .name = "info",
        .help = "everything known about the run and its recording",
        .kinds = kinds,
        .show = show,
};
