/* info: everything that is known about the run and its recording. */
#include "report/view.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

static void line(struct report *report, const char *key, const char *value)
{
	fprintf(report->out, "  %-20s %s\n", key, value);
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
	format_buffer number, bytes;

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
		snprintf(text, sizeof(text), "%s bytes (%s)", format_count(run->peak_rss_bytes, number),
		         report_bytes(report, run->peak_rss_bytes, bytes));
		line(report, "peak RSS", text);
	}
	snprintf(text, sizeof(text), "%s bytes (%s)", format_count(run->params_bytes, number),
	         report_bytes(report, run->params_bytes, bytes));
	line(report, "parameters", text);
	if (run->external_bytes) {
		snprintf(text, sizeof(text), "%s bytes (%s), not PyTorch's memory and not counted",
		         format_count(run->external_bytes, number), report_bytes(report, run->external_bytes, bytes));
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
	struct table *table;
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
	fprintf(report->out, "  %-20s %s\n", report_safe(report, key), report_safe(report, value));
	return report_check(report);
}

static int each_device(const struct store_device *device, void *arg)
{
	struct section *section = arg;
	struct report *report = section->report;
	format_buffer number;
	char step[24];

	table_row(section->table, STYLE_PLAIN);
	table_cell(section->table, report_safe(report, device->name));
	table_cell(section->table, format_count(device->peak_bytes, number));
	snprintf(step, sizeof(step), "%" PRIu64, device->peak_step);
	table_cell(section->table, step);
	table_cell(section->table, phase_name(device->peak_phase));
	table_cell(section->table, format_count(device->allocs, number));
	table_cell(section->table, format_count(device->frees, number));
	table_cell(section->table, format_count(device->live_at_end_bytes, number));
	table_cell(section->table, device->reserved_peak_bytes ? format_count(device->reserved_peak_bytes, number) : "-");
	return 0;
}

static int print_devices(struct report *report)
{
	static const struct column columns[] = {
	        {"device", false, false},     {"peak bytes", true, false},    {"step", true, false},
	        {"phase", false, false},      {"allocations", true, false},   {"frees", true, false},
	        {"left at end", true, false}, {"peak reserved", true, false},
	};
	struct section section = {.report = report, .table = table_new(columns, 8)};
	int error = store_each_device(report->store, each_device, &section);

	if (!error) {
		report_heading(report, "\nDevices");
		error = table_print(section.table, report->out, report->table_width, report->utf8, report->colour);
	}
	table_free(section.table);
	return error;
}

static int each_thread(const struct store_thread *thread, void *arg)
{
	struct section *section = arg;
	struct report *report = section->report;

	begin_section(section);
	fprintf(report->out, "  %-4" PRIu32 " %-18s os id %" PRIu64 "%s%s\n", thread->id,
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
	fprintf(report->out, "  %s: step %" PRIu64 ", %s, %s after the start: %s bytes asked for, %s in use\n",
	        device_name(oom->device, device), oom->step, phase_name(oom->phase), format_duration(oom->ns, when),
	        format_count(oom->size_bytes, asked), format_count(oom->allocated_bytes, had));
	return report_check(report);
}

static int each_note(const struct store_note *note, void *arg)
{
	struct section *section = arg;
	struct report *report = section->report;
	bool bad = note->severity >= RECORD_SEVERITY_DEGRADED;

	begin_section(section);
	fprintf(report->out, "  %s%-9s%s %s\n", style_begin(bad ? STYLE_BAD : STYLE_PLAIN, report->colour),
	        severity_name(note->severity), style_end(bad ? STYLE_BAD : STYLE_PLAIN, report->colour),
	        report_safe(report, note->text));
	return report_check(report);
}

static int each_sibling(const char *path, void *arg)
{
	struct section *section = arg;

	begin_section(section);
	fprintf(section->report->out, "  %s\n", report_safe(section->report, path));
	return report_check(section->report);
}

static int text(struct report *report)
{
	struct section facts = {.report = report, .heading = "What the program said"};
	struct section threads = {.report = report, .heading = "Threads"};
	struct section ooms = {.report = report, .heading = "Out of memory"};
	struct section notes = {.report = report, .heading = "Notes"};
	struct section siblings = {.report = report, .heading = "Other files of this run"};
	int error;

	print_run(report);
	print_recording(report);
	error = print_devices(report);
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

static int json_fact(const char *key, const char *value, void *arg)
{
	struct report *report = arg;

	json_row_begin(&report->rows, "fact");
	json_row_text(&report->rows, "key", key);
	json_row_text(&report->rows, "value", value);
	return json_row_end(&report->rows);
}

static int json_thread(const struct store_thread *thread, void *arg)
{
	struct report *report = arg;

	json_row_begin(&report->rows, "thread");
	json_row_count(&report->rows, "thread", thread->id);
	json_row_count(&report->rows, "os_id", thread->os_id);
	json_row_text(&report->rows, "name", thread->name);
	json_row_bool(&report->rows, "python", thread->python);
	json_row_bool(&report->rows, "autograd", thread->autograd);
	return json_row_end(&report->rows);
}

static int json_oom(const struct store_oom *oom, void *arg)
{
	struct report *report = arg;
	char device[DEVICE_NAME_MAX];

	json_row_begin(&report->rows, "oom");
	json_row_count(&report->rows, "seq", oom->seq);
	json_row_count(&report->rows, "ns", oom->ns);
	json_row_text(&report->rows, "device", device_name(oom->device, device));
	json_row_count(&report->rows, "thread", oom->thread);
	json_row_count(&report->rows, "step", oom->step);
	json_row_text(&report->rows, "phase", phase_name(oom->phase));
	json_row_text(&report->rows, "root", oom->root);
	json_row_text(&report->rows, "layer", oom->layer);
	json_row_count(&report->rows, "size_bytes", oom->size_bytes);
	json_row_count(&report->rows, "allocated_bytes", oom->allocated_bytes);
	json_row_count(&report->rows, "reserved_bytes", oom->reserved_bytes);
	return json_row_end(&report->rows);
}

static int json_note(const struct store_note *note, void *arg)
{
	struct report *report = arg;

	json_row_begin(&report->rows, "note");
	json_row_count(&report->rows, "seq", note->seq);
	json_row_text(&report->rows, "severity", severity_name(note->severity));
	json_row_text(&report->rows, "what", note->text);
	return json_row_end(&report->rows);
}

static int json_sibling(const char *path, void *arg)
{
	struct report *report = arg;

	json_row_begin(&report->rows, "sibling");
	json_row_text(&report->rows, "path", path);
	return json_row_end(&report->rows);
}

static int json(struct report *report)
{
	int error = report_json_run(report);

	for (unsigned i = 0; i < NR_LOST && !error; i++) {
		json_row_begin(&report->rows, "lost");
		json_row_text(&report->rows, "cause", lost_name(i));
		json_row_count(&report->rows, "count", report->run.lost.count[i]);
		error = json_row_end(&report->rows);
	}
	if (!error)
		error = report_json_devices(report);
	if (!error)
		error = store_each_fact(report->store, json_fact, report);
	if (!error)
		error = store_each_thread(report->store, json_thread, report);
	if (!error)
		error = store_each_oom(report->store, json_oom, report);
	if (!error)
		error = store_each_note(report->store, json_note, report);
	if (!error)
		error = store_each_sibling(report->store, json_sibling, report);
	return error;
}

const struct report_view info_view = {
        .name = "info",
        .help = "everything known about the run and its recording",
        .text = text,
        .json = json,
};
