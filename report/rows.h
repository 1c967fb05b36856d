/*
 * Rows of a view, written once and shown in every format: aligned text and markdown for people, JSON and CSV for programs.
 *
 * A kind of rows is a list of columns, each with a name, a type (which has its unit) and who it is for.  A view fills a row
 * by the names of its columns, in any order (in that of the columns it is fastest); what is not filled is null.  Programs
 * get each row as soon as it ends, so that memory does not grow with their number; for people rows are kept until
 * rows_close(), which knows the unit in which all can be compared, leaves out columns that do not fit or are empty, and
 * prints the table.
 *
 *	static const struct row_column columns[] = {
 *	        {"root", NULL, COLUMN_TEXT, 0, 0},                      // programs only: it has no heading
 *	        {"layer", NULL, COLUMN_TEXT, 0, 0},
 *	        {"shown_layer", "layer", COLUMN_TEXT, COLUMN_FOR_PEOPLE | COLUMN_FLEXIBLE, 0},
 *	        {"size_bytes", "%", COLUMN_BYTES, 0, 0},                // "%" is the unit: "MiB"
 *	        {"alloc_seq", NULL, COLUMN_COUNT, 0, 0},
 *	};
 *	static const struct row_kind block_kind = ROW_KIND("block", columns);
 *
 *	rows = rows_new(report, &block_kind);
 *	... for each: row_begin(rows); row_count(rows, "size_bytes", size); ...; error = row_end(rows);
 *	error = rows_close(rows, error);
 *
 * A view lists its kinds in report_view.kinds: CSV has one heading for all of them, JSON and CSV then tell them by "row".
 * Strings from the file go in as they are (row_text()): every format makes them safe in its own way.
 * Errors are kept; row_end() and rows_close() return the first: -ENOMEM, or what writing said.  NULL rows: -ENOMEM.
 */
#ifndef NNMEM_REPORT_ROWS_H
#define NNMEM_REPORT_ROWS_H

#include "report/table.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct report;
struct rows;

/* How a value is shown to people; programs get exact integers, text, true and false. */
enum column_type {
	COLUMN_TEXT = 0,
	COLUMN_BYTES,    /* in the table's unit: "17.7" */
	COLUMN_EXACT,    /* bytes: "18 531 608" */
	COLUMN_COUNT,    /* "1 024" */
	COLUMN_NUMBER,   /* an ordinal, without gaps between its digits: a step */
	COLUMN_DELTA,    /* signed bytes: "+4 096" */
	COLUMN_DURATION, /* nanoseconds: "12.3 s" */
	COLUMN_BOOL,     /* "yes", "no" */
};

enum column_flags {
	COLUMN_FOR_PEOPLE = 1, /* programs do not see it */
	COLUMN_FLEXIBLE = 2,   /* may be cut where the line is too long: in the middle */
	COLUMN_CUT_START = 16, /* ... at its start: the end of a layer's path says most */
	COLUMN_CUT_END = 32,   /* ... at its end */
	COLUMN_IF_ANY = 4,     /* people see it only when a row has something in it */
	COLUMN_RIGHT = 8,      /* text that is a number to people: a share */
};

struct row_column {
	const char *name;    /* as programs see it; says the unit: `size_bytes`, `alloc_ns` */
	const char *heading; /* as people see it; NULL: programs only; "%" is replaced by the table's unit */
	enum column_type type;
	unsigned flags;
	unsigned from_width; /* people see it only on lines at least this wide; 0: always */
};

struct row_kind {
	const char *name; /* `block` */
	const struct row_column *columns;
	size_t nr_columns;
};

#define ROW_KIND(kind_name, list)                                                                                                \
	{                                                                                                                        \
		.name = (kind_name), .columns = (list), .nr_columns = sizeof(list) / sizeof((list)[0])                           \
	}

/* Owner: caller, rows_close().  Several may be open at a time where only programs are served. */
struct rows *rows_new(struct report *report, const struct row_kind *kind);
/* The unit of COLUMN_BYTES for people; by default the one for the largest of them.  Before rows_close(). */
void rows_set_unit(struct rows *rows, struct unit unit);

/* Add the unit to the heading of @column, where no heading is "%": "layer, MiB". */
void rows_name_unit(struct rows *rows, const char *column);

void row_begin(struct rows *rows);
/* A row that programs do not see: a total, "13 smaller blocks". */
void row_begin_for_people(struct rows *rows, enum style style);
void row_text(struct rows *rows, const char *column, const char *raw /* or NULL */);
/* Text with a printf() format; never of more than 1 kB. */
void row_textf(struct rows *rows, const char *column, const char *format, ...) __attribute__((format(printf, 3, 4)));
void row_count(struct rows *rows, const char *column, uint64_t value);
void row_delta(struct rows *rows, const char *column, int64_t value);
/* Not known, or not applicable: "-" to people, null to programs, as a column that is not filled at all. */
void row_unknown(struct rows *rows, const char *column);
void row_bool(struct rows *rows, const char *column, bool value);
/* Only to people, how much of a whole: "64 %".  The column is COLUMN_TEXT, COLUMN_FOR_PEOPLE | COLUMN_RIGHT. */
void row_share(struct rows *rows, const char *column, uint64_t part, uint64_t whole);
int row_end(struct rows *rows);

/* Print the table for people, free.  Returns @error where it is one, without printing, else the first of its own. */
int rows_close(struct rows *rows, int error);

/* What CSV begins with: a heading for all kinds of the view.  main() calls it. */
int rows_print_csv_heading(struct report *report);

#endif
