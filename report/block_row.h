/* A block as programs get it: the same columns, of the same names, in every view that lists blocks. */
#ifndef NNMEM_REPORT_BLOCK_ROW_H
#define NNMEM_REPORT_BLOCK_ROW_H

#include "report/rows.h"

#include "store/store.h"

/* The beginning of a kind's list of columns; what the view adds comes after it. */
#define BLOCK_COLUMNS                                                                                                            \
	{"id", NULL, COLUMN_NUMBER, 0, 0}, {"device", NULL, COLUMN_TEXT, 0, 0}, {"size_bytes", NULL, COLUMN_BYTES, 0, 0},        \
	        {"category", NULL, COLUMN_TEXT, 0, 0}, {"category_rule", NULL, COLUMN_TEXT, 0, 0},                               \
	        {"provisional", NULL, COLUMN_BOOL, 0, 0}, {"root", NULL, COLUMN_TEXT, 0, 0}, {"layer", NULL, COLUMN_TEXT, 0, 0}, \
	        {"parameter", NULL, COLUMN_TEXT, 0, 0}, {"state_key", NULL, COLUMN_TEXT, 0, 0},                                  \
	        {"shape", NULL, COLUMN_TEXT, 0, 0}, {"dtype", NULL, COLUMN_TEXT, 0, 0}, {"operation", NULL, COLUMN_TEXT, 0, 0},  \
	        {"line", NULL, COLUMN_TEXT, 0, 0}, {"step", NULL, COLUMN_NUMBER, 0, 0}, {"phase", NULL, COLUMN_TEXT, 0, 0},      \
	        {"recompute", NULL, COLUMN_BOOL, 0, 0}, {"thread", NULL, COLUMN_NUMBER, 0, 0},                                   \
	        {"alloc_seq", NULL, COLUMN_NUMBER, 0, 0}, {"alloc_ns", NULL, COLUMN_DURATION, 0, 0},                             \
	        {"free_seq", NULL, COLUMN_NUMBER, 0, 0}, {"free_ns", NULL, COLUMN_DURATION, 0, 0},                               \
	{                                                                                                                        \
		"free_phase", NULL, COLUMN_TEXT, 0, 0                                                                            \
	}

/* Fill the columns of BLOCK_COLUMNS.  Between row_begin() and row_end(). */
void block_row(struct rows *rows, const struct store_allocation *allocation);

#endif
