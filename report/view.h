/*
 * A view: one question that a person asks of a run, answered for people (text, markdown) and for programs (JSON, CSV).
 *
 * main.c opens the file, reads the run's facts, checks the filters and calls show() of one view.  Views read through
 * store/store.h only.  A view gives its rows through report/rows.h, which knows the formats, and hands the common filters
 * (&report->arguments->filter, report->device) to the reader's queries; what else it says, it prints to report->out, for
 * people only and through the helpers below wherever a string came from the file.
 * Errors: a negative errno; -EPIPE when the reader of our output has gone (main.c then ends quietly), otherwise the
 * sentence is store_message()'s.
 */
#ifndef NNMEM_REPORT_VIEW_H
#define NNMEM_REPORT_VIEW_H

#include "report/arguments.h"
#include "report/format.h"
#include "report/json.h"
#include "report/rows.h"
#include "report/table.h"
#include "store/store.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define SAFE_TEXT_MAX 1024
#define NR_SAFE_TEXTS 8

struct report {
	struct store *store;
	struct store_run run;
	const struct arguments *arguments;
	uint16_t device;      /* the one that is looked at: --device, or the run's peak device */
	bool has_device;      /* the run used any */
	char device_name[64]; /* clean */
	bool device_is_main;  /* spans and the run's peak speak of it */
	bool several_roots;   /* a layer's name alone does not tell whose it is; set by views that know */

	FILE *out;   /* where views print to; in markdown what was printed between two tables becomes an indented block */
	FILE *final; /* standard output */
	char *prose; /* markdown: what was printed to @out */
	size_t prose_size;
	unsigned width;       /* of a line; never 0 */
	unsigned table_width; /* tables are cut to; 0: not, since nobody looks at a terminal */
	bool utf8, colour;
	struct json_rows rows;

	char safe_texts[NR_SAFE_TEXTS][SAFE_TEXT_MAX]; /* report_safe()'s */
	unsigned next_safe_text;
};

struct report_view {
	const char *name;
	const char *help;                    /* one line, for --help */
	unsigned filters;                    /* FILTER_*: those that it honours */
	const struct row_kind *const *kinds; /* that it gives to programs, in the order of CSV's columns; a NULL at the end */
	int (*show)(struct report *report);
	bool takes_instant; /* it honours --at */
};

/* Whether sentences and tables are wanted, not exact rows. */
bool report_is_for_people(const struct report *report);
/* Before and after show(): what a format needs around the rows.  Errors: -ENOMEM, or what writing said. */
int report_begin(struct report *report);
int report_end(struct report *report);
/* Print a table as the format wants it.  @table stays the caller's. */
int report_print_table(struct report *report, struct table *table);

extern const struct report_view summary_view, timeline_view, peak_view, layers_view, lifetimes_view, growth_view, stacks_view,
        ledger_view, segments_view, oom_view, info_view;

/* All views, the default first; a NULL at the end. */
extern const struct report_view *const report_views[];
/* NULL: there is none of that name. */
const struct report_view *report_view_find(const char *name);
/* "summary, timeline, ..." */
const char *report_view_names(void);

/* @raw, clean for this terminal; "?" for NULL.  Valid until NR_SAFE_TEXTS more calls. */
const char *report_safe(struct report *report, const char *raw);
/* A layer as people say it, clean: "fc1", "Net" for a root, "Net.fc1" when several_roots; "-" for none. */
const char *report_layer(struct report *report, const char *root, const char *layer);
/* A heading line. */
void report_heading(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A paragraph, wrapped at blanks to the width of a line; from the second line on indented by @indent columns. */
void report_say(struct report *report, unsigned indent, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* A line in the colour of trouble, marked so that it is seen without colour too. */
void report_warning(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Whether the reader of our output is still there: 0, -EPIPE or what writing said. */
int report_check(struct report *report);

/* What is wrong with the recording, loudest first, as warnings.  Nothing is printed when nothing is wrong. */
int report_losses(struct report *report);
/* One sentence on how complete the file is, or NULL for a complete one. */
const char *report_recovery(const struct store_run *run);

/* Rows for programs that several views begin with: the run's facts; each device. */
extern const struct row_kind run_kind, device_kind;
int report_run_row(struct report *report);
int report_device_rows(struct report *report);

/* Room for a number or size: char buffers of the formatting functions, one a line. */
typedef char format_buffer[FORMAT_MAX];

/* "124 071 760 bytes (118.3 MiB)", or without the second where bytes were asked for. */
char *report_size(const struct report *report, uint64_t bytes, char ret[2 * FORMAT_MAX]);
/* A size in the units that were asked for. */
char *report_bytes(const struct report *report, uint64_t bytes, char ret[FORMAT_MAX]);

#endif
