/* Queries by name, and values that are checked before anyone uses them (reader_internal.h). */
#include "store/reader_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

extern const char store_queries_sql[];

/* Far above what an honest file of its size needs, far below what a page tree with cycles would take. */
#define CALL_CPU_NS          UINT64_C(20000000000)
#define CALL_CPU_NS_PER_BYTE UINT64_C(250)

static uint64_t time_limit_ns; /* 0: the default */

void store_set_time_limit(uint64_t cpu_ns)
{
	time_limit_ns = cpu_ns;
}

static uint64_t thread_cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int interrupt_when_late(void *arg)
{
	const struct store *store = arg;

	return thread_cpu_ns() > store->deadline_cpu_ns;
}

void store_begin_call(struct store *store)
{
	uint64_t limit = time_limit_ns ? time_limit_ns : CALL_CPU_NS + store->size_bytes * CALL_CPU_NS_PER_BYTE;

	store->deadline_cpu_ns = thread_cpu_ns() + limit;
	sqlite3_progress_handler(store->handle, 20000, interrupt_when_late, store);
}

int store_fail(struct store *store, int error, const char *format, ...)
{
	char reason[400];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason, sizeof(reason), format, arguments);
	va_end(arguments);
	for (char *c = reason; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = ' ';
	snprintf(store->message, sizeof(store->message), "%.*s: %s", (int)(sizeof(store->message) - 3 - strlen(reason)),
	         store->path, reason);
	return error;
}

int store_fail_sqlite(struct store *store, int code)
{
	switch (code & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return store_fail(
		        store, -EBUSY,
		        "is being written and its file system allows no reading meanwhile; try again when the run has ended");
	case SQLITE_NOMEM:
		return store_fail(store, -ENOMEM, "takes more memory to read than nnmem allows itself");
	case SQLITE_INTERRUPT:
		return store_fail(store, -EBADMSG, "is damaged: reading it does not come to an end");
	case SQLITE_CANTOPEN:
	case SQLITE_PERM:
	case SQLITE_READONLY:
		return store_fail(store, -EACCES, "cannot be read: %s", sqlite3_errmsg(store->handle));
	case SQLITE_IOERR:
		return store_fail(store, -EIO, "cannot be read: %s", sqlite3_errmsg(store->handle));
	case SQLITE_NOTADB:
		return store_fail(store, -EBADMSG, "is not a run file of nnmem");
	default:
		return store_fail(store, -EBADMSG, "is damaged or cut short (%s)", sqlite3_errmsg(store->handle));
	}
}

/* The text of query @name: from the line after `-- query: NAME` to the next such line. */
static const char *find_query(const char *name, int *ret_bytes)
{
	static const char mark[] = "-- query: ";
	size_t name_bytes = strlen(name);

	for (const char *at = strstr(store_queries_sql, mark); at; at = strstr(at + 1, mark)) {
		const char *found = at + sizeof(mark) - 1;

		if (strncmp(found, name, name_bytes) || found[name_bytes] != '\n')
			continue;
		found += name_bytes + 1;
		const char *end = strstr(found, mark);

		*ret_bytes = end ? (int)(end - found) : (int)strlen(found);
		return found;
	}
	return NULL;
}

/* Copy query @name to @out, other queries that it names in braces in their places. */
static bool expand_query(const char *name, FILE *out)
{
	int sql_bytes = 0;
	const char *sql = find_query(name, &sql_bytes);
	const char *end = sql ? sql + sql_bytes : NULL;

	while (sql && sql < end) {
		const char *brace = memchr(sql, '{', (size_t)(end - sql));
		const char *closing = brace ? memchr(brace, '}', (size_t)(end - brace)) : NULL;
		char part[32];

		fwrite(sql, 1, (size_t)((closing ? brace : end) - sql), out);
		if (!closing)
			break;
		snprintf(part, sizeof(part), "%.*s", (int)(closing - brace - 1), brace + 1);
		if (!expand_query(part, out))
			return false;
		sql = closing + 1;
	}
	return sql != NULL;
}

static int query_prepare(struct store *store, struct query *query, const char *name, const char *sql, int sql_bytes)
{
	*query = (struct query){.store = store, .name = name};
	int code = sqlite3_prepare_v2(store->handle, sql, sql_bytes, &query->stmt, NULL);

	if (code != SQLITE_OK)
		query->error = store_fail_sqlite(store, code);
	return query->error;
}

int query_open(struct store *store, struct query *query, const char *name)
{
	char *sql = NULL;
	size_t sql_bytes = 0;
	FILE *out = open_memstream(&sql, &sql_bytes);
	bool found = out && expand_query(name, out);

	if (!out || fclose(out)) {
		*query = (struct query){.store = store, .name = name};
		query->error = store_fail(store, -ENOMEM, "takes more memory to read than there is");
	} else if (!found) {
		*query = (struct query){.store = store, .name = name};
		query->error = store_fail(store, -EINVAL, "no query is named %s", name);
	} else {
		query_prepare(store, query, name, sql, (int)sql_bytes);
	}
	free(sql);
	return query->error;
}

int query_open_sql(struct store *store, struct query *query, const char *name, const char *sql)
{
	return query_prepare(store, query, name, sql, -1);
}

void query_bind(struct query *query, const char *parameter, uint64_t value)
{
	if (query->error)
		return;
	if (value > INT64_MAX) /* beyond all that a file can hold */
		value = INT64_MAX;
	sqlite3_bind_int64(query->stmt, sqlite3_bind_parameter_index(query->stmt, parameter), (sqlite3_int64)value);
}

void query_bind_layer(struct query *query, const struct store_filter *filter)
{
	if (query->error || !filter->layer)
		return;
	/* The text lives as long as the filter, which outlives the query. */
	sqlite3_bind_text(query->stmt, sqlite3_bind_parameter_index(query->stmt, ":layer"), filter->layer, -1, SQLITE_STATIC);
	query_bind(query, ":below", filter->layers == STORE_LAYERS_BELOW);
}

void query_bind_filter(struct query *query, const struct store_filter *filter)
{
	static const struct store_filter none = STORE_FILTER_NONE;

	if (query->error)
		return;
	if (!filter)
		filter = &none;
	query_bind(query, ":min_size", filter->min_size_bytes);
	query_bind(query, ":phases", filter->phases);
	query_bind(query, ":categories", filter->categories);
	sqlite3_bind_int64(query->stmt, sqlite3_bind_parameter_index(query->stmt, ":step"),
	                   filter->step > INT64_MAX ? -1 : (sqlite3_int64)filter->step);
	query_bind(query, ":layers", filter->layers == STORE_LAYERS_NONE ? 2 : filter->layer ? 1 : 0);
	query_bind_layer(query, filter);
}

int query_step(struct query *query)
{
	query->nr_texts = 0;
	if (query->error)
		return query->error;
	int code = sqlite3_step(query->stmt);

	if (code == SQLITE_ROW)
		return 1;
	if (code == SQLITE_DONE)
		return 0;
	return query->error = store_fail_sqlite(query->store, code);
}

void query_reset(struct query *query)
{
	if (query->stmt)
		sqlite3_reset(query->stmt);
}

int query_close(struct query *query)
{
	sqlite3_finalize(query->stmt);
	query->stmt = NULL;
	for (unsigned i = 0; i < QUERY_TEXTS; i++) {
		free(query->texts[i]);
		query->texts[i] = NULL;
	}
	return query->error;
}

static void query_set_bad(struct query *query, int column, const char *what)
{
	if (query->error)
		return;
	const char *name = sqlite3_column_name(query->stmt, column);

	query->error = store_fail(query->store, -EBADMSG, "is damaged: `%s` %s (%s)", name ? name : "a value", what, query->name);
}

uint64_t query_total(struct query *query, int column)
{
	double total = query_ok(query) ? sqlite3_column_double(query->stmt, column) : 0;

	return total <= 0 ? 0 : total >= 9e18 ? INT64_MAX : (uint64_t)total;
}

int64_t query_i64(struct query *query, int column)
{
	if (query->error)
		return 0;
	if (sqlite3_column_type(query->stmt, column) != SQLITE_INTEGER) {
		query_set_bad(query, column, "is not a whole number");
		return 0;
	}
	return sqlite3_column_int64(query->stmt, column);
}

uint64_t query_u64_max(struct query *query, int column, uint64_t max)
{
	int64_t value = query_i64(query, column);

	if (value < 0 || (uint64_t)value > max) {
		query_set_bad(query, column, "is out of range");
		return 0;
	}
	return (uint64_t)value;
}

/* Bytes of the UTF-8 sequence at @text that may be shown, or 0. */
static size_t clean_sequence(const unsigned char *text, size_t nr_bytes)
{
	uint32_t point = text[0];
	size_t length = point < 0x80 ? 1 : point < 0xc2 ? 0 : point < 0xe0 ? 2 : point < 0xf0 ? 3 : point < 0xf5 ? 4 : 0;

	if (!length || length > nr_bytes)
		return 0;
	if (length > 1)
		point &= 0x7fu >> length;
	for (size_t i = 1; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		point = point << 6 | (text[i] & 0x3f);
	}
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};

	if (point < least[length] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
		return 0;
	/* Control characters, and those that reorder or break the line they are shown in. */
	if (point < 0x20 || (point >= 0x7f && point < 0xa0) || (point >= 0x2028 && point <= 0x202e) ||
	    (point >= 0x2066 && point <= 0x2069))
		return 0;
	return length;
}

const char *query_text(struct query *query, int column)
{
	if (query->error || sqlite3_column_type(query->stmt, column) == SQLITE_NULL)
		return NULL;
	if (sqlite3_column_type(query->stmt, column) != SQLITE_TEXT) {
		query_set_bad(query, column, "is not text");
		return NULL;
	}
	const unsigned char *text = sqlite3_column_text(query->stmt, column);
	size_t nr_bytes = (size_t)sqlite3_column_bytes(query->stmt, column);
	unsigned i = query->nr_texts;

	if (!text || i >= QUERY_TEXTS) {
		query->error = store_fail(query->store, -ENOMEM, "takes more memory to read than nnmem allows itself");
		return NULL;
	}
	if (query->text_bytes[i] < nr_bytes + 1) {
		char *grown = realloc(query->texts[i], nr_bytes + 1);

		if (!grown) {
			query->error = store_fail(query->store, -ENOMEM, "takes more memory to read than there is");
			return NULL;
		}
		query->texts[i] = grown;
		query->text_bytes[i] = nr_bytes + 1;
	}
	char *clean = query->texts[i];

	for (size_t at = 0; at < nr_bytes;) {
		size_t length = clean_sequence(text + at, nr_bytes - at);

		if (length)
			memcpy(clean, text + at, length);
		else
			*clean = text[at] == '\n' || text[at] == '\t' || text[at] == '\r' ? ' ' : '?';
		clean += length ? length : 1;
		at += length ? length : 1;
	}
	*clean = 0;
	query->nr_texts++;
	return query->texts[i];
}

const char *query_text_required(struct query *query, int column)
{
	const char *text = query_text(query, column);

	if (!text && !query->error)
		query_set_bad(query, column, "is missing");
	return text;
}
