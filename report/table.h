/*
 * Tables for people, on a terminal or as markdown: cells are clean text, widths are known when it is printed.
 *
 * Views fill them through report/rows.h, which knows types and units.
 * Thread: one at a time.
 */
#ifndef NNMEM_REPORT_TABLE_H
#define NNMEM_REPORT_TABLE_H

#include "report/format.h"

/* Where a text that is too long loses characters. */
enum cut { CUT_MIDDLE = 0, CUT_START, CUT_END };

struct column {
	const char *heading; /* static */
	bool right;          /* numbers */
	bool flexible;       /* may be cut where the line is too long */
	enum cut cut;
};

/*
 * A table: cells are added row by row, widths are known when it is printed.  Errors are kept: table_print() returns the
 * first one (-ENOMEM).
 */
struct table;

struct table *table_new(const struct column *columns, size_t nr_columns);
void table_free(struct table *table);
/* Begin a row; cells follow from the left, those not given are empty. */
void table_row(struct table *table, enum style style);
/* Add a cell.  @text is copied and must be clean. */
void table_cell(struct table *table, const char *text);
/* Fit into @width columns (0: no limit) and write to @out, with headings unless all are empty. */
int table_print(struct table *table, FILE *out, unsigned width, bool utf8, bool colour);
/* The same in GitHub's markdown, whatever its width; an error of writing is ferror(@out)'s. */
int table_print_markdown(struct table *table, FILE *out);

#endif
