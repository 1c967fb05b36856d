/* Rows for programs: see json.h. */
#include "report/json.h"

#include "report/format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void json_rows_begin(struct json_rows *rows, FILE *out)
{
	*rows = (struct json_rows){.out = out};
}

/* Takes @value over. */
static void add(struct json_rows *rows, const char *key, json_t *value)
{
	if (!rows->row) {
		json_decref(value);
		return;
	}
	if (json_object_set_new(rows->row, key, value) && !rows->error)
		rows->error = -ENOMEM;
}

void json_row_begin(struct json_rows *rows, const char *kind)
{
	json_decref(rows->row);
	rows->row = json_object();
	if (!rows->row && !rows->error)
		rows->error = -ENOMEM;
	json_row_text(rows, "row", kind);
}

void json_row_text(struct json_rows *rows, const char *key, const char *value)
{
	size_t size;
	char *valid;

	if (!value) {
		json_row_null(rows, key);
		return;
	}
	size = strlen(value) * 3 + 1; /* at worst each byte becomes U+FFFD */
	valid = malloc(size);
	add(rows, key, valid ? json_string(text_make_valid(value, valid, size)) : NULL);
	free(valid);
}

void json_row_count(struct json_rows *rows, const char *key, uint64_t value)
{
	add(rows, key, json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value));
}

void json_row_delta(struct json_rows *rows, const char *key, int64_t value)
{
	add(rows, key, json_integer(value));
}

void json_row_bool(struct json_rows *rows, const char *key, bool value)
{
	add(rows, key, json_boolean(value));
}

void json_row_null(struct json_rows *rows, const char *key)
{
	add(rows, key, json_null());
}

int json_row_end(struct json_rows *rows)
{
	if (rows->row && !rows->error) {
		errno = 0;
		if (json_dumpf(rows->row, rows->out, JSON_COMPACT | JSON_ENSURE_ASCII) || putc('\n', rows->out) == EOF)
			rows->error = errno ? -errno : -EIO;
	}
	json_decref(rows->row);
	rows->row = NULL;
	return rows->error;
}

int json_rows_end(struct json_rows *rows)
{
	json_decref(rows->row);
	rows->row = NULL;
	return rows->error;
}
