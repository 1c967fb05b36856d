/* What the views share: names made safe, headings, what is wrong with a recording. */
#include "report/view.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const struct report_view *const report_views[] = {&summary_view, &timeline_view, &peak_view, &layers_view, &info_view, NULL};

const struct report_view *report_view_find(const char *name)
{
	for (size_t i = 0; report_views[i]; i++)
		if (!strcmp(report_views[i]->name, name))
			return report_views[i];
	return NULL;
}

const char *report_view_names(void)
{
	static char names[128];

	names[0] = '\0';
	for (size_t i = 0; report_views[i]; i++) {
		size_t used = strlen(names);

		snprintf(names + used, sizeof(names) - used, "%s%s", i ? ", " : "", report_views[i]->name);
	}
	return names;
}

static char *next_safe_text(struct report *report)
{
	return report->safe_texts[report->next_safe_text++ % NR_SAFE_TEXTS];
}

const char *report_safe(struct report *report, const char *raw)
{
	return text_clean(raw ? raw : "?", report->utf8, next_safe_text(report), SAFE_TEXT_MAX);
}

const char *report_layer(struct report *report, const char *root, const char *layer)
{
	char joined[SAFE_TEXT_MAX];

	if (!root || !layer)
		return "-";
	if (!*layer)
		return report_safe(report, root);
	if (!report->several_roots)
		return report_safe(report, layer);
	snprintf(joined, sizeof(joined), "%s.%s", root, layer);
	return report_safe(report, joined);
}

void report_heading(struct report *report, const char *format, ...)
{
	va_list list;

	fputs(style_begin(STYLE_STRONG, report->colour), report->out);
	va_start(list, format);
	vfprintf(report->out, format, list);
	va_end(list);
	fprintf(report->out, "%s\n", style_end(STYLE_STRONG, report->colour));
}

void report_warning(struct report *report, const char *format, ...)
{
	va_list list;

	fprintf(report->out, "%s!! ", style_begin(STYLE_BAD, report->colour));
	va_start(list, format);
	vfprintf(report->out, format, list);
	va_end(list);
	fprintf(report->out, "%s\n", style_end(STYLE_BAD, report->colour));
}

int report_check(struct report *report)
{
	if (!ferror(report->out))
		return 0;
	return errno ? -errno : -EIO;
}

char *report_bytes(const struct report *report, uint64_t bytes, char ret[FORMAT_MAX])
{
	return format_bytes(report->arguments->units, bytes, ret);
}

const char *report_recovery(const struct store_run *run)
{
	switch (run->recovery) {
	case STORE_COMPLETE:
		break;
	case STORE_LIVE:
		return "The program is still running: this is its state a moment ago";
	case STORE_RECOVERED:
		return "The recorder had died; what it left in memory has been recovered into the file";
	case STORE_RECOVERED_IN_MEMORY:
		return "The recorder had died; what it left in memory was recovered for this report, but could not be written to "
		       "the file";
	case STORE_RING_GONE:
		return "The recorder died and what it had not yet written is gone: the last events are missing";
	case STORE_ORPHANED:
		return "The recorder has died while the program runs on: the latest events are missing here, and can be "
		       "recovered "
		       "when the program has ended";
	}
	return NULL;
}

/* What happened, for people; the names for programs are lost_name()'s. */
static const char *const lost_words[NR_LOST] = {
        [LOST_FULL] = "the recorder was too slow",    [LOST_TORN] = "a thread died while it reported",
        [LOST_RECORDER] = "the recorder was dead",    [LOST_REENTERED] = "reported inside a signal handler",
        [LOST_DEEP] = "module calls nested too deep",
};

static void warn_of_lost(struct report *report)
{
	const struct store_lost *lost = &report->run.lost;
	char causes[512] = "";
	format_buffer number;

	if (!lost->total)
		return;
	for (unsigned i = 0; i < NR_LOST; i++) {
		size_t used = strlen(causes);

		if (lost->count[i])
			snprintf(causes + used, sizeof(causes) - used, "%s%s: %s", used ? "; " : "", lost_words[i],
			         format_count(lost->count[i], number));
	}
	report_warning(report, "%s event%s lost (%s): the numbers below are incomplete", format_count(lost->total, number),
	               lost->total == 1 ? " was" : "s were", *causes ? causes : "cause not known");
}

#define NOTES_SHOWN 10u

struct troubles {
	struct report *report;
	uint64_t notes, ooms;
};

static int each_note(const struct store_note *note, void *arg)
{
	struct troubles *troubles = arg;

	if (note->severity < RECORD_SEVERITY_DEGRADED)
		return 0;
	if (troubles->notes++ < NOTES_SHOWN)
		report_warning(troubles->report, "%s", report_safe(troubles->report, note->text));
	return report_check(troubles->report);
}

static int each_oom(const struct store_oom *oom, void *arg)
{
	struct troubles *troubles = arg;
	struct report *report = troubles->report;
	char device[DEVICE_NAME_MAX];
	format_buffer asked, had, when;

	if (troubles->ooms++ == 0) {
		report->several_roots = false;
		report_warning(
		        report, "Out of memory on %s in step %" PRIu64 ", %s, %s after the start: %s asked for with %s in use",
		        device_name(oom->device, device), oom->step, phase_name(oom->phase), format_duration(oom->ns, when),
		        report_bytes(report, oom->size_bytes, asked), report_bytes(report, oom->allocated_bytes, had));
	}
	return 0;
}

/* How complete the file is: in the colour of trouble only when something is missing from it. */
static void report_state(struct report *report, const char *recovery)
{
	const struct store_run *run = &report->run;
	bool whole = run->recovery == STORE_LIVE || run->recovery == STORE_RECOVERED;
	format_buffer number;
	char events[FORMAT_MAX + 16] = "";

	if (run->recovered_events)
		snprintf(events, sizeof(events), " (%.30s events)", format_count(run->recovered_events, number));
	if (whole)
		report_heading(report, "%s%s", recovery, events);
	else
		report_warning(report, "%s%s", recovery, events);
}

int report_losses(struct report *report)
{
	const struct store_run *run = &report->run;
	struct troubles troubles = {.report = report};
	const char *recovery = report_recovery(run);
	format_buffer number, whole;
	int error;

	warn_of_lost(report);
	if (run->audit_failures)
		report_warning(report, "%s of %s running totals differ from PyTorch's own: the numbers below may be wrong",
		               format_count(run->audit_failures, number), format_count(run->audit_checks, whole));
	if (recovery)
		report_state(report, recovery);
	if (run->ooms) {
		error = store_each_oom(report->store, each_oom, &troubles);
		if (error)
			return error;
		if (troubles.ooms > 1)
			report_warning(report, "Out of memory %s more times: see the view info",
			               format_count(troubles.ooms - 1, number));
	}
	error = store_each_note(report->store, each_note, &troubles);
	if (error)
		return error;
	if (troubles.notes > NOTES_SHOWN)
		report_warning(report, "%s more notes: see the view info", format_count(troubles.notes - NOTES_SHOWN, number));
	if (run->lost.total || run->audit_failures || recovery || troubles.ooms || troubles.notes)
		putc('\n', report->out);
	return report_check(report);
}

/* ---- rows */

static const char *const recovery_names[] = {
        [STORE_COMPLETE] = "complete",   [STORE_LIVE] = "live",
        [STORE_RECOVERED] = "recovered", [STORE_RECOVERED_IN_MEMORY] = "recovered_in_memory",
        [STORE_RING_GONE] = "ring_gone", [STORE_ORPHANED] = "orphaned",
};

int report_json_run(struct report *report)
{
	const struct store_run *run = &report->run;
	struct json_rows *rows = &report->rows;

	json_row_begin(rows, "run");
	json_row_text(rows, "run_id", run->run_id);
	json_row_count(rows, "schema_version", run->schema_version);
	json_row_text(rows, "nnmem_version", run->nnmem_version);
	json_row_text(rows, "torch_version", run->torch_version);
	json_row_text(rows, "python_version", run->python_version);
	json_row_text(rows, "hostname", run->hostname);
	json_row_delta(rows, "pid", run->pid);
	if (run->rank >= 0)
		json_row_delta(rows, "rank", run->rank);
	else
		json_row_null(rows, "rank");
	json_row_text(rows, "command", run->command);
	json_row_text(rows, "ended", run->ended);
	json_row_count(rows, "start_realtime_ns", run->start_realtime_ns);
	json_row_count(rows, "duration_ns", run->duration_ns);
	json_row_count(rows, "events", run->events);
	json_row_count(rows, "steps", run->steps);
	json_row_count(rows, "lost", run->lost.total);
	json_row_text(rows, "recovery", recovery_names[run->recovery]);
	json_row_count(rows, "recovered_events", run->recovered_events);
	json_row_count(rows, "audit_checks", run->audit_checks);
	json_row_count(rows, "audit_failures", run->audit_failures);
	json_row_count(rows, "ooms", run->ooms);
	json_row_count(rows, "params_bytes", run->params_bytes);
	if (run->params_values)
		json_row_count(rows, "params_values", run->params_values);
	else
		json_row_null(rows, "params_values");
	json_row_count(rows, "external_bytes", run->external_bytes);
	if (run->peak_rss_bytes)
		json_row_count(rows, "peak_rss_bytes", run->peak_rss_bytes);
	else
		json_row_null(rows, "peak_rss_bytes");
	json_row_text(rows, "peak_device", run->peak_device);
	json_row_count(rows, "peak_bytes", run->peak_bytes);
	json_row_count(rows, "peak_step", run->peak_step);
	json_row_text(rows, "peak_phase", phase_name(run->peak_phase));
	json_row_count(rows, "peak_seq", run->peak_seq);
	return json_row_end(rows);
}

static int json_device(const struct store_device *device, void *arg)
{
	struct json_rows *rows = arg;

	json_row_begin(rows, "device");
	json_row_text(rows, "device", device->name);
	json_row_count(rows, "peak_bytes", device->peak_bytes);
	json_row_count(rows, "peak_step", device->peak_step);
	json_row_text(rows, "peak_phase", phase_name(device->peak_phase));
	json_row_count(rows, "peak_seq", device->peak_seq);
	json_row_count(rows, "allocs", device->allocs);
	json_row_count(rows, "frees", device->frees);
	json_row_count(rows, "live_at_end_bytes", device->live_at_end_bytes);
	json_row_count(rows, "reserved_peak_bytes", device->reserved_peak_bytes);
	return json_row_end(rows);
}

int report_json_devices(struct report *report)
{
	return store_each_device(report->store, json_device, &report->rows);
}
