/* What the views share: names made safe, headings, what is wrong with a recording. */
#include "report/view.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const struct report_view *const report_views[] = {&summary_view,   &timeline_view, &peak_view,   &layers_view,
                                                  &lifetimes_view, &growth_view,   &stacks_view, &segments_view,
                                                  &ledger_view,    &oom_view,      &info_view,   NULL};

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

/* Print @text without a newline, its line broken at blanks; a word that is longer than a line stays whole. */
static void print_wrapped(FILE *out, const char *text, unsigned width, unsigned indent)
{
	unsigned column = 0;

	while (*text) {
		size_t blanks = strspn(text, " ");
		size_t length = strcspn(text + blanks, " ");
		char word[SAFE_TEXT_MAX];
		unsigned columns;

		snprintf(word, sizeof(word), "%.*s", (int)length, text + blanks);
		columns = (unsigned)text_width(word);
		if (column > indent && column + blanks + columns > width) {
			fprintf(out, "\n%*s", (int)indent, "");
			column = indent;
			blanks = 0;
		}
		fprintf(out, "%*s%s", (int)blanks, "", word);
		column += (unsigned)blanks + columns;
		text += strspn(text, " ") + length;
	}
}

static void say(struct report *report, unsigned indent, enum style style, const char *begin, const char *format, va_list list)
{
	char *text = NULL, *whole = NULL;

	if (vasprintf(&text, format, list) < 0)
		return;
	if (asprintf(&whole, "%s%s", begin, text) >= 0) {
		fputs(style_begin(style, report->colour), report->out);
		print_wrapped(report->out, whole, report->width, indent);
		fprintf(report->out, "%s\n", style_end(style, report->colour));
		free(whole);
	}
	free(text);
}

void report_say(struct report *report, unsigned indent, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	say(report, indent, STYLE_PLAIN, "", format, list);
	va_end(list);
}

void report_warning(struct report *report, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	say(report, 3, STYLE_BAD, "!! ", format, list);
	va_end(list);
}

void report_heading(struct report *report, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	say(report, 0, STYLE_STRONG, "", format, list);
	va_end(list);
}

int report_check(struct report *report)
{
	if (!ferror(report->final))
		return 0;
	return errno ? -errno : -EIO;
}

/* ---- formats */

bool report_is_for_people(const struct report *report)
{
	return report->arguments->format == FORMAT_TEXT || report->arguments->format == FORMAT_MARKDOWN;
}

static int open_prose(struct report *report)
{
	report->out = open_memstream(&report->prose, &report->prose_size);
	if (report->out)
		return 0;
	report->out = report->final;
	return -ENOMEM;
}

/*
 * Markdown: what has been printed since the last table, as it is: in an indented block, which nothing in it can end (a
 * fence could be ended by a name).
 */
static int flush_prose(struct report *report)
{
	bool complete = !fclose(report->out);
	bool blank = true;

	report->out = report->final;
	for (char *line = complete ? strtok(report->prose, "\n") : NULL; line; line = strtok(NULL, "\n")) {
		fprintf(report->final, "    %s\n", line);
		blank = false;
	}
	if (!blank)
		putc('\n', report->final);
	free(report->prose);
	report->prose = NULL;
	return complete ? report_check(report) : -ENOMEM;
}

int report_begin(struct report *report)
{
	switch (report->arguments->format) {
	case FORMAT_TEXT:
		break;
	case FORMAT_JSON:
		json_rows_begin(&report->rows, report->out);
		break;
	case FORMAT_CSV:
		return rows_print_csv_heading(report);
	case FORMAT_MARKDOWN:
		report->colour = false;
		report->table_width = 0;
		return open_prose(report);
	}
	return 0;
}

int report_end(struct report *report)
{
	if (report->arguments->format == FORMAT_JSON)
		return json_rows_end(&report->rows);
	return report->out == report->final ? 0 : flush_prose(report);
}

int report_print_table(struct report *report, struct table *table)
{
	int error;

	if (report->arguments->format != FORMAT_MARKDOWN)
		return table_print(table, report->out, report->table_width, report->utf8, report->colour);
	error = flush_prose(report);
	if (!error)
		error = table_print_markdown(table, report->final);
	putc('\n', report->final);
	if (!error)
		error = open_prose(report);
	return error ? error : report_check(report);
}

char *report_bytes(const struct report *report, uint64_t bytes, char ret[FORMAT_MAX])
{
	return format_bytes(report->arguments->units, bytes, ret);
}

char *report_size(const struct report *report, uint64_t bytes, char ret[2 * FORMAT_MAX])
{
	format_buffer exact, size;

	if (report->arguments->units == UNITS_EXACT || bytes < 1000)
		snprintf(ret, 2 * FORMAT_MAX, "%s", format_bytes(UNITS_EXACT, bytes, exact));
	else
		snprintf(ret, 2 * FORMAT_MAX, "%s (%s)", format_bytes(UNITS_EXACT, bytes, exact),
		         report_bytes(report, bytes, size));
	return ret;
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
			report_warning(report, "Out of memory %s more times: see the view %s",
			               format_count(troubles.ooms - 1, number), record_is_cuda(report->device) ? "oom" : "info");
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

static const struct row_column run_columns[] = {
        {"run_id", NULL, COLUMN_TEXT, 0, 0},
        {"schema_version", NULL, COLUMN_COUNT, 0, 0},
        {"nnmem_version", NULL, COLUMN_TEXT, 0, 0},
        {"torch_version", NULL, COLUMN_TEXT, 0, 0},
        {"python_version", NULL, COLUMN_TEXT, 0, 0},
        {"hostname", NULL, COLUMN_TEXT, 0, 0},
        {"pid", NULL, COLUMN_DELTA, 0, 0},
        {"rank", NULL, COLUMN_DELTA, 0, 0},
        {"command", NULL, COLUMN_TEXT, 0, 0},
        {"ended", NULL, COLUMN_TEXT, 0, 0},
        {"start_realtime_ns", NULL, COLUMN_COUNT, 0, 0},
        {"duration_ns", NULL, COLUMN_COUNT, 0, 0},
        {"events", NULL, COLUMN_COUNT, 0, 0},
        {"steps", NULL, COLUMN_COUNT, 0, 0},
        {"lost", NULL, COLUMN_COUNT, 0, 0},
        {"recovery", NULL, COLUMN_TEXT, 0, 0},
        {"recovered_events", NULL, COLUMN_COUNT, 0, 0},
        {"audit_checks", NULL, COLUMN_COUNT, 0, 0},
        {"audit_failures", NULL, COLUMN_COUNT, 0, 0},
        {"ooms", NULL, COLUMN_COUNT, 0, 0},
        {"params_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"params_values", NULL, COLUMN_COUNT, 0, 0},
        {"external_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"peak_rss_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"peak_device", NULL, COLUMN_TEXT, 0, 0},
        {"peak_bytes", NULL, COLUMN_BYTES, 0, 0},
        {"peak_step", NULL, COLUMN_NUMBER, 0, 0},
        {"peak_phase", NULL, COLUMN_TEXT, 0, 0},
        {"peak_seq", NULL, COLUMN_NUMBER, 0, 0},
};
const struct row_kind run_kind = ROW_KIND("run", run_columns);

int report_run_row(struct report *report)
{
	const struct store_run *run = &report->run;
	struct rows *rows = rows_new(report, &run_kind);

	row_begin(rows);
	row_text(rows, "run_id", run->run_id);
	row_count(rows, "schema_version", run->schema_version);
	row_text(rows, "nnmem_version", run->nnmem_version);
	row_text(rows, "torch_version", run->torch_version);
	row_text(rows, "python_version", run->python_version);
	row_text(rows, "hostname", run->hostname);
	row_delta(rows, "pid", run->pid);
	if (run->rank >= 0)
		row_delta(rows, "rank", run->rank);
	row_text(rows, "command", run->command);
	row_text(rows, "ended", run->ended);
	row_count(rows, "start_realtime_ns", run->start_realtime_ns);
	row_count(rows, "duration_ns", run->duration_ns);
	row_count(rows, "events", run->events);
	row_count(rows, "steps", run->steps);
	row_count(rows, "lost", run->lost.total);
	row_text(rows, "recovery", recovery_names[run->recovery]);
	row_count(rows, "recovered_events", run->recovered_events);
	row_count(rows, "audit_checks", run->audit_checks);
	row_count(rows, "audit_failures", run->audit_failures);
	row_count(rows, "ooms", run->ooms);
	row_count(rows, "params_bytes", run->params_bytes);
	if (run->params_values)
		row_count(rows, "params_values", run->params_values);
	row_count(rows, "external_bytes", run->external_bytes);
	if (run->peak_rss_bytes)
		row_count(rows, "peak_rss_bytes", run->peak_rss_bytes);
	row_text(rows, "peak_device", run->peak_device);
	row_count(rows, "peak_bytes", run->peak_bytes);
	row_count(rows, "peak_step", run->peak_step);
	row_text(rows, "peak_phase", phase_name(run->peak_phase));
	row_count(rows, "peak_seq", run->peak_seq);
	return rows_close(rows, row_end(rows));
}

static const struct row_column device_columns[] = {
        {"device", "device", COLUMN_TEXT, 0, 0},
        {"peak_bytes", "peak bytes", COLUMN_EXACT, 0, 0},
        {"peak_step", "step", COLUMN_NUMBER, 0, 0},
        {"peak_phase", "phase", COLUMN_TEXT, 0, 0},
        {"peak_seq", NULL, COLUMN_NUMBER, 0, 0},
        {"allocs", "allocations", COLUMN_COUNT, 0, 80},
        {"frees", "frees", COLUMN_COUNT, 0, 80},
        {"live_at_end_bytes", "left at end", COLUMN_EXACT, 0, 0},
        {"reserved_peak_bytes", "peak reserved", COLUMN_EXACT, COLUMN_IF_ANY, 0},
};
const struct row_kind device_kind = ROW_KIND("device", device_columns);

static int device_row(const struct store_device *device, void *arg)
{
	struct rows *rows = arg;

	row_begin(rows);
	row_text(rows, "device", device->name);
	row_count(rows, "peak_bytes", device->peak_bytes);
	row_count(rows, "peak_step", device->peak_step);
	row_text(rows, "peak_phase", phase_name(device->peak_phase));
	row_count(rows, "peak_seq", device->peak_seq);
	row_count(rows, "allocs", device->allocs);
	row_count(rows, "frees", device->frees);
	row_count(rows, "live_at_end_bytes", device->live_at_end_bytes);
	row_count(rows, "reserved_peak_bytes", device->reserved_peak_bytes);
	return row_end(rows);
}

int report_device_rows(struct report *report)
{
	struct rows *rows = rows_new(report, &device_kind);

	return rows_close(rows, store_each_device(report->store, device_row, rows));
}
