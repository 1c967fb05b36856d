/*
 * Rows for programs: one JSON object a line (newline-delimited JSON), so that a file of any length can be written and
 * read row by row.  Every object begins with "row", its kind; keys keep the order in which they are added.
 *
 * Numbers are exact integers, what is not known is null.  Everything outside ASCII is escaped: a terminal that shows the
 * lines cannot be steered by a name in the file.
 * Errors: kept, and returned by json_rows_end() and by each json_row_end(): -ENOMEM, or what writing said.
 */
#ifndef NNMEM_REPORT_JSON_H
#define NNMEM_REPORT_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct json_rows {
	FILE *out;
	json_t *row; /* being filled, or NULL */
	int error;   /* negative errno, 0: none */
};

void json_rows_begin(struct json_rows *rows, FILE *out);
void json_row_begin(struct json_rows *rows, const char *kind);
void json_row_text(struct json_rows *rows, const char *key, const char *value /* or NULL: null */);
void json_row_count(struct json_rows *rows, const char *key, uint64_t value);
void json_row_delta(struct json_rows *rows, const char *key, int64_t value);
void json_row_bool(struct json_rows *rows, const char *key, bool value);
void json_row_null(struct json_rows *rows, const char *key);
/* Write the row.  Returns 0 or the first error. */
int json_row_end(struct json_rows *rows);
int json_rows_end(struct json_rows *rows);

#endif
