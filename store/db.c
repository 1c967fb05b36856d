/* SQLite connections: see db.h for the contract. */
#include "store/db.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUSY_TIMEOUT_MS 250

/* Statements kept per connection: a power of two well above the number of different statements in store/. */
#define NR_STATEMENTS 256u

struct kept_statement {
	const char *sql; /* NULL: unused */
	sqlite3_stmt *statement;
};

struct db {
	sqlite3 *handle;
	struct kept_statement statements[NR_STATEMENTS]; /* open addressing by the address of sql */
	char message[512];
};

int db_error(struct db *db, int sqlite_code)
{
	int system_errno;

	if (sqlite_code == SQLITE_OK || sqlite_code == SQLITE_ROW || sqlite_code == SQLITE_DONE)
		return 0;
	snprintf(db->message, sizeof(db->message), "%s", db->handle ? sqlite3_errmsg(db->handle) : sqlite3_errstr(sqlite_code));
	system_errno = db->handle ? sqlite3_system_errno(db->handle) : 0;
	switch (sqlite_code & 0xff) {
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EBUSY;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_PERM:
	case SQLITE_AUTH:
		return -EACCES;
	case SQLITE_INTERRUPT:
		return -ETIMEDOUT;
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_IOERR:
		return system_errno > 0 ? -system_errno : -EIO;
	case SQLITE_CANTOPEN:
		return system_errno > 0 ? -system_errno : -ENOENT;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_SCHEMA:
	case SQLITE_ERROR: /* A table or column is missing: not a run file. */
		return -EBADMSG;
	case SQLITE_TOOBIG:
		return -E2BIG;
	case SQLITE_CONSTRAINT:
		return -EEXIST;
	default:
		return -EINVAL;
	}
}

const char *db_message(const struct db *db)
{
	return db->message;
}

sqlite3 *db_handle(struct db *db)
{
	return db->handle;
}

/* A URI of @path with immutable=1; the caller frees it. */
static char *immutable_uri(const char *path)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/";
	char *uri = malloc(3 * strlen(path) + sizeof("file:?immutable=1"));
	char *end;

	if (!uri)
		return NULL;
	end = stpcpy(uri, "file:");
	for (; *path; path++) {
		if (strchr(plain, *path))
			*end++ = *path;
		else
			end += sprintf(end, "%%%02X", (unsigned)(unsigned char)*path);
	}
	strcpy(end, "?immutable=1");
	return uri;
}

/* A name that SQLite takes as a plain file whatever it begins with (":memory:", "file:", ""); the caller frees it. */
static char *plain_name(const char *path)
{
	size_t size = strlen(path) + sizeof("./");
	char *name = malloc(size);

	if (name)
		snprintf(name, size, "%s%s", path[0] == '/' ? "" : "./", path);
	return name;
}

static char *name_to_open(const char *path, enum db_mode mode, int *ret_flags)
{
	*ret_flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
	switch (mode) {
	case DB_READ:
		*ret_flags |= SQLITE_OPEN_READONLY;
		return plain_name(path);
	case DB_READ_IMMUTABLE:
		*ret_flags |= SQLITE_OPEN_READONLY | SQLITE_OPEN_URI;
		return immutable_uri(path);
	case DB_WRITE:
		*ret_flags |= SQLITE_OPEN_READWRITE;
		return plain_name(path);
	case DB_MEMORY:
		*ret_flags |= SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MEMORY;
		return strdup(":memory:");
	}
	return NULL;
}

static int be_defensive(struct db *db)
{
	static const struct {
		int option;
		int value;
	} settings[] = {
	        {SQLITE_DBCONFIG_DEFENSIVE, 1},
	        {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
	        {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0},
	        {SQLITE_DBCONFIG_ENABLE_VIEW, 0},
	        {SQLITE_DBCONFIG_DQS_DML, 0},
	        {SQLITE_DBCONFIG_DQS_DDL, 0},
	        {SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
	};

	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		int code = sqlite3_db_config(db->handle, settings[i].option, settings[i].value, NULL);

		if (code != SQLITE_OK)
			return db_error(db, code);
	}
	return db_error(db, sqlite3_busy_timeout(db->handle, BUSY_TIMEOUT_MS));
}

int db_open(const char *path, enum db_mode mode, struct db **ret_db, char *message, size_t message_size)
{
	struct db *db = calloc(1, sizeof(*db));
	char *name = NULL;
	int flags;
	int r = -ENOMEM;

	if (message && message_size)
		snprintf(message, message_size, "%s", strerror(ENOMEM));
	if (!db)
		return -ENOMEM;
	name = name_to_open(path, mode, &flags);
	if (!name)
		goto out;
	r = db_error(db, sqlite3_open_v2(name, &db->handle, flags, NULL));
	if (!r)
		r = be_defensive(db);
	if (message && message_size)
		snprintf(message, message_size, "%s", db->message);
	if (!r) {
		*ret_db = db;
		db = NULL;
	}
out:
	free(name);
	db_close(db);
	return r;
}

void db_close(struct db *db)
{
	if (!db)
		return;
	for (size_t i = 0; i < NR_STATEMENTS; i++)
		sqlite3_finalize(db->statements[i].statement);
	sqlite3_close_v2(db->handle);
	free(db);
}

int db_exec(struct db *db, const char *sql)
{
	return db_error(db, sqlite3_exec(db->handle, sql, NULL, NULL, NULL));
}

static struct kept_statement *kept_statement(struct db *db, const char *sql)
{
	size_t i = (size_t)(((uintptr_t)sql * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (NR_STATEMENTS - 1);

	for (size_t tries = 0; tries < NR_STATEMENTS; tries++, i = (i + 1) & (NR_STATEMENTS - 1))
		if (!db->statements[i].sql || db->statements[i].sql == sql)
			return &db->statements[i];
	return NULL;
}

int db_prepare(struct db *db, const char *sql, sqlite3_stmt **ret_statement)
{
	struct kept_statement *kept = kept_statement(db, sql);
	int r;

	if (!kept)
		return -ENOBUFS; /* More statements than store/ has: raise NR_STATEMENTS. */
	if (!kept->sql) {
		r = db_error(db, sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &kept->statement, NULL));
		if (r)
			return r;
		kept->sql = sql;
	} else {
		sqlite3_reset(kept->statement);
	}
	*ret_statement = kept->statement;
	return 0;
}

int db_step(struct db *db, sqlite3_stmt *statement)
{
	int code = sqlite3_step(statement);
	int r;

	if (code == SQLITE_ROW)
		return 1;
	r = db_error(db, code);
	sqlite3_reset(statement);
	return r;
}

int db_read_i64(struct db *db, const char *sql, int64_t *ret_value)
{
	sqlite3_stmt *statement;
	int r = db_prepare(db, sql, &statement);

	if (r)
		return r;
	r = db_step(db, statement);
	if (r < 0)
		return r;
	if (r == 0)
		return -ENODATA;
	r = sqlite3_column_type(statement, 0) == SQLITE_NULL ? -ENODATA : 0;
	if (!r)
		*ret_value = sqlite3_column_int64(statement, 0);
	sqlite3_reset(statement);
	return r;
}

int db_begin(struct db *db)
{
	sqlite3_stmt *statement;
	int r = db_prepare(db, "BEGIN", &statement);

	return r ? r : db_step(db, statement);
}

int db_commit(struct db *db)
{
	sqlite3_stmt *statement;
	int r = db_prepare(db, "COMMIT", &statement);

	return r ? r : db_step(db, statement);
}

void db_rollback(struct db *db)
{
	if (!sqlite3_get_autocommit(db->handle))
		sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
}
